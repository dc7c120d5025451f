"""Unlearning a trigger (Wang et al., 2019): images that carry it are taught their own labels again."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nullmark_jax import batches, losses
from nullmark_jax.attacks.trigger import Trigger, stamp
from nullmark_jax.batches import Batch
from nullmark_jax.embedding import scale_pixels
from nullmark_jax.models import ApplyFn, Params
from nullmark_jax.optimizers import Recipe, optimizer
from nullmark_jax.training import TrainState, init_state

Unlearn = Callable[[Params, np.ndarray, np.ndarray, Trigger, int], Params]


def make_unlearning(
    apply_fn: ApplyFn, recipe: Recipe, *, steps: int, batch_size: int, ratio: float
) -> Unlearn:
    """Returns (params, images, labels, triggers, seed) -> params, trained on so that no trigger works.

    The loss is the mean cross entropy of a batch's images and of the stamped copies of some of them, all
    with the images' own labels. It is compiled once for as many images and triggers.

    The arguments of the function returned:
      params: the victim's, left as they are; what is returned may not be finite.
      images: uint8 [N, H, W, C], the attacker's.
      labels: int32 [N].
      triggers: with a leading axis of K >= 1; each copy carries one of them at random. With masks of 0
        this is fine-tuning on clean images.
      seed: of the order of the images and of which trigger a copy carries.

    Args:
      apply_fn: the network.
      recipe: the optimiser.
      steps: how many, >= 1.
      batch_size: images a step, all of the attacker's where they have fewer.
      ratio: the share of a batch that is copied and stamped, in [0, 1].
    """

    def loss(
        params: Params, images: jax.Array, labels: jax.Array, triggers: Trigger, which: jax.Array
    ) -> jax.Array:
        copied = which.shape[0]
        chosen = jax.tree.map(lambda leaf: leaf[which], triggers)
        seen = jnp.concatenate([images, stamp(images[:copied], chosen)])
        answers = jnp.concatenate([labels, labels[:copied]])
        return losses.logits_cross_entropy(apply_fn(params, seen), answers).mean()

    way = optimizer(recipe, steps)

    @jax.jit
    def step(
        state: TrainState, images: jax.Array, labels: jax.Array, batch: Batch, triggers: Trigger
    ) -> TrainState:
        picked, truth = batches.pick(images, labels, batch.index)
        seen = scale_pixels(picked)
        gradient = jax.grad(loss)(state.params, seen, truth, triggers, batch.which)
        updates, opt_state = way.update(gradient, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)

    def unlearn(
        params: Params, images: np.ndarray, labels: np.ndarray, triggers: Trigger, seed: int
    ) -> Params:
        size = min(batch_size, len(labels))
        state = init_state(jax.tree.map(jnp.asarray, params), way)
        on_device = jnp.asarray(images), jnp.asarray(labels)
        triggers = jax.tree.map(jnp.asarray, triggers)
        for number in range(steps):
            epoch, at = divmod(number, len(labels) // size)
            if at == 0:
                plan = batches.epoch_batches(
                    seed,
                    epoch + 1,
                    num_images=len(labels),
                    batch_size=size,
                    marked=batches.marked_per_batch(ratio, size),
                    num_watermarks=len(triggers.mask),
                )
            batch = jax.tree.map(lambda leaf, at=at: jnp.asarray(leaf[at]), plan)
            state = step(state, *on_device, batch, triggers)
        return state.params

    return unlearn
