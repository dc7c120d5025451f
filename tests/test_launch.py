"""launch/: what its scripts would run, what shellcheck says of them, and a sweep through a real Slurm."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

import pytest
import slurm
import tiny_task

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SLURM_SWEEP = LAUNCH / "slurm_sweep.sh"
SLURM_TRAIN = LAUNCH / "slurm_train.sh"
# A step of a job.
STEP = ["srun", "${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}"]

SWEEP = """

def sweep(add):
    for value in (20.0, 10.0, 5.0):
        add({"watermark.extreme_value": value, "seed": 0, "owner.experiment_key": 0})
"""


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory):
    path = tiny_task.write(tmp_path_factory.mktemp("a sweep"))  # A name with a space.
    path.write_text(path.read_text() + SWEEP)
    return path


def launch(*arguments, script=SLURM_SWEEP, **environ):
    return subprocess.run(
        [script, *map(str, arguments)],
        env={**os.environ, "PYTHON": sys.executable, **environ},
        capture_output=True,
        text=True,
    )


def test_the_array_has_a_task_a_point_and_the_table_follows_it(sweep_file, tmp_path):
    swept = [f"--config={sweep_file}", f"--workdir={tmp_path}/run"]
    done = launch("--dry_run", "--sbatch=--gres=gpu:1", "--sbatch=--time=30", "--", *swept)
    assert done.returncode == 0, done.stderr
    array, table = (shlex.split(line) for line in done.stdout.splitlines())
    options = ["--gres=gpu:1", "--time=30", "--wrap"]
    named = ["sbatch", "--parsable", "--job-name=nullmark", "--array=0-2", *options]
    assert array[:-1] == named
    program = [*STEP, sys.executable, "-m", "nullmark_jax.sweep", *swept]
    assert shlex.split(array[-1]) == [*program, "--only=$SLURM_ARRAY_TASK_ID"]
    follows = ["--dependency=afterany:ARRAY", "--job-name=nullmark-table", *options]
    assert table[:-1] == ["sbatch", "--parsable", *follows]
    # First of what there is: the table's job may not have the time to train what is left.
    assert shlex.split(table[-1]) == [*program, "--collect;", *program]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no sweep: give -- and its arguments"),
        (["--"], "no sweep: give -- and its arguments"),
        (["--dryrun"], "--dryrun: is no option"),
        (["--dry_run", "--", "--config=none.py"], "--config: "),
        (
            ["--dry_run", "--", "--config=none.py", "--only=3"],
            "--only=3: is not for the jobs; leave",
        ),
        (["--", "--config=none.py", "-collect"], "-collect: is not for the jobs; leave it"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message):
    done = launch(*arguments)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.removeprefix("launch/slurm_sweep.sh: ").startswith(message)


def test_without_slurm_it_says_where_to_run_it(sweep_file, tmp_path):
    for name in ("bash", "env", "wc"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = launch("--", f"--config={sweep_file}", PATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith(
        "launch/slurm_sweep.sh: sbatch: is not on the PATH; run this where"
    )


def test_a_training_s_job_goes_on_where_it_has_no_result_yet(tmp_path):
    folder = tmp_path / "a run"
    trained = [f"--config={ROOT}/configs/digit.py", f"--workdir={folder}"]
    done = launch("--dry_run", "--sbatch=--nodes=2", "--", *trained, script=SLURM_TRAIN)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    *job, wrap = shlex.split(line)
    assert job == [
        "sbatch",
        "--parsable",
        "--job-name=nullmark-train",
        "--requeue",
        "--open-mode=append",
        "--signal=TERM@60",
        "--nodes=2",
        "--wrap",
    ]
    # What the job does, with an srun and a scontrol that say what they were given.
    for name, status in (("srun", "$STATUS"), ("scontrol", "0")):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@"\nexit {status}\n')
        program.chmod(0o755)
    program = f"--kill-on-bad-exit=1 {sys.executable} -m nullmark_jax.main --distributed "
    program += " ".join(trained)
    training = f"srun {program}"
    for status, has_result, cores, said in (
        (0, False, {}, [training, "scontrol requeue 7"]),
        (143, False, {}, [training, "scontrol requeue 7"]),
        (0, True, {}, [training]),
        (1, False, {}, [training]),
        # What --sbatch=--cpus-per-task=4 sets, which a step does not take over by itself.
        (1, False, {"SLURM_CPUS_PER_TASK": "4"}, [f"srun --cpus-per-task=4 {program}"]),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        if has_result:
            folder.mkdir()
            (folder / "result.json").touch()
        environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        ended = subprocess.run(
            ["sh", "-c", wrap],
            env=environ | cores | {"STATUS": str(status)},
            capture_output=True,
            text=True,
        )
        assert ended.stdout.splitlines() == said and ended.returncode == status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no training: give -- and its arguments"),
        (["--nodes=2"], "--nodes=2: is no option; take --dry_run, --sbatch=OPTION"),
        (["--", "--config=configs/digit.py"], "no --workdir=FOLDER among the training's"),
        (["--dry_run", "--", "--config=none.py", "--workdir", "x"], "--config: "),
        (["--", "--config=x.py", "--workdir=x", "--dry_run"], "--dry_run: is not for the jobs"),
        (
            ["--dry_run", "--", "{digit}", "-workdir=x", "--config.epochs=-1"],
            "config.epochs: -1 is out of range",
        ),
    ],
)
def test_a_training_s_bad_input_is_one_line_and_status_2(arguments, message):
    given = [each.format(digit=f"--config={ROOT}/configs/digit.py") for each in arguments]
    done = launch(*given, script=SLURM_TRAIN)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.removeprefix("launch/slurm_train.sh: ").startswith(message)


def examples():
    """The launchers' commands in launch/README.md."""
    blocks = re.findall(r"```console\n(.*?)```", (LAUNCH / "README.md").read_text(), re.DOTALL)
    commands = [each for block in blocks for each in re.split(r"^\$ ", block, flags=re.MULTILINE)]
    return [each.replace("\\\n", " ") for each in commands if each.startswith("launch/")]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone")
def test_the_readme_s_examples_can_be_tried(tmp_path):
    clone = tmp_path / "project"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    # Not the commit's: what is being worked on.
    shutil.copytree(LAUNCH, clone / "launch", dirs_exist_ok=True)
    (clone / "data").mkdir()
    (clone / "data" / "mnist.npz").touch()
    tried = [each.split(" ", 1)[0] for each in examples()]
    assert set(tried) == {
        f"launch/{name}"
        for name in ("slurm_train.sh", "slurm_sweep.sh", "tpu_pod.sh", "gke_jobset.py")
    }
    for command in examples():
        script, arguments = command.split(" ", 1)
        if "--dry_run" not in arguments:
            arguments = f"--dry_run {arguments}"
        # gke_jobset.py's first line takes the Python on the PATH.
        launcher = f"{shlex.quote(sys.executable)} {script}" if script.endswith(".py") else script
        options = "--allow_dirty " if "tpu_pod" in script else ""
        done = subprocess.run(
            ["bash", "-c", f"{launcher} {options}{arguments}"],
            env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
            cwd=clone,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and done.stdout and not done.stderr, (command, done.stderr)


@pytest.mark.parametrize(
    "path", [*sorted(LAUNCH.glob("*.sh")), ROOT / ".ci" / "run"], ids=lambda path: path.name
)
def test_shellcheck_finds_nothing(path):
    command = [pathlib.Path(sysconfig.get_path("scripts")) / "shellcheck", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@contextlib.contextmanager
def real_slurm(folder):
    """A cluster; gives the environment of its commands and trainings, which share what they compile."""
    (folder / "slurm").mkdir()
    with slurm.cluster(folder / "slurm") as environ:
        yield environ | {
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHON": sys.executable,
            "JAX_ENABLE_COMPILATION_CACHE": "true",
        }


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm.why_not()), reason=slurm.why_not())
def test_a_sweep_goes_through_a_real_slurm(sweep_file, tmp_path):
    """An array of three points and the job behind it, on a cluster of this machine."""
    with real_slurm(tmp_path) as environ:
        done = subprocess.run(
            [
                SLURM_SWEEP,
                "--",
                f"--config={sweep_file}",
                f"--workdir={tmp_path}/run",
                "--config.epochs=1",
            ],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("3 points are job ")
        slurm.wait_until_done(environ)
    printed = "\n".join(path.read_text() for path in tmp_path.glob("slurm-*.out"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert not result["metrics"]["dead"], printed
    values = [each["values"]["watermark.extreme_value"] for each in result["metrics"]["points"]]
    assert values == [20.0, 10.0, 5.0]
    assert "open its report.html" in printed


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm.why_not()), reason=slurm.why_not())
def test_a_training_of_two_tasks_goes_on_after_sigterm_through_a_real_slurm(sweep_file, tmp_path):
    with real_slurm(tmp_path) as environ:

        def tell(*command):
            return subprocess.run(
                command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True
            ).stdout

        trained = [f"--config={sweep_file}", f"--workdir={tmp_path}/run", *tiny_task.EXPERIMENT]
        said = tell(SLURM_TRAIN, "--sbatch=--ntasks=2", "--", *trained, "--config.epochs=80")
        (number,) = re.findall(r"is job (\d+)\.", said)
        output = tmp_path / f"slurm-{number}.out"
        slurm.wait_for(lambda: output.exists() and "epoch 3:" in output.read_text(), "epochs", 300)
        tell("scancel", "--signal=TERM", number)
        slurm.wait_for(lambda: "PENDING" in tell("squeue", "--noheader", "-o", "%T"), "its end", 60)
        assert not (tmp_path / "run" / "result.json").exists()
        # Slurm would let it wait for two minutes.
        tell("scontrol", "update", f"JobId={number}", "StartTime=now")
        slurm.wait_until_done(environ)
    printed = output.read_text()
    (stop,) = re.findall(r"^terminated; the state after step \d of 6 of epoch (\d+)", printed, re.M)
    epochs = [int(each) for each in re.findall(r"^epoch (\d+):", printed, re.M)]
    assert 3 <= int(stop) < 80 and epochs == list(range(1, 81)), printed
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["verified"] is True, printed
    assert result["environment"]["processes"] == 2
