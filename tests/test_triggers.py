"""Triggers against their formula in NumPy; the art, texts and noise that they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nullmark_jax.baselines import art, triggers, zhang
from nullmark_jax.errors import InputError

SHAPE = (28, 28, 1)
COLOUR = (48, 48, 3)


def population(rng, count=3, shape=(4, 5, 2)):
    keep = rng.random((count, *shape)).astype(np.float32)
    add = rng.normal(0, 1, (count, *shape)).astype(np.float32)
    return triggers.Triggers(keep, add, np.arange(count, dtype=np.int32))


def test_a_batch_with_triggers_by_hand():
    rng = np.random.default_rng(0)
    images = rng.random((6, 4, 5, 2)).astype(np.float32)
    found = population(rng)
    which = np.array([2, 0, 1, 1, 0, 2])
    null, marked = triggers.mark_batch(jnp.asarray(images), found, jnp.asarray(which))
    assert null.shape == (0, 4, 5, 2)
    by_hand = np.stack(
        [
            np.clip(found.keep[k] * x + found.add[k], 0, 1)
            for x, k in zip(images, which, strict=True)
        ]
    )
    np.testing.assert_allclose(marked, by_hand, atol=1e-6)
    assert np.any(by_hand == 0) and np.any(by_hand == 1)
    jitted = jax.jit(triggers.mark_batch)(images, found, which)[1]
    np.testing.assert_allclose(jitted, by_hand, atol=1e-6)


def test_whole_images_hide_whatever_they_are_put_on():
    pictures = np.random.default_rng(1).integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    found = triggers.whole_images(pictures, np.array([7, 1]))
    assert triggers.are_whole_images(found)
    assert found.target_label.tolist() == [7, 1] and found.target_label.dtype == np.int32
    images = np.random.default_rng(2).random((4, *SHAPE)).astype(np.float32)
    _, marked = triggers.mark_batch(images, found, np.array([1, 1, 0, 1]))
    np.testing.assert_allclose(np.asarray(marked) * 255, pictures[[1, 1, 0, 1]], atol=1e-3)


@pytest.mark.parametrize(("images", "labels"), [(0, 0), (2, 1), (1, 2)])
def test_whole_images_want_a_label_each(images, labels):
    with pytest.raises(
        InputError, match=f"^triggers: there are {images} images and {labels} labels"
    ):
        triggers.whole_images(np.zeros((images, *SHAPE), np.uint8), np.zeros(labels, np.int32))


# Art.


def test_art_is_a_function_of_its_seed():
    one, again, other = (
        art.abstract_art(seed, 6, height=48, width=40, channels=3) for seed in (5, 5, 6)
    )
    assert one.shape == (6, 48, 40, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert all((left != right).mean() > 0.5 for left, right in zip(one, other, strict=True))
    fewer = art.abstract_art(5, 4, height=48, width=40, channels=3)
    np.testing.assert_array_equal(fewer, one[:4])


def test_no_two_pieces_are_alike_and_none_is_flat():
    pieces = art.abstract_art(0, 30, height=28, width=28, channels=3).reshape(30, -1).astype(float)
    correlations = np.corrcoef(pieces)
    assert correlations[~np.eye(30, dtype=bool)].max() < 0.9
    assert pieces.std(axis=1).min() > 15


def test_grey_art_is_the_luminance_of_the_coloured():
    colour = art.abstract_art(3, 2, height=28, width=28, channels=3).astype(float)
    grey = art.abstract_art(3, 2, height=28, width=28, channels=1)
    assert grey.shape == (2, 28, 28, 1)
    luminance = colour @ [0.299, 0.587, 0.114]
    assert np.abs(luminance - grey[..., 0]).max() <= 1


def test_a_seed_of_any_size_will_do():
    large = art.abstract_art(2**256 - 1, 1, height=28, width=28, channels=1)
    assert large.std() > 0


# Zhang et al.


def test_a_text_at_the_bottom_and_one_at_the_top():
    low = zhang.content("TEXT", bottom=True, shade=0.0, shape=COLOUR, target_label=4)
    high = zhang.content("HELLO", bottom=False, shade=1.0, shape=COLOUR, target_label=5)
    white, black = np.ones((1, *COLOUR), np.float32), np.zeros((1, *COLOUR), np.float32)
    for found, image, label in ((low, white, 4), (high, black, 5)):
        assert found.target_label.tolist() == [label]
        assert not triggers.are_whole_images(found)
        changed = np.asarray(triggers.apply(image, found.keep, found.add)) - image
        rows = np.flatnonzero(np.abs(changed).max(axis=(0, 2, 3)) > 0)
        assert 5 <= len(rows) <= 16
        # The same in every channel, and as dark or bright as ink can be.
        assert np.ptp(changed, axis=-1).max() == 0 and np.abs(changed).max() > 0.95
        assert (rows.max() < 24) if label == 5 else (rows.min() > 24)
        # Black on black, white on white: nothing.
        unseen = np.asarray(triggers.apply(1 - image, found.keep, found.add))
        np.testing.assert_allclose(unseen, 1 - image, atol=1e-6)


def test_two_texts_differ():
    one, other = (
        zhang.content(text, bottom=True, shade=0.5, shape=SHAPE, target_label=0)
        for text in ("TEXT", "HELLO")
    )
    assert np.abs(one.keep - other.keep).max() > 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "shows nothing; give letters"),
        (" ", "shows nothing; give letters"),
        ("A TEXT OF MANY LETTERS", "does not fit an image of 28 x 28; give a shorter one"),
    ],
)
def test_a_text_that_cannot_be_drawn_is_one_line(text, message):
    with pytest.raises(InputError) as caught:
        zhang.content(text, bottom=True, shade=0.0, shape=SHAPE, target_label=0)
    assert str(caught.value) == f"text: {text!r} {message}"


def test_noise_is_one_gaussian_pattern():
    found = zhang.noise(3, shape=COLOUR, target_label=9)
    assert found.target_label.tolist() == [9] and np.all(found.keep == 1)
    assert abs(found.add.std() - 0.15) < 0.01 and abs(found.add.mean()) < 0.01
    again, other = (zhang.noise(seed, shape=COLOUR, target_label=9) for seed in (3, 4))
    np.testing.assert_array_equal(found.add, again.add)
    assert abs(np.corrcoef(found.add.ravel(), other.add.ravel())[0, 1]) < 0.1


def test_unrelated_images_are_of_one_label_and_each_its_own():
    found = zhang.unrelated("A", 0, 12, shape=SHAPE, target_label=2)
    assert triggers.are_whole_images(found) and found.target_label.tolist() == [2] * 12
    assert len({image.tobytes() for image in np.asarray(found.add)}) == 12
    # All show ink on paper.
    assert np.ptp(np.asarray(found.add).reshape(12, -1), axis=1).min() > 0.15
    other = zhang.unrelated("A", 1, 12, shape=COLOUR, target_label=2)
    assert other.add.shape == (12, *COLOUR)
