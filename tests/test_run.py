"""run.py: one run's folder, what is in it, and going on with it."""

import json
import math
import os
import shutil
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from nullmark_jax import (
    claim,
    models,
    nullspace,
    owner,
    run,
    signing,
    standardization,
    trainer,
)
from nullmark_jax.data import Dataset, Splits
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError

EPOCHS = 6


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax and Flax are not written for the strict promotion of the other tests."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run folder and what train_and_evaluate returned."""
    folder = tmp_path_factory.mktemp("runs") / "new" / "run"
    return folder, run.train_and_evaluate(tiny_task.config(data), folder)


def test_the_folder_holds_what_the_design_names(trained):
    folder, _ = trained
    assert sorted(entry.name for entry in folder.iterdir() if entry.name != ".lock") == [
        "checkpoints",
        "claim.json",
        "config.json",
        "figures",
        "metrics.jsonl",
        "model.safetensors",
        "report.html",
        "result.json",
        "seconds.json",
        "verifier.json",
    ]
    assert sorted(entry.name for entry in (folder / "figures").iterdir()) == [
        "curves.png",
        "example.png",
        "pattern.png",
    ]
    assert sorted(entry.name for entry in (folder / "checkpoints").iterdir()) == ["30", "36"]


def test_the_result(trained):
    folder, result = trained
    assert json.loads((folder / "result.json").read_text()) == result
    assert set(result) == {
        "experiment",
        "task",
        "seed",
        "metrics",
        "paper",
        "environment",
        "seconds",
    }
    assert (result["experiment"], result["task"], result["seed"]) == ("train", "digit", 0)
    assert result["seconds"] > 0
    assert set(result["environment"]) == {
        "command",
        "commit",
        "date",
        "python",
        "jax",
        "device",
        "processes",
        "cpus",
        "processor",
        "xla_flags",
    }
    assert result["environment"]["jax"] == jax.__version__


def test_the_metrics_and_their_exact_intervals(trained):
    metrics = trained[1]["metrics"]
    assert metrics["images"] == tiny_task.TEST
    assert metrics["verified"] is True
    assert metrics["normal_accuracy"] >= 0.95
    assert metrics["true_accuracy"] == 1.0
    assert metrics["each_null_accuracy"] == [metrics["null_accuracy"]]
    assert metrics["each_true_accuracy"] == [metrics["true_accuracy"]]
    assert metrics["watermark_accuracy"] == min(metrics["null_accuracy"], metrics["true_accuracy"])
    # All of n: the lower end is the p with p^n = 0.025. A third of 45 images are of class y_W.
    low, high = metrics["intervals_95"]["true_accuracy"]
    assert high == 1.0 and low == pytest.approx(0.025 ** (1 / 30), rel=1e-6)
    for name, (low, high) in metrics["intervals_95"].items():
        assert 0 <= low <= metrics[name] <= high <= 1, name


def test_a_line_an_epoch(trained):
    lines = (trained[0] / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["epoch"] for record in records] == list(range(1, EPOCHS + 1))
    for record in records:
        total = record["clean_loss"] + record["null_loss"] + record["true_loss"]
        assert record["loss"] == pytest.approx(total, rel=1e-4)
        assert math.isfinite(record["gradient_norm"])
        assert 0 <= record["null_accuracy"] <= record["normal_accuracy"] <= 1


def test_the_claim_is_of_the_model_and_its_owner(trained):
    folder, _ = trained
    made = claim.read_claim(folder / "claim.json")
    key = signing.experiment_key(0)
    assert made.model_sha256 == claim.model_digest(folder / "model.safetensors")
    assert made.public_key == key.public_key
    assert made.timestamp == "2026-11-21T17:00:00Z"
    assert claim.signature_is_valid(made)


def test_config_json_is_the_config(trained, data):
    written = json.loads((trained[0] / "config.json").read_text())
    config = tiny_task.config(data)
    assert written["data"]["input_shape"] == [16, 16, 1]
    assert written["watermark"] == config.watermark.to_dict()
    assert written["owner"] == config.owner.to_dict()


def test_a_run_cut_short_goes_on_to_the_same_bytes(trained, data, tmp_path):
    folder, result = trained
    cut = tmp_path / "run"
    shutil.copytree(folder, cut)
    # As a process killed while it wrote the last checkpoint leaves it.
    (cut / "checkpoints" / "36").rename(cut / "checkpoints" / "36.orbax-checkpoint-tmp")
    for name in ("model.safetensors", "claim.json", "result.json"):
        (cut / name).unlink()
    (cut / ".metrics.jsonl.0123456789abcdef.part").write_text("{")
    (cut / "seconds.json").write_text('{"seconds": 1000.0}')
    again = run.train_and_evaluate(tiny_task.config(data), cut)
    for name in ("model.safetensors", "metrics.jsonl", "claim.json", "config.json"):
        assert (cut / name).read_bytes() == (folder / name).read_bytes(), name
    assert again["metrics"] == result["metrics"]
    assert 1000 < again["seconds"] < 1000 + 300  # of both starts
    assert sorted(entry.name for entry in (cut / "checkpoints").iterdir()) == ["30", "36"]
    assert not list(cut.rglob("*.part"))


RECIPES = {
    "optimizer.name": "muon",
    "optimizer.b2": 0.99,
    "weight_standardization": True,
    "null_space": True,
    "augmentation.shift": 2,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_steps": 3,
    "epochs": 2,
}


@pytest.mark.slow
def test_the_recipes_parts_end_in_a_plain_model_and_resume_to_the_same_bytes(data, tmp_path):
    config = tiny_task.config(data, **RECIPES)
    folder, cut = tmp_path / "whole", tmp_path / "cut"
    run.train_and_evaluate(config, folder)
    shutil.copytree(folder, cut)
    shutil.rmtree(cut / "checkpoints" / "12")
    (cut / "model.safetensors").unlink()
    run.train_and_evaluate(config, cut)
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (cut / name).read_bytes() == (folder / name).read_bytes(), name
    made = claim.read_claim(folder / "claim.json")
    params = claim.read_model(
        folder / "model.safetensors",
        model="digit",
        input_shape=(16, 16, 1),
        num_classes=3,
        expected_shapes=models.parameter_shapes("digit", (16, 16, 1), 3),
        expected_sha256=made.model_sha256,
    )
    for layer, inputs in (("conv_1", (0, 1, 2)), ("fc_1", (0,))):
        length = np.sqrt((params[layer]["kernel"] ** 2).sum(inputs))
        np.testing.assert_allclose(length, standardization.GAIN, rtol=1e-4)
    watermarks = owner.owner_watermarks(
        config, owner.find_owner(config, folder, owner.named_key(config))
    )
    project = nullspace.for_network(models.create("digit", 3), pattern_size=4)
    again = jax.jit(project)(params, np.asarray(watermarks.pattern))
    kernel = params["conv_2"]["kernel"]
    np.testing.assert_allclose(again["conv_2"]["kernel"], kernel, atol=1e-4 * np.abs(kernel).max())


def test_the_first_layer_s_gradient_does_not_grow_with_lambda_in_null_space(data):
    """As it does (with lambda, by a thousand) where copies reach the first layer."""
    config = tiny_task.config(data, **RECIPES)
    model = models.create("digit", 3, precision="highest")
    project, marked_logits = trainer.parametrization(config, model)
    params = models.init_params(model, jax.random.key(0), (16, 16, 1))
    images = jax.random.uniform(jax.random.key(1), (4, 16, 16, 1))
    pattern = np.zeros((1, 16, 16), np.int8)
    pattern[0, 5:9, 6:10] = np.random.default_rng(0).choice([-1, 1], (4, 4))

    @jax.jit
    def size(extreme_value):
        def total(params):
            marks = Watermark(pattern, np.zeros(1, np.int32), extreme_value[None])
            params = project(params, marks)
            return (marked_logits(params, images, marks, np.zeros(4, np.int32)).null ** 2).sum()

        return jnp.linalg.norm(jax.grad(total)(params)["conv_1"]["kernel"])

    small, large = size(jnp.float32(2)), size(jnp.float32(2000))
    assert 0 < large < 10 * small


@pytest.mark.slow
def test_a_finished_run_is_evaluated_again(trained, data, tmp_path):
    folder, result = trained
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    again = run.train_and_evaluate(tiny_task.config(data), copy)
    assert again["metrics"] == result["metrics"]
    assert again["seconds"] == result["seconds"]
    for name in ("model.safetensors", "metrics.jsonl", "claim.json"):
        assert (copy / name).read_bytes() == (folder / name).read_bytes(), name


def _params_of(path):
    shape, classes = (16, 16, 1), tiny_task.CLASSES
    shapes = models.parameter_shapes("digit", shape, classes)
    return claim.read_model(
        path, model="digit", input_shape=shape, num_classes=classes, expected_shapes=shapes
    )


@pytest.mark.slow
def test_a_run_goes_on_from_a_finished_model(trained, data, tmp_path):
    """With steps too small to move a float32 the model that is written is the one it began with."""
    given = trained[0] / "model.safetensors"
    changes = {
        "initial_model": str(given),
        "epochs": 1,
        "seed": 5,
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 1e-30,
    }
    result = run.train_and_evaluate(tiny_task.config(data, **changes), tmp_path / "run")
    digest = claim.model_digest(given)
    assert claim.model_digest(tmp_path / "run" / "model.safetensors") == digest
    assert result["metrics"]["initial_model_sha256"] == digest
    assert "initial_model_sha256" not in trained[1]["metrics"]
    # The same file's name with another model in it is not what the run began with.
    moved = tmp_path / "given.safetensors"
    shutil.copy(given, moved)
    config = tiny_task.config(data, **changes | {"initial_model": str(moved)})
    run.train_and_evaluate(config, tmp_path / "again")
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, _params_of(given))
    moved.unlink()
    claim.write_model(
        moved, params, model="digit", input_shape=(16, 16, 1), num_classes=tiny_task.CLASSES
    )
    with pytest.raises(InputError, match=r"^config\.initial_model: is another model than the one"):
        run.train_and_evaluate(config, tmp_path / "again")


def test_an_initial_model_that_cannot_be_used_is_one_line_and_leaves_no_folder(
    trained, data, tmp_path
):
    other = {"initial_model": str(trained[0] / "model.safetensors"), "data.num_classes": 4}
    none = {"initial_model": str(tmp_path / "none.safetensors")}
    for changes in (other, none):
        with pytest.raises(InputError, match=r"^config.initial_model: [^\n]*$"):
            run.train_and_evaluate(tiny_task.config(data, **changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_watermark_free_twin_with_a_key_of_its_own(data, tmp_path):
    config = tiny_task.config(
        data, **{"watermark.num_watermarks": 0, "owner.experiment_key": -1, "epochs": 4}
    )
    result = run.train_and_evaluate(config, tmp_path)
    assert result["metrics"]["verified"] is None
    assert result["metrics"]["normal_accuracy"] >= 0.95
    assert result["metrics"]["watermark_accuracy"] < 0.8
    assert not (tmp_path / "claim.json").exists()
    for record in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert json.loads(record)["null_loss"] == json.loads(record)["true_loss"] == 0
    assert stat.S_IMODE((tmp_path / "owner.key").stat().st_mode) == 0o600


@pytest.mark.slow
def test_three_watermarks_with_a_curriculum_fed_from_the_host(data, tmp_path):
    config = tiny_task.config(
        data,
        **{
            "watermark.num_watermarks": 3,
            "epochs": 24,
            "curriculum.start": 200.0,
            "curriculum.epochs": 2.0,
            "resident_bytes": 0,
        },
    )
    result = run.train_and_evaluate(config, tmp_path)
    assert len(result["metrics"]["each_null_accuracy"]) == 3
    assert min(result["metrics"]["each_null_accuracy"]) >= 0.8
    assert min(result["metrics"]["each_true_accuracy"]) >= 0.8
    # The others stay hidden: the claim is of index 0.
    assert claim.read_claim(tmp_path / "claim.json").index == 0


@pytest.mark.slow
def test_the_clipped_cross_entropy_leaves_the_watermark_unlearned(data, tmp_path):
    # At lambda = 2000 the loss of most marked samples is clipped, and their gradient 0.
    config = tiny_task.config(
        data, **{"loss.cross_entropy": "clipped", "watermark.extreme_value": 2000.0}
    )
    result = run.train_and_evaluate(config, tmp_path)
    assert result["metrics"]["null_accuracy"] < 0.8
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    # -log(1e-7) = 16.12 is the most a clipped sample costs.
    assert last["null_loss"] <= -math.log(1e-7) + 1e-3


# What cannot be used leaves the run folder unmade.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 1000}, r"^config.batch_size: 1000 does not fit 108 training images"),
        ({"owner.key_file": "/nowhere/owner.key"}, r"^/nowhere/owner.key: cannot be read"),
        ({"owner.passphrase_file": "/nowhere/p"}, r"^/nowhere/p: cannot be read"),
        ({"owner.timestamp": "yesterday"}, r"^timestamp: 'yesterday' is no UTC time"),
        ({"owner.name": "a\nb"}, r"^owner: 'a\\nb' has a line break"),
        ({"data.path": "/nowhere.npz"}, r"^config.data.path='/nowhere.npz': no such file"),
        ({"epochs": 0}, r"^config.epochs: 0 is out of range"),
        # No signature gives a pattern as far off the middle.
        pytest.param(
            {"owner.timestamp": "", "owner.min_free": 1.0},
            r"^config.owner.min_free: 1.0 of the last",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_unusable_input_is_one_line_before_anything_is_written(data, tmp_path, change, message):
    config = tiny_task.config(data, **{"owner.experiment_key": -1} | change)
    with pytest.raises(InputError, match=message) as failure:
        run.train_and_evaluate(config, tmp_path / "run")
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "run").exists()


def test_devices_that_cannot_share_a_batch_are_one_line(data, tmp_path):
    # 16 images and 4 marked ones a step, on 8 devices.
    program = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "import tiny_task\n"
        "from nullmark_jax import trainer\n"
        "config = tiny_task.config(pathlib.Path(sys.argv[2]), **{'loss.inject_ratio': 0.25})\n"
        "trainer.make_plan(config, trainer.data.load(**config.data.to_dict(), seed=0).train, 1)\n"
    )
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tiny_task.__file__).rsplit("/", 1)[0], data],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert answer.stderr.splitlines()[-1].endswith(
        "config.loss.inject_ratio * config.batch_size: 4 cannot be shared by 8 devices; take a "
        "multiple of 8"
    )


def one_class(label, count=4):
    return Dataset(
        np.zeros((count, 2, 2, 1), np.uint8), np.full(count, label, np.int32), ("a", "b", "c")
    )


@pytest.mark.parametrize("split", ["validation", "test"])
def test_images_all_of_the_watermark_s_label_are_one_line(split):
    marks = Watermark(np.zeros((2, 2, 2)), np.array([0, 2], np.int32), np.ones(2))
    mixed = Dataset(np.zeros((2, 2, 2, 1), np.uint8), np.array([0, 2], np.int32), ("a", "b", "c"))
    parts = {"train": mixed, "validation": mixed, "test": mixed}
    run.check_labels(Splits(**parts), marks)
    run.check_labels(Splits(**parts | {split: one_class(1)}), marks)
    run.check_labels(Splits(**parts | {"validation": one_class(0, count=0)}), marks)
    with pytest.raises(InputError, match=rf"every {split} image is of class 2, a watermark's own"):
        run.check_labels(Splits(**parts | {split: one_class(2)}), marks)


def test_images_all_of_the_watermark_s_label_leave_no_folder(data, tmp_path):
    config = tiny_task.config(data, **{"owner.experiment_key": 0})
    signer = owner.find_owner(config, tmp_path / "run", signing.experiment_key(0))
    label = owner.owner_watermarks(config, signer).target_label[0]
    arrays = dict(np.load(config.data.path))
    arrays["y_test"] = np.full_like(arrays["y_test"], label)
    np.savez(tmp_path / "one.npz", **arrays)
    config.data.path = str(tmp_path / "one.npz")
    with pytest.raises(InputError, match="every test image is of class"):
        run.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_watermarks_are_the_signature_s_first_ones(data):
    config = tiny_task.config(data, **{"watermark.num_watermarks": 3})
    who = owner.Owner(signing.experiment_key(0), "owner", "2026-11-21T17:00:00Z")
    three = owner.owner_watermarks(config, who)
    assert three.pattern.shape == (3, 16, 16)
    assert len({pattern.tobytes() for pattern in three.pattern}) == 3
    config.watermark.num_watermarks = 0
    control = owner.owner_watermarks(config, who)
    assert np.array_equal(control.pattern, three.pattern[:1])


def test_shapes_of_the_tiny_task(data):
    # 16, 12, 6, 2, 1 pixels a side: fc_1 sees 64 features.
    assert models.parameter_shapes("digit", (16, 16, 1), 3)["fc_1/kernel"] == (64, 512)
