"""Float32, TF32 or bfloat16 in products, rounded so on any machine.

python -m nullmark_jax.sweep --config=configs/sweeps/precision.py:digit
"""

import ml_collections

from nullmark_jax.sweep import task_config


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return task_config(__file__, argument)


def sweep(add) -> None:
    for seed in range(3):
        for precision in ("highest", "tf32", "bfloat16"):
            add({"precision": precision, "seed": seed, "owner.experiment_key": seed})
