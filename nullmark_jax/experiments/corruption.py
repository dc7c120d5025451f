"""Corruption: a watermark has leaked, and an attacker trains against it.

    python -m nullmark_jax.experiments.corruption --config=configs/attacks/corruption.py:TASK \\
        --victim=RUN [--victim=RUN ...] --workdir=OUT

Earlier paper, Table VIII (another target label, 20 epochs); later paper, section 6.3 (of several
watermarks one leaks; are the others verified afterwards?). Then other goals, losses and optimisers, and
beside each the same training without the leaked watermark, as a control.
"""

import sys
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from matplotlib.figure import Figure

from nullmark_jax import checks
from nullmark_jax.attacks import retraining
from nullmark_jax.attacks.corruption import GOALS, corruption
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import attackers, experiment
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import (
    ACCEPTABLE,
    Record,
    check_images,
    gentlest,
    mean_and_spread,
    near,
    of_numbers,
    passes,
)
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.marks import at_extreme_value
from nullmark_jax.reports import curves
from nullmark_jax.reports.table import Table, beside_papers, many, percent

# What config.paper holds of Table VIII.
PRINTED = ("normal_accuracy", "true_accuracy", "null_agreement")
_PAPERS_EPOCHS = 20  # Of its attack.
# Those of `GOALS` that are to change what true copies are taken for.
_OF_THE_LABEL = ("relabel", "unlearn")
# At which hidden watermarks are shown as well: is what fails at the owner's lambda unlearned, or enlarged?
_LOWER = 100.0


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    config.earlier = attackers.paper_fields()
    config.earlier.cross_entropy = "clipped"
    config.earlier.epochs = _PAPERS_EPOCHS
    config.goals = GOALS
    # The other label is (y_W + shift) mod Y.
    config.shift = 1
    config.grid = attackers.grid_fields()
    # Fewer ways and rates than piracy's: each is trained for three goals and without the mark. Within these
    # the marks of Digit's recipe are lost.
    config.grid.ways = ("sgd", "adam-tamed")
    config.grid.learning_rates = (1e-3, 1e-4)
    config.grid.fractions = ()
    config.grid.images = (600,)
    config.grid.steps = 300
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    attackers.check_paper("config.earlier", config.earlier)
    attackers.check_grid("config.grid", config.grid)
    checks.integer("config.shift", config.shift, 1, 10**6)
    for goal in config.goals:
        if goal not in GOALS:
            raise InputError(
                f"config.goals: {checks.shown(goal)} is none; take some of {', '.join(GOALS)}"
            )


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: before, and after each attack on each model's watermark 0."""
    grid = attackers.grid(config.grid, len(victims[0].splits.train))
    classes = victims[0].config.data.num_classes
    if config.shift % classes == 0:
        raise InputError(
            f"config.shift: {config.shift} gives the same label again, of {classes}; give say 1"
        )
    planned: dict[str, Callable[[], Record]] = {}
    for victim in victims:
        check_images(victim, config.earlier.images, *(each.images for each in grid))
        bench = Bench(victim, config.test_images)
        planned[f"before/{victim.name}"] = _before(bench)
        steps = retraining.steps_of(
            config.earlier.epochs,
            images=config.earlier.images,
            batch_size=config.earlier.batch_size,
        )
        adversary = attackers.paper_adversary(config.earlier, steps)
        planned[f"earlier/{victim.name}"] = _corrupted(
            bench, "relabel", adversary, config, images=config.earlier.images
        )
        for attacker in grid:
            adversary = attacker.adversary(
                steps=config.grid.steps, batch_size=config.grid.batch_size
            )
            if not adversary.null_space:  # A mark's: without one it would be another training.
                planned[f"control: {attacker.name}/{victim.name}"] = _control(
                    bench, adversary, config, images=attacker.images
                )
            for goal in config.goals:
                planned[f"{goal}: {attacker.name}/{victim.name}"] = _corrupted(
                    bench, goal, adversary, config, images=attacker.images
                )
    records = dict(journal.run(planned))
    first = victims[0]

    def part(prefix: str) -> Metrics:
        found = [record for name, record in records.items() if name.startswith(prefix)]
        hidden = _hidden(found)
        return {
            "models": found,
            "verified": sum(passes(record["leaked"], first) for record in found),
            "hidden": len(hidden),
            "hidden_verified": sum(passes(each, first) for each in hidden),
        }

    return {
        "threshold": first.config.watermark.threshold,
        "attacker": attackers.describe(config.earlier),
        "epochs": config.earlier.epochs,
        "images": config.earlier.images,
        "steps": config.grid.steps,
        "before": part("before/"),
        "earlier": part("earlier/"),
        "lower": _LOWER,
        "controls": [
            {"name": attacker.name, **part(f"control: {attacker.name}/")}
            for attacker in grid
            if f"control: {attacker.name}/{first.name}" in planned
        ],
        "grid": [
            {"goal": goal, "name": attacker.name, **part(f"{goal}: {attacker.name}/")}
            for goal in config.goals
            for attacker in grid
        ],
    }


def _hidden(models: list[Record], prefix: str = "hidden_") -> list[Record]:
    """Returns what was measured of each hidden watermark of each model; as "lowered_" at `_LOWER`."""
    return [mark for model in models for name, mark in model.items() if name.startswith(prefix)]


def _marks(bench: Bench) -> dict[str, Watermark]:
    """Returns the owner's watermarks: the first has leaked, the others have not."""
    each = [
        jax.tree.map(lambda leaf, i=index: np.asarray(leaf)[i : i + 1], bench.watermarks)
        for index in range(len(bench.watermarks.target_label))
    ]
    hidden = dict(enumerate(each[1:], 1))
    return (
        {"leaked": each[0]}
        | {f"hidden_{i}": mark for i, mark in hidden.items()}
        | {f"lowered_{i}": at_extreme_value(mark, _LOWER) for i, mark in hidden.items()}
    )


def _before(bench: Bench) -> Callable[[], Record]:
    return lambda: bench.measure(bench.victim.params, **_marks(bench))


def _corrupted(
    bench: Bench,
    goal: str,
    adversary: Adversary,
    config: ml_collections.ConfigDict,
    *,
    images: int,
) -> Callable[[], Record]:
    def attack() -> Record:
        marks = _marks(bench)
        plan = corruption(
            marks["leaked"],
            goal,
            num_classes=bench.victim.config.data.num_classes,
            shift=config.shift,
        )
        outcome = bench.attack(
            adversary._replace(true_weight=plan.true_weight, null_weight=plan.null_weight),
            images=images,
            seed=config.seed,
            embedded=plan.embedded,
            marks=marks,
        )
        return outcome.record

    return attack


def _control(
    bench: Bench, adversary: Adversary, config: ml_collections.ConfigDict, *, images: int
) -> Callable[[], Record]:
    clean = adversary._replace(inject_ratio=0.0)
    return lambda: bench.attack(clean, images=images, seed=config.seed, marks=_marks(bench)).record


# For readers.


def tables(result: Result) -> list[Table]:
    """Returns what each attack leaves of the model, of the leaked watermark and of the hidden ones."""
    metrics, paper = result["metrics"], result["paper"]
    hidden = _hidden_columns(metrics)
    # Earlier results have no controls.
    controls = metrics.get("controls", [])
    rows = [
        _row("before", metrics["before"], hidden),
        _row(f"relabel: {metrics['attacker']}{_theirs(metrics)}", metrics["earlier"], hidden),
    ]
    if "true_accuracy" in paper:
        printed = [percent(paper[name]) for name in PRINTED]
        rows.append(
            ["as the earlier paper has it", printed[0], "", printed[2], printed[1], ""]
            + [""] * (len(hidden) + 1)
        )
    rows += [_row(f"no mark: {each['name']}", each, hidden) for each in controls]
    rows += [_row(f"{each['goal']}: {each['name']}", each, hidden) for each in metrics["grid"]]
    return [
        Table(
            "Training against a leaked watermark, %: mean (lowest to highest)",
            (
                "attack",
                "NC",
                "leaked null",
                "leaked null agreement",
                "leaked true",
                "leaked verified",
                *hidden,
                "hidden verified",
            ),
            rows,
            ("no mark: the same training on the images alone. " if controls else "")
            + "relabel gives the true copies another label, unlearn the image's own; break-null gives "
            "the null copies one fixed label. Hidden watermarks did not leak. All but the paper's train "
            f"{metrics['steps']} steps. The earlier paper names no optimiser; its attacker here has the "
            "later paper's.",
        )
    ]


def _hidden_columns(metrics: Metrics) -> dict[str, str]:
    """Returns columns of the null of hidden watermarks by the marks' prefixes, of what was measured."""
    models = metrics["before"]["models"]
    titles = {"hidden_": "hidden null", "lowered_": f"hidden null at {metrics.get('lower', 0):g}"}
    return {title: prefix for prefix, title in titles.items() if _hidden(models, prefix)}


def _row(name: str, part: Metrics, hidden: dict[str, str]) -> list[str]:
    models = part["models"]
    return [
        name,
        mean_and_spread(models, "normal_accuracy") + of_numbers(models),
        *(
            mean_and_spread(models, *field)
            for field in (
                ("leaked", "null"),
                ("leaked", "agreement"),
                ("leaked", "true"),
            )
        ),
        f"{part['verified']} of {len(models)}",
        *(mean_and_spread(_hidden(models, prefix), "null") for prefix in hidden.values()),
        f"{part['hidden_verified']} of {part['hidden']}" if part["hidden"] else "none is embedded",
    ]


def draw(result: Result) -> dict[str, Figure]:
    """Returns NC against what is left of the leaked watermark, every attack a point."""
    groups = []
    for goal in dict.fromkeys(each["goal"] for each in result["metrics"]["grid"]):
        models = [m for e in result["metrics"]["grid"] if e["goal"] == goal for m in e["models"]]
        groups.append(
            (
                goal,
                [100 * each["normal_accuracy"] for each in models],
                [100 * each["leaked"]["wm"] for each in models],
            )
        )
    return {
        "corruption": curves.scatter_figure(
            groups,
            x="NC after the attack, %",
            y="WM of the leaked watermark, %",
            title="each attack; below the dotted line the claim fails",
            threshold=100 * result["metrics"]["threshold"],
            vertical=False,
        )
    }


def _theirs(metrics: Metrics) -> str:
    return beside_papers(  # Earlier results lack both.
        (metrics.get("images", attackers.PAPERS_IMAGES), attackers.PAPERS_IMAGES, "image"),
        (metrics.get("epochs", _PAPERS_EPOCHS), _PAPERS_EPOCHS, "epoch"),
    )


def _highest_true(attack: Record) -> float:
    return max(each["leaked"]["true"] for each in attack["models"])


def _shown(succeeded: list[Record], before: Record, what: str) -> str:
    """Returns how many attacks did something, how many at little cost, and the gentlest of them."""
    cheap = near(succeeded, before)
    words = f"{len(succeeded)} {what}, {len(cheap)} of them at no more than {100 * ACCEPTABLE:g} points of NC"
    if not succeeded:
        return words
    best = gentlest(succeeded)
    return (
        f"{words}; the gentlest ({best['goal']}: {best['name']}) leaves NC at "
        f"{mean_and_spread(best['models'], 'normal_accuracy')}"
    )


def verdict(result: Result) -> list[Finding]:
    """Returns whether a leaked watermark can be trained away, which the earlier paper denies."""
    metrics = result["metrics"]
    part, threshold, before = metrics["earlier"], metrics["threshold"], metrics["before"]
    stays = all(each["leaked"]["true"] > threshold for each in part["models"])
    # A label that changes with the model's accuracy refutes as little as in the attacks below.
    tells = stays or bool(near([part], before))
    images = metrics.get("images", attackers.PAPERS_IMAGES)
    findings = [
        Finding(
            "The earlier paper's retraining cannot change a leaked watermark's label, it says; here "
            f"({metrics['attacker']}{_theirs(metrics)}) NC is "
            f"{mean_and_spread(part['models'], 'normal_accuracy')}, true "
            f"{mean_and_spread(part['models'], 'leaked', 'true')} and null "
            f"{mean_and_spread(part['models'], 'leaked', 'null')} afterwards; the claim verifies in "
            f"{part['verified']} of {len(part['models'])}.",
            attackers.as_tested(stays, unmoved=stays, images=images, theirs=_theirs(metrics))
            if tells
            else None,
            claim="Their retraining leaves a leaked mark's label (earlier paper)",
            brief=f"true {mean_and_spread(part['models'], 'leaked', 'true')}",
        )
    ]
    # Breaking null embedding refutes nothing: the earlier paper grants it (V-C).
    of_label = [each for each in metrics["grid"] if each["goal"] in _OF_THE_LABEL]
    changed = [each for each in of_label if _highest_true(each) <= threshold]
    if of_label:
        cheaply = near(changed, before)
        findings.append(
            Finding(
                "A leaked watermark's label cannot be changed, the earlier paper says; of "
                f"{many(len(of_label), 'attack')} on the label with other losses and optimisers "
                f"{_shown(changed, before, 'bring true below T on every model')}.",
                # That none of some attacks gets there does not say that none can.
                False if cheaply else None,
                claim="No retraining changes a leaked mark's label (earlier paper)",
                brief=f"{len(changed)} of {len(of_label)} attacks do, {len(cheaply)} cheaply",
                cause="The loss. With the clipped one, the paper's, no attack on Digit changes the label on "
                "every model, be it by SGD or Adam; with logits SGD does at some cost, and Adam at little. "
                "Tested side by side ({corruption}).",
            )
        )
    broken = [each for each in metrics["grid"] if each["verified"] == 0]
    cheap = near(broken, before)
    if metrics["grid"]:
        findings.append(
            Finding(
                f"Of all {many(len(metrics['grid']), 'attack')} on a leaked watermark, those that break null "
                "embedding among them (which the earlier paper grants to be possible), "
                f"{_shown(broken, before, 'make every claim on it fail')}."
            )
        )
    others = [each for each in cheap if each["hidden"] and not each["hidden_verified"]]
    # What ruins a model takes all that is in it.
    parts = near([metrics["earlier"], *metrics["grid"]], before)
    hidden = sum(each["hidden"] for each in parts)
    if hidden:
        kept = sum(each["hidden_verified"] for each in parts)
        findings.append(
            Finding(
                "Of several watermarks those that did not leak are to serve when one does, the later paper "
                f"says; they verify in {kept} of {hidden} cases after the attacks that cost no more than "
                f"{100 * ACCEPTABLE:g} points of NC, and of the {len(cheap)} of these that take the leaked "
                f"one from every model {len(others)} take all the others with it.",
                False if others else True if cheap and kept == hidden else None,
                claim="Marks that did not leak still serve (both papers)",
                brief=f"{kept} of {hidden} verify",
                cause="The training, and the attack on the other mark. Adam at 1e-3 on clean images "
                "alone takes every mark of Digit, hidden and leaked; at 1e-4 one hidden of three, where "
                "relabelling or unlearning with logits takes all three; SGD on clean images takes none. In "
                "part lambda enlarges it: null that relabelling at 1e-4 took is there at 100, what "
                "unlearning or 1e-3 took mostly is not. Tested by the same training without a mark, "
                "beside each attack, and at a lower lambda ({corruption}).",
            )
        )
    return findings + _why_hidden_fail(metrics, parts)


def _why_hidden_fail(metrics: Metrics, parts: list[Record]) -> list[Finding]:
    """Returns whether hidden watermarks that fail are there at a lower lambda, and fail unattacked, too."""
    lost = []
    for model in (model for part in parts for model in part["models"]):
        for name, mark in model.items():
            lower = model.get(name.replace("hidden_", "lowered_"))  # Earlier results lack it.
            if name.startswith("hidden_") and lower and mark["wm"] <= metrics["threshold"]:
                lost.append({"own": mark["null"], "lower": lower["null"]})
    trained = {each.get("name") for each in parts}
    controls = [each for each in metrics.get("controls", ()) if each["name"] in trained]
    if not lost or not controls:
        return []
    told = ", ".join(
        f"{each['name']}: {each['hidden_verified']} of {each['hidden']}" for each in controls
    )
    return [
        Finding(
            f"Of the {len(lost)} hidden watermarks that fail after these attacks null is "
            f"{mean_and_spread(lost, 'own')} at the owner's lambda and {mean_and_spread(lost, 'lower')} "
            f"shown at {metrics['lower']:g}. Of the hidden ones verify after the same training without the "
            f"leaked watermark: {told}."
        )
    ]


EXPERIMENT = Experiment(
    name="corruption",
    title="Corruption of a leaked watermark",
    lead="An attacker knows the owner's pattern and trains against it. The earlier paper holds that "
    "its target label cannot be changed; the later one fears that it can, and keeps others hidden.",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    verdict=verdict,
    captions={"corruption": "What each attack leaves of the model and of the leaked watermark."},
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
