"""Corruption: train against a watermark that has leaked.

    python -m nullmark_jax.experiments.corruption --config=configs/attacks/corruption.py:digit \\
        --victim=runs/digit --workdir=runs/corruption-digit
"""

import ml_collections

from nullmark_jax.experiments import corruption
from nullmark_jax.experiments.attackers import choose_task, set_paper_attacker

# Earlier paper, Table VIII, after the attack: NC, true, null agreement.
_TABLE_VIII = {
    "digit": (0.9868, 1.0, 0.9953),
    "traffic": (0.9491, 1.0, 0.9938),
    "face": (0.9838, 1.0, 0.9933),
}


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = corruption.default()
    config.task = task
    if task in _TABLE_VIII:
        config.paper.update(dict(zip(corruption.PRINTED, _TABLE_VIII[task], strict=True)))
    set_paper_attacker(config.earlier, task)
    config.earlier.cross_entropy = "clipped"
    config.earlier.epochs = 20
    if task == "quickstart":  # It has 1,294 training images in all.
        config.earlier.images = 400
        config.earlier.batch_size = config.grid.batch_size = 32
        config.grid.images = (129,)
    elif task == "face":  # The stand-in has 2,189 training images in all.
        config.earlier.images = 500
        config.grid.images = (500,)
    if smoke:
        config.test_images = 100
        config.earlier.epochs = 1
        config.goals = ("relabel",)
        config.grid.cross_entropies = ("logits",)
        config.grid.ways = ("adam-tamed",)
        config.grid.learning_rates = (1e-3,)
        config.grid.steps = 30
    return config
