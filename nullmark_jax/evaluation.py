"""Accuracies of parameters over a whole data set, on all local devices."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from nullmark_jax import parallel
from nullmark_jax.data import Dataset
from nullmark_jax.embedding import Watermark, mark_batch, scale_pixels
from nullmark_jax.metrics import Counts, count
from nullmark_jax.models import ApplyFn, Params

_BATCH = 512

Evaluator = Callable[[Params, Watermark], Counts]


def make_evaluator(apply_fn: ApplyFn, dataset: Dataset, *, batch_size: int = _BATCH) -> Evaluator:
    """Returns (params, watermarks) -> Counts, each field int [K], over all of `dataset`.

    The watermarks are a population (leading axis K >= 1); the evaluator is compiled once for each K.

    Args:
      apply_fn: the network.
      dataset: N >= 1 images; each is counted exactly once, whatever the batch size and devices.
      batch_size: images in one call of a device; the answer does not depend on it.
    """
    devices = parallel.device_count()
    size = devices * -(-min(batch_size * devices, len(dataset.labels)) // devices)

    def counts(
        params: Params, images: jax.Array, labels: jax.Array, valid: jax.Array, marks: Watermark
    ) -> Counts:
        seen = scale_pixels(images)
        clean = apply_fn(params, seen).argmax(-1)
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
        return parallel.total(jax.tree.map(lambda *fields: jnp.stack(fields), *each))

    run = parallel.pmap_shares(counts, cut=(False, True, True, True, False))

    def evaluate(params: Params, watermarks: Watermark) -> Counts:
        params, watermarks = parallel.replicate((params, watermarks))
        sums = []
        for start in range(0, len(dataset.labels), size):
            images = dataset.images[start : start + size]
            labels = dataset.labels[start : start + size]
            valid = np.arange(size) < len(labels)
            short = size - len(labels)
            images = np.pad(images, ((0, short), (0, 0), (0, 0), (0, 0)))
            labels = np.pad(labels, (0, short))
            sums.append(run(params, *parallel.share((images, labels, valid), devices), watermarks))
        return jax.tree.map(lambda *fields: np.sum(np.stack(fields), axis=0), *sums)

    return evaluate
