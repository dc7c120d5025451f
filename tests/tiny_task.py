"""A task of the tests' own: 16x16 images of three kinds of bar, small enough to train in seconds.

The digit net takes 16x16 inputs: 16, 12, 6, 2, 1 pixels a side.
"""

import pathlib

import ml_collections
import numpy as np

SIDE, CLASSES, TRAIN, TEST = 16, 3, 120, 45
EXPERIMENT = ("--config.owner.experiment_key=0", "--config.owner.timestamp=2026-11-21T17:00:00Z")

_CONFIG = """
from nullmark_jax.config import default


def get_config(argument=None):
    config = default()
    config.task = "digit"
    config.model = "digit"
    config.epochs = 2
    config.batch_size = 16
    config.data.source = "npz"
    config.data.path = {data!r}
    config.data.input_shape = (16, 16, 1)
    config.data.num_classes = 3
    config.data.validation_fraction = 0.1
    config.watermark.pattern_size = 4
    config.watermark.extreme_value = 20.0
    config.optimizer.clip_norm = 1.0
    return config
"""


def images_and_labels(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 images [count, 16, 16, 1], a bright bar in noise, and labels int32, in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % CLASSES
    images = rng.integers(0, 100, (count, SIDE, SIDE, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[5 * label : 5 * label + 5] += 120
    return images, labels


def write(folder: pathlib.Path) -> pathlib.Path:
    """Writes the task's .npz and config file into a folder; returns the config file."""
    arrays = {}
    for split, count, seed in (("train", TRAIN, 0), ("test", TEST, 1)):
        arrays[f"x_{split}"], arrays[f"y_{split}"] = images_and_labels(count, seed)
    np.savez(folder / "tiny.npz", **arrays)
    config = folder / "tiny.py"
    config.write_text(_CONFIG.format(data=str(folder / "tiny.npz")))
    return config


def config(folder: pathlib.Path, **changes) -> ml_collections.ConfigDict:
    """Returns the task's config with six epochs and an experiment's key; changes by dotted name."""
    names: dict = {}
    exec(write(folder).read_text(), names)
    made = names["get_config"]()
    made.epochs = 6
    made.owner.experiment_key = 0
    made.owner.timestamp = "2026-11-21T17:00:00Z"
    made.update_from_flattened_dict(changes)
    return made
