"""The training of one run, from wherever its folder stands."""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from nullmark_jax import (
    batches,
    data,
    evaluation,
    losses,
    models,
    nullspace,
    optimizers,
    outcome,
    parallel,
    process,
    standardization,
    stopping,
    training,
)
from nullmark_jax import config as configs
from nullmark_jax.checkpoint import Checkpoint, Checkpoints
from nullmark_jax.folder import read_history, read_seconds, write_history, write_seconds
from nullmark_jax.marks import Marks, rising
from nullmark_jax.progress import Progress


def make_plan(
    config: ml_collections.ConfigDict,
    train_split: data.Dataset,
    num_marks: int,
    *,
    devices: int | None = None,
) -> Callable[[int], batches.Batch]:
    """Returns epoch -> its batches, the copies of each being of `num_marks` marks in turn.

    Args:
      config: of the run.
      train_split: what its training images are.
      num_marks: K.
      devices: that share a batch; None for all.

    Raises:
      InputError: the batch does not fit the data or the devices.
    """
    marked = (
        batches.marked_per_batch(config.loss.inject_ratio, config.batch_size)
        if config.watermark.num_watermarks
        else 0
    )
    devices = devices or parallel.device_count()
    parallel.check_divisible("config.batch_size", config.batch_size, devices)
    parallel.check_divisible("config.loss.inject_ratio * config.batch_size", marked, devices)
    num_images = len(train_split.labels)

    def plan(epoch: int) -> batches.Batch:
        return batches.epoch_batches(
            config.seed,
            epoch,
            num_images=num_images,
            batch_size=config.batch_size,
            marked=marked,
            num_watermarks=num_marks if config.watermark.num_watermarks else 0,
            augmentation=batches.Augmentation(**config.augmentation),
        )

    plan(1)  # Raises where the batch does not fit.
    return plan


def is_resident(config: ml_collections.ConfigDict, train_split: data.Dataset) -> bool:
    """Returns whether the training set is kept on the device; what lies in a file is read as it is wanted."""
    return train_split.mapped is None and train_split.images.nbytes <= config.resident_bytes


def train(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    splits: data.Splits,
    marks: Marks,
    plan: Callable[[int], batches.Batch],
    initial: models.Params,
) -> tuple[models.Params, list[dict[str, Any]], float]:
    """Trains to the last epoch from wherever the run folder stands, at first from `initial`.

    Returns:
      The network's final parameters; in the first process also the record of each epoch and the seconds
      that these took, over all starts of the run.

    Raises:
      InputError: the folder cannot be read or written.
      TrainingDiverged: the loss stopped being finite; the last good checkpoint is kept.
      Preempted: SIGTERM came; the state is in the folder.
    """
    steps = plan(1).index.shape[0]
    learning_rate = optimizers.learning_rate(configs.recipe(config), steps * config.epochs)
    model = models.create(config.model, config.data.num_classes, precision=config.precision)
    step, optimizer, project = make_step(config, model, steps, average=parallel.average)
    on_device = jax.tree.map(jnp.asarray, marks)
    projected = jax.jit(lambda params: project(params, on_device))
    resident = is_resident(config, splits.train)
    automatic = training.ACCELERATOR_STEPS if parallel.on_accelerator() else 1
    if not resident:  # Those of a dispatch are on the device then, and those of the next one.
        of_a_step = config.batch_size * math.prod(splits.train.images.shape[1:])
        automatic = max(1, min(automatic, config.resident_bytes // (2 * of_a_step)))
    validate = (
        evaluation.make_evaluator(models.apply_fn(model), splits.validation)
        if len(splits.validation.labels)
        else None
    )
    start = Checkpoint(training.init_state(initial, optimizer), no_metrics(steps))
    with contextlib.ExitStack() as stack:
        log = None
        with parallel.together():
            if parallel.is_first():
                checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints"))
                log = _Log(folder, steps, checkpoints)
        leaves, layout = jax.tree.flatten(start)
        found: Any = parallel.from_first(lambda: log.resume(start) if log else leaves)
        state, metrics = jax.tree.unflatten(layout, found)
        done_before, into = divmod(int(state.step), steps)
        progress = None
        if log:
            bar = Progress(total=steps * config.epochs, done=int(state.step))
            progress = stack.enter_context(bar)
        asked_to_stop = stack.enter_context(stopping.asked_to_stop())
        for done in training.fit(
            jax.tree.map(jnp.asarray, state),
            training.on_devices(
                step,
                steps_per_dispatch=config.steps_per_dispatch or automatic,
                resident=resident,
            ),
            splits.train.images,
            splits.train.labels,
            marks,
            plan=plan,
            first_epoch=done_before + 1,
            epochs=config.epochs,
            learning_rate=learning_rate,
            before=jax.tree.map(lambda field: field[:into], metrics) if into else None,
            on_step=progress.advance if progress else lambda steps: None,
            asked_to_stop=asked_to_stop,
        ):
            state = done.state
            measured = None
            if done.complete and validate:
                measured = validate(projected(state.params), marks)
            with parallel.together():
                if log:
                    record = log.write(done, measured)
                    if progress and record:
                        progress.note(record)
            if done.stopped:
                where = f"step {len(done.metrics.loss)} of {steps} of epoch {done.number}"
                raise stopping.Preempted(
                    f"terminated; the state after {where} is in {folder}: give the same command "
                    "again to go on"
                    if log
                    else ""
                )
            process.after_epoch(done.number - done_before)
        records, seconds = (log.records, log.seconds) if log else ([], 0.0)
    return projected(state.params), records, seconds


def no_metrics(steps: int) -> training.StepMetrics:
    """Returns the metrics [steps] of an epoch of which no step is done."""
    nothing: Any = np.zeros(steps, np.float32)
    return training.StepMetrics(nothing, losses.Terms(nothing, nothing, nothing), nothing)


class _Log:
    """What a training leaves in the run folder as it goes.

    Attributes:
      records: of each epoch that is done.
      seconds: what the training has taken, over all its starts.

    Args:
      folder: the run's.
      steps: of an epoch.
      checkpoints: the folder's.
    """

    def __init__(self, folder: pathlib.Path, steps: int, checkpoints: Checkpoints) -> None:
        self.records: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._folder, self._steps = folder, steps
        self._checkpoints = checkpoints
        self._started = time.monotonic()

    def resume(self, start: Checkpoint) -> list[Any]:
        """Returns the leaves of the checkpoint to go on from, `start` where there is none."""
        found = self._checkpoints.latest(start)
        step = int(found.state.step)
        self.records = read_history(self._folder, step // self._steps)
        self.seconds = read_seconds(self._folder, step)
        self._started -= self.seconds
        return [np.asarray(leaf) for leaf in jax.tree.leaves(found)]

    def write(self, done: training.Epoch, measured: Any) -> dict[str, Any] | None:
        """Writes a state, and of a complete epoch the record, which it returns."""
        record = None
        if done.complete:
            record = outcome.epoch_record(done.number, done.metrics, measured)
            self.records.append(record)
            write_history(self._folder, self.records)
        self.seconds = time.monotonic() - self._started
        write_seconds(self._folder, self.seconds)
        self._checkpoints.save(Checkpoint(done.state, under_way(done.metrics, self._steps)))
        return record


def under_way(done: training.StepMetrics, steps: int) -> training.StepMetrics:
    """Returns what a checkpoint has of an epoch's steps so far: [steps], nothing once all are done."""
    nothing = no_metrics(steps)
    if len(done.loss) == steps:
        return nothing
    return jax.tree.map(
        lambda values, empty: np.concatenate([values, empty[len(values) :]]), done, nothing
    )


def make_step(
    config: ml_collections.ConfigDict,
    model: models.ConvNet,
    steps: int,
    *,
    average: Callable[[Any], Any],
) -> tuple[training.TrainStep, optax.GradientTransformation, training.Project]:
    """Returns the training step that a config asks for, its optimiser, and its `project`.

    Args:
      config: of the run.
      model: its network.
      steps: in an epoch.
      average: over devices, as in `training.make_train_step`.
    """
    optimizer = optimizers.optimizer(configs.recipe(config), steps * config.epochs)
    project, marked_logits = parametrization(config, model)
    step = training.make_train_step(
        marked_logits=marked_logits,
        optimizer=optimizer,
        cross_entropy=losses.cross_entropy(config.loss.cross_entropy),
        true_weight=config.loss.true_weight,
        null_weight=config.loss.null_weight,
        project=project,
        marks_at=rising(config.curriculum.start, round(config.curriculum.epochs * steps)),
        augmentation=batches.Augmentation(**config.augmentation),
        average=average,
    )
    return step, optimizer, project


def parametrization(
    config: ml_collections.ConfigDict, model: models.ConvNet
) -> tuple[training.Project, training.MarkedLogits]:
    """Returns what makes the network's params out of the trained ones, and the network with copies.

    The params are standardised and projected as the config asks; the watermark-free twin's are
    standardised alone.
    """
    size = config.watermark.pattern_size
    projects = config.null_space and config.watermark.num_watermarks > 0
    into_null_space = nullspace.for_network(model, pattern_size=size) if projects else None

    def project(params: models.Params, marks: Any) -> models.Params:
        if config.weight_standardization:
            params = standardization.standardize(params, last=model.last_layer)
        return into_null_space(params, marks.pattern) if into_null_space else params

    on_copies = nullspace.hold_first_layer if projects else None
    return project, training.network_logits(model, pattern_size=size, on_copies=on_copies)
