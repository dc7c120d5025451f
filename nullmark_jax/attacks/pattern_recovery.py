"""The secret pattern read from the weights of a model that was trained in its null space.

`nullspace` makes the second convolution blind to what the pattern p leaves in the first one's features:
M w = 0 for every window M of them. Almost no other vector has this property, so that whoever holds the
weights can *test* a guess at p; and a window that touches p with a corner only sees a few of its pixels, so
that these are guessed and tested alone, then the next ones beside them: mostly 1 bit at once, or 4 where the
first convolution is pooled, up to 16 near the middle of the image. No image and no answer of the model is
needed for that.

Where p lies is then tried out on a few images: at the places whose null copies are answered as the images
are and whose true copies are all answered alike. That answer is y_W.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int8

from nullmark_jax import transform
from nullmark_jax.convolution import conv2d, max_pool_2x2
from nullmark_jax.embedding import Watermark, embed, invert, scale_pixels
from nullmark_jax.errors import InputError
from nullmark_jax.models import ApplyFn, ConvNet, Params

# Guesses that go on from step to step.
_BEAM = 16

# Windows in one call of the first layer.
_AT_ONCE = 256

# A residual so many times below all others' is no accident.
_CLEAR = 100.0


class Recovered(NamedTuple):
    """What the weights say.

    Attributes:
      block: the pattern's n x n pixels, int8 in {-1, 1}.
      residual: the geometric mean over the windows of what the second convolution sees of it, relative
        to its kernels, 1e-7 at least: below 1e-5 of a pattern it was trained blind to; the best of any
        others is mostly about 1e-2.
      others: the least residual of another block, from whatever corner and alignment; infinity where
        all found the same.
    """

    block: Int8[np.ndarray, "n n"]
    residual: float
    others: float


def recover(model: ConvNet, params: Params, *, pattern_size: int) -> Recovered:
    """Returns the n x n pattern that the second convolution is the most blind to, as a beam search finds it.

    Four corners are tried to start from and, where the first convolution is pooled, four alignments with
    the pool. Of a pattern near the middle no window of an image sees a corner alone: where nothing stands
    out, the search starts again with windows that see more of it at once.

    Args:
      model: the network, of two convolutions or more.
      params: its parameters, as the model file has them.
      pattern_size: n, which the protocol says.

    Raises:
      InputError: the network has one convolution only.
    """
    if sum(len(block) for block in model.blocks) < 2:
        raise InputError("--victim: the attack needs a network of two convolutions or more")
    first, second = (np.asarray(params[name]["kernel"]) for name in ("conv_1", "conv_2"))
    pool = 2 if len(model.blocks[0]) == 1 else 1
    # What one window of the second convolution sees of the image.
    field = tuple(pool * b + a - 1 for a, b in zip(first.shape[:2], second.shape[:2], strict=True))
    corners = [
        (down, right, _seen(first[::down, ::right], second[::down, ::right], pool))
        for down, right in itertools.product((1, -1), (1, -1))
    ]
    found: list[tuple[float, np.ndarray]] = []
    for skipped in ((0, 0), (0, 1), (1, 0), (1, 1)):
        for (down, right, see), *offset in itertools.product(corners, range(pool), range(pool)):
            # How many rows and columns of the pattern each next window sees.
            steps = [
                range(pool - start, pattern_size + pool, pool)[skip:]
                for start, skip in zip(offset, skipped, strict=True)
            ]
            if all(steps):
                cost, block = _search(see, field, steps, pattern_size)
                found.append((cost, block[::down, ::right]))
        found.sort(key=lambda each: each[0])
        (cost, block), *rest = found
        others = min((cost for cost, other in rest if (other != block).any()), default=np.inf)
        if others - cost > np.log(_CLEAR):
            break
    return Recovered(np.ascontiguousarray(block), float(np.exp(cost)), float(np.exp(others)))


def right_pixels(block: np.ndarray, patterns: np.ndarray) -> list[int]:
    """Returns of each pattern how many of its n x n pixels an n x n block has right, wherever it lies.

    Args:
      block: [n, n], -1 or +1.
      patterns: [patterns, H, W], 0 outside their own block.
    """
    right = []
    for pattern in patterns:
        row, column, n = transform.block_of(pattern)
        right.append(int((block == pattern[row : row + n, column : column + n]).sum()))
    return right


class Place(NamedTuple):
    """A place where a pattern may lie, and what the model answers there.

    Attributes:
      watermark: the whole watermark, y_W being what most true copies are answered.
      works: the smaller of the share of null copies that are answered as their images are and the share
        of true copies that are answered y_W, in [0, 1]. No labels are needed for it.
    """

    watermark: Watermark
    works: float


def places(
    apply_fn: ApplyFn,
    params: Params,
    images: np.ndarray,
    block: Int8[np.ndarray, "n n"],
    *,
    extreme_value: float,
) -> list[Place]:
    """Returns every place of the block, those where it works best first.

    Of places that work alike, the first is where the answers are the surest.

    Args:
      apply_fn: the network.
      params: its parameters.
      images: uint8 [N, H, W, C], N >= 1, the attacker's.
      block: n x n pixels.
      extreme_value: lambda, which the protocol says.
    """
    size, (height, width) = len(block), images.shape[1:3]
    seen = scale_pixels(jnp.asarray(images))

    @jax.jit
    def answers(params: Params, images: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(apply_fn(params, images))

    clean = np.asarray(answers(params, seen).argmax(-1))
    each = np.arange(len(clean))
    found = []
    for row, column in itertools.product(range(height - size + 1), range(width - size + 1)):
        pattern = jnp.asarray(
            np.pad(block, ((row, height - size - row), (column, width - size - column)))
        )
        null, true = (
            np.asarray(answers(params, embed(seen, written, extreme_value)))
            for written in (pattern, invert(pattern))
        )
        counts = np.bincount(true.argmax(-1))
        label = int(counts.argmax())
        works = min(float((null.argmax(-1) == clean).mean()), float(counts[label]) / len(clean))
        sure = float(null[each, clean].mean() + true[:, label].mean())
        watermark = Watermark(pattern, jnp.int32(label), jnp.float32(extreme_value))
        found.append((works, sure, Place(watermark, works)))
    return [place for *_, place in sorted(found, key=lambda each: each[:2], reverse=True)]


def _seen(
    first: Float[np.ndarray, "rows columns channels features"],
    second: Float[np.ndarray, "rows2 columns2 features features2"],
    pool: int,
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns int8 patches [B, height, width] -> what the second convolution sees of them.

    That is [B, features2], relative to the lengths of the kernels and of the patches' responses; NaN
    where a patch has no response.
    """
    kernel = second.reshape(-1, second.shape[3])
    lengths = np.sqrt((kernel**2).sum(0))
    units = jnp.asarray(kernel / np.where(lengths > 0, lengths, 1))

    @jax.jit
    def some(patches: jax.Array) -> jax.Array:
        planes = jnp.repeat(patches[..., None].astype(jnp.float32), first.shape[2], -1)
        response = jnp.maximum(conv2d(planes, jnp.asarray(first), "VALID", "highest"), 0)
        if pool == 2:
            response = max_pool_2x2(response)
        windows = response.reshape(len(patches), -1)
        length = jnp.sqrt((windows**2).sum(1, keepdims=True))
        return jnp.matmul(windows, units, precision="highest") / length

    def seen(patches: np.ndarray) -> np.ndarray:
        # Always as many at once, so that it is compiled once.
        short = -len(patches) % _AT_ONCE
        padded = np.pad(patches, ((0, short), (0, 0), (0, 0)))
        parts = np.split(padded, len(padded) // _AT_ONCE)
        return np.concatenate([np.asarray(some(part)) for part in parts])[: len(patches)]

    return seen


def _search(
    see: Callable[[np.ndarray], np.ndarray],
    field: tuple[int, ...],
    steps: Sequence[Sequence[int]],
    size: int,
) -> tuple[float, Int8[np.ndarray, "n n"]]:
    """Returns the mean log residual and the block that a search from the upper left corner ends with.

    Args:
      see: as `_seen` makes it.
      field: height and width of what one window sees.
      steps: how many rows each next window sees of the pattern, ascending to n or more; and columns.
      size: n.
    """
    beam = [(0.0, np.zeros((size, size), np.int8))]
    known = np.zeros((size, size), bool)
    for rows, columns in itertools.product(*steps):
        fresh = ~known
        fresh[rows:], fresh[:, columns:] = False, False
        known |= fresh
        guesses = np.array(list(itertools.product((-1, 1), repeat=int(fresh.sum()))), np.int8)
        blocks = np.repeat(np.stack([block for _, block in beam]), len(guesses), 0)
        blocks[:, fresh] = np.tile(guesses, (len(beam), 1))
        costs = np.repeat([cost for cost, _ in beam], len(guesses))
        patches = np.zeros((len(blocks), *field), np.int8)
        _paste(patches, blocks, (rows, columns))
        seen = see(patches)
        residual = np.sqrt((seen**2).mean(1))
        residual = np.where(np.isnan(residual), 1.0, residual)  # A blind window says nothing.
        costs = costs + np.log(residual + 1e-7)
        best = np.argsort(costs, kind="stable")[:_BEAM]
        beam = [(costs[i], blocks[i]) for i in best]
    return beam[0][0] / (len(steps[0]) * len(steps[1])), beam[0][1]


def _paste(
    patches: Int8[np.ndarray, "B height width"],
    blocks: Int8[np.ndarray, "B n n"],
    reach: tuple[int, int],
) -> None:
    """Writes the first rows and columns of blocks, `reach` of them, so that they end where patches end."""
    size = blocks.shape[1]
    into, out = [], []
    for field, seen in zip(patches.shape[1:], reach, strict=True):
        start = field - seen  # of the block in the patch; may lie before it
        skipped, shown = max(0, -start), min(seen, size)
        out.append(slice(skipped, shown))
        into.append(slice(start + skipped, start + shown))
    patches[:, into[0], into[1]] = blocks[:, out[0], out[1]]
