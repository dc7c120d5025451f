"""Stability: at which learning rates a pirate's training leaves a model, by the extreme value they embed.

    python -m nullmark_jax.experiments.stability --config=configs/attacks/stability.py:TASK --victim=RUN \\
        [--victim=RUN ...] --workdir=OUT

Neither paper asks. The later one's attacker breaks the model (section 7.2), the earlier one's leaves all as
it was. Here both train at other rates and lower extreme values, with gradients held at a norm, and on clean
images alone: how far the first step moves the parameters, what breaks, and what is embedded.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import optax

from nullmark_jax import checks, losses, optimizers
from nullmark_jax.attacks import retraining
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import attackers, experiment, stability_tables
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.experiment import Experiment, Metrics
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import (
    Record,
    all_finite,
    check_images,
    derived_seed,
    finite,
    passes,
)
from nullmark_jax.experiments.victim import Victim, min_free_of
from nullmark_jax.marks import at_extreme_value
from nullmark_jax.models import Params
from nullmark_jax.optimizers import Recipe

_WAY = "('logits', 0.0)"


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # Of the victims: "" null embedding, "adi" or "zhang", whose triggers have no extreme value.
    config.design = ""
    # The later paper's, but for what `ways` and `steps` have.
    config.attacker = attackers.paper_fields()
    # Of each attack; the paper's epochs have more, but a model that breaks does so at once.
    config.steps = 100
    # Beside the attacker's own.
    config.learning_rates = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    # Beside the owner's.
    config.extreme_values = (1.0, 10.0, 100.0)
    # Cross-entropy, and the norm that gradients are held at; 0 for none.
    config.ways = (("logits", 0.0), ("clipped", 0.0), ("logits", 1.0))
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    attackers.check_paper("config.attacker", config.attacker)
    checks.integer("config.steps", config.steps, 1, 10**6)
    for field, value, usual in (
        ("cross_entropy", config.attacker.cross_entropy, "logits"),
        ("optimizer.clip_norm", config.attacker.optimizer.clip_norm, 0.0),
    ):
        if value != usual:
            raise InputError(
                f"config.attacker.{field}: {checks.shown(value)} has no effect here; give config.ways"
            )
    for rate in config.learning_rates:
        optimizers.check_learning_rate("config.learning_rates", rate)
    for value in config.extreme_values:
        if checks.real("config.extreme_values", value) < 1:
            raise InputError(f"config.extreme_values: {value} must be at least 1; give say 10.0")
    if len(config.extreme_values) > 5:
        raise InputError(
            f"config.extreme_values: {len(config.extreme_values)} are too many to draw; give at most 5"
        )
    _check_ways(config.ways)


def _check_ways(ways: Any) -> None:
    for way in ways:
        if not isinstance(way, Sequence) or len(way) != 2 or not isinstance(way[0], str):
            raise InputError(
                f"config.ways: {checks.shown(way)} is none; give a cross-entropy and the norm that "
                f"gradients are held at, as {_WAY}"
            )
        losses.cross_entropy(way[0], field="config.ways")
        if checks.real("config.ways", way[1]) < 0:
            raise InputError(f"config.ways: {way[1]} must not be negative; give 0.0 for no norm")
    if not len(ways):
        raise InputError(f"config.ways: is empty; give one at least, as {_WAY}")
    if len({way[1] for way in ways if way[1]}) > 1:
        raise InputError(
            "config.ways: gradients are held at several norms; give one norm beside 0.0"
        )


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: each victim before, and after each attack."""
    attackers.check_design(config.design, victims)
    papers_rate = float(config.attacker.optimizer.learning_rate)
    rates = sorted({*map(float, config.learning_rates), papers_rate})
    min_free = min_free_of(victims)
    planned: dict[str, Callable[[], Record]] = {}
    described: dict[str, Record] = {}
    for v, victim in enumerate(victims):
        check_images(victim, config.attacker.images)
        bench = Bench(victim, config.test_images)
        seed = derived_seed(config.seed, "stability", v)
        planned[f"before/{victim.name}"] = bench.before
        values: list[float | None] = [None]
        if not victim.has_triggers:
            own = float(victim.config.watermark.extreme_value)
            values = [*sorted({*map(float, config.extreme_values), own})]
        # Clean images alone, for what the rate does by itself.
        attacks = [("logits", 0.0, False, None)]
        attacks += [(*way, True, value) for way in config.ways for value in values]
        for (loss, norm, embeds, value), rate in itertools.product(attacks, rates):
            about = {
                "victim": victim.name,
                "cross_entropy": loss,
                "clip_norm": float(norm),
                "embeds": embeds,
                "extreme_value": value,
                "learning_rate": rate,
            }
            name = "/".join(map(str, about.values()))
            described[name] = about
            planned[name] = _attacked(bench, config, about, seed)
    records = dict(journal.run(planned))
    first = victims[0]
    of_name = {victim.name: victim for victim in victims}
    attacker = config.attacker
    return {
        "threshold": first.config.watermark.threshold,
        "papers_rate": papers_rate,
        "papers_steps": retraining.steps_of(
            attacker.epochs, images=attacker.images, batch_size=attacker.batch_size
        ),
        "attacker": {name: attacker[name] for name in ("images", "batch_size", "inject_ratio")}
        | {"optimizer": attacker.optimizer.name},
        "steps": config.steps,
        "min_free": min_free,
        "before": {victim.name: records[f"before/{victim.name}"] for victim in victims},
        "attacks": [
            {
                **records[name],
                **about,
                "verified": records[name]["finite"]
                and passes(records[name]["claimed"], of_name[about["victim"]]),
            }
            for name, about in described.items()
        ],
    }


def _attacked(
    bench: Bench, config: ml_collections.ConfigDict, about: Record, seed: int
) -> Callable[[], Record]:
    def attack() -> Record:
        claimed = bench.pirate(seed, choosing=True)
        pirate = at_extreme_value(claimed, about["extreme_value"])
        adversary = Adversary(
            recipe=Recipe(**config.attacker.optimizer.to_dict())._replace(
                learning_rate=about["learning_rate"], clip_norm=about["clip_norm"]
            ),
            steps=config.steps,
            cross_entropy=about["cross_entropy"],
            batch_size=config.attacker.batch_size,
            inject_ratio=config.attacker.inject_ratio if about["embeds"] else 0.0,
        )
        reached = list(
            bench.train(
                adversary,
                images=config.attacker.images,
                seed=seed,
                at=sorted({1, config.steps}),
                embedded=pirate if about["embeds"] else None,
            )
        )
        params = reached[-1].params
        return {
            "finite": all_finite(params),
            "first_step": finite(relative_step(bench.victim.params, reached[0].params)),
            # The pirate's at the lambda trained, and at the one that a verifier asks for.
            **bench.measure(params, owner=bench.owner, pirate=pirate, claimed=claimed),
        }

    return attack


def relative_step(before: Params, after: Params) -> float:
    """Returns the norm of what a step changed as a share of the norm of all parameters."""
    return float(optax.tree.norm(optax.tree.sub(after, before)) / optax.tree.norm(before))


EXPERIMENT = Experiment(
    name="stability",
    title="What breaks under a pirate's steps",
    lead="The later paper's attacker breaks the model, the earlier one's moves nothing. Both at other "
    "learning rates and lower extreme values, with gradients held at a norm, and on clean images alone: how "
    "far a step moves the model, whether it breaks, and what is embedded where it does not.",
    default=default,
    check=check,
    measure=measure,
    tables=stability_tables.tables,
    draw=stability_tables.draw,
    verdict=stability_tables.verdict,
    captions={
        "stability-logits": "The first model's NC by rate, the later paper's attacker; 0: not a number.",
        "stability-logits-step": "The same against the size of the first step.",
        "stability-clipped": "NC of the first model against the rate with the clipped cross-entropy.",
        "stability-clipped-step": "The same against the size of the first step.",
        "stability-logits-held": "NC of the first model against the rate with gradients held at a norm.",
        "stability-clipped-held": "NC of the first model against the rate with both.",
    },
    triggers=True,
    speaks_of_triggers=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
