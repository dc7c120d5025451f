"""The figures of experiments: accuracies against something, in %."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from nullmark_jax.reports.figures import (
    BLUE,
    DPI,
    GREEN,
    ORANGE,
    STYLE,
    VERMILLION,
)

# Colours of Okabe and Ito, each with a marker of its own for print without colour.
LOOKS = (
    (BLUE, "o", "-"),
    (GREEN, "s", "-"),
    (VERMILLION, "^", "-"),
    (ORANGE, "D", "--"),
    ("#CC79A7", "v", "-."),
    ("#56B4E9", "P", "--"),
)
# Of several models' lines of one colour, the first one's first.
_DASHES = ("-", "--", ":", "-.")


class Line(NamedTuple):
    """A line of a figure.

    Attributes:
      label: in the legend.
      field: the names that lead to its value in a record, a fraction.
    """

    label: str
    field: tuple[str, ...]


def in_epochs(curve: Sequence[Mapping[str, Any]], epochs: int) -> list[dict[str, Any]]:
    """Returns a training's points, by `steps`, with `epochs` beside, of which the last point has all."""
    last = curve[-1]["steps"] or 1
    return [{**point, "epochs": epochs * point["steps"] / last} for point in curve]


@style.context(STYLE)
def curves_figure(
    records: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
    *,
    x: tuple[str, str],
    lines: Sequence[Line],
    title: str,
    threshold: float | None = None,
    claims: Mapping[str, float] | None = None,
    upright: Mapping[str, float] | None = None,
    log_x: bool = False,
    bottom: float = 0.0,
    beside: tuple[str, Sequence[float]] | None = None,
) -> Figure:
    """Draws fractions of records, in %, against another of their fields.

    Args:
      records: at least one; or several models' records: up to four are told apart by their lines' dashes.
      x: that field's name, and what to write on the axis.
      lines: up to six; one whose values all are None is left out.
      title: of the figure.
      threshold: T, a fraction, drawn as a dotted line; None for none.
      claims: fractions to compare with by what to write in the legend, drawn as dashed lines.
      upright: likewise values on the x axis, drawn as upright, dash-dotted lines.
      log_x: whether the axis is logarithmic; where a value is 0 it is linear below 1.
      bottom: a fraction above which all lies, from which on to draw larger.
      beside: what to write in the legend of, and fractions that have no place on the x axis, drawn as
        points to the right of the curves; None for none.
    """
    figure = Figure(figsize=(8, 5), dpi=DPI)
    axes = figure.subplots()
    models: Any = [records] if isinstance(records[0], Mapping) else records
    several = len(models) > 1
    dashes = [_DASHES[i % len(_DASHES)] for i in range(len(models))]
    at = [record[x[0]] for model in models for record in model]
    for line, (colour, marker, dash) in zip(lines, LOOKS, strict=False):
        for i, model in enumerate(models):
            values = [100 * _field(record, line.field) for record in model]
            if np.isnan(values).all():
                continue
            axes.plot(
                [record[x[0]] for record in model],
                values,
                color=colour,
                marker=marker,
                linestyle=dashes[i] if several else dash,
                linewidth=1.2 if several else 2,
                markersize=4 if several else 6,
                markevery=max(1, len(model) // 12),
                label=line.label if i == 0 else None,
            )
    for i, dash in enumerate(dashes if several else ()):
        axes.plot([], [], color="gray", linestyle=dash, linewidth=1.2, label=f"model {i + 1}")
    if threshold is not None:
        axes.axhline(100 * threshold, color="black", linestyle=":", label="threshold")
    for (label, value), (colour, _, _) in zip((claims or {}).items(), LOOKS, strict=False):
        axes.axhline(100 * value, color=colour, linestyle="--", linewidth=1.2, label=label)
    for label, value in (upright or {}).items():
        axes.axvline(value, color="black", linestyle="-.", linewidth=1.2, label=label)
    if beside is not None:
        place = max(at) * 1.3 if log_x else max(at) + 0.06 * (max(at) - min(at))
        axes.scatter(
            [place] * len(beside[1]),
            [100 * each for each in beside[1]],
            label=beside[0],
            marker="D",
            facecolors="none",
            edgecolors="black",
        )
    if log_x and min(at) > 0:
        axes.set_xscale("log")
    elif log_x:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=-0.2)  # Its margin of decades below 0 shows nothing.
    axes.set_xlabel(x[1])
    axes.set_ylabel("images, %")
    axes.set_ylim(100 * bottom - 0.03 * (100 - 100 * bottom), 103 - 3 * bottom)
    axes.grid(color="#DDDDDD")
    axes.set_title(title)
    # Long names side by side are wider than the figure.
    longest = max(len(line.label) for line in lines)
    columns = 4 if longest <= 22 else 3 if longest <= 26 else 2
    shown = len(lines) + 1 + len(upright or {}) + (beside is not None) + several * len(models)
    figure.legend(loc="outside lower center", ncols=min(columns, shown))
    return figure


def _field(record: Mapping[str, Any], names: tuple[str, ...]) -> float:
    value: Any = record
    for name in names:
        value = value[name]
    return np.nan if value is None else value


@style.context(STYLE)
def groups_figure(
    groups: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    x: str,
    title: str,
    upright: Mapping[str, float],
) -> Figure:
    """Draws fractions, in %, each group against values of its own, on a logarithmic axis.

    Args:
      groups: (label, xs, ys), up to six, xs above 0.
      x: what to write on the axis.
      title: of the figure.
      upright: places on the axis by what to write in the legend, drawn as upright lines.
    """
    figure = Figure(figsize=(8, 5), dpi=DPI)
    axes = figure.subplots()
    for (label, xs, ys), (colour, marker, dash) in zip(groups, LOOKS, strict=False):
        axes.plot(
            xs,
            [100 * y for y in ys],
            color=colour,
            marker=marker,
            linestyle=dash,
            linewidth=2,
            markersize=6,
            label=label,
        )
    for label, place in upright.items():
        axes.axvline(place, color="black", linestyle=":", label=label)
    axes.set(xscale="log", xlabel=x, ylabel="images, %", ylim=(-3, 103))
    axes.grid(color="#DDDDDD")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=min(4, len(groups) + len(upright)))
    return figure


@style.context(STYLE)
def scatter_figure(
    groups: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    title: str,
    threshold: float,
    vertical: bool = True,
) -> Figure:
    """Draws points in %, a colour and a marker a group.

    Args:
      groups: (label, xs, ys), up to six.
      x: what to write on the axis.
      y: likewise.
      title: of the figure.
      threshold: drawn as a dotted line across.
      vertical: whether it is drawn upright, too.
    """
    figure = Figure(figsize=(7, 6), dpi=DPI)
    axes = figure.subplots()
    for (label, xs, ys), (colour, marker, _) in zip(groups, LOOKS, strict=False):
        axes.plot(
            xs, ys, linestyle="", color=colour, marker=marker, markersize=5, alpha=0.5, label=label
        )
    for line in (axes.axhline, axes.axvline) if vertical else (axes.axhline,):
        line(threshold, color="black", linestyle=":")
    axes.set(xlabel=x, ylabel=y, xlim=(-3, 103), ylim=(-3, 103))
    axes.grid(color="#DDDDDD")
    axes.set_title(title)
    # As above: long names stand one below the other.
    longest = max(len(label) for label, _, _ in groups)
    figure.legend(loc="outside lower center", ncols=2 if longest <= 30 else 1)
    return figure
