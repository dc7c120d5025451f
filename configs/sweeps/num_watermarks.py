"""Several watermarks of one owner in one model.

python -m nullmark_jax.sweep --config=configs/sweeps/num_watermarks.py:digit
"""

import ml_collections

from nullmark_jax.sweep import task_config


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return task_config(__file__, argument)


def sweep(add) -> None:
    for seed in range(3):
        for count in (1, 2, 4, 8):
            add({"watermark.num_watermarks": count, "seed": seed, "owner.experiment_key": seed})
