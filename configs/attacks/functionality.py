"""Functionality: what embedding costs in accuracy, over owners, extreme values and pattern sizes.

    python -m nullmark_jax.experiments.functionality --config=configs/attacks/functionality.py:digit \\
        --victim=runs/digit --workdir=runs/functionality-digit
"""

import pathlib

import ml_collections

from nullmark_jax import program
from nullmark_jax.experiments import functionality
from nullmark_jax.experiments.attackers import choose_task


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = functionality.default()
    config.task = task
    # Both papers' figures stand with the task.
    of_task = program.load_config_file(pathlib.Path(__file__).parents[1] / f"{task}.py")
    config.paper.update(of_task.get_config().paper)
    # For larger ones these recipes find no place: 10 x 10 are 9.8% of Object's input, 11 x 11 are 5.3% of
    # Traffic's.
    if task == "object":
        config.pattern_sizes = (2, 4, 8, 10)
    elif task == "traffic":
        config.pattern_sizes = (2, 4, 8, 11)
    if smoke:
        config.experiment_keys = (0,)
        config.epochs = 1
        config.extreme_values = ()
        config.pattern_sizes = (3,)
    return config
