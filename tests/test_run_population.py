"""Runs at once against each alone: their folders, their numbers, and what becomes of one that fails."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import safetensors.numpy
import tiny_task
from test_run import ordinary_promotion  # noqa: F401  # A fixture for all here.

from nullmark_jax import files, folder, run, run_population, stopping, xla_flags
from nullmark_jax.errors import InputError, TrainingDiverged

pytestmark = pytest.mark.slow
# What each differs in: another scheme and lambda, another seed and key, a key made in its folder.
CHANGES = {
    "wonder": {"watermark.scheme": "wonder-filter", "watermark.extreme_value": 5.0},
    "seed": {"seed": 1, "owner.experiment_key": 1},
    "ordinary": {},
}
# Float32 sums in another order: seen were 4e-7 of a loss and 1e-5 in a weight, where members differ by 0.1.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def configs_of(data, **changes):
    return {
        name: tiny_task.config(data, **{"epochs": 3, "augmentation.shift": 1} | own | changes)
        for name, own in CHANGES.items()
    }


def runs_of(configs, where):
    return [run_population.Run(name, each, where / name, name) for name, each in configs.items()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    where = tmp_path_factory.mktemp("alone")
    for name, config in configs_of(data).items():
        run.train_and_evaluate(config, where / name)
    return where


@pytest.fixture(scope="module")
def together(data, tmp_path_factory):
    where = tmp_path_factory.mktemp("together")
    assert not run_population.train_and_evaluate(runs_of(configs_of(data), where), at_once=3)
    return where


def records(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def params_of(path):
    return safetensors.numpy.load_file(path / "model.safetensors")


def assert_alike(found, expected):
    for name in CHANGES:
        pairs = list(zip(records(found / name), records(expected / name), strict=True))
        for own, other in pairs:
            assert own.keys() == other.keys() and own["epoch"] == other["epoch"]
            for field in own:
                loose = field.endswith("accuracy")  # Of 12 images: one of them is 0.08.
                near = {"rtol": 1e-4, "atol": 0.09 if loose else 0.0}
                np.testing.assert_allclose(own[field], other[field], **near)
        others = params_of(expected / name)
        for tensor, values in params_of(found / name).items():
            np.testing.assert_allclose(values, others[tensor], **TOLERANCE)


def test_members_end_as_runs_alone_do(alone, together):
    assert_alike(together, alone)
    one, other = (params_of(together / name)["conv_1/kernel"] for name in ("seed", "ordinary"))
    assert np.abs(one - other).max() > 0.1


def test_their_folders_hold_what_those_of_runs_alone_do(alone, together):
    for name in CHANGES:
        found, expected = together / name, alone / name
        files = {str(path.relative_to(found)) for path in found.rglob("*")}
        of_alone = {str(path.relative_to(expected)) for path in expected.rglob("*")}
        # Alone it keeps the state after the epoch before, too.
        earlier = f"checkpoints/{2 * 6}"
        assert files == {path for path in of_alone if not path.startswith(earlier)}
        for file in ("config.json", "verifier.json"):
            assert (found / file).read_bytes() == (expected / file).read_bytes()
        own, other = (json.loads((path / "result.json").read_text()) for path in (found, expected))
        assert own.keys() == other.keys() and own["metrics"].keys() == other["metrics"].keys()
        assert own["metrics"]["verified"] in (True, False)
        assert own["environment"]["command"] == name
        assert own["environment"]["trained_at_once"] == 3
        assert own["seconds"] > 0


def test_stopped_and_gone_on_with_they_end_with_the_same_bytes(data, tmp_path):
    configs = configs_of(data, epochs=40)
    unbroken, stopped = tmp_path / "unbroken", tmp_path / "stopped"
    assert not run_population.train_and_evaluate(runs_of(configs, unbroken), at_once=3)

    def terminate():
        history = stopped / "seed" / "metrics.jsonl"
        while not history.exists() or history.read_text().count("\n") < 3:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate, daemon=True)
    thread.start()
    with pytest.raises(stopping.Preempted, match=r"the states of 3 runs in epoch \d+ are in their"):
        run_population.train_and_evaluate(runs_of(configs, stopped), at_once=3)
    thread.join()
    (step,) = set.union(*(folder.kept_steps(stopped / name) for name in CHANGES))
    assert 3 * 6 <= step < 40 * 6 and not list(stopped.glob("*/result.json"))
    shutil.copytree(stopped, tmp_path / "damaged")
    # As a kill in the middle of writing would leave it: one has a later state than the others.
    state = stopped / "seed" / "checkpoints"
    shutil.copytree(state / str(step), state / str(step + 6))
    assert not run_population.train_and_evaluate(runs_of(configs, stopped), at_once=3)
    for name in CHANGES:
        for file in ("model.safetensors", "metrics.jsonl", "config.json"):
            assert (stopped / name / file).read_bytes() == (unbroken / name / file).read_bytes()
    # One alone goes on from what all left.
    shutil.rmtree(stopped / "seed" / "checkpoints" / str(40 * 6))
    (stopped / "seed" / "result.json").unlink()
    run.train_and_evaluate(configs["seed"], stopped / "seed")
    near = params_of(unbroken / "seed")
    for tensor, values in params_of(stopped / "seed").items():
        np.testing.assert_allclose(values, near[tensor], rtol=0.1, atol=0.01)
    assert_one_damaged_state_costs_the_others_nothing(configs, tmp_path / "damaged", step)


def assert_one_damaged_state_costs_the_others_nothing(configs, runs, step):
    of_seed = runs / "seed" / "checkpoints" / str(step)
    largest = max(of_seed.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    ends = run_population.train_and_evaluate(runs_of(configs, runs), at_once=3)
    assert list(ends) == ["seed"] and isinstance(ends["seed"], InputError)
    assert f"{of_seed}: is not a whole checkpoint of this run" in str(ends["seed"])
    for name in CHANGES:
        assert (runs / name / "result.json").exists() == (name != "seed")
        assert len(records(runs / name)) == (step // 6 if name == "seed" else 40)


def test_what_cannot_be_trained_is_named_and_the_others_are(data, together, tmp_path):
    configs = configs_of(data)
    configs["locked"] = tiny_task.config(data, **{"epochs": 3, "augmentation.shift": 1})
    configs["begun"] = configs["locked"].copy_and_resolve_references()
    configs["diverges"] = configs["locked"].copy_and_resolve_references()
    configs["diverges"].initial_model = str(tmp_path / "huge.safetensors")
    huge = {name: values * 1e30 for name, values in params_of(together / "ordinary").items()}
    with safetensors.safe_open(together / "ordinary" / "model.safetensors", "np") as file:
        metadata = file.metadata()
    safetensors.numpy.save_file(huge, tmp_path / "huge.safetensors", metadata)
    shutil.copytree(together / "ordinary", tmp_path / "begun")
    (tmp_path / "begun" / "result.json").unlink()
    with folder.claim_folder(tmp_path / "locked", configs["locked"]):
        ends = run_population.train_and_evaluate(runs_of(configs, tmp_path), at_once=6)
    assert sorted(ends) == ["begun", "diverges", "locked"]
    assert isinstance(ends["locked"], InputError) and "another process" in str(ends["locked"])
    assert isinstance(ends["begun"], InputError)
    assert f"begun goes on after {3 * 6} steps, others do not; train it alone" in str(ends["begun"])
    assert isinstance(ends["diverges"], TrainingDiverged)
    assert "at epoch 1, step 1, learning rate" in str(ends["diverges"])
    assert not (tmp_path / "diverges" / "result.json").exists()
    assert_alike(tmp_path, together)


def test_what_is_not_alike_is_refused_and_leaves_nothing(data, tmp_path):
    configs = configs_of(data) | {"other": tiny_task.config(data, batch_size=8)}
    with pytest.raises(InputError, match=r"^--points: their configs ask for different programs"):
        run_population.train_and_evaluate(runs_of(configs, tmp_path))
    small = configs_of(data, resident_bytes=100)
    with pytest.raises(InputError, match=r"^config.resident_bytes: 100 is less .* give 30720, or"):
        run_population.train_and_evaluate(runs_of(small, tmp_path))
    assert not list(tmp_path.iterdir())


SWEEP = """
    config.epochs = 3
    config.augmentation.shift = 1
    config.owner.timestamp = "2026-11-21T17:00:00Z"
    config.owner.experiment_key = 0
    return config


def sweep(add):
    add({"watermark.scheme": "wonder-filter", "watermark.extreme_value": 5.0})
    add({"seed": 1, "owner.experiment_key": 1})
    add({"watermark.extreme_value": 20.0})
    add({"batch_size": 24})
"""


def test_a_sweep_trains_its_points_on_two_devices_at_once_and_goes_on_after_kills(
    alone, data, tmp_path
):
    """Two of the three that are alike at a time; the fourth is trained alone. SIGTERM, then kill -9."""
    file = tmp_path / "sweep.py"
    file.write_text(tiny_task.write(data).read_text().replace("    return config\n", SWEEP))
    swept = tmp_path / "run"
    arguments = [f"--config={file}", "--population=always", f"--workdir={swept}"]
    command = [sys.executable, "-m", "nullmark_jax.sweep", *arguments]
    devices = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    environ = {**os.environ, "XLA_FLAGS": devices, "JAX_PLATFORMS": "cpu"}
    xla_flags.add("--xla_cpu_use_fusion_emitters", "false", environ)  # As conftest.py does.
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as killed:
        until = time.monotonic() + 300
        while not list(swept.glob("points/*/metrics.jsonl")) and time.monotonic() < until:
            time.sleep(0.002)
        killed.terminate()
        assert killed.wait() == 143
    told = (swept / "points" / "together-0.log").read_text()
    assert "terminated; the states of 2 runs in epoch " in told
    begun = {path.parent.name: path.read_text() for path in swept.glob("points/*/metrics.jsonl")}
    assert len(begun) == 2 and not list(swept.glob("points/*/result.json"))
    (steps,) = {tuple(folder.kept_steps(swept / "points" / name)) for name in begun}
    assert len(steps) == 1 and steps[0] > 0
    assert not [path for path in swept.rglob("*") if files.is_part(path)]
    with subprocess.Popen(
        command, env=environ, stderr=subprocess.DEVNULL, start_new_session=True
    ) as killed:
        until = time.monotonic() + 300
        while not any(
            len((swept / "points" / name / "metrics.jsonl").read_text()) > len(text)
            for name, text in begun.items()
        ):
            assert time.monotonic() < until and killed.poll() is None
            time.sleep(0.002)
        os.killpg(killed.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    assert not list(swept.glob("points/*/result.json"))
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Those two go on as far as they were; the third begins, and has nobody beside it.
    assert "2 points at once: " in done.stderr and "epoch 3: loss " not in done.stderr
    told = (swept / "points" / "together-0.log").read_text()
    assert "epoch 3: loss " in told and "epoch 1: loss " not in told
    for name, text in begun.items():
        assert (swept / "points" / name / "metrics.jsonl").read_text().startswith(text)
    assert len(json.loads((swept / "result.json").read_text())["metrics"]["points"]) == 4
    names = ("scheme=wonder-filter,extreme_value=5.0", "seed=1", "extreme_value=20.0")
    for name, point in zip(CHANGES, names, strict=True):
        (tmp_path / name).symlink_to(swept / "points" / point)
    assert_alike(tmp_path, alone)
    result = json.loads((tmp_path / "seed" / "result.json").read_text())
    assert result["environment"]["device"] == "2 x cpu"
    assert result["environment"]["command"].startswith("python -m nullmark_jax.main --config=")
    # The main program takes a point's folder, and trains from the first step where there is no state.
    for left in ("result.json", "model.safetensors", "metrics.jsonl", "seconds.json"):
        (tmp_path / "seed" / left).unlink()
    shutil.rmtree((tmp_path / "seed").resolve() / "checkpoints")
    own = shlex.split(result["environment"]["command"])[1:]
    again = subprocess.run([sys.executable, *own], env=environ, stderr=subprocess.DEVNULL)
    assert again.returncode in (0, 1)
    assert_alike(tmp_path, alone)
