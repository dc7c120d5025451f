"""A model's accuracies as an experiment records them: the owner's watermark, and another's beside it."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from scipy import special

from nullmark_jax import checks, evaluation, models, verification
from nullmark_jax.baselines.triggers import Triggers
from nullmark_jax.data import Dataset
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.metrics import Counts
from nullmark_jax.models import Params
from nullmark_jax.reports.table import percent

# A model that lost more of NC, as a fraction, counts as broken: it is no longer worth having.
BROKEN = 0.2
# What an attacker may be ready to lose of NC, of 1: a model nearly as good as the one they took.
ACCEPTABLE = 0.05

Record = dict[str, Any]
Measure = Callable[..., Record]


def make_measure(victim: Victim, *, test_images: int = 0) -> Measure:
    """Returns (params, **marks) -> record, on the victim's test images.

    The marks are populations by name, "owner" say. The record has `normal_accuracy` and by each name
    `null`, `true`, `agreement` and `wm`, fractions, for watermark 0 of the population. Of triggers, which
    have no null embedding, `null` and `agreement` are None, and `true` and `wm` are over all of them.

    Args:
      victim: whose network, scheme and data.
      test_images: how many, evenly spaced; 0 for all.
    """
    dataset = limited(victim.splits.test, test_images)
    evaluate = evaluation.make_evaluator(models.apply_fn(victim.model), dataset)

    def measure_triggers(params: Params, **marks: Triggers) -> Record:
        record: Record = {}
        for name, triggers in marks.items():
            counts = evaluate(params, triggers)
            record["images"] = int(counts.images)
            record["normal_accuracy"] = float(counts.normal_accuracy)
            found = float(counts.true_accuracy)
            record[name] = {"null": None, "true": found, "agreement": None, "wm": found}
        return record

    def measure(params: Params, **watermarks: Watermark) -> Record:
        firsts = [jax.tree.map(lambda leaf: np.asarray(leaf)[:1], w) for w in watermarks.values()]
        population = jax.tree.map(lambda *leaves: np.concatenate(leaves), *firsts)
        counts = evaluate(params, population)
        record: Record = {
            "images": int(counts.images[0]),
            "normal_accuracy": float(counts.normal_accuracy[0]),
        }
        for index, name in enumerate(watermarks):
            one = jax.tree.map(lambda field, i=index: field[i], counts)
            record[name] = accuracies(one, victim.scheme)
        return record

    return measure_triggers if victim.has_triggers else measure


def accuracies(counts: Counts, scheme: str) -> dict[str, float]:
    """Returns one watermark's null and true accuracy, null agreement and WM, fractions.

    Raises:
      InputError: every image is of the watermark's own label.
    """
    if counts.true_images == 0:
        raise InputError(
            "config.test_images: all of these images are of a watermark's own label, which leaves its true "
            "accuracy undefined; give more"
        )
    null, true = float(counts.null_accuracy), float(counts.true_accuracy)
    agreement = float(counts.null_agreement)
    wm = min(true, agreement if scheme == "wonder-filter" else null)
    return {"null": null, "true": true, "agreement": agreement, "wm": wm}


def passes(record: dict[str, float], victim: Victim, threshold: float | None = None) -> bool:
    """Returns whether a watermark's record would verify, at the victim's own T or another."""
    at = victim.config.watermark.threshold if threshold is None else threshold
    return verification.passes(record["wm"], at, scheme=victim.scheme)


def limited(dataset: Dataset, count: int) -> Dataset:
    """Returns `count` images of a data set, evenly spaced; all where count is 0.

    Raises:
      InputError: there are fewer.
    """
    if not count:
        return dataset
    checks.integer("config.test_images", count, 1, len(dataset), remedy=", or 0 for all")
    return dataset.take(np.arange(count) * len(dataset) // count)


def finite(value: float) -> float | None:
    """Returns a float as JSON can hold it: None where it is not finite."""
    return value if np.isfinite(value) else None


def ruined(records: Sequence[Record]) -> int:
    """Returns how many of some attacked models are not a number."""
    return sum(not each["finite"] for each in records)


def of_numbers(records: Sequence[Record]) -> str:
    """Returns what to add to accuracies of attacked models where some are known to be NaN."""
    dead = sum(each.get("finite") is False for each in records)
    if not dead:
        return ""
    return "; not a number" if len(records) == 1 else f"; {dead} of {len(records)} not a number"


def all_finite(params: Params) -> bool:
    """Returns whether a model is one: whether each of its parameters is finite."""
    return all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Returns a seed in [0, 2^31) for a purpose, another one for each seed and each purpose."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def at_own_threshold(model: Record, which: str = "rates") -> Record:
    """Returns the one of a model's records by threshold, `rates` or `grinding`, that is at its own T."""
    own = model.get("threshold", 0.8)  # Earlier results lack it; theirs were all the papers' 80%.
    return next(rate for rate in model[which] if rate["threshold"] == own)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the 95% t interval of a mean, of two values at least."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    half = special.stdtrit(len(values) - 1, 0.975) * error
    middle = float(np.mean(values))
    return middle - float(half), middle + float(half)


def mean(records: list[Record], *names: str) -> float:
    """Returns the mean of a field, given by the names that lead to it, over records."""
    return float(np.mean([_field(record, names) for record in records]))


def spread(records: list[Record], *names: str) -> tuple[float, float]:
    """Returns the lowest and the highest of a field over records."""
    values = [_field(record, names) for record in records]
    return min(values), max(values)


def mean_and_spread(records: list[Record], *names: str) -> str:
    """Returns a field's mean over records, in percent, and its lowest and highest where these differ."""
    if any(_field(record, names) is None for record in records):
        return ""  # Of triggers, which have no null embedding.
    low, high = spread(records, *names)
    middle = percent(mean(records, *names))
    return middle if low == high else f"{middle} ({percent(low)} to {percent(high)})"


def _field(record: Record, names: tuple[str, ...]) -> Any:
    value: Any = record
    for name in names:
        value = value[name]
    return value


def check_images(victim: Victim, *counts: int) -> None:
    """Raises InputError where the attacker is to have more images than the task has."""
    for count in counts:
        if not 1 <= count <= len(victim.splits.train):
            raise InputError(
                f"config: the attacker is to have {count} images but {victim.name} has "
                f"{len(victim.splits.train)} training images; give at most so many"
            )


def near(attacks: Sequence[Record], before: Record) -> list[Record]:
    """Returns the attacks, by their `models`, that cost at most `ACCEPTABLE` of the mean NC before."""
    least = mean(before["models"], "normal_accuracy") - ACCEPTABLE
    return [each for each in attacks if mean(each["models"], "normal_accuracy") >= least]


def gentlest(attacks: Sequence[Record]) -> Record:
    """Returns the attack, of at least one, that leaves the highest mean NC."""
    return max(attacks, key=lambda each: mean(each["models"], "normal_accuracy"))
