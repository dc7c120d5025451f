"""Any bytes at all, given to the two file readers: a valid value or one InputError, no more."""

import json
import pathlib
import struct
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nullmark_jax import claim as claims
from nullmark_jax import signing
from nullmark_jax.errors import InputError

MODEL = {"model": "digit", "input_shape": (28, 28, 1), "num_classes": 10}
SHAPES = {"conv_1/bias": (2,), "fc_1/kernel": (2, 3)}
PARAMS = {
    "conv_1": {"bias": np.array([1, 2], np.float32)},
    "fc_1": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)},
}
SETTINGS = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def good_claim():
    return claims.claim_for(
        signing.experiment_key(5),
        owner="Ada",
        timestamp="2026-11-21T17:00:00Z",
        scheme="null-embedding",
        pattern_size=6,
        extreme_value=2000.0,
        input_shape=(28, 28, 1),
        num_classes=10,
        model_sha256="0" * 64,
    )


def written(write):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "file")
        write(path)
        return path.read_bytes()


CLAIM_BYTES = written(lambda path: claims.write_claim(path, good_claim()))
MODEL_BYTES = written(lambda path: claims.write_model(path, PARAMS, **MODEL))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def read_claim(path, data):
    """Reads `data` as a claim; checks that the outcome is one of the two."""
    path.write_bytes(data)
    try:
        claim = claims.read_claim(path)
    except InputError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return None
    # What was read is a whole claim: it can be written, read again, checked and transformed.
    claims.write_claim(path, claim)
    assert claims.read_claim(path) == claim
    assert claims.signature_is_valid(claim) in (True, False)
    if claim.input_shape[0] * claim.input_shape[1] < 10**5:
        assert claims.watermark_of(claim).pattern.shape == claim.input_shape[:2]
    return claim


def read_model(path, data):
    path.write_bytes(data)
    try:
        params = claims.read_model(path, **MODEL, expected_shapes=SHAPES)
    except InputError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return None
    assert {f"{a}/{b}" for a in params for b in params[a]} == set(SHAPES)
    for name, shape in SHAPES.items():
        layer, tensor = name.split("/")
        array = params[layer][tensor]
        assert array.shape == shape and array.dtype == np.float32 and np.isfinite(array).all()
    return params


@st.composite
def edits(draw, original):
    """The original with up to four stretches replaced by other bytes."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 1, 2, 8, 100]))
        data[start : start + length] = draw(
            st.binary(max_size=4) | st.sampled_from([b"", b'"', b"{", b"}", b"[", b"0", b"-", b","])
        )
    return bytes(data)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["F32", "null-embedding", "wonder-filter", "0" * 64, "0" * 128]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def test_the_originals_are_read(path):
    assert read_claim(path, CLAIM_BYTES) == good_claim()
    assert read_model(path, MODEL_BYTES) is not None


@SETTINGS
@given(data=st.binary(max_size=200) | edits(CLAIM_BYTES))
def test_claim_of_any_bytes(path, data):
    read_claim(path, data)


@SETTINGS
@given(changes=st.dictionaries(st.sampled_from(list(json.loads(CLAIM_BYTES))), JSON, max_size=3))
def test_claim_of_any_values(path, changes):
    data = json.dumps(json.loads(CLAIM_BYTES) | changes).encode()
    read_claim(path, data)


@SETTINGS
@given(value=JSON)
def test_claim_of_any_json(path, value):
    assert read_claim(path, json.dumps(value).encode()) is None


@SETTINGS
@given(data=st.binary(max_size=200) | edits(MODEL_BYTES))
def test_model_of_any_bytes(path, data):
    read_model(path, data)


@st.composite
def headers(draw):
    """The original's header with some values, at any depth, replaced."""
    (length,) = struct.unpack("<Q", MODEL_BYTES[:8])
    header = json.loads(MODEL_BYTES[8 : 8 + length])
    for _ in range(draw(st.integers(0, 3))):
        inner = header
        while True:
            name = draw(st.sampled_from([*inner, "other"]))
            if isinstance(inner.get(name), dict) and inner[name] and draw(st.booleans()):
                inner = inner[name]
                continue
            inner[name] = draw(JSON | st.lists(st.integers(-8, 40), min_size=2, max_size=2))
            break
    return header


@SETTINGS
@given(header=headers(), body=st.binary(min_size=32, max_size=32) | st.binary(max_size=48))
def test_model_of_any_header(path, header, body):
    text = json.dumps(header).encode()
    read_model(path, struct.pack("<Q", len(text)) + text + body)
