"""Functionality: the config of each training."""

import json
from types import SimpleNamespace

import pytest

from configs import object as object_
from nullmark_jax import config as configs
from nullmark_jax import owner, signing
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import functionality
from nullmark_jax.experiments.journal import Journal


@pytest.fixture
def recipe():
    """A recipe whose lambda rises from 1 to 2000 over 9 of 12 epochs."""
    config = object_.get_config()
    rise = config.curriculum
    assert (config.epochs, rise.epochs, rise.start) == (12, 9, 1)
    return config


@pytest.mark.parametrize("value", [2.0, 100.0, 2000.0, 10_000.0])
def test_whatever_lambda_rises_to_it_begins_at_1(recipe, value):
    run = functionality.run_config(recipe, 3, epochs=0, extreme_value=value)
    configs.check(run)
    assert run.watermark.extreme_value == value
    assert run.curriculum.start == 1
    assert (run.epochs, run.curriculum.epochs) == (12, 9)


def test_a_shorter_training_raises_lambda_over_the_same_share_of_it(recipe):
    run = functionality.run_config(recipe, 3, epochs=4, pattern_size=8)
    configs.check(run)
    assert (run.epochs, run.curriculum.epochs) == (4, 3)
    assert run.curriculum.start == recipe.curriculum.start


def test_a_recipe_without_a_rise_has_none_at_any_lambda(recipe):
    recipe.curriculum.start, recipe.curriculum.epochs = 1.0, 0.0
    for value in (2.0, 10_000.0):
        run = functionality.run_config(recipe, 3, epochs=0, extreme_value=value)
        configs.check(run)
        assert run.curriculum.epochs == 0


def test_a_watermark_free_twin_differs_from_its_owner_s_model_in_nothing_else(recipe):
    latest = []
    for seed in (0, 6):  # The latest second's pattern suits the first only.
        twin = functionality.run_config(recipe, seed, epochs=0, num_watermarks=0).to_dict()
        owned = functionality.run_config(recipe, seed, epochs=0).to_dict()
        assert twin["watermark"].pop("num_watermarks") == 0
        assert owned["watermark"].pop("num_watermarks") == 1
        assert twin == owned
        latest.append(owned["owner"]["timestamp"] == "2026-11-21T00:00:00Z")
    assert latest == [True, False]


def test_each_owner_is_an_experiment_key_that_signs_a_pattern_that_suits(recipe):
    for seed in (0, 6):
        run = functionality.run_config(recipe, seed, epochs=0)
        assert (run.seed, run.owner.experiment_key) == (seed, seed)
        signer = owner.Owner(signing.experiment_key(seed), run.owner.name, run.owner.timestamp)
        assert owner.suits(run, signer)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ((), "config.experiment_keys: is empty; give one at least"),
        ((0, 6, 0), r"config.experiment_keys: \(0, 6, 0\) holds one twice; give each once"),
        ((-1,), "config.experiment_keys: -1"),
    ],
)
def test_owners_that_are_none_or_one_twice_are_refused(keys, says):
    config = functionality.default()
    config.experiment_keys = keys
    with pytest.raises(InputError, match=says):
        functionality.check(config)


def test_a_seed_beside_the_owners_is_refused():
    config = functionality.default()
    functionality.check(config)
    config.seed = 1
    with pytest.raises(InputError, match=r"config\.seed: each training's is its experiment key"):
        functionality.check(config)


def test_the_owners_are_the_keys_given_and_the_first_one_s_are_the_sweeps(recipe, tmp_path):
    config = functionality.default()
    config.experiment_keys, config.extreme_values, config.pattern_sizes = (6, 1), (10.0,), (8,)
    names = ["owner-6", "free-6", "owner-1", "free-1", "lambda-10", "n-8"]
    fields = ("normal_accuracy", "null_accuracy", "true_accuracy", "watermark_accuracy")
    line = {"seconds": 1.0, "commit": "c", "processor": "p"}
    (tmp_path / "records.jsonl").write_text(
        "".join(
            json.dumps({"name": name, **line, "record": dict.fromkeys(fields, i / 10)}) + "\n"
            for i, name in enumerate(names)
        )
    )
    metrics = functionality.measure(config, [SimpleNamespace(config=recipe)], Journal(tmp_path))
    assert metrics["experiment_keys"] == [6, 1]
    found = {
        part: [each["normal_accuracy"] for each in metrics[part]]
        for part in ("owners", "free", "extreme_values", "pattern_sizes")
    }
    # Of the sweeps one value each is the first owner's own: lambda 2000, and n = 6.
    assert found == {
        "owners": [0.0, 0.2],
        "free": [0.1, 0.3],
        "extreme_values": [0.4, 0.0],
        "pattern_sizes": [0.0, 0.5],
    }
