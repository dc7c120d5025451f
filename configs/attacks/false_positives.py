"""False positives: do watermarks that nobody embedded verify, and how many signatures must a cheat try?

    python -m nullmark_jax.experiments.false_positives --config=configs/attacks/false_positives.py:digit \\
        --victim=runs/digit --victim=runs/digit-free --workdir=runs/false-positives-digit
"""

import ml_collections

from nullmark_jax.experiments import false_positives
from nullmark_jax.experiments.attackers import choose_task

# Later paper, section 7.3: how many of 1,000 verified, on free and on watermarked models.
_LATER = {"digit": (0, 0), "face": (0, 0), "traffic": (0, 0), "object": (0, 0.001)}
# Earlier paper, Table IV: how often a single image matches, with W and with inverted W.
_EARLIER = {"digit": (0.0997, 0.1007), "traffic": (0.0259, 0.0305), "face": (0.0016, 0.0008)}


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = false_positives.default()
    config.task = task
    config.paper.update(dict(zip(("free", "watermarked"), _LATER.get(task, ()), strict=False)))
    config.paper.update(
        dict(zip(("true_match", "null_match"), _EARLIER.get(task, ()), strict=False))
    )
    config.test_images = 0 if task in ("quickstart", "face") else 1000
    if smoke:
        config.test_images = 100
        config.watermarks = 40
        config.tries = 60
        config.screening_images = 20
    return config
