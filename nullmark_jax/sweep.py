"""Trains the points of a sweep, those that are not trained yet, and ends in one table and figures.

Run it as `python -m nullmark_jax.sweep --config=configs/sweeps/extreme_value.py:digit [--workdir=DIR]`; what
else the trainings are to have is given as for the main program, `--config.data.source=npz` say.

Each point is a run of the main program in a folder of its own, by a process of its own: one that dies is
reported, and the others go on. The same command again trains what is left. On a cluster, `--dry_run` prints
the command of each point, and `--only=I` runs the I-th alone, as an array's tasks do.

On an accelerator one small model leaves most of it idle: there (`--population=auto`), or everywhere
(`always`), points that ask for one program on the same data, as the seeds, owners, extreme values and the two
papers' schemes of a sweep do, are trained at once by one process (`nullmark_jax.sweep_population`), with the
same run folders at the end. Those that are left over, or not as far as others, go as processes.

Exit status: 0 every point is trained, 1 some are not, 2 unusable input, 130 or 143 interrupted.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags

from nullmark_jax import checks, environment, files, program
from nullmark_jax import config as configs
from nullmark_jax.errors import InputError
from nullmark_jax.folder import make_folder, to_json
from nullmark_jax.reports import figures, page, sweeps
from nullmark_jax.sweep_points import (
    Point,
    axes_of,
    command_of,
    config_arguments,
    field_of,
    groups_of,
    points_of,
    population_command,
    result_path,
    sweep_file,
    typed,
)
from nullmark_jax.sweep_processes import has_accelerator, run_points

POPULATION = ("auto", "always", "never")
# When each point's owner signs at the latest: now would be another pattern for each.
_SIGNED_BY = "2026-11-21T00:00:00Z"
_LARGEST = 2**26


def task_config(file: str, argument: str | None) -> ml_collections.ConfigDict:
    """Returns the config of a task, for the get_config of a file of configs/sweeps/.

    Its owner signs by a given time, not now: no pattern depends on when its point starts.

    Args:
      file: that file, beside whose folder the tasks' stand.
      argument: TASK, or TASK,RECIPE as the task's file has one.

    Raises:
      InputError: there is no such task.
    """
    task, _, recipe = (argument or "").partition(",")
    path = pathlib.Path(file).parent.parent / f"{task}.py"
    if task not in configs.TASKS or not path.exists():
        raise InputError(
            f"--config: {checks.shown(argument)} is no task; take FILE.py:TASK with TASK one of "
            f"{', '.join(configs.TASKS)}"
        )
    config = program.load_config_file(path).get_config(recipe or None)
    config.owner.latest_timestamp = _SIGNED_BY
    return config


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
            text = files.read_bounded(result_path(workdir, point), _LARGEST)
            result = checks.json_object(text)
            fields = dict.fromkeys([axis, *groups, *point.values])
            found.append(
                {
                    "name": point.name,
                    "values": {field: field_of(point.config, field) for field in fields},
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


def main(argv: list[str]) -> int:
    """Runs the program on a command line, the program's name first; returns the exit status."""
    flag_values = flags.FlagValues()
    program.define_config(flag_values, argv, "The sweep, configs/sweeps/NAME.py:TASK.")
    flags.DEFINE_string(
        "workdir", None, "Its folder, or else runs/sweep-NAME-TASK.", flag_values=flag_values
    )
    flags.DEFINE_integer("jobs", 1, "Points trained at a time.", flag_values=flag_values)
    flags.DEFINE_integer("only", None, "Run this point alone, from 0.", flag_values=flag_values)
    flags.DEFINE_enum(
        "population",
        "auto",
        POPULATION,
        "Train points that ask for one program at once: auto does on accelerators.",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "collect",
        False,
        "Train nothing: the table of the points that are.",
        flag_values=flag_values,
    )
    flags.DEFINE_bool("dry_run", False, "Print the commands alone.", flag_values=flag_values)
    given = config_arguments(argv[1:])
    # The table's command is the one that trains its points.
    command = program.command_line("nullmark_jax.sweep", argv, but_for="collect")
    return program.run(
        lambda values: _main(values, given, command), flag_values, argv, __doc__ or ""
    )


def _main(flag_values: flags.FlagValues, given: list[str], command: str) -> int:
    config = flag_values.config
    configs.check(config)
    path = sweep_file(flag_values)
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
        print("\n".join(typed(command) for command in commands))
        return 0
    stated = config.copy_and_resolve_references().unlock()
    stated.sweep = [point.values for point in points]
    if flag_values.collect and only is not None:
        raise InputError(
            f"--collect: trains nothing, not --only={only} either; give one of the two"
        )
    left = [each for each in points if not result_path(workdir, each).exists()]
    if flag_values.collect and len(left) == len(points):
        raise InputError(f"--collect: no point in {workdir} is trained yet; train some first")
    # Not claimed: others may be at work in it, as an array's tasks are.
    make_folder(workdir, stated)
    if only is not None:
        dead = run_points(points[only : only + 1], commands[only : only + 1], workdir, 1)
        return _report_dead(dead)
    if flag_values.collect:
        known = _dead_before(workdir)
        dead = {each.name: known.get(each.name, "not trained yet") for each in left}
    else:
        wanted = flag_values.population
        at_once = wanted != "never" and (wanted == "always" or _fills_an_accelerator(left))
        dead = run_points(
            points,
            commands,
            workdir,
            flag_values.jobs,
            together=(lambda group: population_command(group, given, workdir)) if at_once else None,
        )
    result = collect(config, points, dead, workdir, command=command)
    write(workdir, result)
    for table in sweeps.tables(result):
        print(table.markdown())
    print(f"\nthe sweep is in {workdir}; open its report.html")
    return _report_dead(dead)


def _dead_before(workdir: pathlib.Path) -> dict[str, str]:
    """Returns why points died by the table that is there, if any."""
    path = workdir / "result.json"
    if not path.exists():
        return {}
    result = checks.json_object(files.read_bounded(path, _LARGEST))
    return dict(result["metrics"]["dead"])


def _fills_an_accelerator(left: Sequence[Point]) -> bool:
    """Returns whether some of the points left can be trained at once, and there are devices for it."""
    return bool(groups_of(left)) and has_accelerator()


def write(workdir: pathlib.Path, result: dict[str, Any]) -> None:
    """Writes a sweep's figures, result.json and report.html."""
    for name, figure in sweeps.draw(result).items():
        figures.save(figure, workdir / "figures" / f"{name}.png")
    files.write_whole(workdir / "result.json", to_json(result))
    page.write_page(
        workdir,
        title=f"Sweep over {result['metrics']['axis']}: {result['task']}",
        lead=sweeps.LEAD,
        tables=sweeps.tables(result),
        captions=sweeps.captions(result),
        result=result,
    )


def _report_dead(dead: Mapping[str, str]) -> int:
    for name, line in dead.items():
        print(f"{name}: is not trained: {line}", file=sys.stderr)
    return int(bool(dead))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
