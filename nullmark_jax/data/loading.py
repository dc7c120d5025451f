"""Loads a task's data from the source that its config names."""

from collections.abc import Sequence

from nullmark_jax.data import digits, npz, tfds
from nullmark_jax.data.dataset import Dataset, Splits, check_fraction, stratified_split
from nullmark_jax.errors import InputError

SOURCES = ("digits", "npz", "tfds")


def load(
    *,
    source: str,
    name: str,
    path: str,
    manual_dir: str,
    input_shape: Sequence[int],
    num_classes: int,
    validation_fraction: float,
    seed: int,
    mapped: bool = False,
) -> Splits:
    """Loads a task's three splits.

    The test split is the source's own and never depends on the seed. The validation split is taken
    out of the training split, stratified, from the seed (see `dataset.stratified_split`).

    Args:
      source: 'digits', scikit-learn's handwritten digits; 'npz', a file of your own; 'tfds', a
        TensorFlow Datasets builder, read without TensorFlow and prepared first where it must be.
      name: the TFDS builder: 'mnist', 'cifar10', 'gtsrb', 'youtube_faces', 'lisa', or another one
        that is already prepared as array_record ('tfds' only).
      path: the .npz file, or the folder TFDS keeps its data sets in ('' for TFDS's own choice).
      manual_dir: a folder with archives that TFDS would otherwise download ('tfds' only; '' for
        none).
      input_shape: (H, W, C) of the task, which the images must have.
      num_classes: of the task, which the data must have.
      validation_fraction: in [0, 1), of the training images; 0 gives an empty validation split.
      seed: >= 0; of the validation split.
      mapped: leave the images of an uncompressed .npz in their file (`MappedImages`), which the caller then
        checks for damage; the other sources are read whole all the same.

    Raises:
      InputError: the source or its data cannot be used; one line says what, and the remedy.
    """
    check_fraction(validation_fraction)
    if seed < 0:
        raise InputError(f"config.seed={seed}: must be 0 or more")
    train, test = _read(
        ("train", "test"),
        source=source,
        name=name,
        path=path,
        manual_dir=manual_dir,
        input_shape=input_shape,
        num_classes=num_classes,
        mapped=mapped,
    )
    kept, held_out = stratified_split(train.labels, validation_fraction, seed)
    return Splits(
        # Copying a large training set only to leave nothing out would double the memory.
        train=train.take(kept) if len(held_out) else train,
        validation=train.take(held_out),
        test=test,
    )


def load_test(
    *,
    source: str,
    name: str,
    path: str,
    manual_dir: str,
    input_shape: Sequence[int],
    num_classes: int,
    validation_fraction: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Loads the test split alone: `load(...).test` without reading the training images.

    Takes the arguments of `load`; the last two have no influence. An .npz needs only x_test and
    y_test.

    Raises:
      InputError: as `load`.
    """
    del validation_fraction, seed  # of the validation split
    (test,) = _read(
        ("test",),
        source=source,
        name=name,
        path=path,
        manual_dir=manual_dir,
        input_shape=input_shape,
        num_classes=num_classes,
    )
    return test


def _read(
    splits: tuple[str, ...],
    *,
    source: str,
    name: str,
    path: str,
    manual_dir: str,
    input_shape: Sequence[int],
    num_classes: int,
    mapped: bool = False,
) -> list[Dataset]:
    shape = tuple(int(size) for size in input_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"config.data.input_shape={shape}: must be (height, width, channels)")
    if source == "digits":
        return digits.read(splits, input_shape=shape, num_classes=num_classes)
    if source == "npz":
        return npz.read(
            splits, path=path, input_shape=shape, num_classes=num_classes, mapped=mapped
        )
    if source == "tfds":
        return tfds.read(
            splits,
            name=name,
            data_dir=path,
            manual_dir=manual_dir,
            input_shape=shape,
            num_classes=num_classes,
        )
    raise InputError(f"config.data.source={source!r}: must be one of {', '.join(SOURCES)}")
