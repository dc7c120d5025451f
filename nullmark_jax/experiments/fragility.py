"""Fragility: at which extreme values a changed model still bears its owner's watermark.

    python -m nullmark_jax.experiments.fragility --config=configs/attacks/fragility.py:TASK --victim=RUN \\
        [--victim=RUN ...] --workdir=OUT

No paper asks this. Fine-tuning and pruning take null embedding at lambda = 2000 and leave NC. If lambda
enlarges what such a change leaves of the pattern in the features, the same model must still bear the same
pattern at lower values: here each changed model is measured at several.
"""

import itertools
import sys
from collections.abc import Callable, Mapping
from functools import partial

import ml_collections
from matplotlib.figure import Figure

from nullmark_jax import checks, optimizers
from nullmark_jax.attacks import pruning, retraining
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import experiment
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import Record, check_images, mean, mean_and_spread
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.marks import Marks, at_extreme_value
from nullmark_jax.models import Params
from nullmark_jax.optimizers import Recipe
from nullmark_jax.reports import curves
from nullmark_jax.reports.table import Table, many, percent

_AS_IT_IS = "as it is"
_NEVER = "a pattern never embedded"
# The seed of a watermark that nobody embedded.
_CONTROL = 0


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # At which the owner's pattern is shown, beside the owner's own; at most 5.
    config.extreme_values = (10.0, 100.0, 300.0, 1000.0)
    # Kind, order and ratio, as in pruning.
    config.prunings = (
        ("neurons", "ascending", 0.2),
        ("weights", "ascending", 0.5),
        ("weights", "descending", 0.01),
    )
    # Fine-tuning by Adam on clean images.
    config.learning_rate = 1e-3
    config.images = 5000
    config.epochs = 10
    config.batch_size = 128
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    for value in config.extreme_values:
        if checks.real("config.extreme_values", value) < 1:
            raise InputError(f"config.extreme_values: {value} must be at least 1; give say 10.0")
    if not 1 <= len(config.extreme_values) <= 5:
        raise InputError(
            f"config.extreme_values: {len(config.extreme_values)} are not 1 to 5; give so many"
        )
    for each in config.prunings:
        if len(each) != 3 or each[0] not in pruning.KINDS or each[1] not in pruning.ORDERS:
            raise InputError(
                f"config.prunings: {checks.shown(each)} is none; give kind, order and ratio, as "
                "('neurons', 'ascending', 0.2)"
            )
        pruning.check_ratio("config.prunings", each[2])
    if len(config.prunings) > 4:
        raise InputError(
            f"config.prunings: {len(config.prunings)} are too many to draw; give at most 4"
        )
    for field in ("images", "epochs", "batch_size"):
        checks.integer(f"config.{field}", config[field], 1, 10**9)
    optimizers.check_learning_rate("config.learning_rate", config.learning_rate)


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: each change of each model, at each extreme value."""
    first = victims[0]
    own = float(first.config.watermark.extreme_value)
    values = sorted({*map(float, config.extreme_values), own})
    planned: dict[str, Callable[[], Record]] = {}
    names: list[str] = []
    for victim in victims:
        check_images(victim, config.images)
        bench = Bench(victim, config.test_images)
        foreign = bench.pirate(_CONTROL, choosing=True)
        marks = {
            _at(value, whose): at_extreme_value(mark, value)
            for whose, mark in (("owner", bench.owner), ("foreign", foreign))
            for value in values
        }
        changes = _changes(bench, config)
        names = list(changes)
        for name, change in changes.items():
            planned[f"{name}/{victim.name}"] = partial(_measured, bench, change, marks)
    records = dict(journal.run(planned))
    return {
        "threshold": first.config.watermark.threshold,
        "own": own,
        "values": values,
        "changes": [
            {"name": name, "models": [records[f"{name}/{victim.name}"] for victim in victims]}
            for name in names
        ],
    }


def _changes(bench: Bench, config: ml_collections.ConfigDict) -> dict[str, Callable[[], Params]]:
    victim = bench.victim
    adversary = Adversary(
        recipe=Recipe("adam", config.learning_rate),
        steps=retraining.steps_of(
            config.epochs, images=config.images, batch_size=config.batch_size
        ),
        batch_size=config.batch_size,
        inject_ratio=0.0,
    )

    def tuned() -> Params:
        (reached,) = bench.train(
            adversary, images=config.images, seed=config.seed, at=[adversary.steps]
        )
        return reached.params

    changes: dict[str, Callable[[], Params]] = {_AS_IT_IS: lambda: victim.params}
    epochs = many(config.epochs, "epoch")
    changes[f"fine-tuned, adam {config.learning_rate:g}, {epochs}"] = tuned
    for kind, order, ratio in config.prunings:
        changes[f"{kind} pruned, {order}, {100 * ratio:g}%"] = partial(
            pruning.prune, victim.model, victim.params, kind, order, ratio
        )
    return changes


def _measured(bench: Bench, change: Callable[[], Params], marks: Mapping[str, Marks]) -> Record:
    return bench.measure(change(), **marks)


def _at(value: float, whose: str = "owner") -> str:
    return f"{whose} at {value:g}"


# For readers.


def tables(result: Result) -> list[Table]:
    """Returns NC and null by change and extreme value, and true at the owner's."""
    metrics = result["metrics"]
    values = metrics["values"]
    rows = [
        [
            each["name"],
            mean_and_spread(each["models"], "normal_accuracy"),
            *(mean_and_spread(each["models"], _at(value), "null") for value in values),
            mean_and_spread(each["models"], _at(metrics["own"]), "true"),
        ]
        for each in metrics["changes"]
    ]
    control = metrics["changes"][0]["models"]
    rows.append(
        [
            f"{_NEVER}, {_AS_IT_IS}",
            mean_and_spread(control, "normal_accuracy"),
            *(mean_and_spread(control, _at(value, "foreign"), "null") for value in values),
            mean_and_spread(control, _at(metrics["own"], "foreign"), "true"),
        ]
    )
    return [
        Table(
            "Null accuracy by the extreme value that the pattern is shown at, %: mean (lowest to highest)",
            (
                many(len(control), "model"),
                "NC",
                *(f"null at {value:g}" for value in values),
                f"true at {metrics['own']:g}",
            ),
            rows,
            f"Trained at {metrics['own']:g}. Of a pattern that nobody embedded, too, little is lost where it "
            "is within or near the pixels' own range: what is above its row was kept.",
        )
    ]


def draw(result: Result) -> Mapping[str, Figure]:
    """Returns null against the extreme value, by change, of the mean over models."""
    metrics = result["metrics"]
    control = metrics["changes"][0]["models"]
    names = [each["name"] for each in metrics["changes"]]
    records = [
        {"value": value}
        | {each["name"]: mean(each["models"], _at(value), "null") for each in metrics["changes"]}
        | {_NEVER: mean(control, _at(value, "foreign"), "null")}
        for value in metrics["values"]
    ]
    return {
        "fragility": curves.curves_figure(
            records,
            x=("value", "extreme value that the owner's pattern is shown at"),
            lines=[curves.Line(name, (name,)) for name in [*names, _NEVER]],
            title=f"null accuracy after a change, {many(len(control), 'model')}",
            threshold=metrics["threshold"],
            log_x=True,
        )
    }


def verdict(result: Result) -> list[Finding]:
    """Returns up to which extreme value null stays above T after each change, on every model."""
    metrics = result["metrics"]
    values, threshold = metrics["values"], metrics["threshold"]
    parts = []
    for each in metrics["changes"]:
        lowest = [min(model[_at(value)]["null"] for model in each["models"]) for value in values]
        held = list(itertools.takewhile(lambda null: null > threshold, lowest))
        if held:
            end = values[len(held) - 1]
            parts.append(
                f"{each['name']} up to {end:g} (there {percent(held[-1])}; at {metrics['own']:g} "
                f"{percent(lowest[values.index(metrics['own'])])})"
            )
        else:
            parts.append(f"{each['name']} at no value")
    models = metrics["changes"][0]["models"]
    control = [mean(models, _at(value, "foreign"), "null") for value in values]
    return [
        Finding(
            f"The lowest null of {many(len(models), 'model')} is above T with the owner's pattern shown "
            f"{'; '.join(parts)}. Of a pattern never embedded null is {percent(control[0])} at "
            f"{values[0]:g} and {percent(control[-1])} at {values[-1]:g} (mean)."
        )
    ]


EXPERIMENT = Experiment(
    name="fragility",
    title="At which extreme values a changed model keeps its mark",
    lead="Fine-tuning and pruning can take null embedding at the owner's lambda and leave the accuracy. "
    "Each changed model is shown the owner's pattern at lower values, too, and one that nobody embedded: is "
    "what is lost at 2000 unlearned, or enlarged by lambda?",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    verdict=verdict,
    captions={
        "fragility": "Null accuracy by the extreme value shown, after each change: the mean."
    },
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
