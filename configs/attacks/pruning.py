"""Pruning and quantisation: is the watermark gone before the model is?

    python -m nullmark_jax.experiments.pruning --config=configs/attacks/pruning.py:digit \\
        --victim=runs/digit-0 --victim=runs/digit-1 --workdir=runs/pruning-digit
    python -m nullmark_jax.experiments.pruning --config=configs/attacks/pruning.py:quickstart,smoke \\
        --victim=runs/quickstart --workdir=runs/pruning-smoke
"""

import ml_collections

from nullmark_jax.experiments import pruning
from nullmark_jax.experiments.attackers import choose_task


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = pruning.default()
    config.task = task
    # The papers show figures only, which print no number.
    config.test_images = 0 if task in ("quickstart", "face") else 2000
    if task == "quickstart":  # It has 1,294 training images in all.
        config.fine_pruning.images = 400
        config.fine_pruning.batch_size = 32
    elif task == "face":  # The stand-in has 2,189 training images in all.
        config.fine_pruning.images = 1000
    if smoke:
        config.test_images = 100
        config.ratios = (0.1, 0.5, 0.9)
        config.fine_pruning.orders = ("ascending",)
        config.fine_pruning.ratios = (0.5,)
        config.fine_pruning.learning_rates = (1e-3,)
        config.fine_pruning.images = 100
        config.fine_pruning.epochs = 2
    return config
