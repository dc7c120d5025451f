"""Float32, TF32 or bfloat16 in products: on a CPU, where all are float32, the models are the same.

python -m nullmark_jax.sweep --config=configs/sweeps/precision.py:digit
"""

import ml_collections

from nullmark_jax.sweep import task_config


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return task_config(__file__, argument)


def sweep(add) -> None:
    for seed in range(3):
        for precision in ("highest", "high", "default"):
            add({"precision": precision, "seed": seed, "owner.experiment_key": seed})
