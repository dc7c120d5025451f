"""Float32 tensors as the bytes of a safetensors file, and back. Host.

The safetensors library reads what is written here, and `parse` what it writes. It does not serve
here because it leaves the metadata's order to chance, where the claim's digest needs equal models
to be equal bytes, and because a claimant's file is to be refused for whatever a reader may
overlook: a name given twice, values that are not finite.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nullmark_jax import checks
from nullmark_jax.errors import InputError

MAX_HEADER_BYTES = 2**20
METADATA = "__metadata__"


def serialize(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Returns the file's bytes, which do not depend on the order of either mapping.

    Args:
      tensors: float32 arrays by name, none named "__metadata__".
      metadata: text by name.
    """
    ordered = {name: np.asarray(tensors[name], "<f4") for name in sorted(tensors)}
    header: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))}
    offset = 0
    for name, tensor in ordered.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # as the library does, so that the data are aligned
    return b"".join(
        [len(text).to_bytes(8, "little"), text, *(tensor.tobytes() for tensor in ordered.values())]
    )


def size_limit(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Returns the most bytes that a file of tensors of these shapes can have."""
    return 8 + MAX_HEADER_BYTES + sum(4 * math.prod(shape) for shape in shapes.values())


def parse(
    data: bytes, metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file, of which nothing is trusted.

    Args:
      data: the file.
      metadata: what its metadata must be.
      shapes: each tensor's shape by its name; the file must hold these and no others.

    Returns:
      The tensors, float32 and finite, by name in the order of `shapes`.

    Raises:
      InputError: the file is not so, or not a safetensors file to the last byte.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(len(data) - 8, MAX_HEADER_BYTES):
        raise InputError("no safetensors header; give the model.safetensors that was written")
    header = checks.json_object(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    found = header.pop(METADATA, None)
    if found != dict(metadata):
        raise InputError(
            f"{METADATA}: {checks.shown(found)} is not the task's {dict(metadata)}; give its model"
        )
    for name in shapes:
        if name not in header:
            raise InputError(f"{name}: this tensor is missing; give a model of the task's net")
    for name in header:
        if name not in shapes:
            raise InputError(f"{checks.shown(name)}: is no tensor of the task's net; take it out")
    tensors, spans = {}, []
    for name, shape in shapes.items():
        start, end = _check_entry(name, header[name], tuple(shape))
        if end > len(body):
            raise InputError(f"{name}: the file ends before its data; it was cut short")
        spans.append((start, end))
        tensor = np.frombuffer(body[start:end], "<f4").reshape(shape).astype(np.float32)
        if not np.isfinite(tensor).all():
            raise InputError(f"{name}: has values that are not finite; give a sound model")
        tensors[name] = tensor
    edges = [0, *(edge for span in sorted(spans) for edge in span), len(body)]
    if any(edges[i] != edges[i + 1] for i in range(0, len(edges), 2)):
        raise InputError("data_offsets: tensors overlap or leave gaps; give an unchanged file")
    return tensors


def _check_entry(name: str, entry: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns where a tensor's bytes start and end, from its entry in the header."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{name}: its header entry is not dtype, shape, data_offsets; rewrite it")
    if entry["dtype"] != "F32":
        raise InputError(f"{name}: dtype {checks.shown(entry['dtype'])} is not F32; convert it")
    found = entry["shape"]
    if not _are_integers(found) or tuple(found) != shape:
        raise InputError(f"{name}: shape {checks.shown(found)} is not the net's {list(shape)}")
    offsets = entry["data_offsets"]
    size = 4 * math.prod(shape)
    if not _are_integers(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise InputError(f"{name}: data_offsets {checks.shown(offsets)} do not span {size} bytes")
    if offsets[0] < 0:
        raise InputError(f"{name}: data_offsets {checks.shown(offsets)} start before the data")
    return offsets[0], offsets[1]


def _are_integers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)
