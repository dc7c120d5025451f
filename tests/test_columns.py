"""Convolutions as matrix products, against lax's; on CUDA they are what `convolution` lowers to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nullmark_jax import columns, convolution

SHAPES = [(28, 28, 1, 5, 4), (9, 9, 4, 3, 5), (11, 8, 3, 4, 2), (5, 6, 2, 2, 3)]


def arrays(height, width, channels, side, features, members=()):
    rng = np.random.default_rng(height * width + features)
    images = rng.normal(size=(*members, 3, height, width, channels)).astype(np.float32)
    kernel = rng.normal(size=(*members, side, side, channels, features)).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(kernel)


def plain(images, kernel, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        images, kernel, (1, 1), padding, dimension_numbers=dimensions, precision="highest"
    )


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_laxs(shape, padding):
    images, kernel = arrays(*shape)
    expected, back = jax.vjp(lambda x, w: plain(x, w, padding), images, kernel)
    found = columns.conv2d(images, kernel, padding=padding, precision="highest")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    gradient = jax.random.normal(jax.random.key(0), expected.shape)
    ours = columns.gradients(images, kernel, gradient, padding=padding, precision="highest")
    for mine, other in zip(ours, back(gradient), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4 * float(jnp.abs(other).max()))


def lowered(platform, function, *arguments):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("members", [(), (2,)])
def test_on_cuda_a_training_step_has_products_and_no_convolution(members):
    images, kernel = arrays(9, 9, 4, 3, 5, members)

    def gradients(x, w):
        return jax.grad(lambda x, w: (convolution.conv2d(x, w) ** 2).sum(), argnums=(0, 1))(x, w)

    function = jax.vmap(gradients) if members else gradients
    on_cuda = lowered("cuda", function, images, kernel)
    assert "stablehlo.convolution" not in on_cuda
    assert "stablehlo.dot_general" in on_cuda
    for other in ("tpu", "rocm"):
        assert "stablehlo.convolution" in lowered(other, function, images, kernel)
