"""Fine-tuning: train on with clean images, and see whether the watermark stays.

    python -m nullmark_jax.experiments.fine_tuning --config=configs/attacks/fine_tuning.py:digit \\
        --victim=runs/digit --workdir=runs/fine-tuning-digit
"""

import ml_collections

from nullmark_jax.experiments import fine_tuning
from nullmark_jax.experiments.attackers import choose_task, set_paper_attacker


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = fine_tuning.default()
    config.task = task
    set_paper_attacker(config.later, task)
    config.later.inject_ratio = 0.0
    config.later.epochs = 100
    if task == "quickstart":  # It has 1,294 training images in all.
        config.later.images = 400
        config.later.batch_size = 32
        config.grid_epochs = 20
    elif task == "face":  # The stand-in has 2,189 training images in all.
        config.later.images = 1000
    if smoke:
        config.test_images = 100
        config.later.epochs = 2
        config.grid_epochs = 1
        config.ways = ("RTLL",)
        config.optimizers = ("adam",)
        config.learning_rates = (1e-3,)
    return config
