"""examination.py: its pirates, and what its tables say of numbers; that it runs is test_experiments.py's."""

import numpy as np
import pytest

from nullmark_jax.attacks.pattern_recovery import right_pixels
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import examination, examination_tables
from nullmark_jax.experiments.examination_tables import AS_IT_IS, LATE, ORIGINAL
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
    # What does not verify has a null that does not show it.
    accuracies = {mark: {"null": 0.95, "wm": 0.9 * ok} for mark, ok in marks.items()}
    return {
        "normal_accuracy": 0.9 + 0.05 * owner,
        "verified": {m: bool(v) for m, v in marks.items()},
        **accuracies,
    }


def model(*examined, read, name="a"):
    """(owner, pirate) verified, as it is and rounded."""
    names = (AS_IT_IS, "int8 weights")
    return {
        "name": name,
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
        ORIGINAL: [
            model((1,), (1,), read={"owner": 20}),
            model((1,), (0,), read={"owner": 36}, name="b"),
        ],
        PIRATES: [
            model((0, 1), (0, 0), read={"owner": 18, "pirate": 36}),
            model((1, 1), (1, 1), read={"owner": 19, "pirate": 35}, name="b"),
            model((1, 0), (1, 0), read={"owner": 19, "pirate": 36}),  # never in: it says nothing
        ],
    },
}


def test_of_marks_that_verify_those_are_counted_that_withstand():
    owners, pirates = examination_tables.verdict({"metrics": METRICS})
    assert not any(each.claim or each.agrees is not None for each in (owners, pirates))
    assert owners.text == (
        "Owners' marks on their own 2 models: 2 of 2 verify; of these after an examination, int8 weights: 1 "
        "(of 1 model); all of them, one at a time: 1 (of 1 model); the weights give away the whole pattern "
        "in 1."
    )
    assert pirates.text == (
        "Marks of pirates on copies of 2 models, in 1 way: 2 of 3 verify; of these after an examination, "
        "int8 weights: 1 (of 1 model); all of them, one at a time: 1 (of 1 model); the weights give away the "
        "whole pattern in 1."
    )


def test_pirates_are_counted_together_who_prune_first_apart():
    def two(name, first, second):
        one = model((1, 1), (1, first), read={}, name=name)
        one["after"]["pruned"] = after(1, second)
        return {"name": name, "after": one["after"]}

    kinds = [
        Pirate(way, 600, 600, pruned, "").name for way in ("sgd", "adam") for pruned in (0, 0.05)
    ]
    models = {
        kinds[0]: [two("a", 1, 0), two("b", 1, 1)],
        kinds[1]: [two("a", 1, 1)],
        kinds[2]: [two("b", 0, 1)],
        kinds[3]: [two("a", 0, 0)],
    }
    plain, first = examination_tables.verdict({"metrics": METRICS | {"models": models}})
    assert plain.text == (
        "Marks of pirates on copies of 2 models, in 2 ways: 3 of 3 verify; of these after an examination, "
        "int8 weights: 2, pruned: 2 (of 1 model); all of them, one at a time: 1 (of 1 model)."
    )
    assert first.text == (
        "Marks of pirates who prune first on copies of 1 model, in 2 ways: 2 of 2 verify; of these after an "
        "examination, int8 weights: 1, pruned: 1; all of them, one at a time: 1."
    )


def test_where_no_pirate_got_in_nothing_is_said_of_examinations():
    models = {**METRICS["models"], PIRATES: METRICS["models"][PIRATES][2:]}
    _, pirates = examination_tables.verdict({"metrics": METRICS | {"models": models}})
    assert pirates.text.endswith(": 0 of 1 verify.")


def test_the_tables_have_each_mark_on_each_kind_of_model():
    left, owners, read = examination_tables.tables({"metrics": METRICS})
    copy = f"copy by {PIRATES}"
    assert list(left.header[4:]) == list(owners.header[1:]) == [AS_IT_IS, "int8 weights"]
    assert left.rows == [
        [ORIGINAL, "2", "95.00", "90.00", "90.00; 2", "45.00 (0.00 to 90.00); 1"],
        [
            copy,
            "3",
            "93.33 (90.00 to 95.00)",
            "90.00",
            "60.00 (0.00 to 90.00); 2",
            "30.00 (0.00 to 90.00); 1",
        ],
    ]
    assert owners.rows == [[copy, *2 * ["60.00 (0.00 to 90.00); 2"]]]
    assert read.rows == [
        [ORIGINAL, "20 to 36; 1 of 2", ""],
        [copy, "18 to 19; 0 of 3", "35 to 36; 2 of 3"],
    ]
    assert "adam-null-space: tamed" in left.note
    assert "above 80.00" in left.note
    assert not any(each in left.note for each in ("layer by layer", "control", "as large a share"))


def test_the_figure_has_the_mean_of_each_mark_after_each_examination():
    (axes,) = examination_tables.draw({"metrics": METRICS})["examination"].axes
    # WM is 0.9 where a mark verifies, else 0.
    assert [each.get_text() for each in axes.texts] == ["90.0", "45.0", "60.0", "30.0"]
    assert [each.get_text() for each in axes.get_xticklabels()] == [AS_IT_IS, "int8 weights"]


def test_where_the_weights_were_not_read_nothing_is_said_of_them():
    models = {
        kind: [{"name": each["name"], "after": each["after"]} for each in some]
        for kind, some in METRICS["models"].items()
    }
    assert len(examination_tables.tables({"metrics": METRICS | {"models": models}})) == 2
    for finding in examination_tables.verdict({"metrics": METRICS | {"models": models}}):
        assert (
            "weights give" not in finding.text
            and "int8 weights: 1 (of 1 model); all" in finding.text
        )


def test_a_late_mark_stands_beside_nobody_s():
    late = [model((1,), (0,), read={"owner": 20}), model((1,), (1,), read={"owner": 20})]
    renamed = [
        {
            "name": one["name"],
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
    rounded = Pirate("sgd", 600, 600, 0.05, "int8").name
    metrics = METRICS | {"models": {f"{LATE}{rounded}": renamed}}
    left, read = examination_tables.tables({"metrics": metrics})
    title = f"a watermark-free model, marked late by {rounded}"
    assert [row[:1] + row[4:] for row in left.rows] == [
        [title, "90.00; 2", "45.00 (0.00 to 90.00); 1"]
    ]
    assert read.rows == [[title, "", "20; 0 of 2"]]
    assert "-tamed: warm-up" in left.note and "constant rate" in left.note
    for each in ("Rounded layer by layer", "is the control", "as large a share first"):
        assert each in left.note
    (finding,) = examination_tables.verdict({"metrics": metrics})
    assert finding.text == (
        "Late marks on pruned copies of 1 model without a watermark, in 1 way: 2 of 2 verify; of these after "
        "an examination, int8 weights: 1; all of them, one at a time: 1; the weights give away the whole "
        "pattern in 0."
    )
    (axes,) = examination_tables.draw({"metrics": metrics})["examination"].axes
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
