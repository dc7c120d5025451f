"""claim.json and model.safetensors, in and out: what an owner hands to an authority. Host.

docs/protocol.md gives both formats rule by rule. The readers take bytes from anyone: each returns
a valid value or raises `InputError`, and reads no more of a file than its format can need. The
writers give the same bytes for the same values. There is no pickle anywhere.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from nullmark_jax import checks, files, signing, tensorfile, transform
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError

CLAIM_FORMAT = "nullmark-claim/1"
MODEL_FORMAT = "nullmark-model/1"
MAX_CLAIM_BYTES = 64 * 1024

_HEX = re.compile("[0-9a-f]*")
_MODEL_NAME = re.compile("[a-z0-9_.-]{1,64}")
_LAYER_NAME = re.compile("[!-.0-~]+")  # printable ASCII but space and "/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of ownership; whatever its origin, its fields are valid (not so its signature).

    Attributes:
      scheme: one of `transform.SCHEMES`.
      owner: a name as `signing.check_owner` wants it.
      timestamp: UTC to the second, as `signing.check_timestamp` wants it.
      public_key: O_pub, 32 bytes.
      signature: sig, 64 bytes.
      index: which of the owner's watermarks in this model, in [0, 2^32).
      pattern_size: n.
      extreme_value: lambda, a float above 1.
      input_shape: (H, W, C).
      num_classes: Y, at least 2.
      model_sha256: of the model file, 64 lower-case hexadecimal digits.

    Raises:
      InputError: a field is of the wrong type, out of range, or n has no place in H x W.
    """

    scheme: str
    owner: str
    timestamp: str
    public_key: bytes
    signature: bytes = dataclasses.field(repr=False)  # who knows it knows the watermark
    index: int
    pattern_size: int
    extreme_value: float
    input_shape: tuple[int, int, int]
    num_classes: int
    model_sha256: str

    def __post_init__(self) -> None:
        signing.check_owner(self.owner)
        signing.check_timestamp(self.timestamp)
        signing.check_bytes("public_key", self.public_key, signing.PUBLIC_KEY_BYTES)
        signing.check_bytes("signature", self.signature, signing.SIGNATURE_BYTES)
        index = checks.integer("index", self.index, 0, transform.MAX_INDEX)
        shape = _check_input_shape(self.input_shape)
        transform.check_geometry(
            scheme=self.scheme,
            height=shape[0],
            width=shape[1],
            num_classes=self.num_classes,
            pattern_size=self.pattern_size,
        )
        extreme_value = transform.check_extreme_value(self.extreme_value)
        _from_hex("model_sha256", self.model_sha256, 32)
        # Plain numbers, so that equal claims are equal files.
        plain = {
            "index": index,
            "pattern_size": int(self.pattern_size),
            "extreme_value": extreme_value,
            "input_shape": shape,
            "num_classes": int(self.num_classes),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)


_FIELDS = ("format", *(field.name for field in dataclasses.fields(Claim)))


def claim_for(
    key: signing.SigningKey,
    *,
    owner: str,
    timestamp: str,
    scheme: str,
    index: int = 0,
    pattern_size: int,
    extreme_value: float,
    input_shape: tuple[int, int, int],
    num_classes: int,
    model_sha256: str,
) -> Claim:
    """Returns the claim of the holder of `key` to a model, signed.

    Args:
      key: O_pri.
      owner: as in `Claim`, like the rest.
      timestamp: when the owner signed; the watermark depends on it.
      scheme: one of `transform.SCHEMES`.
      index: which of the owner's watermarks.
      pattern_size: n.
      extreme_value: lambda.
      input_shape: (H, W, C).
      num_classes: Y.
      model_sha256: what `write_model` returned.

    Raises:
      InputError: as in `Claim`.
    """
    return Claim(
        scheme=scheme,
        owner=owner,
        timestamp=timestamp,
        public_key=key.public_key,
        signature=signing.sign(key, owner=owner, timestamp=timestamp),
        index=index,
        pattern_size=pattern_size,
        extreme_value=extreme_value,
        input_shape=input_shape,
        num_classes=num_classes,
        model_sha256=model_sha256,
    )


def watermark_of(claim: Claim) -> Watermark:
    """Returns W = Transform(sig) of a claim (Algorithm 3, line 4); does not check the signature."""
    height, width, _ = claim.input_shape
    return transform.transform(
        claim.signature,
        scheme=claim.scheme,
        height=height,
        width=width,
        num_classes=claim.num_classes,
        pattern_size=claim.pattern_size,
        extreme_value=claim.extreme_value,
        index=claim.index,
    )


def signature_is_valid(claim: Claim) -> bool:
    """Returns whether the claim's signature is its key's over its owner and timestamp."""
    return signing.check(
        claim.public_key, claim.signature, owner=claim.owner, timestamp=claim.timestamp
    )


def write_claim(path: files.PathLike, claim: Claim) -> None:
    """Writes claim.json, whole or not at all.

    Raises:
      InputError: the file cannot be written.
    """
    values = {"format": CLAIM_FORMAT, **dataclasses.asdict(claim)}
    values["public_key"] = claim.public_key.hex()
    values["signature"] = claim.signature.hex()
    values["input_shape"] = list(claim.input_shape)
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, indent=2)
    files.write_whole(path, f"{text}\n".encode())


def read_claim(path: files.PathLike) -> Claim:
    """Reads a claim.json, of which nothing is trusted; its signature is not checked here.

    Raises:
      InputError: the file cannot be read or is no claim of version 1.
    """
    data = files.read_bounded(path, MAX_CLAIM_BYTES)
    try:
        return _parse_claim(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _parse_claim(data: bytes) -> Claim:
    values = checks.json_object(data)
    missing = [name for name in _FIELDS if name not in values]
    if missing:
        raise InputError(f"{missing[0]}: is missing; a claim has {', '.join(_FIELDS)}")
    for name in values:
        if name not in _FIELDS:
            raise InputError(f"{checks.shown(name)}: is no field of a claim; take it out")
    if values.pop("format") != CLAIM_FORMAT:
        raise InputError(f"format: is not {CLAIM_FORMAT!r}; give a claim of this version")
    if not isinstance(values["input_shape"], list):
        raise InputError("input_shape: is no list; give [height, width, channels]")
    values["input_shape"] = tuple(values["input_shape"])
    values["public_key"] = _from_hex("public_key", values["public_key"], signing.PUBLIC_KEY_BYTES)
    values["signature"] = _from_hex("signature", values["signature"], signing.SIGNATURE_BYTES)
    values["extreme_value"] = checks.real("extreme_value", values["extreme_value"])
    return Claim(**values)


def model_digest(path: files.PathLike) -> str:
    """Returns the SHA-256 of a model file, in lower-case hexadecimal; InputError if unreadable."""
    with files.reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_model(
    path: files.PathLike,
    params: Mapping[str, Any],
    *,
    model: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
) -> str:
    """Writes model.safetensors, whole or not at all; equal parameters give equal bytes.

    Args:
      path: the file.
      params: nested mappings of float32 arrays, as Flax keeps them; {"conv_1": {"kernel": ...}}
        becomes the tensor "conv_1/kernel". Any net's will do.
      model: the net's name, 1 to 64 of a-z, 0-9, "_", "." and "-".
      input_shape: (H, W, C).
      num_classes: Y.

    Returns:
      The file's SHA-256, in lower-case hexadecimal.

    Raises:
      InputError: a parameter is not float32 or not finite, a layer's name is not printable ASCII or
        has a space or "/", there are no parameters, or the file cannot be written.
    """
    tensors = _flatten(params)
    if not tensors:
        raise InputError("params: there are none; give the parameters of a trained model")
    data = tensorfile.serialize(tensors, _metadata(model, input_shape, num_classes))
    files.write_whole(path, data)
    return hashlib.sha256(data).hexdigest()


def read_model(
    path: files.PathLike,
    *,
    model: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    expected_shapes: Mapping[str, tuple[int, ...]],
    expected_sha256: str | None = None,
) -> dict[str, Any]:
    """Reads a model.safetensors, of which nothing is trusted.

    Args:
      path: the file.
      model: the name its metadata must give.
      input_shape: (H, W, C), likewise.
      num_classes: Y, likewise.
      expected_shapes: each tensor's shape by its name ("conv_1/kernel"); the file must hold these
        and no others.
      expected_sha256: the digest a claim gives, checked on the very bytes that are read.

    Returns:
      The parameters: nested dicts of float32 NumPy arrays, all finite.

    Raises:
      InputError: the file cannot be read, differs from what is expected in anything above, or is
        not a safetensors file to the byte.
    """
    data = files.read_bounded(path, tensorfile.size_limit(expected_shapes))
    try:
        if expected_sha256 is not None and hashlib.sha256(data).hexdigest() != expected_sha256:
            raise InputError(
                f"its SHA-256 is not {expected_sha256}, as the claim says; give the claim's model"
            )
        metadata = _metadata(model, input_shape, num_classes)
        tensors = tensorfile.parse(data, metadata, expected_shapes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return _unflatten(tensors)


def _metadata(model: str, input_shape: tuple[int, int, int], num_classes: int) -> dict[str, str]:
    """Returns the metadata of a model file, in the order of their writing."""
    if not isinstance(model, str) or not _MODEL_NAME.fullmatch(model):
        raise InputError(
            f"model: {checks.shown(model)} is no name; give 1 to 64 of a-z, 0-9, '_', '.' and '-'"
        )
    return {
        "format": MODEL_FORMAT,
        "input_shape": ",".join(str(side) for side in _check_input_shape(input_shape)),
        "model": model,
        "num_classes": str(checks.integer("num_classes", num_classes, 2, transform.MAX_CLASSES)),
    }


def _check_input_shape(input_shape: Any) -> tuple[int, int, int]:
    if not isinstance(input_shape, tuple) or len(input_shape) != 3:
        raise InputError(
            f"input_shape: {checks.shown(input_shape)} is not height, width and channels; "
            "give three integers"
        )
    height, width, channels = (
        checks.integer("input_shape", side, 1, transform.MAX_SIDE) for side in input_shape
    )
    return height, width, channels


def _flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Returns nested parameters by their joined names."""
    flat: dict[str, np.ndarray] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        if (
            not isinstance(key, str)
            or not _LAYER_NAME.fullmatch(key)
            or name == tensorfile.METADATA
        ):
            raise InputError(f"params: {checks.shown(key)} is no layer's name; rename the layer")
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{name}/")
            continue
        tensor = np.asarray(value)
        if tensor.dtype != np.float32:
            raise InputError(f"params: {name} is {tensor.dtype}; convert it to float32")
        if not np.isfinite(tensor).all():
            raise InputError(f"params: {name} has values that are not finite; train again")
        flat[name] = tensor
    return flat


def _unflatten(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns nested dicts of tensors by their joined names."""
    nested: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *layers, last = name.split("/")
        inner = nested
        for layer in layers:
            inner = inner.setdefault(layer, {})
        inner[last] = tensor
    return nested


def _from_hex(name: str, value: Any, size: int) -> bytes:
    """Returns the bytes of a field of exactly 2 `size` lower-case hexadecimal digits."""
    if not isinstance(value, str) or len(value) != 2 * size or not _HEX.fullmatch(value):
        raise InputError(
            f"{name}: {checks.shown(value)} is not {2 * size} lower-case hexadecimal digits"
        )
    return bytes.fromhex(value)
