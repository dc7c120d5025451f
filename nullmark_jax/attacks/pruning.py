"""Pruning and quantisation: a smaller model of the same answers, which may lose what is rarely asked.

Both papers prune neurons "with smaller absolute weights first" (ascending), the earlier one also with
larger ones first (descending), and say no more. What was chosen here:

- A neuron is one output of a hidden layer: a channel of a convolution, a unit of a dense layer. Its size
  is the sum of its incoming weights' absolute values. All neurons of a layer have as many inputs, so that
  the mean ranks them alike.
- Neurons are ranked within their layer, and each hidden layer loses the same share. Weights shrink with a
  layer's number of inputs; ranked over the whole network, one layer would go before any other is touched.
- A pruned neuron's bias goes too, so that behind the ReLU it is 0 for every input. In Face, fc_1 and fc_2
  are added before their ReLU: there a sum is silent only where both its neurons are pruned.
- The last layer keeps its neurons, which are the classes.

Single weights are ranked likewise, within their layer, the last layer's among them, and no biases.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nullmark_jax import checks
from nullmark_jax.errors import InputError
from nullmark_jax.models import ConvNet, Params

KINDS = ("neurons", "weights")
ORDERS = ("ascending", "descending")
FORMATS = ("int8", "bf16")

# int8 without -128, so that it is symmetric.
_LARGEST_INT8 = 127


def prune(model: ConvNet, params: Params, kind: str, order: str, ratio: float) -> Params:
    """Returns params without the neurons or weights that come first in an order.

    Args:
      model: the network.
      params: the victim's, left as they are.
      kind: one of `KINDS`.
      order: "ascending", the smallest first, or "descending", the largest.
      ratio: the share of each layer that is pruned, as in `prune_neurons`.

    Raises:
      InputError: no such kind or order, or the ratio is out of range.
    """
    for name, value, known in (("kind", kind, KINDS), ("order", order, ORDERS)):
        if value not in known:
            raise InputError(
                f"{name}: {checks.shown(value)} is none; take one of {', '.join(known)}"
            )
    descending = order == "descending"
    if kind == "neurons":
        return prune_neurons(params, ratio, last=model.last_layer, descending=descending)
    return prune_weights(params, ratio, descending=descending)


def prune_neurons(params: Params, ratio: float, *, last: str, descending: bool = False) -> Params:
    """Returns params with a share of every hidden layer's neurons set to 0, incoming weights and bias.

    Args:
      params: layers by name, each with `kernel` [..., outputs] and `bias` [outputs].
      ratio: in [0, 1]; of m neurons, ratio x m are pruned, rounded to the nearest whole number. With 0
        nothing changes, with 1 the network's answer depends on the last layer's bias alone.
      last: the layer that is left as it is.
      descending: prune the neurons of the largest sum of absolute incoming weights, not the smallest.
        Of equal ones the first goes first.

    Raises:
      InputError: the ratio is out of range.
    """
    check_ratio("ratio", ratio)

    def pruned(layer: Params) -> Params:
        sizes = jnp.abs(layer["kernel"]).sum(_inputs(layer["kernel"]))
        kept = _kept(sizes, round(ratio * sizes.size), descending)
        return {name: _only(leaf, kept) for name, leaf in layer.items()}

    return {name: layer if name == last else pruned(layer) for name, layer in params.items()}


def prune_weights(params: Params, ratio: float, *, descending: bool = False) -> Params:
    """Returns params with a share of every layer's single weights set to 0; biases stay.

    Args:
      params: layers by name, each with `kernel` and `bias`.
      ratio: in [0, 1], as in `prune_neurons`, of the weights of each kernel.
      descending: prune the weights of the largest absolute value, not the smallest. Of equal ones the
        first, in row-major order, goes first.

    Raises:
      InputError: the ratio is out of range.
    """
    check_ratio("ratio", ratio)

    def pruned(kernel: Array) -> Array:
        sizes = jnp.abs(kernel).reshape(-1)
        kept = _kept(sizes, round(ratio * sizes.size), descending)
        return _only(kernel, kept.reshape(kernel.shape))

    return _on_kernels(params, pruned)


def quantise(params: Params, number_format: str) -> Params:
    """Returns params rounded to fewer bits, as float32 again.

    - "int8": every output's incoming weights become whole multiples, -127 to 127, of a step of their own,
      their largest absolute value over 127. None moves by more than half a step (and a float's
      rounding); an output without weights keeps none. Biases stay float32, as is usual.
    - "bf16": weights and biases to the nearest bfloat16, which has 8 significant bits.

    Args:
      params: layers by name, each with `kernel` [..., outputs] and `bias` [outputs], float32.
      number_format: one of `FORMATS`.

    Raises:
      InputError: no such format.
    """
    if number_format not in FORMATS:
        raise InputError(
            f"number_format: {checks.shown(number_format)} is none; "
            f"take one of {', '.join(FORMATS)}"
        )
    if number_format == "int8":
        return _on_kernels(params, _to_int8)
    # Not astype there and back, which XLA may leave out.
    return jax.tree.map(lambda leaf: jax.lax.reduce_precision(jnp.asarray(leaf), 8, 7), params)


# Compiled, each as one, for a layer's shapes: a sweep over ratios then takes next to no time.


@jax.jit
def _to_int8(kernel: Float[Array, "*inputs outputs"]) -> Float[Array, "*inputs outputs"]:
    largest = jnp.abs(kernel).max(_inputs(kernel), keepdims=True)
    step = largest / _LARGEST_INT8
    whole = jnp.round(kernel / jnp.where(step > 0, step, jnp.ones_like(step)))
    return jnp.clip(whole, -_LARGEST_INT8, _LARGEST_INT8) * step


@partial(jax.jit, static_argnames="descending")
def _kept(sizes: Float[Array, " n"], pruned: int, descending: bool) -> Bool[Array, " n"]:
    """Returns which are not among the `pruned` first in the order."""
    order = jnp.argsort(-sizes if descending else sizes, stable=True)
    return jnp.zeros(sizes.shape, bool).at[order].set(jnp.arange(sizes.size) >= pruned)


@jax.jit
def _only(leaf: Array, kept: Bool[Array, "..."]) -> Array:
    """Returns an array with zeros where what is kept, broadcast from the last axis on, says so."""
    return jnp.where(jnp.broadcast_to(kept, leaf.shape), leaf, jnp.zeros_like(leaf))


def _inputs(kernel: Array) -> tuple[int, ...]:
    """Returns the axes of a kernel but the last, which is its outputs'."""
    return tuple(range(kernel.ndim - 1))


def _on_kernels(params: Params, change: Callable[[Array], Array]) -> Params:
    return {
        name: {**layer, "kernel": change(jnp.asarray(layer["kernel"]))}
        for name, layer in params.items()
    }


def check_ratio(name: str, ratio: float) -> None:
    """Raises InputError unless a ratio lies in [0, 1]."""
    if not 0 <= checks.real(name, ratio) <= 1:
        raise InputError(f"{name}: {checks.shown(ratio)} is out of range; give one in [0, 1]")
