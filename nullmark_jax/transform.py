"""Transform(sig) -> Watermark (later paper, Algorithm 2; earlier paper, section V-B). Host.

The formulas and the order of bytes are those of docs/protocol.md, frozen by tests/vectors. The two
papers' schemes differ in three things:

| scheme | digest | top-left corner of the block | the hashed bits are |
|---|---|---|---|
| null-embedding | SHA-256 | mod (H - n), mod (W - n) | p |
| wonder-filter | SHA3-256 | mod (H - n + 1), mod (W - n + 1) | W, and p is its inverse |

so that in both `Watermark.pattern` is what the null embedding uses.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int8

from nullmark_jax import checks
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError

SCHEMES = ("null-embedding", "wonder-filter")
SIGNATURE_BYTES = 64
MAX_INDEX = 2**32 - 1
MAX_SIDE = 4096
MAX_CLASSES = 2**31 - 1

_DIGESTS: dict[str, Callable[[bytes], Any]] = {
    "null-embedding": hashlib.sha256,
    "wonder-filter": hashlib.sha3_256,
}
_DIGEST_BITS = 256


def transform(
    signature: bytes,
    *,
    scheme: str,
    height: int,
    width: int,
    num_classes: int,
    pattern_size: int,
    extreme_value: float,
    index: int = 0,
) -> Watermark:
    """Derives a watermark from a signature.

    Args:
      signature: sig, 64 bytes.
      scheme: one of `SCHEMES`.
      height: H in [2, 4096].
      width: W in [2, 4096].
      num_classes: Y in [2, 2^31).
      pattern_size: n >= 1, small enough that the block has a place: n < H and n < W for
        null-embedding, n <= H and n <= W for wonder-filter.
      extreme_value: lambda, finite and above 1 in float32.
      index: which of the owner's watermarks, in [0, 2^32).

    Returns:
      The watermark, as NumPy values: pattern p int8 [H, W] with an n x n block in {-1, 1} and 0
      elsewhere, target_label int32 in [0, Y), extreme_value float32.

    Raises:
      InputError: an argument is of the wrong type or out of its range.
    """
    check_geometry(
        scheme=scheme,
        height=height,
        width=width,
        num_classes=num_classes,
        pattern_size=pattern_size,
    )
    extreme_value = check_extreme_value(extreme_value)
    index = checks.integer("index", index, 0, MAX_INDEX)
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        raise InputError(
            f"signature: {SIGNATURE_BYTES} bytes are needed; give those that signing.sign returns"
        )

    def h(name: str, counter: int = 0) -> bytes:
        head = f"nullmark/1/{scheme}/{name}/".encode()
        numbers = index.to_bytes(4, "big") + counter.to_bytes(4, "big")
        return _DIGESTS[scheme](head + numbers + signature).digest()

    n = int(pattern_size)
    label = int.from_bytes(h("label"), "big") % int(num_classes)
    row = int.from_bytes(h("row"), "big") % _places(scheme, height, n)
    column = int.from_bytes(h("column"), "big") % _places(scheme, width, n)

    hashed = b"".join(h("bits", counter) for counter in range(math.ceil(n * n / _DIGEST_BITS)))
    # mod 2^(n^2) keeps the last n^2 bits of what was hashed.
    bits = np.unpackbits(np.frombuffer(hashed, np.uint8))[-n * n :]
    block = np.where(bits == 1, np.int8(1), np.int8(-1)).reshape(n, n)

    pattern = np.zeros((height, width), np.int8)
    pattern[row : row + n, column : column + n] = -block if scheme == "wonder-filter" else block
    return _watermark(pattern, np.int32(label), np.float32(extreme_value))


def random_watermarks(
    seed: int,
    count: int,
    *,
    height: int,
    width: int,
    num_classes: int,
    pattern_size: int,
    extreme_value: float,
    scheme: str = "null-embedding",
) -> Watermark:
    """Draws watermarks for experiments: those of `count` signatures that nobody made.

    Position, bits and label are uniform over exactly what `transform` can give. The first k of a
    larger population are the population of k, and the same seed gives the same watermarks.

    Args:
      seed: of NumPy's PCG64, >= 0.
      count: how many, >= 1.
      height: as in `transform`, like the rest.
      width: W.
      num_classes: Y.
      pattern_size: n.
      extreme_value: lambda.
      scheme: one of `SCHEMES`.

    Returns:
      A population, as NumPy arrays: pattern [count, H, W], target_label [count], extreme_value
      [count].

    Raises:
      InputError: as in `transform`, or a wrong seed or count.
    """
    seed = checks.integer("seed", seed, 0, 2**63 - 1)
    count = checks.integer("count", count, 1, 10**6)
    # The raw output, unlike Generator's methods, is the same in every version of NumPy.
    drawn = np.random.PCG64(seed).random_raw((count, SIGNATURE_BYTES // 8)).astype("<u8")
    return stack(
        [
            transform(
                signature.tobytes(),
                scheme=scheme,
                height=height,
                width=width,
                num_classes=num_classes,
                pattern_size=pattern_size,
                extreme_value=extreme_value,
            )
            for signature in drawn
        ]
    )


def block_of(pattern: Int8[np.ndarray, "height width"]) -> tuple[int, int, int]:
    """Returns the row and column where a pattern's block starts, and n.

    Raises:
      InputError: the pattern is not one n x n block of -1 and 1.
    """
    rows, columns = np.nonzero(pattern)
    if len(rows):
        row, column = int(rows.min()), int(columns.min())
        n = int(rows.max()) - row + 1
        if columns.max() - column + 1 == n and len(rows) == n * n:
            return row, column, n
    raise InputError(
        "watermark: its pattern is not one n x n block of -1 and 1; give what transform returns"
    )


def stack(watermarks: Sequence[Watermark]) -> Watermark:
    """Returns single watermarks as one population, with a leading axis; NumPy arrays.

    Raises:
      InputError: there are none, or their patterns differ in shape.
    """
    if not watermarks:
        raise InputError("watermarks: there are none to stack; give at least one")
    shapes = {np.shape(watermark.pattern) for watermark in watermarks}
    if len(shapes) > 1:
        raise InputError(f"watermarks: patterns differ in shape, {sorted(shapes)}; give one task's")
    return _watermark(*(np.stack(leaves) for leaves in zip(*watermarks, strict=True)))


def security_bits(
    *, height: int, width: int, num_classes: int, pattern_size: int, scheme: str
) -> float:
    """Returns -log2 of the probability that one random guess is the watermark.

    That is log2(m Y 2^(n^2)) with m the number of places of the block (earlier paper, Theorem 4,
    Equation 8; null-embedding has one place fewer in each direction).

    Raises:
      InputError: as in `transform`.
    """
    check_geometry(
        scheme=scheme,
        height=height,
        width=width,
        num_classes=num_classes,
        pattern_size=pattern_size,
    )
    places = _places(scheme, height, pattern_size) * _places(scheme, width, pattern_size)
    return pattern_size**2 + math.log2(places * num_classes)


def check_geometry(
    *, scheme: str, height: int, width: int, num_classes: int, pattern_size: int
) -> None:
    """Raises InputError where `transform` has no watermark for these numbers."""
    if scheme not in SCHEMES:
        raise InputError(f"scheme: {checks.shown(scheme)} is unknown; take {' or '.join(SCHEMES)}")
    checks.integer("height", height, 2, MAX_SIDE)
    checks.integer("width", width, 2, MAX_SIDE)
    checks.integer("num_classes", num_classes, 2, MAX_CLASSES)
    checks.integer("pattern_size", pattern_size, 1, MAX_SIDE)
    if min(_places(scheme, height, pattern_size), _places(scheme, width, pattern_size)) < 1:
        largest = min(height, width) - (scheme == "null-embedding")
        raise InputError(
            f"pattern_size: {pattern_size} leaves a {height} x {width} image no place for the "
            f"block; give at most {largest} for {scheme}"
        )


def check_extreme_value(extreme_value: float) -> float:
    """Returns lambda as a float; InputError unless it lies above the pixel range, in float32."""
    number = checks.real("extreme_value", extreme_value)
    if not 1.0 < number <= float(np.finfo(np.float32).max) or np.float32(number) <= 1:
        raise InputError(
            f"extreme_value: {checks.shown(extreme_value)} is not above the pixel range [0, 1] in "
            "float32; give for example 2000"
        )
    return number


def _watermark(*leaves: Any) -> Watermark:
    """Returns a watermark of NumPy values, where the type asks for JAX's; both are leaves alike."""
    return Watermark(*leaves)


def _places(scheme: str, side: int, pattern_size: int) -> int:
    """Returns how many positions the block has along one side of the image."""
    return int(side) - int(pattern_size) + int(scheme == "wonder-filter")
