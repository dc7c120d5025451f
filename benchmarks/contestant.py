"""Contestants of a benchmark: processes that step in turn and are stopped (SIGSTOP) otherwise.

So no thread pool or allocator of one disturbs another, and each has a peak memory of its own.
"""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Step = Callable[[], float]


def serve(
    make_step: Callable[[], Step], peak_memory: Callable[[], int], *, warm_up: int = 2
) -> None:
    """Be a contestant: make as many steps as each line of stdin says.

    Prints a line after the first step, and makes `warm_up` more that nobody times; then each turn's mean
    seconds and the process's peak memory in bytes, a JSON line each. After "program" instead of a number, the
    bytes that the step's compiled program takes, null where the step has no `program_memory` to ask.
    """
    step = make_step()
    step()
    print("ready", flush=True)
    for _ in range(warm_up):
        step()
    for line in sys.stdin:
        if line.strip() == "program":
            ask = getattr(step, "program_memory", lambda: None)
            print(json.dumps(ask()), flush=True)
            continue
        steps = int(line)
        begun = time.perf_counter()
        for _ in range(steps):
            step()
        seconds = (time.perf_counter() - begun) / steps
        print(json.dumps([seconds, peak_memory()]), flush=True)


def resident_peak() -> int:
    """Returns the most bytes that this process has held in RAM, 0 where the system does not say."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0


def print_json(found: dict[str, Any]) -> None:
    """Prints what a program found as one JSON object, and what that depends on beside it."""
    from nullmark_jax import environment  # Here: PyTorch's contestant is not to import jax for it.

    command = shlex.join(["python", f"benchmarks/{pathlib.Path(sys.argv[0]).name}", *sys.argv[1:]])
    print(json.dumps({**found, "environment": environment.describe(command)}))


class Contestant:
    """A contestant's process, started at once, stopped but for its turns.

    Attributes:
      name: what it is called in tables.
      arguments: of Python.
      alive: whether it made its first step.
      first_step: seconds from its start, imports included, to its first step's end.
      times: mean seconds a step of each turn so far.
      peak_memory: bytes; of the GPU where the step runs on one.
    """

    def __init__(
        self, name: str, arguments: list[str], environ: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.times: list[float] = []
        self.peak_memory = 0
        self.arguments = arguments
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            # Contestants share a GPU: none may take most of its memory at the start, as jax would. And
            # each compiles for itself.
            env={
                **os.environ,
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                "JAX_ENABLE_COMPILATION_CACHE": "false",
                **(environ or {}),
            },
        )  # fmt: skip
        try:
            self.alive = bool(self._process.stdout.readline())
        except BaseException:  # Interrupted, where nobody else has it yet to end it.
            self.end()
            raise
        self.first_step = time.perf_counter() - started
        if self.alive:
            self._process.send_signal(signal.SIGSTOP)

    def turn(self, steps: int) -> None:
        """Lets the contestant make some steps."""
        seconds, self.peak_memory = self._answer(str(steps))
        self.times.append(seconds)

    def program_memory(self) -> int | None:
        """Returns the bytes that the compiled step takes, where the contestant knows."""
        return self._answer("program")

    def _answer(self, line: str) -> Any:
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
