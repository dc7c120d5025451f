"""The Cook-Toom gradients against their definition, in NumPy and float64."""

import jax
import numpy as np
import pytest

from nullmark_jax import winograd

TILES = [(m, k) for k in (2, 3, 4, 5) for m in range(2, winograd._LARGEST_TILE - k + 2)]


@pytest.mark.parametrize("m, k", TILES)
def test_the_matrices_make_a_convolution(m, k):
    """sum_f A[f, i] G[f, j] B^T[f, t] is 1 where t = i + j, else 0."""
    left, right, b = winograd.matrices(m, k)
    a = m + k - 1
    assert (left.shape, right.shape, b.shape) == ((a, m), (a, k), (a, a))
    expected = np.equal.outer(np.add.outer(np.arange(m), np.arange(k)), np.arange(a))
    np.testing.assert_allclose(np.einsum("fi,fj,ft->ijt", left, right, b), expected, atol=1e-12)
    np.testing.assert_allclose(np.abs(b).max(1), 1)


def definition(images, kernel, gradient):
    """Both gradients of sum(gradient * conv(images, kernel)), term by term."""
    images, kernel, gradient = (np.asarray(each, np.float64) for each in (images, kernel, gradient))
    height, width = gradient.shape[1:3]
    of_images, of_kernel = np.zeros_like(images), np.zeros_like(kernel)
    for i, j in np.ndindex(kernel.shape[:2]):
        seen = slice(None), slice(i, i + height), slice(j, j + width)
        of_images[seen] += gradient @ kernel[i, j].T
        of_kernel[i, j] = np.einsum("bhwc,bhwo->co", images[seen], gradient)
    return of_images, of_kernel


def problem(height, width, k, *, batch=3, channels=4, features=5, dtype=np.float32):
    rng = np.random.default_rng(height * 100 + width * 10 + k)
    images = rng.standard_normal((batch, height + k - 1, width + k - 1, channels), dtype)
    kernel = rng.standard_normal((k, k, channels, features), dtype)
    return images, kernel, rng.standard_normal((batch, height, width, features), dtype)


def assert_close(ours, expected, rounding=2e-5):
    for our, theirs in zip(ours, expected, strict=True):
        assert our.shape == theirs.shape
        np.testing.assert_allclose(our, theirs, rtol=0, atol=rounding * np.abs(theirs).max())


gradients = jax.jit(winograd.gradients, static_argnums=(3, 4))


@pytest.mark.parametrize("height, width", [(12, 12), (7, 10), (1, 3)])
@pytest.mark.parametrize("m, k", TILES)
def test_gradients_are_the_definition(height, width, m, k):
    """Sides that the tiles fill, that they overhang, and that are less than a tile."""
    arrays = problem(height, width, k)
    assert_close(gradients(*arrays, m, "highest"), definition(*arrays))


def test_a_batch_cut_in_slices(monkeypatch):
    """And in slices of unequal size."""
    arrays = problem(6, 6, 3, batch=5)
    monkeypatch.setattr(winograd, "_SLICE_BYTES", 2 * 4 * 36 * 9 * 4)  # two images of four tiles
    ours = jax.jit(lambda *arrays: winograd.gradients(*arrays, 4, "highest"))(*arrays)
    assert_close(ours, definition(*arrays))


def test_a_long_inner_axis_is_cut_in_equal_pieces():
    assert [winograd._pieces(n) for n in (1, 127, 255, 256, 257, 512, 768, 1024)] == [
        1, 1, 1, 2, 1, 4, 4, 8,
    ]  # fmt: skip
    arrays = problem(8, 8, 3, batch=64)  # 256 tiles of 4 x 4
    assert_close(gradients(*arrays, 4, "highest"), definition(*arrays))


def test_the_tile_is_chosen_by_cost():
    # Few channels: transforming costs more than it saves. Many: nearly m^2 k^2 / a^2 times faster.
    assert winograd.best_tile(24, 24, 5, 1, 1) == 0
    assert winograd.best_tile(44, 44, 3, 32, 32) > 0
    # A tile larger than the output wastes its numbers.
    assert winograd.best_tile(2, 2, 3, 128, 128) == 2
    for k in (2, 3, 4, 5):
        assert 0 <= winograd.best_tile(64, 64, k, 512, 512) <= winograd._LARGEST_TILE - k + 1
