"""Model extraction: train a substitute on the victim's answers alone.

    python -m nullmark_jax.experiments.extraction --config=configs/attacks/extraction.py:traffic \\
        --victim=runs/traffic --config.ood_path=imagenet.npz,faces.npz --workdir=runs/extraction-traffic
    python -m nullmark_jax.experiments.extraction --config=configs/attacks/extraction.py:quickstart,smoke \\
        --victim=runs/quickstart --workdir=runs/extraction-smoke

Each substitute takes the steps of the victim's own training, without its marked copies.
"""

import ml_collections

from nullmark_jax.experiments import extraction
from nullmark_jax.experiments.attackers import choose_task

# Later paper, Table 6: NC of Traffic's substitutes, at these multiples of the training set.
_RATIOS = (1.28, 2.55, 9.58, 12.75)
_TABLE_6 = {
    "ImageNet": (0.9133, 0.9291, None, 0.9437),
    "YouTube Faces": (0.6952, 0.7281, 0.7614, None),
    "Random": (0.0546, 0.0546, None, 0.0546),
}


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = extraction.default()
    config.task = task
    if task == "traffic":
        config.paper.ratios = _RATIOS
        config.paper.sources = ml_collections.ConfigDict(_TABLE_6)
        config.other_fractions = (0.1, 1.28, 2.55)
    elif task in ("quickstart", "face"):  # 1,294 and 2,189 training images in all
        config.task_fractions = (0.1, 0.5, 1.0)
        config.other_fractions = (0.1, 1.0, 5.0)
    if smoke:
        config.test_images = 100
        config.task_fractions = (0.1, 1.0)
        config.other_fractions = (0.1,)
        config.steps = 60
    return config
