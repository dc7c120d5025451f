"""What the command-line programs share: flags in, an exit status out, one line for bad input."""

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import flags
from ml_collections import config_flags

from nullmark_jax.errors import InputError, TrainingDiverged

UNUSABLE = 2
"""Exit status of every program for input that it cannot use."""
DIVERGED = 3
INTERRUPTED = 130
TERMINATED = 143


def run(
    body: Callable[[flags.FlagValues], int],
    flag_values: flags.FlagValues,
    argv: list[str],
    description: str,
) -> int:
    """Parses the flags and runs a program.

    Args:
      body: the program; it takes the parsed flags and returns its exit status.
      flag_values: the program's own flags, defined and not yet parsed.
      argv: the command line, the program's name first.
      description: printed above the flags for --help.

    Returns:
      What `body` returned; 0 after --help. One line on stderr and 2 after an InputError, or where
      the system refuses a file; 3 after a TrainingDiverged; 130 after Ctrl-C; 143 after SIGTERM.
    """
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print(f"{description}\n{flag_values.get_help()}")
        return 0
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        parse(flag_values, argv)
        return body(flag_values)
    except InputError as error:
        return _fail(str(error), UNUSABLE)
    except OSError as error:
        return _fail(f"{error}; check the disk and the permissions", UNUSABLE)
    except TrainingDiverged as error:
        return _fail(str(error), DIVERGED)
    except KeyboardInterrupt:
        return _fail("interrupted; give the same command again to go on", INTERRUPTED)
    except _Terminated:
        return _fail("terminated; give the same command again to go on", TERMINATED)
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that what is being written is cleaned up."""


def _terminate(number: int, frame: object) -> NoReturn:
    raise _Terminated


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    print(line.encode("ascii", "backslashreplace").decode(), file=sys.stderr)
    return status


def parse(flag_values: flags.FlagValues, argv: list[str]) -> None:
    """Parses a command line.

    Raises:
      InputError: a flag is unknown, missing or has a wrong value, or something stands there that
        is no flag.
    """
    try:
        rest = flag_values(argv)[1:]
    except Exception as error:  # A config file is code, which may raise anything.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{lines[-1]}; see --help") from error
    if rest:
        raise InputError(f"{rest[0]!r}: is not a flag; see --help")


def define_config(flag_values: flags.FlagValues, argv: list[str], help_text: str) -> None:
    """Defines --config=FILE.py[:ARGUMENT], required, and --config.FIELD=VALUE for each field."""
    config_flags.DEFINE_config_file(
        "config", None, help_text, flag_values=flag_values, sys_argv=argv, lock_config=True
    )
    flags.mark_flag_as_required("config", flag_values)
