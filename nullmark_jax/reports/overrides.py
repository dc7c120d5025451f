"""What a result was made with otherwise than today's config: how it was made smaller, say."""

import ast
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from flax import traverse_util

from nullmark_jax import program
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.experiment import Result

_FLAG = re.compile(r"--?config(?:\.([\w.]+))?(?:=(.*))?", re.DOTALL)
# Where data are, and how many test images were taken, which stands beside (book.py).
_ELSEWHERE = (
    "data_path",
    "ood_path",
    "student.manual_dir",
    "student.path",
    "student.source",
    "test_images",
)
# Of config.json: what is no field of the config, or the papers' numbers.
_NO_FIELDS = ("experiment", "paper", "seed", "task", "victims")


def sentences(result: Result, root: pathlib.Path, kept: dict[str, Any] | None = None) -> list[str]:
    """Returns what an experiment had otherwise than today's config, and which other data it had.

    Args:
      result: of an experiment.
      root: the project's folder, with the config that the command names.
      kept: what config.json beside the result holds; None for what the command says alone, which knows
        nothing of fields whose values in the config have changed since.

    Raises:
      InputError: the command names no config, or one that cannot be loaded.
    """
    command = result["environment"]["command"]
    given = _given(shlex.split(command))
    named = given.pop("", None)
    if named is None:
        raise InputError(f"{command}: names no --config; run the experiment again, with one")
    path, _, argument = str(named).partition(":")
    config = program.load_config_file(root / path).get_config(argument)
    today = traverse_util.flatten_dict(config.to_dict(), sep=".")
    if kept is not None:
        given = traverse_util.flatten_dict(kept, sep=".")
    parts = []
    for name, value in given.items():
        usual = today.get(name)
        if _is_told(name) and (usual is None or _shown(usual) != _shown(value)):
            # Fields of earlier versions have no place in today's config.
            told = "" if usual is None else f" ({_shown(usual)})"
            parts.append(f"`{name}` {_shown(value)}{told}")
    for name in today.keys() - given.keys() if kept is not None else ():
        if _is_told(name) and _shown(today[name]) not in ("", "none"):
            parts.append(f"`{name}` was not there ({_shown(today[name])})")
    by = "Its command" if kept is None else "It"
    otherwise = (
        f"{by} has otherwise than today's config, which is in brackets: {'; '.join(sorted(parts))}."
    )
    return [*([otherwise] if parts else []), *_data(today | given)]


def _given(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns what a command line sets of the config, by field, the last one's; "": the config."""
    given: dict[str, Any] = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if found := _FLAG.fullmatch(argument):
            value = following if found[2] is None else found[2]
            given[found[1] or ""] = _value(value) if found[1] else value
    return given


def _is_told(name: str) -> bool:
    return name not in _ELSEWHERE and name.partition(".")[0] not in _NO_FIELDS


def _data(fields: dict[str, Any]) -> list[str]:
    """Returns which images an experiment had besides the task's, by the names of data sets or files."""
    found = []
    if source := fields.get("student.source"):
        name = "scikit-learn's digits" if source == "digits" else fields["student.name"]
        name = pathlib.Path(fields["student.path"]).stem if source == "npz" else name
        merged = fields["student.merge"]
        groups = f", {merged} neighbouring classes as one" if merged > 1 else ""
        found.append(f"The students' images are of {name}{groups}.")
    if elsewhere := fields.get("ood_path"):
        names = " and ".join(pathlib.Path(each).stem for each in elsewhere.split(","))
        found.append(f"The images from elsewhere are {names} ([which](../results/README.md)).")
    return found


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):  # Strings without quotes, which a shell has taken away.
        if text.startswith("(") and text.endswith(")"):
            return tuple(each.strip() for each in text[1:-1].split(",") if each.strip())
        return text


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        shown = [_shown(each) for each in value]
        return (" | " if any("," in each for each in shown) else ", ").join(shown) or "none"
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        return f"{value:g}" if abs(value) < 1e5 else f"{value:,.0f}"
    return str(value)
