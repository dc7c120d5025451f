"""Where data parallelism stops paying for the papers' nets: an estimate from counted FLOPs and bytes.

    python benchmarks/data_parallelism.py       # the tables of docs/scaling.md

Nothing is timed. Counted: the parameters, whose gradient is averaged in every step, and the FLOPs of each
task's own step (`trainer.make_step` of its recipe), by XLA's cost analysis of the program lowered for a GPU,
without compiling it; no GPU is needed. Counted at two batches, they are a part that every device does for
itself (the optimiser) and a part an image. Assumed: the devices and links below.
"""

import math
import pathlib
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from nullmark_jax import batches, models, program, trainer, training, transform

# Each task's recipe as measured in results/; the string is the config file's argument.
RECIPES = {"digit": None, "face": "lfw", "traffic": None, "object": None}
_CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"


class Counts(NamedTuple):
    """What is counted of a task's step.

    Attributes:
      batch: B, clean images a step of the recipe.
      marked: k, those with a null and a true copy.
      parameters: P; a float32 gradient of 4 P bytes is averaged.
      fixed: FLOPs of a step whatever the batch.
      image: FLOPs a clean image, its share of the copies included.
    """

    batch: int
    marked: int
    parameters: int
    fixed: float
    image: float

    @property
    def gradient(self) -> int:
        """Bytes averaged in a step: the gradient, the loss and its three terms."""
        return 4 * (self.parameters + 4)


class Link(NamedTuple):
    """A kind of device and the link between any two of a ring of them.

    Attributes:
      name: for the table.
      flops: float32 FLOP/s of a device at its peak.
      bandwidth: bytes/s that a device sends while it receives as many.
      hop: seconds from a device to the next of the ring.
      start: seconds of an all-reduce beside its hops and bytes.
    """

    name: str
    flops: float
    bandwidth: float
    hop: float
    start: float


# docs/scaling.md says where each number is from.
LINKS = (
    Link("H100, NVLink", 67e12, 450e9, 3.4e-6, 8.4e-6),
    Link("H100, InfiniBand NDR", 67e12, 50e9, 9.6e-6, 8.4e-6),
    Link("TPU v5e, ICI", 197e12 / 6, 200e9, 1e-6, 0.0),
    Link("H100, NVLink without latency", 67e12, 450e9, 0.0, 0.0),
)
# Of the peak: all of it; and what the one GPU run came to (docs/scaling.md).
SHARES = (1.0, 0.03)
_TOGETHER = 8


def flops(task: str, batch: int | None = None) -> float:
    """Returns the FLOPs that XLA counts in a task's step on one GPU; `batch` is the recipe's by default."""
    config = program.load_config_file(_CONFIGS / f"{task}.py").get_config(RECIPES[task])
    batch = batch or config.batch_size
    shape, classes = tuple(config.data.input_shape), config.data.num_classes
    model = models.create(config.model, classes, precision=config.precision)
    step, optimizer, _ = trainer.make_step(config, model, 100, average=lambda tree: tree)

    def initial() -> training.TrainState:
        return training.init_state(models.init_params(model, jax.random.key(0), shape), optimizer)

    marks = transform.random_watermarks(
        0, config.watermark.num_watermarks, height=shape[0], width=shape[1], num_classes=classes,
        pattern_size=config.watermark.pattern_size, extreme_value=config.watermark.extreme_value,
    )  # fmt: skip
    of = jax.ShapeDtypeStruct
    marked = batches.marked_per_batch(config.loss.inject_ratio, batch)
    choice = batches.Batch(
        of((batch,), jnp.int32), of((marked,), jnp.int32), of((batch, 2), jnp.int32),
        of((batch,), jnp.bool_),
    )  # fmt: skip
    traced = jax.jit(step).trace(
        jax.eval_shape(initial),
        of((1000, *shape), jnp.uint8),
        of((1000,), jnp.int32),
        choice,
        marks,
    )
    return traced.lower(lowering_platforms=("cuda",)).cost_analysis()["flops"]


def count(task: str) -> Counts:
    """Counts a task's step."""
    config = program.load_config_file(_CONFIGS / f"{task}.py").get_config(RECIPES[task])
    batch = config.batch_size
    once, twice = flops(task, batch), flops(task, 2 * batch)
    image = (twice - once) / batch
    shapes = models.parameter_shapes(
        config.model, tuple(config.data.input_shape), config.data.num_classes
    )
    return Counts(
        batch=batch,
        marked=batches.marked_per_batch(config.loss.inject_ratio, batch),
        parameters=models.parameter_count(shapes),
        fixed=once - batch * image,
        image=image,
    )


def shared_seconds(counts: Counts, link: Link, share: float, images: float) -> float:
    """Returns the seconds of a device's arithmetic on `images` clean images, what devices can share.

    Args:
      counts: of the task.
      link: says the device.
      share: of the device's peak that its arithmetic reaches, in (0, 1].
      images: of a step, on one device.
    """
    return counts.image * images / (share * link.flops)


def fixed_seconds(counts: Counts, link: Link, share: float) -> float:
    """Returns the seconds of a step's arithmetic that every device does for itself."""
    return counts.fixed / (share * link.flops)


def average_seconds(counts: Counts, link: Link, devices: int) -> float:
    """Returns the seconds of averaging the gradient over a ring of devices, 0 of one.

    Each sends 2 (N - 1) times the N-th part of it.
    """
    if devices == 1:
        return 0.0
    hops = 2 * (devices - 1)
    return link.start + hops * (link.hop + counts.gradient / devices / link.bandwidth)


def break_even(counts: Counts, link: Link, share: float) -> int:
    """Returns the fewest devices, from 2, at which averaging takes as long as a device's own images.

    The recipe's batch is shared among them; whether so many can share it is not asked.
    """
    devices = 2
    while average_seconds(counts, link, devices) < shared_seconds(
        counts, link, share, counts.batch / devices
    ):
        devices += 1
    return devices


def images_needed(counts: Counts, link: Link, share: float, devices: int) -> int:
    """Returns the clean images a device at which they take as long as averaging over so many devices."""
    each = shared_seconds(counts, link, share, 1)
    return max(1, math.ceil(average_seconds(counts, link, devices) / each))


def tables(counted: dict[str, Counts]) -> str:
    """Returns both tables of docs/scaling.md."""
    lines = [
        "| net | parameters | averaged a step | batch (marked) | FLOPs an image | FLOPs beside, a step |",
        "|---|---|---|---|---|---|",
    ]
    for task, counts in counted.items():
        lines.append(
            f"| {task.capitalize()} | {counts.parameters:,} | {counts.gradient / 1e6:.2f} MB | "
            f"{counts.batch} ({counts.marked}) | {counts.image / 1e6:.0f} M | {counts.fixed / 1e6:.0f} M |"
        )
    heads = [f"at {share:.0%} of the peak: alone | N | b" for share in SHARES]
    lines += [
        "",
        f"| net | device, link | averaged over {_TOGETHER} | {' | '.join(heads)} |",
        f"|---|---|---|{'---|---|---|' * len(SHARES)}",
    ]
    for task, counts in counted.items():
        for link in LINKS:
            cells = [
                task.capitalize(),
                link.name,
                _microseconds(average_seconds(counts, link, _TOGETHER)),
            ]
            for share in SHARES:
                alone = shared_seconds(counts, link, share, counts.batch)
                cells += [
                    _microseconds(alone + fixed_seconds(counts, link, share)),
                    str(break_even(counts, link, share)),
                    str(images_needed(counts, link, share, _TOGETHER)),
                ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f} µs"


def main(argv: list[str]) -> int:
    def body(_: flags.FlagValues) -> int:
        print(tables({task: count(task) for task in RECIPES}))
        return 0

    return program.run(body, flags.FlagValues(), argv, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
