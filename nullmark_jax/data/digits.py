"""The digits source: scikit-learn's bundled handwritten digits, in MNIST's format. No download.

1,797 real digits (the test half of UCI's "Optical Recognition of Handwritten Digits"), 8x8 with 17
grey levels. As in MNIST, each is brought to a 20x20 box in the middle of a 28x28 image, light on
dark.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nullmark_jax.data.dataset import (
    Dataset,
    check_image_shape,
    check_num_classes,
    stratified_split,
)

TEST_FRACTION = 0.2
_TEST_SEED = 0  # a constant: the held-out images are the same for every run and every user
_GREY_LEVELS = 16  # pixels are 0..16
_BOX, _MARGIN = 20, 4


def read(
    splits: tuple[str, ...], *, input_shape: tuple[int, int, int], num_classes: int
) -> list[Dataset]:
    """Returns the splits asked for, of 'train' (1,438 images) and 'test' (359).

    The division is stratified and fixed. It does not keep writers apart, because the data do not
    say who wrote what.

    Raises:
      InputError: the task is not 28x28x1 with 10 classes.
    """
    check_image_shape("config.data.source='digits'", (28, 28, 1), input_shape)
    check_num_classes("config.data.source='digits'", 10, num_classes)
    from sklearn.datasets import load_digits  # slow to import

    bunch = load_digits()
    whole = Dataset(
        images=np.stack([enlarge(digit) for digit in bunch.images]),
        labels=bunch.target.astype(np.int32),
        class_names=tuple(str(digit) for digit in range(10)),
    )
    train, test = stratified_split(whole.labels, TEST_FRACTION, _TEST_SEED)
    indices = {"train": train, "test": test}
    return [whole.take(indices[split]) for split in splits]


def enlarge(digit: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Returns an 8x8 digit with values 0..16 as uint8 [28, 28, 1].

    0..16 becomes 0..255 (rounded), bilinear to 20x20, with a margin of 4 black pixels on each side.
    """
    grey = np.round(digit * (255 / _GREY_LEVELS)).astype(np.uint8)
    box = Image.fromarray(grey).resize((_BOX, _BOX), Image.Resampling.BILINEAR)
    return np.pad(np.asarray(box), _MARGIN)[..., None]
