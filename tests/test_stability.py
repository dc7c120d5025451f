"""stability.py: from which rate on a model breaks, and how far a step moves it."""

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from nullmark_jax import transform
from nullmark_jax.baselines import schemes
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import stability


def attack(rate, normal_accuracy, finite=True):
    return {"learning_rate": rate, "normal_accuracy": normal_accuracy, "finite": finite}


@pytest.mark.parametrize(
    ("attacks", "expected"),
    [
        # Of a victim of 0.98, 0.93 is just not broken; in any order.
        ([attack(1e-2, 0.5), attack(1e-4, 0.98), attack(1e-3, 0.935)], 1e-3),
        # A rate that happens to do above one that breaks is not counted.
        ([attack(1e-4, 0.98), attack(1e-3, 0.5), attack(1e-2, 0.97)], 1e-4),
        ([attack(1e-4, 0.92), attack(1e-3, 0.98)], None),
        # Not a number answers class 0, of which there may be many.
        ([attack(1e-4, 0.98), attack(1e-3, 0.98, finite=False)], 1e-4),
        ([attack(1e-4, 0.98)], 1e-4),
    ],
)
def test_the_highest_rate_below_the_first_that_breaks(attacks, expected):
    assert stability.stable_up_to(attacks, 0.98) == expected


def test_a_step_as_a_share_of_the_parameters_norm():
    before = {"a": {"kernel": np.float32([[3, 0], [0, 0]])}, "b": {"bias": np.float32([4])}}
    after = {"a": {"kernel": np.float32([[3, 0], [0, 6]])}, "b": {"bias": np.float32([12])}}
    assert stability.relative_step(before, after) == pytest.approx(10 / 5)
    assert stability.relative_step(before, before) == 0
    after["b"]["bias"] = np.float32([np.nan])
    assert np.isnan(stability.relative_step(before, after))


def test_another_extreme_value_is_all_that_changes():
    marks = transform.random_watermarks(
        0, 1, height=28, width=28, num_classes=10, pattern_size=6, extreme_value=2000.0
    )
    changed = stability.at_value(marks, 10.0)
    np.testing.assert_array_equal(changed.extreme_value, [10.0])
    assert changed.extreme_value.dtype == jnp.float32
    np.testing.assert_array_equal(changed.pattern, marks.pattern)
    assert changed._replace(extreme_value=marks.extreme_value) == marks


def test_triggers_have_none():
    marks = schemes.make("adi", b"secret", shape=(8, 8, 1), num_classes=10)
    assert stability.at_value(marks, None) is marks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "config.steps: 0 is out of range"),
        ({"learning_rates": (0.0,)}, "config.learning_rates: 0.0 must be above 0; give say 0.001"),
        (
            {"extreme_values": (0.5,)},
            "config.extreme_values: 0.5 must be at least 1; give say 10.0",
        ),
        ({"ways": ()}, "config.ways: is empty; give one at least, as ('logits', 0.0)"),
        (
            {"ways": (("logits",),)},
            "config.ways: ('logits',) is none; give a cross-entropy and the",
        ),
        ({"ways": (("softmax", 0.0),)}, "config.ways: 'softmax' is none"),
        ({"ways": (("logits", -1.0),)}, "config.ways: -1.0 must not be negative; give 0.0 for any"),
    ],
)
def test_what_is_out_of_range_is_named(changes, message):
    config = ml_collections.ConfigDict({**stability.default(), **changes})
    with pytest.raises(InputError) as error:
        stability.check(config)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
