"""Trains a watermarked model and verifies it.

Run it as `python -m nullmark_jax.main --config=configs/digit.py [--workdir=DIR]`. Several processes, on
several hosts say, train one model together where each is started with --distributed; the run's folder is
the first one's.

Exit status: 0 verified (or a watermark-free run, done; or SIGTERM came in training, and the state is on
the disk: there is no result.json then), 1 trained but not verified, 2 unusable input, 3 the training
diverged, 75 another process is at work in the folder, 130 or 143 interrupted, 134 jax ended it because
another process of the run was lost, or did not come. Start the same command again to go on.
"""

import contextlib
import pathlib
import sys

from absl import flags

from nullmark_jax import config as configs
from nullmark_jax import parallel, process, program
from nullmark_jax.errors import InputError
from nullmark_jax.reports import table
from nullmark_jax.run import train_and_evaluate


def main(argv: list[str]) -> int:
    """Runs the program on a command line, the program's name first; returns the exit status."""
    flag_values = flags.FlagValues()
    program.define_config(flag_values, argv, "The task's config file, FILE.py or FILE.py:recipe.")
    flags.DEFINE_string(
        "workdir", None, "The run folder; runs/TASK where none is given.", flag_values=flag_values
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "Train with other processes; on Slurm, TPU pods and Kubernetes jax finds them.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of the first of them, elsewhere.", flag_values=flag_values
    )
    flags.DEFINE_integer("num_processes", 0, "How many, elsewhere.", flag_values=flag_values)
    flags.DEFINE_integer(
        "process_id", -1, "This one's, from 0, elsewhere.", flag_values=flag_values
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Check the config, print the command, do nothing.",
        flag_values=flag_values,
    )
    command = program.command_line("nullmark_jax.main", argv, but_for="dry_run")
    return program.run(lambda values: _main(values, command), flag_values, argv, __doc__ or "")


def _main(flag_values: flags.FlagValues, command: str) -> int:
    others = (flag_values.coordinator, flag_values.num_processes, flag_values.process_id)
    if not flag_values.distributed and others != ("", 0, -1):
        raise InputError(
            "--coordinator, --num_processes, --process_id: are of several processes; give --distributed"
        )
    if flag_values.dry_run:
        configs.check(flag_values.config)
        print(command)
        return 0
    process.prepare()
    # Joined before anything else is asked of jax.
    with parallel.joined(*others) if flag_values.distributed else contextlib.nullcontext():
        parallel.check_platform()
        config = flag_values.config
        with parallel.together():
            configs.check(config)
        folder = pathlib.Path(flag_values.workdir or f"runs/{config.task}")
        result = train_and_evaluate(config, folder, command=command)
        verified = result["metrics"]["verified"]
        if parallel.is_first():
            print(table.result_table(result))
            verdict = {None: "watermark-free", True: "verified", False: "NOT VERIFIED"}[verified]
            print(f"{verdict}; the run is in {folder}")
        return int(verified is False)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
