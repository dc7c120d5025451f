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

from nullmark_jax import (
    batches,
    claim,
    data,
    environment,
    evaluation,
    files,
    incremental,
    losses,
    models,
    nullspace,
    optimizers,
    parallel,
    process,
    standardization,
    training,
    verification,
)
from nullmark_jax import config as configs
from nullmark_jax.checkpoint import Checkpoints
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
from nullmark_jax.folder import (
    check_folder,
    claim_folder,
    read_history,
    read_seconds,
    to_json,
    write_history,
    write_seconds,
)
from nullmark_jax.metrics import Counts
from nullmark_jax.owner import (
    Owner,
    check_suits,
    find_owner,
    keep_owner,
    named_key,
    owner_watermarks,
)
from nullmark_jax.progress import Progress
from nullmark_jax.reports import figures, page, table

_VERDICTS = {
    True: "A model trained with its owner's watermark; the claim verifies.",
    False: "A model trained with its owner's watermark; the claim does NOT verify.",
    None: "A watermark-free model; null and true are of the watermark its owner would have embedded.",
}
_CAPTIONS = {
    "curves": "Accuracies on validation images, epoch by epoch.",
    "pattern": "The watermark's pattern.",
    "example": "A test image, and its null and its true copy.",
}


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict:
    """Trains a watermarked model, writes claim and model, verifies the claim from those files.

    Args:
      config: as `nullmark_jax.config.default` describes it.
      workdir: the run folder. A run that was interrupted there goes on, and ends with the same
        model, byte for byte; a finished one is evaluated again.

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
    plan = make_plan(config, splits.train)
    key = named_key(config)
    check_suits(config, key)
    check_folder(folder, config)
    owner = find_owner(config, folder, key)
    watermarks = owner_watermarks(config, owner)
    check_labels(splits, watermarks)
    claim_folder(folder, config)
    keep_owner(config, folder, owner)
    # Before the training, which the source tree may not wait for.
    where = environment.describe("nullmark_jax.main")
    params, history, seconds = train(config, folder, splits, watermarks, plan)

    model = models.create(config.model, config.data.num_classes, precision=config.precision)
    test = evaluation.make_evaluator(models.apply_fn(model), splits.test)(params, watermarks)
    digest = claim.write_model(
        folder / "model.safetensors",
        params,
        model=config.model,
        input_shape=tuple(config.data.input_shape),
        num_classes=config.data.num_classes,
    )
    verified = None
    if config.watermark.num_watermarks:
        write_claim(config, folder, owner, digest)
        verified = verify_folder(config, folder, splits.test)
    draw(folder, history, splits.test, watermarks, config)
    result = {
        "experiment": "train",
        "task": config.task,
        "seed": config.seed,
        "metrics": summary(test, verified, config.watermark.scheme),
        "paper": paper_figures(config),
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


def check_labels(splits: data.Splits, watermarks: Watermark) -> None:
    """Raises InputError where a watermark's label is that of all images it is measured on."""
    for name, split in (("validation", splits.validation), ("test", splits.test)):
        classes = np.unique(split.labels)
        if len(classes) == 1 and classes[0] in watermarks.target_label:
            raise InputError(
                f"config.data: every {name} image is of class {classes[0]}, a watermark's own "
                "label, which leaves its true accuracy undefined; give images of other classes too"
            )


def make_plan(
    config: ml_collections.ConfigDict, train_split: data.Dataset
) -> Callable[[int], batches.Batch]:
    """Returns epoch -> its batches.

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
            num_watermarks=config.watermark.num_watermarks,
            augmentation=batches.Augmentation(**config.augmentation),
        )

    plan(1)  # Raises where the batch does not fit.
    return plan


def is_resident(config: ml_collections.ConfigDict, train_split: data.Dataset) -> bool:
    """Returns whether the training set is kept on the device."""
    return train_split.images.nbytes <= config.resident_bytes


def train(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    splits: data.Splits,
    watermarks: Watermark,
    plan: Callable[[int], batches.Batch],
) -> tuple[models.Params, list[dict[str, Any]], float]:
    """Trains to the last epoch from wherever the run folder stands.

    Returns:
      The network's final parameters, the record of each epoch, and the seconds that these took,
      over all starts of the run.
    """
    started = time.monotonic()
    steps = plan(1).index.shape[0]
    recipe = configs.recipe(config)
    optimizer = optimizers.optimizer(recipe, steps * config.epochs)
    learning_rate = optimizers.learning_rate(recipe, steps * config.epochs)
    model = models.create(config.model, config.data.num_classes, precision=config.precision)
    apply_fn = models.apply_fn(model)
    project, marked_logits = parametrization(config, model)
    step = training.make_train_step(
        marked_logits=marked_logits,
        optimizer=optimizer,
        cross_entropy=losses.cross_entropy(config.loss.cross_entropy),
        true_weight=config.loss.true_weight,
        null_weight=config.loss.null_weight,
        project=project,
        extreme_value=optimizers.rising_extreme_value(
            config.curriculum.start, round(config.curriculum.epochs * steps)
        ),
        augmentation=batches.Augmentation(**config.augmentation),
        average=parallel.average,
    )
    params = models.init_params(model, jax.random.key(config.seed), tuple(config.data.input_shape))
    patterns = jnp.asarray(watermarks.pattern)
    projected = jax.jit(lambda params: project(params, patterns))
    resident = is_resident(config, splits.train)
    automatic = training.ACCELERATOR_STEPS if parallel.on_accelerator() and resident else 1
    validate = (
        evaluation.make_evaluator(apply_fn, splits.validation)
        if len(splits.validation.labels)
        else None
    )
    with Checkpoints(folder / "checkpoints") as checkpoints:
        epoch, state = checkpoints.latest(training.init_state(params, optimizer))
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
                watermarks,
                plan=plan,
                first_epoch=epoch + 1,
                epochs=config.epochs,
                learning_rate=learning_rate,
                on_step=progress.advance,
            ):
                state = done.state
                measured = validate(projected(state.params), watermarks) if validate else None
                record = epoch_record(done, measured)
                records.append(record)
                write_history(folder, records)
                seconds = spent + time.monotonic() - started
                write_seconds(folder, seconds)
                checkpoints.save(done.number, done.state)
                progress.note(record)
    return projected(state.params), records, seconds


def parametrization(
    config: ml_collections.ConfigDict, model: models.ConvNet
) -> tuple[nullspace.Project, training.MarkedLogits]:
    """Returns what makes the network's params out of the trained ones, and the network with copies.

    The params are standardised and projected as the config asks; the watermark-free twin's are
    standardised alone.
    """
    size = config.watermark.pattern_size
    projects = config.null_space and config.watermark.num_watermarks > 0
    into_null_space = nullspace.for_network(model, pattern_size=size) if projects else None

    def project(params: models.Params, patterns: jax.Array) -> models.Params:
        if config.weight_standardization:
            params = standardization.standardize(params, last=model.last_layer)
        return into_null_space(params, patterns) if into_null_space else params

    on_copies = nullspace.hold_first_layer if projects else None
    return project, incremental.for_network(model, pattern_size=size, on_copies=on_copies)


def epoch_record(epoch: training.Epoch, validation: Counts | None) -> dict[str, Any]:
    """Returns an epoch's line of metrics.jsonl: mean losses, and accuracies on validation images.

    Of several watermarks it gives the lowest accuracies.
    """
    terms = epoch.metrics.terms
    record: dict[str, Any] = {
        "epoch": epoch.number,
        "loss": float(np.mean(epoch.metrics.loss)),
        "clean_loss": float(np.mean(terms.clean)),
        "null_loss": float(np.mean(terms.null)),
        "true_loss": float(np.mean(terms.true)),
        "gradient_norm": float(np.median(epoch.metrics.gradient_norm)),
    }
    if validation is not None:
        record |= {
            "normal_accuracy": float(validation.normal_accuracy[0]),
            "null_accuracy": float(validation.null_accuracy.min()),
            "true_accuracy": float(validation.true_accuracy.min()),
        }
    return record


def write_claim(
    config: ml_collections.ConfigDict, folder: pathlib.Path, owner: Owner, model_sha256: str
) -> None:
    """Writes claim.json for the watermark of index 0.

    All indices come from one signature, so handing in the claim reveals them all; watermarks that
    are to stay hidden (later paper, section 6.3) need signatures of their own.
    """
    made = claim.claim_for(
        owner.key,
        owner=owner.name,
        timestamp=owner.timestamp,
        scheme=config.watermark.scheme,
        pattern_size=config.watermark.pattern_size,
        extreme_value=config.watermark.extreme_value,
        input_shape=tuple(config.data.input_shape),
        num_classes=config.data.num_classes,
        model_sha256=model_sha256,
    )
    claim.write_claim(folder / "claim.json", made)


def verify_folder(
    config: ml_collections.ConfigDict, folder: pathlib.Path, test: data.Dataset
) -> verification.Verification:
    """Verifies the run's claim as an authority would: from the two written files."""
    made = claim.read_claim(folder / "claim.json")
    params = claim.read_model(
        folder / "model.safetensors",
        model=config.model,
        input_shape=tuple(config.data.input_shape),
        num_classes=config.data.num_classes,
        expected_shapes=models.parameter_shapes(
            config.model, tuple(config.data.input_shape), config.data.num_classes
        ),
        expected_sha256=made.model_sha256,
    )
    predict = models.predictor(
        config.model, params, config.data.num_classes, precision=config.precision
    )
    return verification.verify(
        predict, made, test.images, test.labels, threshold=config.watermark.threshold
    )


def summary(
    test: Counts, verified: verification.Verification | None, scheme: str
) -> dict[str, Any]:
    """Returns result.json's `metrics`: accuracies on the test split with exact 95% intervals.

    `watermark_accuracy` is watermark 0's, the lower of true and null (of true and the null
    agreement for wonder-filter); `each_null_accuracy` and `each_true_accuracy` are every one's.
    """
    first = jax.tree.map(lambda field: int(field[0]), test)
    pairs = {
        "normal_accuracy": (first.correct, first.images),
        "null_accuracy": (first.null, first.images),
        "true_accuracy": (first.true, first.true_images),
        "null_agreement": (first.agree, first.images),
    }
    null = "null_agreement" if scheme == "wonder-filter" else "null_accuracy"
    pairs["watermark_accuracy"] = min(
        pairs[null], pairs["true_accuracy"], key=lambda pair: pair[0] / pair[1]
    )
    metrics: dict[str, Any] = {name: hits / of for name, (hits, of) in pairs.items()}
    metrics["intervals_95"] = {
        name: list(verification.clopper_pearson(hits, of)) for name, (hits, of) in pairs.items()
    }
    metrics["images"] = first.images
    metrics["each_null_accuracy"] = [float(value) for value in test.null_accuracy]
    metrics["each_true_accuracy"] = [float(value) for value in test.true_accuracy]
    metrics["verified"] = None if verified is None else verified.verified
    return metrics


def paper_figures(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Returns the papers' figures for the task; none for data of the user's own."""
    return {} if config.data.source == "npz" else config.paper.to_dict()


def draw(
    folder: pathlib.Path,
    history: list[dict[str, Any]],
    test: data.Dataset,
    watermarks: Watermark,
    config: ml_collections.ConfigDict,
) -> None:
    """Writes the run's figures: the pattern, an image with its copies, the training curves."""
    first = jax.tree.map(lambda field: np.asarray(field)[0], watermarks)
    drawn = {
        "pattern": figures.pattern_figure(first),
        "example": figures.examples_figure(test.images[0], first),
    }
    if "normal_accuracy" in history[-1]:
        drawn["curves"] = figures.curves_figure(
            history,
            threshold=config.watermark.threshold,
            paper=paper_figures(config),
            embedded=bool(config.watermark.num_watermarks),
        )
    for name, figure in drawn.items():
        figures.save(figure, folder / "figures" / f"{name}.png")
