"""The convolutions and pools, values and gradients, against lax's and Linen's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.test_util import check_grads

from nullmark_jax import convolution

# (height, width, channels, kernel side, features): the papers' shapes made small, both of the special
# cases of the input's gradient (an output much smaller than the input) and odd sides among them.
SHAPES = [(28, 28, 1, 5, 4), (12, 12, 3, 5, 6), (9, 9, 4, 3, 5), (7, 7, 4, 3, 5), (11, 8, 3, 4, 2)]


def arrays(height, width, channels, side, features, batch=3):
    rng = np.random.default_rng(height * width + features)
    images = rng.normal(size=(batch, height, width, channels)).astype(np.float32)
    kernel = rng.normal(size=(side, side, channels, features)).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(kernel)


def plain(images, kernel, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (1, 1), padding, dimension_numbers=dimensions)


def by_hand(images, kernel):
    """The cross-correlation as its definition has it."""
    batch, height, width, _ = images.shape
    rows, columns, _, features = kernel.shape
    out = np.zeros((batch, height - rows + 1, width - columns + 1, features))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            patch = np.asarray(images, np.float64)[:, i : i + rows, j : j + columns]
            out[:, i, j] = np.einsum("bhwc,hwcf->bf", patch, np.asarray(kernel, np.float64))
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_the_definition(shape):
    images, kernel = arrays(*shape)
    np.testing.assert_allclose(
        convolution.conv2d(images, kernel), by_hand(images, kernel), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_laxs(shape, padding):
    images, kernel = arrays(*shape)
    weights = jax.random.normal(jax.random.key(0), plain(images, kernel, padding).shape)
    ours = jax.jit(
        jax.grad(lambda x, w: (weights * convolution.conv2d(x, w, padding)).sum(), argnums=(0, 1))
    )(images, kernel)
    theirs = jax.grad(lambda x, w: (weights * plain(x, w, padding)).sum(), argnums=(0, 1))(
        images, kernel
    )
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4 * float(jnp.abs(other).max()))


def test_gradient_of_a_batch_cut_in_slices(monkeypatch):
    images, kernel = arrays(9, 9, 4, 3, 5, batch=7)
    monkeypatch.setattr(convolution, "_SLICE_BYTES", 2 * images[0].nbytes)  # 2, 2, 2 and 1
    ours = jax.grad(lambda w: jnp.sin(convolution.conv2d(images, w)).sum())(kernel)
    theirs = jax.grad(lambda w: jnp.sin(plain(images, w, "VALID")).sum())(kernel)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_gradients_are_numerical_ones():
    images, kernel = arrays(5, 6, 2, 3, 3, batch=2)
    check_grads(convolution.conv2d, (images, kernel), order=1, modes=["rev"], rtol=2e-2)


def test_bias_relu_is_relu_of_the_sum_with_its_gradient():
    features, _ = arrays(6, 5, 4, 3, 1)
    bias = jnp.asarray([0.5, -0.5, 0.0, 1.0])

    def theirs(x, b):
        return nn.relu(x + b[None, None, None])

    np.testing.assert_array_equal(convolution.bias_relu(features, bias), theirs(features, bias))
    for argument in (0, 1):
        mine, other = (
            jax.grad(lambda x, b, f=f: jnp.square(f(x, b)).sum(), argnums=argument)(features, bias)
            for f in (convolution.bias_relu, theirs)
        )
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height, width", [(6, 8), (7, 9), (2, 2)])
def test_fused_pool_is_pool_of_relu_of_the_sum_with_its_gradient(height, width):
    features, _ = arrays(height, width, 4, 3, 1)
    bias = jnp.asarray([0.5, -0.5, 0.0, 1.0])

    def theirs(x, b):
        return nn.max_pool(nn.relu(x + b[None, None, None]), (2, 2), (2, 2))

    np.testing.assert_array_equal(
        convolution.bias_relu_pool(features, bias), theirs(features, bias)
    )
    for argument in (0, 1):
        mine, other = (
            jax.jit(jax.grad(lambda x, b, f=f: jnp.square(f(x, b)).sum(), argnums=argument))(
                features, bias
            )
            for f in (convolution.bias_relu_pool, theirs)
        )
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


def test_of_equal_maxima_the_first_gets_the_gradient_and_none_where_relu_is_shut():
    features = jnp.asarray([[1.0, 2.0, 5.0, 5.0], [2.0, 2.0, 5.0, 5.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: convolution.bias_relu_pool(x, jnp.zeros(1)).sum())(features)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1, 1, 0], [0, 0, 0, 0]])
    shut = jax.grad(lambda x: convolution.bias_relu_pool(x, jnp.full(1, -9.0)).sum())(features)
    np.testing.assert_array_equal(shut, np.zeros_like(features))
