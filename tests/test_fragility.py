"""fragility.py: what is said of changed models, and what is refused."""

import pytest

from nullmark_jax.errors import InputError
from nullmark_jax.experiments import fragility


def model(*owner, foreign=(0.4, 0.1, 0.1)):
    """A model's null at 10, 100 and 2000."""
    marks = {
        f"{whose} at {value}": {"null": null, "true": 0.5, "wm": 0.0}
        for whose, nulls in (("owner", owner), ("foreign", foreign))
        for value, null in zip((10, 100, 2000), nulls, strict=True)
    }
    return {"normal_accuracy": 0.99, **marks}


@pytest.fixture
def result():
    changes = [
        {"name": "as it is", "models": [model(0.99, 0.99, 0.98), model(0.97, 0.97, 0.96)]},
        # Above T at 2000 again, after a gap.
        {"name": "pruned", "models": [model(0.95, 0.2, 0.9), model(0.91, 0.9, 0.9)]},
        {"name": "ruined", "models": [model(0.8, 0.8, 0.1), model(0.1, 0.1, 0.1)]},
    ]
    metrics = {"threshold": 0.8, "own": 2000.0, "values": [10.0, 100.0, 2000.0], "changes": changes}
    return {"metrics": metrics}


def test_the_highest_value_up_to_which_every_model_keeps_null(result):
    (finding,) = fragility.verdict(result)
    assert finding.claim == "" and finding.agrees is None
    assert finding.text == (
        "The lowest null of 2 models is above T with the owner's pattern shown as it is up to 2000 (there "
        "96.00; at 2000 96.00); pruned up to 10 (there 91.00; at 2000 90.00); ruined at no value. Of a "
        "pattern never embedded null is 40.00 at 10 and 10.00 at 2000 (mean)."
    )


def test_a_row_for_each_change_and_a_line_in_the_figure(result):
    (table,) = fragility.tables(result)
    assert table.header == (
        "2 models",
        "NC",
        *(f"null at {v}" for v in (10, 100, 2000)),
        "true at 2000",
    )
    pruned = [
        "pruned",
        "99.00",
        "93.00 (91.00 to 95.00)",
        "55.00 (20.00 to 90.00)",
        "90.00",
        "50.00",
    ]
    assert table.rows[1] == pruned
    never = ["a pattern never embedded, as it is", "99.00", "40.00", "10.00", "10.00", "50.00"]
    assert table.rows[3:] == [never]
    (figure,) = fragility.draw(result).values()
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert lines["pruned"] == pytest.approx([93.0, 55.0, 90.0])
    assert lines["a pattern never embedded"] == pytest.approx([40.0, 10.0, 10.0])
    assert lines["threshold"] == [80.0, 80.0]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("extreme_values", (0.5,), "config.extreme_values: 0.5 must be at least 1"),
        ("extreme_values", (), "config.extreme_values: 0 are not 1 to 5"),
        (
            "prunings",
            (("neurons", "sideways", 0.2),),
            "config.prunings: ('neurons', 'sideways', 0.2)",
        ),
        ("prunings", (("neurons", "ascending", 1.2),), "config.prunings: 1.2 is out of range"),
        ("prunings", (("neurons", "ascending", 0.1),) * 5, "config.prunings: 5 are too many"),
        ("epochs", 0, "config.epochs: 0"),
        ("learning_rate", -1.0, "config.learning_rate: -1.0"),
    ],
)
def test_what_is_refused(field, value, said):
    config = fragility.default()
    fragility.check(config)
    config[field] = value
    with pytest.raises(InputError) as caught:
        fragility.check(config)
    assert str(caught.value).startswith(said)
