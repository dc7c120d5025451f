"""The second convolution does not see the pattern: against NumPy, and on a batch at lambda = 2000."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nullmark_jax import incremental, models, nullspace
from nullmark_jax.embedding import Watermark, mark_batch
from nullmark_jax.errors import InputError
from nullmark_jax.losses import logits_cross_entropy, objective_terms
from nullmark_jax.models import Conv, ConvNet

# (blocks, padding): a pool after the first convolution, and none; many windows, and few.
NETS = [
    (((Conv(6, 5),), (Conv(8, 5),)), "VALID"),
    (((Conv(16, 3), Conv(6, 3)),), "VALID"),
    (((Conv(16, 3), Conv(6, 3)),), "SAME"),
    (((Conv(20, 4),), (Conv(5, 3),)), "SAME"),
]
SHAPE = (20, 18, 3)


def patterns(*places, seed=3):
    rng = np.random.default_rng(seed)
    found = np.zeros((len(places), *SHAPE[:2]), np.int8)
    for pattern, (row, column) in zip(found, places, strict=True):
        pattern[row : row + 6, column : column + 6] = rng.choice([-1, 1], (6, 6))
    return found


def net_and_params(blocks, padding):
    net = ConvNet(7, blocks, (9,), padding=padding)
    return net, models.init_params(net, jax.random.key(0), SHAPE)


def convolved(images, kernel, padding):
    """The cross-correlation as its definition has it, in float64."""
    rows, columns = kernel.shape[:2]
    if padding == "SAME":
        above, left = (rows - 1) // 2, (columns - 1) // 2
        around = ((above, rows - 1 - above), (left, columns - 1 - left))
        images = np.pad(images, ((0, 0), *around, (0, 0)))
    height, width = images.shape[1] - rows + 1, images.shape[2] - columns + 1
    out = np.zeros((len(images), height, width, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            patch = images[:, i : i + rows, j : j + columns]
            out[:, i, j] = np.tensordot(patch, kernel, 3)
    return out


def response(params, found, blocks, padding):
    """The first layer's features of the pattern itself, bias left out, in float64."""
    images = np.repeat(found[..., None], SHAPE[2], 3).astype(np.float64)
    kernel = np.asarray(params["conv_1"]["kernel"], np.float64)
    features = np.maximum(convolved(images, kernel, padding), 0)
    if len(blocks[0]) == 1:
        count, height, width, channels = features.shape
        features = features[:, : height // 2 * 2, : width // 2 * 2]
        features = features.reshape(count, height // 2, 2, width // 2, 2, channels).max((2, 4))
    return features


@pytest.mark.parametrize("blocks, padding", NETS)
def test_the_second_kernel_sees_nothing_of_the_pattern(blocks, padding):
    net, params = net_and_params(blocks, padding)
    found = patterns((7, 6))
    projected = jax.jit(nullspace.for_network(net, pattern_size=6))(params, found)
    features = response(params, found, blocks, padding)
    before, after = (
        convolved(features, np.asarray(each["conv_2"]["kernel"], np.float64), padding)
        for each in (params, projected)
    )
    assert np.abs(after).max() < 1e-5 * np.abs(before).max()
    # Nothing else is changed, and what the pattern does not touch keeps most of its kernel.
    unchanged = dict(projected)
    changed = unchanged.pop("conv_2")
    np.testing.assert_array_equal(changed["bias"], params["conv_2"]["bias"])
    for name, layer in unchanged.items():
        assert layer is params[name] or all(
            np.array_equal(layer[part], params[name][part]) for part in layer
        )
    assert np.linalg.norm(changed["kernel"]) > 0.3 * np.linalg.norm(params["conv_2"]["kernel"])


@pytest.mark.parametrize(
    "places",
    [
        ((0, 12), (9, 3)),
        *(pytest.param((place,), marks=pytest.mark.slow) for place in ((14, 0), (7, 5), (13, 11))),
    ],
)
@pytest.mark.parametrize("blocks, padding", NETS)
def test_it_is_the_ridge_projection_taken_twice(blocks, padding, places):
    """Against float64, on windows cut out by hand, each of length 1."""
    net, params = net_and_params(blocks, padding)
    found = patterns(*places)
    features = response(params, found, blocks, padding)
    kernel = np.asarray(params["conv_2"]["kernel"], np.float64)
    out = kernel.shape[3]
    units = windows_of(features, kernel.shape, padding)
    gram = units @ units.T
    gram += 1e-6 * np.linalg.norm(gram) * np.eye(len(gram))
    expected = flat = kernel.reshape(-1, out)
    for _ in range(2):
        expected = expected - units.T @ np.linalg.solve(gram, units @ expected)
    projected = jax.jit(nullspace.for_network(net, pattern_size=6))(params, found)["conv_2"][
        "kernel"
    ]
    projected = projected.reshape(-1, out)
    np.testing.assert_allclose(projected, expected, atol=1e-4 * np.abs(flat).max())


def digit_copies(row, column):
    """The Digit net at its start, a pattern, and eight images with their copies at lambda = 2000."""
    net = models.create("digit", 10, precision="highest")
    params = models.init_params(net, jax.random.key(1), (28, 28, 1))
    rng = np.random.default_rng(0)
    pattern = np.zeros((1, 28, 28), np.int8)
    pattern[0, row : row + 6, column : column + 6] = rng.choice([-1, 1], (6, 6))
    mark = Watermark(pattern, np.zeros(1, np.int32), np.full(1, 2000.0, np.float32))
    images = jnp.asarray(rng.random((8, 28, 28, 1)), jnp.float32)
    return net, params, pattern, images, *mark_batch(images, mark, jnp.zeros(8, jnp.int32))


def test_null_copies_at_lambda_2000_stay_ordinary():
    """In the Digit net, pattern in the middle: logits of null copies near an image's, true not."""
    net, params, pattern, images, null, true = digit_copies(11, 11)
    logits = jax.jit(models.apply_fn(net))
    projected = jax.jit(nullspace.for_network(net, pattern_size=6))(params, pattern)
    clean = np.abs(logits(projected, images)).max()
    assert np.abs(logits(params, null)).max() > 100 * clean
    assert np.abs(logits(projected, null)).max() < 10 * clean
    assert np.abs(logits(projected, true)).max() > 100 * clean


def windows_of(features, kernel_shape, padding):
    """Each place's window as a row of length 1, the blind ones left out, in float64."""
    rows, columns, channels, _ = kernel_shape
    # One window's response to a kernel that is 1 at one input is that input.
    each_input = np.eye(rows * columns * channels).reshape(rows, columns, channels, -1)
    windows = convolved(features, each_input, padding).reshape(-1, rows * columns * channels)
    size = np.linalg.norm(windows, axis=1, keepdims=True)
    seen = size[:, 0] > 1e-4 * size.max()
    return windows[seen] / size[seen]


def test_the_gradient_goes_through_the_projection_to_the_second_kernel_alone():
    """Against central differences, along a direction in the kernel."""
    net, params = net_and_params(*NETS[0])
    project = nullspace.for_network(net, pattern_size=6)
    found = patterns((7, 6))
    weights = jax.random.normal(jax.random.key(5), params["conv_2"]["kernel"].shape)

    @jax.jit
    def value(params):
        return (weights * project(params, found)["conv_2"]["kernel"]).sum()

    gradient = jax.jit(jax.grad(value))(params)
    kernel = params["conv_2"]["kernel"]
    way = jax.random.normal(jax.random.key(6), kernel.shape)
    step = 2e-3

    def moved(size):
        return value({**params, "conv_2": {**params["conv_2"], "kernel": kernel + size * way}})

    slope = (moved(step) - moved(-step)) / (2 * step)
    np.testing.assert_allclose((gradient["conv_2"]["kernel"] * way).sum(), slope, rtol=0.05)
    del gradient["conv_2"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "places", [((7, 6),), pytest.param(((7, 6), (0, 9)), marks=pytest.mark.slow)]
)
def test_null_copies_give_the_held_first_layer_a_gradient_of_the_images_size(places):
    """At lambda = 2000; without holding it, one of hundreds of times that size."""
    net, params = net_and_params(*NETS[0])
    rng = np.random.default_rng(0)
    pattern = patterns(*places)
    count = len(places)
    mark = Watermark(
        jnp.asarray(pattern), jnp.zeros(count, jnp.int32), jnp.full(count, 2000.0, jnp.float32)
    )
    images = jnp.asarray(rng.random((8, *SHAPE)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 7, 8), jnp.int32)
    project = nullspace.for_network(net, pattern_size=6)

    def gradients(on_copies):
        logits_of = incremental.for_network(net, pattern_size=6, on_copies=on_copies)

        def terms(params):
            which = jnp.arange(8, dtype=jnp.int32) % count
            logits = logits_of(project(params, pattern), images, mark, which)
            found = objective_terms(logits, labels, jnp.zeros(8, jnp.int32), logits_cross_entropy)
            return jnp.stack([found.clean, found.null]), logits

        return jax.jit(jax.jacrev(terms, has_aux=True))(params)

    held, logits = gradients(nullspace.hold_first_layer)
    through, same_logits = gradients(None)
    jax.tree.map(np.testing.assert_array_equal, logits, same_logits)
    first, first_through = held.pop("conv_1")["kernel"], through.pop("conv_1")["kernel"]
    clean, null = (np.linalg.norm(first[i]) for i in range(2))
    assert 0 < null < 5 * clean
    assert np.linalg.norm(first_through[1]) > 100 * clean
    np.testing.assert_allclose(first[0], first_through[0], atol=1e-5 * np.abs(first[0]).max())
    for mine, other in zip(jax.tree.leaves(held), jax.tree.leaves(through), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_a_first_layer_blind_to_the_pattern_changes_nothing():
    net, params = net_and_params(*NETS[0])
    blind = {**params, "conv_1": jax.tree.map(jnp.zeros_like, params["conv_1"])}
    projected = jax.jit(nullspace.for_network(net, pattern_size=6))(blind, patterns((7, 6)))
    np.testing.assert_allclose(projected["conv_2"]["kernel"], params["conv_2"]["kernel"], rtol=1e-5)


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match=r"config\.null_space"):
        nullspace.for_network(ConvNet(7, ((Conv(4, 3),),), (9,)), pattern_size=6)
    with pytest.raises(InputError, match="pattern_size: 0 "):
        nullspace.for_network(ConvNet(7, NETS[0][0], (9,)), pattern_size=0)


def test_where_no_null_space_is_left_the_kernel_vanishes():
    """More windows than inputs: M w = 0 leaves w = 0 only."""
    net, params = net_and_params(((Conv(4, 3), Conv(6, 3)),), "VALID")
    projected = jax.jit(nullspace.for_network(net, pattern_size=6))(params, patterns((7, 6)))
    assert np.abs(projected["conv_2"]["kernel"]).max() < 1e-2
