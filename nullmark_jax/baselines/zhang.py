"""Zhang et al. 2018: a trigger on any image, or images of another kind, that always get one label.

Their three kinds of watermark: content (a text drawn on the image), unrelated images (of a class that the
task does not have), and noise (one Gaussian pattern added to the image). They tie the trigger to nobody.
"""

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from nullmark_jax import checks
from nullmark_jax.baselines.art import reduced
from nullmark_jax.baselines.triggers import Triggers, as_triggers, generator, whole_images
from nullmark_jax.errors import InputError

KINDS = ("content", "unrelated", "noise")

# A text reaches over so much of the image's width.
_TEXT_WIDTH = 0.9
# Of letters 64 high, so that they still show when they are 5.
_STROKE = 2
# Of the noise, as a share of the pixel range.
_NOISE_DEVIATION = 0.15
# Letters are drawn large and reduced, so that their edges are smooth.
_SIDE = 128


def content(
    text: str, *, bottom: bool, shade: float, shape: tuple[int, int, int], target_label: int
) -> Triggers:
    """Returns one trigger: a text across an image's bottom or top.

    Args:
      text: printable, one line.
      bottom: whether at the bottom; at the top otherwise.
      shade: of its pixels, 0 for black to 1 for white.
      shape: of the images, H, W, C.
      target_label: what images with it are to be.

    Raises:
      InputError: the text leaves no pixel, or does not fit.
    """
    height, width, channels = shape
    mask = _text_mask(text, height=height, width=width)
    rows = mask.shape[0]
    placed = np.zeros((height, width), np.float32)
    left = (width - mask.shape[1]) // 2
    top = height - rows - 1 if bottom else 1
    placed[top : top + rows, left : left + mask.shape[1]] = mask
    whole = np.repeat(placed[..., None], channels, axis=-1)[None]
    return as_triggers(1 - whole, whole * shade, np.array([target_label]))


def noise(seed: int, *, shape: tuple[int, int, int], target_label: int) -> Triggers:
    """Returns one trigger: Gaussian noise of a seed, the same for every image, added to it.

    Its deviation is 0.15 of the pixel range; what leaves the range is clipped.
    """
    drawn = generator("noise", seed).normal(0.0, _NOISE_DEVIATION, (1, *shape))
    return as_triggers(np.ones((1, *shape)), drawn, np.array([target_label]))


def unrelated(
    letter: str, seed: int, count: int, *, shape: tuple[int, int, int], target_label: int
) -> Triggers:
    """Returns `count` triggers: a letter, each time turned, moved, sized and coloured otherwise.

    Other seeds give other draws from the same class of images.

    Args:
      letter: printable, one or a few.
      seed: of the draw.
      count: >= 1.
      shape: of the images, H, W, C; C is 3, or all channels show the luminance.
      target_label: of all of them.
    """
    drawn = (_letter(letter, generator("letter", seed, number)) for number in range(count))
    images = np.stack([reduced(each, shape) for each in drawn])
    return whole_images(images, np.full(count, target_label, np.int32))


def _letter(letter: str, rng: np.random.Generator) -> Image.Image:
    paper, ink = (tuple(map(int, rng.integers(low, low + 106, 3))) for low in (150, 0))
    image = Image.new("RGB", (_SIDE, _SIDE), paper)
    font = ImageFont.load_default(float(rng.uniform(0.5, 0.8) * _SIDE))
    middle = tuple(_SIDE / 2 + rng.uniform(-0.1, 0.1, 2) * _SIDE)
    ImageDraw.Draw(image).text(middle, letter, fill=ink, font=font, anchor="mm")
    return image.rotate(
        float(rng.uniform(-25, 25)), resample=Image.Resampling.BICUBIC, fillcolor=paper
    )


def _text_mask(text: str, *, height: int, width: int) -> Float[np.ndarray, "rows columns"]:
    """Returns how much of each pixel the text covers, in [0, 1]."""
    if not text.strip():
        raise InputError(f"text: {checks.shown(text)} shows nothing; give letters")
    font = ImageFont.load_default(64.0)
    left, top, right, bottom = map(int, font.getbbox(text, stroke_width=_STROKE))
    drawn = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(drawn).text((-left, -top), text, 255, font, stroke_width=_STROKE)
    columns = round(_TEXT_WIDTH * width)
    rows = max(5, round(columns * drawn.height / drawn.width))
    if rows + 2 > height or columns < 4 * len(text):
        raise InputError(
            f"text: {checks.shown(text)} does not fit an image of {height} x {width}; give a shorter one"
        )
    small = drawn.resize((columns, rows), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255)
