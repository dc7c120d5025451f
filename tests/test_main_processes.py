"""The main program in a process of its own, as a user starts it: stopped, killed, on a full or slow disk."""

import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import ClassVar

import compiled_programs
import disks
import pytest
import tiny_task

ROOT = pathlib.Path(__file__).parent.parent
QUICKSTART = ROOT / "configs" / "quickstart.py"
pytestmark = [
    pytest.mark.slow,
    # ml_collections loads a config file by a method that Python will drop.
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
]
FILES = ("model.safetensors", "metrics.jsonl", "claim.json", "config.json")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return tiny_task.write(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """Where these processes share what they compile, which takes them the most time."""
    Process.cache = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def nothing_is_left():
    """A test that fails leaves no process behind, a stopped one neither."""
    yield
    while Process.started:
        process = Process.started.pop()
        if process.returncode is None:
            process.kill()
            process.communicate()


class Process:
    """A run in a process of its own."""

    cache = ""
    started: ClassVar[list] = []

    def __init__(
        self, config, workdir, *arguments, limit=None, own_key=False, cache=True, disk=None
    ):
        experiment = () if own_key else tiny_task.EXPERIMENT
        command = [sys.executable, "-m", "nullmark_jax.main", f"--config={config}"]
        command += [f"--workdir={workdir}", *experiment, *arguments]
        environment = {}
        if cache:
            environment |= compiled_programs.shared(self.cache)
        if disk is not None:
            environment |= {"LD_PRELOAD": str(disk), disks.FOLDER: str(workdir)}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(self.process)
        # Nothing here takes as long: what hangs is killed, and its test fails.
        self.timer = threading.Timer(400, self.process.kill)
        self.timer.daemon = True
        self.timer.start()
        if limit is not None:  # From outside: a preexec_fn would fork, of which jax warns.
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        self.lines = []

    def wait_for_epoch(self, number):
        """Reads stderr up to the line of an epoch, or of a later one where a run before this had done it."""
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            found = re.match(r"epoch (\d+):", line)
            if found and int(found[1]) >= number:
                return
        raise AssertionError(f"epoch {number} never came: {self.lines}")

    def end(self):
        """Returns the exit status, stdout and stderr."""
        out, err = self.process.communicate()
        self.timer.cancel()
        return self.process.returncode, out, "\n".join(self.lines) + "\n" + err


def finished(*arguments, status=(0, 1), **options):
    """Runs to the end; returns stdout and stderr."""
    code, out, err = Process(*arguments, **options).end()
    assert code in status, err
    return out, err


def assert_same_run(folder, other):
    for name in FILES:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    results = [json.loads((path / "result.json").read_text()) for path in (folder, other)]
    assert results[0]["metrics"] == results[1]["metrics"]


MANY = ("--config.epochs=20",)


@pytest.fixture(scope="module")
def unbroken(config_file, tmp_path_factory):
    """The folder of a run of MANY epochs that nothing stopped."""
    folder = tmp_path_factory.mktemp("unbroken")
    out, err = finished(config_file, folder, *MANY, status=(0,))
    assert out.splitlines()[-1] == f"verified; the run is in {folder}"
    assert len(err.splitlines()) == 1 + 20  # the first is empty
    return folder


def test_the_same_command_twice_gives_the_same_bytes(unbroken, config_file, tmp_path):
    finished(config_file, tmp_path, *MANY, status=(0,), cache=False)
    assert_same_run(tmp_path, unbroken)


def test_a_run_killed_at_random_ends_with_the_same_bytes(unbroken, config_file, tmp_path):
    random.seed(0)
    for epoch in (1, 7, 15):
        started = Process(config_file, tmp_path, *MANY)
        started.wait_for_epoch(epoch + 1)
        time.sleep(random.uniform(0, 0.3))
        started.process.kill()
        assert started.end()[0] == -signal.SIGKILL
    _, err = finished(config_file, tmp_path, *MANY, status=(0,))
    assert_same_run(tmp_path, unbroken)
    assert "WARNING" not in err
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".part", "-tmp"))]


def test_a_run_stopped_in_an_epoch_goes_on(unbroken, config_file, tmp_path):
    stops = []
    steps = r"terminated; the state after step (\d) of 6 of epoch (\d+) is in .*: give the same"
    for epoch, number, status, said in (
        (1, signal.SIGINT, 130, r"interrupted; give the same"),
        (4, signal.SIGTERM, 0, steps),
        (8, signal.SIGTERM, 0, steps),
        (12, signal.SIGTERM, 0, steps),
    ):
        started = Process(config_file, tmp_path, *MANY)
        started.wait_for_epoch(epoch)
        time.sleep(0.01 * epoch)
        started.process.send_signal(number)
        asked = time.monotonic()
        code, out, err = started.end()
        assert time.monotonic() - asked < 30
        (line,) = (line for line in err.splitlines() if line and not line.startswith("epoch "))
        found = re.fullmatch(f"{said} command again to go on", line)
        assert found, err
        assert code == status and out == ""
        if status == 0:  # Where it stopped, in the middle of an epoch too.
            step, in_epoch = map(int, found.groups())
            stops.append(step)
            kept = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
            assert kept == 6 * (in_epoch - 1) + step
        assert not (tmp_path / "result.json").exists()
        assert not list(tmp_path.rglob("*.part"))
    assert min(stops) < 6
    finished(config_file, tmp_path, *MANY, status=(0,))
    assert_same_run(tmp_path, unbroken)


def test_a_second_run_in_one_folder_is_refused(config_file, tmp_path):
    first = Process(config_file, tmp_path, *MANY)
    first.wait_for_epoch(1)
    first.process.send_signal(signal.SIGSTOP)  # Or it would be done before the second one is there.
    code, out, err = Process(config_file, tmp_path, *MANY).end()
    lines = [line for line in err.splitlines() if line]
    assert code == 75 and out == "" and len(lines) == 1, err
    assert lines[0].startswith(f"--workdir: another process is at work in {tmp_path}; wait for it")
    assert first.process.poll() is None
    first.process.kill()
    first.end()
    # The dead hold nothing.
    finished(config_file, tmp_path, *MANY, status=(0,))


def test_the_quickstart_as_it_is(tmp_path, monkeypatch):
    # Compiled as users do, not with the suite's flags.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    # With a key of its own, another one each time: its recipe is to do for any.
    out, _ = finished(QUICKSTART, tmp_path / "run", status=(0,), own_key=True)
    assert out.splitlines()[-1] == f"verified; the run is in {tmp_path / 'run'}"
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert metrics["normal_accuracy"] >= 0.97 and metrics["watermark_accuracy"] >= 0.9
    assert metrics["verified"] is True
    assert sorted(path.name for path in (tmp_path / "run" / "figures").iterdir()) == [
        "curves.png",
        "example.png",
        "pattern.png",
    ]


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(unbroken, config_file, tmp_path):
    # The limit on a file's size stands for the disk's: first nothing fits, then no checkpoint.
    first = {"config.json", "verifier.json", "metrics.jsonl", "seconds.json"}
    for limit, written in ((0, set()), (20_000, first)):
        code, out, err = Process(config_file, tmp_path, *MANY, limit=limit).end()
        lines = [line for line in err.splitlines() if line]
        assert code == 2 and len(lines) == 1 and out == "", err
        assert "cannot be written (File too large); give a folder with room" in lines[0]
        files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert files - {".lock"} == written
    finished(config_file, tmp_path, *MANY, status=(0,))
    assert_same_run(tmp_path, unbroken)


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
@pytest.mark.parametrize(
    ("becomes", "reason"),
    [("full", "No space left on device"), ("read-only", "Read-only file system")],
)
def test_a_disk_that_becomes_full_or_read_only_is_one_line_and_the_run_goes_on_once_it_is_mended(
    unbroken, config_file, tmp_path, becomes, reason
):
    library = disks.library("broken", tmp_path)
    folder, switch = tmp_path / "run", tmp_path / f"run.{becomes}"
    started = Process(config_file, folder, *MANY, disk=library)
    started.wait_for_epoch(3)
    switch.touch()
    code, out, err = started.end()
    lines = [line for line in err.splitlines() if line and not line.startswith("epoch ")]
    assert code == 2 and out == "" and len(lines) == 1, err
    assert f"cannot be written ({reason}); give a folder with room" in lines[0]
    # A new start finds the same.
    code, out, err = Process(config_file, folder, *MANY, disk=library).end()
    assert code == 2 and out == "" and reason in err and len(err.strip().splitlines()) == 1, err
    assert not (folder / "result.json").exists()
    if becomes == "full":  # Of a read-only one nothing can be removed, either.
        assert not [path for path in folder.rglob("*") if path.name.endswith((".part", "-tmp"))]
    switch.unlink()
    finished(config_file, folder, *MANY, disk=library, status=(0,))
    assert_same_run(folder, unbroken)
    assert not [path for path in folder.rglob("*") if path.name.endswith((".part", "-tmp"))]


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_on_a_slow_disk_it_stops_in_time_is_killed_in_a_checkpoint_and_ends_with_the_same_bytes(
    unbroken, config_file, tmp_path
):
    library = disks.library("slow", tmp_path)
    folder = tmp_path / "run"
    started = Process(config_file, folder, *MANY, disk=library)
    started.wait_for_epoch(2)
    assert str(library) in pathlib.Path(f"/proc/{started.process.pid}/maps").read_text()
    started.process.terminate()
    asked = time.monotonic()
    assert started.end()[0] == 0
    assert time.monotonic() - asked < 30
    started = Process(config_file, folder, *MANY, disk=library)
    started.wait_for_epoch(6)
    # A checkpoint is written aside, and takes long here.
    while True:
        assert started.process.poll() is None
        started.process.send_signal(signal.SIGSTOP)
        time.sleep(0.01)  # It stops soon, not at once.
        if list((folder / "checkpoints").glob("*tmp*")):
            break
        started.process.send_signal(signal.SIGCONT)
        time.sleep(0.01)
    started.process.kill()
    assert started.end()[0] == -signal.SIGKILL
    assert list((folder / "checkpoints").glob("*tmp*"))
    finished(config_file, folder, *MANY)
    assert_same_run(folder, unbroken)
    assert not [path for path in folder.rglob("*") if path.name.endswith((".part", "-tmp"))]


def test_a_training_that_diverges_keeps_its_last_good_checkpoint(config_file, tmp_path):
    # SGD whose rate rises from 0 to 10 over 300 steps of 6 an epoch.
    code, out, err = Process(
        config_file,
        tmp_path,
        "--config.epochs=50",
        "--config.optimizer.name=sgd",
        "--config.optimizer.learning_rate=10.0",
        "--config.optimizer.warmup_steps=300",
        "--config.optimizer.clip_norm=0.0",
    ).end()
    lines = [line for line in err.splitlines() if line]
    assert code == 3 and out == "", err
    assert lines[-1].startswith("the loss became ")
    assert "Traceback" not in err
    epoch = int(lines[-1].split("epoch ")[1].split(",")[0])
    step = int(lines[-1].split("step ")[1].split(",")[0])
    rate = float(lines[-1].split("learning rate ")[1].split(":")[0])
    assert epoch > 1 and len(lines) == epoch
    assert rate == pytest.approx(10 * ((epoch - 1) * 6 + step) / 300, rel=0.01)
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept[-1] == 6 * (epoch - 1)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == epoch - 1
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "model.safetensors").exists()


def test_the_owner_s_key_is_in_its_file_alone(config_file, tmp_path):
    out, err = finished(config_file, tmp_path, own_key=True)
    key_file = tmp_path / "owner.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    word, kind, public, seed = key_file.read_text().split()
    assert (word, kind, len(seed)) == ("nullmark-key/1", "plain", 64)
    texts = [out.encode(), err.encode()]
    texts += [
        path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != "owner.key"
    ]
    assert len(texts) > 10
    for text in texts:
        assert seed.encode() not in text.lower() and bytes.fromhex(seed) not in text
    assert any(public.encode() in text for text in texts)


def test_a_damaged_run_is_one_line_when_it_is_resumed(unbroken, config_file, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    text = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(text[:-20])
    code, out, err = Process(config_file, folder, *MANY).end()
    lines = [line for line in err.splitlines() if line]
    assert code == 2 and out == "" and len(lines) == 1, err
    assert lines[0].startswith(f"{folder / 'metrics.jsonl'}: was damaged; ")
