"""Input filters: what is left of a watermark where a service changes or refuses its inputs?

    python -m nullmark_jax.experiments.input_filter --config=configs/attacks/input_filter.py:digit \\
        --victim=runs/digit-0 --victim=runs/digit-1 --workdir=runs/input-filter-digit
    python -m nullmark_jax.experiments.input_filter \\
        --config=configs/attacks/input_filter.py:quickstart,smoke --victim=runs/quickstart \\
        --workdir=runs/input-filter-smoke
"""

import ml_collections

from nullmark_jax.experiments import input_filter
from nullmark_jax.experiments.attackers import choose_task


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = input_filter.default()
    config.task = task
    config.test_images = 0 if task in ("quickstart", "face") else 2000
    if smoke:
        config.test_images = 100
        config.images = 100
    return config
