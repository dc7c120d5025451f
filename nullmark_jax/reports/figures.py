"""The figures of a run folder: the pattern, one image as marked, the training curves.

Host, matplotlib. Figures are `matplotlib.figure.Figure` objects; pyplot and its global state are
never touched. They are drawn in matplotlib's default style whatever the user's own, in colours of
Okabe and Ito, which the colour-blind can tell apart, and can be read at half their size. The same
input gives the same PNG bytes under one version of matplotlib.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int8, UInt8
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from nullmark_jax import files, transform
from nullmark_jax.embedding import Watermark, embed, invert, scale_pixels
from nullmark_jax.errors import InputError

DPI = 150

BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
_PLUS, _MINUS, _GREY = ORANGE, BLUE, "#A6A6A6"
STYLE: list[Any] = [
    "default",
    {
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.h_pad": 0.08,
        "figure.constrained_layout.w_pad": 0.08,
        "font.size": 12,
        "axes.titlesize": 12,
        "figure.titlesize": 13,
        "legend.fontsize": 11,
    },
]


class _Curve(NamedTuple):
    """How one accuracy is drawn; markers and dashes differ too, for print without colour."""

    key: str
    name: str
    colour: str
    marker: str


_CURVES = (
    _Curve("normal_accuracy", "NC", BLUE, "o"),
    _Curve("null_accuracy", "null", VERMILLION, "s"),
    _Curve("true_accuracy", "true", GREEN, "^"),
)


@style.context(STYLE)
def pattern_figure(watermark: Watermark) -> Figure:
    """Draws the pattern p: on the left where its block lies in the image, on the right the block.

    White is +lambda, black -lambda, grey a pixel left as it is. The title names y_W, lambda, n and
    the block's top-left pixel (row, column), counted from 0.

    Args:
      watermark: a single one (no leading axis) whose pattern is one n x n block of -1 and 1, as
        `transform` gives it.

    Raises:
      InputError: a population, or a pattern of another form.
    """
    pattern = _single(watermark)
    row, column, n = transform.block_of(pattern)
    height, width = pattern.shape
    figure = Figure(figsize=(8, 4.8), dpi=DPI)
    whole, block = figure.subplots(1, 2)
    _draw_pattern(whole, pattern, 0, 0)
    whole.set_title(f"p, {height} × {width}")
    corner = (column - 0.5, row - 0.5)
    whole.add_patch(Rectangle(corner, n, n, fill=False, edgecolor=VERMILLION, linewidth=2.5))
    _draw_pattern(block, pattern[row : row + n, column : column + n], row, column)
    block.set_title(f"its block, {n} × {n}")
    for i in range(1, n):
        block.axhline(row + i - 0.5, color=_GREY, linewidth=1)
        block.axvline(column + i - 0.5, color=_GREY, linewidth=1)
    for spine in block.spines.values():
        spine.set(edgecolor=VERMILLION, linewidth=2.5)
    figure.suptitle(
        f"$y_W$ = {int(watermark.target_label)}   λ = {float(watermark.extreme_value):g}   "
        f"n = {n}   at row {row}, column {column}"
    )
    figure.legend(
        handles=[
            Patch(facecolor=colour, edgecolor="black", label=label)
            for colour, label in (("white", "1: +λ"), ("black", "−1: −λ"), (_GREY, "0: unchanged"))
        ],
        loc="outside lower center",
        ncols=3,
    )
    return figure


@style.context(STYLE)
def examples_figure(
    image: UInt8[np.ndarray, "height width channel"], watermark: Watermark
) -> Figure:
    """Draws one image as x, x (+) [p, lambda] and x (+) [inv(p), lambda].

    What is drawn are the values that `embed` gives the network. Those outside the pixel range have
    no grey or colour of their own, so they are painted: orange with a plus above it, blue with a
    minus below it.

    Args:
      image: x, uint8. With 1 channel it is drawn in grey, with 3 in colour, otherwise the mean of
        its channels in grey.
      watermark: a single one, of the image's height and width.

    Raises:
      InputError: a population, or an image of another dtype or shape.
    """
    pattern = _single(watermark)
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[:2] != pattern.shape:
        raise InputError(
            f"image: {image.dtype} {image.shape} is not uint8 [H, W, C] with the pattern's H, W = "
            f"{pattern.shape}; give one image of the watermark's task"
        )
    x, p = scale_pixels(jnp.asarray(image)), jnp.asarray(pattern)
    extreme_value, target = float(watermark.extreme_value), int(watermark.target_label)
    figure = Figure(figsize=(10, 4.3), dpi=DPI)
    for axes, title, label, values in zip(
        figure.subplots(1, 3),
        ("x", "null: x ⊕ [p, λ]", "true: x ⊕ [inv(p), λ]"),
        ("y", "y", f"$y_W$ = {target}"),
        (x, embed(x, p, extreme_value), embed(x, invert(p), extreme_value)),
        strict=True,
    ):
        _draw_image(axes, np.asarray(values))
        axes.set_title(title)
        axes.set_xlabel(f"label {label}")
    figure.legend(
        handles=[
            Line2D([], [], color=colour, marker="s", markersize=13, linestyle="", label=label)
            for colour, label in (
                (_PLUS, f"+: +λ = {extreme_value:g}"),
                (_MINUS, f"−: −λ = −{extreme_value:g}"),
            )
        ],
        loc="outside lower center",
        ncols=2,
    )
    return figure


@style.context(STYLE)
def curves_figure(
    history: Sequence[Mapping[str, Any]],
    *,
    threshold: float = 0.8,
    paper: Mapping[str, float] | None = None,
    embedded: bool = True,
) -> Figure:
    """Draws NC, null and true against the epoch, in %.

    Where a curve or the paper's number ends above 50%, a second panel shows the upper end larger.

    Args:
      history: a record an epoch, at least one, with `epoch` and the fractions `normal_accuracy`,
        `null_accuracy` and `true_accuracy`; a value that is not finite, or None, is left out of its curve.
      threshold: T_watermark, a fraction, drawn as a dotted line.
      paper: the paper's fractions by the same names, drawn as dashed lines; those missing are not.
      embedded: whether the model was trained with the watermark. Where not, null and true are those
        of a control watermark, and the legend says so.

    Raises:
      InputError: there is no record, or one lacks a field.
    """
    if not history:
        raise InputError("history: there are no epochs to draw; give at least one record")
    for key in ("epoch", *(curve.key for curve in _CURVES)):
        if any(key not in record for record in history):
            raise InputError(f"history: a record has no {key}; give every epoch's")
    paper = paper or {}
    numbers = {c.key: 100.0 * float(paper[c.key]) for c in _CURVES if c.key in paper}
    epochs = np.array([record["epoch"] for record in history])
    percents = {c.key: 100.0 * np.array([r[c.key] for r in history], float) for c in _CURVES}
    # Triggers have no null embedding, and None of it.
    percents = {key: values for key, values in percents.items() if not np.isnan(values).all()}
    bottom = _upper_end([*(float(values[-1]) for values in percents.values()), *numbers.values()])
    figure = Figure(figsize=(10, 4.8), dpi=DPI)
    panels = figure.subplots(1, 2 if bottom else 1, squeeze=False)[0]
    for axes in panels:
        handles = _draw_curves(axes, epochs, percents, numbers, embedded)
        handles.append(
            axes.axhline(100.0 * threshold, color="black", linestyle=":", label="threshold")
        )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlim(*_epoch_limits(epochs))
        axes.grid(color="#DDDDDD")
    panels[0].set_title("validation images" if embedded else "validation images, no watermark")
    panels[0].set_ylabel("images, %")
    panels[0].set_ylim(-3, 103)
    if bottom:
        panels[1].set_title(f"the same from {bottom:g}% up")
        panels[1].set_ylim(bottom, 100 + 0.03 * (100 - bottom))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


@style.context(STYLE)
def save(figure: Figure, path: files.PathLike) -> None:
    """Writes a figure as PNG, whole or not at all; its folder is made where it is missing.

    The file says neither when nor by which program it was made.

    Raises:
      InputError: the file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    with files.writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, buffer.getvalue())


def _single(watermark: Watermark) -> Int8[np.ndarray, "height width"]:
    """Returns the pattern of a watermark that is no population."""
    pattern = np.asarray(watermark.pattern)
    if pattern.ndim != 2:
        raise InputError(
            f"watermark: its pattern has shape {pattern.shape}, not [H, W]; give one watermark"
        )
    return pattern


def _draw_pattern(
    axes: Axes, part: Int8[np.ndarray, "height width"], row: int, column: int
) -> None:
    """Draws a part of p whose top-left pixel is (row, column); ticks are in the pixels' middles."""
    height, width = part.shape
    right, bottom = column + width, row + height
    axes.imshow(
        _shades(part),
        extent=(column - 0.5, right - 0.5, bottom - 0.5, row - 0.5),
        interpolation="none",
    )
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    axes.set_xticks(range(column, right, math.ceil(width / 8)))
    axes.set_yticks(range(row, bottom, math.ceil(height / 8)))


def _shades(pattern: Int8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Returns p as RGB: black, grey, white for -1, 0, 1."""
    shades = np.array([0, int(_GREY[1:3], 16), 255], np.uint8)
    return np.repeat(shades[pattern + 1][..., None], 3, axis=-1)


def _painted(
    values: Float[np.ndarray, "height width channel"],
) -> tuple[Float[np.ndarray, "height width 3"], np.ndarray, np.ndarray]:
    """Returns values as RGB, extreme ones painted, and where those above and below 0..1 lie."""
    above, below = np.all(values > 1, axis=-1), np.all(values < 0, axis=-1)
    if values.shape[-1] != 3:
        values = np.repeat(values.mean(-1, keepdims=True), 3, axis=-1)
    painted = np.clip(values, 0, 1)
    painted[above], painted[below] = _rgb(_PLUS), _rgb(_MINUS)
    return painted, above, below


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _draw_image(axes: Axes, values: Float[np.ndarray, "height width channel"]) -> None:
    """Draws an image whose extreme values show, each with its sign."""
    painted, above, below = _painted(values)
    height, width = above.shape
    axes.imshow(painted, interpolation="none")
    axes.set(xticks=[], yticks=[])
    # A panel is about 3 inches of 72 points; the sign fills half a pixel of the image.
    size = 0.5 * 3 * 72 / max(height, width)
    for where, marker in ((above, "+"), (below, "_")):
        rows, columns = np.nonzero(where)
        axes.plot(
            columns,
            rows,
            linestyle="",
            marker=marker,
            markersize=size,
            markeredgewidth=max(0.25 * size, 0.5),
            color="black" if marker == "+" else "white",
        )


def _draw_curves(
    axes: Axes,
    epochs: np.ndarray,
    percents: Mapping[str, np.ndarray],
    paper: Mapping[str, float],
    embedded: bool,
) -> list[Line2D]:
    """Draws the three curves and the paper's numbers, all in %; returns them for a legend."""
    lines = []
    for curve in _CURVES:
        if curve.key not in percents:
            continue
        control = curve.key != "normal_accuracy" and not embedded
        lines += axes.plot(
            epochs,
            percents[curve.key],
            color=curve.colour,
            marker=curve.marker,
            markersize=6,
            markevery=max(1, len(epochs) // 12),
            linewidth=2,
            label=f"{curve.name} (control)" if control else curve.name,
            zorder=3,
        )
        if curve.key in paper:
            lines.append(
                axes.axhline(
                    paper[curve.key],
                    color=curve.colour,
                    linestyle="--",
                    label=f"paper: {paper[curve.key]:.2f}",
                )
            )
    return lines


def _epoch_limits(epochs: np.ndarray) -> tuple[float, float]:
    """Returns the ends of the epoch axis, apart even where there is a single epoch."""
    first, last = float(epochs[0]), float(epochs[-1])
    room = max(0.02 * (last - first), 0.5)
    return first - room, last + room


def _upper_end(percents: list[float]) -> float:
    """Returns from how many % up to draw the curves larger, given where they and the paper ended.

    That is a multiple of 5, at most 90, at least 2 below each that ended above 50; 0 where none.
    """
    high = [percent for percent in percents if percent > 50.0]
    return min(90.0, 5.0 * math.floor((min(high) - 2.0) / 5.0)) if high else 0.0
