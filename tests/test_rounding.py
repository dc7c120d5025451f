"""rounding.py: what TF32 and bfloat16 leave of a product's operands, forwards and backwards."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax
from test_models import operations

from nullmark_jax import convolution, models, rounding


def tf32(values):
    """Rounds float32 to 10 bits of mantissa, to nearest even, on the bits themselves."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rest = 23 - 10
    half = (1 << (rest - 1)) - 1 + ((bits >> rest) & 1)
    return (((bits + half) >> rest) << rest).astype(np.uint32).view(np.float32)


def bfloat16(values):
    return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def exactly(values):
    return np.asarray(values, np.float32)


ROUNDED = {"highest": exactly, "tf32": tf32, "bfloat16": bfloat16}


def matmul(x, w, *, precision):
    return jnp.matmul(x, w, precision=precision)


@pytest.fixture
def operands():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 300)).astype(np.float32)
    x[0, 0] = 2000  # Lambda: it has 7 bits behind the first.
    return (
        x,
        rng.normal(size=(300, 4)).astype(np.float32),
        rng.normal(size=(5, 4)).astype(np.float32),
    )


@pytest.mark.parametrize("precision", ROUNDED)
def test_operands_are_rounded_and_sums_are_not(operands, precision):
    x, w, _ = operands
    cut = ROUNDED[precision]
    expected = cut(x).astype(np.float64) @ cut(w).astype(np.float64)
    found = np.asarray(rounding.product(matmul, precision)(x, w))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-4)
    # A sum in bfloat16 would be far from it, as is the product of what was not rounded.
    exact = x.astype(np.float64) @ w.astype(np.float64)
    assert bool(np.abs(exact - expected).max() > 1e-3) is (precision != "highest")


@pytest.mark.parametrize("precision", ROUNDED)
def test_gradients_are_products_of_rounded_operands(operands, precision):
    x, w, behind = operands
    cut = ROUNDED[precision]
    _, pull_back = jax.vjp(rounding.product(matmul, precision), x, w)
    of_x, of_w = pull_back(behind)
    rounded = [cut(each).astype(np.float64) for each in (x, w, behind)]
    np.testing.assert_allclose(of_x, rounded[2] @ rounded[1].T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_w, rounded[0].T @ rounded[2], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_a_dense_layer_s_product(operands, precision):
    x, w, _ = operands
    found = rounding.dot_general(x, w, (((1,), (0,)), ((), ())), precision=precision)
    cut = ROUNDED[precision]
    np.testing.assert_allclose(found, cut(x).astype(np.float64) @ cut(w), rtol=2e-6, atol=2e-4)


@pytest.mark.parametrize("precision", [None, "high", "default", "highest"])
def test_other_precisions_are_jax_s(operands, precision):
    x, w, _ = operands
    asked = []
    rounding.product(lambda *given, precision: asked.append((given, precision)), precision)(x, w)
    assert asked == [((x, w), precision)]


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("precision", rounding.MANTISSA)
def test_every_layer_of_every_net_rounds(name, precision):
    """In a net's logits and gradients there are two roundings for each layer forwards, and one backwards."""
    shape = {"digit": (28, 28, 1), "face": (55, 47, 3), "object": (32, 32, 3)}.get(
        name, (48, 48, 3)
    )
    net = models.create(name, 5, precision=precision)
    params = models.init_params(net, jax.random.key(0), shape)
    apply = models.apply_fn(net)
    images = jnp.zeros((2, *shape))

    def roundings(function):
        jaxpr = jax.make_jaxpr(function)(params, images).jaxpr
        found = [e for e in operations(jaxpr) if e.primitive.name == "reduce_precision"]
        bits = {(e.params["exponent_bits"], e.params["mantissa_bits"]) for e in found}
        assert bits == {(8, rounding.MANTISSA[precision])}
        return len(found)

    layers = len(params)
    assert roundings(apply) == 2 * layers
    assert roundings(jax.grad(lambda params, images: apply(params, images).sum())) == 3 * layers


@pytest.mark.parametrize("precision", rounding.MANTISSA)
def test_a_convolution_s_gradients_are_those_of_rounded_operands(precision):
    """By XLA's own convolution, and not by the ways to one that are fast on CPUs."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 12, 12, 4)).astype(np.float32)
    w = rng.normal(size=(3, 3, 4, 6)).astype(np.float32)
    behind = rng.normal(size=(3, 10, 10, 6)).astype(np.float32)
    cut = ROUNDED[precision]

    def ours(x, w, *, precision):
        return convolution.conv2d(x, w, "VALID", precision)

    def theirs(x, w):
        return lax.conv_general_dilated(
            x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )

    found, pull_back = jax.vjp(rounding.product(ours, precision), x, w)
    expected, pull_back_theirs = jax.vjp(theirs, cut(x), cut(w))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for mine, other in zip(pull_back(behind), pull_back_theirs(cut(behind)), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)
