"""Images that stay in their file: of many hosts each reads the rows of its own share, no others."""

import functools
import operator
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nullmark_jax.errors import InputError

# Bytes read at a time.
_CHUNK = 1 << 20


class MappedImages:
    """Rows of a uint8 array [N, H, W, C] that lies, whole and uncompressed, in a file.

    Picking rows, by an index of the first axis alone, reads those rows from the file; `numpy.asarray` reads
    all. The file may be replaced (by a rename) meanwhile, but must not be written to.

    Attributes:
      where: the file and the array, for messages.
      crc: the CRC-32 that the file states of the array, header and all.
      shape: [N, H, W, C] of the rows.
      nbytes: theirs, in memory.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(
        self,
        array: np.memmap,
        rows: NDArray[np.integer],
        *,
        where: str,
        header: bytes,
        crc: int,
    ):
        """`array` is the file's, of which these are the `rows`; `header` stands before it, under the CRC."""
        self._array, self._rows, self._header = array, rows, header
        self.where, self.crc = where, crc
        self.shape = (len(rows), *array.shape[1:])
        self.nbytes = int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        return np.asarray(self._array[self._rows[index]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("images in a file are an array only as a copy")
        return self[:].astype(dtype or np.uint8, copy=False)

    def take(self, indices: NDArray[np.integer]) -> "MappedImages":
        """Returns the rows `indices` of these, read when they are picked."""
        rows = self._rows[indices]
        return MappedImages(self._array, rows, where=self.where, header=self._header, crc=self.crc)

    def crc_of_part(self, part: int, parts: int) -> int:
        """Returns the CRC-32 of one of `parts` equal parts of the file's array, which it reads."""
        flat = self._array.reshape(-1)
        cuts = _cuts(flat.size, parts)
        start, stop = cuts[part], cuts[part + 1]
        crc = 0
        for at in range(start, stop, _CHUNK):
            crc = zlib.crc32(flat[at : min(at + _CHUNK, stop)].tobytes(), crc)
        return crc

    def check_whole(self, crcs: NDArray[np.integer]) -> None:
        """Raises InputError where the parts' CRC-32, in order, are not those of the array as written."""
        cuts = _cuts(self._array.size, len(crcs))
        found = zlib.crc32(self._header)
        for crc, start, stop in zip(crcs.tolist(), cuts, cuts[1:], strict=False):
            found = _joined(found, crc, stop - start)
        if found != self.crc:
            raise InputError(f"{self.where} cannot be read (Bad CRC-32); the file is damaged")


def _cuts(size: int, parts: int) -> list[int]:
    return [size * part // parts for part in range(parts + 1)]


def _joined(first: int, second: int, length: int) -> int:
    """Returns the CRC-32 of A and B, one behind the other, of A's and of B's, which has `length` bytes.

    What A adds to B's is a linear map of A's over GF(2), whatever B holds: that of zeros. Squared again and
    again, it is made of that of one zero; its columns are where it takes each bit.
    """
    columns = [zlib.crc32(b"\0", 1 << bit) ^ zlib.crc32(b"\0") for bit in range(32)]

    def apply(vector: int) -> int:
        return functools.reduce(
            operator.xor, (column for bit, column in enumerate(columns) if vector >> bit & 1), 0
        )

    while length:
        if length & 1:
            first = apply(first)
        columns = [apply(column) for column in columns]
        length >>= 1
    return first ^ second
