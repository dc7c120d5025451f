"""One run: from a config to a run folder with a verified model. The shell around the pure core."""

import os
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
    claim,
    data,
    environment,
    evaluation,
    files,
    losses,
    models,
    nullspace,
    optimizers,
    outcome,
    parallel,
    process,
    standardization,
    training,
    transform,
)
from nullmark_jax import config as configs
from nullmark_jax.baselines.triggers import Triggers
from nullmark_jax.checkpoint import Checkpoints
from nullmark_jax.errors import InputError
from nullmark_jax.folder import (
    check_folder,
    check_initial,
    claim_folder,
    keep_initial,
    read_history,
    read_seconds,
    to_json,
    write_history,
    write_seconds,
)
from nullmark_jax.marks import Marks, count, rising
from nullmark_jax.owner import (
    check_suits,
    find_owner,
    keep_owner,
    named_key,
    owner_marks,
)
from nullmark_jax.progress import Progress
from nullmark_jax.reports import page, table

_VERDICTS = {
    True: "A model trained with its owner's watermark; the claim verifies.",
    False: "A model trained with its owner's watermark; the claim does NOT verify.",
    None: "A watermark-free model; null and true are of the watermark its owner would have embedded.",
}
_CAPTIONS = {
    "curves": "Accuracies on validation images, epoch by epoch.",
    "pattern": "The watermark's pattern.",
    "example": "A test image, and its null and its true copy.",
    "triggers": "The triggers, or images without and with the trigger, and the labels that they are to get.",
}


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, *, command: str = ""
) -> dict:
    """Trains a watermarked model, writes claim and model, verifies the claim from those files.

    Args:
      config: as `nullmark_jax.config.default` describes it.
      workdir: the run folder. A run that was interrupted there goes on, and ends with the same
        model, byte for byte; a finished one is evaluated again.
      command: what was run, for result.json.

    Returns:
      What result.json holds.

    Raises:
      InputError: the config, the data or the folder cannot be used; nothing was trained.
      TrainingDiverged: the loss stopped being finite; the last good checkpoint is kept.
    """
    configs.check(config)
    process.prepare()
    folder = pathlib.Path(workdir)
    splits = data.load(**data_arguments(config), seed=config.seed)
    key = named_key(config)
    check_suits(config, key)
    check_folder(folder, config)
    owner = find_owner(config, folder, key)
    marks = owner_marks(config, owner)
    check_labels(splits, marks)
    plan = make_plan(config, splits.train, count(marks))
    initial, initial_digest = initial_params(config)
    check_initial(folder, initial_digest)
    claim_folder(folder, config)
    keep_initial(folder, initial_digest)
    keep_owner(config, folder, owner)
    embeds = config.watermark.num_watermarks > 0
    if embeds and isinstance(marks, Triggers) and config.watermark.scheme == "adi":
        outcome.write_commitments(config, folder, owner, marks)
    # Before the training, which the source tree may not wait for.
    where = environment.describe(command)
    params, history, seconds = train(config, folder, splits, marks, plan, initial)

    model = models.create(config.model, config.data.num_classes, precision=config.precision)
    test = evaluation.make_evaluator(models.apply_fn(model), splits.test)(params, marks)
    digest = claim.write_model(
        folder / "model.safetensors",
        params,
        model=config.model,
        input_shape=tuple(config.data.input_shape),
        num_classes=config.data.num_classes,
    )
    verified = None
    if config.watermark.num_watermarks:
        if config.watermark.scheme in transform.SCHEMES:
            outcome.write_claim(config, folder, owner, digest)
        verified = outcome.verify_folder(config, folder, owner, marks, splits.test)
    outcome.draw(folder, history, splits.test, marks, config)
    metrics = outcome.summary(test, verified, config.watermark.scheme)
    if initial_digest:
        metrics["initial_model_sha256"] = initial_digest
    result = {
        "experiment": "train",
        "task": config.task,
        "seed": config.seed,
        "metrics": metrics,
        "paper": outcome.paper_figures(config),
        "environment": where,
        "seconds": round(seconds, 1),
    }
    files.write_whole(folder / "result.json", to_json(result))
    page.write_page(
        folder,
        title=f"Training: {config.task}",
        lead=_VERDICTS[result["metrics"]["verified"]],
        tables=[table.accuracies_table(result)],
        captions=_CAPTIONS,
        result=result,
    )
    return result


def data_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns what `data.load` and `data.load_test` take, out of a config."""
    return config.data.to_dict()


def check_labels(splits: data.Splits, marks: Marks) -> None:
    """Raises InputError where a mark's label is that of all images it is measured on."""
    for name, split in (("validation", splits.validation), ("test", splits.test)):
        classes = np.unique(split.labels)
        if len(classes) == 1 and classes[0] in marks.target_label:
            raise InputError(
                f"config.data: every {name} image is of class {classes[0]}, a watermark's own "
                "label, which leaves its true accuracy undefined; give images of other classes too"
            )


def make_plan(
    config: ml_collections.ConfigDict, train_split: data.Dataset, num_marks: int
) -> Callable[[int], batches.Batch]:
    """Returns epoch -> its batches, the copies of each being of `num_marks` marks in turn.

    Raises:
      InputError: the batch does not fit the data or the devices, or a scan lacks its data.
    """
    marked = (
        batches.marked_per_batch(config.loss.inject_ratio, config.batch_size)
        if config.watermark.num_watermarks
        else 0
    )
    devices = parallel.device_count()
    parallel.check_divisible("config.batch_size", config.batch_size, devices)
    parallel.check_divisible("config.loss.inject_ratio * config.batch_size", marked, devices)
    if config.steps_per_dispatch > 1 and not is_resident(config, train_split):
        raise InputError(
            f"config.steps_per_dispatch: {config.steps_per_dispatch} needs the training set on the "
            f"device; give 1, or config.resident_bytes={train_split.images.nbytes}"
        )

    def plan(epoch: int) -> batches.Batch:
        return batches.epoch_batches(
            config.seed,
            epoch,
            num_images=len(train_split.labels),
            batch_size=config.batch_size,
            marked=marked,
            num_watermarks=num_marks if config.watermark.num_watermarks else 0,
            augmentation=batches.Augmentation(**config.augmentation),
        )

    plan(1)  # Raises where the batch does not fit.
    return plan


def initial_params(config: ml_collections.ConfigDict) -> tuple[models.Params, str]:
    """Returns the parameters that training starts from: random ones, or those of a finished run's model.

    Returns:
      The parameters; the SHA-256 of the model's file, "" of random ones.

    Raises:
      InputError: the model cannot be read, or is of another network.
    """
    shape, num_classes = tuple(config.data.input_shape), config.data.num_classes
    if not config.initial_model:
        model = models.create(config.model, num_classes, precision=config.precision)
        return models.init_params(model, jax.random.key(config.seed), shape), ""
    try:
        digest = claim.model_digest(config.initial_model)
        params = claim.read_model(
            config.initial_model,
            model=config.model,
            input_shape=shape,
            num_classes=num_classes,
            expected_shapes=models.parameter_shapes(config.model, shape, num_classes),
            expected_sha256=digest,
        )
    except InputError as error:
        raise InputError(f"config.initial_model: {error}") from error
    return jax.tree.map(jnp.asarray, params), digest


def is_resident(config: ml_collections.ConfigDict, train_split: data.Dataset) -> bool:
    """Returns whether the training set is kept on the device."""
    return train_split.images.nbytes <= config.resident_bytes


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
      The network's final parameters, the record of each epoch, and the seconds that these took,
      over all starts of the run.
    """
    started = time.monotonic()
    steps = plan(1).index.shape[0]
    learning_rate = optimizers.learning_rate(configs.recipe(config), steps * config.epochs)
    model = models.create(config.model, config.data.num_classes, precision=config.precision)
    apply_fn = models.apply_fn(model)
    step, optimizer, project = make_step(config, model, steps, average=parallel.average)
    on_device = jax.tree.map(jnp.asarray, marks)
    projected = jax.jit(lambda params: project(params, on_device))
    resident = is_resident(config, splits.train)
    automatic = training.ACCELERATOR_STEPS if parallel.on_accelerator() and resident else 1
    validate = (
        evaluation.make_evaluator(apply_fn, splits.validation)
        if len(splits.validation.labels)
        else None
    )
    with Checkpoints(folder / "checkpoints") as checkpoints:
        epoch, state = checkpoints.latest(training.init_state(initial, optimizer))
        records = read_history(folder, epoch)
        seconds = spent = read_seconds(folder, epoch)
        with Progress(total=steps * config.epochs, done=steps * epoch) as progress:
            for done in training.fit(
                state,
                training.on_devices(
                    step,
                    steps_per_dispatch=config.steps_per_dispatch or automatic,
                    resident=resident,
                ),
                splits.train.images,
                splits.train.labels,
                marks,
                plan=plan,
                first_epoch=epoch + 1,
                epochs=config.epochs,
                learning_rate=learning_rate,
                on_step=progress.advance,
            ):
                state = done.state
                measured = validate(projected(state.params), marks) if validate else None
                record = outcome.epoch_record(done, measured)
                records.append(record)
                write_history(folder, records)
                seconds = spent + time.monotonic() - started
                write_seconds(folder, seconds)
                checkpoints.save(done.number, done.state)
                progress.note(record)
    return projected(state.params), records, seconds


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
