"""Many small models trained at once: a population, dealt over the devices and vectorised on each.

One of the papers' nets does not fill a GPU, and a batch of 64 images divides badly among many devices.
A hundred pirates, or the seeds of a sweep, divide well: each device has members of its own, and there
is nothing to average. Members share the data set and the step, and differ in their states, marks and
batches. `parallel` has the other way, one model whose batch is shared.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from nullmark_jax import parallel
from nullmark_jax.batches import Batch
from nullmark_jax.marks import Marks
from nullmark_jax.models import Params
from nullmark_jax.training import (
    ACCELERATOR_STEPS,
    StepMetrics,
    TrainState,
    TrainStep,
    dispatches,
    merge,
    scan_steps,
)

Tree = TypeVar("Tree")

# Members that a device trains at once. On a CPU the convolutions of several nets in one program are
# slower than one net after another (benchmarks/populations.py).
_ON_ACCELERATOR, _ON_CPU = 25, 1


class Part(NamedTuple):
    """What `fit` yields: the params after some steps and each step's metrics.

    Attributes:
      params: with a leading axis of members, on the host.
      metrics: NumPy arrays [members, steps], of the part's steps so far.
      state: returns the whole state, likewise on the host; until the next part is asked for.
      stopped: whether `fit` was asked to stop and ends here, be the part complete or not.
    """

    params: Params
    metrics: StepMetrics
    state: Callable[[], TrainState]
    stopped: bool = False


def at_once() -> int:
    """Returns how many members all local devices train at once."""
    return parallel.local_device_count() * (
        _ON_ACCELERATOR if parallel.on_accelerator() else _ON_CPU
    )


def stack(trees: Sequence[Tree]) -> Tree:
    """Returns pytrees of one structure as one, each leaf with a leading axis of members, on the host."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def member(tree: Tree, index: int) -> Tree:
    """Returns one member of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def on_devices(step: TrainStep) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Returns the step of a population on all local devices, for `fit`.

    It is compiled at its first call, once for all populations of one size.

    Args:
      step: made by `training.make_train_step`, without an average.
    """
    together = jax.vmap(step, in_axes=(0, None, None, 0, 0))
    scanned = scan_steps(together) if parallel.on_accelerator() else together
    return parallel.pmap_members(scanned, dealt=(True, False, False, True, True), donate=(0,))


def fit(
    states: TrainState,
    run: Callable[..., tuple[TrainState, StepMetrics]],
    images: np.ndarray,
    labels: np.ndarray,
    marks: Marks,
    *,
    plan: Callable[[int], Batch],
    parts: int,
    first: int = 1,
    before: StepMetrics | None = None,
    asked_to_stop: Callable[[int], bool] = lambda step: False,
) -> Iterator[Part]:
    """Trains a population; yields after each part.

    A member's ruin is its own: its loss and params are not a number, and the others go on. Stopped, and gone
    on with from the state yielded, it ends with the same bytes.

    Args:
      states: with a leading axis of members, >= 1.
      run: made by `on_devices`.
      images: uint8 [N, H, W, C], the data set that all members take their batches from.
      labels: int32 [N].
      marks: [members, K, ...], a population of marks for each member.
      plan: part -> its batches, leaves [members, steps, ...].
      parts: the last one.
      first: the part to begin with.
      before: the metrics [members, steps] of the first steps of that part, which the states have behind
        them; None where they have none.
      asked_to_stop: steps done since the call -> whether to stop; asked after each dispatch.
    """
    members, steps = len(states.step), 0
    state, own_marks = parallel.place_members((states, marks))
    images, labels = parallel.replicate((images, labels))
    size = ACCELERATOR_STEPS if parallel.on_accelerator() else 1
    for part in range(first, parts + 1):
        into = before.loss.shape[1] if before is not None else 0
        # Steps first, so that they are cut into dispatches; then devices first, as pmap takes them.
        by_step = jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, 1), plan(part))
        by_step = jax.tree.map(lambda leaf, into=into: leaf[into:], by_step)
        done: list[StepMetrics] = []
        stopped = False
        for batches in dispatches(by_step, size):
            dealt = parallel.deal_members(batches, axis=int(size > 1))
            state, metrics = run(state, images, labels, dealt, own_marks)
            done.append(metrics)
            steps += size
            stopped = asked_to_stop(steps)
            if stopped:
                break
        gathered = [_by_member(each, members, scanned=size > 1) for each in done]
        if before is not None:
            gathered.insert(0, before)
        yield Part(
            parallel.gather_members(state.params, members),
            merge(gathered, axis=1),
            partial(parallel.gather_members, state, members),
            stopped,
        )
        if stopped:
            return
        before = None


def _by_member(metrics: StepMetrics, members: int, *, scanned: bool) -> StepMetrics:
    """Returns a dispatch's metrics as [members, steps]."""

    def one(leaf: jax.Array) -> np.ndarray:
        array = np.asarray(leaf)  # [devices, (steps,) members of a device]
        array = np.moveaxis(array, 1, 2) if scanned else array[..., None]
        return array.reshape(-1, array.shape[-1])[:members]

    return jax.tree.map(one, metrics)
