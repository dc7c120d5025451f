"""model.safetensors: what is written, and what the reader refuses."""

import hashlib
import json
import os
import pickle
import re
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from nullmark_jax import claim as claims
from nullmark_jax.errors import InputError

DIGEST = hashlib.sha256(b"model").hexdigest()
SHAPES = {"conv_1/bias": (2,), "conv_1/kernel": (1, 3, 2), "fc_1/scale": ()}
MODEL = {"model": "digit", "input_shape": (28, 30, 1), "num_classes": 10}
PARAMS = {
    "fc_1": {"scale": np.float32(7)},
    "conv_1": {
        "kernel": np.arange(6, dtype=np.float32).reshape(1, 3, 2),
        "bias": np.array([-1.5, 3e38], np.float32),
    },
}
HEADER = {
    "__metadata__": {
        "format": "nullmark-model/1",
        "input_shape": "28,30,1",
        "model": "digit",
        "num_classes": "10",
    },
    "conv_1/bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "conv_1/kernel": {"dtype": "F32", "shape": [1, 3, 2], "data_offsets": [8, 32]},
    "fc_1/scale": {"dtype": "F32", "shape": [], "data_offsets": [32, 36]},
}
BODY = struct.pack("<9f", -1.5, 3e38, 0, 1, 2, 3, 4, 5, 7)


def model_bytes(header=HEADER, body=BODY, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def edited(*path, value):
    """HEADER with one value changed, or taken out where `value` is `edited`."""
    header = json.loads(json.dumps(HEADER))
    inner = header
    for name in path[:-1]:
        inner = inner[name]
    if value is edited:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return header


def read_model(path, **changes):
    return claims.read_model(path, **{**MODEL, "expected_shapes": SHAPES, **changes})


class TestModel:
    def test_file_is_the_documented_one(self, tmp_path):
        path = tmp_path / "model.safetensors"
        digest = claims.write_model(path, PARAMS, **MODEL)
        data = path.read_bytes()
        assert digest == hashlib.sha256(data).hexdigest() == claims.model_digest(path)
        (length,) = struct.unpack("<Q", data[:8])
        assert length % 8 == 0
        text = data[8 : 8 + length].decode()
        assert text.rstrip(" ") == json.dumps(HEADER, separators=(",", ":"))
        assert data[8 + length :] == BODY
        assert os.listdir(tmp_path) == ["model.safetensors"]

    def test_round_trip(self, tmp_path):
        digest = claims.write_model(tmp_path / "m", PARAMS, **MODEL)
        read = read_model(tmp_path / "m", expected_sha256=digest)
        assert set(read) == {"conv_1", "fc_1"}
        for layer, tensors in PARAMS.items():
            assert set(read[layer]) == set(tensors)
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(read[layer][name], tensor)
                assert read[layer][name].dtype == np.float32
                assert read[layer][name].shape == np.shape(tensor)

    def test_bytes_do_not_depend_on_order_or_layout(self, tmp_path):
        kernel = PARAMS["conv_1"]["kernel"]
        other = {
            "conv_1": {
                "bias": PARAMS["conv_1"]["bias"].astype(">f4").astype(np.float32),
                "kernel": np.asfortranarray(kernel),
            },
            "fc_1": PARAMS["fc_1"],
        }
        first = claims.write_model(tmp_path / "a", PARAMS, **MODEL)
        assert claims.write_model(tmp_path / "b", other, **MODEL) == first

    def test_the_safetensors_library_reads_it(self, tmp_path):
        path = tmp_path / "model.safetensors"
        claims.write_model(path, PARAMS, **MODEL)
        with safetensors.safe_open(path, "np") as file:
            assert file.metadata() == HEADER["__metadata__"]
            assert set(file.keys()) == set(SHAPES)
            np.testing.assert_array_equal(
                file.get_tensor("conv_1/kernel"), PARAMS["conv_1"]["kernel"]
            )

    def test_what_the_safetensors_library_writes_is_read(self, tmp_path):
        flat = {
            "fc_1/scale": np.asarray(PARAMS["fc_1"]["scale"]),
            "conv_1/kernel": PARAMS["conv_1"]["kernel"],
            "conv_1/bias": PARAMS["conv_1"]["bias"],
        }
        safetensors.numpy.save_file(flat, tmp_path / "m", metadata=HEADER["__metadata__"])
        read = read_model(tmp_path / "m")
        np.testing.assert_array_equal(read["conv_1"]["kernel"], PARAMS["conv_1"]["kernel"])

    def test_any_order_of_the_data_is_read(self, tmp_path):
        header = edited("conv_1/bias", "data_offsets", value=[28, 36])
        header["conv_1/kernel"]["data_offsets"] = [0, 24]
        header["fc_1/scale"]["data_offsets"] = [24, 28]
        body = struct.pack("<9f", 0, 1, 2, 3, 4, 5, 7, -1.5, 3e38)
        (tmp_path / "m").write_bytes(model_bytes(header, body))
        read = read_model(tmp_path / "m")
        np.testing.assert_array_equal(read["conv_1"]["bias"], PARAMS["conv_1"]["bias"])
        assert read["fc_1"]["scale"] == 7

    def test_deeper_nets_of_a_users_own(self, tmp_path):
        params = {"block": {"0": {"kernel": np.ones((3, 3), np.float32)}}, "w": np.zeros(2, "f4")}
        claims.write_model(tmp_path / "m", params, **{**MODEL, "model": "my-net.2"})
        shapes = {"block/0/kernel": (3, 3), "w": (2,)}
        read = read_model(tmp_path / "m", model="my-net.2", expected_shapes=shapes)
        np.testing.assert_array_equal(read["block"]["0"]["kernel"], np.ones((3, 3)))
        np.testing.assert_array_equal(read["w"], np.zeros(2))

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({}, "there are none"),
            ({"a": {}}, "there are none"),
            ({"a": {"b": np.zeros(2)}}, "a/b is float64"),
            ({"a": np.zeros(2, np.float16)}, "a is float16"),
            ({"a": [1.0, 2.0]}, "a is float64"),
            ({"a": "text"}, "a is <U4"),
            ({"a": None}, "a is object"),
            ({"a": np.array([np.nan], np.float32)}, "a has values that are not finite"),
            ({"a": np.array([np.inf], np.float32)}, "a has values that are not finite"),
            ({"a/b": np.zeros(2, np.float32)}, "'a/b' is no layer's name"),
            ({"": np.zeros(2, np.float32)}, "'' is no layer's name"),
            ({"a b": np.zeros(2, np.float32)}, "'a b' is no layer's name"),
            ({"\ud800": np.zeros(2, np.float32)}, "is no layer's name"),
            ({1: np.zeros(2, np.float32)}, "1 is no layer's name"),
            ({"__metadata__": np.zeros(2, np.float32)}, "is no layer's name"),
        ],
    )
    def test_params_that_are_not_written(self, tmp_path, params, message):
        with pytest.raises(InputError, match=re.escape(message)):
            claims.write_model(tmp_path / "m", params, **MODEL)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"model": ""},
            {"model": "Digit"},
            {"model": "x" * 65},
            {"model": None},
            {"input_shape": (28, 28)},
            {"input_shape": [28, 28, 1]},
            {"input_shape": (28, 28, 0)},
            {"num_classes": 1},
        ],
    )
    def test_tasks_that_are_not_written(self, tmp_path, changes):
        with pytest.raises(InputError, match=next(iter(changes))):
            claims.write_model(tmp_path / "m", PARAMS, **{**MODEL, **changes})
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"model": "face"},
            {"input_shape": (28, 30, 3)},
            {"num_classes": 11},
        ],
    )
    def test_models_of_other_tasks_are_refused(self, tmp_path, changes):
        claims.write_model(tmp_path / "m", PARAMS, **MODEL)
        with pytest.raises(InputError, match=r"__metadata__: .* is not the task's"):
            read_model(tmp_path / "m", **changes)

    def test_digest_is_checked_on_the_bytes_read(self, tmp_path):
        claims.write_model(tmp_path / "m", PARAMS, **MODEL)
        with pytest.raises(InputError, match=f"its SHA-256 is not {DIGEST}"):
            read_model(tmp_path / "m", expected_sha256=DIGEST)

    def test_unreadable_models(self, tmp_path):
        for read in (read_model, claims.model_digest):
            with pytest.raises(InputError, match="No such file"):
                read(tmp_path / "none")
            with pytest.raises(InputError, match="directory"):
                read(tmp_path)


NAN_BODY = BODY[:8] + struct.pack("<f", float("nan")) + BODY[12:]
FLOAT64 = edited("conv_1/bias", "dtype", value="F64")
BIAS, KERNEL = "conv_1/bias", "conv_1/kernel"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no safetensors header"),
        (b"\x00" * 7, "no safetensors header"),
        (b"\x00" * 8, "no safetensors header"),
        (b"\xff" * 8 + b"{}", "no safetensors header"),
        (model_bytes(length=2**63), "no safetensors header"),
        (model_bytes(length=2**20 + 1, body=bytes(2**20)), "longer than|no safetensors header"),
        (model_bytes(length=10**6), "no safetensors header"),
        (pickle.dumps({"conv_1": PARAMS}), "no safetensors header"),
        (b"PK\x03\x04" + bytes(200), "no safetensors header"),
        (model_bytes(b"[]"), "is not a JSON object"),
        (model_bytes(b"\xff\xfe"), "is not JSON"),
        (model_bytes(b"[" * 10**6), "is not JSON"),
        (model_bytes(b'{"a":' * 10**5), "is not JSON"),
        (model_bytes(json.dumps(HEADER).encode().replace(b"[0, 8]", b"[0, NaN]")), "NaN is no"),
        (model_bytes(json.dumps(HEADER)[:-1].encode() + b',"conv_1/bias":1}'), "a name twice"),
        (model_bytes(length=len(json.dumps(HEADER)) - 1), "is not JSON"),
        (model_bytes(body=BODY[:-1]), "fc_1/scale: the file ends before its data"),
        (model_bytes(body=b""), "the file ends before its data"),
        (model_bytes(body=BODY + b"\x00"), "overlap or leave gaps"),
        (model_bytes(body=BODY * 10**6), "longer than"),
        (model_bytes(body=NAN_BODY), "conv_1/kernel: has values that are not finite"),
        (model_bytes(edited("__metadata__", value=edited)), "__metadata__: None is not"),
        (model_bytes(edited("__metadata__", value="x")), "__metadata__: 'x' is not"),
        (model_bytes(edited("__metadata__", "note", value="hi")), "__metadata__: "),
        (model_bytes(edited("__metadata__", "num_classes", value=10)), "__metadata__: "),
        (model_bytes(edited("__metadata__", "format", value="pt")), "__metadata__: "),
        (model_bytes(edited(BIAS, value=edited)), "conv_1/bias: this tensor is missing"),
        (model_bytes({**HEADER, "fc_9/bias": HEADER[BIAS]}), "'fc_9/bias': is no tensor"),
        (model_bytes(edited(BIAS, value=7)), "conv_1/bias: its header entry"),
        (model_bytes(edited(BIAS, "shape", value=edited)), "conv_1/bias: its header entry"),
        (model_bytes(edited(BIAS, "extra", value=1)), "conv_1/bias: its header entry"),
        (model_bytes(FLOAT64), "conv_1/bias: dtype 'F64' is not F32"),
        (model_bytes(edited(BIAS, "dtype", value=32)), "conv_1/bias: dtype 32 is not F32"),
        (model_bytes(edited(KERNEL, "shape", value=[3, 1, 2])), "shape [3, 1, 2] is not the net's"),
        (model_bytes(edited(KERNEL, "shape", value=[6])), "shape [6] is not the net's [1, 3, 2]"),
        (model_bytes(edited(BIAS, "shape", value=[2.0])), "shape [2.0] is not the net's [2]"),
        (model_bytes(edited(BIAS, "shape", value=2)), "shape 2 is not the net's [2]"),
        (model_bytes(edited(BIAS, "data_offsets", value=[0, 12])), "do not span 8 bytes"),
        (model_bytes(edited(BIAS, "data_offsets", value=[8, 0])), "do not span 8 bytes"),
        (model_bytes(edited(BIAS, "data_offsets", value=[-8, 0])), "start before the data"),
        (model_bytes(edited(BIAS, "data_offsets", value=[0, 8, 8])), "do not span 8 bytes"),
        (model_bytes(edited(BIAS, "data_offsets", value=[False, 8])), "do not span 8 bytes"),
        (model_bytes(edited(BIAS, "data_offsets", value=None)), "do not span 8 bytes"),
        (model_bytes(edited(BIAS, "data_offsets", value=[10**9, 10**9 + 8])), "the file ends"),
        (model_bytes(edited(BIAS, "data_offsets", value=[8, 16])), "overlap or leave gaps"),
        (model_bytes(edited(BIAS, "data_offsets", value=[4, 12])), "overlap or leave gaps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_models(tmp_path, data, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_model(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    assert any(part in line for part in message.split("|"))


def test_any_truncation_of_a_model_is_refused(tmp_path):
    path = tmp_path / "m"
    claims.write_model(path, PARAMS, **MODEL)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            read_model(path)
