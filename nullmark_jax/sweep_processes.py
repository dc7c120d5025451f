"""The processes that train the points of a sweep: one for each, or one for those that are trained at once."""

import collections
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from nullmark_jax import files
from nullmark_jax.folder import check_folder, is_busy, kept_steps
from nullmark_jax.program import BUSY
from nullmark_jax.progress import Progress
from nullmark_jax.sweep_points import Point, folder_of, groups_of, log_path, result_path

_POLL_SECONDS = 0.1
# Between two looks at a point that another process trains.
_BUSY_SECONDS = 2.0
_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


class _Task(NamedTuple):
    """A process to run.

    Attributes:
      points: that it trains.
      command: its command line.
      log: where what it prints goes.
    """

    points: Sequence[Point]
    command: Sequence[str]
    log: pathlib.Path


def run_points(
    points: Sequence[Point],
    commands: Sequence[Sequence[str]],
    workdir: pathlib.Path,
    jobs: int,
    *,
    together: Callable[[Sequence[int]], Sequence[str]] | None = None,
) -> dict[str, str]:
    """Runs the commands of the points that have no result, at most `jobs` at a time.

    What each prints goes to its folder's name with ".log". Where this is interrupted they are, too, and go
    on when they are started again. Where it is killed they are not: a point that such a process still trains,
    or another sweep in the same folder, is waited for.

    Args:
      points: of the sweep, all or some.
      commands: of each, which trains it alone.
      workdir: the sweep's folder.
      jobs: at least 1.
      together: the indices of points -> the command that trains them at once and writes the log of each that
        diverged. Groups of points then go first, one after another; what such a process leaves otherwise
        is trained alone. None where every point is.

    Returns:
      For each point without a result, by name, how it ended and the last line that it printed.

    Raises:
      InputError: a point's folder holds the run of another config, or cannot be written.
    """
    for point in points:
        check_folder(folder_of(workdir, point), point.config)
    ends: dict[str, str] = {}
    groups = _groups(points, workdir) if together else []
    left = [point for point in points if not result_path(workdir, point).exists()]
    with (
        files.writing(workdir),
        Progress(total=len(points), done=len(points) - len(left), unit="point") as progress,
    ):
        (workdir / "points").mkdir(exist_ok=True)

        def end(point: Point, how: str) -> None:
            ends[point.name] = how
            progress.advance(1)
            alive = result_path(workdir, point).exists()
            progress.say(f"{point.name}: {'done' if alive else 'DEAD'}")

        def end_group(task: _Task, status: int) -> None:
            for point in task.points:
                own = log_path(workdir, point)
                if result_path(workdir, point).exists() or own.exists():
                    end(point, _last_line(own))
                elif status == 0:  # SIGTERM came to it alone: the states are in the folders.
                    stopped.append(points.index(point))
                else:
                    how = f"exit status {status}: {_last_line(task.log)}"
                    progress.say(f"{point.name}: is trained alone ({how})")

        for number, group in enumerate(groups):
            chosen = [points[i] for i in group]
            stopped: list[int] = []
            for point in chosen:
                log_path(workdir, point).unlink(missing_ok=True)
            log = workdir / "points" / f"together-{number}.log"
            progress.say(f"{len(chosen)} points at once: {log} says how far they are")
            assert together is not None
            _run([_Task(chosen, together(group), log)], workdir, 1, end_group, progress.say)
            if stopped:  # Is the next one.
                groups.insert(number + 1, stopped)
        alone = [
            _Task([point], command, log_path(workdir, point))
            for point, command in zip(points, commands, strict=True)
            if not result_path(workdir, point).exists() and point.name not in ends
        ]

        def end_alone(task: _Task, status: int) -> None:
            end(task.points[0], f"exit status {status}: {_last_line(task.log)}")

        _run(alone, workdir, jobs, end_alone, progress.say)
    return {
        point.name: ends[point.name] for point in points if not result_path(workdir, point).exists()
    }


def _groups(points: Sequence[Point], workdir: pathlib.Path) -> list[list[int]]:
    """Returns the groups of the points without a result or a process at work, of which all have one state.

    Each has its last two; one of a group that was killed as it wrote them may lack the last one.
    """
    left = {
        i: kept_steps(folder_of(workdir, point))
        for i, point in enumerate(points)
        if not result_path(workdir, point).exists() and not is_busy(folder_of(workdir, point))
    }
    having = collections.Counter(step for steps in left.values() for step in steps)
    by_step: dict[int, list[int]] = {}
    for i, steps in left.items():
        shared = max(steps, key=lambda step: (having[step], step), default=0)
        by_step.setdefault(shared, []).append(i)
    return [
        [alike[i] for i in group]
        for _, alike in sorted(by_step.items())
        for group in groups_of([points[i] for i in alike])
    ]


def _run(
    tasks: Sequence[_Task],
    workdir: pathlib.Path,
    jobs: int,
    end: Callable[[_Task, int], None],
    say: Callable[[str], None],
) -> None:
    """Runs tasks, at most `jobs` at a time; calls end(task, exit status) after each.

    One that another process has at work waits for that, and is not run where it then has its results.
    """
    # Points at the same time share a GPU: none may take most of its memory at the start, as jax would.
    environ = dict(os.environ) | ({_PREALLOCATE: "false"} if jobs > 1 else {})
    waiting, busy = list(tasks), list[_Task]()
    look_again = 0.0
    running: list[tuple[_Task, subprocess.Popen[bytes]]] = []

    def put_off(task: _Task) -> None:
        nonlocal look_again
        if not look_again:
            say(f"{task.points[0].name}: another process trains it, and is waited for")
        look_again = time.monotonic() + _BUSY_SECONDS
        busy.append(task)

    try:
        while waiting or busy or running:
            # What another process trains has its share of the machine.
            while waiting and len(running) + len(busy) < jobs:
                task = waiting.pop(0)
                if any(is_busy(folder_of(workdir, point)) for point in task.points):
                    put_off(task)
                elif all(result_path(workdir, point).exists() for point in task.points):
                    end(task, 0)
                else:
                    with open(task.log, "wb") as log:
                        started = subprocess.Popen(
                            task.command, stdout=log, stderr=log, env=environ
                        )
                    running.append((task, started))
            ended = [each for each in running if each[1].poll() is not None]
            for task, process in ended:
                running.remove((task, process))
                if process.returncode == BUSY:
                    put_off(task)
                else:
                    end(task, process.returncode)
            if not ended:
                time.sleep(_POLL_SECONDS)
            if busy and time.monotonic() >= look_again:
                waiting.append(busy.pop(0))
    finally:
        for _, process in running:
            process.terminate()
        for _, process in running:
            process.wait()


def _last_line(path: pathlib.Path) -> str:
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "printed nothing")


def has_accelerator(environ: Mapping[str, str] = os.environ) -> bool:
    """Returns whether this machine's devices are GPUs or TPUs.

    A process of its own asks: the one that asks holds them, and the points' are to have them.
    """
    # Where there are none that were asked for, the points say so.
    code = """
from nullmark_jax import errors, parallel
try:
    parallel.check_platform()
    print(parallel.on_accelerator())
except errors.DevicesUnavailable:
    print(False)
"""
    asked = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(environ) | {_PREALLOCATE: "false"},
        stdout=subprocess.PIPE,
        text=True,
    )
    return asked.stdout.strip() == "True"
