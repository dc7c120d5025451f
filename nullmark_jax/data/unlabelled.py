"""Images of any size without labels, from an .npz file or a folder, made to fit a task.

Nothing is ever unpickled.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nullmark_jax.data.dataset import drawn_order
from nullmark_jax.errors import InputError

_FORMAT = "an .npz made by numpy.savez with x_train, uint8 images [N, H, W, C]"
_NAMES = ("x_train", "x")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm")


def read(path: str, *, input_shape: tuple[int, int, int], count: int, seed: int) -> NDArray:
    """Returns up to `count` images of an .npz or of a folder of pictures, uint8 [n, *input_shape].

    They are drawn from `seed` without repetition; the first k of a larger draw are the draw of k. Each is
    converted to grey or colour and resized (bilinear), whatever its proportions.

    Args:
      path: the file, whose x_train, or x where it has none, holds images [N, h, w], [N, h, w, 1] or
        [N, h, w, 3], N >= 1; or a folder with pictures (.png, .jpg, .jpeg, .ppm), by name.
      input_shape: H, W, C of the task, C of 1 or 3.
      count: how many are wanted, >= 1; all of them where the file has fewer.
      seed: of which.

    Raises:
      InputError: the file, its array or a picture cannot be used, or the task's images have other
        channels.
    """
    folder = os.path.expanduser(path)
    images: Sequence[Any] | NDArray = _pictures(path) if os.path.isdir(folder) else _array(path)
    height, width, channels = input_shape
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise InputError(
            f"{path}: images cannot be converted to {channels} channels; take a task with 1 or 3"
        )
    order = drawn_order(len(images), seed)[:count]
    made = np.empty((len(order), *input_shape), np.uint8)
    for place, index in enumerate(order):
        picture = _opened(images[index]).convert(modes[channels])
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        made[place] = np.asarray(picture).reshape(input_shape)
    return made


def _opened(image: Any) -> Image.Image:
    """Returns an image of an array, or the picture of a file."""
    if isinstance(image, np.ndarray):
        return Image.fromarray(image[..., 0] if image.shape[-1:] == (1,) else image)
    try:
        with Image.open(image) as picture:
            picture.load()
            return picture
    except Exception as error:  # Pillow can raise anything on a damaged or forged file.
        raise InputError(
            f"{image}: is no picture that can be read ({type(error).__name__}); take it out"
        ) from error


def _pictures(path: str) -> list[pathlib.Path]:
    folder = pathlib.Path(os.path.expanduser(path))
    found = sorted(each for each in folder.iterdir() if each.suffix.lower() in _SUFFIXES)
    if not found:
        raise InputError(f"{path}: holds no pictures; give a folder with {', '.join(_SUFFIXES)}")
    return found


def _array(path: str) -> NDArray:
    file = os.path.expanduser(path)
    # zipfile and NumPy's header parser can raise anything on a damaged or forged file.
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as archive:
            found = [name for name in _NAMES if name in archive]
            images = np.asarray(archive[found[0]]) if found else None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); give {_FORMAT}"
        ) from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not such a file ({reason!r}); give {_FORMAT}") from error
    if images is None:
        raise InputError(f"{path}: has neither of the arrays {', '.join(_NAMES)}; give {_FORMAT}")
    if images.dtype != np.uint8:
        raise InputError(f"{path}: {found[0]} is {images.dtype}, not uint8; give {_FORMAT}")
    fits = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if not fits or not images.size:
        raise InputError(
            f"{path}: {found[0]} has shape {images.shape}; give images [N, H, W], [N, H, W, 1] or "
            "[N, H, W, 3], one at least"
        )
    return images
