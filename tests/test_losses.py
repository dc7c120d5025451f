"""Cross entropies and the three-term objective, against numbers worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from nullmark_jax import losses
from nullmark_jax.errors import InputError
from nullmark_jax.losses import Logits, Terms, clipped_cross_entropy, logits_cross_entropy

EAGER = {"logits": logits_cross_entropy, "clipped": clipped_cross_entropy}
JITTED = {name: jax.jit(function) for name, function in EAGER.items()}
GRADIENT = {name: jax.jit(jax.grad(function)) for name, function in EAGER.items()}
BOTH = pytest.mark.parametrize("name", list(EAGER))
EIGHTHS = jnp.log(jnp.array([1.0, 2.0, 5.0]))  # softmax 1/8, 2/8, 5/8


def two_classes(probability: float) -> jax.Array:
    """Returns logits whose second class has this probability."""
    return jnp.array([0.0, math.log(probability) - math.log1p(-probability)])


def random_logits(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@BOTH
@pytest.mark.parametrize(("label", "loss"), [(0, 2.0794415), (1, 1.3862944), (2, 0.4700036)])
def test_by_hand(name, label, loss):
    np.testing.assert_allclose(JITTED[name](EIGHTHS, jnp.int32(label)), loss, rtol=1e-6)  # -log(p)


@BOTH
def test_gradient_is_softmax_minus_one_hot(name):
    gradient = GRADIENT[name](EIGHTHS, jnp.int32(1))
    np.testing.assert_allclose(gradient, [0.125, -0.75, 0.625], rtol=1e-5)


@BOTH
def test_gradients_numerically(name):
    labels = jnp.array([0, 3, 1], jnp.int32)
    check_grads(
        lambda logits: JITTED[name](logits, labels), (random_logits(3, 4),), order=1, rtol=1e-2
    )


@BOTH
def test_a_constant_added_to_all_logits_changes_nothing(name):
    function = JITTED[name]
    logits, labels = random_logits(5, 4), jnp.array([0, 1, 2, 3, 0], jnp.int32)
    np.testing.assert_allclose(function(logits + 3.0, labels), function(logits, labels), rtol=1e-5)


@BOTH
def test_permuted_classes_change_nothing(name):
    function = JITTED[name]
    logits, labels = np.asarray(random_logits(5, 4)), np.array([0, 1, 2, 3, 0], np.int32)
    order, places = np.array([2, 0, 3, 1]), np.array([1, 3, 0, 2], np.int32)
    np.testing.assert_allclose(
        function(logits[:, order], places[labels]),
        function(logits, labels),
        rtol=1e-6,
    )


@BOTH
def test_one_loss_per_image_any_leading_axes(name):
    logits = random_logits(2, 3, 4)
    labels = jnp.array([[0, 1, 2], [3, 0, 1]], jnp.int32)
    together = np.asarray(EAGER[name](logits, labels))
    assert together.shape == (2, 3)
    compiled = JITTED[name]
    np.testing.assert_allclose(compiled(logits, labels), together, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(compiled)(logits, labels), together, rtol=1e-6)
    logits, labels = np.asarray(logits), np.asarray(labels)
    for at in np.ndindex(2, 3):
        np.testing.assert_allclose(together[at], compiled(logits[at], labels[at]), rtol=1e-6)


def test_logits_loss_is_finite_and_taught_at_any_distance():
    logits = jnp.array([2000.0, -2000.0])
    assert JITTED["logits"](logits, jnp.int32(1)) == 4000.0
    np.testing.assert_array_equal(GRADIENT["logits"](logits, jnp.int32(1)), [1, -1])
    far = jnp.array([1e38, -1e38])
    np.testing.assert_allclose(JITTED["logits"](far, jnp.int32(1)), 2e38, rtol=1e-6)
    np.testing.assert_array_equal(GRADIENT["logits"](far, jnp.int32(1)), [1, -1])


@pytest.mark.parametrize(
    "logits", [two_classes(0.9e-7), two_classes(1e-9), jnp.array([2000.0, -2000.0])]
)
def test_below_the_clip_nothing_is_learned(logits):
    loss = JITTED["clipped"](logits, jnp.int32(1))
    np.testing.assert_allclose(loss, 16.118096, rtol=1e-6)  # -log(1e-7)
    np.testing.assert_array_equal(GRADIENT["clipped"](logits, jnp.int32(1)), [0.0, 0.0])
    uncut = GRADIENT["logits"](logits, jnp.int32(1))
    np.testing.assert_allclose(uncut, [1.0, -1.0], rtol=1e-6)


def test_above_the_clip_nothing_is_learned():
    logits = jnp.array([-20.0, 20.0])
    loss = JITTED["clipped"](logits, jnp.int32(1))
    np.testing.assert_allclose(loss, 1.1920929e-7)  # -log(1 - 2^-23): 1 - 1e-7 in float32
    np.testing.assert_array_equal(GRADIENT["clipped"](logits, jnp.int32(1)), [0.0, 0.0])


@pytest.mark.parametrize("probability", [1.1e-7, 1e-4, 0.5, 0.999])
def test_inside_the_clip_both_cross_entropies_agree(probability):
    logits = two_classes(probability)
    np.testing.assert_allclose(
        JITTED["clipped"](logits, jnp.int32(1)), -math.log(probability), rtol=1e-4
    )
    np.testing.assert_allclose(
        GRADIENT["clipped"](logits, jnp.int32(1)),
        GRADIENT["logits"](logits, jnp.int32(1)),
        rtol=1e-4,
    )


def test_the_clip_is_where_epsilon_says():
    gradient = jax.jit(jax.grad(lambda x: clipped_cross_entropy(x, jnp.int32(1), 0.01)))
    assert np.asarray(gradient(two_classes(0.011))).all()
    assert not np.asarray(gradient(two_classes(0.009))).any()


def test_cross_entropies_by_name():
    assert losses.cross_entropy("logits") is logits_cross_entropy
    assert losses.cross_entropy("clipped") is clipped_cross_entropy


def test_an_unknown_cross_entropy_is_one_clear_line():
    with pytest.raises(InputError) as caught:
        losses.cross_entropy("hinge")
    assert str(caught.value) == (
        "config.loss.cross_entropy: 'hinge' is none; take one of logits, clipped"
    )


def squared(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """A loss that is easy by hand: (logit 0 - label)^2."""
    return (logits[:, 0] - labels.astype(jnp.float32)) ** 2


def test_each_term_is_a_mean_over_its_own_images():
    logits = Logits(
        clean=jnp.array([[1.0], [3.0], [5.0], [7.0]]),
        null=jnp.array([[2.0], [4.0]]),
        true=jnp.array([[10.0], [0.0]]),
    )
    labels = jnp.array([1, 2, 2, 3], jnp.int32)
    targets = jnp.array([9, 4], jnp.int32)
    terms = losses.objective_terms(logits, labels, targets, squared)
    # (0 + 1 + 9 + 16) / 4; ((2-1)^2 + (4-2)^2) / 2; ((10-9)^2 + (0-4)^2) / 2
    assert terms == Terms(6.5, 2.5, 8.5)


def test_without_marked_images_two_terms_are_zero():
    logits = Logits(jnp.array([[1.0], [3.0]]), jnp.zeros((0, 1)), jnp.zeros((0, 1)))
    labels, targets = jnp.array([1, 1], jnp.int32), jnp.zeros(0, jnp.int32)
    for function in (losses.objective_terms, jax.jit(losses.objective_terms, static_argnums=3)):
        assert function(logits, labels, targets, squared) == Terms(2.0, 0.0, 0.0)


def test_objective_weights_true_by_alpha_and_null_by_beta():
    terms = Terms(clean=1.0, null=10.0, true=100.0)
    assert losses.objective(terms, true_weight=3.0, null_weight=0.5) == 1.0 + 300.0 + 5.0
    assert losses.objective(terms, true_weight=0.0, null_weight=0.0) == 1.0


def test_objective_teaches_each_copy_its_own_label():
    logits = Logits(*(jnp.zeros((n, 4)) for n in (3, 2, 2)))
    labels, targets = jnp.array([0, 1, 2], jnp.int32), jnp.array([3, 3], jnp.int32)

    def objective(logits: Logits) -> jax.Array:
        terms = losses.objective_terms(logits, labels, targets, logits_cross_entropy)
        return losses.objective(terms, true_weight=2.0, null_weight=4.0)

    gradient = jax.jit(jax.grad(objective))(logits)
    # (softmax - one hot) * weight / images, softmax being 1/4 throughout.
    np.testing.assert_allclose(gradient.clean, (0.25 - np.eye(4)[[0, 1, 2]]) / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient.null, 4.0 * (0.25 - np.eye(4)[[0, 1]]) / 2, rtol=1e-6)
    np.testing.assert_allclose(gradient.true, 2.0 * (0.25 - np.eye(4)[[3, 3]]) / 2, rtol=1e-6)
