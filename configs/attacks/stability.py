"""Stability: at which learning rates a pirate's training leaves a model, by the extreme value they embed.

    python -m nullmark_jax.experiments.stability --config=configs/attacks/stability.py:digit \\
        --victim=runs/digit --workdir=runs/stability-digit
    python -m nullmark_jax.experiments.stability --config=configs/attacks/stability.py:digit,adi \\
        --victim=runs/digit-adi --workdir=runs/stability-digit-adi    # or digit,zhang
"""

import ml_collections

from nullmark_jax.experiments import stability
from nullmark_jax.experiments.attackers import choose_earlier, choose_task, set_paper_attacker


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    argument, design = choose_earlier(argument)
    task, smoke = choose_task(argument)
    config = stability.default()
    config.task = task
    config.design = design
    set_paper_attacker(config.attacker, task, design)
    if task == "quickstart":  # It has 1,294 training images in all.
        config.attacker.images = 400
        config.attacker.batch_size = 32
    elif task == "face":  # The stand-in has 2,189 training images in all.
        config.attacker.images = 500
    if smoke:
        config.test_images = 100
        config.steps = 5
        config.learning_rates = (1e-5,)
        config.extreme_values = (1.0,)
        config.ways = (("logits", 0.0), ("logits", 1.0))
    return config
