"""Data parallelism: the only file with pmap, collectives and the topology of devices.

A step is written for one device's share of a batch and averages what it must through `average`;
`pmap` here gives it a share each. State is replicated by specification (`in_axes=None`,
`out_axes=None`), so no array ever carries a device axis outside this file.

Several processes, on several hosts say, work on one model within `joined`: a batch is then shared by the
devices of all, each process picks the images of its own devices' shares, and all end with the same
parameters. What is read from and written to the disk for the run is the first's.

A population is dealt instead: each local device has members of its own (`pmap_members`), and averages
nothing.

Under pmap `average(grad(loss))` is the gradient of the averaged loss, and `grad(average(loss))` is
not; `out_axes=None` silently returns device 0's value where an average was forgotten. The tests
hold every use against one device on the whole batch.
"""

import contextlib
import hashlib
import io
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nullmark_jax import checks
from nullmark_jax.errors import DevicesUnavailable, FolderBusy, InputError

Tree = TypeVar("Tree")
AXIS = "devices"
# How long a process may be silent before the others count it as lost, and how long one that ends waits
# for the others to end.
_PATIENCE_SECONDS = 30
# What a message that is no arrays begins with.
_FAILED, _BUSY = b"!", b"?"


@contextlib.contextmanager
def joined(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> Iterator[None]:
    """Joins the other processes of a run for the block; before anything else is asked of jax.

    Where one of them is lost jax ends the others, which says so, in about a minute; where some do not come,
    those that did after five.

    Args:
      coordinator: HOST:PORT of the first process; "" where Slurm, a TPU pod or Kubernetes tells jax all.
      num_processes: how many they are.
      process_id: which of them this one is, from 0.

    Raises:
      InputError: nothing tells jax of the others, some of the arguments are missing, or the first process
        cannot have its port.
    """
    if not coordinator and (num_processes, process_id) != (0, -1):
        raise InputError(
            "--num_processes, --process_id: say nothing without --coordinator=HOST:PORT; give all three, "
            "or none"
        )
    if coordinator and not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id: {process_id} of --num_processes={num_processes} is out of range; with "
            "--coordinator give both, the first process being 0"
        )
    if coordinator:
        _check_coordinator(coordinator, process_id)
    in_kubernetes = "KUBERNETES_SERVICE_HOST" in os.environ
    try:
        with warnings.catch_warnings():
            # Of the package `kubernetes`, which the error below says.
            warnings.filterwarnings("ignore", "Kubernetes environment detected")
            jax.distributed.initialize(
                coordinator or None,
                num_processes if coordinator else None,
                process_id if coordinator else None,
                # Else jax asks the API of Kubernetes even then.
                cluster_detection_method="deactivate" if coordinator and in_kubernetes else None,
                heartbeat_timeout_seconds=_PATIENCE_SECONDS,
                shutdown_timeout_seconds=_PATIENCE_SECONDS,
            )
    # All of them: a cluster's client has errors of its own.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        start = (
            "install nullmark_jax[kubernetes], start the pods by an Indexed Job with a headless service "
            "and let their service account get and list pods, services and jobs"
            if in_kubernetes and not coordinator
            else "start them by Slurm, on a TPU pod or on Kubernetes"
        )
        raise InputError(
            f"--distributed: the processes cannot be joined ({reason}); {start}, or give "
            "--coordinator=HOST:PORT, --num_processes and --process_id"
        ) from error
    yield
    jax.distributed.shutdown()


def _check_coordinator(coordinator: str, process_id: int) -> None:
    """Raises InputError where jax, which ends the process instead, could do nothing with it."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise InputError(
            f"--coordinator: {checks.shown(coordinator)} is not HOST:PORT; give the first process's host "
            "and a free port there, as 10.0.0.2:8476"
        )
    if process_id == 0:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise InputError(
                f"--coordinator: port {port} of this machine cannot be had ({reason}); another run may "
                "have it: give another"
            ) from error


def check_platform() -> None:
    """Raises DevicesUnavailable where jax cannot have its devices, those of JAX_PLATFORMS where it is set."""
    try:
        jax.devices()
    # AssertionError: CUDA's plugin is not installed.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is not installed"
        wanted = os.environ.get("JAX_PLATFORMS")
        what = f"JAX_PLATFORMS: {wanted!r}" if wanted else "devices: they"
        raise DevicesUnavailable(
            f"{what} cannot be had ({reason}); install nullmark_jax[cuda] or nullmark_jax[tpu], see to "
            "the drivers and to what else uses them, or set JAX_PLATFORMS=cpu"
        ) from error


def is_joined() -> bool:
    """Returns whether the process is within `joined`, be it of one process alone."""
    return bool(jax.distributed.is_initialized())


def process_count() -> int:
    """Returns how many processes work on the run."""
    return jax.process_count()


def process_index() -> int:
    """Returns which of the processes this is, from 0."""
    return jax.process_index()


def is_first() -> bool:
    """Returns whether this process is the one that reads and writes the run's folder."""
    return process_index() == 0


def device_count() -> int:
    """Returns the number of devices, of all processes, that share a batch."""
    return jax.device_count()


def local_device_count() -> int:
    """Returns the number of this process's devices."""
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
    """Returns host arrays with a leading axis of this process's devices: device d takes every d-th row.

    Rows are dealt like cards, so that the first k rows of a batch (the ones with marked copies) are
    the first k / devices rows of every share. Which device a share goes to does not matter to a mean.

    Args:
      tree: the same in every process.
      devices: of all processes.
      axis: of the rows.

    Raises:
      InputError: the rows cannot be shared equally.
    """

    def deal(array: np.ndarray) -> np.ndarray:
        check_divisible("rows", array.shape[axis], devices)
        each = array.shape[axis] // devices
        split = (*array.shape[:axis], each, devices, *array.shape[axis + 1 :])
        dealt = np.moveaxis(array.reshape(split), axis + 1, 0)
        own = devices // process_count()
        return np.ascontiguousarray(dealt[own * process_index() :][:own])

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
    """Returns `function` on the devices of all processes at once, each of which must call it.

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
    devices = local_device_count()

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
        devices=jax.local_devices(),
        donate_argnums=donate,
    )


def from_first(work: Callable[[], Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Returns in every process the arrays that `work` returns in the first, which alone calls it.

    Raises:
      InputError: `work` did, or the system refused it a file, and so all do.
    """
    if process_count() == 1:
        return list(work())
    failure, message = None, b""
    if is_first():
        try:
            stream = io.BytesIO()
            np.savez(stream, *work())
            message = stream.getvalue()
        except (InputError, OSError) as error:
            # No archive begins so.
            mark = _BUSY if isinstance(error, FolderBusy) else _FAILED
            failure, message = error, mark + str(error).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    sent = np.frombuffer(message, np.uint8) if is_first() else np.zeros(size, np.uint8)
    message = np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes()
    if message[:1] in (_FAILED, _BUSY):
        kind = FolderBusy if message[:1] == _BUSY else InputError
        raise failure or kind(f"process 0: {message[1:].decode()}")
    with np.load(io.BytesIO(message), allow_pickle=False) as arrays:
        return list(arrays.values())


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends the block in all processes alike: an InputError (or OSError) in one is an InputError in all.

    Without it the others would wait in vain for the one that gave up.
    """
    failure = None
    try:
        yield
    except (InputError, OSError) as error:
        if process_count() == 1:
            raise
        failure = error
    if process_count() > 1:
        failed = gather(np.int32(failure is not None))
        if failure is not None:
            raise failure
        if failed.any():
            raise InputError(f"process {failed.argmax()}: cannot go on, and says why; mend that")


def gather(value: np.ndarray | np.generic) -> np.ndarray:
    """Returns what each process calls it with, in their order, on a new first axis."""
    if process_count() == 1:
        return np.asarray(value)[np.newaxis]
    return np.asarray(multihost_utils.process_allgather(value))


def check_same(name: str, *contents: bytes | np.ndarray) -> None:
    """Raises InputError in all processes where `contents` are not the same in each."""
    if process_count() == 1:
        return
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content if isinstance(content, bytes) else content.tobytes())
    own = np.frombuffer(digest.digest(), np.uint8)
    every = gather(own)
    other = (every != every[0]).any(axis=1)
    if other.any():
        raise InputError(
            f"{name}: is another in process {other.argmax()} than in process 0; give all the same"
        )


def stop_agreed(step: int) -> bool:
    """Returns whether all processes are to stop after this step, one of them having got SIGTERM.

    jax's preemption service spreads the word and picks a step that none of them is past, so that all stop
    after the same one. Every process must ask at every step.

    Args:
      step: a number that grows.
    """
    return bool(multihost_utils.reached_preemption_sync_point(step))
