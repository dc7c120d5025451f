"""Trying signatures until one's watermark passes on a model that nobody embedded it in.

Every valid signature is a fresh random watermark; a cheat needs only the model's answers. A try costs
a signature, a hash and the answers to two copies of each test image.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from nullmark_jax import incremental, models
from nullmark_jax.embedding import Watermark, scale_pixels
from nullmark_jax.metrics import Counts, count
from nullmark_jax.models import ConvNet, Params

_AT_ONCE = 500

Score = Callable[[Watermark], Counts]


def make_score(
    model: ConvNet,
    params: Params,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    pattern_size: int,
) -> Score:
    """Returns watermark -> Counts over the images, compiled once for all watermarks.

    What no watermark changes, the answers to the images and their features, is found once.

    Args:
      model: the network.
      params: its parameters.
      images: uint8 [N, H, W, C], N >= 1.
      labels: int32 [N].
      pattern_size: n of the watermarks, which are single ones (no leading axis).
    """
    copies = incremental.copies_of_network(model, pattern_size=pattern_size)
    apply_fn = models.apply_fn(model)

    @jax.jit
    def prepare(params: Params, seen: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        return apply_fn(params, seen).argmax(-1), copies.features(params, seen)

    @jax.jit
    def score(
        params: Params,
        seen: jax.Array,
        answers: jax.Array,
        features: list[jax.Array],
        truth: jax.Array,
        valid: jax.Array,
        population: Watermark,
    ) -> Counts:
        which = jnp.zeros(seen.shape[0], jnp.int32)
        logits = copies.logits(params, seen, features, population, which)
        null, true = (each.argmax(-1) for each in logits)
        return count(answers, null, true, truth, population.target_label[0], valid)

    size = min(_AT_ONCE, len(labels))
    parts = []
    for start in range(0, len(labels), size):
        some, truth = images[start : start + size], labels[start : start + size]
        short = size - len(truth)
        padded = np.pad(some, ((0, short), (0, 0), (0, 0), (0, 0)))
        seen, valid = scale_pixels(jnp.asarray(padded)), jnp.asarray(np.arange(size) < len(truth))
        answers = jnp.asarray(np.pad(truth, (0, short)))
        parts.append((seen, *prepare(params, seen), answers, valid))

    def total(mark: Watermark) -> Counts:
        population = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], mark)
        each = [score(params, *part, population) for part in parts]
        return jax.tree.map(lambda *fields: np.sum(np.stack(fields), axis=0), *each)

    return total
