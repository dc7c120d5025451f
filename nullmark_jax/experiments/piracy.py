"""Piracy: a second watermark in a watermarked model.

    python -m nullmark_jax.experiments.piracy --config=configs/attacks/piracy.py:TASK --victim=RUN \\
        [--victim=RUN ...] --workdir=OUT

Later paper, Table 3 and Figure 4, its attacker at lower learning rates, too (config.later_rates); earlier
paper, Table V and Figure 7; then a grid of attackers that
choose loss, optimiser, learning rate and data, on the first victim of each owner's way to train, and its
strongest one, and the strongest of those with the fewest images, on fresh pirate watermarks. A victim whose
owner trained with another loss than the first one's, or in whose training alone lambda rose, is for the grid
alone.
"""

import sys
from collections.abc import Callable, Sequence

import ml_collections

from nullmark_jax import checks, optimizers
from nullmark_jax.attacks import retraining
from nullmark_jax.experiments import attackers, experiment, loss_gate, piracy_tables
from nullmark_jax.experiments.attackers import Attacker
from nullmark_jax.experiments.bench import Bench, pirate_attacks
from nullmark_jax.experiments.experiment import Experiment, Metrics
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import Record, check_images, derived_seed, passes
from nullmark_jax.experiments.victim import Victim, min_free_of

_PAPERS = ("later", "earlier")


def _papers(design: str) -> tuple[str, ...]:
    return _PAPERS[:1] if design else _PAPERS


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # Of the victims: "" null embedding, "adi" or "zhang"; the earlier paper's attacker is of the first.
    config.design = ""
    for name, pirates in zip(_PAPERS, (100, 1), strict=True):
        config[name] = attackers.paper_fields()
        # Random pirate watermarks on each victim; the first one's curve is drawn.
        config[name].pirates = pirates
    # Learning rates at which the later paper's attacker is tried, too, and pirates of each on each victim.
    config.later_rates = ()
    config.later_rates_pirates = 5
    config.grid = attackers.grid_fields()
    # Fresh pirates on each victim for the grid's strongest attacker, and for that of the fewest images.
    config.strongest_pirates = 10
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    for name in _PAPERS:
        attackers.check_paper(f"config.{name}", config[name])
        checks.integer(f"config.{name}.pirates", config[name].pirates, 1, 10**4)
    for rate in config.later_rates:
        optimizers.check_learning_rate("config.later_rates", rate)
    checks.integer("config.later_rates_pirates", config.later_rates_pirates, 1, 10**4)
    attackers.check_grid("config.grid", config.grid)
    checks.integer("config.strongest_pirates", config.strongest_pirates, 1, 10**4)


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: by paper the pirates, the grid, its strongest attackers' pirates."""
    first = victims[0]
    attackers.check_design(config.design, victims)
    papers = _papers(config.design)
    grid = attackers.grid(config.grid, len(first.splits.train))
    for victim in victims:
        wanted = [config[name].images for name in papers] + [each.images for each in grid]
        check_images(victim, *wanted)
    # No mean is over owners who trained in two ways.
    alike, others = loss_gate.split(victims)
    benches = [Bench(victim, config.test_images) for victim in alike]
    gate = [benches[0], *(Bench(victim, config.test_images) for victim in others)]
    metrics: Metrics = {
        "before": {},
        "threshold": first.config.watermark.threshold,
        "scheme": first.scheme,
        "min_free": min_free_of(victims),
    }
    lower = {rate: _at_rate(config.later, rate) for rate in map(float, config.later_rates)}
    planned: dict[str, Callable[[], Record]] = {}
    for v, bench in enumerate(benches):
        planned[f"before/{bench.victim.name}"] = _before(bench)
        for name in papers:
            seeds = [derived_seed(config.seed, name, v, i) for i in range(config[name].pirates)]
            for i, attack in enumerate(_paper_pirates(bench, config[name], seeds)):
                planned[f"{name}/{bench.victim.name}/{i}"] = attack
        for rate, own in lower.items():
            seeds = [
                derived_seed(config.seed, "rates", v, i) for i in range(config.later_rates_pirates)
            ]
            for i, attack in enumerate(_paper_pirates(bench, own, seeds)):
                planned[f"later at {rate:g}/{bench.victim.name}/{i}"] = attack
    attacked = [(bench, attacker) for bench in gate for attacker in grid]
    for bench in gate[1:]:
        planned[f"before/{bench.victim.name}"] = _before(bench)
    for bench, attacker in attacked:
        (attack,) = _grid_pirates(bench, attacker, config, [derived_seed(config.seed, "grid")])
        planned[f"grid/{bench.victim.name}/{attacker.name}"] = attack
    records = dict(journal.run(planned))
    metrics["before"] = {
        bench.victim.name: records[f"before/{bench.victim.name}"] for bench in benches
    }
    for name in papers:
        metrics[name] = {
            "attacker": attackers.describe(config[name]),
            "epochs": config[name].epochs,
            "images": config[name].images,
            "pirates": [r for key, r in records.items() if key.startswith(f"{name}/")],
        }
    metrics["later_rates"] = [
        {
            "attacker": attackers.describe(own),
            "learning_rate": rate,
            "pirates": [r for key, r in records.items() if key.startswith(f"later at {rate:g}/")],
        }
        for rate, own in lower.items()
    ]
    tried = [
        {
            **records[f"grid/{bench.victim.name}/{attacker.name}"],
            # Last: `images` are the attacker's, not those that the record is measured on.
            **attacker._asdict(),
            "name": attacker.name,
            "victim": bench.victim.name,
            **loss_gate.owner_fields(bench.victim),
        }
        for bench, attacker in attacked
    ]
    own = list(zip(tried[: len(grid)], grid, strict=True))
    fewest = min(attacker.images for attacker in grid)
    thrifty = [each for each in own if each[1].images == fewest]
    fresh = {}
    for part, some in {"strongest": own, "fewest": thrifty}.items():
        if part == "fewest" and len(some) == len(own):
            continue
        records_of = [record for record, _ in some]
        best = loss_gate.strongest(records_of, first.scheme, metrics["threshold"])
        attacker = some[records_of.index(best)][1]
        planned = {}
        for v, bench in enumerate(benches):
            seeds = [derived_seed(config.seed, part, v, i) for i in range(config.strongest_pirates)]
            for i, attack in enumerate(_grid_pirates(bench, attacker, config, seeds, points=20)):
                planned[f"{part}/{bench.victim.name}/{i}"] = attack
        found = [record for _, record in journal.run(planned)]
        fresh[part] = {"attacker": attacker.name, "pirates": found}
    metrics["grid"] = {
        "steps": config.grid.steps,
        "batch_size": config.grid.batch_size,
        "before": {bench.victim.name: records[f"before/{bench.victim.name}"] for bench in gate},
        "attackers": tried,
    }
    metrics |= fresh
    papers_parts = [metrics[name] for name in papers] + metrics["later_rates"]
    for each_part in (*papers_parts, *fresh.values()):
        # A model that is not a number answers class 0 to all, which agrees with itself.
        alive = [each for each in each_part["pirates"] if each["finite"]]
        each_part["verified"] = sum(passes(each["pirate"], first) for each in alive)
        each_part["owner_verified"] = sum(passes(each["owner"], first) for each in alive)
    return metrics


def _at_rate(attacker: ml_collections.ConfigDict, rate: float) -> ml_collections.ConfigDict:
    """Returns a paper's attacker at another learning rate."""
    other = ml_collections.ConfigDict(attacker.to_dict())
    other.optimizer.learning_rate = rate
    return other


def _before(bench: Bench) -> Callable[[], Record]:
    """Measures the victim as it is, with a pirate's watermark that nobody embedded."""
    return lambda: bench.measure(bench.victim.params, owner=bench.owner, pirate=bench.pirate(0))


def _paper_pirates(
    bench: Bench, config: ml_collections.ConfigDict, seeds: Sequence[int]
) -> list[Callable[[], Record]]:
    steps = retraining.steps_of(config.epochs, images=config.images, batch_size=config.batch_size)
    adversary = attackers.paper_adversary(config, steps)
    points = min(max(config.epochs, 2), 25)  # Of a single epoch, too, there is a curve.
    return pirate_attacks(bench, adversary, images=config.images, seeds=seeds, points=points)


def _grid_pirates(
    bench: Bench,
    attacker: Attacker,
    config: ml_collections.ConfigDict,
    seeds: Sequence[int],
    *,
    points: int = 1,
) -> list[Callable[[], Record]]:
    adversary = attacker.adversary(steps=config.grid.steps, batch_size=config.grid.batch_size)
    return pirate_attacks(
        bench, adversary, images=attacker.images, seeds=seeds, points=points, choosing=True
    )


EXPERIMENT = Experiment(
    name="piracy",
    title="Piracy",
    lead="A pirate trains a second watermark into a watermarked model. The papers say that this breaks "
    "the model (the later one) or does not move it (the earlier one); here their attackers stand "
    "beside ones that choose another loss, optimiser or learning rate.",
    default=default,
    check=check,
    measure=measure,
    tables=piracy_tables.tables,
    draw=piracy_tables.draw,
    verdict=piracy_tables.verdict,
    captions={
        "piracy-later": "The later paper's attacker, as its Figure 4: one pirate on the first victim.",
        "piracy-rates": "The later paper's attacker at lower rates, as its Figure 4: the one whose pirates "
        "get the highest WM, its first pirate on the first victim; others fare otherwise (the table).",
        "piracy-earlier": "The earlier paper's attacker, as its Figure 7: one pirate on the first victim.",
        "piracy-strongest": "The strongest attacker of the grid: its first pirate on the first victim; "
        "others fare otherwise (the table).",
        "piracy-fewest": "The strongest of the grid's attackers with the fewest images, likewise.",
    },
    triggers=True,
    speaks_of_triggers=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
