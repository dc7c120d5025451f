"""The optimiser, the learning rate and the extreme value as functions of the step (optax)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from nullmark_jax import checks
from nullmark_jax.errors import InputError

OPTIMIZERS = ("sgd", "momentum", "adam", "muon")
SCHEDULES = ("constant", "inverse-time", "cosine", "linear")

# (step, lambda) -> what stands for lambda in that step, of lambda's shape.
ExtremeValue = Callable[[jax.Array, jax.Array], jax.Array]


class Recipe(NamedTuple):
    """What `config.optimizer` holds.

    Attributes:
      name: "sgd", "momentum" (Nesterov, 0.9), "adam", or "muon" (Muon for convolutions' kernels, each
        update's root mean square as large as Adam's; Adam for all else).
      learning_rate: the peak, > 0.
      schedule: after the warm-up, "constant"; "inverse-time" (Keras's `decay`: lr / (1 + decay t));
        "cosine" or "linear", reaching 0 as the last step ends.
      decay: of "inverse-time", a step.
      warmup_steps: steps over which the rate rises linearly from 0; 0 for none.
      clip_norm: the largest global norm of a gradient; 0 for no clipping.
      weight_decay: decoupled, of kernels only, multiplied by the learning rate; 0 for none.
      b2: the decay of Adam's second moment, in (0, 1), wherever Adam has a part. The first steps are
        all the true copies', and 0.999 remembers them for thousands of steps.
    """

    name: str
    learning_rate: float
    schedule: str = "constant"
    decay: float = 0.0
    warmup_steps: int = 0
    clip_norm: float = 0.0
    weight_decay: float = 0.0
    b2: float = 0.999


def check_recipe(recipe: Recipe, field: str = "config.optimizer") -> None:
    """Raises InputError where `recipe` names no optimiser or schedule, or a number out of range.

    `field` is what the recipe is called in the message.
    """
    for name, value, known in (
        ("name", recipe.name, OPTIMIZERS),
        ("schedule", recipe.schedule, SCHEDULES),
    ):
        if value not in known:
            raise InputError(
                f"{field}.{name}: {checks.shown(value)} is none; take one of {', '.join(known)}"
            )
    check_learning_rate(f"{field}.learning_rate", recipe.learning_rate)
    checks.integer(f"{field}.warmup_steps", recipe.warmup_steps, 0, 10**9)
    for name in ("decay", "clip_norm", "weight_decay"):
        number = checks.real(f"{field}.{name}", getattr(recipe, name))
        if number < 0:
            raise InputError(f"{field}.{name}: {number} must not be negative; give 0 for none")
    b2 = checks.real(f"{field}.b2", recipe.b2)
    if not 0 < b2 < 1:
        raise InputError(f"{field}.b2: {b2} is out of range; give say 0.999")


def check_learning_rate(field: str, rate: float) -> None:
    """Raises InputError, which names `field`, unless the rate is above 0."""
    if checks.real(field, rate) <= 0:
        raise InputError(f"{field}: {rate} must be above 0; give say 0.001")


def learning_rate(recipe: Recipe, total_steps: int) -> optax.Schedule:
    """Returns step -> learning rate, float32, the step counted from 0 over the whole training."""
    peak, rest = recipe.learning_rate, max(total_steps - recipe.warmup_steps, 1)
    if recipe.schedule == "inverse-time":
        after = lambda step: peak / (1.0 + recipe.decay * step)  # noqa: E731
    elif recipe.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest)
    elif recipe.schedule == "linear":
        after = optax.linear_schedule(peak, 0.0, rest)
    else:
        after = optax.constant_schedule(peak)
    schedule = after
    if recipe.warmup_steps:
        # The first step already moves: (step + 1) / warm-up.
        rise = lambda step: peak * (step + 1) / recipe.warmup_steps  # noqa: E731
        schedule = optax.join_schedules([rise, after], [recipe.warmup_steps])
    return lambda step: jnp.asarray(schedule(jnp.asarray(step, jnp.float32)), jnp.float32)


def optimizer(recipe: Recipe, total_steps: int) -> optax.GradientTransformation:
    """Returns the optax optimiser of a recipe for a training of `total_steps` steps."""
    check_recipe(recipe)
    parts = []
    if recipe.clip_norm:
        parts.append(optax.clip_by_global_norm(recipe.clip_norm))
    if recipe.name == "adam":
        parts.append(_promoting(optax.scale_by_adam(b2=recipe.b2)))
    elif recipe.name == "muon":
        parts.append(_promoting(_muon(recipe.b2)))
    elif recipe.name == "momentum":
        parts.append(optax.trace(0.9, nesterov=True))
    if recipe.weight_decay:
        parts.append(optax.add_decayed_weights(recipe.weight_decay, mask=_kernels))
    parts.append(optax.scale_by_learning_rate(learning_rate(recipe, total_steps)))
    return optax.chain(*parts)


def _promoting(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `inner`, which mixes ints and floats, usable where jax is set to strict promotion.

    Its products (Muon's) are in float32 on every device.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"), jax.default_matmul_precision("highest"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


# The root mean square of a typical update of Adam's, before the learning rate: what a rate found for one
# optimiser is worth for the other (Liu et al., "Muon is Scalable for LLM Training", 2025).
_MUON_RMS = 0.2


def _muon(b2: float) -> optax.GradientTransformation:
    """Returns Muon for kernels of convolutions, as matrices [rows * columns * channels, features]."""

    def matrix(kernel: jax.Array) -> optax.contrib.MuonDimensionNumbers:
        # The longer side first, where optax's older versions have no scaling of their own.
        sides = ((0, 1, 2), 3) if _inputs(kernel) >= kernel.shape[3] else (3, (0, 1, 2))
        return optax.contrib.MuonDimensionNumbers(*sides)

    def scale(update: jax.Array) -> jax.Array:
        return update * (_MUON_RMS * max(update.shape[3], _inputs(update)) ** 0.5)

    orthogonal = optax.contrib.scale_by_muon(
        weight_dimension_numbers=lambda params: jax.tree.map(matrix, params)
    )
    rescaled = optax.stateless(lambda updates, params: jax.tree.map(scale, updates))
    return optax.partition(
        {"convolution": optax.chain(orthogonal, rescaled), "rest": optax.scale_by_adam(b2=b2)},
        lambda params: jax.tree.map(
            lambda leaf: "convolution" if jnp.ndim(leaf) == 4 else "rest", params
        ),
    )


def _inputs(kernel: jax.Array) -> int:
    return kernel.size // kernel.shape[3]


def _kernels(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def rising_extreme_value(start: float, ramp_steps: int) -> ExtremeValue:
    """Returns (step, lambda) -> the extreme value of that step: geometric from `start` to lambda.

    It rises over the first `ramp_steps` steps, and is lambda exactly from then on; throughout, where
    there are none or lambda is at most `start`. Values are float32 of lambda's shape; start >= 1.
    """
    if not ramp_steps:
        return lambda step, extreme_value: extreme_value

    def risen(step: jax.Array, extreme_value: jax.Array) -> jax.Array:
        left = jnp.maximum(1.0 - step / ramp_steps, 0.0)
        lower = jnp.minimum(start / extreme_value, 1.0)
        return jnp.where(left > 0, extreme_value * lower**left, extreme_value)

    return risen
