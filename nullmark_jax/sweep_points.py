"""The points of a sweep: their configs, their commands, their folders, and which can be trained at once."""

import inspect
import itertools
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from nullmark_jax import config as configs
from nullmark_jax import program
from nullmark_jax.errors import InputError

# What differs between the repetitions of a point.
SEEDS = ("seed", "owner.experiment_key")
Values = dict[str, Any]


class Point(NamedTuple):
    """A point of a sweep.

    Attributes:
      name: of its folder, "extreme_value=10,seed=0" say.
      values: its config's fields that the sweep sets, by their dotted names.
      config: the whole of it.
    """

    name: str
    values: Values
    config: ml_collections.ConfigDict


def points_of(path: pathlib.Path, config: ml_collections.ConfigDict) -> list[Point]:
    """Returns the points of a sweep's file, in its order.

    Args:
      path: a file with `sweep(add)`, which calls add(values) for each; or `sweep(add, config)`, whose points
        depend on the task, its input's shape say.
      config: of the sweep's trainings, which each point changes. The file gets a copy.

    Raises:
      InputError: the file has no such function or no point, two are alike, or a config is none.
    """
    sweep = getattr(program.load_config_file(path), "sweep", None)
    if not callable(sweep):
        raise InputError(f"--config: {path} has no sweep(add); give a file of configs/sweeps/")
    added: list[Values] = []
    try:
        wants_config = "config" in inspect.signature(sweep).parameters
        given = {"config": config.copy_and_resolve_references()} if wants_config else {}
        sweep(lambda values: added.append(dict(values)), **given)
    except Exception as error:  # It is code, which may raise anything.
        raise InputError(f"--config: {path}: sweep(add) ended in {error!r}; mend it") from error
    if not added:
        raise InputError(f"--config: {path} adds no point; let sweep(add) call add(values)")
    points = []
    for values in added:
        changed = config.copy_and_resolve_references()
        try:
            changed.update_from_flattened_dict(values)
            configs.check(changed)
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"--config: {path}: the point {_name(values)}: {error}") from error
        # As the config holds them: 2000 of a field of floats is 2000.0.
        typed = {field: field_of(changed, field) for field in values}
        points.append(Point(_name(typed), typed, changed))
    names = [point.name for point in points]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"--config: {path}: adds {twice} twice; take one out")
    return points


def _name(values: Mapping[str, Any]) -> str:
    # Owners' keys mostly go with the seed.
    alike = values.get(SEEDS[1]) == values.get(SEEDS[0])
    named = {k: value for k, value in values.items() if k != SEEDS[1] or not alike}
    shown = (f"{field.rpartition('.')[2]}={value}" for field, value in named.items())
    return re.sub(r"[^\w.,=+-]", "_", ",".join(shown))


def axes_of(points: Sequence[Point]) -> tuple[str, list[str]]:
    """Returns the field that is swept, drawn along the figures, and the others that vary but `SEEDS`.

    Raises:
      InputError: no field varies.
    """
    fields = dict.fromkeys(itertools.chain.from_iterable(point.values for point in points))
    varying = [
        field
        for field in fields
        if field not in SEEDS and len({repr(point.values.get(field)) for point in points}) > 1
    ]
    if not varying:
        raise InputError("--config: the sweep varies nothing but seeds; vary a field")
    return varying[0], varying[1:]


def command_of(point: Point, given: Sequence[str], workdir: pathlib.Path) -> list[str]:
    """Returns the main program's command line for a point.

    Args:
      given: the sweep's own arguments that start with --config.
      workdir: the sweep's folder.
    """
    changes = [
        f"--config.{field}={value if isinstance(value, str) else repr(value)}"
        for field, value in point.values.items()
    ]
    folder = f"--workdir={folder_of(workdir, point)}"
    return [sys.executable, "-m", "nullmark_jax.main", *given, *changes, folder]


def population_command(
    group: Sequence[int], given: Sequence[str], workdir: pathlib.Path
) -> list[str]:
    """Returns the command line of `nullmark_jax.sweep_population` for the points of these indices.

    Args:
      group: indices of points.
      given: the sweep's own arguments that start with --config.
      workdir: the sweep's folder.
    """
    which = f"--points={','.join(map(str, group))}"
    module = "nullmark_jax.sweep_population"
    return [sys.executable, "-m", module, *given, which, f"--workdir={workdir}"]


def sweep_file(flag_values: flags.FlagValues) -> pathlib.Path:
    """Returns the file of --config, without the argument behind it."""
    filename = config_flags.get_config_filename(flag_values["config"])
    return pathlib.Path(filename.partition(":")[0])


def typed(command: Sequence[str]) -> str:
    """Returns one of these command lines as one types it, the interpreter as "python"."""
    return shlex.join(["python", *command[1:]])


def folder_of(workdir: pathlib.Path, point: Point) -> pathlib.Path:
    """Returns a point's run folder."""
    return workdir / "points" / point.name


def log_path(workdir: pathlib.Path, point: Point) -> pathlib.Path:
    """Returns where what a point's process prints goes."""
    return workdir / "points" / f"{point.name}.log"


def result_path(workdir: pathlib.Path, point: Point) -> pathlib.Path:
    """Returns a point's result.json, which is there once it is trained."""
    return folder_of(workdir, point) / "result.json"


def groups_of(points: Sequence[Point]) -> list[list[int]]:
    """Returns the groups of two or more points that can be trained at once, as indices, in the points' order.

    Those of a group have one `config.training_program`; points in no group are trained alone.
    """
    groups: dict[str, list[int]] = {}
    for i, point in enumerate(points):
        wanted = configs.training_program(point.config)
        if wanted is not None:
            groups.setdefault(wanted, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def field_of(config: ml_collections.ConfigDict, dotted: str) -> Any:
    """Returns the field of a config that has this dotted name."""
    value: Any = config
    for name in dotted.split("."):
        value = value[name]
    return value


def config_arguments(arguments: Sequence[str]) -> list[str]:
    """Returns those of --config and --config.FIELD, each as one argument with its value."""
    found, rest = [], iter(arguments)
    for each in rest:
        if re.match(r"--?config[=.]", each) and "=" in each:
            found.append(each)
        elif re.fullmatch(r"--?config(\.[\w.]+)?", each):
            found.append(f"{each}={next(rest, '')}")
    return found
