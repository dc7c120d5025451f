"""Piracy: a second watermark in a watermarked model.

    python -m nullmark_jax.experiments.piracy --config=configs/attacks/piracy.py:TASK --victim=RUN \\
        [--victim=RUN ...] --workdir=OUT

Later paper, Table 3 and Figure 4; earlier paper, Table V and Figure 7; then a grid of attackers that
choose loss, optimiser, learning rate and data, on the first victim of each owner's loss, and its strongest
one on fresh pirate watermarks. A victim of another loss than the first one's is for the grid alone.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from matplotlib.figure import Figure

from nullmark_jax import checks
from nullmark_jax.attacks import retraining
from nullmark_jax.baselines import schemes
from nullmark_jax.experiments import attackers, experiment, loss_gate
from nullmark_jax.experiments.attackers import Attacker
from nullmark_jax.experiments.bench import Bench, pirate_attacks
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import (
    BROKEN,
    Record,
    check_images,
    derived_seed,
    mean,
    mean_and_spread,
    passes,
)
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.reports import curves
from nullmark_jax.reports.table import Table, percent

_PAPERS = ("later", "earlier")
# What config.paper holds of Table 3, and after "earlier_" of Table V.
PRINTED = ("normal_accuracy", "owner_null", "owner_true", "pirate_null", "pirate_true")

# Of the earlier paper's attack, as its Figure 7 has it; the later one's are the task's own.
_EARLIER_EPOCHS = 100

# The most NC that Table 1's attacks on earlier designs cost, as a fraction: 3.2 points (Face).
_MINIMAL = 0.032


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
    config.grid = attackers.grid_fields()
    # Fresh pirates on each victim for the grid's strongest attacker.
    config.strongest_pirates = 10
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    for name in _PAPERS:
        attackers.check_paper(f"config.{name}", config[name])
        checks.integer(f"config.{name}.pirates", config[name].pirates, 1, 10**4)
    attackers.check_grid("config.grid", config.grid)
    checks.integer("config.strongest_pirates", config.strongest_pirates, 1, 10**4)


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: by paper the pirates, the grid, its strongest attacker's pirates."""
    first = victims[0]
    attackers.check_design(config.design, victims)
    papers = _papers(config.design)
    grid = attackers.grid(config.grid, len(first.splits.train))
    for victim in victims:
        wanted = [config[name].images for name in papers] + [each.images for each in grid]
        check_images(victim, *wanted)
    # No mean is over owners of two losses.
    alike, others = loss_gate.split(victims)
    benches = [Bench(victim, config.test_images) for victim in alike]
    gate = [benches[0], *(Bench(victim, config.test_images) for victim in others)]
    metrics: Metrics = {
        "before": {},
        "threshold": first.config.watermark.threshold,
        "scheme": first.scheme,
        "min_free": 0.0 if first.has_triggers else first.config.owner.min_free,
    }
    planned: dict[str, Callable[[], Record]] = {}
    for v, bench in enumerate(benches):
        planned[f"before/{bench.victim.name}"] = _before(bench)
        for name in papers:
            seeds = [derived_seed(config.seed, name, v, i) for i in range(config[name].pirates)]
            for i, attack in enumerate(_paper_pirates(bench, config[name], seeds)):
                planned[f"{name}/{bench.victim.name}/{i}"] = attack
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
            "pirates": [r for key, r in records.items() if key.startswith(f"{name}/")],
        }
    tried = [
        {
            **records[f"grid/{bench.victim.name}/{attacker.name}"],
            # Last: `images` are the attacker's, not those that the record is measured on.
            **attacker._asdict(),
            "name": attacker.name,
            "victim": bench.victim.name,
            "owner_loss": bench.victim.config.loss.cross_entropy,
        }
        for bench, attacker in attacked
    ]
    best = loss_gate.strongest(tried[: len(grid)], first.scheme, metrics["threshold"])
    attacker = grid[tried.index(best)]
    fresh = {}
    for v, bench in enumerate(benches):
        seeds = [
            derived_seed(config.seed, "strongest", v, i) for i in range(config.strongest_pirates)
        ]
        for i, attack in enumerate(_grid_pirates(bench, attacker, config, seeds, points=20)):
            fresh[f"strongest/{bench.victim.name}/{i}"] = attack
    found = [record for _, record in journal.run(fresh)]
    metrics["grid"] = {
        "steps": config.grid.steps,
        "batch_size": config.grid.batch_size,
        "before": {bench.victim.name: records[f"before/{bench.victim.name}"] for bench in gate},
        "attackers": tried,
    }
    metrics["strongest"] = {"attacker": attacker.name, "pirates": found}
    for part in (*(metrics[name] for name in papers), metrics["strongest"]):
        # A model that is not a number answers class 0 to all, which agrees with itself.
        alive = [each for each in part["pirates"] if each["finite"]]
        part["verified"] = sum(passes(each["pirate"], first) for each in alive)
        part["owner_verified"] = sum(passes(each["owner"], first) for each in alive)
    return metrics


def _before(bench: Bench) -> Callable[[], Record]:
    """Measures the victim as it is, with a pirate's watermark that nobody embedded."""
    return lambda: bench.measure(bench.victim.params, owner=bench.owner, pirate=bench.pirate(0))


def _paper_pirates(
    bench: Bench, config: ml_collections.ConfigDict, seeds: Sequence[int]
) -> list[Callable[[], Record]]:
    steps = retraining.steps_of(config.epochs, images=config.images, batch_size=config.batch_size)
    adversary = attackers.paper_adversary(config, steps)
    points = min(config.epochs, 25)
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


# For readers.


def tables(result: Result) -> list[Table]:
    """Returns the papers' attackers beside the strongest, and the grid."""
    metrics, paper = result["metrics"], result["paper"]
    threshold = metrics["threshold"]
    rows = []
    before = list(metrics["before"].values())
    rows.append(["before any attack", str(len(before)), *_accuracies(before), "", ""])
    for name, prefix in (("later", ""), ("earlier", "earlier_")):
        if name not in metrics:  # It attacks null embedding alone.
            continue
        part = metrics[name]
        rows.append(_pirates_row(f"{name} paper's: {part['attacker']}{_shorter(name, part)}", part))
        printed = [paper.get(f"{prefix}{each}") for each in PRINTED]
        if f"{prefix}normal_accuracy" in paper:  # Of triggers it has no null.
            rows.append([f"as the {name} paper has it", "", *map(percent, printed), "", ""])
    rows.append(
        _pirates_row(f"strongest: {metrics['strongest']['attacker']}", metrics["strongest"])
    )
    earlier = (
        " The earlier paper's null is agreement with the model's own answer, right or wrong, and it names "
        "no optimiser: here its attacker has the later one's."
        if "earlier" in metrics
        else ""
    )
    summary = Table(
        "Before and after piracy, %: mean (lowest to highest)",
        (
            "attacker",
            "models",
            "NC",
            "owner null",
            "owner true",
            "pirate null",
            "pirate true",
            "pirate verified",
            "owner verified",
        ),
        rows,
        f"Verified: WM passes {percent(threshold)}% of the test images, the model being finite. The "
        "strongest attacker is that of the grid below with the highest NC among those whose pirate "
        "verifies, or, where none does, with the highest pirate WM; its pirates here are others than "
        f"the grid's. A model that the attack made not a number answers class 0.{earlier}",
    )
    grid = metrics["grid"]
    best = metrics["strongest"]["attacker"]
    first = grid["attackers"][0]["victim"]
    tried = [
        [
            f"**{each['name']}**" if each["name"] == best else each["name"],
            percent(each["normal_accuracy"]),
            *(percent(each[who][part]) for who in ("pirate", "owner") for part in ("null", "true")),
            percent(each["pirate"]["wm"]),
            "" if each["finite"] else "not a number",
        ]
        for each in sorted(grid["attackers"], key=lambda each: -each["pirate"]["wm"])
        if each["victim"] == first
    ]
    return [
        summary,
        Table(
            f"The grid on {first}: one pirate watermark, {grid['steps']} steps of "
            f"{grid['batch_size']} images, %",
            (
                "attacker",
                "NC",
                "pirate null",
                "pirate true",
                "owner null",
                "owner true",
                "pirate WM",
                "",
            ),
            tried,
            attackers.ways_note({each["way"] for each in grid["attackers"]})
            + attackers.choosing_note(metrics),
        ),
        loss_gate.table(grid["attackers"], grid["before"], metrics["scheme"], threshold),
    ]


def _accuracies(records: list[Record]) -> list[str]:
    return [
        mean_and_spread(records, *names)
        for names in (
            ("normal_accuracy",),
            ("owner", "null"),
            ("owner", "true"),
            ("pirate", "null"),
            ("pirate", "true"),
        )
    ]


def _shorter(name: str, part: dict[str, Any]) -> str:
    """Returns that the paper trained longer, where it did."""
    epochs = part.get("epochs", _EARLIER_EPOCHS)  # Earlier results lack it.
    return f" (theirs: {_EARLIER_EPOCHS})" if name == "earlier" and epochs < _EARLIER_EPOCHS else ""


def _ruined(part: dict[str, Any]) -> int:
    """Returns how many models are not a number."""
    return sum(not each["finite"] for each in part["pirates"])


def _pirates_row(title: str, part: dict[str, Any]) -> list[str]:
    pirates, ruined = part["pirates"], _ruined(part)
    return [
        title,
        f"{len(pirates)}{f', {ruined} not a number' if ruined else ''}",
        *_accuracies(pirates),
        f"{part['verified']} of {len(pirates)}",
        f"{part['owner_verified']} of {len(pirates)}",
    ]


def draw(result: Result) -> dict[str, Figure]:
    """Returns Figure 4 (the later paper's attacker), Figure 7 (the earlier's), and the strongest's."""
    metrics = result["metrics"]
    drawn = {}
    for name, title in (
        ("later", "the later paper's attacker"),
        ("earlier", "the earlier paper's attacker"),
        ("strongest", metrics["strongest"]["attacker"]),
    ):
        if name not in metrics:
            continue
        curve = next(each["curve"] for each in metrics[name]["pirates"] if "curve" in each)
        drawn[f"piracy-{name}"] = curves.curves_figure(
            curve,
            x=("steps", "training steps"),
            lines=(
                curves.Line("NC", ("normal_accuracy",)),
                curves.Line("owner WM", ("owner", "wm")),
                curves.Line("pirate WM", ("pirate", "wm")),
                curves.Line("pirate null", ("pirate", "null")),
            ),
            title=title,
            threshold=metrics["threshold"],
        )
    return drawn


def _of_triggers(metrics: Metrics) -> list[Finding]:
    """Returns what the later paper says of earlier designs (Table 1), and what was found."""

    def left(part: Metrics) -> str:
        pirates = part["pirates"]
        return (
            f"({part['attacker']}) leaves NC at {mean_and_spread(pirates, 'normal_accuracy')}, the owner's "
            f"triggers at {mean_and_spread(pirates, 'owner', 'true')} and their own at "
            f"{mean_and_spread(pirates, 'pirate', 'true')}; their claim verifies in {part['verified']} of "
            f"{len(pirates)}, the owner's in {part['owner_verified']}."
        )

    later = metrics["later"]
    before = mean(list(metrics["before"].values()), "normal_accuracy")
    lost = before - mean(later["pirates"], "normal_accuracy")
    return [
        Finding(
            f"A second {metrics['scheme']} mark is recognised and costs little NC, the later paper says; "
            f"its attacker {left(later)}",
            later["verified"] == len(later["pirates"]) and lost <= _MINIMAL,
        ),
        Finding(f"The strongest attacker tried {left(metrics['strongest'])}"),
    ]


def verdict(result: Result) -> list[Finding]:
    """Returns what each paper says of piracy and what was found."""
    metrics, findings = result["metrics"], []
    if metrics["scheme"] in schemes.SCHEMES:
        return _of_triggers(metrics)
    before = mean(list(metrics["before"].values()), "normal_accuracy")

    def lost(part: dict[str, Any]) -> float:
        return before - mean(part["pirates"], "normal_accuracy")

    for name, claim in (
        ("later", "breaks the model"),
        ("earlier", "moves neither the model nor the owner's watermark"),
    ):
        part = metrics[name]
        pirates = part["pirates"]
        broken = lost(part) > BROKEN and not part["verified"]
        unmoved = part["owner_verified"] == len(pirates) and not part["verified"]
        printed = name == "later" or "earlier_normal_accuracy" in result["paper"]
        says = "it says; here" if printed else "it says of other tasks; here"
        ruined = _ruined(part)
        # To find nothing moved by less training than theirs does not confirm it.
        agrees = broken if name == "later" else unmoved
        weak = agrees and bool(_shorter(name, part))
        findings.append(
            Finding(
                f"The {name} paper's attacker {claim}, {says} ({part['attacker']}{_shorter(name, part)}) NC "
                f"is {mean_and_spread(pirates, 'normal_accuracy')} afterwards, the owner's claim verifies in "
                f"{part['owner_verified']} and the pirate's in {part['verified']} of {len(pirates)}"
                f"{f'; not a number: {ruined} of {len(pirates)} models' if ruined else ''}.",
                None if weak or not printed else agrees,
            )
        )
    part = metrics["strongest"]
    pirates = part["pirates"]
    tried = metrics["grid"]["attackers"]
    had = sorted({each["images"] for each in tried})
    findings.append(
        Finding(
            "A second watermark cannot be had without a broken model, both papers say; the strongest "
            f"of {len(tried)} attackers tried, of {' or '.join(map(str, had))} images and "
            f"{metrics['grid']['steps']} steps ({part['attacker']}), leaves NC at "
            f"{mean_and_spread(pirates, 'normal_accuracy')}; their claim verifies in {part['verified']} of "
            f"{len(pirates)}, the owner's in {part['owner_verified']}.",
            # That none of some attackers got through does not say that none can.
            None if not part["verified"] else lost(part) > BROKEN,
        )
    )
    gate = metrics["grid"]["attackers"], metrics["scheme"], metrics["threshold"]
    return [*findings, loss_gate.verdict(*gate)]


EXPERIMENT = Experiment(
    name="piracy",
    title="Piracy",
    lead="A pirate trains a second watermark into a watermarked model. The papers say that this breaks "
    "the model (the later one) or does not move it (the earlier one); here their attackers stand "
    "beside ones that choose another loss, optimiser or learning rate.",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    verdict=verdict,
    captions={
        "piracy-later": "The later paper's attacker, as its Figure 4: one pirate on the first victim.",
        "piracy-earlier": "The earlier paper's attacker, as its Figure 7.",
        "piracy-strongest": "The strongest attacker of the grid.",
    },
    triggers=True,
    speaks_of_triggers=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
