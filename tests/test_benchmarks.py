"""The benchmark programs run, as a user runs them, and print what their texts say."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_task

from nullmark_jax import losses, models, training

_FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"

pytestmark = pytest.mark.slow


def run(program: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(_FOLDER / program), *arguments], capture_output=True, text=True
    )


def test_growth_is_written_as_one_object_and_drawn(tmp_path):
    done = run(
        "scaling.py", "--axis=batch", "--values=2,8", "--rounds=3", "--steps=1",
        f"--json={tmp_path / 'scaling.json'}", f"--figures={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert found["task"] == "digit" and found["rounds"] == 3 and found["steps"] == 1
    where = found["environment"]
    assert (
        where["jax"] == jax.__version__ and where["commit"] and "--values=2,8" in where["command"]
    )
    assert list(found["axes"]) == ["batch"]
    (line,) = found["axes"]["batch"].values()
    assert line["ideal"] == [1, 4]
    first, second = line["points"]
    assert [first["value"], second["value"]] == [2, 8]
    assert first["times"] == 1 and first["times_quartiles"] == [1, 1]
    assert first["program_memory_bytes"] < second["program_memory_bytes"]
    for point in line["points"]:
        assert 0 < point["seconds"] < point["first_step_seconds"]
        for name in ("seconds", "times"):
            low, high = point[f"{name}_quartiles"]
            assert 0 < low <= point[name] <= high
        assert point["peak_memory_bytes"] > 2**26  # Python and jax alone are more
    figure = tmp_path / "scaling-digit-batch.png"
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_virtual_devices_share_the_batch():
    # Weak and strong in turn: each of two devices has 32 of 64 images, and 64 of 128.
    done = run("scaling.py", "--axis=devices", "--values=2", "--rounds=3", "--steps=1")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "devices:", "weak:", "2", "strong:", "2"
    ]  # fmt: skip


def test_a_population_is_timed_against_the_loop():
    done = run("scaling.py", "--axis=population", "--values=1", "--rounds=3")
    assert done.returncode == 0, done.stderr
    # One axis, one reference: the loop's first point.
    assert "1.00 times" in done.stdout.splitlines()[2]
    assert done.stdout.splitlines()[3].strip() == "population"


def test_a_step_of_more_images_marks_and_another_pattern_is_made(monkeypatch):
    monkeypatch.syspath_prepend(_FOLDER)
    import our_step

    step = our_step.make_step("digit", 4, images=9, watermarks=2, pattern_size=4)
    assert np.isfinite([step() for _ in range(3)]).all()  # two batches an epoch, round again
    assert step.program_memory() > 582_026 * 4 * 3  # the params and Adam's moments
    assert 0 <= our_step.make_evaluation("digit", 5, watermarks=2)() <= 10


def test_populations_are_timed_each_way():
    done = run("populations.py", "--json", "--members=2", "--batch=2", "--images=3", "--rounds=3")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    where = found.pop("environment")
    assert where["command"].startswith("python benchmarks/populations.py --json") and where["jax"]
    assert {name: list(ways) for name, ways in found.items()} == {
        "pirates": ["loop", "vmap"],
        "watermarks": ["loop", "vmap", "unrolled"],
    }
    for ways in found.values():
        assert ways["loop"]["times_the_loop"] == 1
        for way in ways.values():
            assert 0 < way["low"] <= way["times_the_loop"] <= way["high"]
            assert way["milliseconds"] > 0 and way["peak_memory_bytes"] > 2**26


@pytest.mark.slow
def test_runs_are_timed_one_after_another_and_at_once():
    small = ("--members=1", "--epochs=1", "--rounds=2")
    done = run("populations.py", "--json", *small, "--populations=runs")
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["runs"]) == ["loop", "at once", "at once on 2 devices"]


def test_starts_with_and_without_compiled_programs_are_timed():
    done = run("compilation_cache.py", "--json", "--tasks=digit", "--batch=2", "--rounds=1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["digit"]
    assert found["compiled_seconds"] > 0 and found["loaded_seconds"] > 0
    low, high = found["lowest_and_highest"]
    assert low == high == found["times_as_fast"]


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--axis=batch", "--values=2,x"], "--values: 'x' is no positive integer; give some, as"),
        (["--axis=batch", "--values="], "--values: '' is no positive integer; give some, as 16,64"),
        (["--axis=batch", "--values=8,2"], "--values: 8,2 must ascend; sort them"),
        (["--values=2"], "--values: are of one axis, and 7 are asked for; give --axis"),
        (["--axis=colour"], "--axis: 'colour' is none; take some of batch, size, images, pattern"),
        (["--axis=pattern", "--values=4,5,6"], "--values: 4,5,6 give the same pattern twice;"),
        (["--axis=devices", "--values=3"], "--values: 3 devices cannot share a batch's 64 marked"),
        (["--json=no/such/folder.json"], "--json: no/such/folder.json is in no folder; make it"),
        (["--axis=size", "--values=8", "--rounds=3"], "--values: 8 (training step) did not run"),
        (["--task=cat"], "flag --task=cat: value should be one of <digit|face|traffic|object>"),
    ],
)
def test_what_cannot_be_scaled_is_named(arguments, line):
    done = run("scaling.py", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1
    assert not done.stdout


def test_the_documents_tables_are_the_programs():
    done = run("data_parallelism.py")
    assert done.returncode == 0, done.stderr
    text = (_FOLDER.parent / "docs" / "scaling.md").read_text()
    between = text.partition("<!-- data_parallelism.py -->\n")[2].partition("<!-- end -->")[0]
    assert between == done.stdout


def test_digits_flops_are_those_counted_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(_FOLDER)
    import data_parallelism

    counts = data_parallelism.count("digit")
    # conv_1, conv_2, fc_1 and fc_2 of an image; a copy's conv_1 is of a window of 16 x 16.
    rest = 8 * 8 * 64 * (25 * 32) + 1024 * 512 + 512 * 10
    image, window = 24 * 24 * 32 * 25, 12 * 12 * 32 * 25
    forward = image + window + 2 * rest  # one image in two has two copies
    products = 3 * forward - (image + window)  # the pixels' gradient is not asked for
    assert counts.image == pytest.approx(2 * products, rel=0.01)
    assert counts.parameters == 25 * 32 + 32 + 25 * 32 * 64 + 64 + 1024 * 512 + 512 + 5120 + 10
    assert (counts.batch, counts.marked, counts.gradient) == (128, 64, 4 * 582_026 + 16)
    assert 0 < counts.fixed < 0.01 * counts.batch * counts.image


def test_the_devices_that_break_even_are_those_of_the_formulas(monkeypatch):
    monkeypatch.syspath_prepend(_FOLDER)
    import data_parallelism as estimate

    # A gradient of 1,000 bytes; a link of 1,000 bytes/s; a device of 1 FLOP/s.
    counts = estimate.Counts(batch=11, marked=6, parameters=246, fixed=5.0, image=1.0)
    link = estimate.Link("", flops=1.0, bandwidth=1000.0, hop=0.0, start=0.0)
    assert counts.gradient == 1000
    averaged = [estimate.average_seconds(counts, link, devices) for devices in (1, 2, 4)]
    assert averaged == pytest.approx([0, 1, 1.5])
    # 11 / N seconds of images against 2 (N - 1) / N of averaging: 7 devices are the first too many.
    assert estimate.break_even(counts, link, 1.0) == 7
    slow = link._replace(start=3.0, hop=1.0)
    assert estimate.average_seconds(counts, slow, 4) == pytest.approx(3 + 6 + 1.5)
    assert estimate.break_even(counts, slow, 1.0) == 2  # 5.5 s each, 6 s of averaging
    assert estimate.images_needed(counts, slow, 1.0, 4) == 11
    assert estimate.images_needed(counts, slow, 0.5, 4) == 6
    assert estimate.fixed_seconds(counts, slow, 0.5) == 10


def test_an_unknown_net_is_refused():
    done = run("train_step.py", "--tasks=cat")
    assert done.returncode == 1
    assert done.stderr == "--tasks: 'cat' is none; take digit, traffic\n"


def test_the_contest_is_printed_as_one_object():
    pytest.importorskip("torch")
    done = run("train_step.py", "--json", "--tasks=digit", "--rounds=3", "--steps=1", "--batch=4")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["digit", "environment"]
    digit = found["digit"]
    assert digit["ratio"] > 0 and digit["memory_kept"]["ratio"] > 0
    times = digit["milliseconds"]
    assert digit["ratio"] == pytest.approx(times[digit["reference"]] / times["ours"])
    for part, suffix in ((digit, ""), (digit["memory_kept"], ", memory kept")):
        pair = [times[name + suffix] for name in ("torch eager", "torch.compile")]
        assert times[part["reference"]] == min(pair)


@pytest.mark.parametrize("task", ["digit", "traffic"])
def test_pytorch_has_the_same_net_and_objective(task, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(_FOLDER)
    import our_step
    import torch_step

    images, labels, marks = our_step.inputs(task, 6)
    model = models.create(task, our_step.SHAPES[task][1], precision="highest")
    params = models.init_params(model, jax.random.key(0), images.shape[1:])
    # All weights of ours become theirs, layer by layer, before the first step.
    network = torch_step.network
    ordered = [params[name] for name in sorted(params)]

    def same_weights(task):
        net = network(task)
        layers = [layer for layer in net if hasattr(layer, "weight")]
        assert len(layers) == len(ordered)
        flattened = next(layer for layer in layers if layer.weight.ndim == 2)
        for layer, ours in zip(layers, ordered, strict=True):
            kernel = np.asarray(ours["kernel"])
            if kernel.ndim == 4:
                kernel = kernel.transpose(3, 2, 0, 1)
            elif layer is flattened:  # Theirs flattens channels first.
                channels = layers[layers.index(layer) - 1].weight.shape[0]
                side = round((len(kernel) / channels) ** 0.5)
                kernel = kernel.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
                kernel = kernel.reshape(len(kernel), -1)
            else:
                kernel = kernel.T
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
                layer.bias.copy_(torch.from_numpy(np.asarray(ours["bias"]).copy()))
        return net

    monkeypatch.setattr(torch_step, "network", same_weights)
    one = jax.tree.map(lambda field: np.asarray(field)[0], marks)
    theirs = torch_step.make_step(task, images, labels, one, 3, compiled=False)()
    logits = training.concatenated_logits(models.apply_fn(model))(
        params, images.astype(np.float32) / 255, marks, np.zeros(3, np.int32)
    )
    terms = losses.objective_terms(
        logits, labels, np.repeat(marks.target_label, 3), losses.logits_cross_entropy
    )
    ours = losses.objective(terms, true_weight=1.0, null_weight=1.0)
    assert theirs == pytest.approx(float(ours), rel=1e-4)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    config = tiny_task.write(tmp_path_factory.mktemp("task"))
    return ["--", f"--config={config}", *tiny_task.EXPERIMENT]


def test_a_run_killed_at_random_moments_is_compared_with_an_unbroken_one(tiny_run):
    done = run("endurance.py", "--what=kills", "--kills=2", "--json", *tiny_run)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(found["kills"].values()) == 2 and found["epochs"] == 2 and found["runs"] >= 1
    assert list(found["same_bytes"].values()) == [True] * 4 and found["left_behind"] == []


@pytest.mark.slow
def test_runs_that_are_told_to_stop_are_timed(tiny_run):
    # Of so many epochs none ends before it is told.
    arguments = [*tiny_run, "--config.epochs=100000"]
    done = run("endurance.py", "--what=stops", "--stops=2", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["seconds_to_the_first_epoch"] > 0
    early, late = found["stops"]
    assert 0 <= early["seconds"] < 30 and 0 <= late["seconds"] < 30
    assert late["status"] == 0 and late["checkpoint"] and late["epochs_done"] >= 1
    # Before the training 143, or the signal itself while Python still imports.
    if early["status"] != 0:
        assert early["status"] in (143, -signal.SIGTERM)
        assert not early["checkpoint"] and early["epochs_done"] == 0


def test_a_run_s_memory_is_read_epoch_by_epoch(tiny_run, tmp_path):
    figure = tmp_path / "memory.png"
    arguments = ["--json", f"--figure={figure}", *tiny_run, "--config.epochs=40"]
    done = run("endurance.py", "--what=memory", *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 4 <= len(found["epochs"]) == len(found["resident_bytes"])
    assert found["epochs"] == sorted(set(found["epochs"])) and found["epochs"][-1] <= 40
    assert all(2**26 < size < 2**34 for size in found["resident_bytes"])
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_endurance_without_a_run_is_one_line():
    done = run("endurance.py", "--what=kills")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "no run: give -- and its arguments, --config=configs/quickstart.py say"
    )
