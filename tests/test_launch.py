"""launch/: what its scripts would run, what shellcheck says of them, and a sweep through a real Slurm."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest
import slurm
import tiny_task

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
SLURM_SWEEP = LAUNCH / "slurm_sweep.sh"

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


def launch(*arguments, **environ):
    return subprocess.run(
        [SLURM_SWEEP, *map(str, arguments)],
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
    program = ["srun", sys.executable, "-m", "nullmark_jax.sweep", *swept]
    assert shlex.split(array[-1]) == [*program, "--only=$SLURM_ARRAY_TASK_ID"]
    follows = ["--dependency=afterany:ARRAY", "--job-name=nullmark-table", *options]
    assert table[:-1] == ["sbatch", "--parsable", *follows]
    assert shlex.split(table[-1]) == program
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no sweep: give -- and its arguments"),
        (["--"], "no sweep: give -- and its arguments"),
        (["--dryrun"], "--dryrun: is no option"),
        (["--dry_run", "--", "--config=none.py"], "--config: "),
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


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck on the PATH")
@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    done = subprocess.run(["shellcheck", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm.why_not()), reason=slurm.why_not())
def test_a_sweep_goes_through_a_real_slurm(sweep_file, tmp_path):
    """An array of three points and the job behind it, on a cluster of this machine."""
    (tmp_path / "slurm").mkdir()
    with slurm.cluster(tmp_path / "slurm") as environ:
        environ |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHON": sys.executable}
        environ["JAX_ENABLE_COMPILATION_CACHE"] = "true"
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
