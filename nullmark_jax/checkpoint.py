"""Checkpoints of a training run (orbax), one an epoch, whole or absent whatever interrupts."""

import pathlib
from types import TracebackType

import jax
import numpy as np
import orbax.checkpoint as ocp

from nullmark_jax.training import TrainState

_KEPT = 2


class Checkpoints:
    """The checkpoints of one run folder; a context manager that waits for what is being written.

    Orbax writes a checkpoint to a temporary folder and renames it, so a run killed while it writes
    finds the one before.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()

    def save(self, epoch: int, state: TrainState) -> None:
        """Writes the state after `epoch` epochs; returns when it is on the disk."""
        # Host arrays: the file is the same whatever devices trained it.
        self._manager.save(epoch, args=ocp.args.StandardSave(jax.tree.map(np.asarray, state)))
        self._manager.wait_until_finished()

    def latest(self, like: TrainState) -> tuple[int, TrainState]:
        """Returns the last epoch saved and its state; (0, `like`) where there is none.

        Args:
          like: a state of the same shapes and dtypes.
        """
        epoch = self._manager.latest_step()
        if epoch is None:
            return 0, like
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
        restored = self._manager.restore(epoch, args=ocp.args.StandardRestore(shapes))
        return epoch, jax.tree.map(jax.numpy.asarray, restored)
