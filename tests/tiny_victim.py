"""A finished run of the tiny task to attack: trained once in a test session, and copies of it."""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import tiny_task

from nullmark_jax import claim, models, run

SHAPE = (tiny_task.SIDE, tiny_task.SIDE, 1)


def folder(tmp_path_factory) -> pathlib.Path:
    """Returns the run folder, which no test may change."""
    return _trained(tmp_path_factory.getbasetemp())


@functools.cache
def _trained(base: pathlib.Path) -> pathlib.Path:
    data = base / "tiny-victim-data"
    data.mkdir()
    # Optax and Flax are not written for the tests' strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run.train_and_evaluate(tiny_task.config(data), base / "tiny-victim")
    return base / "tiny-victim"


def params_of(folder: pathlib.Path) -> dict:
    """Returns the parameters of a run folder's model."""
    return claim.read_model(
        folder / "model.safetensors",
        model="digit",
        input_shape=SHAPE,
        num_classes=tiny_task.CLASSES,
        expected_shapes=models.parameter_shapes("digit", SHAPE, tiny_task.CLASSES),
    )


def write_params(folder: pathlib.Path, params: dict) -> str:
    """Writes a run folder's model anew; returns its digest."""
    return claim.write_model(
        folder / "model.safetensors",
        params,
        model="digit",
        input_shape=SHAPE,
        num_classes=tiny_task.CLASSES,
    )


def nudged(params: dict, by: float = 1e-3) -> dict:
    """Returns another model that answers alike: the last layer's biases moved by the same."""
    last = params["fc_2"]
    return {**params, "fc_2": {**last, "bias": last["bias"] + np.float32(by)}}


def other(folder: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    """Returns a copy of a run folder with another model, which its owner claims."""
    shutil.copytree(folder, to)
    digest = write_params(to, nudged(params_of(folder)))
    made = claim.read_claim(to / "claim.json")
    claim.write_claim(to / "claim.json", dataclasses.replace(made, model_sha256=digest))
    return to


def free(folder: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    """Returns a copy of a run folder as a watermark-free training leaves it, the model another."""
    shutil.copytree(folder, to)
    write_params(to, nudged(params_of(folder), by=2e-3))
    (to / "claim.json").unlink()
    change_json(to / "result.json", verified=None)
    change_json(to / "config.json", num_watermarks=0)
    return to


def change_json(file: pathlib.Path, **fields) -> None:
    """Sets fields of a JSON file, of whatever depth, that it has already."""
    text = file.read_text()

    def change(values: dict) -> dict:
        return {**values, **{name: fields[name] for name in fields if name in values}}

    changed = json.loads(text, object_hook=change)
    assert json.dumps(changed) != json.dumps(json.loads(text))
    file.write_text(json.dumps(changed, indent=2))
