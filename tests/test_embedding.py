"""x (+) [p, lambda] and inv(p), against values written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from nullmark_jax.embedding import Watermark, embed, invert, mark_batch, scale_pixels

PATTERN = np.array([[1, -1, 0], [0, 1, -1]], np.int8)


def random_images(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))


def random_patterns(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(-1, 2, shape, dtype=np.int8))


def random_watermarks(count: int, height: int, width: int) -> Watermark:
    return Watermark(
        random_patterns(count, height, width, seed=count),
        jnp.arange(count, dtype=jnp.int32),
        jnp.asarray(2.0 + np.arange(count), jnp.float32),
    )


def test_embed_by_hand():
    images = jnp.array([[[0.1], [0.2], [0.3]], [[0.4], [0.5], [0.6]]])
    expected = np.array(
        [[[2000.0], [-2000.0], [0.3]], [[0.4], [2000.0], [-2000.0]]], dtype=np.float32
    )
    np.testing.assert_array_equal(embed(images, PATTERN, 2000.0), expected)


def test_embed_of_the_inverse_by_hand():
    images = jnp.array([[[0.1], [0.2], [0.3]], [[0.4], [0.5], [0.6]]])
    expected = np.array(
        [[[-2000.0], [2000.0], [0.3]], [[0.4], [-2000.0], [2000.0]]], dtype=np.float32
    )
    np.testing.assert_array_equal(embed(images, invert(PATTERN), 2000.0), expected)


def test_every_channel_takes_the_same_pattern():
    images = random_images(5, 2, 3, 4)
    marked = np.asarray(embed(images, PATTERN, 7.0))
    for channel in range(4):
        expected = np.where(PATTERN == 0, np.asarray(images)[..., channel], 7.0 * PATTERN)
        np.testing.assert_array_equal(marked[..., channel], expected)
    assert (marked[:, 0, 0] == 7.0).all()
    assert (marked[:, 1, 2] == -7.0).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_embed_keeps_the_images_dtype(dtype):
    images = random_images(2, 3, 1).astype(dtype)
    for extreme in (2000.0, jnp.float32(2000.0), np.float32(2000.0)):
        marked = jax.jit(embed)(images, PATTERN, extreme)
        assert marked.dtype == dtype
        assert marked[0, 0, 0] == dtype(2000.0)


@pytest.mark.parametrize("compiled", [False, True])
def test_pixels_outside_the_pattern_keep_their_bits(compiled):
    bits = np.array([0x80000000, 0x7FC12345, 0xFF800000, 0x00000001, 0x3F7FFFFF, 0], np.uint32)
    images = bits.view(np.float32).reshape(2, 3, 1)  # -0, a NaN with payload, -inf, a subnormal...
    function = jax.jit(embed) if compiled else embed
    marked = np.asarray(function(jnp.asarray(images), np.zeros((2, 3), np.int8), 2000.0))
    np.testing.assert_array_equal(marked.view(np.uint32).ravel(), bits)


def test_what_is_written_does_not_depend_on_the_image():
    nothing = jnp.full((2, 3, 1), jnp.nan)
    written = np.asarray(embed(nothing, PATTERN, 2000.0))[..., 0]
    np.testing.assert_array_equal(written[PATTERN != 0], 2000.0 * PATTERN[PATTERN != 0])


def test_embed_twice_is_embed_once():
    once = embed(random_images(4, 2, 3, 3), PATTERN, 2000.0)
    np.testing.assert_array_equal(embed(once, PATTERN, 2000.0), once)


def test_gradient_to_the_images_is_zero_where_written_and_one_elsewhere():
    images = random_images(4, 2, 3, 3)
    gradient = jax.jit(jax.grad(lambda x: embed(x, PATTERN, 2000.0).sum()))(images)
    np.testing.assert_array_equal(
        gradient, np.broadcast_to((PATTERN == 0)[..., None], images.shape).astype(np.float32)
    )


def test_gradient_to_lambda_is_the_pattern():
    images = random_images(2, 3, 2)
    gradient = jax.jit(jax.grad(lambda extreme: (images * embed(images, PATTERN, extreme)).sum()))
    expected = (np.asarray(images) * PATTERN[..., None]).sum()
    np.testing.assert_allclose(gradient(2000.0), expected, rtol=1e-6)


def test_gradients_numerically():
    compiled = jax.jit(lambda x, extreme: embed(x, PATTERN, extreme))
    check_grads(compiled, (random_images(2, 2, 3, 1), jnp.float32(3.0)), order=1)


def test_invert_exchanges_white_and_black():
    np.testing.assert_array_equal(invert(PATTERN), [[-1, 1, 0], [0, -1, 1]])
    assert invert(PATTERN).dtype == np.int8


def test_invert_twice_is_nothing():
    patterns = random_patterns(7, 5, 6)
    np.testing.assert_array_equal(invert(invert(patterns)), patterns)


def test_true_and_null_copies_are_opposite_where_written():
    images, patterns = random_images(7, 5, 6, 3), random_patterns(7, 5, 6)
    null, true = embed(images, patterns, 9.0), embed(images, invert(patterns), 9.0)
    written = np.broadcast_to((np.asarray(patterns) != 0)[..., None], images.shape)
    np.testing.assert_array_equal(np.asarray(null)[written], -np.asarray(true)[written])
    np.testing.assert_array_equal(np.asarray(null)[~written], np.asarray(true)[~written])


# Leading axes of the images, of the pattern, of lambda.
@pytest.mark.parametrize(
    ("images", "pattern", "extreme"),
    [
        ((), (), ()),
        ((4,), (), ()),
        ((4,), (4,), ()),
        ((4,), (4,), (4,)),
        ((), (3,), ()),
        ((), (), (3,)),
        ((3, 1), (4,), ()),
        ((1, 4), (3, 1), (3, 1)),
        ((3, 4), (4,), (3, 1)),
    ],
)
def test_leading_axes_broadcast(images, pattern, extreme):
    x, p = random_images(*images, 5, 6, 2), random_patterns(*pattern, 5, 6)
    extremes = jnp.asarray(2.0 + np.arange(np.prod(extreme, dtype=int)).reshape(extreme))
    marked = np.asarray(jax.jit(embed)(x, p, extremes))
    batch = np.broadcast_shapes(images, pattern, extreme)
    assert marked.shape == (*batch, 5, 6, 2)
    each_x = np.broadcast_to(x, marked.shape)
    each_p = np.broadcast_to(p, (*batch, 5, 6))
    each_extreme = np.broadcast_to(extremes, batch)
    for at in np.ndindex(batch):
        expected = np.where(
            each_p[at][..., None] == 0, each_x[at], (each_p[at] * each_extreme[at])[..., None]
        )
        np.testing.assert_array_equal(marked[at], expected)


def test_vmap_over_a_population_equals_a_loop():
    population = random_watermarks(4, 5, 6)
    images = random_images(3, 5, 6, 2)

    def marked(watermark: Watermark) -> jax.Array:
        return embed(images, watermark.pattern, watermark.extreme_value)

    together = jax.vmap(marked)(population)
    compiled = jax.jit(marked)
    for k in range(4):
        alone = compiled(jax.tree.map(lambda leaf, k=k: np.asarray(leaf)[k], population))
        np.testing.assert_array_equal(together[k], alone)


def test_jit_equals_eager():
    images, patterns = random_images(4, 5, 6, 3), random_patterns(4, 5, 6)
    np.testing.assert_array_equal(
        jax.jit(embed)(images, patterns, 2000.0), embed(images, patterns, 2000.0)
    )
    np.testing.assert_array_equal(jax.jit(invert)(patterns), invert(patterns))


def test_scale_pixels_maps_bytes_onto_the_unit_interval():
    scaled = scale_pixels(jnp.arange(256, dtype=jnp.uint8))
    assert scaled.dtype == jnp.float32
    assert (scaled[0], scaled[255]) == (0.0, 1.0)
    np.testing.assert_allclose(scaled[51], 0.2, rtol=1e-6)
    np.testing.assert_allclose(scaled, np.arange(256) / 255, rtol=2e-7)


def test_scale_pixels_jit_equals_eager():
    pixels = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(jax.jit(scale_pixels)(pixels), scale_pixels(pixels))


def test_mark_batch_gives_each_image_its_own_watermark():
    population = random_watermarks(3, 5, 6)
    images = random_images(5, 5, 6, 2)
    which = np.array([2, 0, 1, 1, 2], np.int32)
    null, true = jax.jit(mark_batch)(images, population, which)
    assert null.shape == true.shape == images.shape
    for i, k in enumerate(which):
        written = (2.0 + k) * np.asarray(population.pattern)[k][..., None]
        kept = written == 0
        np.testing.assert_array_equal(null[i], np.where(kept, images[i], written))
        np.testing.assert_array_equal(true[i], np.where(kept, images[i], -written))


def test_a_watermark_is_a_pytree_of_three_leaves():
    watermark = Watermark(PATTERN, np.int32(3), np.float32(2000.0))
    leaves = jax.tree.leaves(watermark)
    assert [np.shape(leaf) for leaf in leaves] == [(2, 3), (), ()]
    assert [leaf.dtype for leaf in leaves] == [np.int8, np.int32, np.float32]
