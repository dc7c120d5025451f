"""Corruption of a leaked watermark: the watermarks that did not leak, and the controls."""

import jax
import numpy as np
import pytest
import tiny_task

from nullmark_jax import run
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.experiments import corruption
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.victim import load_victims
from nullmark_jax.optimizers import Recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A model of the tiny task with two watermarks."""
    folder = tmp_path_factory.mktemp("two")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        config = tiny_task.config(folder, **{"watermark.num_watermarks": 2, "epochs": 12})
        run.train_and_evaluate(config, folder / "run")
    (loaded,) = load_victims([str(folder / "run")], task="digit")
    return loaded


@pytest.fixture(scope="module")
def metrics(victim, tmp_path_factory):
    config = corruption.default()
    config.task = "digit"
    config.earlier.images, config.earlier.batch_size, config.earlier.epochs = 60, 16, 1
    config.goals = ("relabel",)
    grid = config.grid
    grid.cross_entropies, grid.ways, grid.learning_rates = ("logits",), ("sgd",), (1e-3,)
    grid.images, grid.steps, grid.batch_size = (60,), 4, 16
    corruption.check(config)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return corruption.measure(config, [victim], Journal(tmp_path_factory.mktemp("journal")))


def test_the_watermark_that_did_not_leak_is_measured_at_a_lower_lambda_too(victim, metrics):
    second = jax.tree.map(lambda leaf: np.asarray(leaf)[1:], Bench(victim, 0).watermarks)
    at_100 = second._replace(extreme_value=np.float32([100.0]))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = Bench(victim, 0).measure(victim.params, own=second, lower=at_100)
    (before,) = metrics["before"]["models"]
    assert before["hidden_1"] == expected["own"] and before["lowered_1"] == expected["lower"]
    # Counted once.
    assert metrics["before"]["hidden"] == metrics["controls"][0]["hidden"] == 1


def test_a_control_trains_the_same_way_on_the_images_alone(victim, metrics):
    (control,) = metrics["controls"]
    assert control["name"] == metrics["grid"][0]["name"]
    adversary = Adversary(Recipe("sgd", 1e-3), steps=4, batch_size=16, inject_ratio=0.0)
    bench = Bench(victim, 0)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        (reached,) = bench.train(adversary, images=60, seed=0, at=[4])
        expected = bench.measure(reached.params, owner=bench.owner)
    (model,) = control["models"]
    assert model["normal_accuracy"] == expected["normal_accuracy"]
    assert model["loss"] == pytest.approx(float(reached.loss))
    assert model["loss"] != metrics["grid"][0]["models"][0]["loss"]
