"""Triggers: images, or changes of images, that a watermarked model gives a label of their own.

Both earlier designs are populations of these. An abstract image with a label (Adi et al.) replaces whatever
image it is put on; a text or noise (Zhang et al.) is put on any. Pure JAX.
"""

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from nullmark_jax.errors import InputError


def generator(purpose: str, seed: int, number: int = 0) -> np.random.Generator:
    """Returns a generator of its own for each purpose, seed >= 0 and number.

    Seeded by SHA-256, so that what one shows, of a picture opened say, tells nothing of another.
    """
    text = f"nullmark-triggers/{purpose}/{number}/{seed}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))


class Triggers(NamedTuple):
    """K triggers x -> clip(keep * x + add, 0, 1), each with its label; a pytree.

    Attributes:
      keep: float32 [K, height, width, channel] in [0, 1]: what stays of each pixel; 0 throughout for a
        trigger that is an image of its own.
      add: float32 [K, height, width, channel]: what is added to it.
      target_label: int32 [K], the label that marks a watermarked model.
    """

    keep: Float[Array, "triggers height width channel"]
    add: Float[Array, "triggers height width channel"]
    target_label: Int[Array, " triggers"]


def as_triggers(keep: np.ndarray, add: np.ndarray, labels: np.ndarray) -> Triggers:
    """Returns triggers of NumPy arrays, as the fields of `Triggers`."""
    # Where the type asks for JAX's; both are leaves alike.
    fields: list[Any] = [keep.astype(np.float32), add.astype(np.float32), labels.astype(np.int32)]
    return Triggers(*fields)


def whole_images(
    images: UInt8[np.ndarray, "triggers height width channel"],
    labels: Int[np.ndarray, " triggers"],
) -> Triggers:
    """Returns triggers that are images of their own.

    Raises:
      InputError: there is none, or not a label for each.
    """
    if not 1 <= len(images) == len(labels):
        raise InputError(
            f"triggers: there are {len(images)} images and {len(labels)} labels; give as many labels "
            "as images, one at least"
        )
    pixels = images.astype(np.float32) * np.float32(1 / 255)
    return as_triggers(np.zeros_like(pixels), pixels, labels)


def are_whole_images(triggers: Triggers) -> bool:
    """Returns whether no image shows through any of the triggers."""
    return not np.any(triggers.keep)


def apply(
    images: Float[Array, "*batch height width channel"],
    keep: Float[Array, "*batch height width channel"],
    add: Float[Array, "*batch height width channel"],
) -> Float[Array, "*batch height width channel"]:
    """Returns clip(keep * x + add, 0, 1), leading axes broadcast."""
    return jnp.clip(images * keep + add, 0.0, 1.0)


def mark_batch(
    images: Float[Array, "batch height width channel"],
    triggers: Triggers,
    which: Int[Array, " batch"],
) -> tuple[jax.Array, jax.Array]:
    """Returns what `embedding.mark_batch` does, but that a trigger has no null copies.

    Args:
      images: x in [0, 1].
      triggers: K >= 1 of them.
      which: for each image the index in [0, K) of its trigger.

    Returns:
      No images, shape [0, height, width, channel]; and the images with their triggers.
    """
    return images[:0], apply(images, triggers.keep[which], triggers.add[which])
