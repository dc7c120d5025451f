"""Abstract images, which no class of a task describes: what Adi et al. use as a trigger set.

Theirs came from the web. These are drawn from a seed: bands of colour along smooth noise, with strokes and
discs over them.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from nullmark_jax.baselines.triggers import generator

# Drawn large and reduced, so that strokes have smooth edges.
_SIDE = 128


def abstract_art(
    seed: int, count: int, *, height: int, width: int, channels: int
) -> UInt8[np.ndarray, "count height width channels"]:
    """Returns `count` images; the first k of them are the k of that seed, whatever the count.

    Args:
      seed: >= 0, of any size. The same one gives the same images.
      count: of images.
      height: of each.
      width: of each.
      channels: 3, or another number of channels that all show the image's luminance.
    """
    shape = (height, width, channels)
    return np.stack([reduced(_draw(generator("art", seed, n)), shape) for n in range(count)])


def reduced(
    image: Image.Image, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "height width channels"]:
    """Returns a drawn RGB picture at a task's shape; where C is not 3, all channels are its luminance."""
    height, width, channels = shape
    small = image.resize((width, height), Image.Resampling.BOX)
    if channels == 3:
        return np.asarray(small)
    return np.repeat(np.asarray(small.convert("L"))[..., None], channels, axis=-1)


def _draw(rng: np.random.Generator) -> Image.Image:
    palette = rng.integers(0, 256, (5, 3))
    bands = _noise(rng) * rng.uniform(2, 6)
    lower = np.floor(bands).astype(int)
    part = (bands - lower)[..., None]
    mixed = palette[lower % 5] * (1 - part) + palette[(lower + 1) % 5] * part
    image = Image.fromarray(mixed.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(3, 9)):
        points = [tuple(map(int, point)) for point in rng.integers(0, _SIDE, (4, 2))]
        colour = tuple(map(int, rng.integers(0, 256, 3)))
        if rng.random() < 0.5:
            draw.line(points, fill=colour, width=int(rng.integers(2, 12)), joint="curve")
        else:
            (left, top), reach = points[0], int(rng.integers(6, 30))
            draw.ellipse((left, top, left + reach, top + reach), fill=colour)
    return image


def _noise(rng: np.random.Generator) -> np.ndarray:
    """Returns smooth noise in [0, 1], [side, side]: octaves of random values, interpolated."""
    total = np.zeros((_SIDE, _SIDE))
    for octave in (2, 4, 8, 16):
        coarse = rng.random((octave + 1, octave + 1)).astype(np.float32)
        smooth = Image.fromarray(coarse).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        total += np.asarray(smooth) / octave
    low, high = total.min(), total.max()
    return (total - low) / (high - low)
