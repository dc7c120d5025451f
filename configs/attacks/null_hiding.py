"""Null hiding: turn a null embedding into a true one, and bring it back.

    python -m nullmark_jax.experiments.null_hiding --config=configs/attacks/null_hiding.py:digit \\
        --victim=runs/digit --victim=runs/digit-free --workdir=runs/null-hiding-digit
"""

import ml_collections

from nullmark_jax.experiments import null_hiding
from nullmark_jax.experiments.attackers import choose_task


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = null_hiding.default()
    config.task = task
    if task in ("quickstart", "face"):  # They have 1,294 and 2,189 training images in all.
        config.images = 400
        config.batch_size = 32
    if smoke:
        config.test_images = 100
        config.epochs = (1,)
        config.cross_entropies = ("logits",)
        config.foreign = 1
        config.recovery_fraction = 0.2
    return config
