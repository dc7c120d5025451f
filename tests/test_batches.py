"""The choices of an epoch: what the docstrings promise of them, and augmentation by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nullmark_jax.batches import (
    Augmentation,
    Batch,
    augment,
    epoch_batches,
    marked_per_batch,
    pick,
)
from nullmark_jax.errors import InputError


def epoch(seed: int = 0, number: int = 1, **changes) -> Batch:
    arguments = {
        "num_images": 103,
        "batch_size": 10,
        "marked": 4,
        "num_watermarks": 3,
        "augmentation": Augmentation(2, True),
    }
    return epoch_batches(seed, number, **(arguments | changes))


def test_shapes_and_dtypes():
    batch = epoch()
    assert [field.shape for field in batch] == [(10, 10), (10, 4), (10, 10, 2), (10, 10)]
    assert [field.dtype for field in batch] == [np.int32, np.int32, np.int32, np.bool_]


def test_the_same_arguments_give_the_same_bytes():
    for one, other in zip(epoch(7, 3), epoch(7, 3), strict=True):
        assert one.tobytes() == other.tobytes()


def test_another_seed_or_epoch_gives_another_order():
    orders = {epoch(seed, number).index.tobytes() for seed in range(3) for number in range(1, 4)}
    assert len(orders) == 9


def test_each_image_is_taken_at_most_once():
    index = epoch().index.ravel()
    assert len(set(index)) == index.size == 100
    assert index.min() >= 0
    assert index.max() < 103


def test_a_batch_that_divides_the_images_takes_them_all():
    assert sorted(epoch(num_images=100).index.ravel()) == list(range(100))


def test_the_images_left_out_change_from_epoch_to_epoch():
    left_out = [set(range(103)) - set(epoch(0, n).index.ravel()) for n in range(1, 6)]
    assert all(len(images) == 3 for images in left_out)
    assert len(set().union(*left_out)) > 3


@pytest.mark.parametrize("num_watermarks", [1, 3])
def test_which_names_every_watermark_and_no_other(num_watermarks):
    which = epoch(num_watermarks=num_watermarks).which
    assert set(which.ravel()) == set(range(num_watermarks))


def test_without_watermarks_nothing_is_marked():
    assert epoch(marked=0, num_watermarks=0).which.shape == (10, 0)


def test_augmentation_reaches_its_bounds_and_no_further():
    batch = epoch(num_images=1000)
    assert set(batch.shift.ravel()) == {-2, -1, 0, 1, 2}
    assert set(batch.flip.ravel()) == {False, True}


def test_without_augmentation_there_is_no_shift_and_no_flip():
    batch = epoch(augmentation=Augmentation())
    assert not batch.shift.any()
    assert not batch.flip.any()


@pytest.mark.parametrize("batch_size", [0, -1, 104])
def test_a_batch_that_does_not_fit_is_one_clear_line(batch_size):
    with pytest.raises(InputError) as caught:
        epoch(batch_size=batch_size)
    assert str(caught.value) == (
        f"config.batch_size: {batch_size} does not fit 103 training images; take one from 1 to 103"
    )


@pytest.mark.parametrize(
    ("ratio", "size", "marked"),
    [(0.5, 128, 64), (0.1, 128, 13), (0.25, 128, 32), (0.0, 128, 0), (1.0, 128, 128)],
)
def test_marked_per_batch(ratio, size, marked):
    assert marked_per_batch(ratio, size) == marked


jitted = jax.jit(augment, static_argnums=3)
PICTURE = np.arange(1.0, 10.0, dtype=np.float32).reshape(1, 3, 3, 1)


def augmented(rows: int, columns: int, flip: bool, augmentation: Augmentation) -> np.ndarray:
    shift = np.array([[rows, columns]], np.int32)
    return np.asarray(jitted(PICTURE, shift, np.array([flip]), augmentation))[0, :, :, 0]


@pytest.mark.parametrize(
    ("rows", "columns", "flip", "expected"),
    [
        (0, 0, False, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        (1, 0, False, [[1, 2, 3], [1, 2, 3], [4, 5, 6]]),
        (0, -1, False, [[2, 3, 3], [5, 6, 6], [8, 9, 9]]),
        (-2, 2, False, [[7, 7, 7], [7, 7, 7], [7, 7, 7]]),
        (0, 0, True, [[3, 2, 1], [6, 5, 4], [9, 8, 7]]),
        (1, 1, True, [[3, 3, 2], [3, 3, 2], [6, 6, 5]]),  # mirrored first, then moved
    ],
)
def test_augment_by_hand(rows, columns, flip, expected):
    np.testing.assert_array_equal(augmented(rows, columns, flip, Augmentation(2, True)), expected)


def test_augmentation_left_out_does_nothing():
    np.testing.assert_array_equal(augmented(1, 1, True, Augmentation()), PICTURE[0, :, :, 0])
    np.testing.assert_array_equal(
        augmented(1, 0, True, Augmentation(shift=1)), [[1, 2, 3], [1, 2, 3], [4, 5, 6]]
    )
    np.testing.assert_array_equal(
        augmented(1, 0, True, Augmentation(flip=True)), [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    )


def test_augment_treats_each_image_alone_jitted_or_not():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((6, 5, 7, 3), np.float32))
    shift = rng.integers(-2, 3, (6, 2), dtype=np.int32)
    flip = rng.integers(0, 2, 6).astype(bool)
    how = Augmentation(2, True)
    together = augment(images, shift, flip, how)
    assert (together.shape, together.dtype) == (images.shape, images.dtype)
    np.testing.assert_array_equal(jitted(images, shift, flip, how), together)
    images, together = np.asarray(images), np.asarray(together)
    for i in range(6):
        alone = jitted(images[i : i + 1], shift[i : i + 1], flip[i : i + 1], how)
        np.testing.assert_array_equal(together[i], alone[0])


def test_pick_takes_the_rows_of_images_and_labels():
    images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1)
    labels = np.arange(6, dtype=np.int32) * 10
    index = np.array([5, 0, 3], np.int32)
    picked, answers = jax.jit(pick)(images, labels, index)
    np.testing.assert_array_equal(picked, images[[5, 0, 3]])
    np.testing.assert_array_equal(answers, [50, 0, 30])
    assert picked.dtype == jnp.uint8
