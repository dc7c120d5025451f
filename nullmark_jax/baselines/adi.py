"""Adi et al. 2018: abstract images with labels drawn at random, and commitments to them.

The owner commits to image and label of each trigger before the model is out, and opens some commitments when
challenged: the model gives the labels, and who else could have known them?

The earlier paper's appendix C answers: whoever commits to *every* label of some images, and opens the ones
that the model then turns out to give (`forge`, `fitting`). It passes where the prover chooses what to open,
and fails where the verifier does (`verify` with `asked`, drawn after the commitments were published): of all
that was committed, only one label in Y fits.

That is not enough. Whoever commits to images with the labels that any good model gives them passes without
ever having seen this one. Adi et al. therefore ask that a trigger's label be wrong; `verify` does with
`reference`, another model of the task that the verifier trusts: only labels that it does not give count.
"""

import math
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import nacl.encoding
import nacl.hash
import numpy as np
from jaxtyping import Int, UInt8

from nullmark_jax import checks
from nullmark_jax.baselines.art import abstract_art
from nullmark_jax.baselines.triggers import generator
from nullmark_jax.data.dataset import drawn_order
from nullmark_jax.errors import InputError

# As many as theirs.
TRIGGERS = 100
# A verifier asks for so many that a guesser has no chance.
LEAST = 20
_NONCE_BYTES = 32

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
      verified: whether every opening is of its commitment, none asked for is missing, enough count, and
        the model gives the label of enough of those.
      opened: commitments opened that count: all, or those whose label the reference does not give.
      right: of these, whose label the model gives.
      chance: the probability that a model which knows nothing of the labels passes, they being uniform
        among those that count; None where the prover chose what to open, of which nothing can be said.
      reason: why not verified, one line; "" where it is.
    """

    verified: bool
    opened: int
    right: int
    chance: float | None
    reason: str


def trigger_set(
    seed: int, count: int = TRIGGERS, *, shape: tuple[int, int, int], num_classes: int
) -> tuple[UInt8[np.ndarray, "count height width channels"], Int[np.ndarray, " count"]]:
    """Returns `count` abstract images and their labels, uniform in [0, num_classes), int32."""
    height, width, channels = shape
    images = abstract_art(seed, count, height=height, width=width, channels=channels)
    labels = generator("labels", seed).integers(0, num_classes, count, dtype=np.int32)
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
    shape: tuple[int, int, int],
    num_classes: int,
    threshold: float,
    asked: Sequence[int] | None,
    reference: Predict | None = None,
    least: int = LEAST,
) -> Verdict:
    """Judges a claim that rests on opened commitments.

    Args:
      predict: the model.
      published: the commitments, from before the model was out.
      openings: of some of them.
      shape: of the task's images, H, W, C.
      num_classes: Y.
      threshold: the least share of the labels that count that the model must give, in (0, 1].
      asked: the commitments that the verifier drew after publication, all of which must be opened and no
        other. None lets the prover choose, as the earlier paper has the protocol: whoever does passes.
      reference: a model of the task by someone else; labels that it gives do not count. None for none:
        then whoever committed to right labels passes.
      least: how many labels must count.

    Raises:
      InputError: nothing is opened, or the threshold is out of range.
    """
    if not openings:
        raise InputError("openings: is empty; give one at least")
    if not 0 < checks.real("threshold", threshold) <= 1:
        raise InputError(f"threshold: {threshold} is out of range; give one in (0, 1]")
    opened = len({opening.number for opening in openings})
    right = 0
    reason = _unsound(published, openings, shape, num_classes, asked)
    if not reason:
        images = np.stack([opening.image for opening in openings])
        labels = np.array([opening.label for opening in openings])
        counted = np.ones(len(labels), bool)
        if reference is not None:
            counted = np.asarray(reference(images)) != labels
        opened = int(counted.sum())
        right = int((counted & (np.asarray(predict(images)) == labels)).sum())
        if opened < least:
            reason = f"only {opened} labels count; {least} must"
        elif right < _least_right(opened, threshold):
            reason = f"the model gives {right} of {opened} labels"
    among = num_classes if reference is None else num_classes - 1
    return Verdict(
        verified=not reason,
        opened=opened,
        right=right,
        chance=None if asked is None else chance(opened, num_classes=among, threshold=threshold),
        reason=reason,
    )


def _unsound(
    published: Sequence[bytes],
    openings: Sequence[Opening],
    shape: tuple[int, int, int],
    num_classes: int,
    asked: Sequence[int] | None,
) -> str:
    """Returns why openings are not what was committed to or asked for; "" where they are."""
    numbers = [opening.number for opening in openings]
    if len(set(numbers)) < len(numbers):
        return "a commitment is opened twice"
    if asked is not None and set(numbers) != set(asked):
        return "the commitments opened are not those asked for"
    for opening in openings:
        image = opening.image
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != shape:
            return f"commitment {opening.number} is opened with no uint8 image of the task's shape"
        # Else one commitment could be opened in two ways, bytes of the nonce becoming pixels.
        if not isinstance(opening.nonce, bytes) or len(opening.nonce) != _NONCE_BYTES:
            return f"commitment {opening.number} is opened without a nonce of {_NONCE_BYTES} bytes"
    if len({opening.image.tobytes() for opening in openings}) < len(openings):
        return "an image is opened with two labels"
    for opening in openings:
        if not 0 <= opening.number < len(published):
            return f"there is no commitment {opening.number}"
        if not isinstance(opening.label, int) or not 0 <= opening.label < num_classes:
            return f"the label of commitment {opening.number} is none of the model's"
        if commitment(opening) != published[opening.number]:
            return f"commitment {opening.number} is to something else"
    return ""


def chance(opened: int, *, num_classes: int, threshold: float) -> float:
    """Returns the probability that so many labels of Y pass, each given with probability 1 / Y."""
    from scipy import special  # Here: a training's start would wait for it.

    least = _least_right(opened, threshold)
    # The binomial's upper tail, a regularised incomplete beta function.
    return float(special.betainc(least, opened - least + 1, 1 / num_classes)) if least else 1.0


def _least_right(opened: int, threshold: float) -> int:
    """Returns the fewest of the labels that pass, whatever the threshold's last bit."""
    return math.ceil(threshold * opened - 1e-9)


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
