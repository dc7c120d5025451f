"""stability.py, stability_tables.py: from which rate on a model breaks, how far a step moves it."""

import jax.numpy as jnp
import numpy as np
import pytest

from nullmark_jax import transform
from nullmark_jax.baselines import schemes
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import stability, stability_tables
from nullmark_jax.marks import at_extreme_value


def attack(rate, normal_accuracy, finite=True):
    return {"learning_rate": rate, "normal_accuracy": normal_accuracy, "finite": finite}


@pytest.mark.parametrize(
    ("attacks", "expected"),
    [
        # Of a victim of 0.75, 0.55 is just not broken; in any order.
        ([attack(1e-2, 0.5), attack(1e-4, 0.75), attack(1e-3, 0.55)], 1e-3),
        ([attack(1e-2, 0.5), attack(1e-4, 0.75), attack(1e-3, 0.549)], 1e-4),
        # A rate that happens to do above one that breaks is not counted.
        ([attack(1e-4, 0.75), attack(1e-3, 0.5), attack(1e-2, 0.75)], 1e-4),
        ([attack(1e-4, 0.54), attack(1e-3, 0.75)], None),
        # Not a number answers class 0, of which there may be many.
        ([attack(1e-4, 0.75), attack(1e-3, 0.75, finite=False)], 1e-4),
        ([attack(1e-4, 0.75)], 1e-4),
    ],
)
def test_the_highest_rate_below_the_first_that_breaks(attacks, expected):
    assert stability_tables.stable_up_to(attacks, 0.75) == expected


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
    changed = at_extreme_value(marks, 10.0)
    np.testing.assert_array_equal(changed.extreme_value, [10.0])
    assert changed.extreme_value.dtype == jnp.float32
    np.testing.assert_array_equal(changed.pattern, marks.pattern)
    assert changed._replace(extreme_value=marks.extreme_value) == marks


def test_triggers_have_none():
    marks = schemes.make("adi", b"secret", shape=(8, 8, 1), num_classes=10)
    assert at_extreme_value(marks, None) is marks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "config.steps: 0 is out of range"),
        ({"learning_rates": (0.0,)}, "config.learning_rates: 0.0 must be above 0; give say 0.001"),
        (
            {"extreme_values": (0.5,)},
            "config.extreme_values: 0.5 must be at least 1; give say 10.0",
        ),
        ({"extreme_values": (1.0,) * 6}, "config.extreme_values: 6 are too many to draw"),
        ({"ways": ()}, "config.ways: is empty; give one at least, as ('logits', 0.0)"),
        ({"ways": (1,)}, "config.ways: 1 is none; give a cross-entropy and the norm"),
        (
            {"ways": (("logits",),)},
            "config.ways: ('logits',) is none; give a cross-entropy and the",
        ),
        ({"ways": ((("a",), 0.0),)}, "config.ways: (('a',), 0.0) is none; give a cross-entropy"),
        ({"ways": (("softmax", 0.0),)}, "config.ways: 'softmax' is none"),
        ({"ways": (("logits", -1.0),)}, "config.ways: -1.0 must not be negative; give 0.0 for no"),
        (
            {"ways": (("logits", 1.0), ("clipped", 2.0))},
            "config.ways: gradients are held at several norms; give one norm beside 0.0",
        ),
        (
            {"attacker.cross_entropy": "clipped"},
            "config.attacker.cross_entropy: 'clipped' has no effect here; give config.ways",
        ),
        (
            {"attacker.optimizer.clip_norm": 1.0},
            "config.attacker.optimizer.clip_norm: 1.0 has no effect here; give config.ways",
        ),
    ],
)
def test_what_is_out_of_range_is_named(changes, message):
    config = stability.default()
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError) as error:
        stability.check(config)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def record(victim, rate, nc, pirate, *, embeds=True, value=2000.0, step=0.5, finite=True):
    return {
        "victim": victim,
        "cross_entropy": "logits",
        "clip_norm": 0.0,
        "embeds": embeds,
        "extreme_value": value if embeds else None,
        "learning_rate": rate,
        "finite": finite,
        "first_step": step,
        "normal_accuracy": nc,
        "pirate": {"wm": pirate},
        "owner": {"wm": 0.9},
        "verified": pirate > 0.8 and finite,
    }


RESULT = {
    "metrics": {
        "papers_rate": 1e-3,
        "papers_steps": 390,
        "steps": 100,
        "attacker": {"images": 5000, "batch_size": 128, "inject_ratio": 0.5, "optimizer": "sgd"},
        "before": {"a": {"normal_accuracy": 0.99}, "b": {"normal_accuracy": 0.97}},
        "attacks": [
            record("a", 1e-4, 0.99, 0.0, embeds=False, step=0.01),
            record("a", 1e-3, 0.98, 0.0, embeds=False, step=0.03),
            record("b", 1e-4, 0.97, 0.0, embeds=False, step=0.01),
            record("b", 1e-3, 0.96, 0.0, embeds=False, step=0.05),
            # a stands at both rates, b at the lower one alone: 0.1 is not a number.
            record("a", 1e-4, 0.98, 0.50, step=0.2),
            record("a", 1e-3, 0.90, 0.95, step=2.0),
            record("b", 1e-4, 0.96, 0.85, step=0.2),
            record("b", 1e-3, 0.10, 0.10, step=4.0, finite=False),
        ],
    }
}


def test_the_table_s_cells():
    (table,) = stability_tables.tables(RESULT)
    assert table.title == (
        "100 steps on 5000 images, 128 and 0.5 times as many copies of each kind a step, 2 models, a pirate "
        "each, %: mean (lowest to highest)"
    )
    clean, marked = (dict(zip(table.header, row, strict=True)) for row in table.rows)
    assert clean["embedded"] == "clean images alone"
    assert clean["first step at 0.001"] == "0.04"
    assert clean["NC at 0.001"] == "97.00 (96.00 to 98.00)"
    assert clean["stands up to"] == "0.001 (the highest tried)"
    assert clean["lowest NC up to there"] == "96.00"
    assert clean["pirate WM at 0.001"] == clean["their pirate WM"] == ""
    assert marked == {
        "attacker": "logits, sgd",
        "embedded": "lambda 2000",
        "first step at 0.001": "3",
        "NC at 0.001": "50.00 (10.00 to 90.00); 1 not a number",
        "pirate WM at 0.001": "52.50 (10.00 to 95.00)",
        "stands up to": "0.0001",
        "lowest NC up to there": "96.00",
        "best rates": "0.0001, 0.001",
        "their NC": "93.00 (90.00 to 96.00)",
        "their pirate WM": "90.00 (85.00 to 95.00)",
        "their owner WM": "90.00",
        "verify at the owner's lambda": "2 of 2",
    }


def test_the_sentences():
    (found,) = stability_tables.verdict(RESULT)
    assert found.agrees is None
    assert found.text == (
        "logits, sgd, 100 steps, 2 models: all stand (lose at most 20 points of NC) up to rate 0.001 (the "
        "highest tried) on clean images alone, 0.0001 at lambda 2000; the most WM, as trained, that a pirate "
        "has in models that stand, at whatever rate, and how many claims verify at the owner's lambda: 90.00 "
        "at lambda 2000 (rate 0.0001, 0.001; 2 of 2 stand, 2 verify)."
    )


def test_where_no_rate_leaves_a_model():
    attacks = [record("a", rate, 0.1, 0.1, finite=False, step=None) for rate in (1e-4, 1e-3)]
    metrics = RESULT["metrics"] | {"attacks": attacks, "before": {"a": {"normal_accuracy": 0.99}}}
    (table,) = stability_tables.tables({"metrics": metrics})
    (row,) = table.rows
    assert row[2] == "not a number" and row[5] == "none"
    assert row[6:] == ["", "", "", "", "", "0 of 1"]
    (found,) = stability_tables.verdict({"metrics": metrics})
    assert found.text.endswith(
        "up to rate none at lambda 2000; the most WM, as trained, that a pirate has in models that stand, at "
        "whatever rate, and how many claims verify at the owner's lambda: none at lambda 2000 (no model "
        "stands)."
    )


def test_the_figures_lines():
    drawn = stability_tables.draw(RESULT)
    assert list(drawn) == ["stability-logits", "stability-logits-step"]
    lines = {line.get_label(): line for line in drawn["stability-logits-step"].axes[0].lines}
    assert list(lines["lambda 2000"].get_xdata()) == [0.2, 2.0]
    assert list(lines["lambda 2000"].get_ydata()) == pytest.approx([98.0, 90.0])
