"""examination.py: what it says of numbers; that it runs is test_experiments.py's."""

import numpy as np
import pytest

from nullmark_jax.attacks.pattern_recovery import right_pixels
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import examination
from nullmark_jax.experiments.examination import AS_IT_IS, LATE, ORIGINAL
from nullmark_jax.experiments.late_marks import Pirate

BLOCK = np.array([[1, -1], [-1, 1]], np.int8)


def lying(block, row, column):
    pattern = np.zeros((6, 6), np.int8)
    pattern[row : row + 2, column : column + 2] = block
    return pattern


@pytest.mark.parametrize("others", [[], [-BLOCK], [-BLOCK, -BLOCK]])
@pytest.mark.parametrize("last", [False, True])
def test_of_several_patterns_the_nearest_counts_wherever_they_lie(others, last):
    patterns = np.stack([lying(BLOCK, 3, 1), *(lying(each, 0, 4) for each in others)])
    if last:
        patterns = patterns[::-1]
    assert max(right_pixels(BLOCK, patterns)) == 4
    one_wrong = BLOCK.copy()
    one_wrong[0, 0] *= -1
    assert max(right_pixels(one_wrong, patterns)) == 3


def after(owner, pirate=None):
    marks = {"owner": owner} | ({} if pirate is None else {"pirate": pirate})
    accuracies = {mark: {"null": 0.9 * ok, "wm": 0.9 * ok} for mark, ok in marks.items()}
    return {
        "normal_accuracy": 0.9,
        "verified": {m: bool(v) for m, v in marks.items()},
        **accuracies,
    }


def model(*examined, read):
    """(owner, pirate) verified, as it is and rounded."""
    names = (AS_IT_IS, "int8 weights")
    return {
        "after": {n: after(*each) for n, each in zip(names, examined, strict=True)},
        "read": read,
    }


PIRATES = Pirate("adam-null-space", 600, 600, 0.0, "").name
METRICS = {
    "threshold": 0.8,
    "learning_rate": 1e-4,
    "batch_size": 64,
    "tuning": "x",
    "pixels": 36,
    "min_free": 0.0,
    "models": {
        ORIGINAL: [model((1,), (1,), read={"owner": 20}), model((1,), (0,), read={"owner": 36})],
        PIRATES: [
            model((0, 1), (0, 0), read={"owner": 18, "pirate": 36}),
            model((1, 1), (1, 1), read={"owner": 19, "pirate": 35}),
            model((1, 0), (1, 0), read={"owner": 19, "pirate": 36}),  # never in: it says nothing
        ],
    },
}


def test_of_marks_that_verify_those_are_counted_that_withstand():
    owners, pirates = examination.verdict({"metrics": METRICS})
    assert not any(each.claimed or each.agrees is not None for each in (owners, pirates))
    assert owners.text == (
        "Owners' marks on their own models: 2 of 2 models verify, and of these after an examination, int8 "
        "weights: 1; the weights give away the whole pattern in 1."
    )
    assert pirates.text == (
        f"Pirates by {PIRATES}: 2 of 3 models verify, and of these after an examination, int8 weights: 1; "
        "the weights give away the whole pattern in 1."
    )


def test_where_no_pirate_got_in_nothing_is_said_of_examinations():
    models = {**METRICS["models"], PIRATES: METRICS["models"][PIRATES][2:]}
    _, pirates = examination.verdict({"metrics": METRICS | {"models": models}})
    assert pirates.text.endswith(": 0 of 1 model verify.")


def test_the_tables_have_each_mark_on_each_kind_of_model():
    left, read = examination.tables({"metrics": METRICS})
    assert [row[:2] for row in left.rows] == [
        [ORIGINAL, AS_IT_IS],
        [ORIGINAL, "int8 weights"],
        [f"copy by {PIRATES}", AS_IT_IS],
        [f"copy by {PIRATES}", "int8 weights"],
    ]
    assert [row[4] for row in left.rows] == ["2 of 2", "1 of 2", "2 of 3", "2 of 3"]
    assert [row[6] for row in left.rows] == ["", "", "2 of 3", "1 of 3"]
    assert read.rows[0] == [ORIGINAL, "owner", "20 to 36", "1 of 2"]
    assert read.rows[2] == [f"copy by {PIRATES}", "pirate", "35 to 36", "2 of 3"]
    assert "adam-null-space: tamed" in left.note
    assert "layer by layer" not in left.note and "control" not in left.note


def test_the_figure_has_the_mean_of_each_mark_after_each_examination():
    (axes,) = examination.draw({"metrics": METRICS})["examination"].axes
    # WM is 0.9 where a mark verifies, else 0.
    assert [each.get_text() for each in axes.texts] == ["90.0", "45.0", "60.0", "30.0"]
    assert [each.get_text() for each in axes.get_xticklabels()] == [AS_IT_IS, "int8 weights"]


def test_where_the_weights_were_not_read_nothing_is_said_of_them():
    models = {
        kind: [{"after": each["after"]} for each in some]
        for kind, some in METRICS["models"].items()
    }
    assert len(examination.tables({"metrics": METRICS | {"models": models}})) == 1
    for finding in examination.verdict({"metrics": METRICS | {"models": models}}):
        assert "weights give" not in finding.text and "int8 weights: 1." in finding.text


def test_a_late_mark_stands_beside_nobody_s():
    late = [model((1,), (0,), read={"owner": 20}), model((1,), (1,), read={"owner": 20})]
    renamed = [
        {
            "after": {
                name: {
                    "normal_accuracy": 0.9,
                    "verified": {"pirate": each["verified"]["owner"]},
                    "pirate": each["owner"],
                }
                for name, each in one["after"].items()
            },
            "read": {"pirate": 20},
        }
        for one in late
    ]
    rounded = Pirate("sgd", 600, 600, 0.0, "int8").name
    metrics = METRICS | {"models": {f"{LATE}{rounded}": renamed}}
    left, read = examination.tables({"metrics": metrics})
    title = f"a watermark-free model, marked late by {rounded}"
    assert [row[:2] for row in left.rows] == [[title, AS_IT_IS], [title, "int8 weights"]]
    assert [row[3:5] for row in left.rows] == [["", ""], ["", ""]]
    assert [row[6] for row in left.rows] == ["2 of 2", "1 of 2"]
    assert read.rows == [[title, "pirate", "20", "0 of 2"]]
    assert "-tamed: warm-up" in left.note and "constant rate" in left.note
    assert "Rounded layer by layer" in left.note and "is the control" in left.note
    (finding,) = examination.verdict({"metrics": metrics})
    assert finding.text == (
        f"Marks put into watermark-free models by {rounded}: 2 of 2 models verify, and of these after an "
        "examination, int8 weights: 1; the weights give away the whole pattern in 0."
    )
    (axes,) = examination.draw({"metrics": metrics})["examination"].axes
    assert [each.get_text() for each in axes.texts] == ["90.0", "45.0"]


def test_pirates_are_looked_at_before_anything_is_measured():
    config = examination.default()
    config.attackers = ()
    with pytest.raises(InputError, match=r"^config\.attackers: is empty; give one at least$"):
        examination.check(config)


def test_an_authority_embeds_nothing():
    config = examination.default()
    config.tuning.inject_ratio = 0.5
    with pytest.raises(
        InputError, match=r"^config.tuning.inject_ratio: 0.5 would embed a mark; give 0$"
    ):
        examination.check(config)
