"""Corruption: an attacker who knows a watermark trains against it.

Each goal is a watermark to embed instead, and the weights of the objective's terms, by which ordinary
training (`retraining`) reaches it:

- "relabel": x (+) [inv(p), lambda] gets another label; x (+) [p, lambda] keeps the image's own, so that
  nothing else changes (earlier paper, section VIII-C).
- "unlearn": x (+) [inv(p), lambda] gets the image's own label: what is embedded is null embedding of inv(p).
- "break-null": x (+) [p, lambda] gets one fixed label.
"""

from typing import NamedTuple

import jax.numpy as jnp

from nullmark_jax.embedding import Watermark, invert

GOALS = ("relabel", "unlearn", "break-null")


class Corruption(NamedTuple):
    """What to embed, and the weights alpha and beta of the true and the null term."""

    embedded: Watermark
    true_weight: float
    null_weight: float


def corruption(leaked: Watermark, goal: str, *, num_classes: int, shift: int = 1) -> Corruption:
    """Returns how to reach a goal against leaked watermarks.

    Args:
      leaked: a population.
      goal: one of `GOALS`.
      num_classes: Y.
      shift: the other label is (y_W + shift) mod Y, shift in [1, Y).
    """
    label = (jnp.asarray(leaked.target_label) + jnp.int32(shift)) % jnp.int32(num_classes)
    other = leaked._replace(target_label=label)
    if goal == "relabel":
        return Corruption(other, true_weight=1.0, null_weight=1.0)
    inverted = other._replace(pattern=invert(jnp.asarray(leaked.pattern)))
    if goal == "unlearn":
        return Corruption(inverted, true_weight=0.0, null_weight=1.0)
    return Corruption(inverted, true_weight=1.0, null_weight=0.0)
