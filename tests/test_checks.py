"""Checks of arguments by name, and of JSON objects."""

import decimal
import fractions
import math
import re

import numpy as np
import pytest
from absl.testing import parameterized

from nullmark_jax import checks
from nullmark_jax.errors import InputError


class IntegerTest(parameterized.TestCase):
    @parameterized.parameters(0, 9, np.int8(3), np.uint64(9))
    def test_integers_in_range(self, value):
        found = checks.integer("field", value, 0, 9)
        self.assertIs(type(found), int)
        self.assertEqual(found, value)

    @parameterized.parameters(True, np.True_, 3.0, "3", None, b"3", fractions.Fraction(3))
    def test_no_integers(self, value):
        with self.assertRaisesRegex(
            InputError, r"^field: .* is not an integer; give one in \[0, 9\]"
        ):
            checks.integer("field", value, 0, 9)

    @parameterized.parameters(-1, 10, 10**4000)
    def test_out_of_range(self, value):
        with self.assertRaisesRegex(
            InputError, r"out of range; give an integer in \[0, 9\] or else"
        ):
            checks.integer("field", value, 0, 9, remedy=" or else")


class RealTest(parameterized.TestCase):
    @parameterized.parameters(0, -2.5, np.float32(0.5), np.int64(7), 1e308)
    def test_numbers(self, value):
        found = checks.real("field", value)
        self.assertIs(type(found), float)
        self.assertEqual(found, value)

    @parameterized.parameters(True, "1", None, 1j, decimal.Decimal(1), b"1")
    def test_no_numbers(self, value):
        with self.assertRaisesRegex(InputError, "^field: .* is not a number"):
            checks.real("field", value)

    @parameterized.parameters(math.nan, math.inf, -math.inf, 10**400, np.float32("nan"))
    def test_not_finite(self, value):
        with self.assertRaisesRegex(InputError, "^field: .* is not finite"):
            checks.real("field", value)


def test_text():
    assert checks.text("field", "Zoë") == "Zoë"
    for value in (b"x", None, 7):
        with pytest.raises(InputError, match=r"^field: .* is not text"):
            checks.text("field", value)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    ["a\nb\x1b[31m", "\u202e\ud800é", "x" * 10**6, 10**5000, nested(5000), {"a": "b\n"}, b"\n"],
    ids=lambda value: type(value).__name__,
)
def test_shown_is_short_printable_ascii_on_one_line(value):
    text = checks.shown(value)
    assert len(text) <= 60 and text.isascii() and text.isprintable()


def test_shown_values_worked_out():
    assert checks.shown("a") == "'a'"
    assert checks.shown(2.5) == "2.5"
    assert checks.shown("x" * 100) == "'" + "x" * 56 + "..."


def test_json_objects():
    assert checks.json_object(b' {"a": [1, 2.5, "\xc3\xab", null, {"a": true}]} ') == {
        "a": [1, 2.5, "ë", None, {"a": True}]
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON text in UTF-8"),
        (b"{}{}", "is not JSON text"),
        (b"\xef\xbb\xbf{}", "is not JSON text"),
        (b'{"a": "\xff"}', "is not JSON text"),
        ("{}".encode("utf-32"), "is not JSON text"),
        (b"[" * 10**6, "is not JSON text"),
        (b"1" * 5000, "is not JSON text"),
        (b"[]", "is not a JSON object"),
        (b'{"a": {"b": 1, "b": 1}}', "gives a name twice"),
        (b'{"a": [-Infinity]}', "-Infinity is no JSON"),
    ],
)
def test_other_json(data, message):
    with pytest.raises(InputError, match=re.escape(message)):
        checks.json_object(data)
