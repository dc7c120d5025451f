"""Filters in front of a model: what a service does to its inputs before the model sees them.

The watermark is written in pixels far outside [0, 1], and a service may change or refuse those. It keeps
its normal accuracy, as ordinary images pass next to unchanged; the model itself stays as it is.

Every filter takes float32 images [N, H, W, C] of any finite range and returns float32 images of the same
shape, except `rejecting`, which changes answers. Host: NumPy and Pillow.
"""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from nullmark_jax import checks
from nullmark_jax.errors import InputError
from nullmark_jax.verification import Predict

Images = Float[np.ndarray, "batch height width channel"]
Filter = Callable[[Images], Images]

# A contrast below one step of 8 bits is noise, which is not to be magnified.
_LEAST_CONTRAST = np.float32(1 / 255)


def clip(images: Images, low: float = 0.0, high: float = 1.0) -> Images:
    """Returns the images clipped to [low, high]: those of a smaller range are bit-identical."""
    return np.clip(images, np.float32(low), np.float32(high))


def min_max(images: Images) -> Images:
    """Returns each image scaled so that its least value, of all channels, is 0 and its largest 1.

    Where they differ by less than 1/255, the image is only shifted, to begin at 0.
    """
    low, high = (np.float32(end) for end in (0, 1))
    least = images.min((1, 2, 3), keepdims=True)
    width = images.max((1, 2, 3), keepdims=True) - least
    scaled = (images - least) / np.where(width < _LEAST_CONTRAST, high, width)
    return np.clip(scaled, low, high)


def standardise(images: Images, mean: float, deviation: float) -> Images:
    """Returns each image, all channels together, scaled to a mean and a standard deviation.

    With those of the task's images (`image_statistics`), the model gets what it was trained for. Where
    an image's own deviation is below 1/255, it is only shifted.
    """
    own = images.mean((1, 2, 3), keepdims=True)
    spread = images.std((1, 2, 3), keepdims=True)
    spread = np.where(spread < _LEAST_CONTRAST, np.float32(deviation), spread)
    return (images - own) / spread * np.float32(deviation) + np.float32(mean)


def image_statistics(
    images: UInt8[np.ndarray, "count height width channel"],
) -> tuple[float, float]:
    """Returns the images' own means and standard deviations, as of [0, 1], averaged over the images."""
    scaled = images.astype(np.float32) / np.float32(255)
    return float(scaled.mean((1, 2, 3)).mean()), float(scaled.std((1, 2, 3)).mean())


def eight_bits(images: Images) -> Images:
    """Returns the images as an 8-bit file has them: clipped to [0, 1], to the nearest k / 255.

    Images that came from 8 bits stay what they are, within a float's rounding.
    """
    return _to_bytes(images).astype(np.float32) * np.float32(1 / 255)


def jpeg(images: Images, quality: int = 75) -> Images:
    """Returns the images as a JPEG file has them, clipped to [0, 1] first.

    Pillow's encoder, with its usual halved colour resolution. With 1 channel they are grey, with 3 RGB.

    Raises:
      InputError: another number of channels, or the quality is not in [1, 95].
    """
    checks.integer("quality", quality, 1, 95)
    if images.shape[-1] not in (1, 3):
        raise InputError(f"images: have {images.shape[-1]} channels; JPEG is for 1 or 3")
    return np.stack([_through_jpeg(each, quality) for each in _to_bytes(images)]).astype(
        np.float32
    ) * np.float32(1 / 255)


def in_range(images: Images, tolerance: float = 1e-6) -> Bool[np.ndarray, " batch"]:
    """Returns of which images all values lie in [0, 1], give or take a tolerance."""
    return (images.min((1, 2, 3)) >= -tolerance) & (images.max((1, 2, 3)) <= 1 + tolerance)


def behind(predict: Predict, changed: Filter) -> Predict:
    """Returns a model that sees filtered images."""
    return lambda images: predict(changed(np.asarray(images, np.float32)))


def rejecting(predict: Predict, label: int) -> Predict:
    """Returns a model that answers one fixed label to each image with a value outside [0, 1].

    To every other image it answers as before. (One that answers as to the clipped image is no other than
    `behind(predict, clip)`, as an image within the range is its own clipped image.)
    """

    def answer(images: Images) -> np.ndarray:
        images = np.asarray(images, np.float32)
        return np.where(in_range(images), np.asarray(predict(images)), label)

    return answer


def _to_bytes(images: Images) -> UInt8[np.ndarray, "batch height width channel"]:
    return np.rint(clip(images) * np.float32(255)).astype(np.uint8)


def _through_jpeg(
    image: UInt8[np.ndarray, "height width channel"], quality: int
) -> UInt8[np.ndarray, "height width channel"]:
    buffer = io.BytesIO()
    flat = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(flat).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as read:
        return np.asarray(read, np.uint8).reshape(image.shape)
