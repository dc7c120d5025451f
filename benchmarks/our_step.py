"""Our whole training step, as `training.fit` runs it, and our evaluation, on random images."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

import contestant
from nullmark_jax import (
    batches,
    evaluation,
    losses,
    models,
    nullspace,
    optimizers,
    parallel,
    training,
    transform,
)
from nullmark_jax import incremental as inc
from nullmark_jax.data import Dataset
from nullmark_jax.embedding import Watermark

SHAPES = {
    "digit": ((28, 28, 1), 10),
    "face": ((55, 47, 3), 1283),
    "traffic": ((48, 48, 3), 43),
    "object": ((32, 32, 3), 10),
}
PATTERN_SIZE = 6
# Batches made ahead; the steps go round them.
_BATCHES = 64


class Steps:
    """Training steps one after another; a call makes one and returns its loss."""

    def __init__(
        self, run: Callable[..., Any], state: training.TrainState, fixed: tuple[Any, ...],
        choices: Iterator[batches.Batch], marks: Watermark,
    ) -> None:  # fmt: skip
        self._run, self._state, self._fixed = run, state, fixed
        self._choices, self._marks = choices, marks

    def __call__(self) -> float:
        choice = next(self._choices)
        self._state, metrics = self._run(self._state, *self._fixed, choice, self._marks)
        return float(metrics.loss)

    def program_memory(self) -> int | None:
        """Returns the bytes of the compiled step's arguments, results and temporary arrays.

        Of one device; None where jax does not say. What the process itself takes is not in them.
        """
        arguments = (self._state, *self._fixed, next(self._choices), self._marks)
        sizes = self._run.lower(*arguments).compile().memory_analysis()
        if sizes is None:
            return None
        return (
            sizes.argument_size_in_bytes
            + sizes.output_size_in_bytes
            - sizes.alias_size_in_bytes
            + sizes.temp_size_in_bytes
        )


def inputs(
    task: str,
    count: int,
    *,
    size: int | None = None,
    watermarks: int = 1,
    pattern_size: int = PATTERN_SIZE,
) -> tuple[np.ndarray, np.ndarray, Watermark]:
    """Returns random images uint8 [count, H, W, C], labels int32 [count] and random watermarks.

    H and W are the task's own, or `size`.
    """
    shape, classes = SHAPES[task]
    height, width = (size, size) if size else shape[:2]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, height, width, shape[2]), dtype=np.uint8)
    labels = rng.integers(0, classes, count).astype(np.int32)
    marks = transform.random_watermarks(
        0, watermarks, height=height, width=width, num_classes=classes, pattern_size=pattern_size,
        extreme_value=2000.0,
    )  # fmt: skip
    return images, labels, marks


def make_step(
    task: str,
    batch: int,
    *,
    images: int | None = None,
    size: int | None = None,
    watermarks: int = 1,
    pattern_size: int = PATTERN_SIZE,
    incremental: bool = True,
    null_space: bool = False,
) -> Steps:
    """Returns the training steps, on all local devices.

    Adam 1e-3, gradients clipped to a global norm of 1; half of a batch's images get a null and a true
    copy.

    Args:
      task: whose net.
      batch: clean images a step, over all devices.
      images: of the training set, which lies on the devices; as many as a batch by default.
      size: as in `inputs`, like `watermarks` and `pattern_size`.
      incremental: whether copies share their images' early layers.
      null_space: whether the net is projected (`config.null_space`).
    """
    pictures, labels, marks = inputs(
        task, images or batch, size=size, watermarks=watermarks, pattern_size=pattern_size
    )
    model = models.create(task, SHAPES[task][1], precision="highest")
    optimizer = optimizers.optimizer(optimizers.Recipe("adam", 1e-3, clip_norm=1.0), 1000)
    more, on_copies = {}, None
    if null_space:
        into_null_space = nullspace.for_network(model, pattern_size=pattern_size)
        more["project"] = lambda params, marks: into_null_space(params, marks.pattern)
        on_copies = nullspace.hold_first_layer
    step = training.make_train_step(
        **more,
        marked_logits=inc.for_network(model, pattern_size=pattern_size, on_copies=on_copies)
        if incremental
        else training.concatenated_logits(models.apply_fn(model)),
        optimizer=optimizer,
        cross_entropy=losses.logits_cross_entropy,
        true_weight=1.0,
        null_weight=1.0,
        average=parallel.average,
    )
    run = training.on_devices(step).run
    params = models.init_params(model, jax.random.key(0), pictures.shape[1:])
    state = parallel.replicate(training.init_state(params, optimizer))
    fixed = parallel.replicate((pictures, labels))
    epoch = batches.epoch_batches(
        0, 1, num_images=len(labels), batch_size=batch, marked=batch // 2, num_watermarks=watermarks
    )
    choices = [
        parallel.share(choice, parallel.device_count())
        for choice in itertools.islice(training.dispatches(epoch, 1), _BATCHES)
    ]
    return Steps(run, state, fixed, itertools.cycle(choices), parallel.replicate(marks))


def make_evaluation(task: str, images: int, *, watermarks: int = 1) -> Callable[[], float]:
    """Returns a function that evaluates a net and its watermarks once over random images."""
    pictures, labels, marks = inputs(task, images, watermarks=watermarks)
    classes = SHAPES[task][1]
    model = models.create(task, classes, precision="highest")
    params = models.init_params(model, jax.random.key(0), pictures.shape[1:])
    dataset = Dataset(pictures, labels, tuple(map(str, range(classes))))
    evaluate = evaluation.make_evaluator(models.apply_fn(model), dataset)
    return lambda: float(np.sum(evaluate(params, marks).null))


def peak_memory() -> int:
    """Returns the most bytes held: on a GPU those of its memory, else the process's in RAM."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use") or contestant.resident_peak()
