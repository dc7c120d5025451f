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
from matplotlib.figure import Figure

from nullmark_jax import checks, models, verification
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import attackers, experiment
from nullmark_jax.experiments.attackers import Attacker
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import Record, check_images, derived_seed
from nullmark_jax.experiments.victim import Victim, min_free_of
from nullmark_jax.reports import curves
from nullmark_jax.reports.table import Table, many, percent

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
    part = "null" if embedding == "null only" else "wm"
    for point in curve:
        if point["normal_accuracy"] >= accuracy and verification.passes(
            point["pirate"][part], threshold, scheme=scheme
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
            since = time.monotonic()
        before = bench.measure_curve(victim.params, owner=bench.owner)["normal_accuracy"]
        return {"target": before - config.margin, "curve": curve}

    return train


# For readers.


def tables(result: Result) -> list[Table]:
    """Returns for each embedding and number of images what each attacker took, beside from scratch."""
    metrics, paper = result["metrics"], result["paper"]
    rows = []
    for run in metrics["runs"]:
        if run["start"] == "scratch":
            continue
        scratch = _cheapest_from_scratch(metrics, run)
        quickest = _cheapest_from_scratch(metrics, run, "seconds")
        last = run["curve"][-1]
        rows.append(
            [
                run["victim"],
                run["embedding"],
                run["attacker"],
                _steps(run["reached"]),
                _steps(scratch and scratch["reached"]),
                _multiple(run["reached"], scratch and scratch["reached"], "steps"),
                _seconds(run["reached"]),
                _seconds(quickest and quickest["reached"]),
                _multiple(run["reached"], quickest and quickest["reached"], "seconds"),
                percent(last["normal_accuracy"]),
                percent(last["pirate"]["null"]),
                percent(last["pirate"]["true"]),
                percent(last["owner"]["wm"]),
            ]
        )
    if "pirate_steps" in paper:
        rows.append(
            [
                "later paper",
                "null only",
                "all images",
                f"{paper['pirate_steps']:.0f}",
                f"{paper['scratch_steps']:.0f}",
                f"{paper['pirate_steps'] / paper['scratch_steps']:.2g}",
                *[""] * 7,
            ]
        )
    return [
        Table(
            "Steps until NC and the pirate's mark are there",
            (
                "model",
                "embedded",
                "attacker",
                "steps from the owner's model",
                "from scratch, cheapest",
                "multiple of steps",
                "seconds from the owner's model",
                "from scratch, quickest",
                "multiple of seconds",
                "NC at the end, %",
                "pirate null",
                "pirate true",
                "owner WM",
            ),
            rows,
            f"There: NC within {100 * metrics['margin']:g} points of the victim's, the pirate's null (null "
            f"only) or WM above T. At most {metrics['steps']} steps of {metrics['batch_size']} images; "
            "never: not within these. From scratch: the cheapest attacker of the grid with as many "
            f"images{_own_training(metrics)}. Seconds are of the machine as it was, compiling included."
            + attackers.choosing_note(metrics),
        )
    ]


def _cheapest_from_scratch(
    metrics: Metrics, run: dict[str, Any], field: str = "steps"
) -> dict[str, Any] | None:
    found = [
        each
        for each in metrics["runs"]
        if each["start"] == "scratch"
        and each["reached"] is not None
        and all(each[name] == run[name] for name in ("victim", "embedding", "images"))
    ]
    return min(found, key=lambda each: each["reached"][field]) if found else None


def _steps(point: Record | None) -> str:
    return "never" if point is None else str(point["steps"])


def _seconds(point: Record | None) -> str:
    return "" if point is None else f"{point['seconds']:.0f}"


def _multiple(pirate: Record | None, scratch: Record | None, field: str) -> str:
    if pirate is None or scratch is None:
        return ""
    return f"{pirate[field] / scratch[field]:.2g}"


def _own_training(metrics: Metrics) -> str:
    """Returns what the owners' own trainings took; earlier results do not say."""
    own = dict.fromkeys(
        f"{each['steps']} steps of {each['batch_size']} images"
        for each in metrics.get("own_training", ())
    )
    return f"; the owner's own training took {' and '.join(own)}" if own else ""


def _looked(metrics: Metrics) -> str:
    """Returns on how many models it was measured, and how closely."""
    models = {run["victim"] for run in metrics["runs"]}
    steps = [point["steps"] for point in metrics["runs"][0]["curve"] if point["steps"]]
    return (
        f"{many(len(models), 'model')}, a pirate each; looked at {many(len(steps), 'time')}, in geometric "
        f"distances, the last after {' and '.join(map(str, steps[-2:]))} steps"
    )


def draw(result: Result) -> dict[str, Figure]:
    """Returns Figure 2: NC and the pirate's null, null-only piracy, by start, most images and fewest.

    Of each the attacker who was the quickest, or came nearest; from the owner's model by plain SGD, too, as
    the paper's, at the highest learning rate.
    """
    metrics = result["metrics"]
    first = metrics["runs"][0]["victim"]
    runs = [r for r in metrics["runs"] if r["victim"] == first and r["embedding"] == "null only"]
    drawn = {}
    counts = sorted({run["images"] for run in runs})
    shares = {"most": counts[-1], "fewest": counts[0]} if len(counts) > 1 else {"most": counts[0]}
    for name, images in shares.items():
        some = [run for run in runs if run["images"] == images]
        pirates = [run for run in some if run["start"] != "scratch"]
        scratch = [run for run in some if run["start"] == "scratch"]
        # Figure 2c's dashed line.
        best = max(point["normal_accuracy"] for run in scratch for point in run["curve"])
        claims = {"NC, the best from scratch": best} if name == "fewest" else None
        shown = {"owner": _nearest(pirates), "scratch": _nearest(scratch)}
        by_sgd = [run for run in pirates if run["attacker"].split(", ")[1] == "sgd"]
        if by_sgd:
            shown["sgd"] = max(by_sgd, key=lambda run: float(run["attacker"].split(", ")[2]))
        for label, run in shown.items():
            drawn[f"cost-{name}-{label}"] = curves.curves_figure(
                run["curve"],
                x=("steps", "training steps"),
                lines=(
                    curves.Line("NC", ("normal_accuracy",)),
                    curves.Line("pirate null", ("pirate", "null")),
                    curves.Line("owner WM", ("owner", "wm")),
                ),
                title=f"from {run['start']}: {run['attacker']}",
                threshold=metrics["threshold"],
                claims=claims if label != "scratch" else None,
                log_x=True,
            )
    return drawn


def _nearest(runs: list[Record]) -> Record:
    """Returns the run that got there in the fewest steps; of none that did, the one that came nearest."""
    return min(
        runs,
        key=lambda run: (
            run["reached"]["steps"] if run["reached"] else np.inf,
            -min(run["curve"][-1]["normal_accuracy"], run["curve"][-1]["pirate"]["null"]),
        ),
    )


def verdict(result: Result) -> list[Finding]:
    """Returns the cheapest piracy beside training from scratch."""
    metrics = result["metrics"]
    found = [
        (run["reached"]["steps"] / scratch["reached"]["steps"], run)
        for run in metrics["runs"]
        if run["start"] != "scratch"
        and run["reached"] is not None
        and (scratch := _cheapest_from_scratch(metrics, run)) is not None
    ]
    alone = sum(
        run["start"] != "scratch"
        and run["reached"] is not None
        and _cheapest_from_scratch(metrics, run) is None
        for run in metrics["runs"]
    )
    claim = "Piracy takes ten times as long as training from scratch, the later paper says"
    findings = []
    for embedding in dict.fromkeys(run["embedding"] for _, run in found):
        multiple, run = min(
            (each for each in found if each[1]["embedding"] == embedding), key=lambda each: each[0]
        )
        of_null = " of null embedding alone" if embedding == "null only" else ""
        findings.append(
            Finding(
                f"{claim}{of_null}; here, of {embedding}, the cheapest attacker ({run['attacker']}) takes "
                f"{multiple:.1f} times as many steps as the grid's cheapest from scratch with the same "
                f"images ({_looked(metrics)}); the owner's recipe is not in the grid"
                f"{_own_training(metrics)}.",
                multiple >= 10,
            )
        )
    if not found and not alone:
        findings.append(_nobody(claim, metrics))
    if alone:
        findings.append(
            Finding(
                f"{alone} attacks from the owner's model came within {100 * metrics['margin']:g} points of "
                "its NC with the pirate's mark above T where none of the grid's from scratch did with the "
                f"same images ({_looked(metrics)}){_own_training(metrics)}.",
                False,
            )
        )
    return findings


def _nobody(claim: str, metrics: Metrics) -> Finding:
    """Returns what it says that no attacker got there from any owner's model."""
    at = [
        run["reached"]["steps"]
        for run in metrics["runs"]
        if run["start"] == "scratch" and run["reached"] is not None
    ]
    scratch = f"from scratch after {min(at)}" if at else "nor from scratch"
    # Ten times the steps from scratch may have been more than were tried.
    enough = bool(at) and metrics["steps"] >= 10 * min(at)
    return Finding(
        f"{claim}; here no attacker got there from the owner's model within {metrics['steps']} steps, "
        f"{scratch} ({_looked(metrics)}){_own_training(metrics)}.",
        enough or None,
        claimed=True,
    )


EXPERIMENT = Experiment(
    name="piracy_cost",
    title="The cost of piracy",
    lead="How much training a pirate needs from the owner's model, and how much from scratch with the "
    "same images. The later paper has ten times as much with all the data, and more with 1% of them.",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    verdict=verdict,
    captions={
        "cost-most-owner": "All images, from the owner's model: the quickest attacker (Figure 2a; theirs, on "
        "Digit, takes 1000k steps).",
        "cost-most-sgd": "All images, from the owner's model, by plain SGD, as theirs (Figure 2a).",
        "cost-most-scratch": "All images, from scratch: the quickest (Figure 2b; theirs, on Digit, takes "
        "100k steps).",
        "cost-fewest-owner": "The fewest images, from the owner's model: the quickest (Figure 2c).",
        "cost-fewest-sgd": "The fewest images, from the owner's model, by plain SGD (Figure 2c).",
        "cost-fewest-scratch": "The fewest images, from scratch.",
    },
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
