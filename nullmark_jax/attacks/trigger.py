"""A backdoor's trigger, what it makes of an image, and how like it is to an owner's pattern."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Trigger(NamedTuple):
    """What is blended into an image; with a leading axis, several.

    Attributes:
      mask: m, float32 [..., height, width] in [0, 1].
      pattern: float32 [..., height, width, channel], within the reach.
    """

    mask: Float[Array, "*batch height width"]
    pattern: Float[Array, "*batch height width channel"]


def stamp(
    images: Float[Array, "*batch height width channel"], trigger: Trigger
) -> Float[Array, "*batch height width channel"]:
    """Returns (1 - m) x + m pattern; the trigger's leading axes broadcast against the images'.

    A mask of 0 returns the images as they are, a mask of 1 the pattern.
    """
    shape = jnp.broadcast_shapes(images.shape, trigger.pattern.shape)
    mask = jnp.broadcast_to(trigger.mask[..., None], shape)
    images, pattern = jnp.broadcast_to(images, shape), jnp.broadcast_to(trigger.pattern, shape)
    return (1 - mask) * images + mask * pattern


class Likeness(NamedTuple):
    """How much of the owner's pattern is in a found trigger.

    Attributes:
      share: the part of |m|_1 that lies in the pattern's block, in [0, 1]; that of the block's area
        where the mask is all 0.
      chance: the block's share of the image's area: what a mask spread evenly has.
      signs: of the block's pixels and channels, weighted by m, the share in which the trigger has the
        sign of inv(p): above the middle of its reach where inv(p) = 1, below where it is
        -1. Half of them by chance; 0.5 where the mask is all 0 there.
    """

    share: float
    chance: float
    signs: float


def likeness(
    trigger: Trigger, pattern: Int[np.ndarray, "height width"], *, middle: float
) -> Likeness:
    """Returns how like a found trigger is to the inverse of an owner's pattern p.

    Args:
      trigger: a single one.
      pattern: p, in {-1, 0, 1}, not all 0.
      middle: of the trigger's reach.
    """
    block = np.asarray(pattern) != 0
    chance = float(block.mean())
    mask = np.asarray(trigger.mask, np.float64)
    values = np.asarray(trigger.pattern) - middle
    agree = (np.sign(values) == -np.asarray(pattern)[..., None]).mean(-1)
    inside = float(mask[block].sum())
    return Likeness(
        share=inside / float(mask.sum()) if mask.sum() else chance,
        chance=chance,
        signs=float((mask * agree)[block].sum()) / inside if inside else 0.5,
    )
