"""Model extraction: a fresh network trained on a victim's answers alone, never on a true label.

The attacker sends images of any kind and is told a label each, or the softmax's outputs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from nullmark_jax import batches, losses, models, parallel, standardization, training
from nullmark_jax.batches import Augmentation, Batch
from nullmark_jax.embedding import Watermark, scale_pixels
from nullmark_jax.errors import InputError
from nullmark_jax.losses import CrossEntropy
from nullmark_jax.models import ApplyFn, ConvNet, Params
from nullmark_jax.optimizers import Recipe, optimizer

_AT_ONCE = 250


def soft_cross_entropy(
    logits: Float[Array, "*batch num_classes"], targets: Float[Array, "*batch num_classes"]
) -> Float[Array, "*batch"]:
    """Returns -sum_y targets[y] log softmax(logits)[y].

    Least where softmax(logits) = targets, and then the targets' entropy. With a one-hot target it is
    `losses.logits_cross_entropy` of that label.
    """
    return optax.softmax_cross_entropy(logits, targets)


class Answer(NamedTuple):
    """What a victim's answer to an image is.

    Attributes:
      of: logits [N, classes] -> answers: labels int32 [N], or probabilities float32 [N, classes].
      cross_entropy: (logits, answers) -> one loss per image.
    """

    of: Callable[[jax.Array], jax.Array]
    cross_entropy: CrossEntropy


ANSWERS: dict[str, Answer] = {
    "label": Answer(
        lambda logits: logits.argmax(-1).astype(jnp.int32), losses.logits_cross_entropy
    ),
    "soft": Answer(lambda logits: jax.nn.softmax(logits), soft_cross_entropy),
}


Oracle = Callable[[Params, np.ndarray], np.ndarray]


def make_oracle(apply_fn: ApplyFn, kind: str) -> Oracle:
    """Returns (params, images) -> a network's answers, compiled once.

    The images are uint8 [N, H, W, C], N >= 1; the answers int32 [N] for the kind "label", float32
    [N, classes] whose rows sum to 1 for "soft". InputError where there is no such kind.
    """
    of = _answer(kind).of
    answer = jax.jit(lambda params, images: of(apply_fn(params, scale_pixels(images))))

    def ask(params: Params, images: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(images), _AT_ONCE):
            part = images[start : start + _AT_ONCE]
            padded = np.pad(part, ((0, _AT_ONCE - len(part)), (0, 0), (0, 0), (0, 0)))
            parts.append(np.asarray(answer(params, padded))[: len(part)])
        return np.concatenate(parts)

    return ask


def random_images(count: int, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Returns uint8 images [count, *shape], every value independent and uniform in 0..255.

    The first k of a larger draw from the same seed are the draw of k.
    """
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


class Thief(NamedTuple):
    """How a substitute is trained.

    Attributes:
      recipe: the optimiser.
      steps: how many, >= 1.
      batch_size: images a step; all of the attacker's where they have fewer.
      standardized: whether with standardised kernels (`standardization`); the substitute is plain.
      augmentation: of the queries, after they were answered.
    """

    recipe: Recipe
    steps: int
    batch_size: int = 128
    standardized: bool = False
    augmentation: Augmentation = batches.AS_IT_IS


Extract = Callable[[np.ndarray, np.ndarray, int], Params]


def make_extraction(
    model: ConvNet, thief: Thief, kind: str, *, input_shape: tuple[int, int, int]
) -> Extract:
    """Returns (images, answers, seed) -> params of a substitute.

    On a CPU it is compiled once for all its calls.

    The arguments of the function returned:
      images: uint8 [N, H, W, C], the queries.
      answers: of the victim, as `make_oracle` gives them.
      seed: of the initial parameters and of the order.

    Args:
      model: the network.
      thief: how it is trained.
      kind: of the answers, "label" or "soft".
      input_shape: H, W, C.

    Raises:
      InputError: no such optimiser, kind or number of steps.
    """
    if thief.steps < 1:
        raise InputError(f"steps: {thief.steps} must be at least 1; give say 390")
    way = optimizer(thief.recipe, thief.steps)

    def plain(params: Params, marks: Any) -> Params:
        del marks  # the thief has none
        if not thief.standardized:
            return params
        return standardization.standardize(params, last=model.last_layer)

    step = training.make_train_step(
        # Without copies it is the network itself; n is then of no influence.
        marked_logits=training.network_logits(model, pattern_size=1),
        optimizer=way,
        cross_entropy=_answer(kind).cross_entropy,
        true_weight=0.0,
        null_weight=0.0,
        project=plain,
        augmentation=thief.augmentation,
        average=parallel.average,
    )
    fast = parallel.on_accelerator()
    # On the host, a data set of another size does not compile the step anew.
    on_devices = training.on_devices(
        step, steps_per_dispatch=training.ACCELERATOR_STEPS if fast else 1, resident=fast
    )
    nobodys = Watermark(
        jnp.zeros((1, *input_shape[:2]), jnp.int8), jnp.zeros(1, jnp.int32), jnp.ones(1)
    )

    init = jax.jit(lambda key: models.init_params(model, key, input_shape))

    def extract(images: np.ndarray, answers: np.ndarray, seed: int) -> Params:
        params = init(jax.random.key(seed))
        for epoch in training.fit(
            training.init_state(params, way),
            on_devices,
            images,
            answers,
            nobodys,
            plan=lambda number: _plan(thief, len(images), seed),
            first_epoch=1,
            epochs=1,
            stop_where_diverged=False,
        ):
            params = epoch.state.params
        return jax.tree.map(np.asarray, plain(params, nobodys))

    return extract


def _answer(kind: str) -> Answer:
    if kind not in ANSWERS:
        raise InputError(f"kind: {kind!r} is none; take one of {', '.join(ANSWERS)}")
    return ANSWERS[kind]


def _plan(thief: Thief, images: int, seed: int) -> Batch:
    """Returns the batches of all steps, epoch after epoch."""
    size = min(thief.batch_size, images)
    epochs = -(-thief.steps // (images // size))
    each = [
        batches.epoch_batches(
            seed,
            epoch,
            num_images=images,
            batch_size=size,
            marked=0,
            num_watermarks=1,
            augmentation=thief.augmentation,
        )
        for epoch in range(1, epochs + 1)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: thief.steps], *each)
