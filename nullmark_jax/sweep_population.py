"""Trains points of a sweep at once, as a population, on all of this machine's devices.

`python -m nullmark_jax.sweep` starts it, where it is to, as `python -m nullmark_jax.sweep_population
--config=configs/sweeps/extreme_value.py:digit --workdir=DIR --points=0,2,5`, with the sweep's own --config
arguments and folder. Each point ends with a run folder of its own, as the main program leaves it. SIGTERM
ends it with each point's state in its folder, from which the same command, or the main program on that
folder, goes on; kill -9 costs what was trained since the last state was written, a minute or an epoch.

Exit status: 0 every point is trained, or SIGTERM came and their states are in their folders; 1 some are not,
2 unusable input, 130 interrupted, 143 terminated where nothing is trained. What a point died of, its loss
being no longer finite, is in the log beside its folder.
"""

import pathlib
import sys

from absl import flags

from nullmark_jax import config as configs
from nullmark_jax import files, program, run_population
from nullmark_jax.errors import InputError
from nullmark_jax.sweep_points import (
    command_of,
    config_arguments,
    folder_of,
    log_path,
    points_of,
    result_path,
    sweep_file,
    typed,
)


def main(argv: list[str]) -> int:
    """Runs the program on a command line, the program's name first; returns the exit status."""
    flag_values = flags.FlagValues()
    program.define_config(flag_values, argv, "The sweep, configs/sweeps/NAME.py:TASK.")
    flags.DEFINE_string("workdir", None, "The sweep's folder.", flag_values=flag_values)
    flags.DEFINE_list("points", None, "Which, from 0: I,J,...", flag_values=flag_values)
    for name in ("workdir", "points"):
        flags.mark_flag_as_required(name, flag_values)
    given = config_arguments(argv[1:])
    return program.run(lambda values: _main(values, given), flag_values, argv, __doc__ or "")


def _main(flag_values: flags.FlagValues, given: list[str]) -> int:
    config = flag_values.config
    configs.check(config)
    points = points_of(sweep_file(flag_values), config)
    workdir = pathlib.Path(flag_values.workdir)
    chosen = [points[i] for i in _indices(flag_values.points, len(points))]
    logs = {point.name: log_path(workdir, point) for point in chosen}
    ends = run_population.train_and_evaluate(
        [
            run_population.Run(
                point.name,
                point.config,
                folder_of(workdir, point),
                typed(command_of(point, given, workdir)),
            )
            for point in chosen
            if not result_path(workdir, point).exists()
        ],
        on_dead=lambda name, error: files.write_whole(logs[name], f"{error}\n".encode()),
    )
    for name, error in ends.items():
        print(f"{name}: is not trained: {error}", file=sys.stderr)
    return int(bool(ends))


def _indices(given: list[str], points: int) -> list[int]:
    """Returns --points; InputError where one is none, or is there twice."""
    found = [int(each) for each in given if each.isascii() and each.isdigit()]
    if len(found) < len(given) or len(set(found)) < len(found) or max(found, default=-1) >= points:
        raise InputError(
            f"--points: {','.join(given)} are no points; give some of 0 to {points - 1}, each once"
        )
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv))
