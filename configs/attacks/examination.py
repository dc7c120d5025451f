"""Examination: does what an authority does to a pirate's copy tell the pirate's mark from the owner's?

A watermark-free model, where one is given, is the control: marked late, as an honest owner's may be.

    python -m nullmark_jax.experiments.examination --config=configs/attacks/examination.py:digit \\
        --victim=runs/digit --victim=runs/digit-free --workdir=runs/examination-digit
"""

import ml_collections

from nullmark_jax.experiments import examination
from nullmark_jax.experiments.attackers import choose_task, set_paper_attacker
from nullmark_jax.experiments.late_marks import Pirate


def _of_at_most(config: ml_collections.ConfigDict, most: int) -> tuple[tuple, ...]:
    """Returns the pirates, with no more images than so many."""
    pirates = [Pirate(*each) for each in config.attackers]
    return tuple(tuple(each._replace(images=min(each.images, most))) for each in pirates)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = examination.default()
    config.task = task
    set_paper_attacker(config.tuning, task)
    config.tuning.inject_ratio = 0.0
    config.tuning.epochs = 10
    if task == "quickstart":  # It has 1,294 training images in all.
        config.attackers = _of_at_most(config, 400)
        config.batch_size = 32
        config.tuning.images = 400
        config.tuning.batch_size = 32
    elif task == "face":  # The stand-in has 2,189 training images in all.
        config.attackers = _of_at_most(config, 1000)
        config.tuning.images = 1000
    if smoke:
        config.test_images = 100
        config.attackers = (("adam-tamed", 129, 30, 0.02, "int8"),)
        config.weights = False
        config.formats = ("int8",)
        config.ratios = (0.02,)
        config.tuning.epochs = 1
    return config
