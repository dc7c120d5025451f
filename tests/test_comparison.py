"""The table of schemes, from results made by hand."""

import pytest

from nullmark_jax.reports import comparison


def owners(*values):
    return [{"metrics": {"normal_accuracy": nc, "watermark_accuracy": wm}} for nc, wm in values]


def pirates(verified, owner, accuracies, attacker="sgd"):
    return {
        "attacker": attacker,
        "pirates": [{"normal_accuracy": each} for each in accuracies],
        "verified": verified,
        "owner_verified": owner,
    }


def tuned(name, verified, models=2):
    part = {"normal_accuracy": 0.9, "owner": {"wm": 0.8}}
    return {"name": name, "verified": verified, "models": [part] * models}


def fine_tuning(*grid):
    return {"metrics": {"later": tuned("", 1), "grid": list(grid)}}


def substitute(source, images, verifies, accuracy=0.9, wm=0.1):
    model = {"verifies": verifies, "normal_accuracy": accuracy, "owner": {"wm": wm}}
    return {"source": source, "answers": "soft", "images": images, "models": [model]}


def rows_of(attacked, training=((), (), ())):
    made = comparison.table("digit", [list(each) for each in training], attacked)
    assert all(len(row) == 4 for row in (made.header, *made.rows))
    return {row[0]: list(row[1:]) for row in made.rows}


@pytest.mark.parametrize(
    ("k", "n", "text"),
    [
        # Clopper-Pearson by hand: of 0 of n the upper end is 1 - 0.025^(1/n).
        (0, 3, "0 of 3 (0 to 70.8%)"),
        (3, 3, "3 of 3 (29.2 to 100%)"),
        (0, 0, ""),
    ],
)
def test_a_count_has_its_exact_interval(k, n, text):
    assert comparison.counted(k, n) == text


def test_owners_and_what_was_not_measured():
    training = (owners((0.99, 0.95), (0.97, 0.99)), owners((0.98, 1.0)), ())
    piracy = {"metrics": {"later": pirates(1, 0, [0.5, 0.7]), "strongest": pirates(2, 2, [1, 1])}}
    rows = rows_of([{"piracy": piracy}, {}, {}], training)
    assert rows["owners"] == ["2", "1", ""]
    assert rows["NC, %"] == ["98.00 (97.00 to 99.00)", "98.00", ""]
    by_paper = rows["piracy by the later paper's attacker"]
    assert by_paper[0].startswith("sgd: pirate 1 of 2 (1.26 to 98.7%), owner 0 of 2, NC 60.00 (50")
    assert by_paper[1:] == ["not measured", "not measured"]
    # What no scheme met has no row.
    assert "recovered from students (transfer)" not in rows


def test_only_attackers_that_every_scheme_met_are_counted():
    rows = rows_of(
        [
            {"fine_tuning": fine_tuning(tuned("a", 0), tuned("b", 2), tuned("c", 2))},
            {"fine_tuning": fine_tuning(tuned("b", 1), tuned("c", 0))},
            {"fine_tuning": fine_tuning(tuned("c", 2), tuned("b", 2), tuned("d", 0))},
        ]
    )
    assert [cell[:6] for cell in rows["after other fine-tuning"]] == ["4 of 4", "1 of 4", "4 of 4"]


def test_extraction_names_the_best_substitute_of_the_common_ones():
    mine = [substitute("task", 10, False, 0.99), substitute("ood", 5, True, 0.8, 0.85)]
    theirs = [substitute("ood", 5, False, 0.7, 0.2)]
    rows = rows_of(
        [
            {
                "extraction": {
                    "metrics": {"substitutes": mine, "before": [{"normal_accuracy": 0.82}]}
                }
            },
            {
                "extraction": {
                    "metrics": {"substitutes": theirs, "before": [{"normal_accuracy": 0.9}]}
                }
            },
            {},
        ]
    )
    title = "owners verified on extracted substitutes of at most 5 points less NC"
    ours, others, none = rows[title]
    assert ours == "1 of 1 (2.5 to 100%), of all 1 of 1; the best: NC 80.00, WM 85.00"
    assert others == "none is useful, of all 0 of 1; the best: NC 70.00, WM 20.00"
    assert none == "not measured"
