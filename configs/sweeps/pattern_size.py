"""The pattern from 1 to 10% of the input of Digit and Object, to 5% of Traffic and Face.

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
