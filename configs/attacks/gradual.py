"""Gradual piracy: embed a second watermark at extreme value 1 and raise it step by step to the owner's.

    python -m nullmark_jax.experiments.gradual --config=configs/attacks/gradual.py:digit \\
        --victim=runs/digit --workdir=runs/gradual-digit
"""

import ml_collections

from nullmark_jax.experiments import gradual
from nullmark_jax.experiments.attackers import choose_task


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = gradual.default()
    config.task = task
    if task in ("quickstart", "face"):  # They have 1,294 and 2,189 training images in all.
        config.images = (200, 1000)
    if smoke:
        config.test_images = 100
        config.images = (200,)
        config.cross_entropies = ("logits",)
        config.ways = ("adam",)
        config.learning_rates = (1e-3,)
        config.factors = (1000.0,)
        config.stage_steps = 10
    return config
