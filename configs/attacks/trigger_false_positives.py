"""False positives of an earlier design's triggers.

    python -m nullmark_jax.experiments.trigger_false_positives \\
        --config=configs/attacks/trigger_false_positives.py:digit \\
        --victim=runs/digit-adi --workdir=runs/trigger-false-positives-digit

A watermark-free model is of the design where its training names it (config.watermark.scheme=adi, with
config.watermark.num_watermarks=0).
"""

import ml_collections

from nullmark_jax.experiments import trigger_false_positives
from nullmark_jax.experiments.attackers import choose_task


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = trigger_false_positives.default()
    config.task = task
    config.test_images = 0 if task in ("quickstart", "face") else 1000
    if smoke:
        config.test_images = 100
        config.marks = 30
    return config
