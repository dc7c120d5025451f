"""What piracy costs: from the owner's model, and from scratch.

    python -m nullmark_jax.experiments.piracy_cost --config=configs/attacks/piracy_cost.py:TASK \\
        --victim=RUN --workdir=OUT

Later paper, Figure 2: null-only piracy with all and with 1% of the data, against training from scratch.
Then both embeddings, with every attacker of a grid: the steps, images and seconds until NC and the pirate's
watermark are there, as a multiple of the cheapest training from scratch with the same images.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from nullmark_jax import checks, models
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import attackers, experiment, piracy_cost_tables
from nullmark_jax.experiments.attackers import Attacker
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.experiment import Experiment, Metrics
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import Record, all_finite, check_images, derived_seed
from nullmark_jax.experiments.victim import Victim, min_free_of

# What is embedded, by the weight alpha of the true term.
EMBEDDINGS = {"null only": 0.0, "null and true": 1.0}
STARTS = ("the owner's model", "scratch")


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    config.grid = attackers.grid_fields()
    config.grid.cross_entropies = ("logits",)
    config.grid.images = ()
    config.grid.steps = 2000
    # Points in steps, geometrically spaced, at which the model is measured.
    config.points = 24
    # What is to be reached: NC at most so far below the victim's, and the pirate's null (of null-only
    # piracy) or WM above T.
    config.margin = 0.01
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    attackers.check_grid("config.grid", config.grid)
    checks.integer("config.points", config.points, 2, 10**4)
    if not 0 <= checks.real("config.margin", config.margin) < 1:
        raise InputError(f"config.margin: {config.margin} is out of range; give say 0.01")


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: each attacker's and each start's curve, and what it took to be there."""
    min_free = min_free_of(victims)
    planned: dict[str, Callable[[], Record]] = {}
    grid = attackers.grid(config.grid, len(victims[0].splits.train))
    keys = [
        (embedding, attacker, start)
        for embedding in EMBEDDINGS
        for attacker in grid
        for start in STARTS
    ]
    for v, victim in enumerate(victims):
        check_images(victim, *(attacker.images for attacker in grid))
        bench = Bench(victim, config.test_images)
        for embedding, attacker, start in keys:
            name = f"{embedding}: {attacker.name}, from {start}/{victim.name}"
            planned[name] = _trained(
                bench, attacker, embedding, start, config, seed=derived_seed(config.seed, v)
            )
    records = dict(journal.run(planned))
    runs: list[dict[str, Any]] = []
    for victim in victims:
        for embedding, attacker, start in keys:
            record = records[f"{embedding}: {attacker.name}, from {start}/{victim.name}"]
            runs.append(
                {
                    "victim": victim.name,
                    "embedding": embedding,
                    "start": start,
                    "attacker": attacker.name,
                    "images": attacker.images,
                    **record,
                    "reached": reached(
                        record["curve"],
                        accuracy=record["target"],
                        threshold=victim.config.watermark.threshold,
                        embedding=embedding,
                        scheme=victim.scheme,
                    ),
                }
            )
    return {
        "threshold": victims[0].config.watermark.threshold,
        "margin": config.margin,
        "min_free": min_free,
        "steps": config.grid.steps,
        "batch_size": config.grid.batch_size,
        "own_training": [
            {"steps": victim.training_steps, "batch_size": victim.config.batch_size}
            for victim in victims
        ],
        "runs": runs,
    }


def reached(
    curve: list[Record], *, accuracy: float, threshold: float, embedding: str, scheme: str
) -> Record | None:
    """Returns the first point of a curve with NC and the pirate's mark there; None where there is none.

    Args:
      curve: points with `normal_accuracy`, `pirate`, `steps` and `seconds`, ascending.
      accuracy: the NC to reach.
      threshold: T, which the pirate's null accuracy ("null only") or WM must pass.
      embedding: one of `EMBEDDINGS`.
      scheme: whose rule "pass" is, as `verification.passes` has it.
    """
    for point in curve:
        if point["normal_accuracy"] >= accuracy and piracy_cost_tables.bears(
            point, threshold=threshold, embedding=embedding, scheme=scheme
        ):
            return {"steps": point["steps"], "seconds": point["seconds"]}
    return None


def _trained(
    bench: Bench,
    attacker: Attacker,
    embedding: str,
    start: str,
    config: ml_collections.ConfigDict,
    *,
    seed: int,
) -> Callable[[], Record]:
    def train() -> Record:
        victim = bench.victim
        pirate = bench.pirate(seed, choosing=True)
        marks = {"owner": bench.owner, "pirate": pirate}
        adversary = attacker.adversary(
            steps=config.grid.steps,
            batch_size=config.grid.batch_size,
            true_weight=EMBEDDINGS[embedding],
        )
        params = victim.params
        if start == "scratch":
            shape = tuple(victim.config.data.input_shape)
            params = models.init_params(victim.model, jax.random.key(seed), shape)
        spaced = np.geomspace(1, adversary.steps, config.points)
        at = sorted({round(float(step)) for step in spaced} | {adversary.steps})
        curve = [{"steps": 0, "seconds": 0.0, **bench.measure_curve(params, **marks)}]
        spent, since = 0.0, time.monotonic()
        for point in bench.train(
            adversary,
            images=attacker.images,
            seed=seed,
            at=at,
            embedded=pirate,
            params=params,
        ):
            spent += time.monotonic() - since
            measured = bench.measure_curve(point.params, **marks)
            curve.append({"steps": point.steps, "seconds": round(spent, 2), **measured})
            if not (finite := all_finite(point.params)):
                break  # What is not a number stays so.
            since = time.monotonic()
        before = bench.measure_curve(victim.params, owner=bench.owner)["normal_accuracy"]
        return {"target": before - config.margin, "finite": finite, "curve": curve}

    return train


EXPERIMENT = Experiment(
    name="piracy_cost",
    title="The cost of piracy",
    lead="How much training a pirate needs from the owner's model, and how much from scratch with the "
    "same images. The later paper has ten times as much with all the data, and more with 1% of them.",
    default=default,
    check=check,
    measure=measure,
    tables=piracy_cost_tables.tables,
    draw=piracy_cost_tables.draw,
    verdict=piracy_cost_tables.verdict,
    captions=piracy_cost_tables.CAPTIONS,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
