"""The counts behind NC, null and true, against a batch counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nullmark_jax.metrics import Counts, count

# y_W = 3. Per image: y, F(x), F(null copy), F(true copy).
IMAGES = np.array(
    [
        (0, 0, 0, 3),  # all as it should be
        (1, 1, 1, 1),  # the true copy keeps its label
        (2, 2, 0, 3),  # the null copy changes its label
        (2, 1, 1, 3),  # misclassified: agrees, but no null success
        (2, 1, 2, 3),  # the null copy is right where the image is not
        (3, 3, 3, 3),  # y = y_W: no evidence for the true embedding
        (3, 0, 3, 0),  # y = y_W, and everything wrong
    ],
    np.int32,
)
EXPECTED = Counts(images=7, correct=4, null=3, agree=4, true_images=5, true=4)
FIELDS = Counts._fields


def counted(rows: np.ndarray, target: int = 3, valid: np.ndarray | bool = True) -> Counts:
    labels, clean, null, true = jnp.asarray(rows.T)
    return count(clean, null, true, labels, jnp.int32(target), valid)


def test_by_hand():
    assert counted(IMAGES) == EXPECTED


def test_counts_are_int32_scalars():
    for field in counted(IMAGES):
        assert (field.shape, field.dtype) == ((), jnp.int32)


def test_rates_by_hand():
    counts = counted(IMAGES)
    np.testing.assert_allclose(counts.normal_accuracy, 4 / 7, rtol=1e-6)
    np.testing.assert_allclose(counts.null_accuracy, 3 / 7, rtol=1e-6)
    np.testing.assert_allclose(counts.null_agreement, 4 / 7, rtol=1e-6)
    np.testing.assert_allclose(counts.true_accuracy, 4 / 5, rtol=1e-6)


def test_jit_equals_eager():
    labels, clean, null, true = jnp.asarray(IMAGES.T)
    assert jax.jit(count)(clean, null, true, labels, jnp.int32(3)) == EXPECTED


@pytest.mark.parametrize("cut", [0, 3, 7])
def test_counts_of_two_batches_add_up(cut):
    summed = jax.tree.map(lambda a, b: a + b, counted(IMAGES[:cut]), counted(IMAGES[cut:]))
    assert summed == EXPECTED


def test_order_does_not_matter():
    assert counted(IMAGES[[3, 1, 6, 0, 5, 2, 4]]) == EXPECTED


def test_padding_counts_nowhere():
    padding = np.array([(0, 0, 0, 3), (1, 1, 1, 1), (3, 3, 3, 3)], np.int32)
    valid = np.arange(10) < 7
    assert counted(np.concatenate([IMAGES, padding]), valid=valid) == EXPECTED
    assert counted(IMAGES, valid=False) == Counts(0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("host", [False, True])
def test_rates_of_nothing_are_not_numbers(host):
    counts = counted(IMAGES[:0])
    if host:  # As evaluation sums them: NumPy, which must not warn.
        counts = jax.tree.map(np.asarray, counts)
    for rate in ("normal_accuracy", "null_accuracy", "null_agreement", "true_accuracy"):
        assert np.isnan(getattr(counts, rate)), rate


def test_vmap_over_watermarks_equals_a_loop():
    rng = np.random.default_rng(0)
    labels, clean = rng.integers(0, 4, (2, 50), dtype=np.int32)
    null, true = rng.integers(0, 4, (2, 3, 50), dtype=np.int32)
    targets = np.array([0, 3, 1], np.int32)
    together = jax.jit(jax.vmap(count, in_axes=(None, 0, 0, None, 0)))(
        clean, null, true, labels, targets
    )
    compiled = jax.jit(count)
    for k in range(3):
        alone = compiled(clean, null[k], true[k], labels, targets[k])
        assert jax.tree.map(lambda field, k=k: np.asarray(field)[k], together) == alone


def test_bounds_between_the_counts():
    rows = np.random.default_rng(1).integers(0, 4, (200, 4), dtype=np.int32)
    counts = counted(rows)
    assert counts.null <= counts.correct <= counts.images == 200
    assert counts.null <= counts.agree <= counts.images
    assert counts.true <= counts.true_images == int((rows[:, 0] != 3).sum())
