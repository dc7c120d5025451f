"""Trains a watermarked model and verifies it.

Run it as `python -m nullmark_jax.main --config=configs/digit.py [--workdir=DIR]`.

Exit status: 0 verified (or a watermark-free run, done), 1 trained but not verified, 2 unusable
input, 3 the training diverged, 130 or 143 interrupted (start the same command again to go on).
"""

import pathlib
import sys

from absl import flags

from nullmark_jax import config as configs
from nullmark_jax import program
from nullmark_jax.reports import table
from nullmark_jax.run import train_and_evaluate


def main(argv: list[str]) -> int:
    """Runs the program on a command line, the program's name first; returns the exit status."""
    flag_values = flags.FlagValues()
    program.define_config(flag_values, argv, "The task's config file, FILE.py or FILE.py:recipe.")
    flags.DEFINE_string(
        "workdir", None, "The run folder; runs/TASK where none is given.", flag_values=flag_values
    )
    command = program.command_line("nullmark_jax.main", argv)
    return program.run(lambda values: _main(values, command), flag_values, argv, __doc__ or "")


def _main(flag_values: flags.FlagValues, command: str) -> int:
    config = flag_values.config
    configs.check(config)
    folder = pathlib.Path(flag_values.workdir or f"runs/{config.task}")
    result = train_and_evaluate(config, folder, command=command)
    print(table.result_table(result))
    verified = result["metrics"]["verified"]
    if verified is None:
        print(f"watermark-free; the run is in {folder}")
    else:
        print(f"{'verified' if verified else 'NOT VERIFIED'}; the run is in {folder}")
    return int(verified is False)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
