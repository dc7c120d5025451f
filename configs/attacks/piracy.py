"""Piracy: embed a second watermark in a watermarked model.

    python -m nullmark_jax.experiments.piracy --config=configs/attacks/piracy.py:digit \\
        --victim=runs/digit-0 --victim=runs/digit-1 --victim=runs/digit-2 --workdir=runs/piracy-digit
    python -m nullmark_jax.experiments.piracy --config=configs/attacks/piracy.py:quickstart,smoke \\
        --victim=runs/quickstart --workdir=runs/piracy-smoke
"""

import ml_collections

from nullmark_jax.experiments import piracy
from nullmark_jax.experiments.attackers import choose_task, set_paper_attacker

# Later paper, Table 3, after the attack: NC, the owner's null and true, the pirate's null and true.
_TABLE_3 = {
    "digit": (0.1902, 0.1120, 0.0810, 0.1798, 0.4008),
    "face": (0.1203, 0.0346, 0.1653, 0.0425, 0.6740),
    "traffic": (0.1275, 0.1219, 0.0813, 0.1271, 0.1300),
    "object": (0.1781, 0.1638, 0.0600, 0.1752, 0.1560),
}
# Earlier paper, Table V, after the attack.
_TABLE_V = {
    "digit": (0.9867, 0.9954, 1.0, 0.1033, 0.0),
    "traffic": (0.9455, 0.9719, 1.0, 0.0569, 0.0),
    "face": (0.9727, 0.9888, 1.0, 0.0008, 0.0),
}


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = piracy.default()
    config.task = task
    for later, table in ((True, _TABLE_3), (False, _TABLE_V)):
        if task in table:
            names = [f"{'' if later else 'earlier_'}{name}" for name in piracy.PRINTED]
            config.paper.update(dict(zip(names, table[task], strict=True)))
    set_paper_attacker(config.later, task)
    set_paper_attacker(config.earlier, task)
    config.earlier.cross_entropy = "clipped"
    config.earlier.epochs = 100
    if task == "quickstart":  # It has 1,294 training images in all.
        config.later.images = config.earlier.images = 400
        config.later.batch_size = config.earlier.batch_size = 32
        config.grid.images = ()
        config.grid.fractions = (0.1, 1.0)
        config.grid.batch_size = 32
    elif task == "face":  # The stand-in has 2,189 training images in all.
        config.later.images = config.earlier.images = 500
        config.grid.images = ()
    if smoke:
        config.test_images = 100
        config.later.pirates = 2
        config.later.epochs = 2
        config.earlier.epochs = 2
        config.grid.cross_entropies = ("logits",)
        config.grid.ways = ("adam-tamed",)
        config.grid.learning_rates = (1e-3,)
        config.grid.fractions = (0.1,)
        config.grid.images = ()
        config.grid.steps = 40
        config.strongest_pirates = 1
    return config
