"""Neural Cleanse: does a backdoor detector see the watermark?

    python -m nullmark_jax.experiments.neural_cleanse --config=configs/attacks/neural_cleanse.py:digit \\
        --victim=runs/digit --victim=runs/digit-free --workdir=runs/neural-cleanse-digit
    python -m nullmark_jax.experiments.neural_cleanse \\
        --config=configs/attacks/neural_cleanse.py:quickstart,smoke --victim=runs/quickstart \\
        --workdir=runs/neural-cleanse-smoke

A search of 100 rounds takes some 10 to 20 seconds on two cores with the Digit net; there is one for each
model, mode, label and start.
"""

import ml_collections

from nullmark_jax.experiments import neural_cleanse
from nullmark_jax.experiments.attackers import choose_task

# Later paper, Table 5: the anomaly index of the watermark-free and of the watermarked model.
_TABLE_5 = {
    "digit": (0.88, 1.32),
    "face": (2.05, 1.85),
    "traffic": (2.72, 1.85),
    "object": (1.12, 0.99),
}


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = neural_cleanse.default()
    config.task = task
    config.paper.update(dict(zip(("free", "watermarked"), _TABLE_5.get(task, ()), strict=False)))
    if task in ("face", "traffic"):  # 158 and 43 labels on larger images
        config.starts = 1
    if smoke:
        config.test_images = 100
        config.images = 64
        config.modes = ("bounded", "unbounded, whole pixels")
        config.starts = 1
        config.search.rounds = 8
        config.search.batches = 4
        config.search.batch_size = 16
        config.search.patience = 2
        config.unlearning.learning_rates = (1e-4,)
    return config
