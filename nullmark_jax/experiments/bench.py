"""A victim ready to be attacked: its accuracies measured, and what was compiled for it kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np

from nullmark_jax import owner, populations
from nullmark_jax.attacks import retraining
from nullmark_jax.attacks.retraining import Adversary, Member, Reached, Retrain, RetrainMany
from nullmark_jax.baselines.triggers import Triggers
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.measuring import Measure, Record, all_finite, finite, make_measure
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.marks import Marks, as_watermarks
from nullmark_jax.models import Params, free_share

# A curve has many points, each measured on at most so many test images.
CURVE_IMAGES = 2000


class Outcome(NamedTuple):
    """What an attack left.

    Attributes:
      params: the model's.
      record: its accuracies on all test images, `loss` of the last steps, `finite`.
      curve: accuracies on fewer images at each step count, the first 0; empty where none was asked.
    """

    params: Params
    record: Record
    curve: list[Record]


class Bench:
    """A victim, and how it is attacked and measured.

    Args:
      victim: the model.
      test_images: that accuracies are measured on; 0 for all.
    """

    def __init__(self, victim: Victim, test_images: int = 0) -> None:
        self.victim = victim
        self.measure: Measure = make_measure(victim, test_images=test_images)
        # The same where there are no more images, so that it is compiled once.
        self.measure_curve: Measure = (
            make_measure(victim, test_images=CURVE_IMAGES)
            if (test_images or len(victim.splits.test)) > CURVE_IMAGES
            else self.measure
        )
        self._retrain = cache(self._make_retrain)
        self._retrain_many = cache(self._make_retrain_many)

    def _make_retrain_many(self, adversary: Adversary) -> RetrainMany:
        return retraining.make_population_retraining(
            self.victim.model, adversary, pattern_size=self.victim.pattern_size
        )

    def _make_retrain(self, adversary: Adversary) -> Retrain:
        return retraining.make_retraining(
            self.victim.model, adversary, pattern_size=self.victim.pattern_size
        )

    @property
    def owner(self) -> Marks:
        """The owner's marks, a population."""
        if self.victim.watermarks is None:
            raise InputError(f"--victim: {self.victim.name} has no watermark; give one that has")
        return self.victim.watermarks

    @property
    def watermarks(self) -> Watermark:
        """The owner's, of a scheme with null embedding."""
        return as_watermarks(self.owner)

    def before(self) -> Record:
        """Returns the record of the victim as it is, with its owner's marks."""
        return self.measure(self.victim.params, owner=self.owner)

    def pirate(self, seed: int, *, choosing: bool = False) -> Marks:
        """Returns random marks of somebody else's: a population of one watermark, or their triggers.

        Args:
          seed: of the draw.
          choosing: whether they sign again until their pattern lies where the owner's recipe wants
            one (`config.owner.min_free`), as the owner did.

        Raises:
          InputError: of as many signatures as an owner tries none gives such.
        """
        least = self.victim.config.owner.min_free if choosing else 0.0
        drawn = self.victim.foreign(seed, owner.TRIES if least else 1)
        if not least or isinstance(drawn, Triggers):
            return drawn
        (suited,) = np.nonzero(free_share(self.victim.model, drawn.pattern) >= least)
        if not len(suited):
            raise InputError(
                f"--victim: {self.victim.name} has config.owner.min_free={least}, which none "
                f"of {owner.TRIES} signatures reaches; give a victim of less"
            )
        return jax.tree.map(lambda each: each[suited[:1]], drawn)

    def images(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns `count` training images with their labels, as an attacker may have them."""
        train = self.victim.splits.train
        return retraining.choose_images(train.images, train.labels, count, seed)

    def train(
        self,
        adversary: Adversary,
        *,
        images: int,
        seed: int,
        at: Sequence[int],
        embedded: Marks | None = None,
        params: Params | None = None,
    ) -> Iterator[Reached]:
        """Trains a model on; yields it at each step count of `at`.

        Args:
          adversary: how.
          images: how many the attacker has.
          seed: of which they are, and of their order.
          at: ascending, the last at most adversary.steps.
          embedded: the marks embedded, a population; None where only clean images are used.
          params: the model's; None for the victim's.
        """
        # Of clean images only, the step still wants a population, of which nothing is used.
        population = embedded if embedded is not None else self.victim.foreign(0, 1)
        start = self.victim.params if params is None else params
        own = self.images(images, seed)
        yield from self._retrain(adversary)(start, *own, population, seed, at)

    def attack(
        self,
        adversary: Adversary,
        *,
        images: int,
        seed: int,
        embedded: Marks | None = None,
        marks: Mapping[str, Marks],
        params: Params | None = None,
        points: int = 1,
    ) -> Outcome:
        """Trains a model on as `train` does, and measures it.

        Args:
          adversary: how, as the next arguments, see `train`.
          images: see there.
          seed: see there.
          embedded: see there.
          marks: those measured, by name.
          params: see `train`.
          points: of the curve, equally spaced; 1 for no curve.
        """
        curve: list[Record] = []
        if points > 1:
            start = self.victim.params if params is None else params
            curve.append({"steps": 0, **self.measure_curve(start, **marks)})
        for reached in self.train(
            adversary,
            images=images,
            seed=seed,
            at=points_of(adversary.steps, points),
            embedded=embedded,
            params=params,
        ):
            if points > 1:
                curve.append(
                    {"steps": reached.steps, **self.measure_curve(reached.params, **marks)}
                )
        return Outcome(reached.params, self._record(seed, reached, marks), curve)

    def attack_at_once(
        self,
        adversary: Adversary,
        *,
        images: int,
        seeds: Sequence[int],
        marks: Sequence[Mapping[str, Marks]],
        members: int,
    ) -> list[Record]:
        """Embeds a pirate's marks in the victim's model, many in copies of their own, and measures each.

        Args:
          adversary: how.
          images: how many each pirate has.
          seeds: for each pirate, of which images and of their order.
          marks: likewise, those measured, by name; those named "pirate" are embedded.
          members: trained at once, at least as many as seeds: the last pirate fills up, so that a round of
            fewer is not compiled for itself.
        """
        train = self.victim.splits.train
        pirates = [
            Member(each["pirate"], retraining.chosen_rows(train.labels, images, seed), seed)
            for seed, each in zip(seeds, marks, strict=True)
        ]
        filled = [*pirates, *([pirates[-1]] * (members - len(pirates)))]
        (reached,) = self._retrain_many(adversary)(
            self.victim.params, train.images, train.labels, filled, (adversary.steps,)
        )
        return [
            self._record(seed, own, each)
            for seed, own, each in zip(seeds, reached[: len(seeds)], marks, strict=True)
        ]

    def _record(self, seed: int, reached: Reached, marks: Mapping[str, Marks]) -> Record:
        return {
            "seed": seed,
            "loss": finite(reached.loss),
            "finite": all_finite(reached.params),
            **self.measure(reached.params, **marks),
        }


def pirate_attacks(
    bench: Bench,
    adversary: Adversary,
    *,
    images: int,
    seeds: Sequence[int],
    choosing: bool = False,
    points: int = 1,
) -> list[Callable[[], Record]]:
    """Returns for each seed a function that gives its pirate's record, as `Bench.attack` has it.

    The first is trained alone, and has a curve where points are asked for. Of the others as many as the
    devices train at once (`populations.at_once`) are trained when the first of them is asked for, which so
    takes the time of all.

    Args:
      bench: with the victim that each embeds a watermark in.
      adversary: how.
      images: how many each has.
      seeds: of each pirate's watermark, images and their order.
      choosing: see `Bench.pirate`.
      points: see `Bench.attack`, of the first pirate.
    """

    def marks(seed: int) -> dict[str, Marks]:
        return {"owner": bench.owner, "pirate": bench.pirate(seed, choosing=choosing)}

    def alone(seed: int, points: int = 1) -> Record:
        named = marks(seed)
        outcome = bench.attack(
            adversary,
            images=images,
            seed=seed,
            embedded=named["pirate"],
            marks=named,
            points=points,
        )
        return outcome.record | ({"curve": outcome.curve} if outcome.curve else {})

    first, others = partial(alone, seeds[0], points), seeds[1:]
    size = populations.at_once()
    if size == 1 or len(others) < 2:
        return [first, *(partial(alone, seed) for seed in others)]
    rounds: dict[int, list[Record]] = {}

    def of_round(index: int) -> Record:
        start = index // size * size
        if start not in rounds:
            those = others[start : start + size]
            rounds[start] = bench.attack_at_once(
                adversary,
                images=images,
                seeds=those,
                marks=[marks(seed) for seed in those],
                members=min(size, len(others)),
            )
        return rounds[start][index - start]

    return [first, *(partial(of_round, index) for index in range(len(others)))]


def points_of(steps: int, points: int) -> Sequence[int]:
    """Returns up to `points` step counts, equally spaced, the last one `steps`."""
    return sorted({max(1, steps * i // points) for i in range(1, points + 1)})
