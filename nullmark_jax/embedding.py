"""The input filter x (+) [p, lambda] and the inversion inv(p) (later paper, Definitions 1 and 2).

Pure JAX. Every function takes any leading batch axes that broadcast, so a population of watermarks
is one `jax.vmap` or one broadcast, never a new program.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Watermark(NamedTuple):
    """An ownership watermark W = (p, y_W, lambda); a pytree, and with a leading axis a population.

    Attributes:
      pattern: p, int8 [..., height, width] in {-1, 0, 1}: replace a pixel by -lambda, leave it,
        replace it by +lambda, the same in every channel. Always what the *null* embedding uses.
      target_label: y_W, int32 [...], the label of the true embedding.
      extreme_value: lambda, float32 [...], > 1 (pixels lie in [0, 1]).
    """

    pattern: Int[Array, "*batch height width"]
    target_label: Int[Array, "*batch"]
    extreme_value: Float[Array, "*batch"]


def embed(
    images: Float[Array, "*batch height width channel"],
    pattern: Int[Array, "*batch height width"],
    extreme_value: Float[Array, "*batch"] | float,
) -> Float[Array, "*batch height width channel"]:
    """Returns x (+) [p, lambda]: p = 1 writes lambda, p = -1 writes -lambda, p = 0 keeps x.

    Args:
      images: x, any float dtype, which the result keeps.
      pattern: p in {-1, 0, 1}, the same in every channel; leading axes broadcast against the
        images' leading axes.
      extreme_value: lambda, a scalar or with leading axes that broadcast in the same way.

    Returns:
      The marked images, with the leading axes of all three broadcast. Pixels with p = 0 are
      bit-identical to `images`; the others do not depend on `images`, so their gradient with
      respect to `images` is exactly 0.
    """
    extreme = jnp.asarray(extreme_value, images.dtype)
    batch = jnp.broadcast_shapes(images.shape[:-3], pattern.shape[:-2], extreme.shape)
    shape = (*batch, *images.shape[-3:])
    pattern = jnp.broadcast_to(pattern[..., None], shape)
    extreme = jnp.broadcast_to(extreme[..., None, None, None], shape)
    written = pattern.astype(images.dtype) * extreme
    return jnp.where(pattern == 0, images, written)


def invert(pattern: Int[Array, "*batch height width"]) -> Int[Array, "*batch height width"]:
    """Returns inv(p): white and black change places, the rest stays; invert(invert(p)) = p."""
    return -pattern


def scale_pixels(images: Array) -> Float[Array, "*batch height width channel"]:
    """Returns uint8 images as float32 in [0, 1] (the normalisation of the later paper, 7.1)."""
    return images.astype(jnp.float32) * jnp.float32(1 / 255)


def mark_batch(
    images: Float[Array, "batch height width channel"],
    watermarks: Watermark,
    which: Int[Array, " batch"],
) -> tuple[jax.Array, jax.Array]:
    """Returns the null and the true copy of each image, under one watermark of a population each.

    Args:
      images: x, float.
      watermarks: a population: a leading axis of K >= 1.
      which: for each image the index in [0, K) of its watermark.

    Returns:
      (x (+) [p, lambda], x (+) [inv(p), lambda]), each of the images' shape.
    """
    pattern, extreme = watermarks.pattern[which], watermarks.extreme_value[which]
    return embed(images, pattern, extreme), embed(images, invert(pattern), extreme)
