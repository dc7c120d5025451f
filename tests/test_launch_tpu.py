"""launch/tpu_pod.sh and what it runs on the workers, with a gcloud that records its calls (fake_cloud.py).

The workers are two folders of this machine; what stands there for Python trains as TRAINING says.
"""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
OPTIONS = ("--name=pod", "--type=v5litepod-8", "--zone=z", "--save_seconds=0")
ARGUMENTS = ("--", "--config=configs/x.py", "--workdir=runs/x")

# Puts a Python in the environment that uv would make.
INSTALLER = """#!/usr/bin/env bash
case "$*" in
  *"uv venv"*) mkdir -p venv/bin; cp "$FAKE_CLOUD/training" venv/bin/python; echo uv >>"$HOME/installs" ;;
  *"uv pip install"*) [ -e nullmark_jax/__init__.py ] ;;
esac
"""
# The training: worker 0 writes the run folder; the environment's TRAINING is what else happens.
TRAINING = """#!/usr/bin/env bash
echo "$NULLMARK_COMMIT $*" >>"$HOME/trainings"
[ -e "$HOME/nullmark/src/nullmark_jax/__init__.py" ] && [ -e configs/x.py ] || exit 2
[ "$(basename "$HOME")" = 0 ] || exit "${STATUS_1:-0}"
mkdir -p runs/x/checkpoints
echo epoch >>runs/x/checkpoints/epochs
eval "$TRAINING"
"""
FINISH = "echo {} >runs/x/result.json"


@pytest.fixture
def project(tmp_path):
    """A clone of a project with launch/ and one config, and the fake gcloud beside it."""
    root, cloud = tmp_path / "a project", tmp_path / "cloud"
    shutil.copytree(LAUNCH, root / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("nullmark_jax/__init__.py", "configs/x.py"):
        (root / name).parent.mkdir()
        (root / name).touch()
    (root / "data").mkdir()
    (root / "data" / "d.npz").write_text("images")
    (root / ".gitignore").write_text("runs/\nbuild/\ndata/\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=First")
    for name, text in {
        "bin/gcloud": None,
        "worker_bin/python3": INSTALLER,
        "training": TRAINING,
    }.items():
        path = cloud / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            source = (LAUNCH.parent / "tests" / "fake_cloud.py").read_text()
            text = f"#!{sys.executable} -IS\n{source}"
        path.write_text(text)
        path.chmod(0o755)
    (cloud / "created.json").write_text('["CREATING", "PROVISIONING", "PROVISIONING", "ACTIVE"]')
    return root


def git(root, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    return subprocess.run(
        ["git", "-C", root, *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def cloud_of(project):
    return project.parent / "cloud"


def environ(project, **changes):
    cloud = cloud_of(project)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDSDK")}
    return {
        **kept,
        "PATH": f"{cloud}/bin:{os.environ['PATH']}",
        "FAKE_CLOUD": str(cloud),
        "POLL_SECONDS": "0.01",
        "TRAINING": FINISH,
        **changes,
    }


def launch(project, *arguments, **changes):
    return subprocess.run(
        [project / "launch" / "tpu_pod.sh", *arguments],
        env=environ(project, **changes),
        cwd=project.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )


def calls(project):
    path = cloud_of(project) / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps(project):
    """What was asked of gcloud, in few words: looks left out, a worker's command by its verb."""
    found = []
    for call in calls(project):
        verb = call[4]
        options = dict(each[2:].partition("=")[::2] for each in call[5:] if each.startswith("--"))
        if verb == "ssh":
            words = options["command"].split()
            verb = words[2] if words[0] == "bash" else words[0]
        if verb != "list":
            found.append(f"{verb} {options.get('worker', '')}".strip())
    return found


SUPPLIED = ["mkdir all", "scp all", "prepare all"]
RESUMED = ["mkdir all", "scp all", "scp 0", "prepare all"]
FETCHED = ["run all", "pack 0", "scp 0"]


def test_a_dry_run_prints_every_command_and_does_nothing(project):
    (project / "runs" / "x").mkdir(parents=True)
    options = ("--project=p", "--spot", "--data=data/d.npz", "--dry_run")
    done = launch(project, *OPTIONS, *options, *ARGUMENTS, "--config.seed=$(a b)")
    assert done.returncode == 0 and not done.stderr
    commit = git(project, "rev-parse", "HEAD")
    where = ["--zone=z", "--project=p"]
    resources = ["gcloud", "compute", "tpus", "queued-resources"]
    listed = [*resources, "list", *where, "--format=value(name.basename(),state.state)"]
    stage = "build/tpu-pod"

    def ssh(worker, command):
        machine = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", *where, "--quiet"]
        return [*machine, f"--worker={worker}", f"--command={command}"]

    scp = ["gcloud", "compute", "tpus", "tpu-vm", "scp", *where, "--quiet"]
    sent = [f"{stage}/{name}" for name in ("tpu_worker.sh", "source.tar.gz", "data.0")]
    training = f"env NULLMARK_COMMIT={commit} python -m nullmark_jax.main --distributed"
    given = r"--config=configs/x.py --workdir=runs/x --config.seed=\$\(a\ b\) "
    lines = [line for line in done.stdout.splitlines() if not line.startswith("# ")]
    assert [shlex.split(line) for line in lines] == [
        listed,
        [
            *[
                *resources,
                "create",
                "pod",
                *where,
                "--node-id=pod",
                "--accelerator-type=v5litepod-8",
            ],
            *["--runtime-version=v2-alpha-tpuv5-lite", "--spot", "--quiet"],
        ],
        listed,
        ["mkdir", "-p", stage],
        ["cp", "launch/tpu_worker.sh", f"{stage}/tpu_worker.sh"],
        ["git", "archive", "--format=tar.gz", f"--output={stage}/source.tar.gz", commit],
        ["ln", "-sf", f"{project}/data/d.npz", f"{stage}/data.0"],
        ssh("all", "mkdir -p nullmark"),
        [*scp, "--worker=all", *sent, "pod:nullmark/"],
        ["tar", "-cf", f"{stage}/run.tar", "runs/x"],
        [*scp, "--worker=0", f"{stage}/run.tar", "pod:nullmark/run.tar"],
        ssh("all", "bash nullmark/tpu_worker.sh prepare runs/x data/d.npz "),
        ssh("all", f"bash nullmark/tpu_worker.sh run {training} {given}"),
        ssh("0", "bash nullmark/tpu_worker.sh pack runs/x "),
        ["rm", "-rf", f"{stage}/fetched"],
        ["mkdir", "-p", f"{stage}/fetched", "runs"],
        [*scp, "--worker=0", "pod:nullmark/fetched.tar", f"{stage}/fetched.tar"],
        ["tar", "-xf", f"{stage}/fetched.tar", "-C", f"{stage}/fetched"],
        ["rm", "-rf", f"{stage}/replaced", f"{stage}/discarded"],
        ["mkdir", "-p", f"{stage}/replaced/runs"],
        ["mv", "runs/x", f"{stage}/replaced/runs/x"],
        ["mv", f"{stage}/fetched/runs/x", "runs/x"],
        ["mv", f"{stage}/replaced", f"{stage}/discarded"],
        ["rm", "-rf", f"{stage}/discarded"],
        listed,
        [*resources, "delete", "pod", *where, "--force", "--quiet"],
    ]
    assert not calls(project) and not (project / "build").exists()


def test_a_dry_run_s_comments_say_what_depends_on_what_is_found(project):
    """When it is run, and the command, where that does not follow."""

    def lines(*options):
        done = launch(project, *OPTIONS[:-1], "--dry_run", *options, *ARGUMENTS)
        assert done.returncode == 0 and not done.stderr
        return done.stdout.splitlines()

    def comments(*options):
        return [line.rstrip() for line in lines(*options) if line.startswith("# ")]

    stage = "build/tpu-pod"
    queued = "gcloud compute tpus queued-resources"
    delete = f"{queued} delete pod --zone=z --force --quiet"
    aside = [f"mkdir -p {stage}/replaced/runs", f"mv runs/x {stage}/replaced/runs/x"]
    discard = f"mv {stage}/replaced {stage}/discarded"
    made = [
        f"# Where an earlier one is FAILED or SUSPENDED: {delete}",
        "# Where there is none, or no longer:",
        "# Until it is ACTIVE:",
    ]
    format_ = r"--format=value\(name.basename\(\)\,state.state\)"
    lost = f"# Where the connection was lost: {queued} list --zone=z {format_}"
    fetched = [
        *(f"# Where it is there by then: {each}" for each in aside),
        f"# Where it was there: {discard}",
    ]
    gone = "# Where the run folder was fetched, or there is none, or the machines were taken away:"
    # Without a run folder there may be one by the end.
    assert comments("--save_seconds=0", "--keep") == [*made, lost, *fetched]
    (project / "runs" / "x").mkdir(parents=True)
    assert comments("--save_seconds=0") == [*made, lost, gone]
    every = "# Every 600 seconds while it trains: "
    printed = lines()
    saved = [line.removeprefix(every) for line in printed if line.startswith(every)]
    plain = [line for line in printed if not line.startswith("# ")]
    # As at the end, before a last look and the deletion.
    assert "pack" in saved[0] and saved == plain[-2 - len(saved) : -2]


@pytest.mark.parametrize(
    ("type_", "runtime"),
    [
        ("v4-16", "tpu-ubuntu2204-base"),
        ("v5p-16", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
    ],
)
def test_the_runtime_goes_with_the_type(project, type_, runtime):
    done = launch(project, "--name=pod", f"--type={type_}", "--zone=z", "--dry_run", *ARGUMENTS)
    assert f"--runtime-version={runtime} " in done.stdout


def test_a_training_on_new_machines(project):
    done = launch(
        project, *OPTIONS, "--data=data/d.npz", *ARGUMENTS, TRAINING=f"cat data/d.npz; {FINISH}"
    )
    assert done.returncode == 0, done.stderr
    assert steps(project) == ["create", *SUPPLIED, *FETCHED, "delete"]
    assert "images" in done.stdout
    said = [line.removeprefix("launch/tpu_pod.sh: ") for line in done.stderr.splitlines()]
    changes = ["there is none", "CREATING", "PROVISIONING", "ACTIVE"]
    assert said == [*(f"pod: {state}" for state in changes), "the run is in runs/x"]
    assert (project / "runs" / "x" / "result.json").exists()


def test_every_worker_runs_the_last_commit_with_distributed(project):
    launch(project, *OPTIONS, "--keep", *ARGUMENTS)
    commit = git(project, "rev-parse", "HEAD")
    for worker in ("0", "1"):
        ran = (cloud_of(project) / "machines" / worker / "trainings").read_text()
        given = "--config=configs/x.py --workdir=runs/x"
        assert ran == f"{commit} -m nullmark_jax.main --distributed {given}\n"


@pytest.mark.slow
def test_machines_that_are_there_are_used(project):
    launch(project, *OPTIONS, "--keep", *ARGUMENTS, TRAINING="")
    done = launch(project, *OPTIONS, *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    first = ["create", *SUPPLIED, *FETCHED]
    assert steps(project) == [*first, *RESUMED, *FETCHED, "delete"]
    # The run folder that worker 0 had stayed as it was: this was its second epoch.
    assert (project / "runs" / "x" / "checkpoints" / "epochs").read_text() == "epoch\n" * 2


@pytest.mark.slow
def test_it_waits_for_a_resource_that_was_asked_for_before(project):
    launch(project, *OPTIONS, "--keep", *ARGUMENTS)
    states = '["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]'
    (cloud_of(project) / "states.json").write_text(states)
    done = launch(project, *OPTIONS, *ARGUMENTS)
    assert done.returncode == 0
    assert steps(project).count("create") == 1


@pytest.mark.slow
@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_no_machines_is_a_clear_failure(project, state):
    (cloud_of(project) / "created.json").write_text(f'["PROVISIONING", "{state}"]')
    done = launch(project, *OPTIONS, *ARGUMENTS)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"launch/tpu_pod.sh: pod is {state} and gives no machines; see why: ")
    assert "queued-resources describe pod --zone=z" in last
    # And the same command asks anew.
    (cloud_of(project) / "created.json").write_text('["ACTIVE"]')
    assert launch(project, *OPTIONS, *ARGUMENTS).returncode == 0
    assert steps(project)[:3] == ["create", "delete", "create"]


@pytest.mark.slow
def test_machines_that_are_taken_away_and_new_ones(project):
    taken = f"""echo '["SUSPENDED"]' >{shlex.quote(str(cloud_of(project)))}/states.json"""
    # It is fetched once before: a second is enough.
    options = (*OPTIONS, "--save_seconds=1")
    done = launch(project, *options, *ARGUMENTS, TRAINING=f"sleep 4; {taken}")
    assert done.returncode == 255
    said = done.stderr.splitlines()
    assert "launch/tpu_pod.sh: pod: SUSPENDED: its machines were taken away" in said
    assert said[-1] == "launch/tpu_pod.sh: not finished; give the same command again"
    assert (project / "runs" / "x" / "checkpoints" / "epochs").read_text() == "epoch\n"
    assert steps(project)[-1] == "delete"
    done = launch(project, *options, *ARGUMENTS)
    assert done.returncode == 0
    # It went on from what was fetched.
    assert (project / "runs" / "x" / "checkpoints" / "epochs").read_text() == "epoch\n" * 2
    assert "scp 0" in steps(project)[steps(project).index("delete") :]


def test_a_run_folder_that_was_moved_aside_when_it_was_killed_goes_along(project):
    replaced = project / "build" / "tpu-pod" / "replaced" / "runs" / "x"
    (replaced / "checkpoints").mkdir(parents=True)
    (replaced / "checkpoints" / "epochs").write_text("epoch\n")
    assert launch(project, *OPTIONS, *ARGUMENTS).returncode == 0
    assert (project / "runs" / "x" / "checkpoints" / "epochs").read_text() == "epoch\n" * 2
    assert not replaced.exists()


def test_a_training_that_was_told_to_stop_is_not_finished(project):
    done = launch(project, *OPTIONS, *ARGUMENTS, TRAINING="")
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == (
        "launch/tpu_pod.sh: not finished; give the same command again"
    )
    assert (project / "runs" / "x" / "checkpoints").is_dir()


@pytest.mark.slow
def test_an_interrupted_start_leaves_the_training_and_the_next_follows_it(project):
    command = [project / "launch" / "tpu_pod.sh", *OPTIONS, *ARGUMENTS]
    changes = {"TRAINING": f"while [ ! -e ~/end ]; do sleep 0.1; done; {FINISH}"}
    first = subprocess.Popen(
        command,
        env=environ(project, **changes),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    home = cloud_of(project) / "machines" / "0"
    wait_for(home / "trainings")
    # Not SIGINT, which a shell in the background ignores with all that it starts.
    os.killpg(first.pid, signal.SIGTERM)
    _, printed = first.communicate(timeout=20)
    assert first.returncode == 130
    assert printed.splitlines()[-1] == (
        "launch/tpu_pod.sh: the training goes on; the same command again follows it"
    )
    assert "delete" not in steps(project)
    (home / "end").touch()
    done = launch(project, *OPTIONS, "--keep", *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    assert (home / "trainings").read_text().count("\n") == 1
    assert (project / "runs" / "x" / "result.json").exists()


@pytest.mark.parametrize("keep", [False, True])
def test_a_training_that_fails_gives_its_status_and_folder(project, keep):
    given = ("--keep",) if keep else ()
    done = launch(project, *OPTIONS, *given, *ARGUMENTS, TRAINING="exit 3")
    assert done.returncode == 3
    assert (project / "runs" / "x" / "checkpoints").is_dir()
    assert steps(project) == ["create", *SUPPLIED, *FETCHED, *([] if keep else ["delete"])]
    assert ("pod is left, and billed, until: gcloud" in done.stderr) == keep


def test_the_status_of_another_worker_comes_through(project):
    assert launch(project, *OPTIONS, *ARGUMENTS, STATUS_1="2").returncode == 2


def test_without_a_run_folder_the_machines_are_deleted_all_the_same(project):
    (cloud_of(project) / "training").write_text("#!/bin/sh\nexit 2\n")
    done = launch(project, *OPTIONS, *ARGUMENTS)
    assert done.returncode == 2
    assert steps(project)[-2:] == ["pack 0", "delete"]
    assert not (project / "runs").exists()


def test_machines_whose_folder_cannot_be_fetched_are_left(project):
    # A folder stands where the archive is to be written.
    done = launch(
        project, *OPTIONS, *ARGUMENTS, TRAINING=f"{FINISH}; mkdir -p ~/nullmark/fetched.part/f"
    )
    assert done.returncode == 1
    assert "could not be fetched; the machines are left, and billed" in done.stderr
    assert "delete" not in steps(project)


def test_a_connection_that_is_lost_for_good_leaves_the_training(project):
    (cloud_of(project) / "lost").touch()
    done = launch(project, *OPTIONS, *ARGUMENTS)
    assert done.returncode == 1
    assert "the connection was lost; the training goes on" in done.stderr
    assert steps(project) == ["create", *SUPPLIED, "run all"]


def test_machines_that_cannot_be_supplied_stop_it(project):
    (cloud_of(project) / "worker_bin" / "python3").write_text("#!/bin/sh\nexit 1\n")
    done = launch(project, *OPTIONS, *ARGUMENTS)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("launch/tpu_pod.sh: the machines could not be supplied; see above")
    assert "queued-resources delete pod" in last
    assert steps(project) == ["create", *SUPPLIED]


def test_without_access_nothing_is_made(project):
    (cloud_of(project) / "no_access").touch()
    done = launch(project, *OPTIONS, *ARGUMENTS)
    assert done.returncode == 1
    assert "you are not logged in" in done.stderr
    assert "gcloud could not list the queued resources of z" in done.stderr
    assert steps(project) == []


def test_changes_that_are_not_committed(project):
    (project / "configs" / "x.py").write_text("# Changed.")
    done = launch(project, *OPTIONS, "--dry_run", *ARGUMENTS)
    assert done.returncode == 2
    assert "not committed, which would not run; commit them, or give --allow_dirty" in done.stderr
    assert launch(project, *OPTIONS, "--allow_dirty", "--dry_run", *ARGUMENTS).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (OPTIONS, "no training: give --"),
        ((*OPTIONS, "--"), "no training: give --"),
        (("--dryrun", *ARGUMENTS), "--dryrun: is no option"),
        (ARGUMENTS, "--name: '' is no name"),
        (("--name=A", *ARGUMENTS), "--name: 'A' is no name"),
        (("--name=a", *ARGUMENTS), "--type: '' is no type"),
        ((*OPTIONS, *ARGUMENTS, "--dry_run"), "--dry_run: is not for the jobs"),
        (("--name=a", "--type=v4-8", *ARGUMENTS), "--zone: '' is no zone"),
        ((*OPTIONS, "--type=v9-8", *ARGUMENTS), "--runtime: none is known for --type=v9-8"),
        ((*OPTIONS, "--save_seconds=-1", *ARGUMENTS), "--save_seconds: '-1' is no number"),
        ((*OPTIONS, "--", "--config=x"), "--workdir: is not given"),
        ((*OPTIONS, "--", "--workdir", "/runs"), "--workdir: /runs is not below"),
        ((*OPTIONS, "--", "--workdir=../x"), "--workdir: ../x is not below"),
        ((*OPTIONS, "--data=/d", *ARGUMENTS), "--data: /d is not below"),
        ((*OPTIONS, "--data=none", *ARGUMENTS), "--data: none is no file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(project, arguments, message):
    done = launch(project, *arguments)
    assert done.returncode == 2 and not done.stdout and not calls(project)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"launch/tpu_pod.sh: {message}")


# The worker alone.


@pytest.fixture
def worker(tmp_path):
    """~/nullmark of a worker, with a training that goes on until there is a file `end`."""
    home = tmp_path / "nullmark"
    (home / "src" / "runs" / "x").mkdir(parents=True)
    program = home / "train"
    program.write_text(
        "#!/bin/sh\necho began >>began\nwhile [ ! -e end ]; do sleep 0.1; done\nexit 3\n"
    )
    program.chmod(0o755)
    return home


def start(worker, *arguments):
    environ = {**os.environ, "NULLMARK_HOME": str(worker)}
    command = ["bash", LAUNCH / "tpu_worker.sh", *arguments]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


def ended(process):
    process.communicate(timeout=20)
    return process.returncode


def wait_for(path):
    until = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.05)


def test_a_lost_connection_finds_its_training_again(worker):
    first = start(worker, "run", worker / "train")
    wait_for(worker / "src" / "began")
    first.kill()
    # Not until its output ends: where it came so far, its tail follows the training and goes on without it.
    first.wait(timeout=20)
    first.stdout.close()
    second = start(worker, "run", worker / "train")
    prepared = start(worker, "prepare", "runs/x")
    assert prepared.communicate(timeout=20)[0] == "a training is at work here: it goes on\n"
    (worker / "src" / "end").touch()
    assert ended(second) == 3
    # A third, where the connection was lost as the training ended, gets the status again.
    third = start(worker, "run", worker / "train")
    assert ended(third) == 3
    assert (worker / "src" / "began").read_text() == "began\n"


def test_a_machine_that_shuts_down_still_learns_how_the_training_ended(worker):
    (worker / "train").write_text(
        "#!/bin/sh\ntrap 'sleep 1; exit 0' TERM\n: >began\nsleep 60 &\nwait\n"
    )
    running = start(worker, "run", worker / "train")
    wait_for(worker / "src" / "began")
    os.killpg(int((worker / "pid").read_text()), signal.SIGTERM)
    assert ended(running) == 0
    assert (worker / "status").read_text() == "0\n"


def test_a_training_that_was_killed_is_137(worker):
    running = start(worker, "run", worker / "train")
    wait_for(worker / "src" / "began")
    os.killpg(int((worker / "pid").read_text()), signal.SIGKILL)
    assert ended(running) == 137


def test_what_is_half_written_is_not_packed(worker):
    folder = worker / "src" / "runs" / "x"
    half = ("checkpoints/3.orbax-checkpoint-tmp", ".result.json.0123456789abcdef.part")
    for name in ("checkpoints/2", "metrics.jsonl", *half):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert ended(start(worker, "pack", "runs/x")) == 0
    listed = subprocess.run(["tar", "-tf", worker / "fetched.tar"], capture_output=True, text=True)
    files = [line for line in listed.stdout.splitlines() if not line.endswith("/")]
    assert files[0] == "runs/x/checkpoints/2"  # Before the rest.
    assert set(files) == {"runs/x/checkpoints/2", "runs/x/metrics.jsonl"}
    assert ended(start(worker, "pack", "runs/none")) == 3
