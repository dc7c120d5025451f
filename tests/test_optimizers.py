"""Learning rates, optimisers and the curriculum of lambda, against their formulas by hand."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nullmark_jax import optimizers
from nullmark_jax.errors import InputError
from nullmark_jax.optimizers import SCHEDULES, Recipe

PARAMS = {
    "conv_1": {"kernel": np.array([[1.0, -2.0]], np.float32), "bias": np.array([3.0], np.float32)}
}
GRADIENT = {
    "conv_1": {"kernel": np.array([[0.3, 0.0]], np.float32), "bias": np.array([-0.4], np.float32)}
}


def rates(recipe: Recipe, total_steps: int, steps: list[int]) -> list[float]:
    schedule = optimizers.learning_rate(recipe, total_steps)
    return [float(schedule(step)) for step in steps]


def moved(recipe: Recipe, *gradients: Any, params: Any = PARAMS, total_steps: int = 10) -> Any:
    """Returns the parameters after a step for each gradient, taken as training takes them."""
    optimizer = optimizers.optimizer(recipe, total_steps)
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_params(params: Any, kernel: list[float], bias: float) -> None:
    np.testing.assert_allclose(params["conv_1"]["kernel"], [kernel], rtol=1e-6)
    np.testing.assert_allclose(params["conv_1"]["bias"], [bias], rtol=1e-6)


def test_constant():
    np.testing.assert_allclose(rates(Recipe("sgd", 0.02), 10, [0, 1, 9, 99]), 0.02, rtol=1e-6)


def test_inverse_time_is_keras_decay():
    recipe = Recipe("sgd", 0.05, "inverse-time", decay=1e-4)
    expected = [0.05, 0.05 / 1.0001, 0.05 / 1.1, 0.05 / 2.0, 0.05 / 21.0]
    actual = rates(recipe, 10, [0, 1, 1000, 10_000, 200_000])
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_cosine_falls_from_the_peak_to_zero():
    actual = rates(Recipe("sgd", 0.1, "cosine"), 8, [0, 2, 4, 6, 8, 9])
    half = math.sqrt(0.5)
    np.testing.assert_allclose(
        actual, [0.1, 0.05 * (1 + half), 0.05, 0.05 * (1 - half), 0.0, 0.0], rtol=1e-6, atol=1e-9
    )


def test_linear_falls_from_the_peak_to_zero():
    actual = rates(Recipe("sgd", 0.1, "linear"), 8, [0, 2, 4, 7, 8, 9])
    np.testing.assert_allclose(actual, [0.1, 0.075, 0.05, 0.0125, 0.0, 0.0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_rises_linearly_to_the_peak_and_the_schedule_begins_there(schedule):
    recipe = Recipe("sgd", 0.1, schedule, decay=0.5, warmup_steps=4)
    np.testing.assert_allclose(
        rates(recipe, 12, [0, 1, 2, 3, 4]), [0.025, 0.05, 0.075, 0.1, 0.1], rtol=1e-6
    )
    after = recipe._replace(warmup_steps=0)
    np.testing.assert_allclose(
        rates(recipe, 12, [5, 8, 11]), rates(after, 8, [1, 4, 7]), rtol=1e-6, atol=1e-9
    )


def test_a_warm_up_longer_than_the_training_still_rises():
    recipe = Recipe("sgd", 0.1, "cosine", warmup_steps=100)
    np.testing.assert_allclose(rates(recipe, 5, [0, 4]), [0.001, 0.005], rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 3])
def test_rates_are_float32_and_jit_and_vmap_equal_eager(schedule, warmup):
    recipe = Recipe("adam", 2e-3, schedule, decay=0.1, warmup_steps=warmup)
    rate = optimizers.learning_rate(recipe, 10)
    steps = np.arange(6, dtype=np.int32)
    eager = [rate(step) for step in steps]
    assert {value.dtype for value in eager} == {jnp.dtype("float32")}
    jitted = jax.jit(rate)
    np.testing.assert_allclose([jitted(step) for step in steps], eager, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jitted)(steps), eager, rtol=1e-6)


def test_sgd_is_plain():
    params = moved(Recipe("sgd", 0.5), GRADIENT, GRADIENT)
    assert_params(params, [1.0 - 2 * 0.15, -2.0], 3.0 + 2 * 0.2)


def test_momentum_is_nesterov():
    params = moved(Recipe("momentum", 0.5), GRADIENT, GRADIENT)
    # m1 = g, moves g + 0.9 m1 = 1.9 g; m2 = g + 0.9 m1 = 1.9 g, moves g + 0.9 m2 = 2.71 g.
    assert_params(params, [1.0 - 0.5 * 4.61 * 0.3, -2.0], 3.0 + 0.5 * 4.61 * 0.4)


def test_adam_by_hand():
    second = jax.tree.map(lambda g: -2.0 * g, GRADIENT)
    params = moved(Recipe("adam", 0.1), GRADIENT, second)
    # m = 0.9 m + 0.1 g over 1 - 0.9^t, v = 0.999 v + 0.001 g^2 over 1 - 0.999^t. Of g and -2 g, the
    # first step is sign(g); then m = (0.09 - 0.2) g / 0.19, v = (0.000999 + 0.004) g^2 / 0.001999.
    step = 1.0 + (-0.11 / 0.19) / math.sqrt(0.004999 / 0.001999)
    np.testing.assert_allclose(params["conv_1"]["kernel"], [[1.0 - 0.1 * step, -2.0]], rtol=1e-5)
    np.testing.assert_allclose(params["conv_1"]["bias"], [3.0 + 0.1 * step], rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_b2_is_the_decay_of_adams_second_moment(name):
    second = jax.tree.map(lambda g: -2.0 * g, GRADIENT)
    params = moved(Recipe(name, 0.1, b2=0.5), GRADIENT, second)
    # As above, with v = (0.25 + 2) g^2 / 0.75 in the second step.
    step = 1.0 + (-0.11 / 0.19) / math.sqrt(2.25 / 0.75)
    np.testing.assert_allclose(params["conv_1"]["bias"], [3.0 + 0.1 * step], rtol=1e-5)


def test_adam_where_jax_promotes_as_it_does_by_default():
    with jax.numpy_dtype_promotion("standard"):
        standard = moved(Recipe("adam", 0.1), GRADIENT, GRADIENT)
    strict = moved(Recipe("adam", 0.1), GRADIENT, GRADIENT)
    jax.tree.map(np.testing.assert_array_equal, standard, strict)


@pytest.mark.parametrize(("inputs", "features"), [((3, 3, 2), 4), ((3, 3, 1), 16)])
def test_muon_makes_convolutions_updates_scaled_isometries_and_leaves_the_rest_to_adam(
    inputs, features
):
    rng = np.random.default_rng(0)
    shapes = {"kernel": (*inputs, features), "bias": (features,)}
    params = {
        "conv_1": {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()},
        "fc_1": {"kernel": rng.normal(size=(4, 3)).astype("f4")},
    }
    gradient = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), params)
    muon = moved(Recipe("muon", 0.1), gradient, params=params)
    adam = moved(Recipe("adam", 0.1), gradient, params=params)
    np.testing.assert_array_equal(muon["conv_1"]["bias"], adam["conv_1"]["bias"])
    np.testing.assert_array_equal(muon["fc_1"]["kernel"], adam["fc_1"]["kernel"])
    # U V^T of the gradient's singular value decomposition as a matrix, whose mean square is 1 over its
    # longer side; the method's five iterations bring each singular value to between 0.68 and 1.13.
    flat = gradient["conv_1"]["kernel"].reshape(-1, features)
    left, _, right = np.linalg.svd(flat, full_matrices=False)
    step = (params["conv_1"]["kernel"] - muon["conv_1"]["kernel"]).reshape(-1, features)
    values = left.T @ step @ right.T / (0.1 * 0.2 * math.sqrt(max(flat.shape)))
    # Of five float32 products one after another; another compiler's rounding reaches 1.2e-5.
    np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=3e-5)
    assert np.all((np.diag(values) > 0.68) & (np.diag(values) < 1.13))


def test_the_gradients_norm_is_clipped():
    gradient = jax.tree.map(lambda g: 10.0 * g, GRADIENT)  # its norm is 5
    clipped = moved(Recipe("sgd", 0.5, clip_norm=1.0), gradient)
    assert_params(clipped, [1.0 - 0.5 * 0.6, -2.0], 3.0 + 0.5 * 0.8)


def test_a_gradient_within_the_norm_is_not_clipped():
    assert_params(moved(Recipe("sgd", 0.5, clip_norm=1.0), GRADIENT), [1.0 - 0.15, -2.0], 3.0 + 0.2)


def test_weight_decay_under_muon_and_an_update_of_nothing():
    kernel = np.ones((3, 3, 1, 2), np.float32)
    params = {"conv_1": {"kernel": kernel, "bias": np.ones(2, np.float32)}}
    nothing = jax.tree.map(np.zeros_like, params)
    found = moved(Recipe("muon", 0.5, weight_decay=0.1), nothing, params=params)
    np.testing.assert_allclose(found["conv_1"]["kernel"], 0.95 * kernel, rtol=1e-6)
    np.testing.assert_allclose(found["conv_1"]["bias"], 1.0)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_weight_decay_is_decoupled_of_kernels_only_and_times_the_rate(name):
    nothing = jax.tree.map(np.zeros_like, GRADIENT)
    params = moved(Recipe(name, 0.5, weight_decay=0.1), nothing)
    assert_params(params, [0.95, -1.9], 3.0)
    warming = moved(Recipe(name, 0.5, weight_decay=0.1, warmup_steps=5), nothing)
    assert_params(warming, [0.99, -1.98], 3.0)


def test_the_optimizer_follows_the_schedule():
    recipe = Recipe("sgd", 1.0, "linear", warmup_steps=2)
    params = moved(recipe, GRADIENT, GRADIENT, GRADIENT, GRADIENT, total_steps=4)
    assert_params(params, [1.0 - 0.3 * (0.5 + 1.0 + 1.0 + 0.5), -2.0], 3.0 + 0.4 * 3.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "lion"}, "name: 'lion' is none; take one of sgd, momentum, adam, muon"),
        (
            {"schedule": "step"},
            "schedule: 'step' is none; take one of constant, inverse-time, cosine, linear",
        ),
        ({"learning_rate": 0.0}, "learning_rate: 0.0 must be above 0; give say 0.001"),
        ({"learning_rate": -1.0}, "learning_rate: -1.0 must be above 0; give say 0.001"),
        (
            {"learning_rate": math.nan},
            "learning_rate: nan is not finite; give an ordinary number",
        ),
        (
            {"learning_rate": math.inf},
            "learning_rate: inf is not finite; give an ordinary number",
        ),
        ({"learning_rate": "0.1"}, "learning_rate: '0.1' is not a number; give one, such as 0.8"),
        ({"decay": -1e-9}, "decay: -1e-09 must not be negative; give 0 for none"),
        ({"clip_norm": -1.0}, "clip_norm: -1.0 must not be negative; give 0 for none"),
        ({"b2": 0.0}, "b2: 0.0 is out of range; give say 0.999"),
        ({"b2": 1.0}, "b2: 1.0 is out of range; give say 0.999"),
        ({"b2": math.nan}, "b2: nan is not finite; give an ordinary number"),
        ({"weight_decay": -0.5}, "weight_decay: -0.5 must not be negative; give 0 for none"),
        (
            {"warmup_steps": -1},
            "warmup_steps: -1 is out of range; give an integer in [0, 1000000000]",
        ),
        (
            {"warmup_steps": 1.5},
            "warmup_steps: 1.5 is not an integer; give one in [0, 1000000000]",
        ),
    ],
)
def test_a_bad_recipe_is_one_clear_line(change, message):
    recipe = Recipe("adam", 1e-3)._replace(**change)
    for refuse in (optimizers.check_recipe, lambda bad: optimizers.optimizer(bad, 10)):
        with pytest.raises(InputError) as caught:
            refuse(recipe)
        assert str(caught.value) == f"config.optimizer.{message}"


def test_lambda_rises_geometrically():
    rising = optimizers.rising_extreme_value(1.0, 4)
    full = np.array([16.0, 81.0], np.float32)
    actual = np.array([rising(np.int32(step), full) for step in range(7)])
    assert actual.dtype == np.float32
    whole = [16, 81]
    expected = [[1, 1], [2, 3], [4, 9], [8, 27], whole, whole, whole]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert actual[4:].tolist() == [whole, whole, whole]


def test_lambda_rises_from_where_it_is_told():
    rising = optimizers.rising_extreme_value(100.0, 2)
    actual = [float(rising(np.int32(step), np.float32(10_000))) for step in range(3)]
    np.testing.assert_allclose(actual, [100, 1000, 10_000], rtol=1e-6)


def test_lambda_is_exactly_whole_after_an_awkward_ramp():
    rising = jax.jit(optimizers.rising_extreme_value(1.0, 7))
    full = np.float32(1999.9)
    assert [float(rising(np.int32(step), full)) for step in (7, 8, 1000)] == [float(full)] * 3
    assert 1 < float(rising(np.int32(6), full)) < full


@pytest.mark.parametrize(("start", "ramp"), [(1.0, 0), (2000.0, 5), (3000.0, 5)])
def test_without_a_way_to_go_lambda_is_whole_throughout(start, ramp):
    rising = optimizers.rising_extreme_value(start, ramp)
    full = np.float32(2000)
    assert [float(rising(jnp.int32(step), full)) for step in range(3)] == [2000.0] * 3


def test_lambda_jit_and_vmap_equal_eager():
    rising = optimizers.rising_extreme_value(1.0, 5)
    steps, full = np.arange(7, dtype=np.int32), np.full(7, 100, np.float32)
    eager = [float(rising(*each)) for each in zip(steps, full, strict=True)]
    np.testing.assert_allclose(jax.vmap(rising)(steps, full), eager, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(rising))(steps, full), eager, rtol=1e-6)
