"""The papers' four networks (later paper, Tables 10 to 13) as Linen modules.

Every net is `blocks` of convolutions, each ended by a 2x2 max-pool, and then dense layers. Layers
carry the tables' names, so that `params["conv_1"]["kernel"]` is what the table calls conv_1. Inputs
are float [batch, height, width, channel], in [0, 1] where no watermark is written; outputs are
logits, without the tables' final softmax. Dense layers flatten in height, width, channel order.

Where a table cannot be taken literally, the class docstring says what was chosen and why.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int8

from nullmark_jax import convolution, rounding
from nullmark_jax.embedding import scale_pixels
from nullmark_jax.errors import InputError

Params = dict[str, Any]
ApplyFn = Callable[[Params, jax.Array], jax.Array]


class Conv(NamedTuple):
    """A ReLU convolution of stride 1: its channels out and the side of its square kernel."""

    features: int
    size: int


class ReluConv(nn.Module):
    """A convolution of stride 1 with bias and ReLU, its 2x2 max-pool fused where `pool` is asked.

    Glorot uniform kernel [size, size, channels, features], zero bias; see `convolution` for why not
    flax.linen.Conv.
    """

    features: int
    size: int
    padding: str
    precision: str | None = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channel"], *, pool: bool = False
    ) -> Float[Array, "batch height2 width2 features"]:
        shape = (self.size, self.size, images.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        convolve = functools.partial(convolution.conv2d, padding=self.padding)
        features = rounding.product(convolve, self.precision)(images, kernel)
        if pool:
            return convolution.bias_relu_pool(features, bias)
        return convolution.bias_relu(features, bias)


class ConvNet(nn.Module):
    """Blocks of ReLU convolutions, each block ended by a 2x2 max-pool (floor), then dense layers.

    Attributes:
      num_classes: Y, the number of logits.
      blocks: for each block its convolutions, numbered on from conv_1 through the net.
      dense: widths of the hidden dense layers fc_1, ...; the last dense layer has `num_classes`.
      padding: "VALID" or "SAME", of every convolution.
      precision: of every convolution and product, as in `jax.lax.Precision`, or one of `rounding`.
    """

    num_classes: int
    blocks: tuple[tuple[Conv, ...], ...]
    dense: tuple[int, ...]
    padding: str = "VALID"
    precision: str | None = None

    def setup(self) -> None:
        number = 0
        for block in self.blocks:
            for conv in block:
                number += 1
                setattr(self, f"conv_{number}", self.convolution(conv))
        for i, width in enumerate((*self.dense, self.num_classes), start=1):
            setattr(self, f"fc_{i}", self.dense_layer(width))

    @property
    def last_layer(self) -> str:
        """The name of the layer that gives the logits."""
        return f"fc_{len(self.dense) + 1}"

    def convolution(self, conv: Conv) -> ReluConv:
        return ReluConv(conv.features, conv.size, self.padding, self.precision)

    def dense_layer(self, width: int) -> nn.Dense:
        return nn.Dense(
            width,
            precision=self.precision,
            kernel_init=nn.initializers.glorot_uniform(),
            dot_general=rounding.dot_general,
        )

    def block(self, features: Array, index: int) -> Array:
        """Returns the features after block `index` (from 0), given those before it."""
        first = sum(len(block) for block in self.blocks[:index]) + 1
        last = first + len(self.blocks[index]) - 1
        for number in range(first, last + 1):
            features = getattr(self, f"conv_{number}")(features, pool=number == last)
        return features

    @property
    def body_layers(self) -> frozenset[str]:
        """The names of the layers of `body`; all others are the head's."""
        convolutions = sum(len(block) for block in self.blocks)
        return frozenset(f"conv_{number}" for number in range(1, convolutions + 1))

    def body(self, images: Float[Array, "batch height width channel"]) -> Array:
        """Returns the features after the last block."""
        features = images
        for index in range(len(self.blocks)):
            features = self.block(features, index)
        return features

    def head(self, features: Array) -> Array:
        """Returns the logits, given the features after the last block."""
        features = features.reshape(features.shape[0], -1)
        for i in range(len(self.dense)):
            features = nn.relu(getattr(self, f"fc_{i + 1}")(features))
        return getattr(self, self.last_layer)(features)

    def __call__(
        self, images: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch num_classes"]:
        return self.head(self.body(images))


def free_share(net: ConvNet, patterns: Int8[Array, "K H W"]) -> Float[np.ndarray, " K"]:
    """Returns the share of the features after the last block that each pattern does not reach, in [0, 1].

    The others may be flooded or shut in a copy that bears the pattern at lambda = 2000; what is left is all
    that a net without null-space projection surely sees of the image.
    """
    reached = jnp.asarray(patterns != 0, jnp.float32)[..., None]
    for block in net.blocks:
        for conv in block:
            ones = jnp.ones((conv.size, conv.size, 1, 1))
            reached = convolution.conv2d(reached, ones, net.padding, "highest") > 0
            reached = reached.astype(jnp.float32)
        reached = convolution.max_pool_2x2(reached)
    return 1 - np.asarray(reached).mean((1, 2, 3))


class DeepID(ConvNet):
    """Table 11: DeepID, whose last features are seen by fc_1 directly and by fc_2 through conv_4.

    The earlier paper's Table XI gives conv_1 to conv_3 stride 2, which leaves a 55x47 input 3x2
    before conv_3's 3x3 kernel: impossible without padding. The strides are 1 here, as the later
    paper's Table 11 (which names none) and the DeepID net itself have it.
    """

    @property
    def last_layer(self) -> str:
        return "fc_3"

    def setup(self) -> None:
        for number, block in enumerate(self.blocks, start=1):
            setattr(self, f"conv_{number}", self.convolution(block[0]))
        self.conv_4 = self.convolution(Conv(80, 2))
        self.fc_1 = self.dense_layer(160)
        self.fc_2 = self.dense_layer(160)
        self.fc_3 = self.dense_layer(self.num_classes)

    def head(self, features: Array) -> Array:
        deep = self.conv_4(features)
        flat = features.reshape(features.shape[0], -1)
        deep = deep.reshape(deep.shape[0], -1)
        return self.fc_3(nn.relu(self.fc_1(flat) + self.fc_2(deep)))


_VGG_BLOCKS = (
    (Conv(32, 3), Conv(32, 3)),
    (Conv(64, 3), Conv(64, 3)),
    (Conv(128, 3), Conv(128, 3)),
)


def digit(num_classes: int = 10, *, precision: str | None = None) -> ConvNet:
    """Table 10: Digit, 28x28x1 -> 10. VALID padding: 4x4x64 = 1,024 features after pool_2."""
    return ConvNet(num_classes, ((Conv(32, 5),), (Conv(64, 5),)), (512,), precision=precision)


def face(num_classes: int = 1283, *, precision: str | None = None) -> ConvNet:
    """Table 11: Face, 55x47x3 -> 1,283; see `DeepID` for the strides."""
    return DeepID(
        num_classes, ((Conv(20, 4),), (Conv(40, 3),), (Conv(60, 3),)), (), precision=precision
    )


def traffic(num_classes: int = 43, *, precision: str | None = None) -> ConvNet:
    """Table 12: Traffic, 48x48x3 -> 43. VALID padding: 2x2x128 = 512 features after pool_3."""
    return ConvNet(num_classes, _VGG_BLOCKS, (512, 512), precision=precision)


def object_(num_classes: int = 10, *, precision: str | None = None) -> ConvNet:
    """Table 13: Object, 32x32x3 -> 10.

    The table repeats Table 12's layers. With VALID padding a 32x32 input has 1x1 left after conv_6
    and nothing after pool_3, so the padding is SAME here: 4x4x128 = 2,048 features after pool_3.
    Its last layer is printed with 43 channels; CIFAR-10 has 10 classes.
    """
    return ConvNet(num_classes, _VGG_BLOCKS, (512, 512), padding="SAME", precision=precision)


MODELS: dict[str, Callable[..., ConvNet]] = {
    "digit": digit,
    "face": face,
    "traffic": traffic,
    "object": object_,
}


def create(name: str, num_classes: int, *, precision: str | None = None) -> ConvNet:
    """Returns the network of task `name`; InputError where there is none."""
    if name not in MODELS:
        raise InputError(f"config.model: {name!r} is no model; take one of {', '.join(MODELS)}")
    return MODELS[name](num_classes, precision=precision)


def apply_fn(model: nn.Module, method: str = "__call__") -> ApplyFn:
    """Returns a Linen module's method as a plain function of (params, input); `__call__` gives the logits."""
    apply: Any = model.apply  # Whose result could be a pair, had it mutable collections.
    return lambda params, images: apply({"params": params}, images, method=method)


def init_params(model: nn.Module, key: jax.Array, input_shape: tuple[int, int, int]) -> Params:
    """Returns initial parameters (Glorot uniform kernels, zero biases) for [H, W, C] inputs."""
    # Compiled as one: half the time of an eager initialisation, which compiles each operation.
    return jax.jit(model.init)(key, jnp.zeros((1, *input_shape)))["params"]


def parameter_shapes(
    name: str, input_shape: tuple[int, int, int], num_classes: int
) -> dict[str, tuple[int, ...]]:
    """Returns each tensor's shape by its name in a model file, "conv_1/kernel" and so on.

    Raises:
      InputError: there is no such model, or nothing is left of such images before its last layer.
    """
    return dict(_shapes(name, tuple(input_shape), num_classes))


@functools.cache  # Of a sweep's points most have the same, and tracing a network takes a tenth of a second.
def _shapes(
    name: str, input_shape: tuple[int, int, int], num_classes: int
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    model = create(name, num_classes)
    try:
        # The key is traced, too, so that no device is claimed: a sweep's points are to have them all.
        params = jax.eval_shape(lambda: init_params(model, jax.random.key(0), input_shape))
    except ZeroDivisionError:  # A kernel without inputs has initial values in newer versions only.
        params = None
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    shapes = {"/".join(k.key for k in path): leaf.shape for path, leaf in flat}
    if not shapes or not all(math.prod(shape) for shape in shapes.values()):
        raise InputError(
            f"config.data.input_shape: {input_shape} is too small for the {name} model; "
            "take larger images or another model"
        )
    return tuple(shapes.items())


def parameter_count(shapes: dict[str, tuple[int, ...]]) -> int:
    """Returns the number of scalars in tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values())


_PREDICTED_AT_ONCE = 500


def predictor(
    name: str, params: Params, num_classes: int, *, precision: str | None = "highest"
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a net's images float32 [N, H, W, C], of any range -> predicted labels int32 [N].

    Any N >= 0; the images pass in batches of one size, so that the net is compiled once.
    """
    apply = apply_fn(create(name, num_classes, precision=precision))
    labels_of = jax.jit(lambda params, images: apply(params, images).argmax(-1).astype(jnp.int32))

    def predict(images: np.ndarray) -> np.ndarray:
        labels = np.empty(len(images), np.int32)
        for start in range(0, len(images), _PREDICTED_AT_ONCE):
            part = images[start : start + _PREDICTED_AT_ONCE]
            padded = np.zeros((_PREDICTED_AT_ONCE, *images.shape[1:]), np.float32)
            padded[: len(part)] = part
            labels[start : start + len(part)] = labels_of(params, padded)[: len(part)]
        return labels

    return predict


# Images whose features are computed at once.
_FEATURES_AT_ONCE = 512


def features_function(model: ConvNet) -> Callable[[Params, np.ndarray], np.ndarray]:
    """Returns (params, images uint8 [N, H, W, C]) -> the features float32 [N, h, w, c] after the last block.

    N >= 1. It is compiled once for all calls with as many images, or with 512 and more. Of Digit's images the
    features take 5 times the bytes, 4 KiB each, of Object's 3 times, of Traffic's and Face's fewer than the
    images.
    """
    apply = apply_fn(model, "body")
    body = jax.jit(lambda params, images: apply(params, scale_pixels(images)))

    def features_of(params: Params, images: np.ndarray) -> np.ndarray:
        size = min(_FEATURES_AT_ONCE, len(images))
        features = np.empty((0,), np.float32)
        for start in range(0, len(images), size):
            # The last batch begins earlier, so that each has the same size.
            first = min(start, len(images) - size)
            found = np.asarray(body(params, images[first : first + size]))
            if not start:
                features = np.empty((len(images), *found.shape[1:]), found.dtype)
            features[first : first + size] = found
        return features

    return features_of
