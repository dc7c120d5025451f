"""The network on a batch and its marked copies, early layers only where a copy differs from its image.

A null or true copy differs from its clean image x in one n x n block. A convolution sees a neighbourhood
only, so after the first layers the copy's features are the features of x except in a small patch. This
module computes the features of the clean images once, those of each copy on a window around its patch,
and pastes the patch over the clean features:

    copy_features = paste(clean_features, patch, position)

The result is the network's on [images; null copies; true copies], up to the rounding of products of other
shapes. As all three share one array of clean features, reverse mode adds up their gradients before it
goes back through the shared layers: those are run for `batch` images and two small windows an image, not
for `batch + 2 marked` images, forwards and backwards.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from nullmark_jax.embedding import Watermark, embed, invert
from nullmark_jax.errors import InputError
from nullmark_jax.losses import Logits
from nullmark_jax.models import ConvNet, apply_fn

Params = Any
Index = Int[Array, ""] | Int[Array, " marked"]

# A stage is run on windows where they have at most this fraction of the pixels of its input.
_LARGEST_WINDOW = 0.6


class Stage(NamedTuple):
    """Some layers of a network: convolutions of stride 1 and then one 2x2 max-pool (floor).

    Attributes:
      apply: (params, features [N, H, W, C]) -> features, for any N, and for any H and W that leave
        something. Besides convolving and pooling it may do what treats every pixel alike (biases,
        activations), but nothing that mixes images, such as batch normalisation.
      sizes: the side of each convolution's square kernel, in order.
      padding: "VALID" or "SAME", of every convolution.
    """

    apply: Callable[[Params, jax.Array], jax.Array]
    sizes: tuple[int, ...]
    padding: str


class Axis(NamedTuple):
    """One axis of a stage: where its output differs if its input differs in one run of rows.

    Let the input differ in rows [r, r + p). Convolutions of sides k_1, k_2, ... make that p + K rows,
    K = sum(k_i - 1), from r - K on with VALID padding; pooled, at most q = (p + K) // 2 + 1 rows.
    `patch` is q; everything here is static but the starts.

    Attributes:
      size: rows of the input.
      window: rows of the input to run the stage on.
      output: rows of the output.
      patch: q, rows of the output that may differ.
      reach: rows from the first differing row of the input up to the first of the convolutions'.
      margin: rows of the window that are there only for the sake of the rows below them (SAME).
    """

    size: int
    window: int
    output: int
    patch: int
    reach: int
    margin: int

    def patch_start(self, start: Index) -> Index:
        """Returns the first of the `patch` rows of the output, given r."""
        return jnp.clip((start - self.reach) // 2, 0, self.output - self.patch)

    def window_start(self, patch_start: Index) -> Index:
        """Returns the first of the `window` rows of the input; even, so that pooling falls alike."""
        return jnp.clip(2 * patch_start - self.margin, 0, self.size - self.window)


def stage_axis(stage: Stage, size: int, changed: int) -> Axis:
    """Returns the axis of `stage` for an input of `size` rows of which a run of `changed` differs."""
    spread = sum(k - 1 for k in stage.sizes)
    if stage.padding == "VALID":
        output = (size - spread) // 2
        patch = min(output, (changed + spread) // 2 + 1)
        return Axis(size, 2 * patch + spread, output, patch, reach=spread, margin=0)
    # SAME gives the window rows of zeros at its own ends, which are wrong where these are not the
    # image's: `margin` rows before and `below` after the rows that are kept take up the error.
    below = sum(k // 2 for k in stage.sizes)
    above = spread - below
    output = size // 2
    patch = min(output, (changed + spread) // 2 + 1)
    margin = above + above % 2
    window = margin + 2 * patch + below
    window += (size - window) % 2  # size - window, the last start, must be even
    return Axis(size, min(window, size), output, patch, reach=below, margin=margin)


def incremental_logits(
    stages: Sequence[Stage],
    head: Callable[[Params, jax.Array], jax.Array],
    *,
    pattern_size: int,
    shared: int | None = None,
    on_copies: Callable[[Params], Params] | None = None,
) -> Callable[[Params, jax.Array, Watermark, jax.Array], Logits]:
    """Returns (params, images, watermarks, which) -> Logits of the network head(stages(images)).

    Those of `training.concatenated_logits` of the same network, values and, without `on_copies`,
    gradients, up to rounding.

    Args:
      stages: the network's first layers, at least one stage.
      head: (params, features after the last stage) -> logits.
      pattern_size: n. Every pattern must be 0 outside some n x n block; where it is not, the result is
        that of the pattern cut to a block. The block's place may be traced.
      shared: how many stages to run on windows; None for as many as have windows small enough to pay.
      on_copies: params -> those of the windows' passes through the shared stages, of which there is
        then at least one; None for the same. `nullspace.hold_first_layer` keeps a gradient from what
        differs between copies and images, not from what they share.

    Raises:
      InputError: no such number of stages, or a pattern size below 1.
    """
    stages = tuple(stages)
    _check_size(pattern_size)
    least = 0 if on_copies is None else 1
    if shared is not None and not least <= shared <= len(stages):
        raise InputError(
            f"shared: {shared} must be from {least} to {len(stages)}, the number of stages"
        )

    def marked_logits(
        params: Params,
        images: Float[Array, "batch height width channel"],
        watermarks: Watermark,
        which: Int[Array, " marked"],
    ) -> Logits:
        batch, marked = images.shape[0], which.shape[0]
        features, done = images, 0
        if marked:
            features, copies, done = _share(
                stages,
                on_copies(params) if on_copies else params,
                images,
                lambda index, features: stages[index].apply(params, features),
                watermarks,
                which,
                size=pattern_size,
                shared=shared,
                least=least,
            )
            features = jnp.concatenate([features, copies])
        for stage in stages[done:]:
            features = stage.apply(params, features)
        logits = head(params, features)
        return Logits(logits[:batch], logits[batch : batch + marked], logits[batch + marked :])

    return marked_logits


def for_network(
    model: ConvNet,
    *,
    pattern_size: int,
    shared: int | None = None,
    on_copies: Callable[[Params], Params] | None = None,
) -> Callable[[Params, jax.Array, Watermark, jax.Array], Logits]:
    """Returns `incremental_logits` of one of the papers' networks, its blocks being the stages."""
    stages, head = _parts(model)
    return incremental_logits(
        stages, head, pattern_size=pattern_size, shared=shared, on_copies=on_copies
    )


class Copies(NamedTuple):
    """A network's answers to the copies alone, for many watermarks on the same images.

    Attributes:
      features: (params, images [N, H, W, C]) -> what `logits` needs of them: their features after each
        stage.
      logits: (params, images, features, watermarks, which [N]) -> the logits [N, num_classes] of the
        null and of the true copies.
    """

    features: Callable[[Params, jax.Array], list[jax.Array]]
    logits: Callable[..., tuple[jax.Array, jax.Array]]


def copies_of_network(model: ConvNet, *, pattern_size: int) -> Copies:
    """Returns one of the papers' networks as `Copies`: those of `for_network`, up to rounding.

    Raises:
      InputError: a pattern size below 1.
    """
    _check_size(pattern_size)
    stages, head = _parts(model)

    def features(params: Params, images: jax.Array) -> list[jax.Array]:
        after = []
        for stage in stages:
            images = stage.apply(params, images)
            after.append(images)
        return after

    def logits(
        params: Params,
        images: jax.Array,
        features: list[jax.Array],
        watermarks: Watermark,
        which: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        _, copies, done = _share(
            stages,
            params,
            images,
            lambda index, _: features[index],
            watermarks,
            which,
            size=pattern_size,
            alone=True,
        )
        for stage in stages[done:]:
            copies = stage.apply(params, copies)
        answers = head(params, copies)
        return answers[: len(which)], answers[len(which) :]

    return Copies(features, logits)


def _share(
    stages: Sequence[Stage],
    params: Params,
    images: jax.Array,
    after: Callable[[int, jax.Array], jax.Array],
    watermarks: Watermark,
    which: jax.Array,
    *,
    size: int,
    shared: int | None = None,
    least: int = 0,
    alone: bool = False,
) -> tuple[jax.Array, jax.Array, int]:
    """Returns the clean features and the copies' after the shared stages, and how many these are.

    Args:
      stages: the network's.
      params: of the windows' passes.
      images: the batch, of which the first len(which) have copies.
      after: (stage's index, clean features before it) -> those after it.
      watermarks: a population.
      which: of each copied image.
      size: n.
      shared: how many stages; None for as many as pay.
      least: how many at least.
      alone: whether nothing else than the copies is evaluated with them.
    """
    marked = which.shape[0]
    patch, row, column = _marked_blocks(images[:marked], watermarks, which, size, alone=alone)
    features, done = images, 0
    for index, stage in enumerate(stages):
        rows = stage_axis(stage, features.shape[1], patch.shape[1])
        columns = stage_axis(stage, features.shape[2], patch.shape[2])
        if done == shared or (shared is None and done >= least and not _pays(rows, columns)):
            break
        patch, row, column = _run_on_window(
            partial(stage.apply, params), features[:marked], patch, row, column, rows, columns
        )
        features = after(index, features)
        done += 1
    return features, _paste(_twice(features[:marked]), patch, row, column), done


def _check_size(pattern_size: int) -> None:
    if pattern_size < 1:
        raise InputError(f"pattern_size: {pattern_size} must be at least 1; give say 6")


def _parts(
    model: ConvNet,
) -> tuple[tuple[Stage, ...], Callable[[Params, jax.Array], jax.Array]]:
    """Returns a network's blocks as stages, and its head."""
    apply: Any = model.apply  # Whose result could be a pair, had it mutable collections.

    def block(index: int) -> Callable[[Params, jax.Array], jax.Array]:
        return lambda params, x: apply({"params": params}, x, index, method="block")

    stages = tuple(
        Stage(block(index), tuple(conv.size for conv in convs), model.padding)
        for index, convs in enumerate(model.blocks)
    )
    return stages, apply_fn(model, "head")


def _pays(rows: Axis, columns: Axis) -> bool:
    return rows.window * columns.window <= _LARGEST_WINDOW * rows.size * columns.size


def _marked_blocks(
    images: jax.Array, watermarks: Watermark, which: jax.Array, size: int, *, alone: bool = False
) -> tuple[jax.Array, Index, Index]:
    """Returns the n x n blocks of the null and the true copies [2 marked, n, n, C] and their place.

    The place is one row and one column where there is one watermark, otherwise one an image: a slice
    common to a batch is cheaper than one for each image. `alone`: whether the copies are all there is.
    """
    height, width = images.shape[1:3]
    size_rows, size_columns = min(size, height), min(size, width)
    written = watermarks.pattern != 0
    row = jnp.minimum(written.any(2).argmax(1), height - size_rows)
    column = jnp.minimum(written.any(1).argmax(1), width - size_columns)
    if watermarks.pattern.shape[0] == 1:
        row, column, extreme = row[0], column[0], watermarks.extreme_value
        pattern = watermarks.pattern
    else:
        row, column, extreme = row[which], column[which], watermarks.extreme_value[which]
        pattern = watermarks.pattern[which]
    block = _cut(images, row, column, size_rows, size_columns)
    pattern = _cut(pattern[..., None], row, column, size_rows, size_columns)
    if alone:  # jaxlib 0.10.2 cannot compile this cut and those that follow into one on a CPU.
        pattern = lax.optimization_barrier(pattern)
    pattern = pattern[..., 0]
    null, true = embed(block, pattern, extreme), embed(block, invert(pattern), extreme)
    return jnp.concatenate([null, true]), row, column


def _run_on_window(
    apply: Callable[[jax.Array], jax.Array],
    clean: jax.Array,
    patch: jax.Array,
    row: Index,
    column: Index,
    rows: Axis,
    columns: Axis,
) -> tuple[jax.Array, Index, Index]:
    """Returns the copies' patch after a stage and its place, given those before it.

    Args:
      apply: the stage.
      clean: its input for the clean images, [marked, H, W, C].
      patch: what the copies have there instead, [2 marked, h, w, C].
      row, column: where.
      rows, columns: `stage_axis` of H and W.
    """
    new_row, new_column = rows.patch_start(row), columns.patch_start(column)
    top, left = rows.window_start(new_row), columns.window_start(new_column)
    window = _twice(_cut(clean, top, left, rows.window, columns.window))
    # The pool may drop the input's last row or column, and so the window; the patch may have it.
    extra_rows, extra_columns = (
        max(0, axis.size - 2 * axis.output - axis.reach) if axis.margin == 0 else 0
        for axis in (rows, columns)
    )
    window = jnp.pad(window, ((0, 0), (0, extra_rows), (0, extra_columns), (0, 0)))
    window = _paste(window, patch, row - top, column - left)
    result = apply(window[:, : rows.window, : columns.window])
    below, right = new_row - top // 2, new_column - left // 2
    if row.ndim:
        below, right = _twice(below), _twice(right)
    return _cut(result, below, right, rows.patch, columns.patch), new_row, new_column


def _twice(array: jax.Array) -> jax.Array:
    return jnp.concatenate([array, array])


def _cut(array: jax.Array, row: Index, column: Index, rows: int, columns: int) -> jax.Array:
    """Returns array[:, row:row + rows, column:column + columns], the starts common or one an image."""
    if array.shape[1:3] == (rows, columns):
        return array
    if row.ndim == 0:
        array = lax.dynamic_slice_in_dim(array, row, rows, axis=1)
        return lax.dynamic_slice_in_dim(array, column, columns, axis=2)
    size = (rows, columns, array.shape[3])
    cut = lambda image, r, c: lax.dynamic_slice(image, (r, c, jnp.zeros_like(r)), size)  # noqa: E731
    return jax.vmap(cut)(array, row, column)


def _paste(array: jax.Array, patch: jax.Array, row: Index, column: Index) -> jax.Array:
    """Returns `array` with `patch` written at (row, column), common or one an image of each half."""
    if row.ndim == 0:
        zero = jnp.zeros_like(row)
        return lax.dynamic_update_slice(array, patch, (zero, row, column, zero))
    paste = lambda image, part, r, c: lax.dynamic_update_slice(  # noqa: E731
        image, part, (r, c, jnp.zeros_like(r))
    )
    return jax.vmap(paste)(array, patch, _twice(row), _twice(column))
