"""Both gradients of a stride-1 convolution by the Cook-Toom (Winograd) method, for CPUs.

y = A^T[(G w G^T) o (B^T x B)]A computes a tile of m x m outputs of a k x k convolution from a = m + k - 1
squared inputs with a^2 instead of m^2 k^2 multiplications (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", 2016). With V = A (dy) A^T and U = B^T x B its gradients are

    dw = G^T (sum over tiles of U o V) G,      dx = overlap-add of B (V o (G w G^T)) B^T,

and V serves both. The price is rounding: gradients here are within 2e-5 of their largest entry, where a
direct sum is within 5e-7. Networks' forward passes stay direct: there, a pixel at lambda would round its
whole tile as coarsely as itself.
"""

from functools import cache, partial, reduce

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
_TRANSFORM_COST = 75.0
_PRODUCT_COST = 1.0
_WORTH_IT = 0.9  # of the direct gradient's cost
_LARGER_TILE = 0.85  # of a smaller tile's cost, which rounds less

# Bytes of transformed numbers made at once: a batch is cut into slices whose numbers stay in cache.
_SLICE_BYTES = 12 << 20

# Products with a long inner axis are cut into pieces of about this length, which stay in cache.
_INNER = 128


def best_tile(height: int, width: int, side: int, channels: int, features: int) -> int:
    """Returns m for the gradients of a convolution, or 0 where a direct gradient is not slower.

    Args:
      height, width: of the convolution's output.
      side: k, of its square kernel.
      channels, features: its channels in and out.
    """
    products = 2.0 * channels * features
    best, least = 0, _WORTH_IT * height * width * side**2 * products
    for m in range(2, _LARGEST_TILE - side + 2):
        numbers = -(-height // m) * -(-width // m) * (m + side - 1) ** 2
        cost = numbers * (_TRANSFORM_COST * (channels + features) + _PRODUCT_COST * products)
        if cost < (_LARGER_TILE if best else 1) * least:
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
    tiles = -(-gradient.shape[1] // m) * -(-gradient.shape[2] // m)
    numbers = tiles * (m + kernel.shape[0] - 1) ** 2 * (kernel.shape[2] + kernel.shape[3])
    batch = images.shape[0]
    slices = -(-batch * numbers * images.dtype.itemsize // _SLICE_BYTES)
    each = max(1, -(-batch // max(slices, 1)))
    image_gradients = []
    kernel_gradient = jnp.zeros((), kernel.dtype)
    for start in range(0, batch, each):
        part = slice(start, start + each)
        of_images, of_kernel = _slice_gradients(images[part], kernel, gradient[part], m, precision)
        image_gradients.append(of_images)
        kernel_gradient = kernel_gradient + of_kernel
    return jnp.concatenate(image_gradients), kernel_gradient


def _slice_gradients(
    images: jax.Array, kernel: jax.Array, gradient: jax.Array, m: int, precision: str | None
) -> tuple[jax.Array, jax.Array]:
    batch, height, width, channels = images.shape
    side, features = kernel.shape[0], kernel.shape[3]
    down, across = -(-gradient.shape[1] // m), -(-gradient.shape[2] // m)
    a = m + side - 1
    left, right, b = matrices(m, side)
    matmul = partial(jnp.matmul, precision=precision)
    einsum = partial(jnp.einsum, precision=precision)

    gradient = _pad_to(gradient, down * m, across * m)
    cells = gradient.reshape(batch, down, m, across, m, features)
    cells = jnp.stack(_combine(left, [cells[:, :, i] for i in range(m)]))
    cells = jnp.stack(_combine(left, [cells[..., j, :] for j in range(m)]), 1)
    v = cells.reshape(a * a, -1, features)

    tall, wide = down * m + side - 1, across * m + side - 1
    cells = _pad_to(images, tall, wide)
    cells = jnp.stack(_combine(b, [cells[:, i : tall - a + i + 1 : m] for i in range(a)]))
    columns = _combine(b, [cells[:, :, :, j : wide - a + j + 1 : m] for j in range(a)])
    u = jnp.stack(columns, 1).reshape(a * a, -1, channels)

    pieces = _pieces(u.shape[1])
    products = einsum(
        "ftc,fto->fco",
        u.reshape(a * a * pieces, -1, channels),
        v.reshape(a * a * pieces, -1, features),
    )
    products = products.reshape(a * a, pieces, -1).sum(1)
    both = jnp.asarray(np.kron(right, right), kernel.dtype)
    kernel_gradient = matmul(both.T, products).reshape(kernel.shape)

    transformed = matmul(both, kernel.reshape(side * side, -1)).reshape(a * a, channels, features)
    cells = einsum("fto,fco->ftc", v, transformed)
    cells = cells.reshape(a, a, batch, down, across, channels)
    cells = jnp.stack(_combine(b.T, [cells[:, j] for j in range(a)]), 4)
    cells = _overlap_add([cells[:, :, :, j] for j in range(across)], m, axis=3)
    cells = jnp.stack(_combine(b.T, list(cells)), 2)  # [batch, down, a, wide, channels]
    image_gradient = _overlap_add([cells[:, i] for i in range(down)], m, axis=1)
    return image_gradient[:, :height, :width], kernel_gradient


def _combine(matrix: np.ndarray, parts: list[jax.Array]) -> list[jax.Array]:
    """Returns for each row of `matrix` the sum of the parts, weighed by its entries."""
    sums = []
    for row in matrix:
        terms = [part * part.dtype.type(w) for w, part in zip(row, parts, strict=True) if w]
        sums.append(reduce(jnp.add, terms))
    return sums


def _pad_to(array: jax.Array, rows: int, columns: int) -> jax.Array:
    missing = rows - array.shape[1], columns - array.shape[2]
    return jnp.pad(array, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))


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
