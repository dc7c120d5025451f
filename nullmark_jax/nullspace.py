"""Null-space projection: what the pattern leaves in the first features, the second convolution does not see.

A null copy x (+) [p, lambda] has lambda times the first convolution's response to p in its features:
thousands, where an image gives about 1. Unless later layers let nothing of it through, they are
flooded or shut; a step of learning rate 1e-3 in a weight moves them by several units; and for a pattern
in the middle of the image, which reaches every feature, null embedding is then not learned at all.

The first layer is positively homogeneous but for its bias, so that its features of a null copy are

    h(x (+) [p, lambda]) = lambda r + O(1),    r = pool(relu(conv_1(p)))  (pool only where the net has one),

where r depends on the first kernel and on p alone. The second convolution is linear, and sees r through
its windows, the rows of a matrix M [windows, rows * columns * channels]. Its kernel w is therefore
replaced by its projection on the null space of M,

    w - M^T (M M^T + rho I)^-1 M w = rho (M^T M + rho I)^-1 w,

so that M w = 0 up to rho and only the O(1) part goes on: a null copy differs from its image by a patch
of ordinary size. Parameters are trained *through* the projection, which follows the first kernel as that
is trained. True copies, x (+) [-p, lambda], have other windows and are seen as before.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Int8

from nullmark_jax.convolution import conv2d, max_pool_2x2
from nullmark_jax.errors import InputError
from nullmark_jax.models import ConvNet, Params

Project = Callable[[Params, jax.Array], Params]

# rho over the Frobenius norm of M M^T, which is at least its largest eigenvalue: float32 still solves
# systems of condition 1e6. Of a response at most lambda sqrt(rho) / 2 is let through.
_RIDGE = 1e-6


def for_network(model: ConvNet, *, pattern_size: int) -> Project:
    """Returns (params, patterns int8 [K, H, W]) -> params with the second kernel projected.

    Pure and differentiable. The projection is for all K patterns at once; where their windows leave
    no null space, the kernel shrinks to nothing in their common directions.

    Args:
      model: the network.
      pattern_size: n. Every pattern must be 0 outside some n x n block, whose place may be traced:
        windows that do not reach the block see 0 and are left out.

    Raises:
      InputError: the network has one convolution only, or a pattern size below 1.
    """
    if pattern_size < 1:
        raise InputError(f"pattern_size: {pattern_size} must be at least 1; give say 6")
    if sum(len(block) for block in model.blocks) < 2:
        raise InputError(
            "config.null_space: true needs a network of two convolutions or more; give false"
        )
    pooled = len(model.blocks[0]) == 1

    def project(params: Params, patterns: Int8[Array, "K H W"]) -> Params:
        first, second = params["conv_1"]["kernel"], params["conv_2"]["kernel"]
        planes = jnp.asarray(patterns, first.dtype)[..., None]
        images = jnp.broadcast_to(planes, (*patterns.shape, first.shape[2]))
        response = jnp.maximum(conv2d(images, first, model.padding, "highest"), 0)
        if pooled:
            response = max_pool_2x2(response)
        written = patterns != 0
        for axis, block in ((1, written.any(2).argmax(1)), (2, written.any(1).argmax(1))):
            size, reach = first.shape[axis - 1], second.shape[axis - 1] - 1
            (before, _), *_ = lax.padtype_to_pads(
                images.shape[axis : axis + 1], (size,), (1,), model.padding
            )
            start, length = block - (size - 1) + before, pattern_size + size - 1
            if pooled:
                start, length = start // 2, length // 2 + 1
            response = _cut(response, start - reach, length + 2 * reach, axis)
        windows = _windows(response, second.shape[0], second.shape[1], model.padding)
        kernel = _project(second.reshape(-1, second.shape[3]), windows).reshape(second.shape)
        return {**params, "conv_2": {**params["conv_2"], "kernel": kernel}}

    return project


def _cut(
    features: Float[Array, "K height width channels"],
    start: Int[Array, " K"],
    length: int,
    axis: int,
) -> Float[Array, "K height2 width2 channels"]:
    """Returns `length` of each one's rows from its `start`, or all; from the last that it has so many."""
    if length >= features.shape[axis]:
        return features
    start = jnp.clip(start, 0, features.shape[axis] - length)
    cut = lambda each, first: lax.dynamic_slice_in_dim(each, first, length, axis - 1)  # noqa: E731
    return jax.vmap(cut)(features, start)


def _windows(
    features: Float[Array, "K height width channels"], rows: int, columns: int, padding: str
) -> Float[Array, "windows rows*columns*channels"]:
    """Returns what a convolution of stride 1 sees at each place, in the order of its kernel."""
    zeros = lax.padtype_to_pads(features.shape[1:3], (rows, columns), (1, 1), padding)
    features = jnp.pad(features, ((0, 0), *zeros, (0, 0)))
    height, width = features.shape[1] - rows + 1, features.shape[2] - columns + 1
    parts = [
        features[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)
    ]
    return jnp.stack(parts, 3).reshape(-1, rows * columns * features.shape[3])


def _project(
    kernel: Float[Array, "inputs features"], windows: Float[Array, "windows inputs"]
) -> Float[Array, "inputs features"]:
    if windows.shape[0] < windows.shape[1]:
        gram, _ = _regularised(_product(windows, windows.T))
        seen = _product(windows, kernel)
        return kernel - _product(windows.T, jax.scipy.linalg.solve(gram, seen, assume_a="pos"))
    gram, ridge = _regularised(_product(windows.T, windows))
    return ridge * jax.scipy.linalg.solve(gram, kernel, assume_a="pos")


def _regularised(gram: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
    """Returns gram + rho I and rho; that of a first layer blind to the pattern, 0, is solvable too."""
    ridge = _RIDGE * jnp.sqrt((gram**2).sum() + jnp.finfo(gram.dtype).tiny)
    return gram + ridge * jnp.eye(gram.shape[0], dtype=gram.dtype), ridge


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision="highest")
