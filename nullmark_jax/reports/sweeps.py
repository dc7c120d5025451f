"""A sweep for readers: one table, and a figure for each combination of what else varies."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nullmark_jax.experiments.measuring import mean_and_spread
from nullmark_jax.reports.curves import LOOKS
from nullmark_jax.reports.figures import DPI, STYLE
from nullmark_jax.reports.table import Table, percent

Result = dict[str, Any]
_NAMES = ("NC", "null", "true")
# Of the swept fields, in figures.
_AXES = {
    "watermark.extreme_value": "extreme value lambda",
    "watermark.pattern_size": "side n of the pattern, pixels",
    "watermark.num_watermarks": "watermarks in the model",
    "loss.inject_ratio": "injection ratio",
}

LEAD = "A training for each value and seed, all else being equal."


def accuracies(point: dict[str, Any]) -> dict[str, float | None]:
    """Returns a point's NC, null and true, of several watermarks the lowest.

    Null is what the scheme's test asks for: agreement with the model's own answer for "wonder-filter"; None
    of triggers.
    """
    metrics = point["metrics"]
    null = metrics["null_accuracy"]
    if point["scheme"] == "wonder-filter":
        null = metrics["null_agreement"]
    elif null is not None:
        null = min(metrics.get("each_null_accuracy") or [null])
    true = min(metrics.get("each_true_accuracy") or [metrics["true_accuracy"]])
    return {"NC": metrics["normal_accuracy"], "null": null, "true": true}


def tables(result: Result) -> list[Table]:
    """Returns a sweep's one table: NC, null and true by value, with their spread over seeds."""
    metrics = result["metrics"]
    rows = []
    for group, points in _groups(metrics):
        for value, repeated in _by_value(metrics, points):
            found = [accuracies(each) for each in repeated]
            every = [each["metrics"]["verified"] for each in repeated]
            verified = [each for each in every if each is not None]
            rows.append(
                [
                    *group,
                    _shown(value),
                    str(len(found)),
                    *(mean_and_spread(found, name) for name in _NAMES),
                    f"{sum(verified)} of {len(verified)}" if verified else "",
                ]
            )
    notes = [
        "Of several watermarks the lowest; null of wonder filters is agreement with the model's own answer."
    ]
    if metrics["points"]:
        images = metrics["points"][0]["metrics"]["images"]
        notes.insert(0, f"Of {images} test images, one of which is {percent(1 / images)} points.")
    if _unmoved(metrics):
        note = "Every seed's accuracies are the same at all values"
        values = {point["values"].get("precision") for point in metrics["points"]}
        if values <= {"highest", "high", "default"}:
            note += ", as CPUs know one precision; which says nothing of accelerators"
        notes.append(f"{note}.")
    if metrics["dead"]:
        missing = "; ".join(f"{name} ({line})" for name, line in metrics["dead"].items())
        notes.append(f"Not trained: {missing}.")
    swept = Table(
        f"{result['task']}: {metrics['axis']}, %: mean (lowest to highest) over seeds",
        (*metrics["groups"], metrics["axis"], "runs", "NC", "null", "true", "verified"),
        rows,
        " ".join(notes),
    )
    return [swept]


def _unmoved(metrics: dict[str, Any]) -> bool:
    """Returns whether each seed has the same accuracies at every value of the swept field, of several."""
    for _, points in _groups(metrics):
        found = [
            sorted(str(accuracies(each)) for each in repeated)
            for _, repeated in _by_value(metrics, points)
        ]
        if len(found) < 2 or any(each != found[0] for each in found):
            return False
    return bool(metrics["points"])


def _groups(metrics: dict[str, Any]) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
    """Yields the points of each combination of the other varying fields, with its values as text."""

    def key(point: dict[str, Any]) -> list[str]:
        return [_shown(point["values"][field]) for field in metrics["groups"]]

    order = {tuple(key(point)): None for point in metrics["points"]}
    for group in order:
        yield list(group), [point for point in metrics["points"] if tuple(key(point)) == group]


def _by_value(
    metrics: dict[str, Any], points: list[dict[str, Any]]
) -> list[tuple[Any, list[dict[str, Any]]]]:
    """Returns the points of each value of the swept field: numbers ascending, others as they came."""
    axis = metrics["axis"]
    found: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        found.setdefault(repr(point["values"][axis]), []).append(point)
    pairs = [(each[0]["values"][axis], each) for each in found.values()]
    return sorted(pairs, key=lambda pair: pair[0]) if _numbers(pairs) else pairs


def _numbers(pairs: list[tuple[Any, list[dict[str, Any]]]]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value, _ in pairs)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _figure_name(group: list[str]) -> str:
    return "-".join(["sweep", *(re.sub(r"[^\w.+-]", "_", each) for each in group)])


def captions(result: Result) -> dict[str, str]:
    """Returns what each figure shows, by its name."""
    metrics = result["metrics"]
    about = "The mean over seeds; the bars reach from the lowest to the highest."
    if _bottom(metrics) > 100 * metrics["threshold"]:
        about += f" The threshold, {percent(metrics['threshold'])}, is below the figure."
    return {
        _figure_name(group): f"{', '.join(group)}: {about}" if group else about
        for group, _ in _groups(metrics)
    }


def _bottom(metrics: dict[str, Any]) -> float:
    """Returns where the figures of a sweep begin, in percent: one place for all, to be compared.

    That is the lowest accuracy, or the threshold where that takes half of the room at most.
    """
    each = [value for point in metrics["points"] for value in accuracies(point).values()]
    lowest = 100 * min((value for value in each if value is not None), default=1.0)
    threshold = 100 * metrics["threshold"]
    lowest = min(lowest, threshold) if 100 - threshold <= 2 * (100 - lowest) else lowest
    return min(lowest, 99.0)


@style.context(STYLE)
def draw(result: Result) -> dict[str, Figure]:
    """Returns NC, null and true against the swept field, a figure for each group."""
    metrics = result["metrics"]
    bottom, threshold = _bottom(metrics), 100 * metrics["threshold"]
    margin = (100 - bottom) / 20
    drawn = {}
    for group, points in _groups(metrics):
        pairs = _by_value(metrics, points)
        figure = Figure(figsize=(8, 5), dpi=DPI)
        axes = figure.subplots()
        for name, look in zip(_NAMES, LOOKS, strict=False):
            _line(axes, pairs, name, look)
        if threshold >= bottom:
            axes.axhline(threshold, color="black", linestyle=":", label="threshold")
        values = [value for value, _ in pairs]
        if not _numbers(pairs):
            axes.set_xticks(np.arange(len(pairs)), [_shown(value) for value in values])
        elif min(values) > 0 and max(values) >= 100 * min(values):
            axes.set_xscale("log")
        axes.set(xlabel=_AXES.get(metrics["axis"], metrics["axis"]), ylabel="test images, %")
        axes.set_ylim(bottom - margin, 100 + margin)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(color="#DDDDDD")
        axes.set_title(", ".join([result["task"], *group]))
        figure.legend(loc="outside lower center", ncols=4)
        drawn[_figure_name(group)] = figure
    return drawn


def _line(
    axes: Axes,
    pairs: list[tuple[Any, list[dict[str, Any]]]],
    name: str,
    look: tuple[Any, ...],
) -> None:
    """Draws NC, null or true where there is one: triggers have no null."""
    numbers = _numbers(pairs)
    places, spreads = [], []
    for i, (value, points) in enumerate(pairs):
        found = [accuracies(point)[name] for point in points]
        present = [100 * each for each in found if each is not None]
        if present:
            places.append(value if numbers else i)
            spreads.append(present)
    if not spreads:
        return
    middle = np.asarray([np.mean(each) for each in spreads])
    low = middle - [min(each) for each in spreads]
    high = [max(each) for each in spreads] - middle
    if name == "null" and all(
        point["scheme"] == "wonder-filter" for _, points in pairs for point in points
    ):
        name = "null agreement"
    colour, marker, dash = look
    axes.errorbar(
        places,
        middle,
        yerr=np.maximum([low, high], 0),
        color=colour,
        marker=marker,
        linestyle=dash if numbers else "none",  # No order, no line.
        linewidth=2,
        capsize=3,
        label=name,
    )
