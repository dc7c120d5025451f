"""Transfer learning: a student task on the owner's layers, and the watermark recovered from it.

    python -m nullmark_jax.experiments.transfer --config=configs/attacks/transfer.py:traffic \\
        --victim=runs/traffic --victim=runs/traffic-free --workdir=runs/transfer-traffic

The papers' student is LISA, US traffic signs, prepared from archives in config.student.manual_dir, or an .npz
(--config.student.source=npz --config.student.path=lisa.npz). The digits' students are stand-ins.
"""

import ml_collections

from nullmark_jax.experiments import transfer, transfer_tables
from nullmark_jax.experiments.attackers import choose_task

# Later paper, Tables 7 and 8: the student's NC of a free and of a watermarked teacher; NC, null and true of
# the recovered model.
_TABLES_7_8 = {
    "last layer": (0.8235, 0.7412, 0.9628, 0.9631, 1.0),
    "last two layers": (0.8765, 0.8206, 0.9625, 0.9633, 1.0),
    "all dense layers": (0.9176, 0.9000, 0.9614, 0.9619, 1.0),
    "all layers": (0.9147, 0.9265, 0.9620, 0.9417, 1.0),
}
# Earlier paper, Tables VI and VII; its "added layers" are a new dense layer and the last.
_TABLES_VI_VII = {
    "last two layers": (0.7441, 0.8794, 0.9328, 0.9890, 1.0),
    "all dense layers": (0.8412, 0.8853, 0.9366, 0.9919, 1.0),
    "all layers": (0.9206, 0.9118, 0.9355, 0.9504, 1.0),
}


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    task, smoke = choose_task(argument)
    config = transfer.default()
    config.task = task
    student = config.student
    if task == "traffic":
        student.name = "lisa"
        student.num_classes = 17
        for prefix, tables in (("", _TABLES_7_8), ("earlier_", _TABLES_VI_VII)):
            for way, numbers in tables.items():
                for name, number in zip(transfer_tables.PRINTED, numbers, strict=True):
                    config.paper[f"{prefix}{transfer_tables.printed_name(way, name)}"] = number
    elif task in ("quickstart", "digit"):
        # scikit-learn's digits, neighbouring digits as one class: for quickstart its own images, so that
        # recovery is easy there.
        student.source = "digits"
        student.num_classes = 10
        student.merge = 2
    elif task == "object":
        # Its own classes, two at a time.
        student.name = "cifar10"
        student.num_classes = 10
        student.merge = 2
    else:
        # No second set of faces is at hand: name one.
        student.source = "npz"
        student.num_classes = 2
    if task == "quickstart":
        config.batch_size = 32
    if smoke:
        config.test_images = 100
        config.ways = ("last layer",)
        config.epochs = 1
        config.recovery_epochs = 1
    return config
