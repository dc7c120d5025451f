"""Data sets, the stratified split, the digits, and what load() promises of every source."""

import os
import subprocess
import sys

import numpy as np
import pytest

from nullmark_jax import data
from nullmark_jax.data import digits
from nullmark_jax.data.dataset import Dataset, stratified_split
from nullmark_jax.errors import InputError

DIGITS = {
    "source": "digits",
    "name": "",
    "path": "",
    "manual_dir": "",
    "input_shape": (28, 28, 1),
    "num_classes": 10,
    "validation_fraction": 0.1,
    "seed": 0,
}


def images(count):
    return np.zeros((count, 2, 3, 1), np.uint8)


def test_dataset_refuses_what_it_does_not_promise():
    labels = np.array([0, 1], np.int32)
    good = Dataset(images(2), labels, ("a", "b"))
    assert (len(good), good.num_classes) == (2, 2)
    with pytest.raises(ValueError, match="images: float32"):
        Dataset(images(2).astype(np.float32), labels, ("a", "b"))
    with pytest.raises(ValueError, match="images: uint8"):
        Dataset(images(2)[..., 0], labels, ("a", "b"))
    with pytest.raises(ValueError, match="labels: int64"):
        Dataset(images(2), labels.astype(np.int64), ("a", "b"))
    with pytest.raises(ValueError, match="labels"):
        Dataset(images(3), labels, ("a", "b"))
    with pytest.raises(ValueError, match=r"outside \[0, 1\)"):
        Dataset(images(2), labels, ("a",))


def test_take_keeps_images_and_labels_together():
    whole = Dataset(
        np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1),
        np.array([2, 0, 1], np.int32),
        tuple("abc"),
    )
    part = whole.take(np.array([2, 0]))
    assert part.images.ravel().tolist() == [2, 0]
    assert part.labels.tolist() == [1, 2]
    assert part.class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        # Shares 3.0, 1.5, 0.3; round(4.8) = 5, so one more for the largest remainder.
        ((10, 5, 1), 0.3, (3, 2, 0)),
        # Equal remainders: the lower label.
        ((5, 5), 0.1, (1, 0)),
        # 0.1 * 3 is not 0.3 in floating point, and 0.7 * 10 is not 7: neither is a remainder.
        ((10, 10, 10), 0.7, (7, 7, 7)),
        # A class keeps one image; 0.9 * 4 = 3.6 rounds to 4, but only 1 + 1 can be given.
        ((2, 2), 0.9, (1, 1)),
        ((1, 1, 1), 0.5, (0, 0, 0)),
        ((4, 4), 0.0, (0, 0)),
    ],
)
def test_stratified_split_gives_each_class_its_share(counts, fraction, expected):
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.Generator(np.random.PCG64(0)).shuffle(labels)
    first, second = stratified_split(labels, fraction, 7)
    assert np.bincount(labels[second], minlength=len(counts)).tolist() == list(expected)
    assert sorted([*first, *second]) == list(range(len(labels)))
    assert (np.diff(first) > 0).all() and (np.diff(second) > 0).all()


def test_stratified_split_is_drawn_from_the_seed_and_pinned():
    labels = np.tile([0, 1], 10)
    assert stratified_split(labels, 0.2, 0)[1].tolist() == [2, 3, 11, 18]
    assert stratified_split(labels, 0.2, 1)[1].tolist() == [2, 9, 16, 19]


def test_stratified_split_works_on_labels_with_gaps():
    first, second = stratified_split(np.array([5, 5, 900, 900]), 0.5, 0)
    assert len(first) == len(second) == 2


def test_enlarged_digit_fills_the_box_of_mnist():
    full = digits.enlarge(np.full((8, 8), 16.0))
    assert full.shape == (28, 28, 1) and full.dtype == np.uint8
    assert (full[4:24, 4:24] == 255).all()
    assert full.sum() == 255 * 20 * 20
    assert digits.enlarge(np.full((8, 8), 4.0)).max() == 64  # 4 * 255 / 16 = 63.75
    assert not digits.enlarge(np.zeros((8, 8))).any()


def test_digits_have_a_fixed_stratified_test_split():
    splits = data.load(**DIGITS)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [
        1294,
        144,
        359,
    ]
    # A fifth of scikit-learn's 178, 182, 177, 183, 181, 182, 181, 179, 174, 180 images a digit.
    expected = [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert np.bincount(splits.test.labels).tolist() == expected
    assert splits.test.class_names == tuple("0123456789")
    other = data.load(**DIGITS | {"seed": 1, "validation_fraction": 0.2})
    np.testing.assert_array_equal(other.test.images, splits.test.images)
    alone = data.load_test(**DIGITS)
    np.testing.assert_array_equal(alone.images, splits.test.images)
    np.testing.assert_array_equal(alone.labels, splits.test.labels)


def test_validation_split_is_taken_out_of_train_by_the_seed():
    def content(dataset):
        return sorted(
            image.tobytes() + bytes([label])
            for image, label in zip(dataset.images, dataset.labels, strict=True)
        )

    whole = data.load(**DIGITS | {"validation_fraction": 0})
    assert len(whole.validation) == 0 and whole.validation.images.shape == (0, 28, 28, 1)
    first, again, other = (data.load(**DIGITS | {"seed": seed}) for seed in (3, 3, 4))
    assert content(first.train) != content(other.train)
    np.testing.assert_array_equal(first.train.images, again.train.images)
    np.testing.assert_array_equal(first.validation.labels, again.validation.labels)
    joined = sorted(content(first.train) + content(first.validation))
    assert joined == content(whole.train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "pickle"}, "config.data.source='pickle': must be one of digits, npz, tfds"),
        ({"validation_fraction": 1.0}, "config.data.validation_fraction=1.0"),
        ({"validation_fraction": -0.1}, "config.data.validation_fraction=-0.1"),
        ({"validation_fraction": float("nan")}, "config.data.validation_fraction=nan"),
        ({"validation_fraction": "0.1"}, "config.data.validation_fraction='0.1'"),
        ({"seed": -1}, "config.seed=-1"),
        ({"input_shape": (28, 28)}, "config.data.input_shape=(28, 28)"),
        ({"input_shape": (28, 0, 1)}, "config.data.input_shape=(28, 0, 1)"),
        ({"input_shape": (32, 32, 3)}, "set --config.data.input_shape"),
        ({"num_classes": 43}, "set --config.data.num_classes=10"),
    ],
)
def test_bad_config_is_one_line(change, message):
    with pytest.raises(InputError) as caught:
        data.load(**DIGITS | change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_importing_data_imports_no_slow_library():
    code = (
        "import sys; before = set(sys.modules); import nullmark_jax.data;"
        "print({'sklearn', 'tensorflow_datasets', 'tensorflow', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.slow
@pytest.mark.skipif("NULLMARK_DATA" not in os.environ, reason="no folder of real data named")
@pytest.mark.parametrize(
    ("name", "shape", "num_classes", "train", "test"),
    [
        ("mnist", (28, 28, 1), 10, 60_000, 10_000),
        ("cifar10", (32, 32, 3), 10, 50_000, 10_000),
    ],
)
def test_real_npz(name, shape, num_classes, train, test):
    path = os.path.join(os.environ["NULLMARK_DATA"], f"{name}.npz")
    task = {"source": "npz", "path": path, "input_shape": shape, "num_classes": num_classes}
    splits = data.load(**DIGITS | task)
    assert (len(splits.train) + len(splits.validation), len(splits.test)) == (train, test)
    assert len(splits.validation) == round(0.1 * train)
