"""A figure of experiments: accuracies of several cases, each against numbers of its own, in %."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from nullmark_jax.reports.curves import LOOKS
from nullmark_jax.reports.figures import DPI, STYLE


class Series(NamedTuple):
    """One case.

    Attributes:
      label: in the legend.
      x: numbers above 0.
      y: fractions, as many.
      look: which of the six looks; cases of one kind may share it.
      dashed: whether its line is dashed.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    look: int
    dashed: bool = False


@style.context(STYLE)
def series_figure(
    series: Sequence[Series], *, x: str, title: str, levels: Mapping[str, float]
) -> Figure:
    """Draws each case's fractions, in %, against its numbers on a logarithmic axis.

    Args:
      series: one at least.
      x: what to write on that axis.
      title: of the figure.
      levels: fractions by what to write in the legend, drawn as dotted lines across.
    """
    figure = Figure(figsize=(8, 5.6), dpi=DPI)
    axes = figure.subplots()
    for each in series:
        colour, marker, _ = LOOKS[each.look % len(LOOKS)]
        axes.plot(
            each.x,
            [100 * value for value in each.y],
            color=colour,
            marker=marker,
            markersize=11 if each.dashed else 6,  # seen where two cases lie upon each other
            markerfacecolor="none" if each.dashed else colour,
            linestyle="--" if each.dashed else "-",
            linewidth=2,
            label=each.label,
        )
    for label, value in levels.items():
        axes.axhline(100 * value, color="black", linestyle=":", label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(x)
    axes.set_ylabel("images, %")
    axes.set_ylim(-3, 103)
    axes.grid(color="#DDDDDD")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure
