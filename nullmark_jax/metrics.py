"""The papers' accuracies as integer counts that sum over batches and devices. Pure JAX.

`Counts` of two batches add up, field by field, to the counts of both; the rates are properties of a
sum on the host, so no average of averages ever arises.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int


class Counts(NamedTuple):
    """Counts of images, int32 scalars (a leading axis per watermark where there are several).

    Attributes:
      images: images seen.
      correct: F(x) = y (NC counts these).
      null: F(x (+) [p, lambda]) = F(x) = y (phi_null, later paper Equation 4).
      agree: F(x (+) [p, lambda]) = F(x) (the earlier paper's null test, Equation 6).
      true_images: images with y != y_W, the ones Definition 2 speaks of.
      true: F(x (+) [inv(p), lambda]) = y_W among those (phi_true, Equation 5).
    """

    images: Int[Array, "*watermarks"]
    correct: Int[Array, "*watermarks"]
    null: Int[Array, "*watermarks"]
    agree: Int[Array, "*watermarks"]
    true_images: Int[Array, "*watermarks"]
    true: Int[Array, "*watermarks"]

    @property
    def normal_accuracy(self) -> jax.Array:
        """NC in [0, 1]; not a number when no image was seen."""
        return _rate(self.correct, self.images)

    @property
    def null_accuracy(self) -> jax.Array:
        """phi_null in [0, 1]; not a number when no image was seen."""
        return _rate(self.null, self.images)

    @property
    def null_agreement(self) -> jax.Array:
        """Pr(F(x (+) [p, lambda]) = F(x)) in [0, 1]; not a number when no image was seen."""
        return _rate(self.agree, self.images)

    @property
    def true_accuracy(self) -> jax.Array:
        """phi_true in [0, 1], over the images with y != y_W; not a number when there was none."""
        return _rate(self.true, self.true_images)


class TriggerCounts(NamedTuple):
    """Counts of images, int32 scalars, where triggers are the mark: summed over all of them.

    Attributes:
      images: images seen.
      correct: F(x) = y (NC counts these).
      true_images: triggers shown: each image of its own once, another on every image with y != y_t.
      true: F = y_t, the trigger's label, among those.
    """

    images: Int[Array, ""]
    correct: Int[Array, ""]
    true_images: Int[Array, ""]
    true: Int[Array, ""]

    @property
    def normal_accuracy(self) -> jax.Array:
        """NC in [0, 1]; not a number when no image was seen."""
        return _rate(self.correct, self.images)

    @property
    def true_accuracy(self) -> jax.Array:
        """The share of triggers answered with their label, in [0, 1]; not a number when none was shown."""
        return _rate(self.true, self.true_images)


def _rate(hits: jax.Array, of: jax.Array) -> jax.Array:
    with np.errstate(invalid="ignore"):  # Sums on the host are NumPy's, which warns of 0 / 0.
        return hits / of


def count(
    clean: Int[Array, " batch"],
    null: Int[Array, " batch"],
    true: Int[Array, " batch"],
    labels: Int[Array, " batch"],
    target_label: Int[Array, ""],
    valid: Bool[Array, " batch"] | bool = True,
) -> Counts:
    """Returns the counts of one batch.

    Args:
      clean: F(x), predicted labels.
      null: F(x (+) [p, lambda]).
      true: F(x (+) [inv(p), lambda]).
      labels: y.
      target_label: y_W.
      valid: False for padding, which counts nowhere.
    """
    valid = jnp.broadcast_to(valid, labels.shape)
    counted = valid & (labels != target_label)

    def total(condition: jax.Array) -> jax.Array:
        return jnp.sum(condition, dtype=jnp.int32)

    return Counts(
        images=total(valid),
        correct=total(valid & (clean == labels)),
        null=total(valid & (null == clean) & (clean == labels)),
        agree=total(valid & (null == clean)),
        true_images=total(counted),
        true=total(counted & (true == target_label)),
    )
