"""Input filters: what is left of a watermark where a service changes or refuses its inputs?

    python -m nullmark_jax.experiments.input_filter --config=configs/attacks/input_filter.py:TASK \\
        --victim=RUN [--victim=RUN ...] --workdir=OUT

In neither paper. The model is the victim's to the bit; `verification.verify` asks it through the filter.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import ml_collections
import numpy as np
from matplotlib.figure import Figure

from nullmark_jax import checks, models, outcome, verification
from nullmark_jax.attacks import input_filters, retraining
from nullmark_jax.baselines.triggers import Triggers
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import experiment
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import (
    ACCEPTABLE,
    Record,
    check_images,
    limited,
    mean_and_spread,
    passes,
)
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.reports import dots
from nullmark_jax.reports.table import Table, percent
from nullmark_jax.verification import Predict

FILTERS = (
    "none",
    "clip",
    "clip wide",
    "8 bits",
    "JPEG",
    "min-max",
    "standardise",
    "reject",
)


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    config.filters = FILTERS
    # To what "clip wide" clips.
    config.wide = (-1.0, 2.0)
    config.jpeg_quality = 75
    # Training images whose mean and deviation "standardise" gives each image.
    config.images = 1000
    # What "reject" answers to images with a value outside [0, 1].
    config.reject_label = 0
    # What NC a filter may cost a service.
    config.acceptable_loss = ACCEPTABLE
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    for each in config.filters:
        if each not in FILTERS:
            raise InputError(
                f"config.filters: {checks.shown(each)} is none; take some of {', '.join(FILTERS)}"
            )
    if "none" not in config.filters:
        raise InputError("config.filters: lacks none, beside which the others are seen; add it")
    if len(config.wide) != 2:
        raise InputError("config.wide: give two numbers, such as -1.0 and 2.0")
    low, high = (checks.real("config.wide", end) for end in config.wide)
    if not (low <= 0 and high >= 1):
        raise InputError(f"config.wide: {low} to {high} must hold all of [0, 1]")
    checks.integer("config.jpeg_quality", config.jpeg_quality, 1, 95)
    checks.integer("config.images", config.images, 1, 10**9)
    checks.integer("config.reject_label", config.reject_label, 0, 2**31 - 1)
    if not 0 <= checks.real("config.acceptable_loss", config.acceptable_loss) <= 1:
        raise InputError("config.acceptable_loss: is out of range; give one in [0, 1]")


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: for each filter what `verify` found of each victim through it."""
    planned: dict[str, Callable[[], Record]] = {}
    for victim in victims:
        check_images(victim, config.images)
        checks.integer(
            "config.reject_label", config.reject_label, 0, victim.config.data.num_classes - 1
        )
        predict = models.predictor(
            victim.config.model,
            victim.params,
            victim.config.data.num_classes,
            precision=victim.config.precision,
        )
        for name in config.filters:
            planned[f"{name}/{victim.name}"] = _verified(
                victim, filtered(name, predict, victim, config), config.test_images
            )
    records = dict(journal.run(planned))
    filters = [
        {"name": name, "models": [records[f"{name}/{victim.name}"] for victim in victims]}
        for name in config.filters
    ]
    plain = filters[config.filters.index("none")]["models"]
    for each in filters:
        each["unnoticed"] = [
            unnoticed(record, start, config.acceptable_loss)
            for record, start in zip(each["models"], plain, strict=True)
        ]
    return {
        "threshold": victims[0].config.watermark.threshold,
        "acceptable_loss": config.acceptable_loss,
        "wide": list(config.wide),
        "jpeg_quality": config.jpeg_quality,
        "reject_label": config.reject_label,
        "filters": filters,
    }


def unnoticed(record: Record, plain: Record, acceptable_loss: float) -> bool:
    """Returns whether a filter hid the watermark, kept NC, and did not look like clipping.

    Args:
      record: through the filter.
      plain: without one.
      acceptable_loss: of NC.
    """
    lost = plain["normal_accuracy"] - record["normal_accuracy"]
    return not record["verified"] and not record["clipped_inputs"] and lost <= acceptable_loss


def filtered(
    name: str, predict: Predict, victim: Victim, config: ml_collections.ConfigDict
) -> Predict:
    """Returns the victim's `predict` behind the filter of a name in `FILTERS`."""
    if name == "none":
        return predict
    if name == "reject":
        return input_filters.rejecting(predict, config.reject_label)
    if name == "standardise":
        train = victim.splits.train
        own, _ = retraining.choose_images(train.images, train.labels, config.images, config.seed)
        mean, deviation = input_filters.image_statistics(own)
        return input_filters.behind(
            predict, partial(input_filters.standardise, mean=mean, deviation=deviation)
        )
    low, high = config.wide
    changes: dict[str, input_filters.Filter] = {
        "clip": input_filters.clip,
        "clip wide": partial(input_filters.clip, low=low, high=high),
        "8 bits": input_filters.eight_bits,
        "JPEG": partial(input_filters.jpeg, quality=config.jpeg_quality),
        "min-max": input_filters.min_max,
    }
    return input_filters.behind(predict, changes[name])


def _verified(victim: Victim, predict: Predict, test_images: int) -> Callable[[], Record]:
    def measured() -> Record:
        if isinstance(victim.watermarks, Triggers):
            return _of_triggers(victim, predict, victim.watermarks, test_images)
        if victim.claim is None:
            raise InputError(f"--victim: {victim.name} has no claim; give one that has")
        test = limited(victim.splits.test, test_images)
        found = verification.verify(
            predict,
            victim.claim,
            test.images,
            test.labels,
            threshold=victim.config.watermark.threshold,
        ).to_dict()
        if not found["signature_valid"]:
            raise InputError(f"--victim: {victim.name} has a claim of a bad signature")
        return {
            "images": len(test),
            "normal_accuracy": found["normal_accuracy"]["value"],
            "owner": {
                "null": found["null_accuracy"]["value"],
                "true": found["true_accuracy"]["value"],
                "agreement": found["null_agreement"]["value"],
                "wm": found["watermark_accuracy"],
            },
            **{name: found[name] for name in ("verified", "clipping_agreement", "clipped_inputs")},
        }

    return measured


def _of_triggers(victim: Victim, predict: Predict, marks: Triggers, test_images: int) -> Record:
    """Returns what `_verified` does; triggers lie in the pixel range, and tell nothing of clipping."""
    test = limited(victim.splits.test, test_images)
    answers = np.asarray(predict(test.images / np.float32(255)))
    right, shown = outcome.triggers_answered(predict, marks, test)
    owner: Record = {"null": None, "true": right / shown, "agreement": None, "wm": right / shown}
    return {
        "images": len(test),
        "normal_accuracy": float((answers == test.labels).mean()),
        "owner": owner,
        "verified": passes(owner, victim),
        "clipping_agreement": None,
        "clipped_inputs": False,
    }


# For readers.


def tables(result: Result) -> list[Table]:
    """Returns the filters with what each leaves, and whether `verify` notices it."""
    metrics = result["metrics"]
    rows = []
    for each in metrics["filters"]:
        found, count = each["models"], len(each["models"])
        hidden = sum(each["unnoticed"])
        rows.append(
            [
                _title(each["name"], metrics),
                mean_and_spread(found, "normal_accuracy"),
                *(
                    mean_and_spread(found, "owner", part)
                    for part in ("null", "true", "agreement", "wm")
                ),
                f"{sum(record['verified'] for record in found)} of {count}",
                mean_and_spread(found, "clipping_agreement"),
                f"{sum(record['clipped_inputs'] for record in found)} of {count}",
                f"**{hidden} of {count}**" if hidden else f"0 of {count}",
            ]
        )
    return [
        Table(
            "A watermarked model behind an input filter, %: mean (lowest to highest)",
            (
                "filter",
                "NC",
                "owner null",
                "owner true",
                "null agreement",
                "owner WM",
                "verified",
                "clipping agreement",
                "noticed as clipping",
                "hidden and unnoticed",
            ),
            rows,
            "Clipping agreement: how often, at the least, the answers to patterns at lambda are those "
            f"at 1; from {percent(verification.CLIPPING_AGREEMENT)}% on `verify` reports clipped "
            "inputs. Hidden and unnoticed: not verified, not reported, and NC within "
            f"{100 * metrics['acceptable_loss']:g} points. A service that answers as for the clipped "
            "image is the row of clipping to 0..1; where the label of a rejection is the watermark's own, "
            "true accuracy is 100% by itself.",
        )
    ]


def _title(name: str, metrics: dict[str, Any]) -> str:
    low, high = metrics["wide"]
    return {
        "none": "none",
        "clip": "clip to 0..1",
        "clip wide": f"clip to {low:g}..{high:g}",
        "8 bits": "clip, 8 bits",
        "JPEG": f"clip, JPEG {metrics['jpeg_quality']}",
        "min-max": "each image to 0..1",
        "standardise": "each image standardised",
        "reject": f"outside 0..1: answer {metrics['reject_label']}",
    }[name]


def draw(result: Result) -> dict[str, Figure]:
    """Returns NC, null and true by filter."""
    metrics = result["metrics"]
    cases = []
    for each in metrics["filters"]:
        dot = {
            "NC": [record["normal_accuracy"] for record in each["models"]],
            "owner null": [record["owner"]["null"] for record in each["models"]],
            "owner true": [record["owner"]["true"] for record in each["models"]],
        }
        if None in dot["owner null"]:  # Triggers have no null embedding.
            del dot["owner null"]
        cases.append((_title(each["name"], metrics), dot))
    return {
        "input-filter": dots.dots_figure(
            cases, title="the model behind input filters", threshold=metrics["threshold"]
        )
    }


def verdict(result: Result) -> list[Finding]:
    """Returns which filters hide the watermark, and which of them `verify` does not notice."""
    metrics = result["metrics"]
    filters = [each for each in metrics["filters"] if each["name"] != "none"]
    hiding = [each for each in filters if not any(m["verified"] for m in each["models"])]
    unseen = [_title(each["name"], metrics) for each in filters if any(each["unnoticed"])]
    return [
        Finding(
            f"Of {len(filters)} filters in front of the model {len(hiding)} leave no claim that verifies; "
            f"`verify` does not notice {', '.join(unseen) or 'none of them'}."
        )
    ]


EXPERIMENT = Experiment(
    name="input_filter",
    title="Input filters",
    lead="A service puts a filter before the stolen model: it clips, scales, re-encodes or refuses "
    "inputs, of which lambda lies far outside the pixel range. Neither paper looks at this. The "
    "parameters are the victim's own; an authority that has them is not concerned.",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    verdict=verdict,
    captions={
        "input-filter": "NC and the owner's null and true accuracy behind each filter, mean over the "
        "victims and the range between them.",
    },
    triggers=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
