"""Traffic: GTSRB on the net of Table 12.

    python -m nullmark_jax.main --config=configs/traffic.py --workdir=runs/traffic
    python -m nullmark_jax.main --config=configs/traffic.py:paper     # Table 14 to the letter

The recipe without :paper was chosen on tracks held out of the training set (frames of one track are near
copies, so that images held out at random say little), but for lambda's rise, which frames held out at
random showed to suffice. The objective alone learns null embedding where the pattern does not lie in the
middle. On a third of GTSRB (results/traffic/README.md) expect NC 98.5%, null 98.3%, true 100% in 11 to 16
minutes on one of two busy cores.
"""

import ml_collections

from nullmark_jax.config import choose, default


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    recipe = choose(argument)
    config = default()
    config.task = "traffic"
    config.model = "traffic"
    config.data.name = "gtsrb"
    config.data.input_shape = (48, 48, 3)
    config.data.num_classes = 43
    # Later paper, Table 4; the first is the watermark-free model's.
    config.paper.free_normal_accuracy = 0.9684
    config.paper.normal_accuracy = 0.961
    config.paper.null_accuracy = 0.9576
    config.paper.true_accuracy = 1.0
    # Earlier paper, Table III, of wonder filters.
    config.paper.earlier_free_normal_accuracy = 0.971
    config.paper.earlier_normal_accuracy = 0.949
    config.paper.earlier_true_accuracy = 1.0
    config.paper.earlier_null_agreement = 0.9948
    if recipe == "paper":
        config.data.validation_fraction = 0.0
        config.epochs = 120
        config.optimizer.name = "sgd"
        config.optimizer.learning_rate = 0.02
        config.optimizer.schedule = "inverse-time"
        config.optimizer.decay = 2e-5
        config.loss.inject_ratio = 0.1
        return config
    config.epochs = 8
    config.batch_size = 32
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0
    config.optimizer.b2 = 0.99
    config.weight_standardization = True
    config.loss.inject_ratio = 0.25
    config.owner.min_free = 0.25
    # lambda from 1 up: at 2000 from the start a deep net shuts what null copies flood, for good.
    config.curriculum.start = 1.0
    config.curriculum.epochs = 6.0
    config.augmentation.shift = 3
    return config
