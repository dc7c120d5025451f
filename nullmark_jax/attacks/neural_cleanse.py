"""Neural Cleanse (Wang et al., 2019): a trigger for every label, and the labels that stand out.

Where some small trigger sends every image to one label, that label is said to hide a backdoor. For each
label y the attacker looks for a mask m in [0, 1]^(H x W) and a pattern that make

    mean CE(F((1 - m) x + m pattern), y) + cost |m|_1

small, by Adam, the cost rising while the trigger works and falling while it does not; then compares the
labels' |m|_1 by their median absolute deviation. What is found is then unlearned (`unlearning`).

The original's pattern is an image, in [0, 1], which cannot say +-lambda. A wider `Reach` lets it lie in
[low, high], by a tanh as in the original, so that one step of Adam moves a pixel by a share of that range. A
free real pattern would need some 20,000 steps at the same rate to reach 2000, and would never be searched
there. An attacker who knows the task's lambda takes +-2 lambda, so that +-lambda lies where tanh is steep.

So wide, |m|_1 no longer says how large a trigger is: a mask of 1/4000 everywhere writes an ordinary
perturbation. A `whole` mask is 0 or 1 in what the network sees, with the gradient of the soft one, so that
|m|_1 counts the pixels that the trigger replaces, as the owner's replaces n^2.

Adam's steps are called one by one from Python: on XLA:CPU a convolution in a scan is tens of times slower.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from nullmark_jax import losses
from nullmark_jax.attacks.trigger import Trigger, stamp
from nullmark_jax.embedding import scale_pixels
from nullmark_jax.models import ApplyFn, Params

# Scales the median absolute deviation to a normal distribution's standard deviation.
_CONSISTENCY = 1.4826
# Of arctanh, whose argument the original keeps inside (-1, 1) by as much.
_EPSILON = 1e-7
# Images that a found trigger is tried on in one pass.
_AT_ONCE = 256


class Reach(NamedTuple):
    """Which triggers are searched among; the default is the original's.

    Attributes:
      low: the pattern's least value.
      high: its largest, > low.
      whole: whether the mask is rounded to 0 or 1.
    """

    low: float = 0.0
    high: float = 1.0
    whole: bool = False

    @property
    def middle(self) -> float:
        """Between low and high."""
        return (self.low + self.high) / 2


class Search(NamedTuple):
    """How a trigger is searched for. The defaults are the original's, but for how long it looks.

    Attributes:
      rounds: at most so many, >= 1; each ends with a look at the cost.
      batches: steps of Adam a round, >= 1.
      batch_size: images a step, all of the attacker's where they have fewer.
      learning_rate: of Adam, with decays 0.5 and 0.9.
      cost: what the cost is first set to, once the trigger has worked for `patience` rounds.
      success: the share of images sent to the label from which a trigger works.
      patience: rounds in a row that the trigger must have worked, or not, to change the cost; after
        five times as many without a smaller mask the search ends.
      multiplier: raises the cost; its power of 1.5 lowers it.
    """

    rounds: int
    batches: int = 8
    batch_size: int = 32
    learning_rate: float = 0.1
    cost: float = 1e-3
    success: float = 0.99
    patience: int = 5
    multiplier: float = 2.0


class Found(NamedTuple):
    """The trigger with the smallest mask among those that worked; the last one where none did.

    Attributes:
      trigger: NumPy arrays.
      norm: |m|_1.
      success: the share of all the attacker's images that it sends to the label.
      works: whether that is enough.
      rounds: how many were searched.
    """

    trigger: Trigger
    norm: float
    success: float
    works: bool
    rounds: int


class Schedule(NamedTuple):
    """The cost of |m|_1, and what decides its next change.

    Attributes:
      cost: 0 until the trigger has first worked for `patience` rounds.
      successes: rounds in a row in which the trigger worked.
      failures: rounds in a row in which it did not.
      raised: whether the cost was raised since it was set.
      lowered: whether it was lowered since.
    """

    cost: float = 0.0
    successes: int = 0
    failures: int = 0
    raised: bool = False
    lowered: bool = False


def next_cost(schedule: Schedule, works: bool, search: Search) -> Schedule:
    """Returns the schedule after a round in which the trigger worked or did not."""
    successes, failures = (schedule.successes + 1, 0) if works else (0, schedule.failures + 1)
    if successes < search.patience and failures < search.patience:
        return schedule._replace(successes=successes, failures=failures)
    if schedule.cost == 0:
        return Schedule(cost=search.cost) if works else Schedule()
    if works:
        return Schedule(schedule.cost * search.multiplier, raised=True, lowered=schedule.lowered)
    lower = schedule.cost / search.multiplier**1.5
    return Schedule(lower, raised=schedule.raised, lowered=True)


Find = Callable[[Params, np.ndarray, int, Reach, int], Found]


def make_search(apply_fn: ApplyFn, search: Search) -> Find:
    """Returns (params, images, label, reach, seed) -> Found, compiled once for all of these.

    The arguments of the function returned:
      params: the network's.
      images: uint8 [N, H, W, C], the attacker's, of any labels.
      label: y.
      reach: which triggers.
      seed: of the first mask and pattern, uniform in [0, 1), and of the order of the images.

    Args:
      apply_fn: the network.
      search: how.
    """
    adam = optax.adam(search.learning_rate, b1=0.5, b2=0.9)

    def objective(
        free: Trigger,
        params: Params,
        images: jax.Array,
        label: jax.Array,
        reach: _Traced,
        cost: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        soft = _squashed(free, reach)
        seen = stamp(images, soft)
        # The network sees the rounded mask, mask and pattern have the gradients of the soft one.
        seen += jax.lax.stop_gradient(stamp(images, _rounded(soft, reach)) - seen)
        logits = apply_fn(params, seen)
        labels = jnp.full(images.shape[0], label)
        loss = losses.logits_cross_entropy(logits, labels).mean() + cost * soft.mask.sum()
        return loss, (logits.argmax(-1) == label).mean()

    @jax.jit
    def step(
        free: Trigger,
        state: optax.OptState,
        params: Params,
        images: jax.Array,
        index: Int[Array, " batch"],
        label: jax.Array,
        reach: _Traced,
        cost: jax.Array,
    ) -> tuple[Trigger, optax.OptState, jax.Array]:
        seen = scale_pixels(images[index])
        gradient, success = jax.grad(objective, has_aux=True)(
            free, params, seen, label, reach, cost
        )
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes ints and floats
            updates, state = adam.update(gradient, state)
        return optax.apply_updates(free, updates), state, success

    squash = jax.jit(lambda free, reach: _rounded(_squashed(free, reach), reach))

    @jax.jit
    def sent(params: Params, images: jax.Array, trigger: Trigger, label: jax.Array) -> jax.Array:
        return apply_fn(params, stamp(scale_pixels(images), trigger)).argmax(-1) == label

    def find(params: Params, images: np.ndarray, label: int, reach: Reach, seed: int) -> Found:
        rng = np.random.default_rng(seed)
        free, traced = _start(rng, images.shape[1:], reach), _traced(reach)
        state, on_device = adam.init(free), jnp.asarray(images)
        size = min(search.batch_size, len(images))
        target, schedule = jnp.asarray(label, jnp.int32), Schedule()

        def look() -> Found:
            """What is found now, tried on all images: the round's own were seen while it changed."""
            trigger = squash(free, traced)
            hit = [
                np.asarray(sent(params, on_device[i : i + _AT_ONCE], trigger, target))
                for i in range(0, len(images), _AT_ONCE)
            ]
            share = float(np.mean(np.concatenate(hit)))
            arrays = jax.tree.map(np.asarray, trigger)
            norm = float(arrays.mask.sum())
            return Found(arrays, norm, share, share >= search.success, rounds)

        best: Found | None = None
        idle = rounds = 0
        while rounds < search.rounds:
            rounds += 1
            cost = jnp.asarray(schedule.cost, jnp.float32)
            each = []
            for _ in range(search.batches):
                index = jnp.asarray(rng.choice(len(images), size, replace=False).astype(np.int32))
                free, state, success = step(
                    free, state, params, on_device, index, target, traced, cost
                )
                each.append(success)
            works = float(np.mean([float(success) for success in each])) >= search.success
            idle += best is not None
            if works:
                now = look()
                if now.works and (best is None or now.norm < best.norm):
                    best, idle = now, 0
            schedule = next_cost(schedule, works, search)
            if schedule.raised and schedule.lowered and idle >= 5 * search.patience:
                break
        return (best or look())._replace(rounds=rounds)

    return find


class _Traced(NamedTuple):
    """A reach as arrays, so that none is compiled for itself."""

    middle: Float[Array, ""]
    half: Float[Array, ""]
    whole: Bool[Array, ""]


def _traced(reach: Reach) -> _Traced:
    half = (reach.high - reach.low) / 2
    middle = jnp.asarray(reach.middle, jnp.float32)
    return _Traced(middle, jnp.asarray(half, jnp.float32), jnp.asarray(reach.whole))


def _squashed(free: Trigger, reach: _Traced) -> Trigger:
    """Returns the trigger of free real parameters, its mask soft."""
    pattern = reach.middle + reach.half * jnp.tanh(free.pattern)
    return Trigger((jnp.tanh(free.mask) + 1) / 2, pattern)


def _rounded(soft: Trigger, reach: _Traced) -> Trigger:
    return soft._replace(mask=jnp.where(reach.whole, jnp.round(soft.mask), soft.mask))


def _start(rng: np.random.Generator, shape: Sequence[int], reach: Reach) -> Trigger:
    """Returns free parameters whose mask and pattern are uniform in [0, 1)."""
    mask, pattern = rng.random(tuple(shape[:2])), rng.random(tuple(shape))

    def inverse(values: np.ndarray) -> jax.Array:
        return jnp.asarray(np.arctanh(values * (1 - _EPSILON)), jnp.float32)

    half = (reach.high - reach.low) / 2
    return Trigger(inverse(2 * mask - 1), inverse((pattern - reach.middle) / half))


class Anomalies(NamedTuple):
    """Which labels' masks are too small to be like the others'.

    Attributes:
      indices: |norm - median| / (1.4826 MAD), float64 [labels]; where MAD is 0, 0 for a norm that
        equals the median and infinity for another.
      lowest: of the smallest norm, the figure that the papers print for a model.
      flagged: labels with a norm below the median and an index above the bound, ascending.
    """

    indices: Float[np.ndarray, " labels"]
    lowest: float
    flagged: list[int]


def anomalies(norms: Sequence[float], *, bound: float = 2.0) -> Anomalies:
    """Returns the anomaly indices of the labels' norms, at least one."""
    values = np.asarray(norms, np.float64)
    away = np.abs(values - np.median(values))
    scale = _CONSISTENCY * np.median(away)
    index = np.where(away == 0, 0.0, np.inf) if scale == 0 else away / scale
    small = (values < np.median(values)) & (index > bound)
    return Anomalies(index, float(index[np.argmin(values)]), np.flatnonzero(small).tolist())
