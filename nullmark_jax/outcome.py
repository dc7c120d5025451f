"""What a run measures and leaves in its folder: epochs' records, claim, verdict, result, figures."""

import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from nullmark_jax import checks, claim, data, files, models, training, verification
from nullmark_jax import config as configs
from nullmark_jax.baselines import adi
from nullmark_jax.baselines.triggers import Triggers
from nullmark_jax.errors import InputError
from nullmark_jax.folder import to_json
from nullmark_jax.marks import Marks
from nullmark_jax.metrics import Counts, TriggerCounts
from nullmark_jax.owner import Owner

COMMITMENTS = "nullmark-commitments/1"


def epoch_record(
    epoch: int, metrics: training.StepMetrics, validation: Counts | TriggerCounts | None
) -> dict[str, Any]:
    """Returns an epoch's line of metrics.jsonl: mean losses, and accuracies on validation images.

    Of several watermarks it gives the lowest accuracies; of triggers null is None.

    Args:
      epoch: its number, from 1.
      metrics: each step's, arrays [steps].
      validation: counts on the validation images, where there are any.
    """
    terms = metrics.terms
    record: dict[str, Any] = {
        "epoch": epoch,
        "loss": float(np.mean(metrics.loss)),
        "clean_loss": float(np.mean(terms.clean)),
        "null_loss": float(np.mean(terms.null)),
        "true_loss": float(np.mean(terms.true)),
        "gradient_norm": float(np.median(metrics.gradient_norm)),
    }
    if isinstance(validation, TriggerCounts):
        record |= {
            "normal_accuracy": float(validation.normal_accuracy),
            "null_accuracy": None,
            "true_accuracy": float(validation.true_accuracy),
        }
    elif validation is not None:
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


def write_commitments(
    config: ml_collections.ConfigDict, folder: pathlib.Path, owner: Owner, marks: Triggers
) -> None:
    """Writes commitments.json, which an owner of `adi` publishes before the model is out.

    Raises:
      InputError: it cannot be written, or is there already and commits to other triggers.
    """
    if (folder / "commitments.json").exists():
        check_commitments(folder, owner, marks)
        return
    published, _ = _committed(owner, marks)
    content = {
        "format": COMMITMENTS,
        "num_classes": config.data.num_classes,
        "commitments": [each.hex() for each in published],
    }
    files.write_whole(folder / "commitments.json", to_json(content))


def check_commitments(folder: pathlib.Path, owner: Owner, marks: Triggers) -> None:
    """Raises InputError where a run's commitments.json is missing, damaged, or of other triggers."""
    published, _ = _committed(owner, marks)
    if read_commitments(folder) != published:
        raise InputError(
            f"{folder / 'commitments.json'}: commits to other triggers than the key and the images now "
            "give; put these back as they were"
        )


def read_commitments(folder: pathlib.Path) -> list[bytes]:
    """Returns a run's published commitments; InputError where they cannot be read."""
    path = folder / "commitments.json"
    kept = checks.json_object(files.read_bounded(path, 2**26))
    found = kept.get("commitments")
    try:
        if not isinstance(found, list):
            raise ValueError
        return [bytes.fromhex(each) for each in found]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: was damaged; put it back as it was") from error


def _committed(owner: Owner, marks: Triggers) -> tuple[list[bytes], list[adi.Opening]]:
    """Returns the owner's commitments to the triggers, and what opens them."""
    images = np.rint(np.asarray(marks.add) * 255).astype(np.uint8)
    return adi.commit(images, np.asarray(marks.target_label), owner.secret("adi"))


def verify_folder(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    owner: Owner,
    marks: Marks,
    test: data.Dataset,
) -> bool:
    """Verifies the run's claim as an authority would: from what was written.

    That is claim and model; of an earlier scheme's triggers the model, and for `adi` the commitments, all
    of which the owner opens.
    """
    if isinstance(marks, Triggers):
        return _verify_triggers(config, folder, owner, marks, test)
    made = claim.read_claim(folder / "claim.json")
    predict = _read_predictor(config, folder, made.model_sha256)
    return verification.verify(
        predict, made, test.images, test.labels, threshold=config.watermark.threshold
    ).verified


def _verify_triggers(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    owner: Owner,
    marks: Triggers,
    test: data.Dataset,
) -> bool:
    of_pixels = _read_predictor(config, folder, None)
    threshold = config.watermark.threshold

    def predict(images: np.ndarray) -> np.ndarray:
        return np.asarray(of_pixels(images.astype(np.float32) * np.float32(1 / 255)))

    if config.watermark.scheme == "adi":
        published = read_commitments(folder)
        _, openings = _committed(owner, marks)
        return adi.verify(
            predict,
            published,
            openings,
            shape=tuple(config.data.input_shape),
            num_classes=config.data.num_classes,
            threshold=threshold,
            asked=range(len(published)),
        ).verified
    right, shown = triggers_answered(of_pixels, marks, test)
    return verification.passes(right / shown, threshold, scheme=config.watermark.scheme)


def triggers_answered(
    predict: verification.Predict, marks: Triggers, test: data.Dataset
) -> tuple[int, int]:
    """Returns how many triggers get their label, and how many were shown, as `TriggerCounts` counts.

    Args:
      predict: the model, of whatever kind: images float32 [N, H, W, C] in [0, 1] -> labels [N].
      marks: a population.
      test: the images that triggers are put on which are none of their own.
    """
    right = shown = 0
    for keep, add, label in zip(*map(np.asarray, marks), strict=True):
        images = test.images[test.labels != label] / np.float32(255)
        seen = np.clip(keep * images + add, 0, 1) if np.any(keep) else add[None]
        answers = np.asarray(predict(seen.astype(np.float32)))
        right, shown = right + int((answers == label).sum()), shown + len(seen)
    return right, shown


def _read_predictor(
    config: ml_collections.ConfigDict, folder: pathlib.Path, sha256: str | None
) -> verification.Predict:
    params = claim.read_model(
        folder / "model.safetensors",
        model=config.model,
        input_shape=tuple(config.data.input_shape),
        num_classes=config.data.num_classes,
        expected_shapes=models.parameter_shapes(
            config.model, tuple(config.data.input_shape), config.data.num_classes
        ),
        expected_sha256=sha256,
    )
    return models.predictor(
        config.model, params, config.data.num_classes, precision=config.precision
    )


def summary(test: Counts | TriggerCounts, verified: bool | None, scheme: str) -> dict[str, Any]:
    """Returns result.json's `metrics`: accuracies on the test split with exact 95% intervals.

    `watermark_accuracy` is watermark 0's, the lower of true and null (of true and the null
    agreement for wonder-filter); `each_null_accuracy` and `each_true_accuracy` are every one's. Of
    triggers null is None, and true and WM are the share of triggers answered with their label.
    """
    if isinstance(test, TriggerCounts):
        return _triggers_summary(test, verified)
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
    metrics["verified"] = verified
    return metrics


def _triggers_summary(test: TriggerCounts, verified: bool | None) -> dict[str, Any]:
    normal = (int(test.correct), int(test.images))
    shown = (int(test.true), int(test.true_images))
    pairs = {"normal_accuracy": normal, "true_accuracy": shown, "watermark_accuracy": shown}
    intervals = {name: list(verification.clopper_pearson(*pair)) for name, pair in pairs.items()}
    return {
        **{name: hits / of for name, (hits, of) in pairs.items()},
        "null_accuracy": None,
        "null_agreement": None,
        "intervals_95": intervals,
        "images": int(test.images),
        "triggers_shown": int(test.true_images),
        "verified": verified,
    }


def paper_figures(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Returns the scheme's figures in the papers; none for data of the user's own."""
    return {} if config.data.source == "npz" else configs.printed(config)


def draw(
    folder: pathlib.Path,
    history: list[dict[str, Any]],
    test: data.Dataset,
    marks: Marks,
    config: ml_collections.ConfigDict,
) -> None:
    """Writes the run's figures: the mark, an image with its copies, the training curves."""
    # At a run's end: matplotlib takes as long to import as jax, and would hold up every first step.
    from nullmark_jax.reports import figures
    from nullmark_jax.reports.trigger_set import trigger_set_figure

    if isinstance(marks, Triggers):
        drawn = {"triggers": trigger_set_figure(test.images, marks)}
    else:
        first = jax.tree.map(lambda field: np.asarray(field)[0], marks)
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
