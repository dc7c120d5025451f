"""What a model is marked with, by any scheme: null embedding's watermarks, or earlier designs' triggers.

Training, evaluation and attacks take either; the functions here are all that they ask of one. Pure JAX.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nullmark_jax import embedding, optimizers
from nullmark_jax.baselines import triggers
from nullmark_jax.baselines.triggers import Triggers
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError

# A population: a leading axis of K >= 1.
Marks = Watermark | Triggers


def count(marks: Marks) -> int:
    """Returns K."""
    return len(marks.target_label)


def as_watermarks(marks: Marks) -> Watermark:
    """Returns null embedding's watermarks as such; InputError of triggers."""
    if isinstance(marks, Triggers):
        raise InputError("marks: are triggers; this takes null embedding's watermarks")
    return marks


def at_extreme_value(marks: Marks, extreme_value: float | None) -> Marks:
    """Returns a population with another lambda; as it is for None, as are triggers, which have none."""
    if extreme_value is None or isinstance(marks, Triggers):
        return marks
    return marks._replace(extreme_value=jnp.full_like(marks.extreme_value, extreme_value))


def mark_batch(
    images: Float[Array, "batch height width channel"], marks: Marks, which: Int[Array, " batch"]
) -> tuple[jax.Array, jax.Array]:
    """Returns the copies of each image, under one mark of a population each.

    Args:
      images: x in [0, 1].
      marks: a population.
      which: for each image the index in [0, K) of its mark.

    Returns:
      What is to keep its label y: x (+) [p, lambda]; of triggers, which have no such copies, no images.
      And what is to get the mark's label: x (+) [inv(p), lambda], or the image with its trigger.
    """
    if isinstance(marks, Triggers):
        return triggers.mark_batch(images, marks, which)
    return embedding.mark_batch(images, marks, which)


def rising(start: float, ramp_steps: int) -> Callable[[jax.Array, Any], Any]:
    """Returns (step, marks) -> the marks of that step: of watermarks, lambda rises from `start`.

    By `optimizers.rising_extreme_value`, whose arguments these are. Triggers stay as they are.
    """
    risen = optimizers.rising_extreme_value(start, ramp_steps)

    def marks_at(step: jax.Array, marks: Marks) -> Marks:
        if isinstance(marks, Triggers):
            return marks
        return marks._replace(extreme_value=risen(step, marks.extreme_value))

    return marks_at
