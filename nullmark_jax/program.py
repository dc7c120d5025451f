"""What the command-line programs share: flags in, an exit status out, one line for bad input."""

import importlib.util
import pathlib
import shlex
import sys
from collections.abc import Callable
from types import ModuleType

from absl import flags
from ml_collections import config_flags

from nullmark_jax import stopping
from nullmark_jax.errors import DevicesUnavailable, FolderBusy, InputError, TrainingDiverged

UNUSABLE = 2
"""Exit status of every program for input that it cannot use."""
DIVERGED = 3
# As sysexits.h has them: something is not available; a failure that may pass.
NO_DEVICES = 69
BUSY = 75


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
      What `body` returned; 0 after --help. One line on stderr and 2 after an InputError, or where the
      system refuses a file; 75 after a FolderBusy; 69 after a DevicesUnavailable; 3 after a
      TrainingDiverged; 130 after Ctrl-C; after SIGTERM 0 where a training's state was written, which the
      line says, and else 143 (either ends the process itself where jax is at work).
    """
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print(f"{description}\n{flag_values.get_help()}")
        return 0
    try:
        with stopping.stoppable():
            parse(flag_values, argv)
            return body(flag_values)
    except FolderBusy as error:
        return _fail(str(error), BUSY)
    except InputError as error:
        return _fail(str(error), UNUSABLE)
    except OSError as error:
        return _fail(f"{error}; check the disk and the permissions", UNUSABLE)
    except DevicesUnavailable as error:
        return _fail(str(error), NO_DEVICES)
    except TrainingDiverged as error:
        return _fail(str(error), DIVERGED)
    except stopping.Preempted as stop:
        return _fail(str(stop), 0) if str(stop) else 0
    except stopping.Stopped as stop:
        return _fail(str(stop), 128 + stop.number)


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    # A name from outside may hold anything, a terminal's control sequences too.
    shown = (c if " " <= c <= "~" else c.encode("unicode_escape").decode() for c in line)
    print("".join(shown), file=sys.stderr)
    return status


def command_line(module: str, argv: list[str], *, but_for: str = "") -> str:
    """Returns a program's command as a shell takes it: "python -m nullmark_jax.main --config=...".

    Args:
      module: the program's.
      argv: its command line, its name first.
      but_for: a flag to leave out, a boolean one.
    """
    kept = (each for each in argv[1:] if each.lstrip("-").partition("=")[0] != but_for)
    return shlex.join(["python", "-m", module, *(kept if but_for else argv[1:])])


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
