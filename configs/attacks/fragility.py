"""Fragility: at which extreme values a fine-tuned or pruned model still bears its owner's watermark.

    python -m nullmark_jax.experiments.fragility --config=configs/attacks/fragility.py:digit \\
        --victim=runs/digit --workdir=runs/fragility-digit
"""

import ml_collections

from nullmark_jax.experiments import fragility
from nullmark_jax.experiments.attackers import choose_task


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = fragility.default()
    config.task = task
    if task in ("quickstart", "face"):  # They have 1,294 and 2,189 training images in all.
        config.images = 1000
        config.batch_size = 32
    # Each took the mark of one such model at least at 5 points of NC or less (pruning), as Digit's defaults.
    if task == "face":
        config.prunings = (
            ("neurons", "ascending", 0.01),
            ("neurons", "descending", 0.02),
            ("weights", "ascending", 0.15),
        )
    elif task == "traffic":
        config.prunings = (
            ("neurons", "ascending", 0.05),
            ("neurons", "descending", 0.05),
            ("weights", "ascending", 0.3),
        )
    elif task == "object":
        config.prunings = (
            ("neurons", "ascending", 0.02),
            ("weights", "ascending", 0.1),
        )
    if smoke:
        config.test_images = 100
        config.extreme_values = (10.0,)
        config.prunings = (("neurons", "ascending", 0.2),)
        config.images = 200
        config.epochs = 1
    return config
