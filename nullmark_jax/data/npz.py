"""The npz source: bring your own images, as one .npz file. Nothing in it is ever unpickled."""

import math
import os
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nullmark_jax.data.dataset import Dataset, check_image_shape
from nullmark_jax.errors import InputError

_FORMAT = "an .npz made by numpy.savez with x_train, y_train, x_test and y_test"


def read(
    splits: tuple[str, ...], *, path: str, input_shape: tuple[int, int, int], num_classes: int
) -> list[Dataset]:
    """Reads x_SPLIT and y_SPLIT of each split asked for.

    Images are uint8 [N, H, W, C], or [N, H, W] for one channel; labels any integer dtype [N], in
    [0, num_classes). Classes are named by their numbers. Other arrays in the file are ignored, and
    an array is read only after its header (dtype, shape, size) has been found good.

    Raises:
      InputError: the file or an array of it cannot be used.
    """
    where = f"config.data.path={path!r}"
    if not path:
        raise InputError(f"{where}: source 'npz' needs --config.data.path=FILE, {_FORMAT}")
    file = os.path.expanduser(path)
    if not os.path.isfile(file):
        raise InputError(f"{where}: no such file; give {_FORMAT}")
    # zipfile and NumPy's header parser can raise anything on a damaged or forged file.
    try:
        archive = zipfile.ZipFile(file)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror}); give {_FORMAT}") from error
    except Exception as error:
        raise InputError(
            f"{where}: not an .npz file ({_describe(error)}); give {_FORMAT}"
        ) from error
    with archive:
        return [_read_split(archive, where, split, input_shape, num_classes) for split in splits]


def _read_split(
    archive: zipfile.ZipFile,
    where: str,
    split: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
) -> Dataset:
    x, y = f"x_{split}", f"y_{split}"
    missing = [key for key in (x, y) if f"{key}.npy" not in archive.namelist()]
    if missing:
        found = [name.removesuffix(".npy") for name in archive.namelist()[:8]]
        raise InputError(
            f"{where}: no array {' and no array '.join(missing)} (it has {found}); give {_FORMAT}"
        )

    x_shape, x_dtype = _header(archive, where, x)
    if x_dtype != np.uint8:
        raise InputError(f"{where}: {x} is {x_dtype}; must be uint8, with pixels 0..255")
    if len(x_shape) not in (3, 4):
        raise InputError(
            f"{where}: {x} has shape {x_shape}; must be [N, H, W, C], or [N, H, W] for one channel"
        )
    if not x_shape[0]:
        raise InputError(f"{where}: {x} is empty; each split needs at least one image")
    check_image_shape(f"{where}: {x}", (*x_shape[1:], 1)[:3], input_shape)
    y_shape, y_dtype = _header(archive, where, y)
    if y_dtype.kind not in "iu":
        raise InputError(f"{where}: {y} is {y_dtype}; must be integers, the class of each image")
    if y_shape != x_shape[:1]:
        raise InputError(
            f"{where}: {y} has shape {y_shape}; must be ({x_shape[0]},), one label an image of {x}"
        )

    labels = _array(archive, where, y)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise InputError(
            f"{where}: {y} has labels {lowest}..{highest}; must lie in [0, {num_classes}), "
            "or set --config.data.num_classes"
        )
    return Dataset(
        images=_array(archive, where, x).reshape(-1, *input_shape),
        labels=labels.astype(np.int32),
        class_names=tuple(str(label) for label in range(num_classes)),
    )


def _header(archive: zipfile.ZipFile, where: str, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Returns the declared shape and dtype of an array whose data are not read yet."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    member = archive.getinfo(f"{key}.npy")
    try:
        with archive.open(member) as file:
            shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
            data_size = member.file_size - file.tell()
    except Exception as error:
        raise InputError(
            f"{where}: {key} is not a readable NumPy array ({_describe(error)}); give {_FORMAT}"
        ) from error
    if dtype.hasobject:
        raise InputError(
            f"{where}: {key} holds Python objects, which would be unpickled; give {_FORMAT}"
        )
    # Python integers: a forged shape must not overflow, nor make NumPy ask for that much memory.
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != data_size:
        raise InputError(
            f"{where}: {key} says {dtype} {shape} but has {data_size} bytes; the file is damaged"
        )
    return shape, dtype


def _array(archive: zipfile.ZipFile, where: str, key: str) -> NDArray[Any]:
    try:
        with archive.open(f"{key}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:
        raise InputError(
            f"{where}: {key} cannot be read ({_describe(error)}); the file is damaged"
        ) from error


def _describe(error: Exception) -> str:
    return repr(str(error)) if str(error) else type(error).__name__
