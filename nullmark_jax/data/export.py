"""A task's data set as an `.npz`: `python -m nullmark_jax.data.export --config=FILE.py --out=FILE.npz`.

A data set that TensorFlow Datasets has to download and prepare is so prepared once, before many processes
start that would each begin to; and machines without a network, or without a common disk, are given a file.
`--config.data.source=npz --config.data.path=FILE.npz` reads the same images in the same order.
"""

import pathlib
import sys
from typing import BinaryIO

import numpy as np
from absl import flags

from nullmark_jax import config as configs
from nullmark_jax import data, files, program
from nullmark_jax.run import data_arguments


def main(argv: list[str]) -> int:
    """Runs the program on a command line, its name first; returns the exit status.

    That is 0, or 2 for input that cannot be used: the config, its data, or a file that cannot be written.
    """
    flag_values = flags.FlagValues()
    program.define_config(flag_values, argv, "Of the task, configs/NAME.py.")
    flags.DEFINE_string("out", None, "The file, .npz; is replaced.", flag_values=flag_values)
    flags.mark_flag_as_required("out", flag_values)
    return program.run(_export, flag_values, argv, __doc__ or "")


def _export(flag_values: flags.FlagValues) -> int:
    config = flag_values.config
    configs.check(config)
    # Before a data set is downloaded and prepared.
    with files.writing(flag_values.out):
        pathlib.Path(flag_values.out).parent.resolve(strict=True)
    # Whole: the validation split is taken out where the file is read.
    arguments = data_arguments(config) | {"validation_fraction": 0.0}
    splits = data.load(**arguments, seed=config.seed)

    def write(file: BinaryIO) -> None:
        np.savez(
            file,
            x_train=splits.train.images,
            y_train=splits.train.labels,
            x_test=splits.test.images,
            y_test=splits.test.labels,
        )

    files.write_whole(flag_values.out, write)
    counts = f"{len(splits.train.labels)} training and {len(splits.test.labels)} test images"
    print(f"{flag_values.out}: {counts}; --config.data.source=npz --config.data.path=FILE reads it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
