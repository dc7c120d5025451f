"""False positives of earlier designs: how often do triggers verify that nobody embedded?

    python -m nullmark_jax.experiments.trigger_false_positives \\
        --config=configs/attacks/trigger_false_positives.py:TASK --victim=RUN [--victim=RUN ...] --workdir=OUT

As the later paper's section 7.3 tries random watermarks (`false_positives`), here triggers are tried that
others draw as a pirate does: of Adi et al. sets of 100 images with labels, of Zhang et al. a label for a
trigger that is not the owner's.
"""

import hashlib
import sys
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from matplotlib.figure import Figure

from nullmark_jax import checks, evaluation, models
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import experiment
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.false_positives import rate_at, thresholds
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import Record, at_own_threshold, derived_seed, limited
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.reports import curves
from nullmark_jax.reports.table import Table, many, percent

_CHUNK = 20


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # Others' triggers drawn for each model; alike ones count once.
    config.marks = 200
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    checks.integer("config.marks", config.marks, 1, 10**6)


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: for each model the accuracy of others' triggers."""
    planned: dict[str, Callable[[], Record]] = {}
    for victim in victims:
        if not victim.has_triggers:
            raise InputError(
                f"--victim: {victim.name} is of {victim.scheme}, whose false positives are another "
                "experiment's; run nullmark_jax.experiments.false_positives"
            )
        test = limited(victim.splits.test, config.test_images)
        evaluate = evaluation.make_evaluator(models.apply_fn(victim.model), test)
        for start in range(0, config.marks, _CHUNK):
            count = min(_CHUNK, config.marks - start)
            planned[f"{victim.name}/{start}"] = _tried(
                victim, evaluate, config.seed, range(start, start + count)
            )
    records = dict(journal.run(planned))
    found = []
    for victim in victims:
        parts = [r for name, r in records.items() if name.rpartition("/")[0] == victim.name]
        # Each mark once: of some schemes others can draw a few only.
        tried = {m: value for p in parts for m, value in zip(p["mark"], p["true"], strict=True)}
        accuracies = list(tried.values())
        found.append(
            {
                "name": victim.name,
                "watermarked": victim.watermarks is not None,
                "true": accuracies,
                "threshold": victim.config.watermark.threshold,
                "rates": [rate_at(accuracies, each, victim.scheme) for each in thresholds(victim)],
            }
        )
    return {
        "scheme": victims[0].scheme,
        "num_classes": victims[0].config.data.num_classes,
        "models": found,
    }


def _tried(
    victim: Victim, evaluate: evaluation.Evaluator, seed: int, those: range
) -> Callable[[], Record]:
    def measured() -> Record:
        record: Record = {"mark": [], "true": []}
        for each in those:
            mark = victim.foreign(derived_seed(seed, "false positives", each))
            digest = hashlib.sha256()
            for leaf in jax.tree.leaves(mark):
                digest.update(np.ascontiguousarray(leaf).tobytes())
            record["mark"].append(digest.hexdigest())
            record["true"].append(float(evaluate(victim.params, mark).true_accuracy))
        return record

    return measured


# For readers.


def tables(result: Result) -> list[Table]:
    """Returns how often others' triggers get their labels, and verify at each threshold."""
    metrics = result["metrics"]
    rows = [
        [
            f"{model['name']} ({'marked' if model['watermarked'] else 'free'})",
            percent(float(np.mean(model["true"]))),
            percent(max(model["true"])),
            f"{100 * rate['threshold']:g}",
            f"{rate['passed']} of {rate['of']}",
            f"{100 * rate['low']:.3g} to {100 * rate['high']:.3g}",
        ]
        for model in metrics["models"]
        for rate in model["rates"]
    ]
    return [
        Table(
            f"Others' triggers ({metrics['scheme']}) on models that do not hold them",
            (
                "model",
                "get their labels, %",
                "highest",
                "T, %",
                "verify",
                "rate, 95% interval, %",
            ),
            rows,
            f"By chance {percent(1 / metrics['num_classes'])}% get theirs. Intervals are exact "
            "(Clopper-Pearson), over different triggers: of zhang-content Y, one text with each label.",
        )
    ]


def draw(result: Result) -> dict[str, Figure]:
    """Returns the accuracies of others' triggers, in ascending order, by model."""
    groups = []
    for model in result["metrics"]["models"]:
        ordered = sorted(100 * each for each in model["true"])
        share = [100 * (i + 1) / len(ordered) for i in range(len(ordered))]
        groups.append((model["name"], share, ordered))
    threshold = 100 * at_own_threshold(result["metrics"]["models"][0])["threshold"]
    return {
        "trigger-false-positives": curves.scatter_figure(
            groups,
            x="share of others' marks, %",
            y="at most so many triggers get their labels, %",
            title=f"{result['metrics']['scheme']}: others' triggers; above the line one verifies at T = "
            f"{threshold:g}%",
            threshold=threshold,
            vertical=False,
        )
    }


def verdict(result: Result) -> list[Finding]:
    """Returns how many of others' triggers verify at the models' T."""
    metrics = result["metrics"]
    rates = [at_own_threshold(each) for each in metrics["models"]]
    passed, tried = sum(r["passed"] for r in rates), sum(r["of"] for r in rates)
    highest = max(max(model["true"]) for model in metrics["models"])
    return [
        Finding(
            f"Of {tried} marks of others ({metrics['scheme']}, {many(len(rates), 'model')}) {passed} verify "
            "at "
            f"T = {100 * rates[0]['threshold']:g}%; the highest is {percent(highest)}%."
        )
    ]


EXPERIMENT = Experiment(
    name="trigger_false_positives",
    title="False positives of triggers",
    lead="Triggers that others draw, tried on models marked by an earlier design and on free ones.",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    verdict=verdict,
    captions={
        "trigger-false-positives": "Others' marks, ordered by how many triggers get their labels."
    },
    free=True,
    triggers=True,
    speaks_of_triggers=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
