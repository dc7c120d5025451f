"""What the command behind a result set otherwise than its config: how it was made smaller, say."""

import ast
import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

from nullmark_jax import program
from nullmark_jax.experiments.experiment import Result

_FLAG = re.compile(r"--?config\.([\w.]+)=(.*)", re.DOTALL)
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
    """Returns what an experiment's command set otherwise than its config, and which other data it had.

    Args:
      result: of an experiment.
      root: the project's folder, with the config that the command names.
      kept: what config.json beside the result holds: then fields whose values in the config have
        changed since are told, too; None for what the command says alone.

    Raises:
      InputError: the config cannot be loaded.
    """
    arguments = shlex.split(result["environment"]["command"])
    given = {m[1]: _value(m[2]) for each in arguments if (m := _FLAG.fullmatch(each))}
    named = next(each for each in arguments if re.match("--?config=", each))
    path, _, argument = named.partition("=")[2].partition(":")
    config = program.load_config_file(root / path).get_config(argument).to_dict()
    if kept is not None:
        given = dict(_fields({k: v for k, v in kept.items() if k not in _NO_FIELDS}))
    parts = []
    for name, value in given.items():
        *groups, last = name.split(".")
        place = config
        for group in groups:
            place = place.setdefault(group, {})
        usual, place[last] = place.get(last), value
        if name in _ELSEWHERE or (usual is not None and _shown(usual) == _shown(value)):
            continue
        # Fields of earlier versions have no place in today's config.
        parts.append(f"`{name}` {_shown(value)}" + ("" if usual is None else f" ({_shown(usual)})"))
    otherwise = f"Otherwise than its config, whose values are in brackets: {'; '.join(parts)}."
    return [*([otherwise] if parts else []), *_data(config)]


def _fields(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _data(config: dict[str, Any]) -> list[str]:
    """Returns which images an experiment had besides the task's, by the names of data sets or files."""
    found = []
    if student := config.get("student"):
        source = student["source"]
        name = "scikit-learn's digits" if source == "digits" else student["name"]
        name = pathlib.Path(student["path"]).stem if source == "npz" else name
        merged = student["merge"]
        groups = f", {merged} neighbouring classes as one" if merged > 1 else ""
        found.append(f"The students' images are of {name}{groups}.")
    if elsewhere := config.get("ood_path"):
        names = " and ".join(pathlib.Path(each).stem for each in elsewhere.split(","))
        found.append(f"The images from elsewhere are {names} ([which](../results/README.md)).")
    return found


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text  # A string without quotes.


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        shown = [_shown(each) for each in value]
        return (" | " if any("," in each for each in shown) else ", ").join(shown) or "none"
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        return f"{value:g}" if abs(value) < 1e5 else f"{value:,.0f}"
    return str(value)
