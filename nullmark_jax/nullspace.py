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

    w - M^T (M M^T + rho I)^-1 M w,

taken twice, each row of M scaled to length 1: a window that touches p in one corner has a response tens of
times smaller than one in the middle, and the same ridge rho would let most of it through. Then M w = 0 to
float32's precision for one pattern; for several, whose windows may be nearly dependent, up to sqrt(rho) / 3
of a window's length in such directions. Only the O(1) part goes on: a null copy differs from its image by
a patch of ordinary size. True copies, x (+) [-p, lambda], have other windows and are seen as before.

Such a cancellation is exact, and fragile: an error of one part in 500 in a weight, times 2000, is several
times what a pixel can be, so that rounding the weights, pruning or a few steps of fine-tuning undo it; and it
shows the pattern to whoever has the weights (`attacks.pattern_recovery`). Where the pattern leaves enough
features alone (`models.free_share`) training needs no projection, and its null embedding is sturdier.

The first layer's own gradient must not come from what the projection removes: that is lambda times the
difference of two large parts, of the response and of the projection that follows it, and was seen at
hundreds of times the clean images' gradient. So the projection is constant in the first layer, and
`hold_first_layer` is for the copies' pass through it.
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
# systems of condition 1e6.
_RIDGE = 1e-6

# A window with less than this of the largest one's response sees rounding errors, and is left out.
_BLIND = 1e-4


def for_network(model: ConvNet, *, pattern_size: int) -> Project:
    """Returns (params, patterns int8 [K, H, W]) -> params with the second kernel projected.

    Pure, and differentiable in the second kernel; none of its gradient reaches the first layer, and
    none may by way of the copies' first features: training needs `hold_first_layer` with it, as
    `incremental.for_network(on_copies=...)`. The projection is for all K patterns at once; where their
    windows leave no null space, the kernel shrinks to nothing in their common directions.

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

    def windows_of(
        patterns: Int8[Array, "K H W"], first: jax.Array, second: jax.Array
    ) -> Float[Array, "windows rows*columns*channels"]:
        """Returns what the second convolution sees of the patterns alone, where it reaches them."""
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
        return _windows(response, second.shape[0], second.shape[1], model.padding)

    def project(params: Params, patterns: Int8[Array, "K H W"]) -> Params:
        first, second = lax.stop_gradient(params["conv_1"]["kernel"]), params["conv_2"]["kernel"]
        windows = windows_of(patterns, first, second)
        kernel = _project(second.reshape(-1, second.shape[3]), windows)
        return {**params, "conv_2": {**params["conv_2"], "kernel": kernel.reshape(second.shape)}}

    return project


def hold_first_layer(params: Params) -> Params:
    """Returns the same params, whose first layer no gradient reaches."""
    return {**params, "conv_1": lax.stop_gradient(params["conv_1"])}


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
    """Returns the kernel's part in the null space of the windows, of which rows may be 0."""
    length = jnp.sqrt((windows**2).sum(1, keepdims=True))
    seen = length > _BLIND * length.max()
    units = jnp.where(seen, windows / jnp.where(seen, length, 1), 0)
    # [windows, windows] even where they outnumber the inputs: what is subtracted lies in their span,
    # and rounding cannot reach the part that is kept.
    gram = _product(units, units.T)
    # Of a first layer blind to the pattern the Gram matrix is 0; it is regular, too.
    size = jnp.sqrt((gram**2).sum() + jnp.finfo(gram.dtype).tiny)
    ridge = _RIDGE * size * jnp.eye(len(gram), dtype=gram.dtype)
    factor = jax.scipy.linalg.cho_factor(gram + ridge)
    for _ in range(2):  # The second time takes out what ridge and rounding let through the first.
        coefficients = jax.scipy.linalg.cho_solve(factor, _product(units, kernel))
        kernel = kernel - _product(units.T, coefficients)
    return kernel


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision="highest")
