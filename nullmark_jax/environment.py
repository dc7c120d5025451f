"""Where a result came from: the command, the commit, the versions, the machine."""

import datetime
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

from nullmark_jax import parallel


def describe(command: str) -> dict[str, Any]:
    """Returns what a result depends on beside its config: code, command, versions, hardware.

    Args:
      command: what was run, as `program.command_line` writes it; "" where no program was.
    """
    device = jax.local_devices()[0]
    return {
        "command": command,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": sys.version.split()[0],
        "jax": jax.__version__,
        "device": f"{parallel.device_count()} x {device.device_kind}",
        "processes": parallel.process_count(),
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _processor() -> str:
    """Returns the processor's name: compiled for another, a training ends with other bytes."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:  # Not Linux.
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Returns the source tree's commit, "+" after it where this package differs.

    Outside git, where a copy of the tree runs, it is what the environment's NULLMARK_COMMIT says, or "".
    """
    here = pathlib.Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", here, *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno", "."])
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("NULLMARK_COMMIT", "")
    return commit + ("+" if changes else "")
