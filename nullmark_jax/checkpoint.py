"""Checkpoints of a training run (orbax), one an epoch, whole or absent whatever interrupts."""

import contextlib
import logging
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import TracebackType

import jax
import numpy as np
import orbax.checkpoint as ocp

from nullmark_jax import files
from nullmark_jax.errors import InputError
from nullmark_jax.training import TrainState

_KEPT = 2
_MARGIN = 2**20


class Checkpoints:
    """The checkpoints of one run folder; a context manager.

    Orbax writes a checkpoint to a temporary folder and renames it, so a run killed while it writes
    finds the one before. SIGINT and SIGTERM wait until orbax is done.

    Raises:
      InputError: the folder cannot be made or read.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, enable_async_checkpointing=False)
        with _orbax(f"{directory}: cannot hold checkpoints", "give a folder that you may write to"):
            self._directory.mkdir(exist_ok=True)
            # What a killed run left. Orbax would remove it in a thread that nothing waits for.
            for part in self._directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(part)
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _undisturbed():
            self._manager.close()

    def save(self, epoch: int, state: TrainState) -> None:
        """Writes the state after `epoch` epochs; returns when it is on the disk.

        Raises:
          InputError: the folder cannot be written or is full; nothing of this checkpoint is left.
        """
        # Host arrays: the file is the same whatever devices trained it.
        arrays = jax.tree.map(np.asarray, state)
        self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
        saved = ocp.args.StandardSave(arrays)
        path = self._directory / str(epoch)
        try:
            with _orbax(f"{path}: cannot be written", "give a folder with room"):
                self._manager.save(epoch, args=saved)
                self._manager.wait_until_finished()
        except InputError:
            for part in self._directory.glob(f"{epoch}.*tmp*"):
                shutil.rmtree(part, ignore_errors=True)
            raise

    def _check_room(self, size: int) -> None:
        """Raises InputError unless `size` bytes and a margin can be written: before orbax fails."""
        with files.writing(self._directory), tempfile.TemporaryFile(dir=self._directory) as file:
            file.write(bytes(size + _MARGIN))
            file.flush()

    def latest(self, like: TrainState) -> tuple[int, TrainState]:
        """Returns the last epoch saved and its state; (0, `like`) where there is none.

        Args:
          like: a state of the same shapes and dtypes.

        Raises:
          InputError: the checkpoint was damaged, or is of another state.
        """
        epoch = self._manager.latest_step()
        if epoch is None:
            return 0, like
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
        damaged = f"{self._directory / str(epoch)}: is not a whole checkpoint of this run"
        remedy = "delete that folder to go on from the one before"
        with _orbax(damaged, remedy):
            restored = self._manager.restore(epoch, args=ocp.args.StandardRestore(shapes))
        found = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), restored)
        if found != shapes:
            raise InputError(f"{damaged} (its shapes differ); {remedy}")
        return epoch, jax.tree.map(jax.numpy.asarray, restored)


@contextlib.contextmanager
def _orbax(problem: str, remedy: str) -> Iterator[None]:
    """Turns what orbax raises into one InputError line, and keeps its own reports to itself.

    After a failure they are kept back for good: the reads and writes that it left under way report
    later, when their event loop is closed.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, report = [logger.level for logger in loggers], sys.unraisablehook

    def report_others(lost: "sys.UnraisableHookArgs") -> None:
        if str(lost.exc_value) != "Event loop is closed":
            report(lost)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = report_others
    with _undisturbed():
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = getattr(error, "strerror", None)
            if not reason:  # tensorstore's "CODE: what: ...: the reason [details]".
                reason = (
                    (str(error) or type(error).__name__)
                    .split(" [")[0]
                    .splitlines()[0]
                    .rsplit(": ", 1)[-1]
                )
            raise InputError(f"{problem} ({reason}); {remedy}") from error
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        sys.unraisablehook = report


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Puts SIGINT and SIGTERM off to the end of the block.

    An exception that a signal raises inside orbax leaves its threads at work, and Python may crash
    as it ends. Only the main thread gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    previous = {
        stop: signal.signal(stop, lambda number, frame: arrived.append(number))
        for stop in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for stop, handler in previous.items():
            signal.signal(stop, handler)
        for number in arrived:
            signal.raise_signal(number)
