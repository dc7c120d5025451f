"""Two processes of two devices each, joined by gloo on this machine, train one model as one would."""

import json
import re
import signal
import time

import numpy as np
import pytest
import tiny_task
from processes import ROOT, Processes

from nullmark_jax import claim, models

FILES = ("model.safetensors", "metrics.jsonl", "claim.json")
EPOCHS = "--config.epochs=20"
# ml_collections loads a config file by a method that Python will drop.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return tiny_task.write(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Where the processes share what they compile, which takes them the most time."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True)
def nothing_is_left():
    """A test that fails leaves no process behind."""
    yield
    Processes.kill_all()


# Started in each process: tells which rows of the images in the file are read.
_TELL = """
import os, sys
from nullmark_jax.data import mapped

read = mapped.MappedImages.__getitem__

def told(self, index):
    rows = self._rows[index]
    with open(os.environ["ROWS"] + str(os.getpid()), "a") as file:
        print(len(self), *rows.ravel().tolist(), file=file)
    return read(self, index)

mapped.MappedImages.__getitem__ = told
"""


@pytest.fixture(scope="module")
def unbroken(config_file, compiled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "sitecustomize.py").write_text(_TELL)
    tells = {"PYTHONPATH": f"{folder}:{ROOT}", "ROWS": f"{folder}/rows-of-"}
    processes = Processes(config_file, folder / "run", compiled, EPOCHS, variables=tells)
    assert processes.end() == [0, 0], processes.error(0) + processes.error(1)
    return processes


def test_the_first_process_alone_writes_and_speaks(unbroken):
    assert unbroken.output(0)[-1] == f"verified; the run is in {unbroken.folder}/0"
    assert unbroken.output(1) == [] and "epoch" not in unbroken.error(1)
    assert not (unbroken.folder / "1").exists()
    where = json.loads((unbroken.folder / "0" / "result.json").read_text())["environment"]
    assert where["device"] == "4 x cpu" and where["processes"] == 2


def test_each_process_reads_its_own_share_of_the_images(unbroken):
    read = []
    for process in unbroken.each:
        lines = (unbroken.folder.parent / f"rows-of-{process.pid}").read_text().splitlines()
        read.append([tuple(map(int, line.split())) for line in lines])
    # In each epoch half of six batches of 16 of the 108 training images, and of the 12 validation images.
    for images, wanted in ((108, 6 * 8), (12, 6)):
        shares = [[row for size, *rows in own if size == images for row in rows] for own in read]
        assert [len(share) for share in shares] == [20 * wanted] * 2
        for epoch in range(20):
            first, second = (set(share[epoch * wanted : (epoch + 1) * wanted]) for share in shares)
            assert len(first) == len(second) == wanted and not first & second


def test_it_is_the_training_of_one_process_with_all_devices(
    unbroken, config_file, compiled, tmp_path
):
    one = Processes(config_file, tmp_path / "one", compiled, EPOCHS, count=1, devices=4)
    assert one.end() == [0], one.error(0)
    ours, theirs = (
        [json.loads(line) for line in (folder / "0" / "metrics.jsonl").read_text().splitlines()]
        for folder in (unbroken.folder, one.folder)
    )
    # Sums in another order, which a training then enlarges; a wrong share of a batch, or of the validation
    # images, changes the first digits at once.
    for first, second, tolerance in zip(ours, theirs, (1e-4, 1e-3, 1e-2), strict=False):
        assert list(first) == list(second)
        for name, value in second.items():
            assert first[name] == pytest.approx(value, rel=tolerance), name


@pytest.mark.parametrize(
    "recipe",
    [
        ("--config.optimizer.name=muon", "--config.weight_standardization=true"),
        ("--config.null_space=true",),
    ],
    ids=["muon, standardised", "null space"],
)
def test_its_model_is_that_of_one_device_up_to_the_order_of_sums(
    config_file, compiled, tmp_path, recipe
):
    """After two epochs, before a training has enlarged the difference."""
    shape = (tiny_task.SIDE, tiny_task.SIDE, 1)
    arguments = ("--config.epochs=2", *recipe)

    def model(count, devices):
        folder = tmp_path / f"of-{count}-{devices}"
        processes = Processes(
            config_file, folder, compiled, *arguments, count=count, devices=devices
        )
        assert set(processes.end()) <= {0, 1}, processes.error(0)
        return claim.read_model(
            folder / "0" / "model.safetensors",
            model="digit",
            input_shape=shape,
            num_classes=tiny_task.CLASSES,
            expected_shapes=models.parameter_shapes("digit", shape, tiny_task.CLASSES),
        )

    theirs = model(1, 1)
    ours = model(2, 2)
    for layer, tensors in theirs.items():
        for name, tensor in tensors.items():
            np.testing.assert_allclose(ours[layer][name], tensor, rtol=1e-3, atol=1e-5)


def assert_goes_on(config_file, compiled, folder, unbroken):
    again = Processes(config_file, folder, compiled, EPOCHS)
    assert again.end() == [0, 0], again.error(0) + again.error(1)
    for name in FILES:
        ours, theirs = (each / "0" / name for each in (folder, unbroken.folder))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_one_process_killed_ends_all_and_all_started_again_end_with_the_same_bytes(
    unbroken, config_file, compiled, tmp_path
):
    # The first, whose going the other sees at once; the other's going takes it a minute to see.
    processes = Processes(config_file, tmp_path / "run", compiled, EPOCHS)
    processes.wait_for("epoch 5:")
    processes.each[0].kill()
    assert processes.end() == [-signal.SIGKILL, -signal.SIGABRT]
    assert not (tmp_path / "run" / "0" / "result.json").exists()
    assert_goes_on(config_file, compiled, tmp_path / "run", unbroken)


def test_another_process_killed_ends_the_first_in_about_a_minute_and_both_go_on(
    unbroken, config_file, compiled, tmp_path
):
    # Few epochs are left, but the first cannot do them: it waits for the other's share of the next step.
    processes = Processes(config_file, tmp_path / "run", compiled, EPOCHS)
    processes.wait_for("epoch 2:")
    processes.each[1].kill()
    killed = time.monotonic()
    assert processes.end() == [-signal.SIGABRT, -signal.SIGKILL]
    assert time.monotonic() - killed < 90
    assert not (tmp_path / "run" / "0" / "result.json").exists()
    assert_goes_on(config_file, compiled, tmp_path / "run", unbroken)


def test_sigterm_to_one_process_stops_all_after_the_same_step(config_file, compiled, tmp_path):
    # Of six steps an epoch four in a dispatch, as accelerators take fifty; the service thinks in steps.
    arguments = ["--config.epochs=2000", "--config.steps_per_dispatch=4"]
    processes = Processes(config_file, tmp_path / "run", compiled, *arguments)
    processes.wait_for("epoch 5:")
    processes.each[1].send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert processes.end() == [0, 0], processes.error(0) + processes.error(1)
    assert time.monotonic() - asked < 30
    (line,) = (each for each in processes.error(0).splitlines() if each.startswith("terminated"))
    step, epoch = map(int, re.match(r".* step (\d) of 6 of epoch (\d+) is in", line).groups())
    kept = max(int(path.name) for path in (tmp_path / "run/0/checkpoints").iterdir())
    assert kept == 6 * (epoch - 1) + step and step in (4, 6)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({1: ["--config.seed=5"]}, "--config: is another in process 1 than in process 0; give all"),
        ({1: ["--config.data.path=nowhere.npz"]}, "process 1: cannot go on, and says why; mend"),
        ({0: ["--workdir=/proc/nowhere"]}, "/proc/nowhere: cannot be written"),
    ],
)
def test_what_one_process_cannot_use_ends_all_with_one_line(
    config_file, compiled, tmp_path, own, said
):
    processes = Processes(config_file, tmp_path / "run", compiled, own=own)
    assert processes.end() == [2, 2]
    for i in (0, 1):
        (line,) = (each for each in processes.error(i).splitlines() if each)
        if i in own and "cannot go on" in said:
            assert line.startswith("config.data.path='nowhere.npz': no such")
        else:
            assert line.removeprefix("process 0: ").startswith(said)
    assert list((tmp_path / "run").glob("*/*")) == []


def test_images_damaged_in_any_process_s_part_of_the_file_end_all_with_one_line(
    config_file, compiled, tmp_path
):
    (path,) = config_file.parent.glob("*.npz")
    content = bytearray(path.read_bytes())
    with np.load(path) as arrays:
        pixels = arrays["x_train"].tobytes()
    # In the second half, which the second process reads.
    content[content.index(pixels) + len(pixels) - 5] ^= 1
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(content)
    # And without validation images, which are compared first: as none in the file.
    arguments = [f"--config.data.path={damaged}", "--config.data.validation_fraction=0.0"]
    processes = Processes(config_file, tmp_path / "run", compiled, *arguments)
    assert processes.end() == [2, 2]
    for i in (0, 1):
        (line,) = (each for each in processes.error(i).splitlines() if each)
        assert line.endswith("x_train cannot be read (Bad CRC-32); the file is damaged")
    assert list((tmp_path / "run").glob("*/*")) == []
