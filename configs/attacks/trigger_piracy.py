"""Piracy of an earlier design's triggers, fine-tuned afterwards.

    python -m nullmark_jax.main --config=configs/digit.py --workdir=runs/digit-adi \\
        --config.watermark.scheme=adi
    python -m nullmark_jax.experiments.trigger_piracy --config=configs/attacks/trigger_piracy.py:digit \\
        --victim=runs/digit-adi --workdir=runs/trigger-piracy-digit     # of Zhang et al.: digit,zhang
"""

import ml_collections

from nullmark_jax.experiments import trigger_piracy
from nullmark_jax.experiments.attackers import (
    choose_earlier,
    choose_task,
    paper_fields,
    set_paper_attacker,
)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    argument, design = choose_earlier(argument)
    task, smoke = choose_task(argument)
    config = trigger_piracy.default()
    config.task = task
    config.design = design or "adi"
    attacker = paper_fields()
    set_paper_attacker(attacker, task, config.design)
    del attacker.epochs, attacker.images  # It has a share of the images, and other epochs.
    config.pirate.update(attacker)
    config.fine_tuning.optimizer.update(config.pirate.optimizer)
    if task == "quickstart":  # It has 1,294 training images in all.
        config.pirate.batch_size = config.fine_tuning.batch_size = 32
    if smoke:
        config.test_images = 100
        config.epochs = (1, 2)
        config.fine_tuning.epochs = 1
    return config
