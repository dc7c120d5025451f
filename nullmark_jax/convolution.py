"""Stride-1 convolutions, bias + ReLU and 2x2 max-pooling that are fast, and differentiate fast, on CPUs.

The functions are what their names say on every backend; off the CPU they are what JAX makes of them.
On XLA:CPU these are slow, and are computed otherwise here:

- a convolution of one to three channels (columns are taken for channels);
- the gradients of a convolution (the Cook-Toom method where it is faster, see `winograd`; else, where
  the output is much smaller than the input, a matrix product in place of a convolution most of whose
  products are with the zeros around the output);
- the gradients of a bias (a product with ones in place of a slow reduction) and of a max-pool (JAX's
  divides a gradient among equal maxima, in several passes).

Reverse mode only, of any order.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nullmark_jax import winograd

DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Where a convolution's input has this many times the pixels of its output, its input gradient is a
# matrix product per pixel of the output and a sum of shifted arrays, instead of a convolution. Measured
# on the papers' layers: level at 1.1, 1.1 times as fast at 1.2, 1.6 times at 1.6 and above.
_WASTE_ROWS = 1.15
_WASTE_PIXELS = 1.5

# Bytes of input of which the kernel's gradient is computed at once: it transposes both its arguments, and
# slices that stay in cache are faster, and take less memory.
_SLICE_BYTES = 32 << 20


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(
    images: Float[Array, "batch height width channel"],
    kernel: Float[Array, "rows columns channel features"],
    padding: str = "VALID",
    precision: str | None = None,
) -> Float[Array, "batch height2 width2 features"]:
    """Returns the cross-correlation of stride 1, without bias.

    Args:
      images: x.
      kernel: w, of the images' dtype.
      padding: "VALID": height2 = height - rows + 1; "SAME": height2 = height, the zeros shared as
        `jax.lax.conv_general_dilated` shares them.
      precision: as in `jax.lax.Precision`, of the gradients' products too.
    """
    convolve = partial(_convolve, padding=padding, precision=precision)
    if images.shape[3] > 3:
        return convolve(images, kernel)
    blocked = partial(_convolve_blocks, padding=padding, precision=precision)
    return lax.platform_dependent(images, kernel, cpu=blocked, default=convolve)


def _conv2d_forward(
    images: jax.Array, kernel: jax.Array, padding: str, precision: str | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv2d(images, kernel, padding, precision), (images, kernel)


def _conv2d_backward(
    padding: str,
    precision: str | None,
    residuals: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    def on_cpu(
        images: jax.Array, kernel: jax.Array, gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        # Fused into the copies that the products need, what made these would run slower, and often.
        images, gradient = lax.optimization_barrier((images, gradient))
        return _gradients_cpu(images, kernel, gradient, padding, precision)

    def elsewhere(
        images: jax.Array, kernel: jax.Array, gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return (
            _input_gradient(images, kernel, gradient, padding, precision),
            _kernel_gradient(images, kernel, gradient, padding, precision),
        )

    # Decided when the program is lowered; only the branch of its platform is compiled.
    images, kernel = residuals
    return lax.platform_dependent(images, kernel, gradient, cpu=on_cpu, default=elsewhere)


conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def _convolve(
    images: jax.Array, kernel: jax.Array, padding: str, precision: str | None
) -> jax.Array:
    return lax.conv_general_dilated(
        images, kernel, (1, 1), padding, dimension_numbers=DIMENSIONS, precision=precision
    )


def _convolve_blocks(
    images: jax.Array, kernel: jax.Array, padding: str, precision: str | None
) -> jax.Array:
    """Returns the convolution of images of up to 3 channels, as one of 4 or 8.

    A block of neighbouring columns becomes one column of more channels, and the outputs of a block one
    column of more features; the kernel has a copy of itself for each of them, moved and padded by zeros.
    """
    channels = {1: 1, 2: 2, 3: 4}[images.shape[3]]
    block = 2 if channels == 4 else 4
    rows, columns, given, features = kernel.shape
    zeros = lax.padtype_to_pads(images.shape[1:3], (rows, columns), (1, 1), padding)
    more = (0, channels - given)
    width = images.shape[2] + sum(zeros[1]) - columns + 1
    blocks, reach = -(-width // block), -(-(columns + block - 1) // block)
    rows_of_zeros, (left, _) = zeros
    padded = (blocks + reach - 1) * block
    right = max(0, padded - left - images.shape[2])
    images = jnp.pad(images, ((0, 0), rows_of_zeros, (left, right), more))[:, :, :padded]
    batch, height = images.shape[:2]
    images = images.reshape(batch, height, blocks + reach - 1, block * channels)
    copies = [
        jnp.pad(kernel, ((0, 0), (i, reach * block - columns - i), more, (0, 0)))
        for i in range(block)
    ]
    kernel = jnp.stack(copies, 3).reshape(rows, reach, block * channels, block * features)
    result = _convolve(images, kernel, "VALID", precision)
    return result.reshape(batch, -1, blocks * block, features)[:, :, :width]


def _input_gradient(
    images: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    padding: str,
    precision: str | None,
) -> jax.Array:
    transposed = jax.linear_transpose(
        lambda images: _convolve(images, kernel, padding, precision), images
    )
    return transposed(gradient)[0]


def _kernel_gradient(
    images: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    padding: str,
    precision: str | None,
) -> jax.Array:
    transposed = jax.linear_transpose(
        lambda kernel: _convolve(images, kernel, padding, precision), kernel
    )
    return transposed(gradient)[0]


def _gradients_cpu(
    images: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    padding: str,
    precision: str | None,
) -> tuple[jax.Array, jax.Array]:
    rows, columns, channels, features = kernel.shape
    m = 0
    if rows == columns:
        m = winograd.best_tile(gradient.shape[1], gradient.shape[2], rows, channels, features)
    if not m:
        return (
            _input_gradient_cpu(images, kernel, gradient, padding, precision),
            _kernel_gradient_cpu(images, kernel, gradient, padding, precision),
        )
    zeros = lax.padtype_to_pads(images.shape[1:3], (rows, columns), (1, 1), padding)
    padded = jnp.pad(images, ((0, 0), *zeros, (0, 0)))
    image_gradient, kernel_gradient = winograd.gradients(padded, kernel, gradient, m, precision)
    (top, _), (left, _) = zeros
    height, width = images.shape[1:3]
    return image_gradient[:, top : top + height, left : left + width], kernel_gradient


def _input_gradient_cpu(
    images: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    padding: str,
    precision: str | None,
) -> jax.Array:
    waste = images[0, :, :, 0].size / gradient[0, :, :, 0].size
    if padding != "VALID" or waste < _WASTE_ROWS:
        return _input_gradient(images, kernel, gradient, padding, precision)
    rows, columns, channels, features = kernel.shape
    batch, height, width, _ = gradient.shape
    if waste < _WASTE_PIXELS:
        # Along the height still a convolution; each output pixel gives its `columns` input columns.
        flipped = jnp.flip(kernel, 0).transpose(0, 3, 1, 2).reshape(rows, 1, features, -1)
        parts = lax.conv_general_dilated(
            gradient,
            flipped,
            (1, 1),
            ((rows - 1, rows - 1), (0, 0)),
            dimension_numbers=DIMENSIONS,
            precision=precision,
        ).reshape(batch, height + rows - 1, width, columns, channels)
        return _overlap_add([parts[..., j, :] for j in range(columns)], axis=2)
    flat = kernel.transpose(3, 0, 1, 2).reshape(features, -1)
    parts = jnp.matmul(gradient.reshape(-1, features), flat, precision=precision)
    parts = parts.reshape(batch, height, width, rows, columns, channels)
    return _overlap_add(
        [_overlap_add([parts[..., i, j, :] for j in range(columns)], axis=2) for i in range(rows)],
        axis=1,
    )


def _overlap_add(parts: list[jax.Array], axis: int) -> jax.Array:
    """Returns the sum of `parts`, the i-th moved i places along `axis`."""
    total = jnp.zeros((), parts[0].dtype)
    for i, part in enumerate(parts):
        places = [(0, 0)] * part.ndim
        places[axis] = (i, len(parts) - 1 - i)
        total = total + jnp.pad(part, places)
    return total


def _kernel_gradient_cpu(
    images: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    padding: str,
    precision: str | None,
) -> jax.Array:
    batch = images.shape[0]
    slices = -(-images.size * images.dtype.itemsize // _SLICE_BYTES)
    each = -(-batch // slices)
    total = jnp.zeros((), kernel.dtype)
    for start in range(0, batch, each):
        part = slice(start, start + each)
        total = total + _kernel_gradient(images[part], kernel, gradient[part], padding, precision)
    return total


@jax.custom_vjp
def bias_relu(
    features: Float[Array, "batch height width features"], bias: Float[Array, " features"]
) -> Float[Array, "batch height width features"]:
    """Returns max(features + bias, 0). The gradient is 0 where the result is 0."""
    return jnp.maximum(features + bias[None, None, None], jnp.zeros((), features.dtype))


def _bias_relu_forward(features: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    result = bias_relu(features, bias)
    return result, result


def _bias_relu_backward(result: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    gradient = jnp.where(result > 0, gradient, jnp.zeros((), gradient.dtype))
    return gradient, _sum_of_pixels(gradient)


bias_relu.defvjp(_bias_relu_forward, _bias_relu_backward)


@jax.custom_vjp
def bias_relu_pool(
    features: Float[Array, "batch height width features"], bias: Float[Array, " features"]
) -> Float[Array, "batch height/2 width/2 features"]:
    """Returns the 2x2 maxima, stride 2, of max(features + bias, 0).

    An odd last row or column is dropped (floor). Rounding is monotonic, so bias and ReLU after the
    maximum give the same numbers as before it, on a quarter of the pixels. The gradient goes to the
    first of equal maxima, in row-major order, and is 0 where the result is 0.
    """
    first, second, third, fourth = _windows(features)
    maxima = jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, fourth))
    return jnp.maximum(maxima + bias[None, None, None], jnp.zeros((), features.dtype))


def _windows(features: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns the four pixels of each 2x2 window, in row-major order."""
    height, width = features.shape[1] // 2 * 2, features.shape[2] // 2 * 2
    features = features[:, :height, :width]
    return (
        features[:, ::2, ::2],
        features[:, ::2, 1::2],
        features[:, 1::2, ::2],
        features[:, 1::2, 1::2],
    )


_NOWHERE = 4


def _bias_relu_pool_forward(
    features: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    first, second, third, fourth = _windows(features)
    upper, lower = jnp.maximum(first, second), jnp.maximum(third, fourth)
    result = jnp.maximum(
        jnp.maximum(upper, lower) + bias[None, None, None], jnp.zeros((), features.dtype)
    )
    # Which of the four pixels gets the gradient, 0 to 3, or 4 for none, squared. XLA:CPU computes what
    # is cheap again in every fusion that uses it, here from `features`; a root it computes once.
    number = partial(jnp.full, (), dtype=features.dtype)
    winner = jnp.where(
        upper >= lower,
        jnp.where(first >= second, number(0), number(1)),
        jnp.where(third >= fourth, number(4), number(9)),
    )
    winner = jnp.sqrt(jnp.where(result > 0, winner, number(_NOWHERE**2)))
    odd = jnp.zeros((features.shape[1] % 2, features.shape[2] % 2), jnp.bool_)
    return result, (winner, odd)


def _bias_relu_pool_backward(
    residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    winner, odd = residuals
    batch, height, width, features = winner.shape
    zero = jnp.zeros((), gradient.dtype)
    pixel = jnp.arange(4, dtype=winner.dtype).reshape(1, 1, 2, 1, 2, 1)
    spread = jnp.where(
        winner[:, :, None, :, None, :] == pixel, gradient[:, :, None, :, None, :], zero
    ).reshape(batch, 2 * height, 2 * width, features)
    spread = jnp.pad(spread, ((0, 0), (0, odd.shape[0]), (0, odd.shape[1]), (0, 0)))
    return spread, _sum_of_pixels(jnp.where(winner == _NOWHERE, zero, gradient))


bias_relu_pool.defvjp(_bias_relu_pool_forward, _bias_relu_pool_backward)


def max_pool_2x2(
    features: Float[Array, "batch height width features"],
) -> Float[Array, "batch height/2 width/2 features"]:
    """Returns the 2x2 maxima, stride 2; an odd last row or column is dropped (floor)."""
    first, second, third, fourth = _windows(features)
    return jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, fourth))


def _sum_of_pixels(array: Float[Array, "batch height width features"]) -> Float[Array, " features"]:
    """Returns the sum over all axes but the last, as a product with ones: fast on a CPU, too."""
    rows = array.reshape(array.shape[0] * array.shape[1], -1)
    # "highest": TF32 or bfloat16 would round what is summed.
    sums = jnp.matmul(jnp.ones((rows.shape[0],), rows.dtype), rows, precision="highest")
    return sums.reshape(-1, array.shape[-1]).sum(0)
