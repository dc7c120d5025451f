"""What piracy costs: training from the owner's model against training from scratch.

    python -m nullmark_jax.experiments.piracy_cost --config=configs/attacks/piracy_cost.py:digit \\
        --victim=runs/digit --workdir=runs/piracy-cost-digit
"""

import ml_collections

from nullmark_jax.experiments import piracy_cost
from nullmark_jax.experiments.attackers import choose_task


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = piracy_cost.default()
    config.task = task
    # Later paper, Figure 2: training cycles with all data, from the owner's model and from scratch.
    if task == "digit":
        config.paper.pirate_steps = 1_000_000.0
        config.paper.scratch_steps = 100_000.0
    if task == "quickstart":  # It has 1,294 training images in all.
        config.grid.fractions = (0.1, 1.0)
        config.grid.batch_size = 32
    if smoke:
        config.test_images = 100
        config.grid.fractions = (1.0,)
        config.grid.ways = ("adam-tamed",)
        config.grid.learning_rates = (1e-3,)
        config.grid.steps = 20
        config.points = 3
    return config
