"""Incremental evaluation equals the network on [images; null copies; true copies]."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nullmark_jax import incremental, models, training
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
from nullmark_jax.models import Conv, ConvNet

EXTREME = 3.0  # Small enough that rounding does not hide a wrong pixel.


def watermark(height, width, size, places, seed=0):
    """A population with a block at each place; its bits are random."""
    rng = np.random.default_rng(seed)
    patterns = np.zeros((len(places), height, width), np.int8)
    for pattern, (row, column) in zip(patterns, places, strict=True):
        pattern[row : row + size, column : column + size] = rng.choice([-1, 1], (size, size))
    return Watermark(
        jnp.asarray(patterns),
        jnp.arange(len(places), dtype=jnp.int32),
        jnp.asarray(EXTREME + rng.random(len(places)), jnp.float32),
    )


def compare(net, shape, which, *, size, shared, batch=5):
    """Returns marks -> (logits, gradient) by incremental evaluation and by concatenation."""
    images = jax.random.uniform(jax.random.key(1), (batch, *shape))
    params = models.init_params(net, jax.random.key(0), shape)
    which = jnp.asarray(which, jnp.int32)

    def differentiated(logits_of):
        def loss(params, marks):
            logits = logits_of(params, images, marks, which)
            flat = jnp.concatenate(logits)
            weights = jax.random.normal(jax.random.key(2), flat.shape)
            return (weights * jnp.tanh(flat)).sum(), logits

        return jax.value_and_grad(loss, has_aux=True)

    ours = differentiated(incremental.for_network(net, pattern_size=size, shared=shared))
    theirs = differentiated(training.concatenated_logits(models.apply_fn(net)))

    @jax.jit
    def found(marks):
        (_, mine), my_gradient = ours(params, marks)
        (_, other), other_gradient = theirs(params, marks)
        return (mine, my_gradient), (other, other_gradient)

    return found


def both(net, shape, marks, which, *, size, shared, batch=5):
    """Returns (logits, gradient) by incremental evaluation and by concatenation."""
    return compare(net, shape, which, size=size, shared=shared, batch=batch)(marks)


def assert_equal(found):
    ours, theirs = (jax.tree.leaves(each) for each in found)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=2e-5 * float(jnp.abs(other).max()))


def net(padding="VALID", sizes=((3, 3), (3,))):
    blocks = tuple(tuple(Conv(4, size) for size in block) for block in sizes)
    return ConvNet(7, blocks, (9,), padding=padding)


CORNERS = [(0, 0), (0, 16), (14, 0), (14, 16), (0, 7), (7, 0), (14, 9), (5, 16), (6, 7), (7, 8)]


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_a_block_anywhere(padding):
    found = compare(net(padding), (20, 22, 3), [0, 0, 0], size=6, shared=1)
    for place in CORNERS:
        assert_equal(found(watermark(20, 22, 6, [place])))


@pytest.mark.parametrize(
    "shape, size, shared, padding",
    [
        ((21, 23, 1), 4, 1, "VALID"),
        ((19, 20, 3), 6, 2, "SAME"),
        ((17, 18, 2), 8, 1, "VALID"),
        pytest.param((21, 23, 1), 4, 1, "SAME", marks=pytest.mark.slow),
        pytest.param((19, 20, 3), 6, 2, "VALID", marks=pytest.mark.slow),
        pytest.param((17, 18, 2), 8, 1, "SAME", marks=pytest.mark.slow),
    ],
)
def test_odd_sides_and_other_blocks(shape, size, shared, padding):
    last = (shape[0] - size, shape[1] - size)
    marks = watermark(*shape[:2], size, [last])
    assert_equal(both(net(padding), shape, marks, [0, 0], size=size, shared=shared))


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_several_watermarks_each_image_its_own(padding):
    marks = watermark(20, 22, 6, [(0, 0), (14, 16), (5, 8)])
    found = both(net(padding), (20, 22, 3), marks, [2, 0, 1, 0], size=6, shared=1)
    assert_equal(found)


@pytest.mark.parametrize(
    "sizes, padding",
    [
        (((5,), (5,)), "VALID"),
        (((4, 1), (3,)), "SAME"),
        (((2, 3),), "VALID"),
        pytest.param(((5,), (5,)), "SAME", marks=pytest.mark.slow),
        pytest.param(((4, 1), (3,)), "VALID", marks=pytest.mark.slow),
        pytest.param(((2, 3),), "SAME", marks=pytest.mark.slow),
    ],
)
def test_other_kernels(sizes, padding):
    marks = watermark(24, 26, 6, [(17, 3)])
    assert_equal(both(net(padding, sizes), (24, 26, 1), marks, [0, 0], size=6, shared=1))


@pytest.mark.slow
@pytest.mark.parametrize("name, shape, classes", [
    ("digit", (28, 28, 1), 10), ("face", (55, 47, 3), 11),
    ("traffic", (48, 48, 3), 43), ("object", (32, 32, 3), 10),
])  # fmt: skip
def test_the_papers_networks_as_they_are_trained(name, shape, classes):
    marks = watermark(*shape[:2], 6, [(9, 13)])
    network = models.create(name, classes, precision="highest")
    assert_equal(both(network, shape, marks, [0, 0], size=6, shared=None, batch=3))


def test_without_marked_images_only_clean_logits():
    marks = watermark(20, 22, 6, [(0, 0)])
    (ours, _), (theirs, _) = both(net(), (20, 22, 3), marks, [], size=6, shared=1)
    assert ours.null.shape == ours.true.shape == (0, 7)
    np.testing.assert_allclose(ours.clean, theirs.clean, rtol=1e-5, atol=1e-6)


def test_copies_run_the_shared_stages_with_params_of_their_own():
    network, marks = net(), watermark(20, 22, 6, [(6, 7)])
    params = models.init_params(network, jax.random.key(0), (20, 22, 3))
    images = jax.random.uniform(jax.random.key(1), (2, 20, 22, 3))
    blind = {**params, "conv_1": jax.tree.map(jnp.zeros_like, params["conv_1"])}
    which = jnp.zeros(2, jnp.int32)
    found = {
        name: incremental.for_network(network, pattern_size=6, on_copies=on_copies)(
            params, images, marks, which
        )
        for name, on_copies in (("same", None), ("blind", lambda params: blind))
    }
    np.testing.assert_array_equal(found["same"].clean, found["blind"].clean)
    # Blind windows cannot tell p from inv(p).
    np.testing.assert_array_equal(found["blind"].null, found["blind"].true)
    assert float(jnp.abs(found["same"].null - found["same"].true).max()) > 1e-2


def test_a_wrong_place_would_be_seen():
    """The tolerance above is fine enough: a block one pixel off gives other logits."""
    found = compare(net(), (20, 22, 3), [0], size=6, shared=1)
    (ours, _), _ = found(watermark(20, 22, 6, [(6, 7)]))
    _, (theirs, _) = found(watermark(20, 22, 6, [(7, 7)]))
    assert float(jnp.abs(ours.null - theirs.null).max()) > 1e-2


def test_arguments_out_of_range_are_one_line():
    with pytest.raises(InputError, match="shared: 3 must be from 0 to 2"):
        incremental.for_network(net(), pattern_size=6, shared=3)
    with pytest.raises(InputError, match="shared: 0 must be from 1 to 2"):
        incremental.for_network(net(), pattern_size=6, shared=0, on_copies=lambda params: params)
    with pytest.raises(InputError, match="pattern_size: 0"):
        incremental.for_network(net(), pattern_size=0)
