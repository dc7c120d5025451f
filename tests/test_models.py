"""The four networks: sizes worked out from the papers' tables, and an independent NumPy forward."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from nullmark_jax import convolution, models
from nullmark_jax.errors import InputError

INPUT_SHAPES = {
    "digit": (28, 28, 1),
    "face": (55, 47, 3),
    "traffic": (48, 48, 3),
    "object": (32, 32, 3),
}
CLASSES = {"digit": 10, "face": 1283, "traffic": 43, "object": 10}
EVERY_MODEL = pytest.mark.parametrize("name", list(INPUT_SHAPES))

# Digit: 832 + 51,264 + 524,800 + 5,130. Face: 980 + 7,240 + 21,660 + 19,280 + 192,160 + 153,760 +
# 206,563. Traffic: 896 + 9,248 + 18,496 + 36,928 + 73,856 + 147,584 + 262,656 + 262,656 + 22,059.
# Object, with 2,048 features into fc_1 and 10 classes: 287,008 + 1,049,088 + 262,656 + 5,130.
PARAMETER_COUNTS = {"digit": 582_026, "face": 601_643, "traffic": 834_379, "object": 1_603_882}

_VGG_KERNELS = {
    "conv_1": (3, 3, 3, 32),
    "conv_2": (3, 3, 32, 32),
    "conv_3": (3, 3, 32, 64),
    "conv_4": (3, 3, 64, 64),
    "conv_5": (3, 3, 64, 128),
    "conv_6": (3, 3, 128, 128),
}
KERNELS = {
    # 28 -> 24 -> 12 -> 8 -> 4.
    "digit": {
        "conv_1": (5, 5, 1, 32),
        "conv_2": (5, 5, 32, 64),
        "fc_1": (4 * 4 * 64, 512),
        "fc_2": (512, 10),
    },
    # 55 x 47 -> 52 x 44 -> 26 x 22 -> 24 x 20 -> 12 x 10 -> 10 x 8 -> 5 x 4; conv_4: 4 x 3.
    "face": {
        "conv_1": (4, 4, 3, 20),
        "conv_2": (3, 3, 20, 40),
        "conv_3": (3, 3, 40, 60),
        "conv_4": (2, 2, 60, 80),
        "fc_1": (5 * 4 * 60, 160),
        "fc_2": (4 * 3 * 80, 160),
        "fc_3": (160, 1283),
    },
    # 48 -> 46 -> 44 -> 22 -> 20 -> 18 -> 9 -> 7 -> 5 -> 2.
    "traffic": _VGG_KERNELS | {"fc_1": (2 * 2 * 128, 512), "fc_2": (512, 512), "fc_3": (512, 43)},
    # Padded: 32 -> 16 -> 8 -> 4.
    "object": _VGG_KERNELS | {"fc_1": (4 * 4 * 128, 512), "fc_2": (512, 512), "fc_3": (512, 10)},
}


def random_params(name: str, seed: int = 0) -> models.Params:
    """Returns parameters whose biases matter too, unlike initial ones."""
    rng = np.random.default_rng(seed)
    params: models.Params = {}
    for layer, shape in KERNELS[name].items():
        scale = np.sqrt(2.0 / np.prod(shape[:-1]))
        params[layer] = {
            "kernel": rng.normal(scale=scale, size=shape).astype(np.float32),
            "bias": rng.normal(scale=0.3, size=shape[-1:]).astype(np.float32),
        }
    return params


def random_images(name: str, count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((count, *INPUT_SHAPES[name]), np.float32)


def forward(name: str, **keywords: Any) -> models.ApplyFn:
    model = models.create(name, CLASSES[name], **keywords)
    return jax.jit(models.apply_fn(model))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def convolve(x: np.ndarray, layer: dict[str, np.ndarray], pad: int = 0) -> np.ndarray:
    kernel = layer["kernel"].astype(np.float64)
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel, optimize=True) + layer["bias"]


def pool(x: np.ndarray) -> np.ndarray:
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corners = [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
    return np.max(corners, axis=0)


def dense(x: np.ndarray, layer: dict[str, np.ndarray]) -> np.ndarray:
    return x.reshape(len(x), -1) @ layer["kernel"].astype(np.float64) + layer["bias"]


def numpy_digit(x: np.ndarray, p: models.Params) -> np.ndarray:
    x = pool(relu(convolve(x, p["conv_1"])))
    x = pool(relu(convolve(x, p["conv_2"])))
    return dense(relu(dense(x, p["fc_1"])), p["fc_2"])


def numpy_face(x: np.ndarray, p: models.Params) -> np.ndarray:
    for layer in ("conv_1", "conv_2", "conv_3"):
        x = pool(relu(convolve(x, p[layer])))
    deep = relu(convolve(x, p["conv_4"]))
    return dense(relu(dense(x, p["fc_1"]) + dense(deep, p["fc_2"])), p["fc_3"])


def numpy_vgg(x: np.ndarray, p: models.Params, pad: int) -> np.ndarray:
    for first, second in (("conv_1", "conv_2"), ("conv_3", "conv_4"), ("conv_5", "conv_6")):
        x = pool(relu(convolve(relu(convolve(x, p[first], pad)), p[second], pad)))
    return dense(relu(dense(relu(dense(x, p["fc_1"])), p["fc_2"])), p["fc_3"])


NUMPY_FORWARD = {
    "digit": numpy_digit,
    "face": numpy_face,
    "traffic": lambda x, p: numpy_vgg(x, p, pad=0),
    "object": lambda x, p: numpy_vgg(x, p, pad=1),
}


@EVERY_MODEL
def test_parameter_counts(name):
    shapes = models.parameter_shapes(name, INPUT_SHAPES[name], CLASSES[name])
    assert models.parameter_count(shapes) == PARAMETER_COUNTS[name]


@EVERY_MODEL
def test_layers_have_the_tables_names_and_shapes(name):
    expected = {f"{layer}/kernel": shape for layer, shape in KERNELS[name].items()}
    expected |= {f"{layer}/bias": shape[-1:] for layer, shape in KERNELS[name].items()}
    found = models.parameter_shapes(name, INPUT_SHAPES[name], CLASSES[name])
    assert found == expected
    found.clear()  # The caller's own.
    assert models.parameter_shapes(name, list(INPUT_SHAPES[name]), CLASSES[name]) == expected


@EVERY_MODEL
def test_logits_equal_an_independent_forward(name):
    params, images = random_params(name), random_images(name, 2)
    expected = NUMPY_FORWARD[name](images.astype(np.float64), params)
    logits = forward(name, precision="highest")(params, images)
    assert (logits.shape, logits.dtype) == ((2, CLASSES[name]), jnp.float32)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(np.exp(logits).sum(-1), 1.0)  # no softmax, nor its logarithm


def test_logits_of_marked_images_equal_an_independent_forward():
    params, images = random_params("digit"), random_images("digit", 1)
    images[:, 3:9, 20:26] = 2000.0 * np.where(np.eye(6) > 0, 1.0, -1.0)[..., None]
    expected = numpy_digit(images.astype(np.float64), params)
    assert np.abs(expected).max() > 100
    logits = forward("digit", precision="highest")(params, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-2)


def test_dense_layers_flatten_in_height_width_channel_order():
    features = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    net = models.ConvNet(num_classes=24, blocks=(), dense=())
    params = {"fc_1": {"kernel": np.eye(24, dtype=np.float32), "bias": np.zeros(24, np.float32)}}
    logits = models.apply_fn(net)(params, features)
    for row, column, channel in np.ndindex(2, 3, 4):
        assert logits[0, (row * 3 + column) * 4 + channel] == features[0, row, column, channel]


def test_each_image_is_classified_alone():
    params, images = random_params("digit"), random_images("digit", 3)
    apply = forward("digit")
    together = np.asarray(apply(params, images))
    for i in range(3):
        np.testing.assert_allclose(
            together[i], apply(params, images[i : i + 1])[0], rtol=1e-4, atol=1e-4
        )


def test_jit_and_vmap_equal_eager():
    params, images = random_params("digit"), random_images("digit", 2)
    apply = models.apply_fn(models.create("digit", 10))
    eager = apply(params, images)
    np.testing.assert_allclose(jax.jit(apply)(params, images), eager, rtol=1e-4, atol=1e-4)
    two_models = jax.tree.map(lambda *leaves: np.stack(leaves), params, random_params("digit", 5))
    population = jax.jit(jax.vmap(apply, in_axes=(0, None)))(two_models, images)
    np.testing.assert_allclose(population[0], eager, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 2, 2, 1), (2, 5, 4, 3), (2, 4, 7, 3), (1, 1, 1, 1)])
def test_max_pool_drops_an_odd_last_row_and_column(shape):
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    pooled = convolution.max_pool_2x2(jnp.asarray(features))
    expected = pool(features) if min(shape[1:3]) > 1 else np.zeros((shape[0], 0, 0, shape[3]))
    assert pooled.shape == expected.shape
    np.testing.assert_array_equal(pooled, expected)


def test_max_pool_and_its_gradient_equal_linens():
    features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 3)), jnp.float32)

    def weighted(pooled: jax.Array) -> jax.Array:
        return (pooled * jnp.arange(1.0, 1.0 + pooled.size).reshape(pooled.shape)).sum()

    ours = jax.jit(jax.value_and_grad(lambda x: weighted(convolution.max_pool_2x2(x))))(features)
    linens = jax.jit(jax.value_and_grad(lambda x: weighted(nn.max_pool(x, (2, 2), (2, 2)))))(
        features
    )
    np.testing.assert_allclose(ours[0], linens[0], rtol=1e-6)
    np.testing.assert_array_equal(ours[1], linens[1])


def test_initial_parameters():
    """Kernels are Glorot uniform, biases zero, and both a function of the key alone."""
    model = models.ConvNet(50, ((models.Conv(32, 5),),), ())
    initial = jax.jit(lambda key: models.init_params(model, key, (12, 12, 1)))
    params, again, other = (initial(jax.random.key(seed)) for seed in (0, 0, 1))
    fans = {"conv_1": 25 * 1 + 25 * 32, "fc_1": 4 * 4 * 32 + 50}
    for layer, fan in fans.items():
        kernel, bound = np.asarray(params[layer]["kernel"]), np.sqrt(6.0 / fan)
        assert np.abs(kernel).max() <= bound
        assert np.abs(kernel).max() > 0.98 * bound
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3.0), rtol=0.05)
        assert not np.asarray(params[layer]["bias"]).any()
        assert params[layer]["kernel"].dtype == params[layer]["bias"].dtype == jnp.float32
        np.testing.assert_array_equal(again[layer]["kernel"], kernel)
        assert (np.asarray(other[layer]["kernel"]) != kernel).any()


def operations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from operations(inner)


@EVERY_MODEL
def test_precision_reaches_every_product_forwards_and_backwards(name):
    apply = models.apply_fn(models.create(name, CLASSES[name], precision="highest"))
    gradient = jax.grad(lambda params, images: apply(params, images).sum())
    jaxpr = jax.make_jaxpr(gradient)(random_params(name), random_images(name, 2))
    products = [
        equation
        for equation in operations(jaxpr.jaxpr)
        if equation.primitive.name in ("conv_general_dilated", "dot_general")
    ]
    assert len(products) >= 2 * len(KERNELS[name])
    for equation in products:
        assert equation.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2, equation


@pytest.mark.parametrize(
    ("name", "place", "expected"),
    [
        # Rows 21..26 -> 17..23 of 24 -> 8..11 of 12 -> 4..7 of 8 -> 2..3 of 4; columns 1..6 -> 0..1.
        ("digit", (21, 1), 1 - 2 * 2 / 16),
        # 11..16 -> 7..16 -> 3..8 -> 0..7: all.
        ("digit", (11, 11), 0.0),
        # Rows 3..8 -> 0..8 -> 0..4 -> 0..4 -> 0..2; columns 16..21 -> 12..21 -> 6..10 -> 2..7 -> 1..3.
        ("digit", (3, 16), 1 - 3 * 3 / 16),
        # Padded, 0..5 -> 0..6 -> 0..7 of 32 -> 0..3 -> 0..5 of 16 -> 0..2 -> 0..4 of 8 -> 0..2 of 4.
        ("object", (0, 0), 1 - 3 * 3 / 16),
    ],
)
def test_free_share_counts_the_features_out_of_reach(name, place, expected):
    height, width, _ = INPUT_SHAPES[name]
    patterns = np.zeros((2, height, width), np.int8)
    patterns[0, place[0] : place[0] + 6, place[1] : place[1] + 6] = -1
    patterns[1] = 1
    free = models.free_share(models.create(name, 10), patterns)
    np.testing.assert_allclose(free, [expected, 0.0], atol=1e-6)


def test_free_share_against_pixels_that_change_nothing():
    """Random weights of the Digit net: features that a pattern's pixels do not move, counted."""
    net = models.digit()
    params = models.init_params(net, jax.random.key(0), INPUT_SHAPES["digit"])
    pattern = np.zeros((1, 28, 28), np.int8)
    pattern[0, 17:23, 9:15] = 1
    image = np.random.default_rng(0).random((1, 28, 28, 1), np.float32)

    def features(bound, images):
        return bound.block(bound.block(images, 0), 1)

    seen = [
        net.apply({"params": params}, jnp.asarray(each), method=features)
        for each in (image, np.where(pattern[..., None], 2000.0, image))
    ]
    unmoved = np.asarray(seen[0] == seen[1]).all(-1).mean()
    np.testing.assert_allclose(models.free_share(net, pattern), [unmoved], atol=1e-6)


def test_an_unknown_model_is_one_clear_line():
    for call in (
        lambda: models.create("resnet", 10),
        lambda: models.parameter_shapes("resnet", (32, 32, 3), 10),
        lambda: models.predictor("resnet", {}, 10),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == (
            "config.model: 'resnet' is no model; take one of digit, face, traffic, object"
        )


# The smallest images a net takes; of images a pixel smaller it leaves nothing.
@pytest.mark.parametrize(
    ("name", "height", "width"),
    [("digit", 16, 16), ("face", 31, 31), ("traffic", 36, 36), ("object", 8, 8)],
)
def test_images_too_small_for_a_net_are_one_clear_line(name, height, width):
    channels = INPUT_SHAPES[name][2]
    smallest = models.parameter_shapes(name, (height, width, channels), 10)
    assert all(min(shape) > 0 for shape in smallest.values())
    for shape in ((height - 1, width, channels), (height, width - 1, channels)):
        with pytest.raises(InputError) as caught:
            models.parameter_shapes(name, shape, 10)
        assert str(caught.value) == (
            f"config.data.input_shape: {shape} is too small for the {name} model; "
            "take larger images or another model"
        )


@pytest.mark.parametrize("count", [0, 1, 500, 503])
def test_predictor_takes_any_number_of_images(count):
    params = random_params("digit")
    images = np.random.default_rng(0).random((503, 28, 28, 1), np.float32)
    images[::2, :6, :6] = 2000.0
    predict = models.predictor("digit", params, 10)
    labels = predict(images[:count])
    assert (labels.shape, labels.dtype) == ((count,), np.int32)
    few = [i for i in (0, 1, 250, 499, 500, 502) if i < count]
    expected = numpy_digit(images[few].astype(np.float64), params).argmax(-1) if few else []
    np.testing.assert_array_equal(labels[few], expected)
