"""The table of schemes, from results made by hand."""

import pytest

from nullmark_jax.reports import comparison


def owners(*values):
    return [{"metrics": {"normal_accuracy": nc, "watermark_accuracy": wm}} for nc, wm in values]


def pirates(verified, owner, accuracies, attacker="sgd"):
    return {
        "attacker": attacker,
        "pirates": [{"normal_accuracy": each, "finite": each > 0} for each in accuracies],
        "verified": verified,
        "owner_verified": owner,
    }


def tuned(name, verified, models=2):
    part = {"normal_accuracy": 0.9, "owner": {"wm": 0.8}}
    return {"name": name, "verified": verified, "models": [part] * models}


def fine_tuning(*grid):
    before = {"models": [None] * 2}
    metrics = {"attacker": "sgd 0.1", "images": 5000, "epochs": 4, "later": tuned("", 1)}
    metrics["grid"] = list(grid)
    return {"metrics": {**metrics, "before": before}}


def substitute(source, images, verifies, accuracy=0.9, wm=0.1):
    model = {"verifies": verifies, "normal_accuracy": accuracy, "owner": {"wm": wm}}
    return {"source": source, "answers": "soft", "images": images, "models": [model]}


def rows_of(attacked, training=((), (), ())):
    schemes = [
        comparison.Measured(name, *each)
        for name, each in zip("abc", zip(training, attacked, strict=True), strict=True)
    ]
    made = comparison.table("digit", schemes)
    assert made.header == ("", "a", "b", "c")
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
    parts = {"later": pirates(1, 0, [0.5, 0.7]), "strongest": pirates(1, 2, [1, 0], "adam")}
    piracy = {
        "metrics": {**parts, "grid": {"attackers": [{"victim": "a"}] * 7 + [{"victim": "b"}]}}
    }
    rows = rows_of([{"piracy": piracy}, {}, {}], training)
    assert rows["owners"] == ["2", "1", ""]
    assert rows["NC, %"] == ["98.00 (97.00 to 99.00)", "98.00", ""]
    by_paper = rows["piracy by the later paper's attacker"]
    assert by_paper[0].startswith("sgd: pirate 1 of 2 (1.26 to 98.7%), owner 0 of 2; NC 60.00 (50")
    assert rows["piracy by the attacker found whose pirates verify most"][0] == (
        "adam (of 7 tried): pirate 1 of 2 (1.26 to 98.7%), owner 2 of 2; not a number: 1 of 2 models"
    )
    assert by_paper[1:] == ["not measured", "not measured"]
    # What no scheme met has no row.
    assert "recovered from students by one draw of a last layer (transfer)" not in rows


@pytest.mark.parametrize(("strongest", "fewest", "shown"), [(1, 2, "b"), (2, 1, "a"), (1, 1, "a")])
def test_of_the_grid_s_attackers_the_one_who_got_in_more_often_is_shown(strongest, fewest, shown):
    parts = {
        "strongest": pirates(strongest, 0, [0.9, 0.9], "a"),
        "fewest": pirates(fewest, 0, [0.8, 0.8], "b"),
    }
    metrics = {**parts, "later": pirates(0, 0, [0, 0]), "grid": {"attackers": [{"victim": "x"}]}}
    rows = rows_of([{"piracy": {"metrics": metrics}}, {}, {}])
    (cell, *_) = rows["piracy by the attacker found whose pirates verify most"]
    assert cell.startswith(f"{shown} (of 1 tried): pirate {max(strongest, fewest)} of 2")


def test_only_attackers_that_every_scheme_met_are_counted():
    rows = rows_of(
        [
            {"fine_tuning": fine_tuning(tuned("a", 0), tuned("b", 2), tuned("c", 2))},
            {"fine_tuning": fine_tuning(tuned("b", 1), tuned("c", 0))},
            {"fine_tuning": fine_tuning(tuned("c", 2), tuned("b", 2), tuned("d", 0))},
        ]
    )
    assert rows["after other fine-tuning"] == ["4 of 4 (2 x 2)", "1 of 4 (2 x 2)", "4 of 4 (2 x 2)"]
    # The papers' is said as it was made, here for fewer epochs than theirs.
    made = "sgd 0.1, 5000 images, 4 epochs (theirs: 100 epochs)"
    found = f"{made}: 1 of 2 (1.26 to 98.7%), WM 80.00, NC 90.00"
    assert rows["owners verified after the papers' fine-tuning"] == [found] * 3


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
    assert ours == "1 of 1 (1 x 1); the best: NC 80.00, WM 85.00"
    assert others == "none is that good; the best: NC 70.00, WM 20.00"
    assert none == "not measured"


def test_the_other_rows_count_what_each_experiment_found():
    def rate(passed, of):
        return [
            {"threshold": 0.5, "passed": 99, "of": 99},
            {"threshold": 0.8, "passed": passed, "of": of},
        ]

    def model(lost):
        return None if lost is None else {"lost": lost}

    def change(key, verified):
        return {"order": key, "ratio": 0.5, "learning_rate": 1e-3, "verified": verified}

    pruned = {
        "acceptable_loss": 0.05,
        "before": {"models": [None] * 2},
        "highest": [
            {"attack": "neurons, ascending", "models": [model(0.01), model(0.2)]},
            {"attack": "weights, descending", "models": [model(0.05), model(None)]},
            {"attack": "int8", "models": [model(0.0), model(0.0)]},
        ],
        "fine_pruning": [change("ascending", [True, False]), change("descending", [True, True])],
        "quantised": [{"format": "int8", "verified": [True, False]}],
    }
    less = {**pruned, "fine_pruning": [change("ascending", [True, True])]}
    false_positives = [
        {"watermarked": True, "rates": rate(1, 1000)},
        {"watermarked": False, "rates": rate(0, 1000)},
    ]
    flagged = {"watermarked": True, "target": 4, "modes": {"bounded": {"flagged": [4]}}}
    free = {"watermarked": False, "target": None, "modes": {"bounded": {"flagged": [2]}}}
    no_label = {**flagged, "target": None}
    ways = [{"watermarked": {"verified": k, "models": [None]}} for k in (1, 0, 1)]
    filters = [
        {"name": "none", "models": [{"verified": True}]},
        {"name": "clip", "models": [{"verified": False}]},
        {"name": "jpeg", "models": [{"verified": True}]},
    ]
    ours = {
        "false_positives": {"metrics": {"models": false_positives}},
        "pruning": {"metrics": pruned},
        "neural_cleanse": {"metrics": {"models": [flagged, free]}},
        "transfer": {"metrics": {"ways": ways, "optimizer": "sgd at 0.01"}},
        "input_filter": {"metrics": {"filters": filters}},
    }
    theirs = {
        # The same marks on two models are no draws.
        "trigger_false_positives": {"metrics": {"models": false_positives[:1] * 2}},
        "pruning": {"metrics": less},
        "neural_cleanse": {"metrics": {"models": [no_label]}},
    }
    rows = rows_of([ours, theirs, {}])
    assert rows["others' marks that verify at the task's T"][:2] == [
        "1 marked: 1 of 1000 (0.00253 to 0.556%); 1 free: 0 of 1000 (0 to 0.368%)",
        "2 marked: 2 of 2000 (2 x 1000)",
    ]
    pruning = rows["pruning that takes the mark at NC at most 5 points lower"]
    assert pruning[0] == "neurons, ascending: 1 of 2; weights, descending: 1 of 2"
    assert rows["owners verified after fine-pruning"][:2] == ["1 of 2 (2 x 1)", "2 of 2 (2 x 1)"]
    assert rows["after rounding the weights"][0] == "int8: 1 of 2"
    assert rows["Neural Cleanse flags the owner's label"][:2] == [
        "1 of 1 (2.5 to 100%)",
        "has no one label; some label in 1 of 1",
    ]
    assert (
        rows["recovered from students by one draw of a last layer (transfer)"][0]
        == "2 of 3 (1 x 3), by sgd at 0.01"
    )
    assert rows["owners verified behind input filters"][0] == "1 of 2 (1 x 2)"
