"""The pattern from 3x3 to 10x10: 1 to 13% of the input of Digit, up to 10% of Object, 4% of Traffic and Face.

python -m nullmark_jax.sweep --config=configs/sweeps/pattern_size.py:digit
"""

import ml_collections

from nullmark_jax.sweep import task_config


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return task_config(__file__, argument)


def sweep(add) -> None:
    for seed in range(3):
        for size in (3, 4, 5, 6, 7, 8, 9, 10):
            add({"watermark.pattern_size": size, "seed": seed, "owner.experiment_key": seed})
