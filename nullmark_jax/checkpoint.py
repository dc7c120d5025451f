"""Checkpoints of a training run (orbax), whole or absent whatever interrupts, and checked when read."""

import contextlib
import hashlib
import logging
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from nullmark_jax import files
from nullmark_jax.errors import InputError
from nullmark_jax.stopping import put_off
from nullmark_jax.training import StepMetrics, TrainState

_KEPT = 2
_MARGIN = 2**20
_LOG = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """All that a training goes on from.

    Attributes:
      state: with the number of steps done.
      metrics: of the steps of the epoch under way, each field [steps of an epoch], 0 for those to come.
    """

    state: TrainState
    metrics: StepMetrics


class Checkpoints:
    """The checkpoints of one run folder, each named by its number of steps; a context manager.

    Orbax writes a checkpoint to a temporary folder and renames it, so a run killed while it writes
    finds the one before. SIGINT and SIGTERM wait until orbax is done. With each goes the SHA-256 of what
    is in it, so that one whose bytes changed on the disk is not taken for a training's state.

    Of several processes one alone may open it.

    Raises:
      InputError: the folder cannot be made or read.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT,
            enable_async_checkpointing=False,
            # Orbax waits for no other process.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
            ),
            create=False,
        )
        with _orbax(f"{directory}: cannot hold checkpoints", "give a folder that you may write to"):
            self._directory.mkdir(exist_ok=True)
            # What a killed run left. Orbax would remove it in a thread that nothing waits for.
            for part in self._directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(part)
            self._manager = ocp.CheckpointManager(
                self._directory, options=options, item_names=("state", "digest")
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with put_off():
            self._manager.close()

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint; returns when it is on the disk.

        Raises:
          InputError: the folder cannot be written or is full; nothing of this checkpoint is left.
        """
        # Host arrays: the file is the same whatever devices trained it.
        arrays = jax.tree.map(np.asarray, checkpoint)
        self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
        step = int(arrays.state.step)
        saved = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            digest=ocp.args.JsonSave({"sha256": _digest(arrays)}),
        )
        path = self._directory / str(step)
        try:
            with _orbax(f"{path}: cannot be written", "give a folder with room"):
                self._manager.save(step, args=saved)
                self._manager.wait_until_finished()
        except InputError:
            for part in self._directory.glob(f"{step}.*tmp*"):
                shutil.rmtree(part, ignore_errors=True)
            raise

    def _check_room(self, size: int) -> None:
        """Raises InputError unless `size` bytes and a margin can be written: before orbax fails."""
        with files.writing(self._directory), tempfile.TemporaryFile(dir=self._directory) as file:
            file.write(bytes(size + _MARGIN))
            file.flush()

    def latest(self, like: Checkpoint) -> Checkpoint:
        """Returns the last checkpoint that is whole; `like` where there is none at all.

        One that was damaged is removed, with a warning, and the one before it taken.

        Args:
          like: a checkpoint of the same shapes and dtypes, of no step.

        Raises:
          InputError: each was damaged, or is of another training; the folder is left as it was.
        """
        failure = None
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._read(step, like)
            except InputError as error:
                failure = failure or error
                damaged.append(self._directory / str(step))
                continue
            for path in damaged:
                before = self._directory / str(step)
                _LOG.warning("%s: was damaged; going on from %s, the one before", path, before)
                shutil.rmtree(path)
            if damaged:
                self._manager.reload()
            return found
        if failure:
            raise failure
        return like

    def _read(self, step: int, like: Checkpoint) -> Checkpoint:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
        damaged = f"{self._directory / str(step)}: is not a whole checkpoint of this run"
        remedy = f"delete {self._directory} to begin anew"
        with _orbax(damaged, remedy):
            read = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(shapes), digest=ocp.args.JsonRestore()
                ),
            )
        restored = jax.tree.map(np.asarray, read["state"])
        found = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), restored)
        if found != shapes:
            raise InputError(f"{damaged} (its shapes differ); {remedy}")
        if read["digest"] != {"sha256": _digest(restored)} or int(restored.state.step) != step:
            raise InputError(f"{damaged} (its SHA-256 differs); {remedy}")
        return restored


def _digest(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(checkpoint):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


@contextlib.contextmanager
def _orbax(problem: str, remedy: str) -> Iterator[None]:
    """Turns what orbax raises into one InputError line, and keeps its own reports to itself.

    After a failure they are kept back for good: the reads and writes that it left under way report
    later, when their event loop is closed. An exception that a signal raises inside orbax would leave its
    threads at work, and Python might crash as it ends: signals are put off.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, report = [logger.level for logger in loggers], sys.unraisablehook

    def report_others(lost: "sys.UnraisableHookArgs") -> None:
        if str(lost.exc_value) != "Event loop is closed":
            report(lost)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = report_others
    with put_off():
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
