"""Pattern recovery: the owner's secret pattern read from the weights of their model.

    python -m nullmark_jax.experiments.pattern_recovery \\
        --config=configs/attacks/pattern_recovery.py:digit --victim=runs/digit-0 \\
        --workdir=runs/pattern-recovery-digit
    python -m nullmark_jax.experiments.pattern_recovery \\
        --config=configs/attacks/pattern_recovery.py:quickstart,smoke --victim=runs/quickstart \\
        --workdir=runs/pattern-recovery-smoke
"""

import ml_collections

from nullmark_jax.experiments import pattern_recovery
from nullmark_jax.experiments.attackers import choose_task


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = pattern_recovery.default()
    config.task = task
    if smoke:
        config.test_images = 100
        config.images = 16
    return config
