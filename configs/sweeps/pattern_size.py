"""The pattern's side: 3 to 10, and those whose squares cover about 2, 4, 6, 8 and 10% of the task's input.

python -m nullmark_jax.sweep --config=configs/sweeps/pattern_size.py:digit

On Digit and Object these are 3 to 10; Traffic has 12, 14 and 15 besides, Face 12, 14 and 16. On Traffic 12
and more reach all of the last features wherever a key puts them, so that its recipe (config.owner.min_free)
has no place for them: their points are dead, and say so. With --config.owner.min_free=0 they are trained,
but null embedding is then not to be expected.
"""

import ml_collections

from nullmark_jax.sweep import task_config


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    return task_config(__file__, argument)


def sweep(add, config) -> None:
    height, width, _ = config.data.input_shape
    shares = (0.02, 0.04, 0.06, 0.08, 0.1)
    sizes = {*range(3, 11), *(round((share * height * width) ** 0.5) for share in shares)}
    for seed in range(3):
        for size in sorted(sizes):
            add({"watermark.pattern_size": size, "seed": seed, "owner.experiment_key": seed})
