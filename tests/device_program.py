"""Trains and evaluates a small net on all devices, right and wrong; run by test_parallel.py.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python tests/device_program.py OUT.npz
"""

import functools
import sys

import nullmark_jax  # noqa: F401  Sets XLA's flags, before jax.

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np
import optax

from nullmark_jax import (
    batches,
    embedding,
    evaluation,
    metrics,
    parallel,
    populations,
    training,
    transform,
)
from nullmark_jax.data import Dataset
from nullmark_jax.losses import logits_cross_entropy

IMAGES, BATCH, MARKED, EPOCHS = 96, 16, 8, 2
AUGMENTATION = batches.Augmentation(shift=1, flip=True)
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (IMAGES, 6, 6, 1), dtype=np.uint8)
LABELS = RNG.integers(0, 3, IMAGES).astype(np.int32)
WATERMARKS = transform.random_watermarks(
    0, 2, height=6, width=6, num_classes=3, pattern_size=3, extreme_value=5.0
)
# The clipping is by the norm of the *averaged* gradient, and acts: without it the norm is above 1.
OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(1.0), optax.trace(0.9, nesterov=True), optax.scale(-0.05)
)


def apply_fn(params, images):
    hidden = jnp.tanh(images.reshape(images.shape[0], -1) @ params["in"])
    return hidden @ params["out"]


def start():
    rng = np.random.default_rng(1)
    params = {
        "in": rng.normal(0, 0.3, (36, 8)).astype(np.float32),
        "out": rng.normal(0, 0.3, (8, 3)).astype(np.float32),
    }
    return training.init_state(jax.tree.map(jnp.asarray, params), OPTIMIZER)


def plan(epoch, seed=0):
    return batches.epoch_batches(
        seed,
        epoch,
        num_images=IMAGES,
        batch_size=BATCH,
        marked=MARKED,
        num_watermarks=2,
        augmentation=AUGMENTATION,
    )


def make_step(cross_entropy=logits_cross_entropy, average=lambda tree: tree):
    return training.make_train_step(
        marked_logits=training.concatenated_logits(apply_fn),
        optimizer=OPTIMIZER,
        cross_entropy=cross_entropy,
        true_weight=0.7,
        null_weight=1.3,
        augmentation=AUGMENTATION,
        average=average,
    )


def on_one_device(plan=plan, marks=WATERMARKS):
    """A plain jit of the step, on the whole batch."""
    step, state, losses = jax.jit(make_step()), start(), []
    marks = jax.tree.map(jnp.asarray, marks)
    for epoch in range(1, EPOCHS + 1):
        batch = plan(epoch)
        for i in range(len(batch.index)):
            at_i = jax.tree.map(lambda rows, i=i: rows[i], batch)
            state, measured = step(state, PICTURES, LABELS, at_i, marks)
            losses.append(np.asarray(measured.loss))
    return state, np.stack(losses)


def on_all_devices(step, **options):
    """The same by `fit`."""
    losses = []
    for epoch in training.fit(
        start(),
        training.on_devices(step, **options),
        PICTURES,
        LABELS,
        WATERMARKS,
        plan=plan,
        first_epoch=1,
        epochs=EPOCHS,
    ):
        losses.append(epoch.metrics.loss)
    return epoch.state, np.concatenate(losses)


def population():
    """Three members, no number of devices but one shares them: their states and losses, at once and alone."""
    marks = [transform.random_watermarks(
        seed, 2, height=6, width=6, num_classes=3, pattern_size=3, extreme_value=5.0
    ) for seed in range(3)]  # fmt: skip
    plans = [functools.partial(plan, seed=seed) for seed in range(3)]
    parts = populations.fit(
        populations.stack([start()] * 3),
        populations.on_devices(make_step()),
        PICTURES,
        LABELS,
        populations.stack(marks),
        plan=lambda part: populations.stack([own(part) for own in plans]),
        parts=EPOCHS,
    )
    *_, last = parts
    alone = [on_one_device(own, mark) for own, mark in zip(plans, marks, strict=True)]
    return (
        last,
        populations.stack([state.params for state, _ in alone]),
        [loss for _, loss in alone],
    )


def counts_on_one_device(params, test):
    """The counts of each watermark, on the whole data set at once."""
    images = embedding.scale_pixels(jnp.asarray(test.images))
    predict = jax.jit(lambda images: apply_fn(params, images).argmax(-1))
    each = []
    for k in range(2):
        pattern, target, extreme = (np.asarray(leaf)[k] for leaf in WATERMARKS)
        null = embedding.embed(images, pattern, extreme)
        true = embedding.embed(images, embedding.invert(pattern), extreme)
        answers = predict(images), predict(null), predict(true)
        each.append(np.stack(metrics.count(*answers, test.labels, target)))
    return each


def averaged_cross_entropy(logits, labels):
    """Wrong: grad(average(loss)) where average(grad(loss)) is meant."""
    return parallel.average(logits_cross_entropy(logits, labels))


def main(out):
    right = make_step(average=parallel.average)
    runs = {
        "one_device": on_one_device(),
        "resident": on_all_devices(right),
        "host_fed": on_all_devices(right, resident=False),
        # 6 steps an epoch, 4 and 2 of them in a dispatch.
        "scanned": on_all_devices(right, steps_per_dispatch=4),
        "scanned_host_fed": on_all_devices(right, steps_per_dispatch=4, resident=False),
        "no_average": on_all_devices(make_step()),
        "gradient_of_average": on_all_devices(make_step(averaged_cross_entropy)),
    }
    arrays = {"devices": np.asarray(jax.local_device_count())}
    for name, (state, losses) in runs.items():
        leaves = jax.tree.leaves(state)
        arrays[f"{name}/state"] = np.concatenate([np.ravel(leaf) for leaf in leaves])
        arrays[f"{name}/loss"] = losses
    together, alone, losses = population()
    arrays["population/loss"] = together.metrics.loss
    arrays["population_alone/loss"] = np.stack(losses)[:, -len(together.metrics.loss[0]) :]
    for name, states in (("population", together.params), ("population_alone", alone)):
        leaves = [np.reshape(leaf, (3, -1)) for leaf in jax.tree.leaves(states)]
        arrays[f"{name}/state"] = np.concatenate(leaves, axis=1)
    state, _ = runs["one_device"]
    # 29 images: no number of devices shares them equally.
    test = Dataset(PICTURES[:29], LABELS[:29], ("a", "b", "c"))
    counts = evaluation.make_evaluator(apply_fn, test, batch_size=4)(state.params, WATERMARKS)
    arrays["counts"] = np.stack(counts)
    arrays["counts_one_device"] = np.stack(counts_on_one_device(state.params, test), axis=1)
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
