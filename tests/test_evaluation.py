"""evaluation.py against counting by hand, image by image."""

import jax.numpy as jnp
import numpy as np
import pytest

from nullmark_jax import evaluation, populations, transform
from nullmark_jax.baselines.triggers import as_triggers
from nullmark_jax.data import Dataset

SIDE, CLASSES, IMAGES = 5, 4, 23
RNG = np.random.default_rng(0)
DATASET = Dataset(
    RNG.integers(0, 256, (IMAGES, SIDE, SIDE, 2), dtype=np.uint8),
    RNG.integers(0, CLASSES, IMAGES).astype(np.int32),
    ("a", "b", "c", "d"),
)
PARAMS = RNG.normal(size=(SIDE * SIDE * 2, CLASSES)).astype(np.float32)
WATERMARKS = transform.random_watermarks(
    1, 3, height=SIDE, width=SIDE, num_classes=CLASSES, pattern_size=2, extreme_value=2.0
)


def apply_fn(params, images):
    return images.reshape(images.shape[0], -1) @ params


def by_hand():
    """images, correct, null, agree, true_images, true of each watermark."""
    rows = []
    for pattern, target, extreme in zip(*WATERMARKS, strict=True):
        counts = dict.fromkeys(("images", "correct", "null", "agree", "true_images", "true"), 0)
        for image, label in zip(DATASET.images / 255.0, DATASET.labels, strict=True):
            null, true = image.copy(), image.copy()
            for row, column in zip(*np.nonzero(pattern), strict=True):
                null[row, column] = extreme * pattern[row, column]
                true[row, column] = -extreme * pattern[row, column]
            clean, null, true = (np.argmax(x.ravel() @ PARAMS) for x in (image, null, true))
            counts["images"] += 1
            counts["correct"] += clean == label
            counts["null"] += clean == null == label
            counts["agree"] += clean == null
            counts["true_images"] += label != target
            counts["true"] += label != target and true == target
        rows.append(tuple(int(value) for value in counts.values()))
    return [list(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("batch_size", [1, 7, 23, 512])
def test_the_counts_are_those_made_by_hand_whatever_the_batch(batch_size):
    evaluate = evaluation.make_evaluator(apply_fn, DATASET, batch_size=batch_size)
    counts = evaluate(jnp.asarray(PARAMS), WATERMARKS)
    assert [field.tolist() for field in counts] == by_hand()


def test_other_parameters_with_the_same_evaluator():
    evaluate = evaluation.make_evaluator(apply_fn, DATASET)
    always = np.zeros_like(PARAMS)  # argmax of equal logits is class 0
    counts = evaluate(jnp.asarray(always), WATERMARKS)
    zeros = int((DATASET.labels == 0).sum())
    assert counts.correct.tolist() == [zeros] * 3
    assert counts.agree.tolist() == [IMAGES] * 3
    assert evaluate(jnp.asarray(PARAMS), WATERMARKS).correct.tolist() == by_hand()[1]


def test_one_image():
    one = Dataset(DATASET.images[:1], DATASET.labels[:1], DATASET.class_names)
    counts = evaluation.make_evaluator(apply_fn, one)(jnp.asarray(PARAMS), WATERMARKS)
    assert counts.images.tolist() == [1, 1, 1]


def triggers(rng, count, *, whole=False):
    shape = (count, SIDE, SIDE, 2)
    keep = np.zeros(shape) if whole else rng.random(shape)
    return as_triggers(keep, rng.random(shape), np.arange(count) % CLASSES)


@pytest.mark.parametrize("batch_size", [7, 512])
def test_triggers_on_every_image_of_another_label(batch_size):
    marks = triggers(np.random.default_rng(3), 4)
    shown = true = 0
    for keep, add, target in zip(*map(np.asarray, marks), strict=True):
        for image, label in zip(DATASET.images / 255.0, DATASET.labels, strict=True):
            answer = np.argmax(np.clip(keep * image + add, 0, 1).ravel() @ PARAMS)
            shown += label != target
            true += label != target and answer == target
    counts = evaluation.make_evaluator(apply_fn, DATASET, batch_size=batch_size)(PARAMS, marks)
    images, correct = by_hand()[0][0], by_hand()[1][0]
    assert [int(field) for field in counts] == [images, correct, shown, true]
    assert 0 < true < shown
    assert counts.true_accuracy == pytest.approx(true / shown)


def test_triggers_that_are_images_are_shown_once_each():
    marks = triggers(np.random.default_rng(4), 9, whole=True)
    answers = [np.argmax(np.ravel(image) @ PARAMS) for image in marks.add]
    counts = evaluation.make_evaluator(apply_fn, DATASET)(PARAMS, marks)
    right = int(np.sum(np.array(answers) == marks.target_label))
    assert (int(counts.true_images), int(counts.true)) == (9, right)
    assert int(counts.images) == IMAGES and int(counts.correct) == by_hand()[1][0]


@pytest.mark.parametrize("batch_size", [4, 512])
def test_members_counts_are_those_of_each_alone_on_its_own_rows(batch_size):
    members = [PARAMS, -PARAMS, PARAMS[::-1].copy()]
    marks = [
        transform.random_watermarks(
            seed, 2, height=SIDE, width=SIDE, num_classes=CLASSES, pattern_size=2, extreme_value=2.0
        )
        for seed in range(3)
    ]
    rows = np.stack([np.random.default_rng(seed).permutation(IMAGES)[:9] for seed in range(3)])
    evaluate = evaluation.make_population_evaluator(
        apply_fn, DATASET.images, DATASET.labels, batch_size=batch_size
    )
    found = evaluate(np.stack(members), populations.stack(marks), rows)
    for params, own, some, counts in zip(members, marks, rows, found, strict=True):
        alone = evaluation.make_evaluator(apply_fn, DATASET.take(some))
        expected = alone(jnp.asarray(params), own)
        assert [x.tolist() for x in counts] == [x.tolist() for x in expected]
        assert counts.images.tolist() == [9, 9]
