"""Our whole training step, as `training.fit` runs it, on random images."""

from collections.abc import Callable

import jax
import numpy as np

import contestant
from nullmark_jax import incremental as inc
from nullmark_jax import losses, models, nullspace, optimizers, parallel, training, transform
from nullmark_jax.batches import Batch
from nullmark_jax.embedding import Watermark

SHAPES = {"digit": ((28, 28, 1), 10), "traffic": ((48, 48, 3), 43)}
PATTERN_SIZE = 6


def inputs(
    task: str, batch: int, *, size: int | None = None, watermarks: int = 1
) -> tuple[np.ndarray, np.ndarray, Watermark]:
    """Returns random images uint8 [batch, H, W, C], labels int32 [batch] and random watermarks.

    H and W are the task's own, or `size`.
    """
    shape, classes = SHAPES[task]
    height, width = (size, size) if size else shape[:2]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, height, width, shape[2]), dtype=np.uint8)
    labels = rng.integers(0, classes, batch).astype(np.int32)
    marks = transform.random_watermarks(
        0, watermarks, height=height, width=width, num_classes=classes, pattern_size=PATTERN_SIZE,
        extreme_value=2000.0,
    )  # fmt: skip
    return images, labels, marks


def make_step(
    task: str,
    batch: int,
    *,
    size: int | None = None,
    watermarks: int = 1,
    incremental: bool = True,
    null_space: bool = False,
) -> Callable[[], float]:
    """Returns a function that makes one step and returns its loss.

    Adam 1e-3, gradients clipped to a global norm of 1; half of the images get a null and a true
    copy, shared among the watermarks in turn.
    """
    images, labels, marks = inputs(task, batch, size=size, watermarks=watermarks)
    model = models.create(task, SHAPES[task][1], precision="highest")
    optimizer = optimizers.optimizer(optimizers.Recipe("adam", 1e-3, clip_norm=1.0), 1000)
    more, on_copies = {}, None
    if null_space:
        into_null_space = nullspace.for_network(model, pattern_size=PATTERN_SIZE)
        more["project"] = lambda params, marks: into_null_space(params, marks.pattern)
        on_copies = nullspace.hold_first_layer
    step = training.make_train_step(
        **more,
        marked_logits=inc.for_network(model, pattern_size=PATTERN_SIZE, on_copies=on_copies)
        if incremental
        else training.concatenated_logits(models.apply_fn(model)),
        optimizer=optimizer,
        cross_entropy=losses.logits_cross_entropy,
        true_weight=1.0,
        null_weight=1.0,
        average=parallel.average,
    )
    run = parallel.pmap_shares(step, cut=(False, False, False, True, False), donate=(0,))
    params = models.init_params(model, jax.random.key(0), images.shape[1:])
    state = parallel.replicate(training.init_state(params, optimizer))
    fixed = parallel.replicate((images, labels))
    marks = parallel.replicate(marks)
    choice = parallel.share(
        Batch(
            np.arange(batch, dtype=np.int32),
            np.arange(batch // 2, dtype=np.int32) % watermarks,
            np.zeros((batch, 2), np.int32),
            np.zeros(batch, bool),
        ),
        parallel.device_count(),
    )

    def advance() -> float:
        nonlocal state
        state, metrics = run(state, *fixed, choice, marks)
        return float(metrics.loss)

    return advance


def peak_memory() -> int:
    """Returns the most bytes held: on a GPU those of its memory, else the process's in RAM."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use") or contestant.resident_peak()
