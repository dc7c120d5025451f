"""One run: from a config to a run folder with a verified model. The shell around the pure core."""

import contextlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from nullmark_jax import (
    claim,
    data,
    environment,
    evaluation,
    files,
    models,
    outcome,
    parallel,
    process,
    signing,
    transform,
)
from nullmark_jax import config as configs
from nullmark_jax.baselines.triggers import Triggers
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
from nullmark_jax.folder import check_folder, check_initial, claim_folder, keep_initial, to_json
from nullmark_jax.marks import Marks, count
from nullmark_jax.owner import (
    Owner,
    check_suits,
    find_owner,
    keep_owner,
    named_key,
    owner_marks,
)
from nullmark_jax.reports import page, table
from nullmark_jax.trainer import make_plan, train

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

    Of several processes each calls it with the same config; the run folder is the first's, and so are its
    key and its triggers' images.

    Args:
      config: as `nullmark_jax.config.default` describes it.
      workdir: the run folder. A run that was interrupted there goes on, and ends with the same
        model, byte for byte; a finished one is evaluated again.
      command: what was run, for result.json.

    Returns:
      What result.json holds.

    Raises:
      InputError: the config, the data or the folder cannot be used, or another run is at work in the
        folder; nothing was trained.
      TrainingDiverged: the loss stopped being finite; the last good checkpoint is kept.
      Preempted: SIGTERM came in training; the state is in the folder. Before the first step's end it ends the
        process instead, with status 0.
    """
    process.prepare()
    shared = parallel.process_count() > 1
    with parallel.together():
        configs.check(config)
        splits = data.load(**data_arguments(config), seed=config.seed, mapped=shared)
        initial, initial_digest = initial_params(config)
    check_same(config, splits, initial_digest)
    check_whole(splits)
    folder = pathlib.Path(workdir)
    with contextlib.ExitStack() as held:
        owners: list[Owner] = []

        def begin() -> Sequence[np.ndarray]:
            owner, marks = begin_run(config, folder, splits, initial_digest, held)
            owners.append(owner)
            return [np.asarray(field) for field in marks]

        signed = config.watermark.scheme in transform.SCHEMES
        fields: list[Any] = parallel.from_first(begin)
        marks: Marks = Watermark(*fields) if signed else Triggers(*fields)
        plan = make_plan(config, splits.train, count(marks))
        # Before the training, which the source tree may not wait for.
        where = environment.describe(command)
        params, history, seconds = train(config, folder, splits, marks, plan, initial)
        model = models.create(config.model, config.data.num_classes, precision=config.precision)
        test = evaluation.make_evaluator(models.apply_fn(model), splits.test)(params, marks)

        def finish() -> Sequence[np.ndarray]:
            metrics = write_outcome(
                config,
                folder,
                owners[0],
                marks,
                params,
                history,
                test,
                splits.test.in_memory(),
                initial_digest=initial_digest,
            )
            result = write_result(config, folder, metrics, where, seconds)
            return [np.frombuffer(to_json(result), np.uint8)]

        (text,) = parallel.from_first(finish)
    return json.loads(text.tobytes())


def check_same(config: ml_collections.ConfigDict, splits: data.Splits, initial_digest: str) -> None:
    """Raises InputError where the processes of a run were not given the same; of a file, the same bytes."""
    parallel.check_same("--config", to_json(config.to_dict()))
    parallel.check_same("config.initial_model", initial_digest.encode())
    for name, split in vars(splits).items():
        # A file says what it has: nobody reads it all.
        content = split.images if split.mapped is None else str(split.mapped.crc).encode()
        parallel.check_same(f"config.data: the {name} split", content, split.labels)


def check_whole(splits: data.Splits) -> None:
    """Raises InputError where images in a file are damaged; each process reads a part of it."""
    # The validation images lie among the training images.
    for split in (splits.train, splits.test):
        if split.mapped is not None:
            part = split.mapped.crc_of_part(parallel.process_index(), parallel.process_count())
            split.mapped.check_whole(parallel.gather(np.uint32(part)))


def begin_run(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    splits: data.Splits,
    initial_digest: str,
    held: contextlib.ExitStack,
    *,
    devices: int | None = None,
) -> tuple[Owner, Marks]:
    """Checks what the run needs, then makes its folder, which is locked until `held` is closed.

    Args:
      config: of the run.
      folder: its own.
      splits: its data.
      initial_digest: of the model that it goes on from, as `initial_params` returns it.
      held: holds the lock.
      devices: that share a batch; None for all.

    Raises:
      InputError: something cannot be used; nothing was written.
    """
    key = named_key(config)
    check_suits(config, key)
    check_folder(folder, config)
    owner = find_owner(config, folder, key)
    marks = owner_marks(config, owner)
    check_labels(splits, marks)
    make_plan(config, splits.train, count(marks), devices=devices)
    held.enter_context(claim_folder(folder, config))
    check_initial(folder, initial_digest)
    if any((folder / name).exists() for name in (signing.PRIVATE_NAME, "verifier.json")):
        # Again: another run may have made it, and been killed, before the folder was this one's.
        owner = find_owner(config, folder, key)
        marks = owner_marks(config, owner)
    keep_initial(folder, initial_digest)
    keep_owner(config, folder, owner)
    embeds = config.watermark.num_watermarks > 0
    if embeds and isinstance(marks, Triggers) and config.watermark.scheme == "adi":
        outcome.write_commitments(config, folder, owner, marks)
    return owner, marks


def write_outcome(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    owner: Owner,
    marks: Marks,
    params: models.Params,
    history: list[dict[str, Any]],
    test: Any,
    test_split: data.Dataset,
    *,
    initial_digest: str,
) -> dict[str, Any]:
    """Writes model, claim and figures, and verifies from them; returns result.json's metrics.

    Args:
      config: of the run.
      folder: its own, as `begin_run` left it.
      owner: as `begin_run` returned it.
      marks: likewise.
      params: the network's, after the training.
      history: the record of each epoch.
      test: the counts of `params` on `test_split`.
      test_split: the test images.
      initial_digest: as `initial_params` returned it.

    Raises:
      InputError: a file cannot be written.
    """
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
        verified = outcome.verify_folder(config, folder, owner, marks, test_split)
    outcome.draw(folder, history, test_split, marks, config)
    metrics = outcome.summary(test, verified, config.watermark.scheme)
    if initial_digest:
        metrics["initial_model_sha256"] = initial_digest
    return metrics


def write_result(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    metrics: dict[str, Any],
    where: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Writes result.json and report.html; returns what the former holds.

    Args:
      config: of the run.
      folder: its own, all else in it written.
      metrics: as `write_outcome` returns them.
      where: as `environment.describe` returns it.
      seconds: that the training took.

    Raises:
      InputError: a file cannot be written.
    """
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
