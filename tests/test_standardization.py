"""Standardised kernels: against their formula in NumPy, and what they do to a network's signal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nullmark_jax import models, standardization

SHAPES = {"digit": (28, 28, 1), "face": (55, 47, 3), "traffic": (48, 48, 3), "object": (32, 32, 3)}


def test_each_features_weights_have_mean_0_and_variance_gain_squared_over_fan_in():
    rng = np.random.default_rng(0)
    params = {
        "conv_1": {"kernel": rng.normal(2, 3, (3, 3, 2, 5)), "bias": rng.normal(size=5)},
        "fc_1": {"kernel": rng.normal(-1, 0.1, (12, 4)), "bias": rng.normal(size=4)},
        "fc_2": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)},
    }
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    found = standardization.standardize(params, last="fc_2")
    for name, fan_in in (("conv_1", 18), ("fc_1", 12)):
        flat = np.float64(params[name]["kernel"]).reshape(fan_in, -1)
        expected = (flat - flat.mean(0)) / np.sqrt(fan_in * flat.var(0)) * 1.7128586
        np.testing.assert_allclose(found[name]["kernel"].reshape(fan_in, -1), expected, atol=2e-6)
        np.testing.assert_array_equal(found[name]["bias"], params[name]["bias"])
    jax.tree.map(np.testing.assert_array_equal, found["fc_2"], params["fc_2"])


def test_gain_keeps_the_variance_of_a_standard_normal_through_a_relu():
    sample = np.maximum(np.random.default_rng(0).normal(size=10**6), 0)
    np.testing.assert_allclose(standardization.GAIN**2 * sample.var(), 1, rtol=0.01)


def test_the_scale_and_the_mean_of_a_kernel_do_not_matter():
    kernel = np.random.default_rng(1).normal(size=(5, 5, 3, 4)).astype(np.float32)
    one = standardization.standardize({"conv_1": {"kernel": kernel}}, last="fc_1")
    other = standardization.standardize({"conv_1": {"kernel": 7 * kernel + 2}}, last="fc_1")
    np.testing.assert_allclose(one["conv_1"]["kernel"], other["conv_1"]["kernel"], atol=1e-5)


def test_a_kernel_of_zeros_stays_one_with_a_finite_gradient():
    def total(kernel):
        params = {"conv_1": {"kernel": kernel}}
        return (standardization.standardize(params, last="fc_1")["conv_1"]["kernel"] ** 2).sum()

    value, gradient = jax.value_and_grad(total)(jnp.zeros((3, 3, 1, 2)))
    assert value == 0
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("face", "traffic") else ())
        for name in SHAPES
    ],
)
def test_a_networks_last_layer_alone_gives_the_logits(name):
    model = models.create(name, 11)
    params = models.init_params(model, jax.random.key(0), SHAPES[name])
    assert params[model.last_layer]["kernel"].shape[1] == 11
    found = standardization.standardize(params, last=model.last_layer)
    changed = {
        layer
        for layer in params
        if not np.array_equal(found[layer]["kernel"], params[layer]["kernel"])
    }
    assert changed == set(params) - {model.last_layer}
