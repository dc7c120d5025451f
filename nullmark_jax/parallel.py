"""Data parallelism: the only file with pmap, collectives and the topology of devices.

A step is written for one device's share of a batch and averages what it must through `average`;
`pmap` here gives it a share each. State is replicated by specification (`in_axes=None`,
`out_axes=None`), so no array ever carries a device axis outside this file.

A population is dealt instead: each device has members of its own (`pmap_members`), and averages nothing.

Under pmap `average(grad(loss))` is the gradient of the averaged loss, and `grad(average(loss))` is
not; `out_axes=None` silently returns device 0's value where an average was forgotten. The tests
hold every use against one device on the whole batch.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nullmark_jax.errors import InputError

Tree = TypeVar("Tree")
AXIS = "devices"


def device_count() -> int:
    """Returns the number of local devices that `pmap` runs on."""
    return jax.local_device_count()


def on_accelerator() -> bool:
    """Returns whether the devices are GPUs or TPUs, where a scan over steps pays."""
    return jax.default_backend() != "cpu"


def average(tree: Tree) -> Tree:
    """Returns the mean of `tree` over the devices; inside `pmap_shares` only."""
    return jax.lax.pmean(tree, AXIS)


def total(tree: Tree) -> Tree:
    """Returns the sum of `tree` over the devices; inside `pmap_shares` only."""
    return jax.lax.psum(tree, AXIS)


def check_divisible(name: str, value: int, devices: int) -> None:
    """Raises InputError where `value` cannot be shared equally by the devices."""
    if value % devices:
        raise InputError(
            f"{name}: {value} cannot be shared by {devices} devices; take a multiple of {devices}"
        )


def share(tree: Tree, devices: int, axis: int = 0) -> Tree:
    """Returns host arrays with a leading device axis: device d takes every d-th row of `axis`.

    Rows are dealt like cards, so that the first k rows of a batch (the ones with marked copies) are
    the first k / devices rows of every share.

    Raises:
      InputError: the rows cannot be shared equally.
    """

    def deal(array: np.ndarray) -> np.ndarray:
        check_divisible("rows", array.shape[axis], devices)
        each = array.shape[axis] // devices
        split = (*array.shape[:axis], each, devices, *array.shape[axis + 1 :])
        return np.ascontiguousarray(np.moveaxis(array.reshape(split), axis + 1, 0))

    return jax.tree.map(deal, tree)


def replicate(tree: Tree) -> Tree:
    """Returns `tree` with every array on all local devices, as `pmap_shares` takes what is not cut.

    An array that lies elsewhere is copied to all devices at every call, a whole data set too.
    """
    mesh = Mesh(np.asarray(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def pmap_shares(
    function: Callable[..., Any], cut: tuple[bool, ...], *, donate: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """Returns `function` on all local devices at once.

    Args:
      function: takes one device's shares, and uses `average` or `total` on everything it returns.
      cut: for each argument, whether it is cut in shares (a leading device axis) or replicated.
      donate: arguments whose memory the result may take.
    """
    return jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=tuple(0 if shares else None for shares in cut),
        out_axes=None,
        donate_argnums=donate,
    )


def deal_members(tree: Tree, axis: int = 0) -> Tree:
    """Returns a population's host arrays with a leading device axis: each device has a run of members.

    Where they cannot be shared equally the last one is repeated; `gather_members` drops its copies.

    Args:
      tree: leaves with an axis of members.
      axis: which that is.
    """
    devices = device_count()

    def deal(array: np.ndarray) -> np.ndarray:
        array = np.asarray(array)
        members = array.shape[axis]
        each = -(-members // devices)
        rows = np.minimum(np.arange(devices * each), members - 1)
        split = (*array.shape[:axis], devices, each, *array.shape[axis + 1 :])
        dealt = array.take(rows, axis=axis).reshape(split)
        return np.ascontiguousarray(np.moveaxis(dealt, axis, 0))

    return jax.tree.map(deal, tree)


def place_members(tree: Tree) -> Tree:
    """Returns a population dealt as `deal_members` deals it, each device's members on that device.

    `pmap_members` takes an array that lies on the host, too, but copies it to the devices at every call.
    """
    mesh = Mesh(np.asarray(jax.local_devices()), (AXIS,))
    return jax.device_put(deal_members(tree), NamedSharding(mesh, PartitionSpec(AXIS)))


def gather_members(tree: Tree, members: int) -> Tree:
    """Returns what `deal_members` dealt along its first axis as it was, on the host."""

    def gather(array: jax.Array) -> np.ndarray:
        return np.asarray(array).reshape(-1, *array.shape[2:])[:members]

    return jax.tree.map(gather, tree)


def pmap_members(
    function: Callable[..., Any], dealt: tuple[bool, ...], *, donate: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """Returns `function` on all local devices at once, each with members of its own.

    Args:
      function: takes one device's members; its result has leaves with an axis of them.
      dealt: for each argument, whether it is dealt (a leading device axis, as the result) or replicated.
      donate: arguments whose memory the result may take.
    """
    return jax.pmap(
        function,
        in_axes=tuple(0 if has_members else None for has_members in dealt),
        donate_argnums=donate,
    )
