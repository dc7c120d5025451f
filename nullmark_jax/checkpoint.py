"""Checkpoints of a training run (orbax), whole or absent whatever interrupts, and checked when read."""

import contextlib
import dataclasses
import hashlib
import io
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from nullmark_jax import files
from nullmark_jax.errors import InputError
from nullmark_jax.stopping import put_off
from nullmark_jax.training import StepMetrics, TrainState

_KEPT = 2
_MARGIN = 2**20
_ARRAYS, _DIGEST = "arrays.npz", "sha256"
_LOG = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """All that a training goes on from.

    Attributes:
      state: with the number of steps done.
      metrics: of the steps of the epoch under way, each field [steps of an epoch], 0 for those to come.
    """

    state: TrainState
    metrics: StepMetrics


class _Handler(ocp.CheckpointHandler):
    """Writes arrays as one .npz file, and its SHA-256 beside it; what has another digest is not parsed.

    Orbax's own handler has tensorstore write them, which leaves some memory behind with every array: a run of
    many short epochs would grow.
    """

    def save(self, directory: Any, args: "_Arrays") -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **args.arrays)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest().encode()
        for name, data in ((_ARRAYS, buffer.getbuffer()), (_DIGEST, digest)):
            with open(pathlib.Path(directory) / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    def restore(self, directory: Any, args: "_Arrays | None" = None) -> dict[str, np.ndarray]:
        data = (pathlib.Path(directory) / _ARRAYS).read_bytes()
        digest = (pathlib.Path(directory) / _DIGEST).read_bytes()
        if hashlib.sha256(data).hexdigest().encode() != digest:
            raise ValueError("its SHA-256 differs")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)


@ocp.args.register_with_handler(_Handler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _Arrays(ocp.args.CheckpointArgs):  # type: ignore[misc]  # Orbax's class has no types.
    """What `_Handler` takes: arrays by name, to be saved."""

    arrays: dict[str, Any] = dataclasses.field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run folder, each named by its number of steps; a context manager.

    Orbax writes a checkpoint to a temporary folder and renames it, so a run killed while it writes
    finds the one before. SIGINT and SIGTERM wait until orbax is done. With each goes the SHA-256 of its
    file, so that one whose bytes changed on the disk is not taken for a training's state.

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
                self._directory, options=options, item_handlers=_Handler()
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
        arrays = {name: np.asarray(leaf) for name, leaf in _named(checkpoint).items()}
        self._check_room(sum(array.nbytes for array in arrays.values()))
        step = int(checkpoint.state.step)
        path = self._directory / str(step)
        try:
            with _orbax(f"{path}: cannot be written", "give a folder with room"):
                self._manager.save(step, args=_Arrays(arrays))
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
                damaged.append(step)
                continue
            before = self._directory / str(step)
            for each in damaged:
                path = self._directory / str(each)
                _LOG.warning("%s: was damaged; going on from %s, the one before", path, before)
            self._remove(damaged)
            return found
        if failure:
            raise failure
        return like

    def at(self, step: int, like: Checkpoint) -> Checkpoint:
        """Returns the checkpoint after so many steps, and removes later ones; raises as `latest` does."""
        found = self._read(step, like)
        self._remove([each for each in self._manager.all_steps() if each > step])
        return found

    def _remove(self, steps: list[int]) -> None:
        for step in steps:
            shutil.rmtree(self._directory / str(step))
        if steps:
            self._manager.reload()

    def _read(self, step: int, like: Checkpoint) -> Checkpoint:
        damaged = f"{self._directory / str(step)}: is not a whole checkpoint of this run"
        remedy = f"delete {self._directory} to begin anew"
        with _orbax(damaged, remedy):
            arrays = self._manager.restore(step, args=_Arrays())
        wanted = _named(like)
        if _forms(arrays) != _forms(wanted):
            raise InputError(f"{damaged} (its shapes differ); {remedy}")
        leaves = [arrays[name] for name in wanted]
        found: Checkpoint = jax.tree.unflatten(jax.tree.structure(like), leaves)
        if int(found.state.step) != step:
            raise InputError(f"{damaged} (it is of step {found.state.step}); {remedy}")
        return found


def _named(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns a checkpoint's arrays by their paths, in the tree's order."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(checkpoint)
    }


def _forms(arrays: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    return {name: (leaf.shape, np.dtype(leaf.dtype)) for name, leaf in arrays.items()}


@contextlib.contextmanager
def _orbax(problem: str, remedy: str) -> Iterator[None]:
    """Turns what orbax raises into one InputError line, and keeps its own reports to itself.

    An exception that a signal raises inside orbax would leave its threads at work, and Python might crash as
    it ends: signals are put off.
    """
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    with put_off():
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Its first argument, not itself: a KeyError shows itself in quotes.
            own = str(error.args[0]) if error.args else ""
            said = getattr(error, "strerror", None) or own or type(error).__name__
            reason = said.splitlines()[0]
            raise InputError(f"{problem} ({reason}); {remedy}") from error
        finally:
            logger.setLevel(level)
