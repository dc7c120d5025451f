"""Lambda from just above the pixels' range to 10,000, by scheme.

python -m nullmark_jax.sweep --config=configs/sweeps/extreme_value.py:digit
"""

import ml_collections

from nullmark_jax.sweep import task_config


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return task_config(__file__, argument)


def sweep(add) -> None:
    for seed in range(3):
        for scheme in ("null-embedding", "wonder-filter"):
            for value in (1.5, 2.0, 10.0, 100.0, 1000.0, 2000.0, 10000.0):
                add(
                    {
                        "watermark.extreme_value": value,
                        "watermark.scheme": scheme,
                        "seed": seed,
                        "owner.experiment_key": seed,
                    }
                )
