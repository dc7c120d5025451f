"""The benchmark programs run, as a user runs them, and print what their texts say."""

import json
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


def test_growth_is_printed_as_one_object_and_drawn(tmp_path):
    figure = tmp_path / "growth.png"
    done = run(
        "step_scaling.py", "--json", "--batches=2,8", "--sizes=28", "--watermarks=2",
        "--rounds=3", "--steps=1", f"--figure={figure}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    growth = json.loads(done.stdout)
    assert {name: [point[name] for point in points] for name, points in growth.items()} == {
        "batch": [2, 8],
        "size": [28],
        "watermarks": [2],
    }
    for points in growth.values():
        assert points[0]["times"] == 1
        for point in points:
            assert 0 < point["milliseconds"] / 1e3 < point["first_step_seconds"]
            low, high = point["quartiles"]
            assert 0 < low <= point["milliseconds"] <= high
            assert point["peak_memory_bytes"] > 2**26  # Python and jax alone are more
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_populations_are_timed_each_way():
    done = run("populations.py", "--json", "--members=2", "--batch=2", "--images=3", "--rounds=3")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: list(ways) for name, ways in found.items()} == {
        "pirates": ["loop", "vmap"],
        "watermarks": ["loop", "vmap", "unrolled"],
    }
    for ways in found.values():
        assert ways["loop"]["times_the_loop"] == 1
        for way in ways.values():
            assert 0 < way["low"] <= way["times_the_loop"] <= way["high"]
            assert way["milliseconds"] > 0 and way["peak_memory_bytes"] > 2**26


def test_starts_with_and_without_compiled_programs_are_timed():
    done = run("compilation_cache.py", "--json", "--tasks=digit", "--batch=2", "--rounds=1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["digit"]
    assert found["compiled_seconds"] > 0 and found["loaded_seconds"] > 0
    low, high = found["lowest_and_highest"]
    assert low == high == found["times_as_fast"]


@pytest.mark.parametrize("values", ["2,x", ""])
def test_a_value_that_is_no_count_is_refused(values):
    done = run("step_scaling.py", f"--batches={values}")
    assert done.returncode == 1
    assert done.stderr.startswith("--batches, --sizes, --watermarks: take positive integers")
    assert not done.stdout


def test_an_image_too_small_for_the_net_is_named():
    done = run("step_scaling.py", "--sizes=8", "--batches=2", "--watermarks=1", "--rounds=3")
    assert done.returncode == 1
    assert done.stderr.startswith("--sizes: 8 did not run")


def test_an_unknown_net_is_refused():
    done = run("train_step.py", "--tasks=cat")
    assert done.returncode == 1
    assert done.stderr == "--tasks: 'cat' is none; take digit, traffic\n"


def test_the_contest_is_printed_as_one_object():
    pytest.importorskip("torch")
    done = run("train_step.py", "--json", "--tasks=digit", "--rounds=3", "--steps=1", "--batch=4")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["digit"]
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
    done = run("endurance.py", "--what=kills", "--kills=2", "--within=6", "--json", *tiny_run)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(found["kills"].values()) == 2 and found["epochs"] == 2
    assert list(found["same_bytes"].values()) == [True] * 4 and found["left_behind"] == []


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
