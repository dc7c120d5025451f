"""The training state and the pure training step; `fit` runs it over epochs."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from nullmark_jax import incremental, parallel
from nullmark_jax.baselines.triggers import Triggers
from nullmark_jax.batches import Augmentation, Batch, augment, pick
from nullmark_jax.embedding import scale_pixels
from nullmark_jax.errors import TrainingDiverged
from nullmark_jax.losses import CrossEntropy, Logits, Terms, objective, objective_terms
from nullmark_jax.marks import Marks, mark_batch
from nullmark_jax.models import ApplyFn, ConvNet, Params
from nullmark_jax.models import apply_fn as apply_fn_of

# (params, images, marks, which) -> logits.
MarkedLogits = Callable[[Params, jax.Array, Any, jax.Array], Logits]
# (params, marks) -> the params that the network runs with.
Project = Callable[[Params, Any], Params]

# Steps in one dispatch where a scan over them pays.
ACCELERATOR_STEPS = 50


class TrainState(NamedTuple):
    """All that training carries from step to step; a pytree.

    Attributes:
      step: steps done, int32 [].
      params: the network's parameters.
      opt_state: the optimiser's state.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState


class StepMetrics(NamedTuple):
    """One step's loss, its three terms, and the gradient's global norm before clipping.

    Of an attack on some layers alone it is those layers' gradient.
    """

    loss: Float[Array, ""]
    terms: Terms
    gradient_norm: Float[Array, ""]


TrainStep = Callable[
    [TrainState, jax.Array, jax.Array, Batch, Marks], tuple[TrainState, StepMetrics]
]


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step."""
    # Compiled: one program for an optimiser's zeros rather than one for each shape of them.
    return TrainState(jnp.zeros((), jnp.int32), params, jax.jit(optimizer.init)(params))


def concatenated_logits(apply_fn: ApplyFn) -> MarkedLogits:
    """Returns (params, images, marks, which) -> Logits of any network.

    The images and the marked copies of the first len(which) of them go through `apply_fn` as one batch.
    """

    def marked_logits(params: Params, images: jax.Array, marks: Marks, which: jax.Array) -> Logits:
        marked = which.shape[0]
        if marked == 0:
            logits = apply_fn(params, images)
            return Logits(logits, logits[:0], logits[:0])
        null, true = mark_batch(images[:marked], marks, which)
        logits = apply_fn(params, jnp.concatenate([images, null, true]))
        batch, copies = images.shape[0], images.shape[0] + null.shape[0]
        return Logits(logits[:batch], logits[batch:copies], logits[copies:])

    return marked_logits


def network_logits(
    model: ConvNet,
    *,
    pattern_size: int,
    on_copies: Callable[[Params], Params] | None = None,
) -> MarkedLogits:
    """Returns (params, images, marks, which) -> Logits of one of the papers' networks, the fast way.

    With watermarks that is `incremental.for_network`, whose arguments these are; with triggers, which
    change all of an image, `concatenated_logits`.
    """
    of_watermarks = incremental.for_network(model, pattern_size=pattern_size, on_copies=on_copies)
    of_triggers = concatenated_logits(apply_fn_of(model))

    def marked_logits(params: Params, images: jax.Array, marks: Marks, which: jax.Array) -> Logits:
        if isinstance(marks, Triggers):
            return of_triggers(params, images, marks, which)
        return of_watermarks(params, images, marks, which)

    return marked_logits


_AS_THEY_ARE = Augmentation()


def make_train_step(
    *,
    marked_logits: MarkedLogits,
    optimizer: optax.GradientTransformation,
    cross_entropy: CrossEntropy,
    true_weight: float,
    null_weight: float,
    project: Project = lambda params, marks: params,
    marks_at: Callable[[jax.Array, Any], Any] = lambda step, marks: marks,
    as_input: Callable[[jax.Array], jax.Array] = scale_pixels,
    augmentation: Augmentation = _AS_THEY_ARE,
    average: Callable[[Any], Any] = lambda tree: tree,
) -> TrainStep:
    """Returns the pure step (state, images, labels, batch, marks) -> (state, metrics).

    Args:
      marked_logits: the network, as `concatenated_logits` makes it.
      optimizer: optax.
      cross_entropy: (logits, labels) -> one loss per image.
      true_weight: alpha.
      null_weight: beta.
      project: (params, marks) -> the params that the network runs with, by `nullspace.for_network` (which
        wants a `marked_logits` that holds the first layer) and `standardization`; gradients go through it.
      marks_at: (step, marks) -> those of that step, as `marks.rising` makes it.
      as_input: (rows picked of the images, of their dtype) -> what the network takes, float32 [batch, H, W,
        C].
      augmentation: applied to that before it is marked.
      average: over devices; the identity for one device.

    The step takes images [N, H, W, C], uint8 but for another `as_input`, and labels [N], of which it uses the
    rows `batch.index`, and a population of marks (leading axis K >= 1).
    """

    def loss(
        params: Params,
        images: jax.Array,
        labels: jax.Array,
        batch: Batch,
        marks: Marks,
    ) -> tuple[jax.Array, Terms]:
        params = project(params, marks)
        logits = marked_logits(params, images, marks, batch.which)
        targets = marks.target_label[batch.which]
        terms = objective_terms(logits, labels, targets, cross_entropy)
        return objective(terms, true_weight=true_weight, null_weight=null_weight), terms

    def step(
        state: TrainState,
        images: jax.Array,
        labels: jax.Array,
        batch: Batch,
        marks: Marks,
    ) -> tuple[TrainState, StepMetrics]:
        picked, labels = pick(images, labels, batch.index)
        seen = augment(as_input(picked), batch.shift, batch.flip, augmentation)
        (value, terms), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.params, seen, labels, batch, marks_at(state.step, marks)
        )
        value, terms, gradient = average((value, terms, gradient))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = StepMetrics(value, terms, optax.tree.norm(gradient))
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def scan_steps(step: TrainStep) -> TrainStep:
    """Returns the step for `Batch`es with a leading axis of steps, one scan, one dispatch.

    For accelerators: on XLA:CPU a convolution inside a scan is tens of times slower.
    """

    def steps(
        state: TrainState,
        images: jax.Array,
        labels: jax.Array,
        batches: Batch,
        marks: Marks,
    ) -> tuple[TrainState, StepMetrics]:
        return jax.lax.scan(
            lambda carry, batch: step(carry, images, labels, batch, marks), state, batches
        )

    return steps


class DeviceStep(NamedTuple):
    """A training step on all local devices, and how `fit` feeds it.

    It is compiled at its first call, once for however many trainings use it.

    Attributes:
      run: the step, given what `fit` gives it.
      steps_per_dispatch: steps in one call of the device.
      resident: whether the whole data set is kept on the device.
    """

    run: Callable[..., tuple[TrainState, StepMetrics]]
    steps_per_dispatch: int
    resident: bool


def on_devices(
    step: TrainStep, *, steps_per_dispatch: int = 1, resident: bool = True
) -> DeviceStep:
    """Returns the step on all local devices.

    Args:
      step: made by `make_train_step` with `average=parallel.average`.
      steps_per_dispatch: steps in one call of the device; above 1 they are scanned over, which pays
        on accelerators.
      resident: keep the whole data set on the device; otherwise each dispatch's images are picked on
        the host, of its own devices' shares alone, one dispatch ahead of them.
    """
    scanned = steps_per_dispatch > 1
    run = parallel.pmap_shares(
        scan_steps(step) if scanned else step,
        cut=(False, not resident, not resident, True, False),
        donate=(0,),
    )
    return DeviceStep(run, steps_per_dispatch, resident)


class Epoch(NamedTuple):
    """What `fit` yields after each epoch, and where it stops.

    Attributes:
      number: from 1.
      state: after the epoch's last step, or the last one before the stop.
      metrics: each step's so far, NumPy arrays [steps done of the epoch].
      complete: whether all steps of the epoch are done.
      stopped: whether `fit` was asked to stop, and ends with this.
    """

    number: int
    state: TrainState
    metrics: StepMetrics
    complete: bool = True
    stopped: bool = False


def fit(
    state: TrainState,
    step: DeviceStep,
    images: Any,
    labels: np.ndarray,
    marks: Marks,
    *,
    plan: Callable[[int], Batch],
    first_epoch: int,
    epochs: int,
    learning_rate: optax.Schedule = lambda step: math.nan,
    before: StepMetrics | None = None,
    stop_where_diverged: bool = True,
    on_step: Callable[[int], object] = lambda steps: None,
    asked_to_stop: Callable[[int], bool] = lambda step: False,
    lost: Callable[[Params], bool] = lambda params: False,
) -> Iterator[Epoch]:
    """Trains on all devices; yields after each epoch from `first_epoch` (1 is the first) on.

    Args:
      state: as after `first_epoch - 1` epochs and the steps of `before`. Its memory is given to the next
        state.
      step: made by `on_devices`.
      images: [N, H, W, C] as the step takes them, uint8 most often, on the host; of a set that is not
        resident only the rows that are wanted are read, and `data.mapped.MappedImages` will do.
      labels: int32 [N].
      marks: a population (leading axis K >= 1).
      plan: epoch -> its batches (`epoch_batches`).
      epochs: the last epoch's number.
      learning_rate: for the message when the loss stops being finite.
      before: the metrics of those steps of the first epoch that are done already, at whose end a dispatch
        ended.
      stop_where_diverged: False for an attacker, whose ruined model is a result like another.
      on_step: told after each dispatch how many steps it ran (progress).
      asked_to_stop: told after each dispatch how many steps of the first to the last epoch are done;
        returns whether to stop there.
      lost: told the params every so many dispatches; returns whether to stop there, as of a model that no
        step can change any more.

    Raises:
      TrainingDiverged: a loss or a gradient was not finite; says at which epoch, step and learning
        rate.
    """
    devices = parallel.device_count()
    run, steps_per_dispatch, resident = step
    stopped = False
    scanned = steps_per_dispatch > 1
    if resident:
        images, labels = parallel.replicate((images, labels))
    # Laid out as steps return it: of a state that is not, the first step would be compiled for itself.
    state, marks = parallel.replicate((state, marks))

    def prepare(part: Batch) -> tuple[Any, Any, Batch]:
        part = parallel.share(part, devices, axis=int(scanned))
        if resident:
            return images, labels, part
        # Of each device the images of all steps of the dispatch, one behind the other.
        picked = part.index.reshape(len(part.index), -1)
        each = np.arange(picked.shape[1], dtype=np.int32).reshape(part.index.shape[1:])
        rows: Any = np.broadcast_to(each, part.index.shape)
        return images[picked], labels[picked], part._replace(index=rows)

    for epoch in range(first_epoch, epochs + 1):
        batches = plan(epoch)
        steps = len(batches.index)
        done = [] if before is None else [before]
        at = 0 if before is None else len(before.loss)
        before = None
        running: list[StepMetrics] = []
        parts = list(
            dispatches(jax.tree.map(lambda rows, at=at: rows[at:], batches), steps_per_dispatch)
        )
        with ThreadPoolExecutor(max_workers=1) as host:
            ahead = host.submit(prepare, parts[0])
            for i, part in enumerate(parts, start=1):
                pictures, answers, batch = ahead.result()
                if i < len(parts):
                    ahead = host.submit(prepare, parts[i])
                state, metrics = run(state, pictures, answers, batch, marks)
                running.append(metrics)
                of_dispatch = part.index.shape[0] if scanned else 1
                at += of_dispatch
                stopped = asked_to_stop((epoch - 1) * steps + at)
                # Reading a loss waits for the device, so that dispatches run ahead in between.
                if i % _CHECK_EVERY == 0 or i == len(parts) or stopped:
                    done.append(merge(running))
                    running = []
                    if stop_where_diverged:
                        why = divergence(merge(done), epoch, steps, learning_rate)
                        if why:
                            raise TrainingDiverged(f"{why}; the last good checkpoint is kept")
                    stopped = stopped or lost(state.params)
                on_step(of_dispatch)
                if stopped:
                    break
        yield Epoch(epoch, state, merge(done), at == steps, stopped)
        if stopped:
            return


_CHECK_EVERY = 16


def dispatches(batches: Batch, size: int) -> Iterator[Batch]:
    """Yields the batches of an axis of steps in runs of `size`; of 1, each alone and without that axis."""
    steps = batches.index.shape[0]
    for start in range(0, steps, size):
        at = start if size == 1 else slice(start, start + size)
        yield jax.tree.map(lambda array, at=at: array[at], batches)


def merge(metrics: list[StepMetrics], axis: int = 0) -> StepMetrics:
    """Returns the metrics of several dispatches as one, NumPy arrays, joined along the axis of steps."""
    return jax.tree.map(lambda *m: np.concatenate([np.atleast_1d(x) for x in m], axis), *metrics)


def divergence(metrics: StepMetrics, epoch: int, steps: int, learning_rate: optax.Schedule) -> str:
    """Returns at which step of an epoch loss or gradient were not finite, and what to try; "" at none.

    Args:
      metrics: of the epoch's steps so far, NumPy arrays.
      epoch: its number, from 1.
      steps: of a whole epoch.
      learning_rate: of a step, counted from 0 over all epochs.
    """
    finite = np.isfinite(metrics.loss) & np.isfinite(metrics.gradient_norm)
    if finite.all():
        return ""
    step = int(np.argmin(finite))
    rate = float(learning_rate((epoch - 1) * steps + step))
    return (
        f"the loss became {metrics.loss[step]}, its gradient's norm {metrics.gradient_norm[step]}, "
        f"at epoch {epoch}, step {step + 1}, learning rate {rate:.3g}: try a lower "
        "config.optimizer.learning_rate, config.optimizer.clip_norm=1 or a longer "
        "config.optimizer.warmup_steps"
    )
