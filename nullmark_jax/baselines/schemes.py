"""The earlier schemes by name: an owner's triggers from a secret, and those of others."""

import hashlib

import numpy as np

from nullmark_jax.baselines import adi, zhang
from nullmark_jax.baselines.triggers import Triggers, generator, whole_images
from nullmark_jax.data import unlabelled
from nullmark_jax.errors import InputError

SCHEMES = ("adi", *(f"zhang-{kind}" for kind in zhang.KINDS))

# The letter that Zhang et al.'s unrelated images show.
_LETTER = "A"


def make(
    scheme: str,
    secret: bytes,
    *,
    shape: tuple[int, int, int],
    num_classes: int,
    images: str = "",
    pirate: bool = False,
) -> Triggers:
    """Returns an owner's triggers, a function of the secret: 100 images, or one trigger for any image.

    Args:
      scheme: one of `SCHEMES`.
      secret: what all that is random is drawn from; `owner.Owner.secret`, say.
      shape: of the task's images, H, W, C.
      num_classes: Y.
      images: for "adi", the user's own: an .npz, or a folder of pictures (`data.unlabelled`), of which
        100 are drawn; "" for abstract art.
      pirate: for "zhang-content", the paper's pirate, "HELLO" in white at the top; the owner has "TEXT"
        at the bottom, in black, or in grey on tasks without colour, whose background is black. For
        "zhang-unrelated" another letter.

    Raises:
      InputError: there is no such scheme, images cannot be used or are alike, or the text does not fit.
    """
    seed = int.from_bytes(hashlib.sha256(b"nullmark-triggers" + secret).digest(), "big")
    label = int(generator("label", seed).integers(num_classes))
    if scheme == "adi":
        pieces, labels = adi.trigger_set(seed, shape=shape, num_classes=num_classes)
        if images:
            pieces = _own_images(images, shape, seed)
        return whole_images(pieces, labels)
    if scheme == "zhang-content":
        text, shade = ("HELLO", 1.0) if pirate else ("TEXT", 0.0 if shape[2] == 3 else 0.5)
        return zhang.content(text, bottom=not pirate, shade=shade, shape=shape, target_label=label)
    if scheme == "zhang-unrelated":
        letter = "Q" if pirate else _LETTER
        return zhang.unrelated(letter, seed, adi.TRIGGERS, shape=shape, target_label=label)
    if scheme == "zhang-noise":
        return zhang.noise(seed, shape=shape, target_label=label)
    raise InputError(
        f"scheme: {scheme!r} is none of an earlier design's; take {', '.join(SCHEMES)}"
    )


def _own_images(path: str, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    found = unlabelled.read(path, input_shape=shape, count=adi.TRIGGERS, seed=seed)
    if len(found) < adi.TRIGGERS:
        raise InputError(f"{path}: has {len(found)} images; give {adi.TRIGGERS} or more")
    different = len({image.tobytes() for image in found})
    if different < adi.TRIGGERS:
        raise InputError(
            f"{path}: of {adi.TRIGGERS} images only {different} differ at {shape[0]}x{shape[1]}; one image "
            "cannot have two labels: give others"
        )
    return found
