"""One run: from a config to a run folder with a verified model. The shell around the pure core."""

import dataclasses
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from nullmark_jax import (
    batches,
    claim,
    config as configs,
    data,
    evaluation,
    files,
    losses,
    models,
    optimizers,
    parallel,
    signing,
    training,
    transform,
    verification,
)
from nullmark_jax.checkpoint import Checkpoints
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
from nullmark_jax.metrics import Counts
from nullmark_jax.progress import Progress
from nullmark_jax.reports import figures

_ACCELERATOR_STEPS = 50


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who signs, and the verifier string's two parts."""

    key: signing.SigningKey
    name: str
    timestamp: str


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict:
    """Trains a watermarked model, writes claim and model, verifies the claim from the written files.

    Args:
      config: as `nullmark_jax.config.default` describes it.
      workdir: the run folder. A run that was interrupted there goes on, and ends with the same model,
        byte for byte; a finished one is evaluated again.

    Returns:
      What result.json holds.

    Raises:
      InputError: the config, the data or the folder cannot be used; nothing was trained.
      TrainingDiverged: the loss stopped being finite; the last good checkpoint is kept.
    """
    configs.check(config)
    folder = pathlib.Path(workdir)
    splits = data.load(**data_arguments(config), seed=config.seed)
    claim_folder(folder, config)
    owner = find_owner(config, folder)
    watermarks = owner_watermarks(config, owner)
    started = time.monotonic()
    state = train(config, folder, splits, watermarks)
    seconds = time.monotonic() - started

    model = models.create(config.model, config.data.num_classes, precision=config.precision)
    test = evaluation.make_evaluator(models.apply_fn(model), splits.test, watermarks)(state.params)
    digest = claim.write_model(
        folder / "model.safetensors",
        state.params,
        model=config.model,
        input_shape=tuple(config.data.input_shape),
        num_classes=config.data.num_classes,
    )
    verified = None
    if config.watermark.num_watermarks:
        write_claim(config, folder, owner, digest)
        verified = verify_folder(config, folder, splits.test)
    history = read_history(folder)
    draw(folder, history, splits.test, watermarks, config)
    result = {
        "experiment": "train",
        "task": config.task,
        "seed": config.seed,
        "metrics": summary(test, verified, config.watermark.scheme),
        "paper": config.paper.to_dict(),
        "environment": environment(),
        "seconds": round(seconds, 1),
    }
    files.write_whole(folder / "result.json", _json(result))
    return result


def data_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns what `data.load` and `data.load_test` take, out of a config."""
    return config.data.to_dict()


def claim_folder(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Makes the run folder and writes config.json; InputError where another config's run is there."""
    text = _json(config.to_dict())
    path = folder / "config.json"
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        if files.read_bounded(path, 2**20) != text:
            raise InputError(
                f"--workdir: {folder} holds the run of another config (config.json differs); "
                "give another folder or the same config"
            )
    elif any(folder.iterdir()):
        raise InputError(
            f"--workdir: {folder} is not empty and holds no run; give another folder"
        )
    else:
        files.write_whole(path, text)


def find_owner(config: ml_collections.ConfigDict, folder: pathlib.Path) -> Owner:
    """Returns the owner a config names; makes owner.key in the run folder where it names no key.

    The timestamp of a run's first start is kept in verifier.json, so that a resumed run signs the
    same string.
    """
    named = config.owner
    passphrase = signing.read_passphrase(named.passphrase_file) if named.passphrase_file else None
    if named.experiment_key >= 0:
        key = signing.experiment_key(named.experiment_key)
    elif named.key_file:
        key = signing.read_key(named.key_file, passphrase)
    else:
        if not (folder / signing.PRIVATE_NAME).exists():
            signing.write_key_files(folder, signing.generate_key(), passphrase)
        key = signing.read_key(folder / signing.PRIVATE_NAME, passphrase)
    path = folder / "verifier.json"
    if not path.exists():
        verifier = {"owner": named.name, "timestamp": named.timestamp or signing.utc_now()}
        signing.verifier_string(**verifier)
        files.write_whole(path, _json(verifier))
    verifier = json.loads(files.read_bounded(path, 2**16))
    return Owner(key, verifier["owner"], verifier["timestamp"])


def owner_watermarks(config: ml_collections.ConfigDict, owner: Owner) -> Watermark:
    """Returns the owner's watermarks 0..K-1 as a population; for K = 0 the one that is *not* embedded.

    A watermark-free model is measured against it, as the control.
    """
    signature = signing.sign(owner.key, owner=owner.name, timestamp=owner.timestamp)
    height, width, _ = config.data.input_shape
    return transform.stack(
        [
            transform.transform(
                signature,
                scheme=config.watermark.scheme,
                height=height,
                width=width,
                num_classes=config.data.num_classes,
                pattern_size=config.watermark.pattern_size,
                extreme_value=config.watermark.extreme_value,
                index=index,
            )
            for index in range(max(config.watermark.num_watermarks, 1))
        ]
    )


def train(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    splits: data.Splits,
    watermarks: Watermark,
) -> training.TrainState:
    """Trains to the last epoch from wherever the run folder stands; returns the final state."""
    marked = (
        batches.marked_per_batch(config.loss.inject_ratio, config.batch_size)
        if config.watermark.num_watermarks
        else 0
    )
    augmentation = batches.Augmentation(**config.augmentation)
    num_images = len(splits.train.labels)

    def plan(epoch: int) -> batches.Batch:
        return batches.epoch_batches(
            config.seed,
            epoch,
            num_images=num_images,
            batch_size=config.batch_size,
            marked=marked,
            num_watermarks=config.watermark.num_watermarks,
            augmentation=augmentation,
        )

    steps = plan(1).index.shape[0]
    recipe = configs.recipe(config)
    optimizer = optimizers.optimizer(recipe, steps * config.epochs)
    learning_rate = optimizers.learning_rate(recipe, steps * config.epochs)
    model = models.create(config.model, config.data.num_classes, precision=config.precision)
    apply_fn = models.apply_fn(model)
    step = training.make_train_step(
        marked_logits=training.concatenated_logits(apply_fn),
        optimizer=optimizer,
        cross_entropy=losses.cross_entropy(config.loss.cross_entropy),
        true_weight=config.loss.true_weight,
        null_weight=config.loss.null_weight,
        extreme_value_factor=optimizers.extreme_value_factor(
            config.curriculum.start, round(config.curriculum.epochs * steps)
        ),
        augmentation=augmentation,
        average=parallel.average,
    )
    params = models.init_params(model, jax.random.key(config.seed), tuple(config.data.input_shape))
    resident = splits.train.images.nbytes <= config.resident_bytes
    automatic = _ACCELERATOR_STEPS if parallel.on_accelerator() and resident else 1
    validate = (
        evaluation.make_evaluator(apply_fn, splits.validation, watermarks)
        if len(splits.validation.labels)
        else None
    )
    history = folder / "metrics.jsonl"
    with Checkpoints(folder / "checkpoints") as checkpoints:
        epoch, state = checkpoints.latest(training.init_state(params, optimizer))
        # Lines after the last checkpoint are of an epoch that is trained again.
        records = [record for record in read_history(folder) if record["epoch"] <= epoch]
        with Progress(total=steps * config.epochs, done=steps * epoch) as progress:
            for done in training.fit(
                state,
                step,
                splits.train.images,
                splits.train.labels,
                watermarks,
                plan=plan,
                first_epoch=epoch + 1,
                epochs=config.epochs,
                steps_per_dispatch=config.steps_per_dispatch or automatic,
                resident=resident,
                learning_rate=learning_rate,
                on_step=progress.advance,
            ):
                record = epoch_record(done, validate(done.state.params) if validate else None)
                records.append(record)
                files.write_whole(history, b"".join(_line(each) for each in records))
                checkpoints.save(done.number, done.state)
                progress.note(record)
                state = done.state
    return state


def epoch_record(epoch: training.Epoch, validation: Counts | None) -> dict[str, Any]:
    """Returns an epoch's line of metrics.jsonl: mean losses, and accuracies on the validation split.

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


def read_history(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl, oldest first; none where there is no such file."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_claim(
    config: ml_collections.ConfigDict, folder: pathlib.Path, owner: Owner, model_sha256: str
) -> None:
    """Writes claim.json for the watermark of index 0; the others stay hidden (later paper, 6.3)."""
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

    `watermark_accuracy` is watermark 0's, the lower of true and null (of true and the null agreement
    for wonder-filter); `each_null_accuracy` and `each_true_accuracy` are every watermark's.
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


def draw(
    folder: pathlib.Path,
    history: list[dict[str, Any]],
    test: data.Dataset,
    watermarks: Watermark,
    config: ml_collections.ConfigDict,
) -> None:
    """Writes the run's figures: the pattern, an image with its copies, the training curves."""
    first = jax.tree.map(lambda field: np.asarray(field)[0], watermarks)
    with files.writing(folder / "figures"):
        (folder / "figures").mkdir(exist_ok=True)
    drawn = {
        "pattern": figures.pattern_figure(first),
        "example": figures.examples_figure(test.images[0], first),
    }
    if "normal_accuracy" in history[-1]:
        drawn["curves"] = figures.curves_figure(
            history, threshold=config.watermark.threshold, paper=config.paper.to_dict()
        )
    for name, figure in drawn.items():
        figures.save(figure, folder / "figures" / f"{name}.png")


def environment() -> dict[str, Any]:
    """Returns what a result depends on beside the config: code, command, versions, hardware."""
    device = jax.local_devices()[0]
    return {
        "command": " ".join(["python", "-m", "nullmark_jax.main", *sys.argv[1:]]),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": sys.version.split()[0],
        "jax": jax.__version__,
        "device": f"{parallel.device_count()} x {device.device_kind}",
        "cpus": os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _commit() -> str:
    """Returns the source tree's commit, "+" after it where files differ from it; "" outside git."""
    here = pathlib.Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", here, *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changes else "")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False, default=list) + "\n").encode()


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode()
