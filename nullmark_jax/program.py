"""What the command-line programs share: flags in, an exit status out, one line for bad input."""

import contextlib
import importlib.util
import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import NoReturn

from absl import flags
from ml_collections import config_flags

from nullmark_jax.errors import InputError, TrainingDiverged

UNUSABLE = 2
"""Exit status of every program for input that it cannot use."""
DIVERGED = 3
_STOPS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


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
      the system refuses a file; 3 after a TrainingDiverged; 130 after Ctrl-C; 143 after SIGTERM
      (which end the process themselves where jax is at work).
    """
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print(f"{description}\n{flag_values.get_help()}")
        return 0
    try:
        with _stoppable():
            parse(flag_values, argv)
            return body(flag_values)
    except InputError as error:
        return _fail(str(error), UNUSABLE)
    except OSError as error:
        return _fail(f"{error}; check the disk and the permissions", UNUSABLE)
    except TrainingDiverged as error:
        return _fail(str(error), DIVERGED)
    except _Stopped as stop:
        return _fail(_stop_line(stop.number), 128 + stop.number)


class _Stopped(BaseException):
    """SIGINT or SIGTERM, as an exception, so that what is being written is cleaned up."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Makes SIGINT and SIGTERM end the block with a `_Stopped`, or the process, below jax."""
    previous = {number: signal.signal(number, _stop) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    while frame is not None:
        # jax compiles in a thread of its own, which crashes the process once an exception has freed
        # what it reads; and jax's callback of the garbage collector loses exceptions.
        if frame.f_globals.get("__name__", "").partition(".")[0] == "jax":
            bar_end = "\n" if os.isatty(2) else ""
            os.write(2, f"{bar_end}{_stop_line(number)}\n".encode())
            os._exit(128 + number)
        frame = frame.f_back
    raise _Stopped(number)


def _stop_line(number: int) -> str:
    return f"{_STOPS[number]}; give the same command again to go on"


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    # A name from outside may hold anything, a terminal's control sequences too.
    shown = (c if " " <= c <= "~" else c.encode("unicode_escape").decode() for c in line)
    print("".join(shown), file=sys.stderr)
    return status


def command_line(module: str, argv: list[str]) -> str:
    """Returns a program's command as a shell takes it: "python -m nullmark_jax.main --config=..."."""
    return shlex.join(["python", "-m", module, *argv[1:]])


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
        line = lines[-1].removeprefix(f"{InputError.__module__}.InputError: ")
        cause = error.args[0] if error.args else None
        if isinstance(cause, KeyError):  # ml_collections, of --config.FIELD=VALUE.
            line = f"there is no field {cause.args[0]}"
        if not isinstance(error, flags.Error) and not line.startswith("--config"):
            line = f"--config: {line}"
        raise InputError(f"{line}; see --help") from error
    if rest:
        raise InputError(f"{rest[0]!r}: is not a flag; see --help")


def load_config_file(path: pathlib.Path) -> ModuleType:
    """Returns a config file as a module; InputError where it is no Python file."""
    spec = importlib.util.spec_from_file_location(f"nullmark_config_{path.stem}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise InputError(
            f"{path}: is no config file; give one of configs/, from the project's folder"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def define_config(flag_values: flags.FlagValues, argv: list[str], help_text: str) -> None:
    """Defines --config=FILE.py[:ARGUMENT], required, and --config.FIELD=VALUE for each field."""
    config_flags.DEFINE_config_file(
        "config", None, help_text, flag_values=flag_values, sys_argv=argv, lock_config=True
    )
    flags.mark_flag_as_required("config", flag_values)
    # A file that cannot be loaded raises only when the config is looked at: look at once.
    flags.register_validator("config", lambda config: dir(config.get), flag_values=flag_values)
