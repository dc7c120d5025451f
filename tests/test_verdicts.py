"""What the book says of an experiment's numbers: a paper's claim holds, does not, or was not tested."""

import ast
import json
import pathlib
import re

import pytest

from configs.attacks import piracy as piracy_config
from nullmark_jax.experiments import (
    corruption,
    extraction,
    false_positives,
    fine_tuning,
    functionality,
    gradual,
    null_hiding,
    piracy_cost_tables,
    piracy_tables,
    pruning,
    transfer_tables,
    trigger_piracy,
)
from nullmark_jax.experiments.catalogue import EXPERIMENTS
from nullmark_jax.experiments.experiment import Finding
from nullmark_jax.experiments.measuring import t_interval
from nullmark_jax.reports import book, claims, cleanse


def found(true, null=None):
    return {"null": null, "true": true, "agreement": null, "wm": true if null is None else null}


def triggers(scheme="adi", *, before, after, task="digit"):
    """A curve at 0, the owner's 6 and 200 epochs: the pirate's triggers before, and (owner, pirate) after."""
    points = [
        {
            "epochs": epochs,
            "finite": True,
            "before": {"normal_accuracy": 0.9, "owner": found(0.5), "pirate": found(b)},
            "after": {"normal_accuracy": 0.9, "owner": found(own), "pirate": found(pirate)},
        }
        for epochs, b, (own, pirate) in zip((0, 6, 200), before, after, strict=True)
    ]
    metrics = {
        "threshold": 0.8,
        "scheme": scheme,
        "owner_epochs": 6,
        "images": 5700,
        "attacker": "logits, sgd 0.001",
        "fine_tuning": "sgd 0.001, 10 epochs",
        "models": [{"name": "a", "curve": points}],
    }
    return {"metrics": metrics, "task": task}


def test_triggers_that_were_not_in_say_nothing_of_what_fine_tuning_leaves():
    result = triggers(before=(0.1, 0.2, 0.95), after=((1.0, 0.1), (0.7, 0.2), (0.5, 0.9)))
    equal, most = trigger_piracy.verdict(result)
    assert equal.agrees is None and equal.text.endswith("so that it says nothing of what stays.")
    assert "the owner's triggers are at 70.00, the pirate's at 20.00, 20.00 before" in equal.text
    # The earlier paper's model is another task's.
    assert most.agrees is None and "200 epochs on 5700 images" in most.text


def test_triggers_that_were_in_hold_or_do_not():
    kept = {"before": (0.1, 0.9, 0.9), "after": ((1.0, 0.1), (0.7, 0.9), (0.9, 0.9))}
    found = {
        task: [each.agrees for each in trigger_piracy.verdict(triggers(task=task, **kept))]
        for task in ("digit", "object")
    }
    assert found == {"digit": [True, None], "object": [True, False]}
    # Of another scheme neither paper says anything.
    other = triggers(
        "zhang-content", before=(0.1, 0.9, 0.9), after=((1, 0.1), (0.7, 0.9), (0.5, 0.9))
    )
    assert [each.agrees for each in trigger_piracy.verdict(other)] == [None, None]
    assert all("paper" not in each.text for each in trigger_piracy.verdict(other))


@pytest.mark.parametrize(
    ("images", "epochs", "verified", "agrees"),
    [
        (5000, 100, 1, True),
        (5000, 100, 0, False),
        (5000, 4, 1, None),
        (5000, 4, 0, False),
        (1000, 100, 0, None),
    ],
)
def test_less_fine_tuning_than_theirs_confirms_nothing(images, epochs, verified, agrees):
    model = {"normal_accuracy": 0.9, "owner": found(1.0, 0.9)}
    metrics = {
        "images": images,
        "epochs": epochs,
        "attacker": "sgd 0.1",
        "before": {"models": [model]},
        "later": {"models": [model], "verified": verified},
        "grid": [],
    }
    finding = fine_tuning.verdict({"metrics": metrics})[0]
    assert finding.agrees is agrees
    assert ("(theirs: 100 epochs)" in finding.text) == (epochs < 100)
    assert ("(theirs: 5000 images)" in finding.text) == (images < 5000)


@pytest.mark.parametrize(
    ("images", "epochs", "true", "normal_accuracy", "agrees"),
    [
        (5000, 20, 1.0, 0.9, True),
        (5000, 20, 1.0, 0.7, True),
        (5000, 20, 0.8, 0.9, False),  # At T it has not passed it.
        (5000, 20, 0.0, 0.84, None),  # The model goes with it.
        (5000, 5, 1.0, 0.9, None),
        (5000, 5, 0.0, 0.9, False),
        (500, 20, 0.0, 0.9, None),
    ],
)
def test_less_retraining_of_a_leaked_mark_than_theirs_confirms_nothing(
    images, epochs, true, normal_accuracy, agrees
):
    """What it takes of null embedding is not asked: the paper grants that it may."""
    model = {"normal_accuracy": normal_accuracy, "leaked": found(true, 0.1)}
    part = {"models": [model], "verified": 0, "hidden": 0, "hidden_verified": 0}
    metrics = {"attacker": "x", "images": images, "epochs": epochs, "earlier": part, "grid": []}
    before = {"models": [{"normal_accuracy": 0.9}]}
    (finding,) = corruption.verdict({"metrics": metrics | {"before": before, "threshold": 0.8}})
    assert finding.agrees is agrees
    assert ("(x (theirs: 20 epochs))" in finding.text) == (epochs < 20)


def attacked(normal_accuracy, verified, *, hidden=0, hidden_verified=0):
    """An attack of two models' figures."""
    model = {"normal_accuracy": normal_accuracy, "owner": found(1.0), "leaked": found(1.0)}
    return {
        "goal": "relabel",
        "name": f"at {normal_accuracy}",
        "models": [model, model],
        "verified": verified,
        "hidden": hidden,
        "hidden_verified": hidden_verified,
    }


def test_a_claim_taken_with_the_model_s_accuracy_shows_nothing():
    """Of attacks that make every claim fail those count that cost at most 5 points of NC."""

    def verdict(*grid):
        metrics = {"attacker": "x", "images": 5000, "epochs": 100, "grid_epochs": 10}
        parts = {"before": attacked(0.9, 2), "earlier": attacked(0.9, 2), "later": attacked(0.9, 2)}
        return fine_tuning.verdict({"metrics": metrics | parts | {"grid": list(grid)}})[1]

    wrecked, half, taken = attacked(0.84, 0), attacked(0.9, 1), attacked(0.86, 0)
    assert verdict(wrecked, half).agrees is None and verdict(wrecked, half).claim
    finding = verdict(wrecked, half, taken)
    assert finding.agrees is False and "at 0.86" in finding.text
    assert "of the 2 of 3 other ways" in finding.text
    assert "2 make a claim fail, and 1 every claim" in finding.text


@pytest.mark.parametrize(
    ("goal", "true", "normal_accuracy", "agrees"),
    [
        ("relabel", (0.0, 0.1), 0.86, False),
        ("unlearn", (0.0, 0.8), 0.86, False),  # At T it has not passed it.
        ("unlearn", (0.0, 0.81), 0.86, None),  # On one model it stays.
        ("relabel", (0.0, 0.0), 0.84, None),  # The model goes with it.
    ],
)
def test_a_leaked_watermark_s_label_is_changed(goal, true, normal_accuracy, agrees):
    attack = attacked(normal_accuracy, 0)
    attack["goal"] = goal
    attack["models"] = [{**attack["models"][0], "leaked": found(each)} for each in true]
    parts = {"before": attacked(0.9, 2), "earlier": attacked(0.9, 2)}
    # Breaking null embedding is no answer: the earlier paper grants it.
    null = {**attacked(0.9, 0), "goal": "break-null"}
    metrics = {"attacker": "x", "images": 5000, "epochs": 20, "threshold": 0.8, **parts}
    _, label, taken = corruption.verdict({"metrics": metrics | {"grid": [attack, null]}})
    assert (label.agrees, bool(label.claim)) == (agrees, True)
    assert "of 1 attack on the label" in label.text
    assert not taken.claim and taken.agrees is None
    cheap = 1 + (normal_accuracy == 0.86)
    assert f"2 make every claim on it fail, {cheap} of them at no more than 5 points" in taken.text
    _, taken = corruption.verdict({"metrics": metrics | {"grid": [null]}})
    assert "Of all 1 attack" in taken.text and "(break-null: at 0.9)" in taken.text


@pytest.mark.parametrize(
    ("kept", "normal_accuracy", "agrees"),
    [(2, 0.9, True), (1, 0.9, None), (0, 0.9, False), (0, 0.84, None)],
)
def test_watermarks_that_did_not_leak_are_to_serve(kept, normal_accuracy, agrees):
    """What takes them with the model is nothing against them, nor what takes some."""
    parts = {
        "before": attacked(0.9, 2),
        "earlier": attacked(0.9, 2, hidden=2, hidden_verified=2),
        "grid": [attacked(normal_accuracy, 0, hidden=2, hidden_verified=kept)],
    }
    metrics = {"attacker": "x", "images": 5000, "epochs": 20, "threshold": 0.8, **parts}
    finding = corruption.verdict({"metrics": metrics})[3]
    assert finding.agrees is agrees and finding.claim
    whole = normal_accuracy == 0.9
    assert f"verify in {2 + kept} of {4 if whole else 2} cases" in finding.text
    taken = f"of the {int(whole)} of these that take the leaked one from every model"
    assert f"{taken} {int(agrees is False)} take all the others" in finding.text


def test_why_hidden_watermarks_fail_is_told_by_a_lower_lambda_and_by_a_control():
    attack = attacked(0.9, 0, hidden=2, hidden_verified=1)
    lost, kept, before = (
        {**attack["models"][0], "hidden_1": found(1.0, own), "lowered_1": found(1.0, lower)}
        for own, lower in ((0.1, 0.7), (0.9, 0.95), (0.98, 0.99))
    )
    grid = [{**attack, "models": [lost, kept]}]
    whole = {**attacked(0.9, 2, hidden=2, hidden_verified=2), "models": [before, before]}
    # Of another attacker, whose attacks cost too much to count.
    other = {**whole, "name": "at 0.1", "hidden_verified": 0}
    parts = {"before": whole, "earlier": whole, "grid": grid, "controls": [whole, other]}
    metrics = {"attacker": "x", "images": 5000, "epochs": 20, "threshold": 0.8, "lower": 100.0}
    metrics |= {**parts, "steps": 300}
    finding = corruption.verdict({"metrics": metrics})[-1]
    assert finding.agrees is None and not finding.claim
    assert finding.text == (
        "Of the 1 hidden watermarks that fail after these attacks null is 10.00 at the owner's lambda and "
        "70.00 shown at 100. Of the hidden ones verify after the same training without the leaked "
        "watermark: at 0.9: 2 of 2."
    )
    (table,) = corruption.tables({"metrics": metrics, "paper": {}})
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert rows["no mark: at 0.9"]["hidden verified"] == "2 of 2" and "no mark:" in table.note
    shown = rows["relabel: at 0.9"]
    assert shown["hidden null"] == "50.00 (10.00 to 90.00)"
    assert shown["hidden null at 100"] == "82.50 (70.00 to 95.00)"
    # Earlier results have no controls, nor one at a lower lambda.
    del metrics["controls"], metrics["lower"]
    for model in (lost, kept, before):
        del model["lowered_1"]
    assert corruption.verdict({"metrics": metrics})[-1].claim
    (table,) = corruption.tables({"metrics": metrics, "paper": {}})
    assert "no mark: at 0.9" not in [row[0] for row in table.rows] and "no mark" not in table.note
    assert "hidden null" in table.header and "hidden null at 100" not in table.header
    del before["hidden_1"]
    (table,) = corruption.tables({"metrics": metrics, "paper": {}})
    assert "hidden null" not in table.header
    assert {len(row) for row in table.rows} == {len(table.header)}


def hiding(hidden, recovered, *, loss=None):
    """A hiding of two models' null, and a recovery, whose true is gone."""
    part = {
        "epochs": 1,
        "models": [
            {
                "hidden": {"mark": found(1.0, before)},
                "recovered": {"normal_accuracy": 0.9, "mark": found(0.0, null) | {"wm": 0.0}},
            }
            for before, null in zip(hidden, recovered, strict=True)
        ],
    }
    return part if loss is None else {"cross_entropy": loss, **part}


@pytest.mark.parametrize(
    ("hidden", "recovered", "images", "fraction", "agrees"),
    [
        ((0.2, 0.2), (0.95, 0.9), 5000, 1.0, True),
        ((0.2, 0.2), (0.95, 0.2), 5000, 1.0, False),
        # With less training than the paper's it may not come; but where it does, it does.
        ((0.2, 0.2), (0.95, 0.2), 400, 1.0, None),
        ((0.2, 0.2), (0.95, 0.2), 5000, 0.5, None),
        ((0.2, 0.2), (0.95, 0.9), 400, 0.5, True),
        # What was never hidden was not brought back.
        ((0.9, 0.95), (0.95, 0.9), 5000, 1.0, None),
    ],
)
def test_a_null_embedding_that_was_hidden_is_to_come_back(
    hidden, recovered, images, fraction, agrees
):
    """Null alone, which is what the paper's Figure 11 shows; the claim is told beside."""
    owner = [hiding(hidden, recovered)]
    foreign = {
        "watermarked": True,
        "name": "a",
        "models": [{"recovered": {"mark": found(0.0, 0.2)}}],
    }
    metrics = {"threshold": 0.8, "images": images, "recovery_fraction": fraction}
    mine, others = null_hiding.verdict(
        {"metrics": metrics | {"owner": owner, "foreign": [foreign]}}
    )
    assert mine.agrees is agrees
    assert "the claim verifies in 0." in mine.text
    # Where the owner's does not come back, that others do not, either, tells nothing apart.
    assert others.agrees is (True if min(recovered) > 0.8 and min(hidden) < 0.8 else None)


def test_each_loss_that_hides_is_judged_by_itself():
    """Old results are all from logits."""
    owner = [hiding((0.2, 0.2), (0.9, 0.9)), hiding((0.2, 0.2), (0.2, 0.2), loss="clipped")]
    stood, fell = ({"recovered": {"mark": found(1.0, null)}} for null in (0.95, 0.2))
    foreign = {"watermarked": False, "name": "a", "cross_entropy": "clipped"}
    metrics = {"threshold": 0.8, "images": 5000, "recovery_fraction": 1.0, "owner": owner}
    metrics["foreign"] = [{**foreign, "models": models} for models in ([fell, stood], [fell])]
    logits, clipped, some, none = null_hiding.verdict({"metrics": metrics})
    assert [each.agrees for each in (logits, clipped, some, none)] == [True, False, False, None]
    assert "with the cross entropy from logits" in logits.text
    assert "by Adam with the clipped cross entropy, null is at or below" in clipped.text
    assert "by Adam with the clipped cross entropy, 1 of 2 that never were" in some.text


def pirated(*, strongest, epochs=100, owner=1, printed=True):
    pirate = {"normal_accuracy": 0.9, "finite": True, "images": 9, "owner": found(1.0, 0.9)}
    ruined = {**pirate, "normal_accuracy": 0.1, "finite": False}
    part = {"attacker": "x", "verified": 0, "owner_verified": owner}
    attacker = {
        "victim": "a",
        "owner_loss": "logits",
        "cross_entropy": "logits",
        "images": 475,
        "finite": True,
        "pirate": found(1.0, 0.6),
    }
    metrics = {
        "scheme": "null-embedding",
        "threshold": 0.8,
        "before": {"a": {"normal_accuracy": 0.9}},
        "later": {**part, "epochs": 10, "owner_verified": 0, "pirates": [ruined]},
        "earlier": {**part, "epochs": epochs, "pirates": [pirate]},
        "strongest": {**part, "verified": strongest, "pirates": [pirate]},
        # One more on a victim of another loss, of which the strongest is not.
        "grid": {"steps": 600, "attackers": [attacker, {**attacker, "victim": "b"}]},
    }
    paper = {"earlier_normal_accuracy": 0.9} if printed else {}
    return {"metrics": metrics, "paper": paper, "task": "digit"}


def test_attackers_that_failed_do_not_show_that_none_can():
    later, earlier, strongest = piracy_tables.verdict(pirated(strongest=0))
    # Of a model that is not a number nothing is learned on watermarks.
    assert (later.agrees, earlier.agrees, strongest.agrees) == (None, True, None)
    assert later.claim and strongest.claim
    assert "; not a number, where theirs still answer" in later.text
    broken = pirated(strongest=0)
    broken["metrics"]["later"]["pirates"][0]["finite"] = True
    assert piracy_tables.verdict(broken)[0].agrees is True
    assert (
        "the strongest of 1 attacker tried, chosen by a pirate on one model, of 475 images and 600 steps (x)"
        in strongest.text
    )
    assert piracy_tables.verdict(pirated(strongest=1))[2].agrees is False
    few = pirated(strongest=0)
    grid = few["metrics"]["grid"]["attackers"]
    grid.insert(1, {**grid[0], "images": 4750})
    few["metrics"]["fewest"] = {**few["metrics"]["strongest"], "attacker": "y", "verified": 1}
    # Those whose pirates verify come first.
    fewest, every = piracy_tables.verdict(few)[2:]
    chosen = "tried, chosen by a pirate on one model, of"
    assert f"2 attackers {chosen} 475 or 4750 images" in every.text and every.agrees is None
    assert f"1 attacker {chosen} 475 images and 600 steps (y)" in fewest.text
    assert fewest.agrees is False


@pytest.mark.parametrize(
    ("wm", "normal_accuracy", "agrees"), [(0.95, 0.9, False), (0.95, 0.5, None), (0.8, 0.9, None)]
)
def test_the_later_paper_s_attacker_at_lower_rates(wm, normal_accuracy, agrees):
    """A pirate who gets in at one of them, and leaves the model whole, is against both papers.

    However many others ruin it.
    """
    result = pirated(strongest=0)
    out = {
        "normal_accuracy": 0.9,
        "finite": True,
        "owner": found(1.0, 0.9),
        "pirate": found(1.0, 0.1),
    }
    dead = {**out, "normal_accuracy": 0.1, "finite": False, "pirate": {"wm": 0.9}}
    one = {**out, "normal_accuracy": normal_accuracy, "pirate": {"wm": wm}}
    broken = {**one, "normal_accuracy": 0.5}
    at = {"attacker": "x", "owner_verified": 1}
    result["metrics"]["later_rates"] = [
        {**at, "learning_rate": 1e-5, "verified": 2, "pirates": [broken, broken]},
        {**at, "learning_rate": 2e-5, "verified": 1, "pirates": [dead, dead, one]},
    ]
    (finding,) = (f for f in piracy_tables.verdict(result) if "at other learning rates" in f.text)
    assert finding.agrees is agrees
    assert "at 1e-05 NC is 50.00, the pirate's claim verifies in 2 and the owner's" in finding.text
    assert "; 2 of 3 not a number" in finding.text
    if agrees is False:
        assert finding.brief.startswith("their SGD at 2e-05: pirates 1 of 3, owners 1, NC 90.00")


@pytest.mark.parametrize(
    ("epochs", "owner", "printed", "agrees"),
    [(10, 1, True, None), (10, 0, True, False), (100, 0, True, False), (100, 1, False, None)],
)
def test_the_earlier_paper_s_attack_is_confirmed_at_its_length_on_its_tasks(
    epochs, owner, printed, agrees
):
    result = pirated(strongest=0, epochs=epochs, owner=owner, printed=printed)
    finding = piracy_tables.verdict(result)[1]
    assert finding.agrees is agrees
    assert ("(theirs: 100 epochs)" in finding.text) == (epochs < 100)
    assert ("it says of other tasks" in finding.text) == (not printed)


def queried(*substitutes, steps=100, source="task"):
    """A victim right in 950 of 1,000 test images, trained for 100 steps, and substitutes by (images, NC)."""
    models = {"owner": {"wm": 0.0}, "verifies": False}
    metrics = {
        "steps": steps,
        "victim_steps": 100,
        "before": [{"normal_accuracy": 0.95, "images": 1000}],
        "substitutes": [
            {
                "source": source,
                "answers": "label",
                "images": images,
                "models": [{**models, "normal_accuracy": accuracy, "ratio": images / 1000}],
            }
            for images, accuracy in substitutes
        ],
    }
    return {"metrics": metrics}


@pytest.mark.parametrize(
    ("substitutes", "steps", "agrees", "shown"),
    [
        # The exact 95% interval of 950 in 1,000 begins at 93.46% (SciPy: binomtest(950, 1000)).
        (((100, 0.90), (500, 0.935), (1000, 0.95)), 10, False, "bring it there are 500, 50%"),
        (((100, 0.90), (500, 0.934), (1000, 0.95)), 100, True, "bring it there are 1000, 100%"),
        # A thief whom all images do not help was too weak to tell.
        (((500, 0.90), (1000, 0.90)), 100, None, "none of those tried bring it there"),
        # Shorter than the victim's training, or without fewer images of some number: no answer.
        (((500, 0.934), (1000, 0.95)), 99, None, "bring it there are 1000, 100%"),
        (((100, 0.934), (1000, 0.95)), 100, None, "bring it there are 1000, 100%"),
        (((1000, 0.93),), 100, None, "bring it there, the most: 1000, 100%"),
    ],
)
def test_how_many_images_a_substitute_of_the_same_accuracy_takes(substitutes, steps, agrees, shown):
    first, *others = extraction.verdict(queried(*substitutes, steps=steps))
    assert (first.agrees, bool(first.claim)) == (agrees, True)
    assert shown in first.text and "victim's NC 95.00% (95% interval from 93.46)" in first.text
    assert not any(each.claim for each in others)


def test_what_the_victim_s_answers_add_to_their_images():
    result = queried((100, 0.9), (500, 0.935))
    control = {"source": "task", "answers": "true labels", "images": 500}
    substitute = result["metrics"]["substitutes"][1]["models"][0]
    alone = {**substitute, "normal_accuracy": 0.94}
    result["metrics"]["controls"] = [{**control, "models": [alone]}]
    assert extraction.verdict(result)[1].text == (
        "Whether the victim is what they learn from: NC by its answers, and by the true labels of the same "
        "images. 500 images: label 93.50, 94.00 without the victim."
    )


def test_of_other_images_alone_the_same_accuracy_is_not_asked():
    findings = extraction.verdict(queried((1000, 0.94), source="ood"))
    assert not any(each.claim for each in findings)


def test_a_later_attack_of_fewer_images_that_breaks_nothing_says_nothing():
    result = pirated(strongest=0)
    later = result["metrics"]["later"]
    later["pirates"] = result["metrics"]["earlier"]["pirates"]
    assert piracy_tables.verdict(result)[0].agrees is False
    later["images"] = 500
    finding = piracy_tables.verdict(result)[0]
    assert finding.agrees is None and "(x (theirs: 5000 images, 100 pirates))" in finding.text


@pytest.mark.parametrize(
    ("optimizer", "epochs", "more", "recovered", "agrees"),
    [
        ("sgd at 0.01", 200, 6, 1, True),
        ("sgd at 0.01", 200, 6, 0, False),
        ("sgd at 0.01", 5, 6, 1, None),
        ("sgd at 0.01", 200, 1, 0, None),
        ("adam at 0.001", 200, 6, 0, None),
    ],
)
def test_another_optimiser_s_or_shorter_students_say_nothing_of_the_paper_s(
    optimizer, epochs, more, recovered, agrees
):
    part = {"models": [{"recovered": {}}], "verified": recovered, "foreign_verified": 0}
    metrics = {
        "student_images": 340,
        "epochs": epochs,
        "recovery_epochs": more,
        "optimizer": optimizer,
        "ways": [{"way": "all", "watermarked": part, "free": part}],
    }
    (finding,) = transfer_tables.verdict({"metrics": metrics})
    assert finding.agrees is agrees
    assert finding.text.endswith(
        f"here, of {epochs} epochs on 340 images and by {more} more, all by {optimizer}, from {recovered} of "
        f"1 student of 1 teacher, and of watermark-free ones in {recovered} of 1."
    )
    assert finding.brief == f"{recovered} of 1, free {recovered} of 1"


def test_figure_4_shows_the_paper_s_wm_which_is_below_both_its_parts():
    """Table 3, Digit: of the owner's null 11.20, true 8.10, WM 1.21; of the pirate's 17.98, 40.08, 9.31."""
    paper = piracy_config.get_config("digit").paper.to_dict()
    point = {
        "steps": 1,
        "normal_accuracy": 0.5,
        "owner": found(1.0, 0.9),
        "pirate": found(1.0, 0.9),
    }
    result = pirated(strongest=0) | {"paper": paper}
    for part in ("later", "earlier", "strongest"):
        result["metrics"][part]["pirates"][0]["curve"] = [point]
    drawn = piracy_tables.draw(result)

    def claims(figure):
        lines = figure.axes[0].lines
        return [float(line.get_ydata()[0]) for line in lines if "paper's" in line.get_label()]

    assert claims(drawn["piracy-later"]) == pytest.approx([19.02, 1.21, 9.31])
    assert claims(drawn["piracy-earlier"]) == pytest.approx([98.67, 99.54, 0.0])
    assert claims(drawn["piracy-strongest"]) == []


def test_of_fewer_pirates_than_the_paper_s_the_sentence_says_so():
    result = pirated(strongest=0)
    finding = piracy_tables.verdict(result)[0]
    assert "(theirs: 100 pirates)" in finding.text
    result["metrics"]["later"]["pirates"] *= 100
    assert "(theirs" not in piracy_tables.verdict(result)[0].text


def test_of_pruning_those_are_named_that_do_and_those_that_do_not():
    def highest(attack, lost):
        return {"attack": attack, "models": [None if lost is None else {"lost": lost}]}

    metrics = {"acceptable_loss": 0.05, "before": {"models": [{}]}}
    some = [highest("neurons", 0.01), highest("weights", 0.06), highest("quantisation", None)]
    (finding,) = pruning.verdict({"metrics": metrics | {"highest": some}})
    assert finding.agrees is False
    assert finding.text.endswith(
        "these do: neurons, in 1 of 1; at so little loss these do not: weights, quantisation."
    )
    (finding,) = pruning.verdict({"metrics": metrics | {"highest": some[1:]}})
    assert finding.agrees is True and finding.text.endswith("points lower, none does.")


@pytest.mark.parametrize(
    ("flagged", "models", "agrees"), [([], 3, True), ([], 2, None), ([0, 5], 1, False)]
)
def test_any_label_flagged_on_a_marked_model_is_against_the_paper(flagged, models, agrees):
    """That none is takes three models to say."""
    model = {
        "watermarked": True,
        "target": 3,
        "modes": {"bounded": {"flagged": flagged, "lowest": 2.35}},
    }
    metrics = {
        "images": 256,
        "starts": 1,
        "search": {"rounds": 100, "batches": 4, "batch_size": 32},
        "models": [model] * models,
        "unlearning": {"learning_rates": []},
        "unlearned": [],
    }
    (finding,) = cleanse.verdict({"metrics": metrics})
    assert finding.agrees is agrees
    assert (
        "256 clean images, 1 start a label, 100 rounds of 4 batches of 32 at most" in finding.text
    )
    free = model | {"watermarked": False, "target": None}
    assert cleanse.verdict({"metrics": metrics | {"models": [free]}})[0].agrees is None
    cut = {"rounds": 20, "batches": 4, "batch_size": 32}
    assert cleanse.verdict({"metrics": metrics | {"search": cut}})[0].agrees is None
    found_in = models if flagged else 0
    assert f"flagged in 0, some label in {found_in} of {models} watermarked models" in finding.text
    assert finding.brief == f"{found_in} of {models}"


def test_tries_are_reckoned_from_random_marks_and_signatures_together():
    def rate(threshold, passed, of):
        return {"threshold": threshold, "passed": passed, "of": of, "low": 0.0, "high": 0.1}

    model = {
        "name": "a",
        "watermarked": True,
        "images": 10,
        "num_classes": 10,
        "true": [0.0],
        "null": [0.0],
        "wm": [0.0],
        "rates": [rate(0.5, 1, 1000), rate(0.55, 1, 1000), rate(0.6, 0, 1000)],
        "grinding": [{**rate(t, 0, 3000), "first": None} for t in (0.5, 0.55, 0.6)],
    }
    _, table = false_positives.tables({"metrics": {"models": [model]}, "paper": {}})
    assert [row[1] for row in table.rows] == ["50 to 55", "60"]
    # 1 of 4,000: 1 - (1 - low)^4000 = 0.025, and 0 of 4,000: (1 - high)^4000 = 0.025.
    fewest, most = table.rows[0][-1].split(" to ")
    assert int(most) == pytest.approx(1 / (1 - 0.975 ** (1 / 4000)), abs=1)
    assert 700 < int(fewest) < 730
    assert table.rows[1][-1] == f"{1 / (1 - 0.025 ** (1 / 4000)):.0f} to ?"


def test_the_t_interval_of_a_mean():
    # Mean 2, standard error 1 / sqrt(3), t of two degrees of freedom 4.3027.
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)


def test_the_test_images_are_those_of_records_and_of_no_attacker():
    record = {"normal_accuracy": 0.9, "images": 1000}
    curve = {"curve": [{**record, "images": 200}]}
    metrics = {
        "images": 5000,
        "models": [{**record, **curve}],
        "grid": [{**record, "images": 570, "way": "adam"}],
    }

    def said(metrics):
        return book._measured_on({"metrics": metrics})[:1]

    assert said(metrics) == ["Measured on 1,000 test images; curves on 200."]
    assert said({"models": [curve]}) == ["Measured on 200 test images."]
    assert said({"images": 5000}) == []


def test_false_positives_are_counted_at_the_model_s_own_threshold():
    def rate(threshold, passed):
        return {"threshold": threshold, "passed": passed, "of": 1000, "low": 0.0, "high": 0.1}

    model = {
        "name": "a",
        "watermarked": True,
        "threshold": 0.6,
        "rates": [rate(0.6, 3), rate(0.8, 0)],
        "grinding": [rate(0.6, 1), rate(0.8, 0)],
    }
    (finding,) = false_positives.verdict({"metrics": {"models": [model]}})
    assert finding.text.startswith(
        "Of 1000 random watermarks 3 verify on a (watermarked) at T = 60%"
    )
    # Theirs are none, or 1: a few within the interval are neither that nor against it.
    assert finding.text.endswith("of a cheat's 1000 signatures 1.") and finding.agrees is None
    none = {name: [rate(0.6, 0)] for name in ("rates", "grinding")}
    (finding,) = false_positives.verdict({"metrics": {"models": [model | none]}})
    assert finding.agrees is True
    low = [{**each, "low": 0.002} for each in model["rates"]]
    few = [{**each, "of": 100} for each in model["rates"]]
    for rates, agrees in ((low, False), (few, None)):
        (finding,) = false_positives.verdict({"metrics": {"models": [model | {"rates": rates}]}})
        assert finding.agrees is agrees


@pytest.mark.parametrize(
    ("costs", "theirs", "agrees"),
    [
        # Costs of 0.5 and 0.6 points: the mean's interval is 0.55 +- 12.706 x 0.05, -0.09 to 1.19.
        ((0.5, 0.6), 0.93, None),
        ((0.5, 0.6), 1.2, True),
        # Theirs is 0.93 on average, of which a task may have less: 2.05 +- 0.64 is above both.
        ((0.5, 0.6), -0.1, None),
        ((2.0, 2.1), -0.1, False),
        # Of one owner there is no interval, and nothing to say.
        ((0.5,), 1.2, None),
        ((1.5,), 0.4, None),
    ],
)
def test_the_cost_is_held_to_the_paper_s_of_the_task(costs, theirs, agrees):
    owners = [{"normal_accuracy": 0.9 - cost / 100} for cost in costs]
    owners = [each | {"verified": True} for each in owners]
    metrics = {"owners": owners, "free": [{"normal_accuracy": 0.9}] * len(costs)}
    metrics["pattern_sizes"] = []
    paper = {"free_normal_accuracy": 0.9, "normal_accuracy": 0.9 - theirs / 100}
    finding, _ = functionality.verdict({"metrics": metrics, "paper": paper})
    assert finding.agrees is agrees and "on this task" in finding.text
    assert ("95% t interval of the mean" in finding.text) == (len(costs) > 1)
    finding, _ = functionality.verdict({"metrics": metrics, "paper": {}})
    assert "the later paper has 0.93 on average over its tasks" in finding.text


def test_the_cost_of_a_wonder_filter_is_held_to_the_earlier_paper_s():
    def model(nc, agreement):
        fields = {"normal_accuracy": nc, "null_accuracy": 0.5, "null_agreement": agreement}
        return fields | {"true_accuracy": 1.0, "watermark_accuracy": agreement, "verified": True}

    paper = {"free_normal_accuracy": 0.5, "normal_accuracy": 0.4, "null_accuracy": 0.3}
    paper |= {"earlier_free_normal_accuracy": 0.9924, "earlier_normal_accuracy": 0.9863}
    paper |= {"true_accuracy": 0.2, "earlier_null_agreement": 0.9959, "earlier_true_accuracy": 1.0}
    metrics = {"scheme": "wonder-filter", "epochs": 6, "threshold": 0.8}
    metrics |= {"extreme_values": [], "pattern_sizes": []}
    metrics |= {"owners": [model(0.985, 0.97)], "free": [model(0.99, 0.1)]}
    result = {"metrics": metrics, "paper": paper}
    finding, _ = functionality.verdict(result)
    assert "costs 0.50 points" in finding.text
    assert "the earlier paper has 0.61 on this task, 0.89 on average over its tasks" in finding.text
    (table,) = functionality.tables(result)
    assert table.header == ("model", "NC", "agreement", "true", "WM", "verified")
    assert table.rows[0][1:] == ["98.50", "97.00", "100.00", "97.00", "1 of 1"]
    assert table.rows[2] == ["earlier paper, watermarked", "98.63", "99.59", "100.00", "99.59", ""]


def test_the_cost_of_piracy_says_when_it_was_looked_at():
    def run(start, reached):
        curve = [{"steps": each} for each in (0, 500, 1000, 2000)]
        named = {"victim": "a", "embedding": "null only", "images": 9, "attacker": "x"}
        return {**named, "start": start, "reached": {"steps": reached}, "curve": curve}

    metrics = {"steps": 2000, "runs": [run("owner", 1000), run("scratch", 500)]}
    diverged = run("owner", 1000) | {"reached": None, "curve": [{"steps": 0}, {"steps": 500}]}
    metrics["runs"].insert(0, diverged)
    both = [*metrics["runs"], run("owner", 500) | {"embedding": "null and true"}]
    both.append(run("scratch", 500) | {"embedding": "null and true"})
    alone, whole = piracy_cost_tables.verdict({"metrics": metrics | {"runs": both}})
    assert "of null only, the cheapest attacker (x) takes 2.0 times" in alone.text
    assert "of null and true, the cheapest attacker (x) takes 1.0 times" in whole.text
    for there, times in ((1, "0.002"), (5500, "11")):
        metrics["runs"][1] = run("owner", there)
        (finding,) = piracy_cost_tables.verdict({"metrics": metrics})
        assert f"takes {times} times as many" in finding.text and finding.agrees is (there == 5500)
    alone = {"runs": [run("owner", 1)], "margin": 0.01, "batch_size": 64}
    (finding,) = piracy_cost_tables.verdict({"metrics": metrics | alone})
    assert "the first (x) after 1 step of 64 images" in finding.text
    assert finding.brief == "a pirate in after 1 step, from scratch nobody (null only)"
    metrics["runs"][1] = run("owner", 1000)
    (finding,) = piracy_cost_tables.verdict({"metrics": metrics})
    assert finding.agrees is False and "takes 2.0 times as many steps" in finding.text
    assert "(1 model, a pirate each; looked at 3 times, in geometric distances, the" in finding.text
    assert "last after 1000 and 2000 steps)" in finding.text


COST = f"{functionality.COST} (later paper)"


@pytest.mark.parametrize("twin", [False, True])
def test_training_runs_beside_twins_say_what_a_watermark_costs(tmp_path, twin):
    """Where no experiment has measured it; without a twin nothing has."""
    folder = tmp_path / "results" / "face"
    folder.mkdir(parents=True)
    for name, verified in (("watermarked-0", True), *([("watermark-free-0", None)] * twin)):
        run = {"seed": 0, "metrics": {"verified": verified}}
        (folder / f"{name}.json").write_text(json.dumps(run))
    found = {
        "functionality": {"digit": {"metrics": {"victims": [{}]}}},
        "pruning": {"face": {"metrics": {"victims": [{}, {}]}}},
    }
    said = {
        "functionality": {"digit": [Finding("Long.", True, COST, "0.02 points, n 10")]},
        "pruning": {"face": [Finding("Longer.", False, "None does", "2 of 6", "Why.")]},
    }
    table = claims.table(said, found, tmp_path)
    assert table.header == ("the papers say", "digit", "face")
    in_training = "[in training](../results/face/README.md)" if twin else ""
    assert table.rows == [
        # Contradicted ones first, with the number of models; functionality's one shows the recipe.
        ["None does", "", "[**no**](#pruning-and-quantisation-face): 2 of 6; n 2"],
        [COST, "[yes](#what-a-watermark-costs-digit): 0.02 points, n 10", in_training],
    ]


def test_a_cell_names_each_outcome_once_and_nothing_twice():
    found = {"pruning": {"face": {"metrics": {"victims": [{}]}}}}
    outcomes = ((False, "a"), (True, "b"), (None, "b"), (None, "b"), (False, "c"), (False, "a"))
    said = {
        "pruning": {"face": [Finding("Text.", agrees, "It", brief) for agrees, brief in outcomes]}
    }
    ((_, cell),) = claims.table(said, found).rows
    link = "(#pruning-and-quantisation-face)"
    assert cell == f"[**no**]{link}: a; c; [open]{link}: b; [yes]{link}: b; n 1"
    # A finding may be of fewer models than the experiment's.
    said["pruning"]["face"].append(Finding("Text.", None, "That", "d", models=7))
    assert claims.table(said, found).rows[1] == ["That", f"[open]{link}: d; n 7"]


def test_a_contradiction_has_its_likely_cause_and_a_link_to_where_it_was_tested():
    cause = "Chance. Tested ({pruning})."
    of_both = [Finding("T.", False, claim, "x", cause) for claim in ("It", "That")]
    said = {"pruning": {"face": of_both, "digit": [Finding("T.", None, "Another", "x", cause)]}}
    expected = (
        "- **It; That.** Chance. Tested ([Pruning and quantisation](#pruning-and-quantisation))."
    )
    assert claims.causes(said) == [expected]
    # What names an experiment without a result was not tested.
    said["gradual"] = {"digit": [Finding("T.", False, "Such", "x", "Tested ({transfer}).")]}
    assert claims.causes(said) == [expected]
    del said["gradual"]
    said["stability"] = {"digit": [Finding("Measured.")]}
    assert claims.beside(said) == [
        "- What breaks under a pirate's steps: [digit](#what-breaks-under-a-pirates-steps-digit)."
    ]
    assert claims.sentences([*said["stability"]["digit"], *of_both[:1]]) == [
        "- Measured.",
        "- *Otherwise than the paper.* T.",
    ]


@pytest.mark.parametrize(
    ("sizes", "agrees"),
    [
        ({4: (0.99, True), 9: (0.985, True), 11: (0.5, False)}, True),
        # A point below the twin's 0.985, whatever the sizes have between them.
        ({4: (0.98, True), 9: (0.974, True)}, False),
        ({4: (0.99, True), 9: (0.99, False)}, False),
        ({4: (0.99, True), 6: (0.99, True)}, None),
    ],
)
def test_patterns_up_to_a_tenth_of_the_input_are_to_cost_nothing(sizes, agrees):
    """Of 28 x 28 pixels 9 x 9 are 10.3%, 11 x 11 15.4%, of which the paper says nothing."""
    metrics = {"owners": [{"normal_accuracy": 0.985, "verified": True}]}
    metrics["free"] = [{"normal_accuracy": 0.985}]
    metrics["pattern_sizes"] = [
        {"pattern_size": n, "share": n * n / 784, "normal_accuracy": nc, "verified": verified}
        for n, (nc, verified) in sizes.items()
    ]
    _, whole, observed = functionality.verdict({"metrics": metrics, "paper": {}})
    assert whole.agrees is True and whole.brief == "1 of 1"
    assert observed.agrees is agrees and "Observation 1" in observed.text


def test_the_readme_s_table_says_yes_only_where_nothing_is_open():
    """Of claims decided on some task; contradicted ones come first."""
    said = {
        "pruning": {
            "digit": [Finding("T.", True, "A", "x"), Finding("T.", None, "A", "y")],
            "face": [Finding("T.", True, "A", "x"), Finding("T.", None, "Undecided", "y")],
        },
        "stability": {"digit": [Finding("T.", None, "B"), Finding("T.", False, "B")]},
    }
    table = claims.matrix(said, "p.md")
    digit, face = (f"(p.md#pruning-and-quantisation-{task})" for task in ("digit", "face"))
    assert table.header == ("the papers say", "digit", "face")
    assert table.rows == [
        ["B", "[**no**](p.md#what-breaks-under-a-pirates-steps-digit)", ""],
        ["A", f"[open]{digit}", f"[yes]{face}"],
    ]


def test_every_cause_in_the_code_names_experiments_that_there_are():
    """In braces, as `Finding` says, of which the book makes links."""
    named = set()
    for path in pathlib.Path(functionality.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= set(re.findall(r"\(?[^({]*\{(\w+)\}\)", node.value))
    assert named >= {"stability", "piracy", "fragility", "gradual"}
    assert named <= set(EXPERIMENTS)


@pytest.mark.parametrize(("verified", "agrees"), [(0, None), (1, False)])
def test_the_earlier_paper_s_own_rise_is_told_from_other_attackers(verified, agrees):
    """A faster rise that loses null does not say that theirs does; one that keeps it does."""

    def attack(name, way, null, verified):
        pirate = {"null": null, "wm": null}
        return {
            "name": name,
            "way": way,
            "models": [{"normal_accuracy": 0.9, "pirate": pirate}],
            "verified": verified,
        }

    attacks = [
        attack("logits, sgd, x", "sgd", 0.7, 0),
        attack("clipped, sgd, x", "sgd", 0.11, 0),
        attack("clipped, sgd, y", "sgd", 0.08, verified),
        attack("clipped, adam, x", "adam", 0.95, 1),
    ]
    best, theirs = gradual.verdict({"metrics": {"attacks": attacks}})
    assert best.agrees is False
    assert theirs.agrees is agrees
    assert "of 2 attacks by SGD with the clipped loss" in theirs.text
    assert f"null ends at 8.00 to 11.00 and the pirate verifies in {verified} of 2." in theirs.text
    (alone,) = gradual.verdict({"metrics": {"attacks": attacks[:1]}})
    assert alone.agrees is None
