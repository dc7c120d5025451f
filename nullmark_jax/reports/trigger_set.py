"""The triggers of an earlier scheme, drawn: each with its label, or images without and with one."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from matplotlib import style
from matplotlib.figure import Figure

from nullmark_jax.baselines.triggers import Triggers, apply, are_whole_images
from nullmark_jax.reports.figures import DPI, STYLE

_SHOWN = 12


@style.context(STYLE)
def trigger_set_figure(
    images: UInt8[np.ndarray, "count height width channels"], triggers: Triggers
) -> Figure:
    """Draws up to 12 triggers that are images of their own; of others the first, on six images.

    Args:
      images: of the task, 6 or more are best.
      triggers: a population.
    """
    if are_whole_images(triggers):
        shown = np.asarray(triggers.add)[:_SHOWN]
        titles = [f"label {label}" for label in np.asarray(triggers.target_label)[:_SHOWN]]
    else:
        clean = images[: _SHOWN // 2] / np.float32(255)
        marked = np.asarray(apply(jnp.asarray(clean), triggers.keep[:1], triggers.add[:1]))
        shown = np.concatenate([clean, marked])
        titles = ["x"] * len(clean) + [f"label {int(triggers.target_label[0])}"] * len(marked)
    columns = math.ceil(len(shown) / 2)
    figure = Figure(figsize=(1.7 * columns, 4.2), dpi=DPI)
    for axes, values, title in zip(
        figure.subplots(2, columns, squeeze=False).flat, shown, titles, strict=False
    ):
        axes.imshow(
            values if values.shape[-1] == 3 else values.mean(-1), cmap="gray", vmin=0, vmax=1
        )
        axes.set_title(title)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure
