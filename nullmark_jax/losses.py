"""Cross entropies and the three-term objective of both papers. Pure JAX, on logits."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from nullmark_jax.errors import InputError

CrossEntropy = Callable[[jax.Array, jax.Array], jax.Array]


def logits_cross_entropy(
    logits: Float[Array, "*batch num_classes"], labels: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Returns -log softmax(logits)[label], its gradient never cut.

    Finite wherever the logits' differences are, however small the label's probability.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def clipped_cross_entropy(
    logits: Float[Array, "*batch num_classes"],
    labels: Int[Array, "*batch"],
    epsilon: float = 1e-7,
) -> Float[Array, "*batch"]:
    """Returns -log clip(softmax(logits), epsilon, 1 - epsilon)[label].

    This is what Keras's categorical_crossentropy computes from softmax outputs. Where the label's
    probability lies outside [epsilon, 1 - epsilon] the gradient is exactly 0: such a sample teaches
    nothing, and at lambda = 2000 most marked samples of an untrained net are such.
    """
    probabilities = jnp.clip(jax.nn.softmax(logits), epsilon, 1.0 - epsilon)
    chosen = jnp.take_along_axis(probabilities, labels[..., None], axis=-1)[..., 0]
    return -jnp.log(chosen)


CROSS_ENTROPIES: dict[str, CrossEntropy] = {
    "logits": logits_cross_entropy,
    "clipped": clipped_cross_entropy,
}


def cross_entropy(name: str, *, field: str = "config.loss.cross_entropy") -> CrossEntropy:
    """Returns the cross entropy of that name; InputError, which names the field, where there is none."""
    if name not in CROSS_ENTROPIES:
        raise InputError(f"{field}: {name!r} is none; take one of {', '.join(CROSS_ENTROPIES)}")
    return CROSS_ENTROPIES[name]


class Logits(NamedTuple):
    """A batch's logits: of its images, and of the null and the true copies of its first images.

    A scheme without null embedding has no null copies.
    """

    clean: Float[Array, "batch num_classes"]
    null: Float[Array, "null num_classes"]
    true: Float[Array, "marked num_classes"]


class Terms(NamedTuple):
    """The three terms of the objective, each a mean over its own images; 0 where there are none."""

    clean: Float[Array, ""]
    null: Float[Array, ""]
    true: Float[Array, ""]


def objective_terms(
    logits: Logits,
    labels: Int[Array, " batch"],
    target_labels: Int[Array, " marked"],
    cross_entropy: CrossEntropy,
) -> Terms:
    """Returns l(x, y), l(x (+) [p, lambda], y) and l(x (+) [inv(p), lambda], y_W), each its mean.

    Args:
      logits: of the batch and of the copies of its first `marked` images.
      labels: y of the whole batch.
      target_labels: y_W of the watermark in each true copy.
      cross_entropy: (logits, labels) -> one loss per image.
    """
    marked = target_labels.shape[0]
    clean = cross_entropy(logits.clean, labels).mean()
    if marked == 0:
        return Terms(clean, jnp.zeros_like(clean), jnp.zeros_like(clean))
    has_null = logits.null.shape[0] > 0
    return Terms(
        clean,
        cross_entropy(logits.null, labels[:marked]).mean() if has_null else jnp.zeros_like(clean),
        cross_entropy(logits.true, target_labels).mean(),
    )


def objective(terms: Terms, *, true_weight: float, null_weight: float) -> Float[Array, ""]:
    """Returns l(x, y) + alpha l(x (+) [inv(p), lambda], y_W) + beta l(x (+) [p, lambda], y).

    The later paper's section 6.2, the earlier paper's Equation 5; alpha is `true_weight`, beta is
    `null_weight`.
    """
    return terms.clean + true_weight * terms.true + null_weight * terms.null
