"""Stride-1 convolutions and their gradients as matrix products of the input's windows (im2col).

Products have no algorithm to be searched for, and of several nets at once they are batched products.
Their price is memory: the windows of an image are rows * columns times the image.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def conv2d(
    images: Float[Array, "batch height width channel"],
    kernel: Float[Array, "rows columns channel features"],
    *,
    padding: str,
    precision: str | None,
) -> Float[Array, "batch height2 width2 features"]:
    """Returns what `convolution.conv2d` does, whose arguments these are."""
    rows, columns = kernel.shape[:2]
    around = lax.padtype_to_pads(images.shape[1:3], (rows, columns), (1, 1), padding)
    return _product(_windows(images, rows, columns, around), kernel, precision)


def gradients(
    images: Float[Array, "batch height width channel"],
    kernel: Float[Array, "rows columns channel features"],
    gradient: Float[Array, "batch height2 width2 features"],
    *,
    padding: str,
    precision: str | None,
) -> tuple[Array, Array]:
    """Returns the gradients with respect to images and kernel, given that of the result."""
    rows, columns, channels, features = kernel.shape
    around = lax.padtype_to_pads(images.shape[1:3], (rows, columns), (1, 1), padding)
    windows = _windows(images, rows, columns, around)
    kernel_gradient = jnp.einsum("bhwk,bhwf->kf", windows, gradient, precision=precision)
    # Each input pixel is seen through the kernel turned by half a turn.
    (top, bottom), (left, right) = around
    beyond = ((rows - 1 - top, rows - 1 - bottom), (columns - 1 - left, columns - 1 - right))
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    image_gradient = _product(_windows(gradient, rows, columns, beyond), turned, precision)
    return image_gradient, kernel_gradient.reshape(rows, columns, channels, features)


def _windows(
    images: jax.Array, rows: int, columns: int, around: Sequence[tuple[int, int]]
) -> jax.Array:
    """Returns the window at each place, [batch, height2, width2, rows * columns * channel]."""
    images = jnp.pad(images, ((0, 0), *around, (0, 0)))
    height, width = images.shape[1] - rows + 1, images.shape[2] - columns + 1
    shifted = [
        images[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)
    ]
    return jnp.concatenate(shifted, axis=-1)


def _product(windows: jax.Array, kernel: jax.Array, precision: str | None) -> jax.Array:
    flat = kernel.reshape(-1, kernel.shape[3])
    return jnp.matmul(windows, flat, precision=precision)
