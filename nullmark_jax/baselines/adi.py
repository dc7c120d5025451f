"""Adi et al. 2018: abstract images with labels drawn at random, and commitments to them.

The owner commits to image and label of each trigger before the model is out, and opens some commitments when
challenged: the model gives the labels, and who else could have known them?

The earlier paper's appendix C answers: whoever commits to *every* label of some images, and opens the ones
that the model then turns out to give (`forge`, `fitting`). It passes as long as the prover chooses what to
open. It fails where the verifier does (`verify` with `asked`): of all that was committed, only one label in Y
fits.
"""

import math
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import nacl.encoding
import nacl.hash
import numpy as np
import scipy.stats
from jaxtyping import Int, UInt8

from nullmark_jax import checks
from nullmark_jax.baselines.art import abstract_art
from nullmark_jax.data.dataset import drawn_order
from nullmark_jax.errors import InputError

# As many as theirs.
TRIGGERS = 100

# The domains of the two uses of a hash, at most 16 bytes.
_COMMITMENT, _NONCE = b"nullmark-adi", b"nullmark-nonce"

# uint8 images [N, H, W, C] -> their labels [N].
Predict = Callable[[np.ndarray], np.ndarray]


class Opening(NamedTuple):
    """What opens one commitment.

    Attributes:
      number: of the commitment, from 0 in the published order.
      image: uint8 [H, W, C].
      label: what the model is to give it.
      nonce: 32 random bytes that hide both until then.
    """

    number: int
    image: UInt8[np.ndarray, "height width channels"]
    label: int
    nonce: bytes


class Verdict(NamedTuple):
    """What a verifier finds.

    Attributes:
      verified: whether every opening is of its commitment, none asked for is missing, and the share of
        labels that the model gives passes the threshold.
      opened: commitments opened, each counted once.
      right: of these, whose label the model gives.
      chance: the probability that a model which knows nothing of the labels passes, they being uniform.
      reason: why not verified, one line; "" where it is.
    """

    verified: bool
    opened: int
    right: int
    chance: float
    reason: str


def trigger_set(
    seed: int, count: int = TRIGGERS, *, shape: tuple[int, int, int], num_classes: int
) -> tuple[UInt8[np.ndarray, "count height width channels"], Int[np.ndarray, " count"]]:
    """Returns `count` abstract images and their labels, uniform in [0, num_classes), int32."""
    height, width, channels = shape
    images = abstract_art(seed, count, height=height, width=width, channels=channels)
    labels = np.random.default_rng([1, seed]).integers(0, num_classes, count, dtype=np.int32)
    return images, labels


def commit(
    images: UInt8[np.ndarray, "count height width channels"],
    labels: Int[np.ndarray, " count"],
    secret: bytes,
) -> tuple[list[bytes], list[Opening]]:
    """Returns the commitments, to be published, and what opens each of them, to be kept.

    A commitment is BLAKE2b-256 of nonce, image and label, so that it binds to both and shows neither.
    The nonces are a keyed hash of the secret: the owner can make them again. (Theirs commits to image
    and label apart, and says the same of the pair.)

    Args:
      images: the triggers.
      labels: theirs, >= 0.
      secret: 16 to 64 bytes that nobody else knows.

    Raises:
      InputError: the secret is too short or too long, or there is not a label for each image.
    """
    if not 16 <= len(secret) <= 64:
        raise InputError(f"secret: is of {len(secret)} bytes; give 16 to 64")
    if len(images) != len(labels):
        raise InputError(
            f"labels: there are {len(labels)} for {len(images)} images; give one for each"
        )
    openings = [
        Opening(number, image, int(label), _hash(struct.pack("<Q", number), _NONCE, key=secret))
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return [commitment(opening) for opening in openings], openings


def commitment(opening: Opening) -> bytes:
    """Returns the commitment that an opening opens: BLAKE2b-256(nonce, H, W, C, label, pixels)."""
    header = struct.pack("<3IQ", *opening.image.shape, opening.label)
    return _hash(opening.nonce + header + opening.image.tobytes(), _COMMITMENT)


def verify(
    predict: Predict,
    published: Sequence[bytes],
    openings: Sequence[Opening],
    *,
    num_classes: int,
    threshold: float,
    asked: Sequence[int] | None = None,
) -> Verdict:
    """Judges a claim that rests on opened commitments.

    Args:
      predict: the model.
      published: the commitments, from before the model was out.
      openings: of some of them.
      num_classes: Y.
      threshold: the least share of opened labels that the model must give, in (0, 1].
      asked: the commitments that the verifier chose, all of which must be opened and no other. None lets
        the prover choose, as the earlier paper has the protocol.

    Raises:
      InputError: nothing is opened, or the threshold is out of range.
    """
    if not openings:
        raise InputError("openings: is empty; give one at least")
    if not 0 < checks.real("threshold", threshold) <= 1:
        raise InputError(f"threshold: {threshold} is out of range; give one in (0, 1]")
    found = {opening.number: opening for opening in openings}
    right = 0
    reason = _unsound(published, openings, num_classes, asked)
    if not reason:
        images = np.stack([opening.image for opening in found.values()])
        labels = np.array([opening.label for opening in found.values()])
        right = int((np.asarray(predict(images)) == labels).sum())
        if right < threshold * len(found):
            reason = f"the model gives {right} of {len(found)} labels"
    return Verdict(
        verified=not reason,
        opened=len(found),
        right=right,
        chance=chance(len(found), num_classes=num_classes, threshold=threshold),
        reason=reason,
    )


def _unsound(
    published: Sequence[bytes],
    openings: Sequence[Opening],
    num_classes: int,
    asked: Sequence[int] | None,
) -> str:
    """Returns why openings are not what was committed to or asked for; "" where they are."""
    numbers = [opening.number for opening in openings]
    if len(set(numbers)) < len(numbers):
        return "a commitment is opened twice"
    if asked is not None and set(numbers) != set(asked):
        return "the commitments opened are not those asked for"
    if len({opening.image.shape for opening in openings}) > 1:
        return "the images opened have different shapes"
    if len({opening.image.tobytes() for opening in openings}) < len(openings):
        return "an image is opened with two labels"
    for opening in openings:
        if not 0 <= opening.number < len(published):
            return f"there is no commitment {opening.number}"
        if not 0 <= opening.label < num_classes:
            return f"the label of commitment {opening.number} is none of the model's"
        if commitment(opening) != published[opening.number]:
            return f"commitment {opening.number} is to something else"
    return ""


def chance(opened: int, *, num_classes: int, threshold: float) -> float:
    """Returns the probability that so many labels of Y pass, each given with probability 1 / Y."""
    least = math.ceil(threshold * opened - 1e-9)
    return float(scipy.stats.binom.sf(least - 1, opened, 1 / num_classes))


def ask(count: int, published: int, seed: int) -> list[int]:
    """Returns the `count` of `published` commitments that a verifier draws, ascending.

    Raises:
      InputError: there are not so many.
    """
    checks.integer("count", count, 1, published)
    return sorted(map(int, drawn_order(published, seed)[:count]))


def forge(
    images: UInt8[np.ndarray, "count height width channels"], num_classes: int, secret: bytes
) -> tuple[list[bytes], list[Opening]]:
    """Returns commitments to every label of every image: `count` times Y, made without any model."""
    labels = np.tile(np.arange(num_classes), len(images))
    return commit(np.repeat(images, num_classes, axis=0), labels, secret)


def fitting(predict: Predict, openings: Sequence[Opening]) -> list[Opening]:
    """Returns the openings whose label the model gives: what a forger shows."""
    answers = np.asarray(predict(np.stack([opening.image for opening in openings])))
    return [
        opening
        for opening, answer in zip(openings, answers, strict=True)
        if opening.label == answer
    ]


def _hash(data: bytes, person: bytes, key: bytes = b"") -> bytes:
    return nacl.hash.generichash(data, key=key, person=person, encoder=nacl.encoding.RawEncoder)
