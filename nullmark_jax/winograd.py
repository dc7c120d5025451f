"""Both gradients of a stride-1 convolution by the Cook-Toom (Winograd) method, for CPUs.

y = A^T[(G w G^T) o (B^T x B)]A computes a tile of m x m outputs of a k x k convolution from a = m + k - 1
squared inputs with a^2 instead of m^2 k^2 multiplications (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", 2016). With V = A (dy) A^T and U = B^T x B its gradients are

    dw = G^T (sum over tiles of U o V) G,      dx = overlap-add of B (V o (G w G^T)) B^T,

and V serves both. The price is rounding: gradients here are within 2e-5 of their largest entry, where a
direct sum is within 5e-7. Networks' forward passes stay direct: there, a pixel at lambda would round its
whole tile as coarsely as itself.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Points at which the polynomials of a tile are evaluated, besides infinity. An eighth and more would cost
# another digit of precision.
_POINTS = (0.0, 1.0, -1.0, 2.0, -0.5, -2.0, 0.5)
_LARGEST_TILE = len(_POINTS) + 1

# Time per number that is transformed and per multiplication of transformed numbers, in multiplications
# of a direct gradient; measured on the papers' layers.
_TRANSFORM_COST = 130.0
_PRODUCT_COST = 1.3
_MARGIN = 0.8

# Products with a long inner axis are cut into pieces of about this length, which stay in cache.
_INNER = 128


def best_tile(height: int, width: int, side: int, channels: int, features: int) -> int:
    """Returns m for the gradients of a convolution, or 0 where a direct gradient is not slower.

    Args:
      height, width: of the convolution's output.
      side: k, of its square kernel.
      channels, features: its channels in and out.
    """
    direct = 2.0 * height * width * side**2 * channels * features
    best, least = 0, _MARGIN * direct
    for m in range(2, _LARGEST_TILE - side + 2):
        numbers = -(-height // m) * -(-width // m) * (m + side - 1) ** 2
        cost = numbers * (
            _TRANSFORM_COST * (channels + features) + 2 * _PRODUCT_COST * channels * features
        )
        if cost < least:
            best, least = m, cost
    return best


@cache
def matrices(m: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns A [a, m], G [a, k] and B^T [a, a] of the one-dimensional method, float64.

    Row f of A and of G holds the powers of point f, the last row that of infinity; B^T is what makes
    sum_f A[f, i] G[f, j] B^T[f, t] = 1 where t = i + j and 0 elsewhere. Rows of B^T are scaled to a
    largest entry of 1, those of G inversely.
    """
    a = m + k - 1
    powers = np.vander(_POINTS[: a - 1], a, increasing=True)
    powers = np.vstack([powers, np.eye(a)[-1]])
    b = np.linalg.inv(powers).T
    scale = np.abs(b).max(1, keepdims=True)
    left, right = powers[:, :m].copy(), powers[:, :k].copy()
    left[-1], right[-1] = np.eye(m)[-1], np.eye(k)[-1]
    return left, right * scale, b / scale


def gradients(
    images: Float[Array, "batch height width channel"],
    kernel: Float[Array, "side side channel features"],
    gradient: Float[Array, "batch height2 width2 features"],
    m: int,
    precision: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients with respect to `images` and `kernel` of their VALID convolution.

    Args:
      gradient: with respect to the output, height2 = height - side + 1 and likewise its width.
      m: outputs a tile, along each axis; 2 <= m <= 9 - side.
      precision: of the matrix products, as in `jax.lax.Precision`.
    """
    batch, height, width, channels = images.shape
    side, features = kernel.shape[0], kernel.shape[3]
    out_height, out_width = gradient.shape[1:3]
    down, across = -(-out_height // m), -(-out_width // m)
    a = m + side - 1
    tiles = batch * down * across
    rest = ((0, 0), (0, down * m - out_height), (0, across * m - out_width), (0, 0))
    left, right, b = (
        jnp.asarray(np.kron(matrix, matrix), images.dtype) for matrix in matrices(m, side)
    )
    matmul = lambda x, y: jnp.matmul(x, y, precision=precision)  # noqa: E731
    einsum = lambda spec, x, y: jnp.einsum(spec, x, y, precision=precision)  # noqa: E731

    cells = jnp.pad(gradient, rest).reshape(batch, down, m, across, m, features)
    v = matmul(left, cells.transpose(2, 4, 0, 1, 3, 5).reshape(m * m, -1))
    v = v.reshape(a * a, tiles, features)

    padded = jnp.pad(images, rest)
    strips = jnp.stack([padded[:, i * m : i * m + a] for i in range(down)], 1)
    cells = jnp.stack([strips[:, :, :, j * m : j * m + a] for j in range(across)], 3)
    u = matmul(b, cells.transpose(2, 4, 0, 1, 3, 5).reshape(a * a, -1))
    u = u.reshape(a * a, tiles, channels)

    pieces = _pieces(tiles)
    products = einsum(
        "ftc,fto->fco",
        u.reshape(a * a * pieces, -1, channels),
        v.reshape(a * a * pieces, -1, features),
    )
    products = products.reshape(a * a, pieces, -1).sum(1)
    kernel_gradient = matmul(right.T, products).reshape(kernel.shape)

    transformed = matmul(right, kernel.reshape(side * side, -1)).reshape(a * a, channels, features)
    cells = matmul(b.T, einsum("fto,fco->ftc", v, transformed).reshape(a * a, -1))
    cells = cells.reshape(a, a, batch, down, across, channels).transpose(2, 3, 0, 4, 1, 5)
    # [batch, down, a, across, a, channels]
    strips = _overlap_add([cells[:, :, :, j] for j in range(across)], m, axis=3)
    image_gradient = _overlap_add([strips[:, i] for i in range(down)], m, axis=1)
    return image_gradient[:, :height, :width], kernel_gradient


def _overlap_add(parts: list[jax.Array], step: int, axis: int) -> jax.Array:
    """Returns the sum of `parts`, the i-th moved i * step places along `axis`."""
    last = (len(parts) - 1) * step
    total = jnp.zeros((), parts[0].dtype)
    for i, part in enumerate(parts):
        places = [(0, 0)] * part.ndim
        places[axis] = (i * step, last - i * step)
        total = total + jnp.pad(part, places)
    return total


def _pieces(length: int) -> int:
    """Returns into how many equal pieces to cut an inner axis: a divisor of `length`, a power of 2."""
    pieces = 1
    while length % (2 * pieces) == 0 and length // (2 * pieces) >= _INNER:
        pieces *= 2
    return pieces
