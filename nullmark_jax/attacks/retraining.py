"""An attacker goes on training a finished model, with a loss and an optimiser of their own choice.

Most attacks of both papers are this, and differ in what is trained: a second watermark (piracy), the
null embedding alone, clean images (fine-tuning), the owner's own pattern with another label (corruption).

The attacker has some images of the task and knows everything but the owner's key and signature. They
train the network as the owner would (`training.make_train_step`), from the owner's params.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nullmark_jax import (
    batches,
    losses,
    nullspace,
    optimizers,
    parallel,
    populations,
    training,
)
from nullmark_jax.batches import Augmentation, Batch
from nullmark_jax.data.dataset import drawn_order
from nullmark_jax.embedding import Watermark, scale_pixels
from nullmark_jax.errors import InputError
from nullmark_jax.marks import Marks, count, rising
from nullmark_jax.models import ConvNet, Params, apply_fn, features_function
from nullmark_jax.optimizers import Recipe


class Adversary(NamedTuple):
    """How an attacker trains.

    Attributes:
      recipe: the optimiser.
      steps: how many, >= 1.
      cross_entropy: "logits" or "clipped" (`losses`).
      batch_size: clean images a step; all of the attacker's where they have fewer.
      inject_ratio: the share of a batch that gets a null and a true copy, in [0, 1].
      true_weight: alpha.
      null_weight: beta.
      null_space: train in the null space of the new pattern (`nullspace`), as an owner may.
      rising_steps: over which the extreme value rises from 1 to lambda, as an owner's may.
      layers: the layers that are trained; the others stay as they are. Empty for all.
      augmentation: of the images, as in `batches`.
    """

    recipe: Recipe
    steps: int
    cross_entropy: str = "logits"
    batch_size: int = 128
    inject_ratio: float = 0.5
    true_weight: float = 1.0
    null_weight: float = 1.0
    null_space: bool = False
    rising_steps: int = 0
    layers: tuple[str, ...] = ()
    augmentation: Augmentation = batches.AS_IT_IS


class Reached(NamedTuple):
    """The model after some steps.

    Attributes:
      steps: how many.
      params: the network's; not a number where the training diverged, which is a result too. From where the
        last layer's bias is none at all, no step changes what the model answers, and none is taken.
      loss: the mean objective over the steps since the last such point; not a number from there on.
    """

    steps: int
    params: Params
    loss: float


Retrain = Callable[[Params, np.ndarray, np.ndarray, Marks, int, Sequence[int]], Iterator[Reached]]


def make_retraining(model: ConvNet, adversary: Adversary, *, pattern_size: int) -> Retrain:
    """Returns (params, images, labels, marks, seed, at) -> the model at each step count of `at`.

    It is compiled once for all its calls with as many images and marks: a hundred pirates are a
    hundred calls.

    The arguments of the function returned:
      params: the victim's, which are left as they are.
      images: uint8 [N, H, W, C], the attacker's.
      labels: int32 [N].
      marks: a population (leading axis K >= 1) that the attacker embeds; with an inject ratio of
        0 it has no influence.
      seed: of the order of the images.
      at: ascending step counts in [1, adversary.steps] at which to stop and look.
    It raises InputError, as its first model is asked for, where params have no such layer or `at` is none.

    Args:
      model: the network.
      adversary: how the attacker trains.
      pattern_size: n.

    Raises:
      InputError: no such optimiser, loss, layer or number of steps.
    """
    on_features = trains_head_alone(model, adversary)
    step, optimizer, project = _make_step(
        model, adversary, pattern_size, average=parallel.average, on_features=on_features
    )
    features_of = features_function(model)
    many = training.ACCELERATOR_STEPS if parallel.on_accelerator() else 1
    on_devices = training.on_devices(step, steps_per_dispatch=many)
    projected = jax.jit(project)

    def lost(params: Params) -> bool:
        """Whether every logit is not a number, whatever the image and for good: so stays any sum with it."""
        return bool(np.isnan(params[model.last_layer]["bias"]).all())

    def retrain(
        params: Params,
        images: np.ndarray,
        labels: np.ndarray,
        marks: Marks,
        seed: int,
        at: Sequence[int],
    ) -> Iterator[Reached]:
        _check_layers(params, adversary.layers)
        plan = _plan(adversary, len(labels), count(marks), seed, at)
        if on_features:
            images = features_of(params, images)
        # Copied: training takes its state's memory.
        state = training.init_state(jax.tree.map(jnp.copy, params), optimizer)
        done = 0
        for epoch in training.fit(
            state,
            on_devices,
            images,
            labels,
            marks,
            plan=plan,
            first_epoch=1,
            epochs=len(at),
            stop_where_diverged=False,
            lost=lost,
        ):
            # A copy again, as the next steps take the state's memory.
            reached = jax.tree.map(jnp.copy, projected(epoch.state.params, marks))
            loss = float(np.mean(epoch.metrics.loss)) if epoch.complete else math.nan
            yield Reached(at[epoch.number - 1], reached, loss)
            done += 1
        # Of a model that is lost, nothing else would have come.
        yield from (Reached(steps, reached, math.nan) for steps in at[done:])

    return retrain


class Member(NamedTuple):
    """One of a population of attackers on the same model.

    Attributes:
      marks: that they embed, a population (leading axis K >= 1) of the size of the others'.
      rows: of the images, those that they have, integers [N], as many as the others.
      seed: of the images' order.
    """

    marks: Marks
    rows: np.ndarray
    seed: int


RetrainMany = Callable[
    [Params, np.ndarray, np.ndarray, Sequence[Member], Sequence[int]], Iterator[list[Reached]]
]


def make_population_retraining(
    model: ConvNet, adversary: Adversary, *, pattern_size: int
) -> RetrainMany:
    """Returns (params, images, labels, members, at) -> the models of all members at each of `at`.

    The members train at once, as `populations` has it, each as `make_retraining` would train it alone on
    images[rows] and labels[rows]. It is compiled once for all its calls with as many members.

    Args: those of `make_retraining`. The function returned raises InputError as that one's does, and where
    members have unequally many images or marks.

    Raises:
      InputError: no such optimiser, loss, layer or number of steps.
    """
    step, optimizer, project = _make_step(
        model, adversary, pattern_size, average=lambda tree: tree, on_features=False
    )
    run = populations.on_devices(step)
    projected = jax.jit(jax.vmap(project))

    def retrain(
        params: Params,
        images: np.ndarray,
        labels: np.ndarray,
        members: Sequence[Member],
        at: Sequence[int],
    ) -> Iterator[list[Reached]]:
        _check_layers(params, adversary.layers)
        sizes = {(len(each.rows), count(each.marks)) for each in members}
        if len(sizes) > 1:
            raise InputError(
                f"members: of unequal images and marks {sorted(sizes)}; give alike ones"
            )
        marks = populations.stack([each.marks for each in members])
        plans = [
            _plan(adversary, len(each.rows), count(each.marks), each.seed, at) for each in members
        ]

        def plan(part: int) -> Batch:
            own = [
                batch._replace(index=each.rows[batch.index].astype(np.int32))
                for each, batch in zip(members, (plan(part) for plan in plans), strict=True)
            ]
            return populations.stack(own)

        states = populations.stack([training.init_state(params, optimizer)] * len(members))
        parts = populations.fit(states, run, images, labels, marks, plan=plan, parts=len(at))
        for steps, part in zip(at, parts, strict=True):
            reached = jax.device_get(projected(part.params, marks))
            yield [
                Reached(steps, populations.member(reached, i), float(np.mean(part.metrics.loss[i])))
                for i in range(len(members))
            ]

    return retrain


def trains_head_alone(model: ConvNet, adversary: Adversary) -> bool:
    """Returns whether an attack needs of each image no more than its features after the last block.

    So it is where only layers behind these are trained, on clean images as they are: the features then stay
    what they are, and are computed once a training.
    """
    return (
        bool(adversary.layers)
        and not model.body_layers.intersection(adversary.layers)
        and not adversary.inject_ratio
        and adversary.augmentation == batches.AS_IT_IS
    )


def _make_step(
    model: ConvNet,
    adversary: Adversary,
    pattern_size: int,
    *,
    average: Callable[[Any], Any],
    on_features: bool,
) -> tuple[training.TrainStep, optax.GradientTransformation, training.Project]:
    """Returns the attacker's step, their optimiser, and what makes the network's params of the trained.

    With `on_features` the step takes features (`models.features_function`) for images.
    """
    if adversary.steps < 1:
        raise InputError(f"steps: {adversary.steps} must be at least 1; give say 390")
    optimizer = only_layers(
        optimizers.optimizer(adversary.recipe, adversary.steps), adversary.layers
    )
    into_null_space, on_copies = None, None
    if adversary.null_space and adversary.inject_ratio:
        if adversary.layers and "conv_2" not in adversary.layers:
            raise InputError(
                "null_space: True moves conv_2, which layers leave out; name it in layers, or give False"
            )
        into_null_space = nullspace.for_network(model, pattern_size=pattern_size)
        on_copies = nullspace.hold_first_layer

    def project(params: Params, marks: Any) -> Params:
        params = _held(params, adversary.layers)
        if not into_null_space:
            return params
        if not isinstance(marks, Watermark):
            raise InputError("null_space: True is nothing for triggers; give False")
        return into_null_space(params, marks.pattern)

    if on_features:
        logits = training.concatenated_logits(apply_fn(model, "head"))
    else:
        logits = training.network_logits(model, pattern_size=pattern_size, on_copies=on_copies)
    step = training.make_train_step(
        marked_logits=logits,
        optimizer=optimizer,
        cross_entropy=losses.cross_entropy(adversary.cross_entropy),
        true_weight=adversary.true_weight,
        null_weight=adversary.null_weight,
        project=project,
        marks_at=rising(1.0, adversary.rising_steps),
        as_input=(lambda features: features) if on_features else scale_pixels,
        augmentation=adversary.augmentation,
        average=average,
    )
    return step, optimizer, project


def _held(params: Params, layers: tuple[str, ...]) -> Params:
    """Returns params without a gradient of the layers that are not trained, which so is not computed."""
    if not layers:
        return params
    return {
        name: layer if name in layers else jax.lax.stop_gradient(layer)
        for name, layer in params.items()
    }


def only_layers(
    optimizer: optax.GradientTransformation, layers: tuple[str, ...]
) -> optax.GradientTransformation:
    """Returns the optimiser of the named layers alone; of all where none is named."""
    if not layers:
        return optimizer

    def labels(params: Params) -> Params:
        return {
            name: jax.tree.map(lambda _, name=name: "train" if name in layers else "keep", layer)
            for name, layer in params.items()
        }

    return optax.partition({"train": optimizer, "keep": optax.set_to_zero()}, labels)


def steps_of(epochs: int, *, images: int, batch_size: int) -> int:
    """Returns the steps of so many epochs over so many images; the rest of each epoch is left out."""
    return epochs * (images // min(batch_size, images))


def choose_images(
    images: np.ndarray, labels: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `count` of the images with their labels, drawn from `seed` without repetition.

    The first k of a larger draw from the same seed are the draw of k.

    Raises:
      InputError: there are not so many.
    """
    rows = chosen_rows(labels, count, seed)
    return images[rows], labels[rows]


def chosen_rows(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns the rows, int64 [count], of the images that `choose_images` draws; raises as it does."""
    if not 1 <= count <= len(labels):
        raise InputError(
            f"images: the attacker is to have {count} but the task has {len(labels)} training "
            f"images; give 1 to {len(labels)}"
        )
    return drawn_order(len(labels), seed)[:count]


def _plan(
    adversary: Adversary, images: int, watermarks: int, seed: int, at: Sequence[int]
) -> Callable[[int], Batch]:
    """Returns part, from 1 -> its batches: those from one step count of `at` to the next."""
    ends = list(at)
    if not ends or ends != sorted(set(ends)) or ends[0] < 1 or ends[-1] > adversary.steps:
        raise InputError(f"at: {ends} must ascend within 1 to {adversary.steps} steps")
    size = min(adversary.batch_size, images)
    each = images // size

    def epoch(number: int) -> Batch:
        return batches.epoch_batches(
            seed,
            number,
            num_images=images,
            batch_size=size,
            marked=batches.marked_per_batch(adversary.inject_ratio, size),
            num_watermarks=watermarks,
            augmentation=adversary.augmentation,
        )

    def plan(part: int) -> Batch:
        start, end = ([0, *ends])[part - 1 : part + 1]
        epochs = [epoch(number) for number in range(start // each + 1, (end - 1) // each + 2)]
        joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *epochs)
        skipped = start // each * each
        return jax.tree.map(lambda array: array[start - skipped : end - skipped], joined)

    return plan


def _check_layers(params: Params, layers: tuple[str, ...]) -> None:
    for layer in layers:
        if layer not in params:
            raise InputError(f"layers: {layer!r} is none; take some of {', '.join(sorted(params))}")
