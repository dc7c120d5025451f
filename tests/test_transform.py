"""Transform against frozen vectors and against a second implementation, written in another way."""

import hashlib
import json
import math
import pathlib

import numpy as np
import pytest
from absl.testing import parameterized

from nullmark_jax import signing, transform
from nullmark_jax.errors import InputError

VECTORS = json.loads(
    (pathlib.Path(__file__).parent / "vectors" / "transform.json").read_text(encoding="utf-8")
)
TASK = {"height": 28, "width": 28, "num_classes": 10, "pattern_size": 6, "extreme_value": 2000.0}
SIGNATURE = bytes(range(64))


def second_implementation(scheme, signature, index, height, width, num_classes, n):
    """Transform once more, by docs/protocol.md alone: returns y_W, row, column, and p's block."""
    algorithm, places = {"null-embedding": ("sha256", 0), "wonder-filter": ("sha3_256", 1)}[scheme]

    def number(name, blocks=1):
        message = "".join(
            hashlib.new(
                algorithm,
                b"/".join([b"nullmark", b"1", scheme.encode(), name, b""])
                + bytes.fromhex(f"{index:08x}{counter:08x}")
                + signature,
            ).hexdigest()
            for counter in range(blocks)
        )
        return int(message, 16)

    area = n * n
    bits = number(b"bits", max(1, -(-area // 256))) & ((1 << area) - 1)
    signs = "-+" if scheme == "null-embedding" else "+-"
    digits = [signs[bits >> (area - 1 - position) & 1] for position in range(area)]
    block = ["".join(digits[start : start + n]) for start in range(0, area, n)]
    return (
        number(b"label") % num_classes,
        number(b"row") % (height - n + places),
        number(b"column") % (width - n + places),
        block,
    )


def read_block(pattern):
    """Returns the row, column and signs of the one block in a pattern."""
    rows, columns = np.nonzero(pattern)
    row, column = rows.min(), columns.min()
    block = pattern[row : rows.max() + 1, column : columns.max() + 1]
    return row, column, ["".join({1: "+", -1: "-", 0: "?"}[v] for v in line) for line in block]


def name_of(vector):
    return f"{vector['scheme']}-n{vector['pattern_size']}-index{vector['index']}"


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=name_of)
def test_frozen_vectors(vector):
    signature = bytes.fromhex(VECTORS["signature"])
    expected = tuple(vector[name] for name in ("target_label", "row", "column", "block"))
    geometry = (vector["height"], vector["width"], vector["num_classes"], vector["pattern_size"])
    again = second_implementation(vector["scheme"], signature, vector["index"], *geometry)
    assert again == expected

    watermark = transform.transform(
        signature,
        scheme=vector["scheme"],
        height=vector["height"],
        width=vector["width"],
        num_classes=vector["num_classes"],
        pattern_size=vector["pattern_size"],
        extreme_value=vector["extreme_value"],
        index=vector["index"],
    )
    assert (int(watermark.target_label), *read_block(watermark.pattern)) == expected
    assert watermark.pattern.shape == (vector["height"], vector["width"])
    assert np.count_nonzero(watermark.pattern) == vector["pattern_size"] ** 2
    assert watermark.pattern.dtype == np.int8
    assert watermark.target_label.dtype == np.int32
    assert watermark.extreme_value.dtype == np.float32
    assert float(watermark.extreme_value) == vector["extreme_value"]


def test_vectors_cover_schemes_indices_and_sizes():
    covered = {(v["scheme"], v["index"], v["pattern_size"]) for v in VECTORS["vectors"]}
    assert covered == {
        (scheme, index, n)
        for scheme in transform.SCHEMES
        for index in (0, 3)
        for n in (4, 6, 16, 17, 24)
    }


def test_vectors_begin_with_a_signature_that_can_be_made_again():
    key = signing.experiment_key(VECTORS["experiment_key"])
    signature = signing.sign(key, owner=VECTORS["owner"], timestamp=VECTORS["timestamp"])
    assert signature.hex() == VECTORS["signature"]
    assert key.public_key.hex() == VECTORS["public_key"]


@pytest.mark.parametrize("scheme", transform.SCHEMES)
def test_agrees_with_second_implementation_on_many_signatures(scheme):
    for number in range(50):
        signature = hashlib.sha512(str(number).encode()).digest()
        watermark = transform.transform(signature, scheme=scheme, **TASK, index=number)
        expected = second_implementation(scheme, signature, number, 28, 28, 10, 6)
        found = (int(watermark.target_label), *read_block(watermark.pattern))
        assert found == expected


def test_indices_signatures_and_schemes_give_different_patterns():
    patterns = {
        transform.transform(signature, scheme=scheme, **TASK, index=index).pattern.tobytes()
        for signature in (SIGNATURE, bytes(64))
        for scheme in transform.SCHEMES
        for index in (0, 1, 2**32 - 1)
    }
    assert len(patterns) == 12


class BadArgumentsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"pattern_size": 28}, "pattern_size: 28 leaves a 28 x 28 image no place"),
        ({"pattern_size": 29, "scheme": "wonder-filter"}, "give at most 28 for wonder-filter"),
        ({"pattern_size": 12, "height": 12}, "give at most 11 for null-embedding"),
        ({"pattern_size": 12, "width": 12}, "give at most 11 for null-embedding"),
        ({"pattern_size": 0}, "pattern_size: 0"),
        ({"pattern_size": 6.0}, "pattern_size: 6.0 is not an integer"),
        ({"pattern_size": True}, "pattern_size: True is not an integer"),
        ({"extreme_value": 0}, "extreme_value: 0 is not above the pixel range"),
        ({"extreme_value": 1.0}, "extreme_value: 1.0 is not above the pixel range"),
        ({"extreme_value": 0.5}, "extreme_value: 0.5"),
        ({"extreme_value": -2000.0}, "extreme_value: -2000.0"),
        ({"extreme_value": 1 + 1e-9}, "not above the pixel range [0, 1] in float32"),
        ({"extreme_value": 1e39}, "extreme_value: 1e+39"),
        ({"extreme_value": math.nan}, "extreme_value: nan is not finite"),
        ({"extreme_value": math.inf}, "extreme_value: inf is not finite"),
        ({"extreme_value": 10**400}, "is not finite"),
        ({"extreme_value": "2000"}, "extreme_value: '2000' is not a number"),
        ({"num_classes": 1}, "num_classes: 1 is out of range"),
        ({"num_classes": 2**31}, "num_classes: 2147483648 is out of range"),
        ({"height": 1}, "height: 1"),
        ({"width": 4097}, "width: 4097"),
        ({"index": -1}, "index: -1"),
        ({"index": 2**32}, "index: 4294967296"),
        ({"index": None}, "index: None is not an integer"),
        ({"scheme": "sha256"}, "scheme: 'sha256' is unknown"),
        ({"signature": bytes(63)}, "signature: 64 bytes"),
        ({"signature": "0" * 64}, "signature: 64 bytes"),
    )
    def test_one_line_names_the_argument(self, changes, message):
        arguments = {"signature": SIGNATURE, "scheme": "null-embedding", **TASK, **changes}
        with self.assertRaises(InputError) as caught:
            transform.transform(arguments.pop("signature"), **arguments)
        self.assertIn(message, str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))


def test_largest_patterns_fit():
    largest = dict(TASK, pattern_size=27)
    block = transform.transform(SIGNATURE, scheme="null-embedding", **largest).pattern
    assert np.count_nonzero(block) == 27**2
    assert np.all(block[27] == 0) and np.all(block[:, 27] == 0)  # (H - n) = 1 place, the first
    whole = transform.transform(SIGNATURE, scheme="wonder-filter", **dict(TASK, pattern_size=28))
    assert np.count_nonzero(whole.pattern) == 28**2


def test_numpy_integers_are_integers():
    expected = transform.transform(SIGNATURE, scheme="null-embedding", **TASK, index=3)
    numbers = {name: np.int64(TASK[name]) for name in TASK if name != "extreme_value"}
    found = transform.transform(
        SIGNATURE,
        scheme="null-embedding",
        **numbers,
        extreme_value=np.float32(2000),
        index=np.int32(3),
    )
    np.testing.assert_array_equal(found.pattern, expected.pattern)
    assert found.target_label == expected.target_label


@pytest.mark.parametrize("scheme", transform.SCHEMES)
def test_random_watermarks_are_uniform_over_the_transforms_range(scheme):
    count = 2000
    task = {"height": 9, "width": 12, "num_classes": 7, "pattern_size": 4, "extreme_value": 50.0}
    drawn = transform.random_watermarks(11, count, scheme=scheme, **task)
    assert drawn.pattern.shape == (count, 9, 12) and drawn.pattern.dtype == np.int8
    assert drawn.target_label.shape == (count,) and drawn.target_label.dtype == np.int32
    np.testing.assert_array_equal(drawn.extreme_value, np.full(count, 50, np.float32))
    assert np.all(np.count_nonzero(drawn.pattern, axis=(1, 2)) == 16)

    extra = scheme == "wonder-filter"
    rows = (drawn.pattern != 0).any(axis=2).argmax(axis=1)
    columns = (drawn.pattern != 0).any(axis=1).argmax(axis=1)
    for values, places in ((drawn.target_label, 7), (rows, 5 + extra), (columns, 8 + extra)):
        counts = np.bincount(values, minlength=places)
        assert len(counts) == places  # the range, to its ends and no further
        # Five standard deviations of a binomial count: a correct draw fails once in a million.
        spread = math.sqrt(count / places * (1 - 1 / places))
        assert np.all(np.abs(counts - count / places) < 5 * spread)
    blocks = drawn.pattern[drawn.pattern != 0].reshape(count, 16)
    assert np.all(np.abs((blocks == 1).sum(axis=0) - count / 2) < 5 * math.sqrt(count / 4))


def test_random_watermarks_are_those_of_their_seed():
    first = transform.random_watermarks(5, 3, **TASK)
    again = transform.random_watermarks(5, 8, **TASK)
    other = transform.random_watermarks(6, 3, **TASK)
    np.testing.assert_array_equal(again.pattern[:3], first.pattern)
    np.testing.assert_array_equal(again.target_label[:3], first.target_label)
    assert np.any(first.pattern != other.pattern)
    assert len({pattern.tobytes() for pattern in again.pattern}) == 8
    # Those of the signatures that 64 raw bytes of PCG64 would be.
    raw = b"".join(int(word).to_bytes(8, "little") for word in np.random.PCG64(5).random_raw(8))
    label, row, column, block = second_implementation("null-embedding", raw, 0, 28, 28, 10, 6)
    assert (int(first.target_label[0]), *read_block(first.pattern[0])) == (
        label,
        row,
        column,
        block,
    )


@pytest.mark.parametrize(
    ("seed", "count", "message"), [(-1, 1, "seed: -1"), (0, 0, "count: 0"), (0, 1.5, "count: 1.5")]
)
def test_random_watermarks_refuse(seed, count, message):
    with pytest.raises(InputError, match=message):
        transform.random_watermarks(seed, count, **TASK)


def test_stack_adds_a_leading_axis():
    single = [
        transform.transform(SIGNATURE, scheme="null-embedding", **TASK, index=i) for i in range(3)
    ]
    population = transform.stack(single)
    assert population.pattern.shape == (3, 28, 28) and population.extreme_value.shape == (3,)
    for index, watermark in enumerate(single):
        np.testing.assert_array_equal(population.pattern[index], watermark.pattern)
        assert population.target_label[index] == watermark.target_label


def test_stack_refuses_none_and_mixed_shapes():
    with pytest.raises(InputError, match="none to stack"):
        transform.stack([])
    shapes = (TASK, dict(TASK, height=30))
    single = [transform.transform(SIGNATURE, scheme="null-embedding", **task) for task in shapes]
    with pytest.raises(InputError, match="differ in shape"):
        transform.stack(single)


@pytest.mark.parametrize(
    ("height", "width", "num_classes", "printed"),
    [(28, 28, 10, 2.75e-15), (48, 48, 43, 1.83e-16), (55, 47, 1283, 5.40e-18)],
    ids=["digit", "traffic", "face"],
)
def test_security_is_the_earlier_papers(height, width, num_classes, printed):
    """Section VII-D2 prints P_random for n = 6, to three digits."""
    bits = transform.security_bits(
        height=height,
        width=width,
        num_classes=num_classes,
        pattern_size=6,
        scheme="wonder-filter",
    )
    assert 2**-bits == pytest.approx(printed, rel=0.005)


def test_security_of_null_embedding_counts_its_own_places():
    bits = transform.security_bits(
        height=28, width=28, num_classes=10, pattern_size=6, scheme="null-embedding"
    )
    assert bits == pytest.approx(36 + math.log2(22 * 22 * 10), abs=1e-12)
    with pytest.raises(InputError, match="pattern_size: 28"):
        transform.security_bits(
            height=28, width=28, num_classes=10, pattern_size=28, scheme="null-embedding"
        )
