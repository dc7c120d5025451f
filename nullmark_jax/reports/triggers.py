"""The figures of found triggers: what they write, and how large their masks are, label by label."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nullmark_jax.reports.curves import LOOKS
from nullmark_jax.reports.figures import DPI, STYLE, VERMILLION


@style.context(STYLE)
def triggers_figure(
    panels: Sequence[tuple[str, Float[np.ndarray, "height width"]]],
    *,
    block: Bool[np.ndarray, "height width"],
    title: str,
) -> Figure:
    """Draws what triggers write, signed: orange above 0, violet below, white at 0.

    Each panel has a scale of its own, up to its largest absolute value, which stands under it.

    Args:
      panels: (what it is, values), one to six.
      block: where the owner's pattern lies, framed in every panel; one pixel at least.
      title: of the figure.
    """
    rows, columns = np.nonzero(block)
    corner = (float(columns.min()) - 0.5, float(rows.min()) - 0.5)
    across, down = float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)
    figure = Figure(figsize=(2.6 * max(len(panels), 2) + 0.4, 3.9), dpi=DPI)
    for axes, (name, values) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        largest = float(np.abs(values).max()) or 1.0
        axes.imshow(values, cmap="PuOr_r", vmin=-largest, vmax=largest, interpolation="none")
        axes.add_patch(
            Rectangle(corner, across, down, fill=False, edgecolor=VERMILLION, linewidth=2)
        )
        axes.set(xticks=[], yticks=[])
        axes.set_title(name)
        axes.set_xlabel(f"within ±{largest:.3g}")
    figure.suptitle(title)
    return figure


class Norms(NamedTuple):
    """One model's mask norms under one search.

    Attributes:
      model: its name.
      norms: |m|_1 by label.
      target: y_W; None of a watermark-free model.
    """

    model: str
    norms: Sequence[float]
    target: int | None


@style.context(STYLE)
def norms_figure(
    panels: Sequence[tuple[str, Sequence[Norms]]], *, owner: float, title: str
) -> Figure:
    """Draws the masks' norms by label, a panel a search and a colour a model, y_W's ringed.

    Args:
      panels: (the search's name, its models), at least one panel, each with up to six models.
      owner: n^2, the norm of the owner's own trigger, drawn as a dotted line; 0 for none. Where norms lie a
        hundredfold apart, a panel's axis is logarithmic.
      title: of the figure.
    """
    figure = Figure(figsize=(8, 2.6 * len(panels) + 1.2), dpi=DPI)
    all_axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (name, models) in zip(all_axes, panels, strict=True):
        for each, (colour, marker, _) in zip(models, LOOKS, strict=False):
            labels = np.arange(len(each.norms))
            axes.plot(
                labels,
                each.norms,
                linestyle="",
                color=colour,
                marker=marker,
                markersize=6,
                label=each.model,
            )
            if each.target is not None:
                axes.plot(
                    [each.target],
                    [each.norms[each.target]],
                    linestyle="",
                    marker="o",
                    markersize=15,
                    markerfacecolor="none",
                    markeredgecolor=colour,
                    markeredgewidth=2,
                )
        drawn = [norm for each in models for norm in each.norms]
        if owner:
            axes.axhline(owner, color="black", linestyle=":", label="the owner's own, n²")
            drawn.append(owner)
        if min(drawn) * 100 < max(drawn):
            axes.set_yscale("symlog", linthresh=0.01)
        else:
            axes.set_ylim(0, 1.1 * max(drawn))
        axes.set_ylabel("|m|₁")
        axes.set_title(name)
        axes.grid(color="#DDDDDD")
    all_axes[-1].set_xlabel("label; ringed: the owner's")
    figure.suptitle(title)
    handles, names = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure
