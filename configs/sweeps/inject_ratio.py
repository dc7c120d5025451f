"""The share of a batch that gets a null and a true copy.

python -m nullmark_jax.sweep --config=configs/sweeps/inject_ratio.py:digit
"""

import ml_collections

from nullmark_jax.sweep import task_config


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return task_config(__file__, argument)


def sweep(add) -> None:
    for seed in range(3):
        for ratio in (0.0625, 0.125, 0.25, 0.5, 1.0):
            add({"loss.inject_ratio": ratio, "seed": seed, "owner.experiment_key": seed})
