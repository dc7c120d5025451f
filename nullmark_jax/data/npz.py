"""The npz source: bring your own images, as one .npz file. Nothing in it is ever unpickled."""

import math
import os
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nullmark_jax.data.dataset import Dataset, check_image_shape
from nullmark_jax.data.mapped import MappedImages
from nullmark_jax.errors import InputError

_FORMAT = "an .npz made by numpy.savez with x_train, y_train, x_test and y_test"


def read(
    splits: tuple[str, ...],
    *,
    path: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    mapped: bool = False,
) -> list[Dataset]:
    """Reads x_SPLIT and y_SPLIT of each split asked for.

    Images are uint8 [N, H, W, C], or [N, H, W] for one channel; labels any integer dtype [N], in
    [0, num_classes). Classes are named by their numbers. Other arrays in the file are ignored, and
    an array is read only after its header (dtype, shape, size) has been found good. With `mapped`
    images that are not compressed stay in the file (`MappedImages`), which is not checked for damage
    then: `MappedImages.check_whole` does.

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
        return [
            _read_split(archive, where, split, input_shape, num_classes, mapped) for split in splits
        ]


def _read_split(
    archive: zipfile.ZipFile,
    where: str,
    split: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    mapped: bool,
) -> Dataset:
    x, y = f"x_{split}", f"y_{split}"
    missing = [key for key in (x, y) if f"{key}.npy" not in archive.namelist()]
    if missing:
        found = [name.removesuffix(".npy") for name in archive.namelist()[:8]]
        raise InputError(
            f"{where}: no array {' and no array '.join(missing)} (it has {found}); give {_FORMAT}"
        )

    header = _header(archive, where, x)
    x_shape = header.shape
    if header.dtype != np.uint8:
        raise InputError(f"{where}: {x} is {header.dtype}; must be uint8, with pixels 0..255")
    if len(x_shape) not in (3, 4):
        raise InputError(
            f"{where}: {x} has shape {x_shape}; must be [N, H, W, C], or [N, H, W] for one channel"
        )
    if not x_shape[0]:
        raise InputError(f"{where}: {x} is empty; each split needs at least one image")
    check_image_shape(f"{where}: {x}", (*x_shape[1:], 1)[:3], input_shape)
    y_shape, _, y_dtype, _ = _header(archive, where, y)
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
    images = _map(archive, where, x, header) if mapped else None
    if images is None:
        images = _array(archive, where, x).reshape(-1, *input_shape)
    return Dataset(
        images=images,
        labels=labels.astype(np.int32),
        class_names=tuple(str(label) for label in range(num_classes)),
    )


class _Header(NamedTuple):
    """What an array's header declares, and how many bytes it has itself."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    size: int


def _header(archive: zipfile.ZipFile, where: str, key: str) -> _Header:
    """Returns the header of an array whose data are not read yet."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    member = archive.getinfo(f"{key}.npy")
    try:
        with archive.open(member) as file:
            shape, fortran_order, dtype = readers[np.lib.format.read_magic(file)](file)
            size = file.tell()
    except Exception as error:
        raise InputError(
            f"{where}: {key} is not a readable NumPy array ({_describe(error)}); give {_FORMAT}"
        ) from error
    if dtype.hasobject:
        raise InputError(
            f"{where}: {key} holds Python objects, which would be unpickled; give {_FORMAT}"
        )
    # Python integers: a forged shape must not overflow, nor make NumPy ask for that much memory.
    data_size = member.file_size - size
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != data_size:
        raise InputError(
            f"{where}: {key} says {dtype} {shape} but has {data_size} bytes; the file is damaged"
        )
    return _Header(shape, fortran_order, dtype, size)


def _map(archive: zipfile.ZipFile, where: str, key: str, header: _Header) -> Any:
    """Returns `MappedImages` of all of an array, [N, H, W, C]; None where it does not lie there as it is."""
    member = archive.getinfo(f"{key}.npy")
    if member.compress_type != zipfile.ZIP_STORED or header.fortran_order:
        return None
    file = archive.filename or ""
    with open(file, "rb") as opened:
        # A member's content follows 30 bytes, whose last four are the lengths of two fields more.
        opened.seek(member.header_offset + 26)
        fields = struct.unpack("<HH", opened.read(4))
        start = opened.seek(member.header_offset + 30 + sum(fields))
        written = opened.read(header.size)
    shape = (*header.shape, 1)[:4]
    try:
        array = np.memmap(file, np.uint8, "r", offset=start + header.size, shape=shape)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{where}: {key} cannot be read ({_describe(error)}); the file is damaged"
        ) from error
    return MappedImages(
        array, np.arange(len(array)), where=f"{where}: {key}", header=written, crc=member.CRC
    )


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
