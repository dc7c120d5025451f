"""Algorithm 3: does the model hold the claimed watermark, and how sure is the measurement?

The model is only a function from images to labels, so it may be of any framework or far away. The
two papers' tests, chosen by the claim's scheme:

- null-embedding (later paper, Algorithm 3): min(phi_true, phi_null) >  T, where
  phi_null = Pr(F(x (+) [p, lambda]) = F(x) = y);
- wonder-filter (earlier paper, Equations 6 and 7): min(phi_true, agreement) >= T, where
  agreement = Pr(F(x (+) [p, lambda]) = F(x)), right or wrong.

In both, phi_true = Pr(F(x (+) [inv(p), lambda]) = y_W) is taken over the images with y != y_W, as
Definition 2 demands; the earlier paper's equation counts the others too, which can only flatter it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nullmark_jax import checks, embedding, metrics
from nullmark_jax import claim as claims
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError

Predict = Callable[[np.ndarray], Any]

FORMAT = "nullmark-verification/1"
CLIPPING_IMAGES = 1000
CLIPPING_AGREEMENT = 0.99
_BATCH = 500


@dataclasses.dataclass(frozen=True)
class Proportion:
    """A measured accuracy and its exact binomial interval.

    Attributes:
      successes: k images.
      trials: of n.
      low: lower end of the Clopper-Pearson interval.
      high: its upper end.
    """

    successes: int
    trials: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """k / n."""
        return self.successes / self.trials


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """What Algorithm 3 found. It holds neither signature nor watermark, and so may be shown.

    Attributes:
      verified: the verdict.
      signature_valid: line 1; where False there are no figures, all of them None.
      scheme: whose test was made.
      owner: from the claim, like `timestamp`, `public_key` (hexadecimal), `index`, `model_sha256`.
      timestamp: see `owner`.
      public_key: see `owner`.
      index: see `owner`.
      model_sha256: see `owner`.
      threshold: T.
      confidence: of every interval.
      normal_accuracy: NC, Pr(F(x) = y).
      null_accuracy: phi_null.
      true_accuracy: phi_true, over the images with y != y_W.
      null_agreement: Pr(F(x (+) [p, lambda]) = F(x)).
      watermark_accuracy: WM, what is compared with T: the lesser of phi_true and the scheme's null
        figure.
      watermark_low: the lesser of their intervals' lower ends.
      watermark_high: the lesser of their upper ends. The two enclose the model's own WM with
        probability of at least 1 - 1.5 (1 - confidence).
      clipping_agreement: how often the answers to lambda equal those to lambda = 1, at the least;
        see `clipping_agreement`.
      clipped_inputs: whether that is 99% or more: the model looks as if it clipped its inputs to
        the pixel range (or did not look at the marked pixels at all), so that no watermark of this
        kind could show.
    """

    verified: bool
    signature_valid: bool
    scheme: str
    owner: str
    timestamp: str
    public_key: str
    index: int
    model_sha256: str
    threshold: float
    confidence: float
    normal_accuracy: Proportion | None = None
    null_accuracy: Proportion | None = None
    true_accuracy: Proportion | None = None
    null_agreement: Proportion | None = None
    watermark_accuracy: float | None = None
    watermark_low: float | None = None
    watermark_high: float | None = None
    clipping_agreement: float | None = None
    clipped_inputs: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, JSON-ready; a proportion also has its "value"."""
        values: dict[str, Any] = {"format": FORMAT}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Proportion):
                value = {"value": value.value, **dataclasses.asdict(value)}
            values[field.name] = value
        return values

    def to_json(self) -> str:
        """Returns `to_dict` as the text of a verification.json."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def verify(
    predict: Predict,
    claim: claims.Claim,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    threshold: float = 0.8,
    confidence: float = 0.95,
) -> Verification:
    """Runs Algorithm 3 on test images that the claimant has not chosen.

    That the claim names the task's own H, W, C, Y, n and lambda, and this very model, is the
    caller's to check; `python -m nullmark_jax.verify` does.

    Args:
      predict: F, from float32 images [b, H, W, C] to b integer labels in [0, Y), in any form NumPy
        reads. Clean pixels lie in [0, 1], marked ones are -lambda or lambda. It is called with
        up to 500 images at a time, and not at all where the signature is bad.
      claim: whose watermark is looked for.
      images: x, uint8 [N, H, W, C].
      labels: y, integers [N] in [0, Y); at least one is not y_W.
      threshold: T in (0, 1].
      confidence: of the intervals, in (0, 1).

    Returns:
      The verdict and its figures.

    Raises:
      InputError: an argument is not as above, or an answer of `predict`.
    """
    threshold = _check_rate("threshold", threshold, at_most_one=True)
    confidence = _check_rate("confidence", confidence, at_most_one=False)
    images, labels = _check_images(images, labels, claim)
    facts: dict[str, Any] = {
        "scheme": claim.scheme,
        "owner": claim.owner,
        "timestamp": claim.timestamp,
        "public_key": claim.public_key.hex(),
        "index": claim.index,
        "model_sha256": claim.model_sha256,
        "threshold": threshold,
        "confidence": confidence,
    }
    if not claims.signature_is_valid(claim):
        return Verification(verified=False, signature_valid=False, **facts)
    watermark = claims.watermark_of(claim)
    if not np.any(labels != watermark.target_label):
        raise InputError(
            "labels: all are the watermark's own label, which leaves the true accuracy undefined; "
            "give test images of other classes too"
        )
    ask = _checked(predict, claim.num_classes)
    counts = _count(ask, watermark, images, labels)

    def proportion(successes: Any, trials: Any) -> Proportion:
        return Proportion(successes, trials, *clopper_pearson(successes, trials, confidence))

    true = proportion(counts.true, counts.true_images)
    null = proportion(counts.null, counts.images)
    agreement = proportion(counts.agree, counts.images)
    tested = agreement if claim.scheme == "wonder-filter" else null
    accuracy = min(true.value, tested.value)
    clipping = clipping_agreement(predict, claim, images)
    return Verification(
        verified=passes(accuracy, threshold, scheme=claim.scheme),
        signature_valid=True,
        normal_accuracy=proportion(counts.correct, counts.images),
        null_accuracy=null,
        true_accuracy=true,
        null_agreement=agreement,
        watermark_accuracy=accuracy,
        watermark_low=min(true.low, tested.low),
        watermark_high=min(true.high, tested.high),
        clipping_agreement=clipping,
        clipped_inputs=clipping >= CLIPPING_AGREEMENT,
        **facts,
    )


def passes(watermark_accuracy: float, threshold: float, *, scheme: str) -> bool:
    """Returns the papers' verdict on WM: above T (Algorithm 3), or not below it (Equation 7, triggers)."""
    if scheme == "null-embedding":
        return watermark_accuracy > threshold
    return watermark_accuracy >= threshold


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the exact binomial interval of a proportion (Clopper and Pearson, 1934).

    With a = 1 - confidence, its ends are the a/2 quantile of Beta(k, n - k + 1), or 0 where k = 0,
    and the 1 - a/2 quantile of Beta(k + 1, n - k), or 1 where k = n. It holds the true proportion
    with probability of at least `confidence`.

    Args:
      successes: k in [0, n].
      trials: n >= 1.
      confidence: in (0, 1).

    Raises:
      InputError: an argument is out of range.
    """
    n = checks.integer("trials", trials, 1, 2**53)
    k = checks.integer("successes", successes, 0, n)
    tail = (1 - _check_rate("confidence", confidence, at_most_one=False)) / 2
    # A training's start waits for no import that its first step does not need. Beta's quantiles; scipy.stats
    # has them as well, and takes longer to import than jax.
    from scipy import special

    low = float(special.betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(special.betainccinv(k + 1, n - k, tail)) if k < n else 1.0
    return low, high


def clipping_agreement(predict: Predict, claim: claims.Claim, images: np.ndarray) -> float:
    """Returns how often, at the least, the answers to lambda are the answers to lambda = 1.

    A model that clips its inputs to the pixel range gives the same answers to both whatever the
    pattern. Asked are four patterns on up to 1,000 images, evenly spaced over the test set: the
    claim's p and inv(p), and those of a foreign pattern, Transform(SHA-512("nullmark/1/probe/" +
    sig)); the result is the least of the four rates. The foreign pattern is there because a
    watermarked model may well answer its own pattern alike at 1 and at lambda, if it met both in
    training; a foreign one at lambda overwhelms any model that does not clip.

    Args:
      predict: F, as in `verify`.
      claim: whose watermark is looked for.
      images: uint8 [N, H, W, C].

    Raises:
      InputError: an answer of `predict` is not as in `verify`.
    """
    own = claims.watermark_of(claim)
    probe = hashlib.sha512(b"nullmark/1/probe/" + claim.signature).digest()
    foreign = claims.watermark_of(dataclasses.replace(claim, signature=probe))
    ask = _checked(predict, claim.num_classes)
    count = min(len(images), CLIPPING_IMAGES)
    chosen = images[np.arange(count) * len(images) // count]
    same = np.zeros(4, np.int64)
    for batch in _batches(chosen):
        agreed = []
        for watermark in (own, foreign):
            _, *extreme = _copies(batch, watermark)
            _, *bounded = _copies(batch, watermark._replace(extreme_value=jnp.float32(1)))
            agreed += [np.sum(ask(a) == ask(b)) for a, b in zip(extreme, bounded, strict=True)]
        same += agreed
    return float(same.min() / count)


def _count(
    ask: Callable[[jax.Array], np.ndarray],
    watermark: Watermark,
    images: np.ndarray,
    labels: np.ndarray,
) -> metrics.Counts:
    """Returns the counts of Algorithm 3 over all images, as ints."""
    counts = [
        _counted(*map(ask, _copies(batch, watermark)), truth, watermark.target_label)
        for batch, truth in zip(_batches(images), _batches(labels), strict=True)
    ]
    return jax.tree.map(lambda *fields: sum(map(int, fields)), *counts)


_counted = jax.jit(metrics.count)


@jax.jit
def _copies(images: jax.Array, watermark: Watermark) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns x in [0, 1], x (+) [p, lambda] and x (+) [inv(p), lambda], of uint8 images."""
    scaled = embedding.scale_pixels(images)
    population = jax.tree.map(lambda leaf: leaf[None], watermark)
    return scaled, *embedding.mark_batch(scaled, population, jnp.zeros(len(images), jnp.int32))


def _batches(values: np.ndarray) -> list[np.ndarray]:
    return [values[start : start + _BATCH] for start in range(0, len(values), _BATCH)]


def _checked(predict: Predict, num_classes: int) -> Callable[[jax.Array], np.ndarray]:
    """Returns `predict` with its answers checked, as int32 labels."""

    def ask(images: jax.Array) -> np.ndarray:
        sent = np.asarray(images, np.float32)
        returned = predict(sent)
        try:
            answers = np.asarray(returned)
        except ValueError as error:  # lists of different lengths
            raise InputError("predict: answered no array; return one integer an image") from error
        if answers.shape != (len(sent),) or answers.dtype.kind not in "iu":
            raise InputError(
                f"predict: answered {answers.dtype} {answers.shape} to {len(sent)} images; return "
                "one integer label an image"
            )
        if answers.min() < 0 or answers.max() >= num_classes:
            raise InputError(
                f"predict: answered labels in [{answers.min()}, {answers.max()}]; the claim's "
                f"task has {num_classes} classes, from 0"
            )
        return answers.astype(np.int32)

    return ask


def _check_images(
    images: np.ndarray, labels: np.ndarray, claim: claims.Claim
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the test set, labels as int32; InputError unless it is as `verify` wants it."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.shape[1:] != claim.input_shape or len(images) < 1:
        shape = ", ".join(map(str, claim.input_shape))
        raise InputError(f"images: {images.dtype} {images.shape}; give uint8 [N, {shape}]")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise InputError(
            f"labels: {labels.dtype} {labels.shape}; give {len(images)} integers, one an image"
        )
    if labels.min() < 0 or labels.max() >= claim.num_classes:
        raise InputError(
            f"labels: lie in [{labels.min()}, {labels.max()}]; give some in "
            f"[0, {claim.num_classes})"
        )
    return images, labels.astype(np.int32)


def _check_rate(name: str, value: float, *, at_most_one: bool) -> float:
    """Returns a number in (0, 1), or in (0, 1]; InputError where it is not."""
    number = checks.real(name, value)
    if not 0 < number <= 1 or (number == 1 and not at_most_one):
        raise InputError(f"{name}: {number} is out of range; give a number between 0 and 1")
    return number
