"""A figure of experiments: an accuracy of each of several cases under each of several conditions, in %."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from nullmark_jax.reports.figures import DPI, STYLE


@style.context(STYLE)
def heatmap_figure(
    values: np.ndarray, *, rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """Draws a table of fractions as coloured cells with their numbers, in %.

    The colours (cividis) are told apart by the colour-blind, and in print by their brightness.

    Args:
      values: [rows, columns], in [0, 1].
      rows: what each is.
      columns: likewise.
      title: of the figure.
    """
    # A row has room for three lines; words are not cut.
    width = max(26, max(map(len, rows)) // 3 + 8)
    size = (0.1 * width + 1.1 * len(columns), 1.4 + 0.62 * len(rows))
    figure = Figure(figsize=size, dpi=DPI)
    axes = figure.subplots()
    axes.imshow(values, cmap="cividis", vmin=0.0, vmax=1.0, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        axes.text(
            column,
            row,
            f"{100 * value:.1f}",
            ha="center",
            va="center",
            color="black" if value > 0.5 else "white",
        )
    axes.set_xticks(range(len(columns)), [textwrap.fill(each, 12) for each in columns])
    axes.set_yticks(range(len(rows)), [textwrap.fill(each, width) for each in rows])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize="small")
    axes.set_title(title)
    return figure
