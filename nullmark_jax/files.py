"""Files read whole up to a bound, and written whole or not at all."""

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from nullmark_jax.errors import InputError

PathLike = str | os.PathLike[str]
# A file's bytes, or what writes them to it where they are too many to hold.
Content = bytes | Callable[[BinaryIO], None]


def read_bounded(path: PathLike, limit: int) -> bytes:
    """Returns a file's bytes, reading at most `limit` + 1 of them.

    Args:
      path: the file.
      limit: the largest size accepted, in bytes.

    Raises:
      InputError: the file cannot be read, or is longer.
    """
    with reading(path), open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{path}: longer than the {limit} bytes such a file can have; check it")
    return data


def write_whole(path: PathLike, data: Content) -> None:
    """Writes a file so that it holds its old bytes or all of `data`, whatever interrupts.

    The bytes go to a new file beside it, reach the disk, and are renamed. A file that was there is
    replaced; nothing stays behind after a failure.

    Args:
      path: the file.
      data: its bytes, or a function that writes them to the open file.

    Raises:
      InputError: the folder is missing, cannot be written or is full.
    """
    target = Path(path)
    with writing(target), aside(target, data) as part:
        os.replace(part, target)


@contextlib.contextmanager
def reading(path: PathLike) -> Iterator[None]:
    """Turns the system's refusals to read `path` into one InputError line."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({_reason(error)}); give a readable file"
        ) from error


@contextlib.contextmanager
def writing(path: PathLike) -> Iterator[None]:
    """Turns the system's refusals to write `path` into one InputError line."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be written ({_reason(error)}); give a folder with room that you may "
            "write to"
        ) from error


@contextlib.contextmanager
def aside(target: Path, data: Content, mode: int = 0o666) -> Iterator[Path]:
    """Holds `data` in a new file beside `target`, on the disk; removed at the end if still there.

    Args:
      target: the name that the caller gives to the file next, by a rename or a link.
      data: its bytes, or a function that writes them to the open file.
      mode: its permissions, less the process's umask.
    """
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                data(file)
            file.flush()
            os.fsync(file.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)


_PART = re.compile(r"\..+\.[0-9a-f]{16}\.part")


def is_part(path: Path) -> bool:
    """Returns whether a file is named as `aside` names them; a killed process leaves such files."""
    return bool(_PART.fullmatch(path.name))


def _reason(error: Exception) -> str:
    """Returns why the system refused, in its own words."""
    return getattr(error, "strerror", None) or str(error)
