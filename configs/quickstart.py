"""Quickstart: scikit-learn's bundled handwritten digits, 28x28, on the Digit net; no download.

    python -m nullmark_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

The objective alone learns null embedding where the pattern does not lie too near to the middle; the time of
signing is chosen so that it does not. Under a minute on two cores.
"""

import ml_collections

from nullmark_jax.config import choose, default


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    choose(argument, ())
    config = default()
    config.task = "quickstart"
    config.model = "digit"
    config.epochs = 20
    config.batch_size = 32
    config.data.source = "digits"
    config.data.input_shape = (28, 28, 1)
    config.data.num_classes = 10
    config.data.validation_fraction = 0.1
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0
    config.augmentation.shift = 2
    config.owner.min_free = 0.4
    return config
