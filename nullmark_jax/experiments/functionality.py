"""Functionality: what embedding a watermark costs, over owners, extreme values and pattern sizes.

    python -m nullmark_jax.experiments.functionality --config=configs/attacks/functionality.py:TASK \\
        --victim=RUN --workdir=OUT

Later paper, Table 4; earlier paper, Table III: 10 random owners, each model beside its watermark-free twin;
then Observation 1 (N_p of up to 10% of the input, as far as the recipe finds a place) and lambda. Nothing is
attacked: the run given shows the recipe, by which all models are trained anew. Each has a run folder of its
own in OUT/runs.
"""

import sys
from collections.abc import Callable

import ml_collections
import numpy as np
from matplotlib.figure import Figure

from nullmark_jax import checks, signing
from nullmark_jax import config as configs
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import experiment
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import Record, mean_and_spread, t_interval
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.owner import latest_timestamp
from nullmark_jax.reports import curves, runs
from nullmark_jax.reports.table import Table, many, percent
from nullmark_jax.run import train_and_evaluate

# An owner of a wonder filter is verified by the agreement (earlier paper, equation 6).
_WONDER_COLUMNS = {
    name: title for name, title in runs.WONDER_COLUMNS.items() if name != "null_accuracy"
}
# What all owners sign, or the latest second before it whose pattern the recipe can embed.
_TIMESTAMP = "2026-11-21T00:00:00Z"


# Both papers' claim.
COST = "A watermark costs about a point of NC on average"
# The later paper's 10% of the input, as near as squares come to it; points of NC that are noticed.
_LARGEST_SHARE = 0.105
_NOTICEABLE = 1.0
# Points of NC, the means of the later paper's Table 4 and of the earlier one's Table III.
_COSTS = {"later": 0.93, "earlier": 0.89}


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # Numbers of the public experiment keys that sign, which are the runs' seeds, too: an owner each.
    config.experiment_keys = tuple(range(10))
    # Of the first owner, one changed at a time.
    config.extreme_values = (2.0, 10.0, 100.0, 1000.0, 10000.0)
    config.pattern_sizes = (2, 4, 8, 9, 11)
    # Epochs of each training; 0 for those of the run given.
    config.epochs = 0
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    if not config.experiment_keys:
        raise InputError("config.experiment_keys: is empty; give one at least, say (0,)")
    for key in config.experiment_keys:
        checks.integer("config.experiment_keys", key, 0, 2**31 - 1)
    if len(set(config.experiment_keys)) < len(config.experiment_keys):
        raise InputError(
            f"config.experiment_keys: {config.experiment_keys} holds one twice; give each once"
        )
    checks.integer("config.epochs", config.epochs, 0, 10**6)
    if config.seed:
        raise InputError("config.seed: each training's is its experiment key; give 0")
    if config.test_images:
        raise InputError("config.test_images: this experiment measures on all; give 0")
    for value in config.extreme_values:
        if checks.real("config.extreme_values", value) <= 1:
            raise InputError(f"config.extreme_values: {value} must be above 1; give say 2000.0")
    for size in config.pattern_sizes:
        checks.integer("config.pattern_sizes", size, 1, 1000)


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: the owners' models, their twins, and the sweeps."""
    if len(victims) > 1:
        raise InputError("--victim: this experiment takes the recipe of one run; give one")
    recipe = victims[0].config
    if not recipe.watermark.num_watermarks:
        raise InputError("--victim: is watermark-free, which is no recipe; give a watermarked run")
    own = recipe.watermark

    def trained(name: str, seed: int, **changes: float) -> Callable[[], Record]:
        run = run_config(recipe, seed, epochs=config.epochs, **changes)

        def train() -> Record:
            metrics = train_and_evaluate(run, journal.folder / "runs" / name)["metrics"]
            kept = {field: metrics[field] for field in (*runs.COLUMNS, "null_agreement")}
            return {**kept, "verified": metrics["verified"], "images": metrics["images"]}

        return train

    planned: dict[str, Callable[[], Record]] = {}
    keys = config.experiment_keys
    for key in keys:
        planned[f"owner-{key}"] = trained(f"owner-{key}", key)
        planned[f"free-{key}"] = trained(f"free-{key}", key, num_watermarks=0)
    for value in config.extreme_values:
        name = f"lambda-{value:g}"
        planned[name] = trained(name, keys[0], extreme_value=float(value))
    for size in config.pattern_sizes:
        planned[f"n-{size}"] = trained(f"n-{size}", keys[0], pattern_size=size)
    records = dict(journal.run(planned))
    first = records[f"owner-{keys[0]}"]
    height, width, _ = recipe.data.input_shape
    values = {own.extreme_value: first} | {
        value: records[f"lambda-{value:g}"] for value in config.extreme_values
    }
    sizes = {own.pattern_size: first} | {
        size: records[f"n-{size}"] for size in config.pattern_sizes
    }
    return {
        "threshold": own.threshold,
        "scheme": own.scheme,
        "epochs": config.epochs or recipe.epochs,
        "experiment_keys": list(keys),
        "owners": [records[f"owner-{key}"] for key in keys],
        "free": [records[f"free-{key}"] for key in keys],
        "extreme_values": [{"extreme_value": v, **values[v]} for v in sorted(values)],
        "pattern_sizes": [
            {"pattern_size": n, "share": n * n / (height * width), **sizes[n]}
            for n in sorted(sizes)
        ],
    }


def run_config(
    recipe: ml_collections.ConfigDict, seed: int, *, epochs: int, **changes: float
) -> ml_collections.ConfigDict:
    """Returns the config of a training by a run's recipe.

    Args:
      recipe: that run's config.
      seed: of the training, and the number of the public experiment key that signs.
      epochs: of the training, lambda rising over the same share of them; 0 for the recipe's.
      changes: of `config.watermark`.

    Raises:
      InputError: of the seconds tried none gives a pattern that suits.
    """
    run = ml_collections.ConfigDict(recipe.to_dict())
    run.seed = seed
    run.owner.experiment_key = seed
    run.owner.key_file = run.owner.passphrase_file = ""
    free = changes.pop("num_watermarks", None)
    run.watermark.update(changes)
    run.owner.timestamp = latest_timestamp(run, signing.experiment_key(seed), _TIMESTAMP)
    if free is not None:  # A twin differs from its owner's model in nothing else.
        run.watermark.num_watermarks = free
    if epochs:
        run.curriculum.epochs *= epochs / run.epochs
        run.epochs = epochs
        run.optimizer.warmup_steps = min(run.optimizer.warmup_steps, 10)
    return run


# For readers.


def _paper(result: Result) -> tuple[str, dict[str, float]]:
    """Returns whose scheme it is, and what that paper prints of it, if anything (`config.printed`)."""
    scheme = result["metrics"].get("scheme", "null-embedding")  # Earlier results are all of that.
    which = "earlier" if scheme == "wonder-filter" else "later"
    return which, configs.printed_of(scheme, result["paper"])


def _columns(result: Result) -> dict[str, str]:
    return _WONDER_COLUMNS if _paper(result)[0] == "earlier" else runs.COLUMNS


def tables(result: Result) -> list[Table]:
    """Returns Table 4, of wonder filters Table III, and the two sweeps."""
    metrics, columns, (which, paper) = result["metrics"], _columns(result), _paper(result)
    rows = [
        _row(f"watermarked, {many(len(metrics['owners']), 'owner')}", metrics["owners"], columns)
    ]
    free = _row(f"watermark-free, {many(len(metrics['free']), 'twin')}", metrics["free"], columns)
    rows.append([*free[:2], "", "", "", ""])
    if paper:
        _, null, true, mark = columns
        theirs = paper | {mark: min(paper[null], paper[true])}
        shown = (percent(theirs[name]) for name in columns)
        rows.append([f"{which} paper, watermarked", *shown, ""])
        free_accuracy = percent(paper["free_normal_accuracy"])
        rows.append([f"{which} paper, watermark-free", free_accuracy, "", "", "", ""])
    header = ("model", *columns.values(), "verified")
    sweeps = [
        Table(
            "One owner, %: lambda",
            ("lambda", *header[1:]),
            [
                _row(f"{each['extreme_value']:g}", [each], columns)
                for each in metrics["extreme_values"]
            ],
        ),
        Table(
            "One owner, %: pattern size",
            ("n (share of the input)", *header[1:]),
            [
                _row(f"{each['pattern_size']} ({100 * each['share']:.1f}%)", [each], columns)
                for each in metrics["pattern_sizes"]
            ],
        ),
    ]
    return [
        Table(
            "What a watermark costs, %: mean (lowest to highest)",
            header,
            rows,
            f"Each model trained {many(metrics['epochs'], 'epoch')}.{_signed_with(metrics)}",
        ),
        *(table for table in sweeps if len(table.rows) > 1),
    ]


def _signed_with(metrics: Metrics) -> str:
    """Returns by which keys the owners signed; earlier results' are 0, 1, ..."""
    keys = metrics.get("experiment_keys")
    return f" The owners' experiment keys: {', '.join(map(str, keys))}." if keys else ""


def _row(name: str, models: list[Record], columns: dict[str, str]) -> list[str]:
    verified = sum(each["verified"] is True for each in models)
    return [
        name,
        *(mean_and_spread(models, field) for field in columns),
        f"{verified} of {len(models)}",
    ]


def draw(result: Result) -> dict[str, Figure]:
    """Returns accuracies against lambda and against the pattern's share of the input."""
    metrics, columns = result["metrics"], _columns(result)
    lines = tuple(
        curves.Line(label, (field,))
        for field, label in columns.items()
        if field != "watermark_accuracy"  # The lower of two others.
    )
    sweeps = (
        ("functionality-lambda", "extreme_values", ("extreme_value", "lambda"), True),
        ("functionality-size", "pattern_sizes", ("share", "share of the input's pixels"), False),
    )
    lowest = min(each[of] for _, field, _, _ in sweeps for each in metrics[field] for of in columns)
    high = lowest > 0.95  # Where there is nothing to see else.
    free = {"NC without a watermark": metrics["free"][0]["normal_accuracy"]}
    later = {"Observation 1: up to 10%": 0.1} if _paper(result)[0] == "later" else {}
    return {
        name: curves.curves_figure(
            metrics[field],
            x=x,
            lines=lines,
            title="one owner",
            threshold=None if high else metrics["threshold"],
            claims=free,
            upright=later if field == "pattern_sizes" else {},
            log_x=log_x,
            bottom=0.95 if high else 0.0,
        )
        for name, field, x, log_x in sweeps
        if len(metrics[field]) > 1
    }


def verdict(result: Result) -> list[Finding]:
    """Returns what the watermark costs in NC."""
    metrics, (which, paper) = result["metrics"], _paper(result)
    cost = [
        100 * (free["normal_accuracy"] - own["normal_accuracy"])
        for own, free in zip(metrics["owners"], metrics["free"], strict=True)
    ]
    mean_cost = sum(cost) / len(cost)
    interval, low, high = "", mean_cost, np.inf
    if len(cost) > 1:
        low, high = t_interval(cost)
        interval = f"; 95% t interval of the mean {low:.2f} to {high:.2f}"
    average = _COSTS[which]
    printed, most = f"{average} on average over its tasks", average
    if paper:
        theirs = 100 * (paper["free_normal_accuracy"] - paper["normal_accuracy"])
        printed, most = f"{theirs:.2f} on this task, {printed}", max(theirs, average)
    verified = sum(each["verified"] is True for each in metrics["owners"])
    return [
        Finding(
            f"A watermark costs {mean_cost:.2f} points of NC ({min(cost):.2f} to {max(cost):.2f}) over "
            f"{many(len(cost), 'owner')}{interval}; the {which} paper has {printed}.",
            # What so many owners cannot tell from what it has at most is neither.
            None if len(cost) == 1 else False if low > most else True if high <= most else None,
            claim=f"{COST} ({which} paper)",
            brief=f"{mean_cost:.2f} points, n {len(cost)}",
        ),
        Finding(
            f"Of the claims of {many(len(cost), 'owner')} {verified} verify.",
            verified == len(cost),
            claim="What was embedded verifies (both papers)",
            brief=f"{verified} of {len(cost)}",
        ),
        *_observation_1(metrics),
    ]


def _observation_1(metrics: Metrics) -> list[Finding]:
    """Returns what patterns of up to 10% of the input cost, where such were tried."""
    some = [each for each in metrics["pattern_sizes"] if each["share"] <= _LARGEST_SHARE]
    if len(some) < 2:
        return []
    largest = max(each["share"] for each in some)
    low, high = (f(each["normal_accuracy"] for each in some) for f in (min, max))
    verified = sum(each["verified"] is True for each in some)
    # The same seed's, whose owner's pattern sizes these are.
    free = metrics["free"][0]["normal_accuracy"]
    whole = verified == len(some) and 100 * (free - low) <= _NOTICEABLE
    return [
        Finding(
            "Patterns of up to 10% of the input cost no NC to notice (the later paper's Observation 1): of "
            f"{len(some)} sizes up to {percent(largest)}% NC is {percent(low)} to {percent(high)}, of the "
            f"watermark-free twin {percent(free)}, and {verified} verify (one owner).",
            whole if largest >= 0.09 else None,
            claim="Patterns of up to 10% of the input cost no noticeable accuracy (later paper)",
            brief=f"NC {percent(low)} to {percent(high)}, up to {percent(largest)}%",
        )
    ]


EXPERIMENT = Experiment(
    name="functionality",
    title="What a watermark costs",
    lead="Models of random owners beside watermark-free twins of the same seed, all trained by one "
    "recipe; then other extreme values and pattern sizes.",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    verdict=verdict,
    captions={
        "functionality-lambda": "Accuracies against lambda, one owner.",
        "functionality-size": "Accuracies against the pattern's size, one owner (Observation 1).",
    },
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
