"""Stability: at which learning rates a pirate's SGD leaves a model, by the extreme value they embed.

    python -m nullmark_jax.experiments.stability --config=configs/attacks/stability.py:TASK --victim=RUN \\
        --workdir=OUT

Neither paper asks. The later one finds that a second watermark breaks the model (section 7.2). Here its
attacker trains at other rates, at lower extreme values, and with gradients held at a norm, which tells
whether it is the second watermark that breaks the model or the size of SGD's steps, which grow with lambda.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from matplotlib.figure import Figure

from nullmark_jax import checks, losses
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import attackers, experiment
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import (
    Record,
    all_finite,
    check_images,
    derived_seed,
    passes,
)
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.marks import Marks
from nullmark_jax.models import Params
from nullmark_jax.optimizers import Recipe
from nullmark_jax.reports import curves
from nullmark_jax.reports.table import Table, percent

# A model that lost more of NC, as a fraction, counts as broken.
_BROKEN = 0.05


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # Of the victims: "" null embedding, "adi" or "zhang", whose triggers have no extreme value.
    config.design = ""
    # The later paper's attacker, of whom fewer steps are enough to see a model break.
    config.attacker = attackers.paper_fields()
    del config.attacker.epochs
    config.steps = 100
    # Beside the attacker's own.
    config.learning_rates = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    # Beside the owner's.
    config.extreme_values = (1.0, 10.0, 100.0)
    # Cross-entropy, and the largest norm of a gradient; 0 for any.
    config.ways = (("logits", 0.0), ("clipped", 0.0), ("logits", 1.0))
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    attackers.check_paper(
        "config.attacker", ml_collections.ConfigDict({**config.attacker, "epochs": 1})
    )
    checks.integer("config.steps", config.steps, 1, 10**6)
    for rate in config.learning_rates:
        if checks.real("config.learning_rates", rate) <= 0:
            raise InputError(f"config.learning_rates: {rate} must be above 0; give say 0.001")
    for value in config.extreme_values:
        if checks.real("config.extreme_values", value) < 1:
            raise InputError(f"config.extreme_values: {value} must be at least 1; give say 10.0")
    if not len(config.ways):
        raise InputError("config.ways: is empty; give one at least, as ('logits', 0.0)")
    for way in config.ways:
        if len(way) != 2:
            raise InputError(
                f"config.ways: {checks.shown(tuple(way))} is none; give a cross-entropy and the largest "
                "norm of a gradient, as ('logits', 0.0)"
            )
        losses.cross_entropy(way[0], field="config.ways")
        if checks.real("config.ways", way[1]) < 0:
            raise InputError(f"config.ways: {way[1]} must not be negative; give 0.0 for any norm")


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: each victim before, and after each attack."""
    attackers.check_design(config.design, victims)
    papers_rate = float(config.attacker.optimizer.learning_rate)
    rates = sorted({*map(float, config.learning_rates), papers_rate})
    planned: dict[str, Callable[[], Record]] = {}
    described: dict[str, Record] = {}
    for victim in victims:
        check_images(victim, config.attacker.images)
        bench = Bench(victim, config.test_images)
        planned[f"before/{victim.name}"] = _before(bench)
        own = () if victim.has_triggers else (float(victim.config.watermark.extreme_value),)
        values = sorted({*map(float, config.extreme_values), *own}) if own else [None]
        for (loss, norm), value, rate in itertools.product(config.ways, values, rates):
            name = f"{victim.name}/{loss}/{norm:g}/{value}/{rate:g}"
            described[name] = {
                "victim": victim.name,
                "cross_entropy": loss,
                "clip_norm": float(norm),
                "extreme_value": value,
                "learning_rate": rate,
            }
            planned[name] = _attacked(bench, config, described[name])
    records = dict(journal.run(planned))
    first = victims[0]
    attacks = []
    for name, about in described.items():
        record = records[name]
        attacks.append(
            {**record, **about, "verified": record["finite"] and passes(record["pirate"], first)}
        )
    return {
        "threshold": first.config.watermark.threshold,
        "papers_rate": papers_rate,
        "optimizer": config.attacker.optimizer.name,
        "steps": config.steps,
        "images": config.attacker.images,
        "before": {victim.name: records[f"before/{victim.name}"] for victim in victims},
        "attacks": attacks,
    }


def _before(bench: Bench) -> Callable[[], Record]:
    return lambda: bench.measure(bench.victim.params, owner=bench.owner)


def _attacked(
    bench: Bench, config: ml_collections.ConfigDict, about: Record
) -> Callable[[], Record]:
    def attack() -> Record:
        seed = derived_seed(config.seed, "stability")
        pirate = at_value(bench.pirate(seed), about["extreme_value"])
        recipe = Recipe(**config.attacker.optimizer.to_dict())._replace(
            learning_rate=about["learning_rate"], clip_norm=about["clip_norm"]
        )
        adversary = Adversary(
            recipe=recipe,
            steps=config.steps,
            cross_entropy=about["cross_entropy"],
            batch_size=config.attacker.batch_size,
            inject_ratio=config.attacker.inject_ratio,
        )
        at = sorted({1, config.steps})
        reached = list(
            bench.train(adversary, images=config.attacker.images, seed=seed, at=at, embedded=pirate)
        )
        params = reached[-1].params
        moved = relative_step(bench.victim.params, reached[0].params)
        return {
            "finite": all_finite(params),
            "first_step": moved if np.isfinite(moved) else None,
            **bench.measure(params, owner=bench.owner, pirate=pirate),
        }

    return attack


def at_value(marks: Marks, extreme_value: float | None) -> Marks:
    """Returns a population with another lambda; triggers, which have none, as they are."""
    if extreme_value is None or not isinstance(marks, Watermark):
        return marks
    return marks._replace(extreme_value=jnp.full_like(marks.extreme_value, extreme_value))


def relative_step(before: Params, after: Params) -> float:
    """Returns the norm of what a step changed as a share of the norm of all parameters."""

    def norm(leaves: Sequence[Any]) -> float:
        return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in leaves)))

    pairs = zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True)
    return norm([np.asarray(b) - np.asarray(a) for a, b in pairs]) / norm(jax.tree.leaves(before))


# For readers.


def stable_up_to(attacks: Sequence[Record], normal_accuracy: float) -> float | None:
    """Returns the highest rate below the first that breaks the model; None where the lowest does.

    Args:
      attacks: records of one way and one extreme value.
      normal_accuracy: of the victim.
    """
    best = None
    for each in sorted(attacks, key=lambda each: each["learning_rate"]):
        if not each["finite"] or each["normal_accuracy"] < normal_accuracy - _BROKEN:
            break
        best = each["learning_rate"]
    return best


def _groups(metrics: Metrics) -> list[tuple[Record, list[Record]]]:
    """Returns the attacks by victim, way and extreme value: what each group shares, its records."""
    shared = ("victim", "cross_entropy", "clip_norm", "extreme_value")
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for each in metrics["attacks"]:
        groups.setdefault(tuple(each[name] for name in shared), []).append(each)
    return [(dict(zip(shared, key, strict=True)), found) for key, found in groups.items()]


def _way(about: Record, optimizer: str) -> str:
    held = f", gradients held at norm {about['clip_norm']:g}" if about["clip_norm"] else ""
    return f"{about['cross_entropy']}, {optimizer}{held}"


def _named(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:g}"


def tables(result: Result) -> list[Table]:
    """Returns for each way and extreme value what is left at the paper's rate, and the highest stable one."""
    metrics = result["metrics"]
    rows = []
    for about, attacks in _groups(metrics):
        accuracy = metrics["before"][about["victim"]]["normal_accuracy"]
        (at_own,) = [e for e in attacks if e["learning_rate"] == metrics["papers_rate"]]
        stable = stable_up_to(attacks, accuracy)
        kept = [e for e in attacks if stable is not None and e["learning_rate"] <= stable]
        best = max(kept, key=lambda each: each["pirate"]["wm"], default=None)
        value = about["extreme_value"]
        rows.append(
            [
                about["victim"],
                _way(about, metrics["optimizer"]),
                "" if value is None else f"{value:g}",
                _share(at_own["first_step"]),
                percent(at_own["normal_accuracy"]) if at_own["finite"] else "not a number",
                percent(at_own["pirate"]["wm"]) if at_own["finite"] else "",
                _named(stable),
                *(
                    ["", "", "", ""]
                    if best is None
                    else [
                        _named(best["learning_rate"]),
                        percent(best["normal_accuracy"]),
                        percent(best["pirate"]["wm"]),
                        percent(best["owner"]["wm"]),
                    ]
                ),
            ]
        )
    rate = metrics["papers_rate"]
    return [
        Table(
            f"{metrics['steps']} steps of a pirate, %, at the later paper's rate ({rate:g}) and at others",
            (
                "model",
                "attacker",
                "lambda",
                f"first step at {rate:g}",
                f"NC at {rate:g}",
                f"pirate WM at {rate:g}",
                "stable up to rate",
                "best rate",
                "its NC",
                "its pirate WM",
                "its owner WM",
            ),
            rows,
            "First step: how far it moves the parameters, as a share of their norm. Stable up to: the "
            f"highest rate tried below the first that leaves NC more than {100 * _BROKEN:g} points lower "
            "or a model that is not a number; none: the lowest tried does. Best: of the stable rates the one "
            "with the highest pirate WM, at the lambda of the row, which a verifier asks for only where it "
            "is the owner's.",
        )
    ]


def _share(value: float | None) -> str:
    return "not a number" if value is None else f"{100 * value:.2g}%"


def draw(result: Result) -> dict[str, Figure]:
    """Returns NC against the rate for the paper's attacker, and with gradients held, on the first victim."""
    metrics = result["metrics"]
    first = next(iter(metrics["before"]))
    drawn: dict[str, Figure] = {}
    ways = {
        (about["cross_entropy"], about["clip_norm"])
        for about, _ in _groups(metrics)
        if about["victim"] == first
    }
    for loss, norm in sorted(ways):
        groups = [
            (about["extreme_value"], attacks)
            for about, attacks in _groups(metrics)
            if (about["victim"], about["cross_entropy"], about["clip_norm"]) == (first, loss, norm)
        ]
        rates = sorted({each["learning_rate"] for _, attacks in groups for each in attacks})
        records: list[Record] = [{"learning_rate": rate} for rate in rates]
        for value, attacks in groups:
            of_rate = {each["learning_rate"]: each for each in attacks}
            for record in records:
                each = of_rate[record["learning_rate"]]
                record[f"{value}"] = each["normal_accuracy"] if each["finite"] else 0.0
        about = {"cross_entropy": loss, "clip_norm": norm}
        drawn[f"stability-{loss}{'-held' if norm else ''}"] = curves.curves_figure(
            records,
            x=("learning_rate", "learning rate"),
            lines=[
                curves.Line("NC" if value is None else f"NC, lambda {value:g}", (f"{value}",))
                for value, _ in groups
            ],
            title=f"NC after {metrics['steps']} steps: {_way(about, metrics['optimizer'])}",
            log_x=True,
            upright={"the later paper's rate": metrics["papers_rate"]},
        )
    return drawn


def verdict(result: Result) -> list[Finding]:
    """Returns for each way up to which rate the model stands, at the lowest and the highest lambda."""
    metrics = result["metrics"]
    first = next(iter(metrics["before"]))
    accuracy = metrics["before"][first]["normal_accuracy"]
    by_way: dict[str, list[tuple[float | None, list[Record]]]] = {}
    for about, attacks in _groups(metrics):
        if about["victim"] == first:
            way = _way(about, metrics["optimizer"])
            by_way.setdefault(way, []).append((about["extreme_value"], attacks))
    found = []
    for way, groups in by_way.items():
        stable = [
            f"{_named(stable_up_to(attacks, accuracy))}"
            + ("" if value is None else f" at lambda {value:g}")
            for value, attacks in groups
        ]
        found.append(
            Finding(
                f"What breaks the model: {metrics['steps']} steps of a pirate ({way}) leave NC within "
                f"{100 * _BROKEN:g} points up to a rate of {', '.join(stable)}; the later paper's is "
                f"{metrics['papers_rate']:g}."
            )
        )
    return found


EXPERIMENT = Experiment(
    name="stability",
    title="What breaks a pirate's model",
    lead="The later paper's attacker breaks the model. The same training at other learning rates, lower "
    "extreme values and with gradients held at a norm shows whether the second watermark does that or the "
    "size of the steps.",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    verdict=verdict,
    captions={
        "stability-logits": "NC against the rate, the paper's attacker; 0 where the model is not a number.",
        "stability-clipped": "The same with the clipped cross-entropy.",
        "stability-logits-held": "The same with gradients held at a norm.",
        "stability-clipped-held": "The same with both.",
    },
    triggers=True,
    speaks_of_triggers=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
