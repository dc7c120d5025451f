"""Checks of arguments and fields by name; each failure is one `InputError` line."""

import json
import math
import numbers
from typing import Any, NoReturn

from nullmark_jax.errors import InputError

_SHOWN = 60


def shown(value: Any) -> str:
    """Returns a value from outside as short printable ASCII on one line, whatever it is."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # integers of over 4,300 digits; lists in lists in lists
        return "a value too large to show"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def integer(name: str, value: Any, low: int, high: int, *, remedy: str = "") -> int:
    """Returns `value` as an int in [low, high].

    Args:
      name: the argument's or field's name, for the message.
      value: an int or NumPy integer; a bool is none, nor is 3.0.
      low: smallest value allowed.
      high: largest value allowed.
      remedy: what to do instead, where the range does not say it.

    Raises:
      InputError: of another type or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InputError(f"{name}: {shown(value)} is not an integer; give one in [{low}, {high}]")
    number = int(value)
    if not low <= number <= high:
        raise InputError(
            f"{name}: {shown(value)} is out of range; give an integer in [{low}, {high}]{remedy}"
        )
    return number


def real(name: str, value: Any) -> float:
    """Returns `value` as a finite float.

    Raises:
      InputError: not an int or float (a bool is neither), NaN, infinite, or beyond float64.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"{name}: {shown(value)} is not a number; give one, such as 0.8")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{name}: {shown(value)} is not finite; give an ordinary number")
    return number


def text(name: str, value: Any) -> str:
    """Returns `value`, which must be a str; InputError where it is not."""
    if not isinstance(value, str):
        raise InputError(f"{name}: {shown(value)} is not text; give a string")
    return value


def json_object(data: bytes) -> dict[str, Any]:
    """Returns the one JSON object that `data` is, in UTF-8, without NaN or a name given twice.

    Raises:
      InputError: it is anything else, or nested deeper than Python follows.
    """
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError("is not JSON text in UTF-8; give the file as it was written") from error
    if not isinstance(value, dict):
        raise InputError("is not a JSON object; give the file as it was written")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise InputError("gives a name twice; give the file as it was written")
    return values


def _refuse_constant(constant: str) -> NoReturn:
    raise InputError(f"{constant} is no JSON; give ordinary numbers")
