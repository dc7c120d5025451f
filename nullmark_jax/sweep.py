"""Trains the points of a sweep, those that are not trained yet, and ends in one table and figures.

Run it as `python -m nullmark_jax.sweep --config=configs/sweeps/extreme_value.py:digit [--workdir=DIR]`; what
else the trainings are to have is given as for the main program, `--config.data.source=npz` say.

Each point is a run of the main program in a folder of its own, by a process of its own: one that dies is
reported, and the others go on. The same command again trains what is left. On a cluster, `--dry_run` prints
the command of each point, and `--only=I` runs the I-th alone, as an array's tasks do.

Exit status: 0 every point is trained, 1 some are not, 2 unusable input, 130 or 143 interrupted.
"""

import itertools
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from nullmark_jax import checks, environment, files, program
from nullmark_jax import config as configs
from nullmark_jax.errors import InputError
from nullmark_jax.folder import check_folder, make_folder, to_json
from nullmark_jax.progress import Progress
from nullmark_jax.reports import figures, page, sweeps

_LARGEST = 2**26
_POLL_SECONDS = 0.1
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


def task_config(sweep_file: str, argument: str | None) -> ml_collections.ConfigDict:
    """Returns the config of a task, for the get_config of a file of configs/sweeps/.

    Args:
      sweep_file: that file, beside whose folder the tasks' stand.
      argument: TASK, or TASK,RECIPE as the task's file has one.

    Raises:
      InputError: there is no such task.
    """
    task, _, recipe = (argument or "").partition(",")
    path = pathlib.Path(sweep_file).parent.parent / f"{task}.py"
    if task not in configs.TASKS or not path.exists():
        raise InputError(
            f"--config: {checks.shown(argument)} is no task; take FILE.py:TASK with TASK one of "
            f"{', '.join(configs.TASKS)}"
        )
    return program.load_config_file(path).get_config(recipe or None)


def points_of(path: pathlib.Path, config: ml_collections.ConfigDict) -> list[Point]:
    """Returns the points of a sweep's file, in its order.

    Args:
      path: a file with `sweep(add)`, which calls add(values) for each.
      config: of the sweep's trainings, which each point changes.

    Raises:
      InputError: the file has no such function or no point, two are alike, or a config is none.
    """
    sweep = getattr(program.load_config_file(path), "sweep", None)
    if not callable(sweep):
        raise InputError(f"--config: {path} has no sweep(add); give a file of configs/sweeps/")
    added: list[Values] = []
    try:
        sweep(lambda values: added.append(dict(values)))
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
        typed = {field: _field(changed, field) for field in values}
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
    folder = f"--workdir={_folder(workdir, point)}"
    return [sys.executable, "-m", "nullmark_jax.main", *given, *changes, folder]


def _folder(workdir: pathlib.Path, point: Point) -> pathlib.Path:
    return workdir / "points" / point.name


def run_points(
    points: Sequence[Point],
    commands: Sequence[Sequence[str]],
    workdir: pathlib.Path,
    jobs: int,
) -> dict[str, str]:
    """Runs the commands of the points that have no result, at most `jobs` at a time.

    What each prints goes to its folder's name with ".log". Where this is interrupted they are, too, and go
    on when they are started again.

    Returns:
      For each point without a result, by name, how it ended and the last line that it printed.

    Raises:
      InputError: a point's folder holds the run of another config, or cannot be written.
    """
    for point in points:
        check_folder(_folder(workdir, point), point.config)
    # Points at the same time share a GPU: none may take most of its memory at the start, as jax would.
    environ = dict(os.environ) | ({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if jobs > 1 else {})
    ends: dict[str, str] = {}
    waiting = [
        (point, command)
        for point, command in zip(points, commands, strict=True)
        if not _result_path(workdir, point).exists()
    ]
    running: list[tuple[Point, subprocess.Popen[bytes]]] = []
    with (
        files.writing(workdir),
        Progress(total=len(points), done=len(points) - len(waiting), unit="point") as progress,
    ):
        (workdir / "points").mkdir(exist_ok=True)
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    point, command = waiting.pop(0)
                    with open(_log_path(workdir, point), "wb") as log:
                        started = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
                    running.append((point, started))
                ended = [each for each in running if each[1].poll() is not None]
                for point, process in ended:
                    running.remove((point, process))
                    last = _last_line(_log_path(workdir, point))
                    ends[point.name] = f"exit status {process.returncode}: {last}"
                    progress.advance(1)
                    alive = _result_path(workdir, point).exists()
                    progress.say(f"{point.name}: {'done' if alive else 'DEAD'}")
                if not ended:
                    time.sleep(_POLL_SECONDS)
        finally:
            for _, process in running:
                process.terminate()
            for _, process in running:
                process.wait()
    return {
        point.name: ends[point.name]
        for point in points
        if not _result_path(workdir, point).exists()
    }


def _result_path(workdir: pathlib.Path, point: Point) -> pathlib.Path:
    return _folder(workdir, point) / "result.json"


def _log_path(workdir: pathlib.Path, point: Point) -> pathlib.Path:
    return workdir / "points" / f"{point.name}.log"


def _last_line(path: pathlib.Path) -> str:
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "printed nothing")


def collect(
    config: ml_collections.ConfigDict,
    points: Sequence[Point],
    dead: Mapping[str, str],
    workdir: pathlib.Path,
    *,
    command: str = "",
) -> dict[str, Any]:
    """Returns what result.json of a sweep holds, from those of its points."""
    axis, groups = axes_of(points)
    found = []
    for point in points:
        if point.name not in dead:
            text = files.read_bounded(_result_path(workdir, point), _LARGEST)
            result = checks.json_object(text)
            fields = dict.fromkeys([axis, *groups, *point.values])
            found.append(
                {
                    "name": point.name,
                    "values": {field: _field(point.config, field) for field in fields},
                    "scheme": point.config.watermark.scheme,
                    "metrics": result["metrics"],
                    "commit": result["environment"]["commit"],
                    "device": result["environment"]["device"],
                    "seconds": result["seconds"],
                }
            )
    where = environment.describe(command)
    # Of all trainings: the points may have been made at other times.
    for name in ("commit", "device"):
        every = dict.fromkeys(each[name] or "unknown" for each in found)
        where[name] = " and ".join(every) or where[name]
    return {
        "experiment": "sweep",
        "task": config.task,
        "seed": config.seed,
        "metrics": {
            "axis": axis,
            "groups": groups,
            "threshold": config.watermark.threshold,
            "points": found,
            "dead": dict(dead),
        },
        "paper": {},
        "environment": where,
        "seconds": round(sum(each["seconds"] for each in found), 1),
    }


def _field(config: ml_collections.ConfigDict, dotted: str) -> Any:
    value: Any = config
    for name in dotted.split("."):
        value = value[name]
    return value


def main(argv: list[str]) -> int:
    """Runs the program on a command line, the program's name first; returns the exit status."""
    flag_values = flags.FlagValues()
    program.define_config(flag_values, argv, "The sweep, configs/sweeps/NAME.py:TASK.")
    flags.DEFINE_string(
        "workdir", None, "Its folder, or else runs/sweep-NAME-TASK.", flag_values=flag_values
    )
    flags.DEFINE_integer("jobs", 1, "Points trained at a time.", flag_values=flag_values)
    flags.DEFINE_integer("only", None, "Run this point alone, from 0.", flag_values=flag_values)
    flags.DEFINE_bool("dry_run", False, "Print the commands alone.", flag_values=flag_values)
    given = _config_arguments(argv[1:])
    command = program.command_line("nullmark_jax.sweep", argv)
    return program.run(
        lambda values: _main(values, given, command), flag_values, argv, __doc__ or ""
    )


def _config_arguments(arguments: Sequence[str]) -> list[str]:
    """Returns those of --config and --config.FIELD, each as one argument with its value."""
    found, rest = [], iter(arguments)
    for each in rest:
        if re.match(r"--?config[=.]", each) and "=" in each:
            found.append(each)
        elif re.fullmatch(r"--?config(\.[\w.]+)?", each):
            found.append(f"{each}={next(rest, '')}")
    return found


def _main(flag_values: flags.FlagValues, given: list[str], command: str) -> int:
    config = flag_values.config
    configs.check(config)
    filename = config_flags.get_config_filename(flag_values["config"])
    path = pathlib.Path(filename.partition(":")[0])
    points = points_of(path, config)
    axes_of(points)
    only = flag_values.only
    if flag_values.jobs < 1:
        raise InputError(f"--jobs: {flag_values.jobs} must be at least 1; give 1")
    if only is not None and not 0 <= only < len(points):
        raise InputError(f"--only: {only} is no point; give 0 to {len(points) - 1}")
    workdir = pathlib.Path(flag_values.workdir or f"runs/sweep-{path.stem}-{config.task}")
    commands = [command_of(point, given, workdir) for point in points]
    if flag_values.dry_run:
        print("\n".join(shlex.join(["python", *command[1:]]) for command in commands))
        return 0
    stated = config.copy_and_resolve_references().unlock()
    stated.sweep = [point.values for point in points]
    # Not claimed: others may be at work in it, as an array's tasks are.
    make_folder(workdir, stated)
    if only is not None:
        dead = run_points(points[only : only + 1], commands[only : only + 1], workdir, 1)
        return _report_dead(dead)
    dead = run_points(points, commands, workdir, flag_values.jobs)
    result = collect(config, points, dead, workdir, command=command)
    write(workdir, result)
    print(sweeps.table(result).markdown())
    print(f"\nthe sweep is in {workdir}; open its report.html")
    return _report_dead(dead)


def write(workdir: pathlib.Path, result: dict[str, Any]) -> None:
    """Writes a sweep's figures, result.json and report.html."""
    for name, figure in sweeps.draw(result).items():
        figures.save(figure, workdir / "figures" / f"{name}.png")
    files.write_whole(workdir / "result.json", to_json(result))
    page.write_page(
        workdir,
        title=f"Sweep over {result['metrics']['axis']}: {result['task']}",
        lead="Models trained from scratch, one for each value and seed, all else being equal.",
        tables=[sweeps.table(result)],
        captions=sweeps.captions(result),
        result=result,
    )


def _report_dead(dead: Mapping[str, str]) -> int:
    for name, line in dead.items():
        print(f"{name}: is not trained: {line}", file=sys.stderr)
    return int(bool(dead))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
