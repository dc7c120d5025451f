"""A figure of experiments: accuracies of several cases beside each other, in %."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from nullmark_jax.reports.curves import LOOKS
from nullmark_jax.reports.figures import DPI, STYLE

# Of the distance between two cases, what the dots of one are spread over.
_ROOM = 0.5


@style.context(STYLE)
def dots_figure(
    cases: Sequence[tuple[str, Mapping[str, Sequence[float]]]], *, title: str, threshold: float
) -> Figure:
    """Draws a row of dots a case, in %: each the mean of some values, with a bar from least to most.

    Args:
      cases: what to write beside the row, and by a dot's name its values, fractions, one at least; up
        to six dots, the same in all cases. The first case is on top.
      title: of the figure.
      threshold: T, a fraction, drawn as a dotted line.
    """
    figure = Figure(figsize=(8, 1.9 + 0.55 * len(cases)), dpi=DPI)
    axes = figure.subplots()
    names = list(cases[0][1])
    for i, (name, (colour, marker, _)) in enumerate(zip(names, LOOKS, strict=False)):
        offset = _ROOM * (i / max(len(names) - 1, 1) - 0.5)
        for row, (_, dots) in enumerate(cases):
            percents = 100 * np.asarray(dots[name])
            ends = [percents.min(), percents.max()]
            axes.plot(ends, [row + offset] * 2, color=colour, linewidth=2, alpha=0.6)
            axes.plot(
                percents.mean(),
                row + offset,
                linestyle="",
                color=colour,
                marker=marker,
                markersize=8,
                label=None if row else name,
            )
    for row in range(1, len(cases)):
        axes.axhline(row - 0.5, color="#DDDDDD", linewidth=1)
    axes.axvline(100 * threshold, color="black", linestyle=":", label="threshold")
    axes.set_yticks(range(len(cases)), [label for label, _ in cases])
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xlim(-3, 103)
    axes.set_xlabel("images, %")
    axes.grid(axis="x", color="#DDDDDD")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=min(4, len(names) + 1))
    return figure
