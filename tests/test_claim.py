"""claim.json: what is written, and what the reader refuses."""

import dataclasses
import hashlib
import json
import os
import pickle
import re
import resource

import numpy as np
import pytest

from nullmark_jax import claim as claims
from nullmark_jax import signing, transform
from nullmark_jax.errors import InputError

OWNER, TIMESTAMP = "Zoë & Söhne", "2026-11-21T17:00:00Z"
KEY = signing.experiment_key(1)
DIGEST = hashlib.sha256(b"model").hexdigest()


def make_claim(**changes):
    fields = {
        "owner": OWNER,
        "timestamp": TIMESTAMP,
        "scheme": "null-embedding",
        "index": 3,
        "pattern_size": 6,
        "extreme_value": 2000.0,
        "input_shape": (28, 30, 1),
        "num_classes": 10,
        "model_sha256": DIGEST,
        **changes,
    }
    return claims.claim_for(KEY, **fields)


def claim_values(**changes):
    """The JSON object of `make_claim()`, by hand."""
    return {
        "format": "nullmark-claim/1",
        "scheme": "null-embedding",
        "owner": OWNER,
        "timestamp": TIMESTAMP,
        "public_key": KEY.public_key.hex(),
        "signature": signing.sign(KEY, owner=OWNER, timestamp=TIMESTAMP).hex(),
        "index": 3,
        "pattern_size": 6,
        "extreme_value": 2000.0,
        "input_shape": [28, 30, 1],
        "num_classes": 10,
        "model_sha256": DIGEST,
        **changes,
    }


def read_text(tmp_path, text):
    path = tmp_path / "claim.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return claims.read_claim(path)


def claim_error(tmp_path, text):
    with pytest.raises(InputError) as caught:
        read_text(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'claim.json'}: ") and "\n" not in line
    assert len(line) < len(str(tmp_path)) + 300 and line.isprintable()
    return line


class TestClaim:
    def test_file_is_the_documented_one(self, tmp_path):
        claims.write_claim(tmp_path / "claim.json", make_claim())
        text = (tmp_path / "claim.json").read_text(encoding="utf-8")
        assert json.loads(text) == claim_values()
        assert list(json.loads(text)) == list(claim_values())
        assert text == json.dumps(claim_values(), indent=2, ensure_ascii=False) + "\n"
        assert [path.name for path in tmp_path.iterdir()] == ["claim.json"]

    def test_round_trip(self, tmp_path):
        for made in (make_claim(), make_claim(scheme="wonder-filter", pattern_size=28)):
            claims.write_claim(tmp_path / "claim.json", made)
            assert claims.read_claim(tmp_path / "claim.json") == made

    def test_equal_claims_are_equal_files(self, tmp_path):
        same = make_claim(
            extreme_value=2000,
            index=np.int64(3),
            pattern_size=np.int32(6),
            input_shape=(np.int64(28), 30, 1),
            num_classes=np.uint8(10),
        )
        assert same == make_claim()
        claims.write_claim(tmp_path / "a", make_claim())
        claims.write_claim(tmp_path / "b", same)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_any_layout_of_the_same_object_reads_alike(self, tmp_path):
        values = claim_values()
        shuffled = dict(reversed(values.items()))
        assert read_text(tmp_path, json.dumps(shuffled)) == make_claim()
        assert read_text(tmp_path, json.dumps(values, indent=9) + "\r\n ") == make_claim()
        assert read_text(tmp_path, json.dumps(claim_values(extreme_value=2000))) == make_claim()

    def test_is_signed_and_gives_its_watermark(self):
        made = make_claim()
        assert claims.signature_is_valid(made)
        for changes in (
            {"owner": "Mallory"},
            {"timestamp": "2026-11-21T17:00:01Z"},
            {"public_key": signing.experiment_key(2).public_key},
            {"signature": bytes(64)},
        ):
            assert not claims.signature_is_valid(dataclasses.replace(made, **changes))
        expected = transform.transform(
            made.signature,
            scheme="null-embedding",
            height=28,
            width=30,
            num_classes=10,
            pattern_size=6,
            extreme_value=2000.0,
            index=3,
        )
        found = claims.watermark_of(made)
        np.testing.assert_array_equal(found.pattern, expected.pattern)
        assert found.target_label == expected.target_label

    def test_printing_a_claim_keeps_the_signature_back(self):
        made = make_claim()
        assert made.signature.hex() not in repr(made)
        assert "signature" not in repr(made)

    def test_is_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            make_claim().index = 4

    def test_writing_is_whole_or_not_at_all(self, tmp_path):
        path = tmp_path / "claim.json"
        path.write_text("before")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # as on a full disk
        try:
            with pytest.raises(InputError, match="cannot be written"):
                claims.write_claim(path, make_claim())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_text() == "before"
        assert os.listdir(tmp_path) == ["claim.json"]
        with pytest.raises(InputError, match="cannot be written"):
            claims.write_claim(path / "claim.json", make_claim())
        with pytest.raises(InputError, match="cannot be written"):
            claims.write_claim(tmp_path / "missing" / "claim.json", make_claim())


@pytest.mark.parametrize("name", list(claim_values()))
def test_missing_field(tmp_path, name):
    values = claim_values()
    del values[name]
    assert f"{name}: is missing" in claim_error(tmp_path, json.dumps(values))


def test_extra_field(tmp_path):
    for name in ("pattern", "Owner", "", "\ud800", "x" * 1000, "a\nb"):
        line = claim_error(tmp_path, json.dumps(claim_values(**{name: 1})))
        assert "is no field of a claim" in line


OTHER_TYPES = [None, True, [], {}, "text", 1, 1.5]


@pytest.mark.parametrize("name", list(claim_values()))
@pytest.mark.parametrize("value", OTHER_TYPES, ids=repr)
def test_wrong_type(tmp_path, name, value):
    good = claim_values()[name]
    if name == "owner" and value == "text":
        return
    if type(value) is type(good) or (name == "extreme_value" and value == 1.5):
        value = [value]
    assert f"{name}: " in claim_error(tmp_path, json.dumps(claim_values(**{name: value})))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "nullmark-claim/2"),
        ("scheme", "null_embedding"),
        ("scheme", ""),
        ("owner", ""),
        ("owner", "a\nb"),
        ("owner", "x" * 257),
        ("owner", "\ud800"),
        ("timestamp", "2026-11-21T17:00:00+00:00"),
        ("timestamp", "2026-02-30T17:00:00Z"),
        ("timestamp", "2026-11-21T17:00:00Z\n"),
        ("public_key", KEY.public_key.hex().upper()),
        ("public_key", KEY.public_key.hex()[:-1]),
        ("public_key", KEY.public_key.hex() + "00"),
        ("public_key", " " * 64),
        ("public_key", "g" * 64),
        ("public_key", "٠" * 64),
        ("signature", "0" * 127),
        ("signature", "0" * 129),
        ("signature", "0x" + "0" * 126),
        ("index", -1),
        ("index", 2**32),
        ("index", 0.0),
        ("index", 10**4000),
        ("pattern_size", 0),
        ("pattern_size", 28),
        ("pattern_size", 6.0),
        ("extreme_value", 0),
        ("extreme_value", 1),
        ("extreme_value", 0.5),
        ("extreme_value", -2000),
        ("extreme_value", 10**400),
        ("extreme_value", 1e39),
        ("input_shape", [28, 28]),
        ("input_shape", [28, 28, 1, 1]),
        ("input_shape", [28, 28, 0]),
        ("input_shape", [28, 28, 1.0]),
        ("input_shape", [28, 28, True]),
        ("input_shape", [28, 28, 4097]),
        ("input_shape", ["28", "28", "1"]),
        ("input_shape", "28,28,1"),
        ("num_classes", 1),
        ("num_classes", 2**31),
        ("model_sha256", DIGEST.upper()),
        ("model_sha256", DIGEST[1:]),
    ],
)
def test_out_of_range(tmp_path, name, value):
    line = claim_error(tmp_path, json.dumps(claim_values(**{name: value})))
    assert re.search(rf"{name}: |height: |width: ", line)


GOOD = json.dumps(claim_values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("2000.0", "NaN"), "NaN is no JSON"),
        (GOOD.replace("2000.0", "Infinity"), "Infinity is no JSON"),
        (GOOD.replace("2000.0", "-Infinity"), "-Infinity is no JSON"),
        (GOOD.replace("2000.0", "1e400"), "extreme_value: inf is not finite"),
        (GOOD.replace("2000.0", "02000"), "is not JSON"),
        (GOOD.replace("2000.0", "9" * 5000), "is not JSON"),
        (GOOD.replace('"index": 3', '"index": 3, "index": 0'), "gives a name twice"),
        (GOOD.replace("[28, 30, 1]", '{"a": 1, "a": 2}'), "gives a name twice"),
        ("", "is not JSON"),
        ("{}", "format: is missing"),
        ("[]", "is not a JSON object"),
        ("null", "is not a JSON object"),
        ('"claim"', "is not a JSON object"),
        (GOOD + GOOD, "is not JSON"),
        (GOOD[:-1], "is not JSON"),
        (GOOD.replace("{", "{'a': 1,"), "is not JSON"),
        (b"\xef\xbb\xbf" + GOOD.encode(), "is not JSON"),
        (GOOD.encode("utf-16"), "is not JSON"),
        (GOOD.encode().replace(b"\\u00eb", b"\xeb"), "is not JSON"),
        (b"\x00" * 1000, "is not JSON"),
        (pickle.dumps(claim_values()), "is not JSON"),
        ("[" * 60000, "is not JSON"),
        ('{"a":' * 12000, "is not JSON"),
        (GOOD.replace("[28, 30, 1]", "[" * 30000 + "]" * 30000), "is not JSON"),
        (GOOD + " " * 2**16, "longer than the 65536 bytes"),
        (b"\xa5" * 10**7, "longer than the 65536 bytes"),
    ],
    ids=lambda value: "" if len(value) > 40 else value,
)
def test_other_bytes(tmp_path, text, message):
    assert message in claim_error(tmp_path, text)


@pytest.mark.parametrize("depth", [200, 400, 600, 800, 900, 950, 990])
def test_nesting_that_python_parses_is_no_claim_either(tmp_path, depth):
    text = GOOD.replace("[28, 30, 1]", "[" * depth + "]" * depth)
    assert re.search("input_shape|is not JSON", claim_error(tmp_path, text))


def test_unreadable_claims(tmp_path):
    for path, message in ((tmp_path, "directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(InputError, match=message):
            claims.read_claim(path)
    with pytest.raises(InputError, match="cannot be read"):
        claims.read_claim("a\0b")
