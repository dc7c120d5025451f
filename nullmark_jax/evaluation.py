"""Accuracies of parameters over a whole data set, on the devices of all processes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nullmark_jax import parallel, populations
from nullmark_jax.baselines.triggers import Triggers, apply, are_whole_images
from nullmark_jax.data import Dataset
from nullmark_jax.embedding import mark_batch, scale_pixels
from nullmark_jax.marks import Marks
from nullmark_jax.metrics import Counts, TriggerCounts, count
from nullmark_jax.models import ApplyFn, Params

_BATCH = 512
# Of each member of a population, many of which a device evaluates at once.
_MEMBERS_BATCH = 128

# Of watermarks `Counts`, of triggers `TriggerCounts`.
Evaluator = Callable[[Params, Any], Any]


def make_evaluator(apply_fn: ApplyFn, dataset: Dataset, *, batch_size: int = _BATCH) -> Evaluator:
    """Returns (params, marks) -> counts over all of `dataset`.

    The marks are a population (leading axis K >= 1); the evaluator is compiled once for each K. Of
    watermarks it returns `Counts`, each field int [K]; of triggers `TriggerCounts`.

    Args:
      apply_fn: the network.
      dataset: N >= 1 images; each is counted exactly once, whatever the batch size and devices.
      batch_size: images in one call of a device; the answer does not depend on it.
    """
    devices = parallel.device_count()
    size = devices * -(-min(batch_size * devices, len(dataset.labels)) // devices)
    counts = _batch_counts(apply_fn)
    run = parallel.pmap_shares(
        lambda *arguments: parallel.total(counts(*arguments)),
        cut=(False, True, True, True, False),
    )

    answer = jax.jit(lambda params, images: apply_fn(params, images).argmax(-1))

    def evaluate(params: Params, marks: Marks) -> Counts | TriggerCounts:
        if not (isinstance(marks, Triggers) and are_whole_images(marks)):
            return over_all(params, marks)
        # Whatever they are put on, they are seen alone.
        counted = over_all(params, jax.tree.map(lambda field: field[:0], marks))
        right = np.asarray(answer(params, marks.add)) == np.asarray(marks.target_label)
        return counted._replace(true_images=np.int32(len(right)), true=np.int32(right.sum()))

    def over_all(params: Params, marks: Marks) -> Any:
        params, marks = parallel.replicate((params, marks))
        sums = []
        for start in range(0, len(dataset.labels), size):
            # Of each process its own rows alone; those after the last image are not counted.
            rows = parallel.share(np.arange(start, start + size), devices)
            valid = rows < len(dataset.labels)
            rows = np.minimum(rows, len(dataset.labels) - 1)
            sums.append(run(params, dataset.images[rows], dataset.labels[rows], valid, marks))
        return jax.tree.map(lambda *fields: np.sum(np.stack(fields), axis=0), *sums)

    return evaluate


def make_population_evaluator(
    apply_fn: ApplyFn, images: np.ndarray, labels: np.ndarray, *, batch_size: int = _MEMBERS_BATCH
) -> Callable[[Params, Any, np.ndarray], list[Any]]:
    """Returns (params, marks, rows) -> for each member its counts over its own rows of a data set.

    The members are dealt over the local devices and vectorised on each, as `populations` trains them; the
    evaluator is compiled once for as many members, rows and marks. The arguments of the function returned:
      params: with a leading axis of members.
      marks: watermarks [members, K, ...].
      rows: integers [members, N], N >= 1; each is counted once.

    Args:
      apply_fn: the network.
      images: uint8 [M, H, W, C], the data set.
      labels: int32 [M].
      batch_size: of a member's images in one call; the answer does not depend on it.
    """
    counts = _batch_counts(apply_fn)

    def of_rows(
        params: Params,
        images: jax.Array,
        labels: jax.Array,
        rows: jax.Array,
        valid: jax.Array,
        marks: Marks,
    ) -> Any:
        return counts(params, images[rows], labels[rows], valid, marks)

    run = parallel.pmap_members(
        jax.vmap(of_rows, in_axes=(0, None, None, 0, None, 0)),
        dealt=(True, False, False, True, False, True),
    )
    pictures, answers = parallel.replicate((images, labels))

    def evaluate(params: Params, marks: Marks, rows: np.ndarray) -> list[Any]:
        members, total = rows.shape
        size = min(batch_size, total)
        params, marks = parallel.place_members((params, marks))
        sums = []
        for start in range(0, total, size):
            columns = np.arange(start, start + size)
            picked = rows[:, np.minimum(columns, total - 1)].astype(np.int32)
            dealt = parallel.deal_members(picked)
            found = run(params, pictures, answers, dealt, columns < total, marks)
            sums.append(parallel.gather_members(found, members))
        together = jax.tree.map(lambda *fields: np.sum(np.stack(fields), axis=0), *sums)
        return [populations.member(together, i) for i in range(members)]

    return evaluate


def _batch_counts(apply_fn: ApplyFn) -> Callable[..., Any]:
    """Returns (params, images uint8, labels, valid, marks) -> the counts over the valid images of a batch."""

    def counts(
        params: Params, images: jax.Array, labels: jax.Array, valid: jax.Array, marks: Marks
    ) -> Counts | TriggerCounts:
        seen = scale_pixels(images)
        clean = apply_fn(params, seen).argmax(-1)
        if isinstance(marks, Triggers):
            return _of_triggers(apply_fn, params, seen, clean, labels, valid, marks)
        each = []
        # Unrolled: a convolution inside a loop of XLA's is slow on the CPU, and K is small.
        for k in range(marks.target_label.shape[0]):
            null, true = mark_batch(seen, marks, jnp.full(labels.shape, k))
            each.append(
                count(
                    clean,
                    apply_fn(params, null).argmax(-1),
                    apply_fn(params, true).argmax(-1),
                    labels,
                    marks.target_label[k],
                    valid,
                )
            )
        return jax.tree.map(lambda *fields: jnp.stack(fields), *each)

    return counts


def _of_triggers(
    apply_fn: ApplyFn,
    params: Params,
    seen: jax.Array,
    clean: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    marks: Triggers,
) -> TriggerCounts:
    """Returns the counts of one batch with each trigger on its images of other labels."""
    shown = true = jnp.zeros((), jnp.int32)
    for k in range(len(marks.target_label)):
        marked = apply(seen, marks.keep[k : k + 1], marks.add[k : k + 1])
        counted = valid & (labels != marks.target_label[k])
        right = apply_fn(params, marked).argmax(-1) == marks.target_label[k]
        shown += counted.sum(dtype=jnp.int32)
        true += (counted & right).sum(dtype=jnp.int32)
    return TriggerCounts(
        images=valid.sum(dtype=jnp.int32),
        correct=(valid & (clean == labels)).sum(dtype=jnp.int32),
        true_images=shown,
        true=true,
    )
