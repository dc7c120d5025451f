"""Scaled weight standardisation: networks without a normalisation layer, trained as if they had one.

The papers' nets have none, and from Glorot's initialisation their clean images' gradients are next to
nothing, thousands of times below those of true copies: training starts on a plateau. Each kernel w but
the last layer's is therefore trained as

    w' = gain (w - mean(w)) / sqrt(fan_in var(w)),

mean and variance over each output's own inputs (Qiao et al., "Micro-Batch Training with Batch-Channel
Normalization and Weight Standardization", 2019; scaled as by Brock et al., "Characterizing signal
propagation to close the performance gap in unnormalized ResNets", 2021). It costs a step next to
nothing, mixes no images, and is done with when training ends: a written model holds w', a plain kernel
(of the second convolution its projection, where `nullspace` takes one).
"""

import math

import jax
import jax.numpy as jnp

from nullmark_jax.models import Params

# What keeps a variance through a ReLU: 1 / sqrt of the variance of max(z, 0) for a standard normal z.
GAIN = 1 / math.sqrt((1 - 1 / math.pi) / 2)

# Added to the sum of squares: a kernel of zeros stays one, with a gradient that is finite.
_EPSILON = 1e-8


def standardize(params: Params, *, last: str) -> Params:
    """Returns params with every layer's kernel standardised but that of layer `last`.

    Each output feature's weights, over all axes of the kernel but the last, then have mean 0 and
    variance GAIN^2 / fan_in, fan_in being their number. Biases, and layer `last`, are as they were.
    """
    return {
        name: layer if name == last else {**layer, "kernel": _standardized(layer["kernel"])}
        for name, layer in params.items()
    }


def _standardized(kernel: jax.Array) -> jax.Array:
    inputs = tuple(range(kernel.ndim - 1))
    centred = kernel - kernel.mean(inputs, keepdims=True)
    scale = jax.lax.rsqrt((centred**2).sum(inputs, keepdims=True) + _EPSILON)
    return centred * (jnp.asarray(GAIN, kernel.dtype) * scale)
