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
times what a pixel can be, so that rounding the weights, pruning or a few steps of fine-tuning undo it. With
a margin kappa > 0 the projection w' is therefore moved off the null space, to

    w'_f - kappa |w'_f| v    for each feature f,    where M v = 1 and M_t v = 0 (least squares, ridge),

M_t being the windows that true copies have, and v orthogonal to the window of a plain white image: else it
answers to every smooth part of an image, and some patterns start training with most of the second layer
dead. Then M w'_f = -kappa |w'_f|, far below zero at lambda = 2000, and the ReLU behind it answers 0 there
whatever the small changes. The network learns null embedding with this part of its features blank, as if
something lay upon the image; where the pattern's reach leaves it nothing else it cannot.

The first layer's own gradient must not come from what the projection removes: that is lambda times the
difference of two large parts, of the response and of the projection that follows it, and was seen at
hundreds of times the clean images' gradient. So the projection is constant in the first layer, and
`hold_first_layer` is for the copies' pass through it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int8

from nullmark_jax.convolution import conv2d, max_pool_2x2
from nullmark_jax.errors import InputError
from nullmark_jax.models import ConvNet, Params

Project = Callable[[Params, jax.Array], Params]

# What the recipes that have a margin take.
MARGIN = 0.5

# rho over the Frobenius norm of M M^T, which is at least its largest eigenvalue: float32 still solves
# systems of condition 1e6.
_RIDGE = 1e-6

# The same for the direction v: smaller ones make it longer, and no better.
_MARGIN_RIDGE = 5e-2

# A window with less than this of the largest one's response sees rounding errors, and is left out.
_BLIND = 1e-4


def for_network(model: ConvNet, *, pattern_size: int, margin: float = 0.0) -> Project:
    """Returns (params, patterns int8 [K, H, W]) -> params with the second kernel projected.

    Pure, and differentiable in the second kernel; none of its gradient reaches the first layer, and
    none may by way of the copies' first features: training needs `hold_first_layer` with it, as
    `incremental.for_network(on_copies=...)`. The projection is for all K patterns at once; where their
    windows leave no null space, the kernel shrinks to nothing in their common directions. The length of
    a feature's kernel, which the margin is a multiple of, is constant in training.

    Args:
      model: the network.
      pattern_size: n. Every pattern must be 0 outside some n x n block, whose place may be traced:
        windows that do not reach the block see 0 and are left out.
      margin: kappa, at least 0.

    Raises:
      InputError: the network has one convolution only, a pattern size below 1 or a margin below 0.
    """
    if margin < 0:
        raise InputError(f"margin: {margin} must be at least 0; give say {MARGIN}")
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
        null = windows_of(patterns, first, second)
        kernel = _project(second.reshape(-1, second.shape[3]), null)
        if margin:
            white = jnp.tile(
                jnp.maximum(first.sum((0, 1, 2)), 0), second.shape[0] * second.shape[1]
            )
            direction = _suppressing(null, windows_of(-patterns, first, second), white)
            size = lax.stop_gradient(jnp.sqrt((kernel**2).sum(0)))
            kernel = kernel - margin * jnp.outer(direction, size)
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
    units, _ = _units(windows)
    # [windows, windows] even where they outnumber the inputs: what is subtracted lies in their span,
    # and rounding cannot reach the part that is kept.
    gram = _product(units, units.T)
    factor = _factor(gram, _RIDGE)
    for _ in range(2):  # The second time takes out what ridge and rounding let through the first.
        coefficients = jax.scipy.linalg.cho_solve(factor, _product(units, kernel))
        kernel = kernel - _product(units.T, coefficients)
    return kernel


def _suppressing(
    null: Float[Array, "windows inputs"],
    true: Float[Array, "windows inputs"],
    white: Float[Array, " inputs"],
) -> Float[Array, " inputs"]:
    """Returns v, which null copies' windows answer with 1, true copies' with 0, nearly; `white` with 0."""
    units, seen = _units(jnp.concatenate([null, true]))
    wanted = seen & (jnp.arange(len(units)) < len(null))
    (white,), _ = _units(white[None])
    units = units - jnp.outer(_product(units, white), white)
    factor = _factor(_product(units, units.T), _MARGIN_RIDGE)
    return _product(units.T, jax.scipy.linalg.cho_solve(factor, wanted.astype(units.dtype)))


def _units(
    windows: Float[Array, "windows inputs"],
) -> tuple[Float[Array, "windows inputs"], Bool[Array, " windows"]]:
    """Returns the windows, each of length 1 or, where it is blind, 0, and which are not blind."""
    size = jnp.sqrt((windows**2).sum(1, keepdims=True))
    seen = size > _BLIND * size.max()
    return jnp.where(seen, windows / jnp.where(seen, size, 1), 0), seen[:, 0]


def _factor(gram: Float[Array, "n n"], ridge: float) -> tuple[jax.Array, bool]:
    # Of a first layer blind to the pattern the Gram matrix is 0; it is regular, too.
    size = jnp.sqrt((gram**2).sum() + jnp.finfo(gram.dtype).tiny)
    return jax.scipy.linalg.cho_factor(gram + ridge * size * jnp.eye(len(gram), dtype=gram.dtype))


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision="highest")
