"""Pruning and quantisation: is the watermark gone before the model is?

    python -m nullmark_jax.experiments.pruning --config=configs/attacks/pruning.py:TASK --victim=RUN \\
        [--victim=RUN ...] --workdir=OUT

Later paper, Figure 6; earlier paper, Figures 6 and 10, of which neither prints a number. Then single
weights, pruning followed by fine-tuning on clean images, and quantisation.
"""

import itertools
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import ml_collections
from matplotlib.figure import Figure

from nullmark_jax import checks, optimizers
from nullmark_jax.attacks import pruning, retraining
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import experiment
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.fine_tuning import FRAGILE
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import (
    ACCEPTABLE,
    Record,
    check_images,
    mean_and_spread,
    passes,
)
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.models import Params
from nullmark_jax.optimizers import Recipe
from nullmark_jax.reports import curves
from nullmark_jax.reports.table import Table, many, percent

_ACCURACIES = (("normal_accuracy",), ("owner", "null"), ("owner", "true"), ("owner", "wm"))


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    config.kinds = pruning.KINDS
    config.orders = pruning.ORDERS
    # Shares of each layer that are pruned, ascending; 0 is measured anyway.
    config.ratios = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
    config.formats = pruning.FORMATS
    # What NC an attacker may lose and still have a model worth stealing.
    config.acceptable_loss = ACCEPTABLE
    # Neurons pruned, then fine-tuned with Adam on clean images; all combinations.
    fine = config.fine_pruning = ml_collections.ConfigDict()
    fine.orders = pruning.ORDERS
    fine.ratios = (0.25, 0.5, 0.75)
    fine.learning_rates = (1e-4, 1e-3)
    fine.images = 5000
    fine.epochs = 10
    fine.batch_size = 128
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    fine = config.fine_pruning
    for name, chosen, known in (
        ("kinds", config.kinds, pruning.KINDS),
        ("orders", config.orders, pruning.ORDERS),
        ("formats", config.formats, pruning.FORMATS),
        ("fine_pruning.orders", fine.orders, pruning.ORDERS),
    ):
        for each in chosen:
            if each not in known:
                raise InputError(
                    f"config.{name}: {checks.shown(each)} is none; take some of {', '.join(known)}"
                )
    for name, ratios in (("ratios", config.ratios), ("fine_pruning.ratios", fine.ratios)):
        for ratio in ratios:
            pruning.check_ratio(f"config.{name}", ratio)
    if not config.kinds or not config.orders or not config.ratios or 0 in config.ratios:
        raise InputError(
            "config.kinds, config.orders, config.ratios: give one at least of each, no ratio 0"
        )
    pruning.check_ratio("config.acceptable_loss", config.acceptable_loss)
    for rate in fine.learning_rates:
        optimizers.check_learning_rate("config.fine_pruning.learning_rates", rate)
    for field, high in (("images", 10**9), ("epochs", 10**6), ("batch_size", 10**6)):
        checks.integer(f"config.fine_pruning.{field}", fine[field], 1, high)


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: before, by kind and order each ratio, fine-pruned, quantised, the highest."""
    fine = config.fine_pruning
    fine_grid = list(itertools.product(fine.orders, fine.ratios, fine.learning_rates))
    planned: dict[str, Callable[[], Record]] = {}
    for victim in victims:
        check_images(victim, fine.images)
        bench, name = Bench(victim, config.test_images), victim.name
        prune = partial(pruning.prune, victim.model)
        planned[f"before/{name}"] = _changed(bench, lambda params: params)
        for kind, order, ratio in itertools.product(config.kinds, config.orders, config.ratios):
            planned[f"{kind}/{order}/{ratio:g}/{name}"] = _changed(
                bench, partial(prune, kind=kind, order=order, ratio=ratio)
            )
        for order, ratio, rate in fine_grid:
            change = partial(prune, kind="neurons", order=order, ratio=ratio)
            planned[f"fine/{order}/{ratio:g}/{rate:g}/{name}"] = _tuned(
                bench, change, rate, fine, config.seed
            )
        for each in config.formats:
            planned[f"quantised/{each}/{name}"] = _changed(
                bench, partial(pruning.quantise, number_format=each)
            )
    records = dict(journal.run(planned))

    def of(prefix: str) -> Record:
        models = [records[f"{prefix}/{victim.name}"] for victim in victims]
        verified = [
            passes(record["owner"], victim) for record, victim in zip(models, victims, strict=True)
        ]
        return {"models": models, "verified": verified}

    sweeps = [
        {
            "kind": kind,
            "order": order,
            "points": [
                {"ratio": 0.0, **of("before")},
                *({"ratio": ratio, **of(f"{kind}/{order}/{ratio:g}")} for ratio in config.ratios),
            ],
        }
        for kind, order in itertools.product(config.kinds, config.orders)
    ]
    tuned = [
        {
            "order": order,
            "ratio": ratio,
            "learning_rate": rate,
            **of(f"fine/{order}/{ratio:g}/{rate:g}"),
        }
        for order, ratio, rate in fine_grid
    ]
    quantised = [{"format": each, **of(f"quantised/{each}")} for each in config.formats]
    groups = {
        f"{sweep['kind']}, {sweep['order']}": [
            (f"{100 * each['ratio']:g}%", each) for each in sweep["points"]
        ]
        for sweep in sweeps
    }
    groups["fine-pruning"] = [(_fine_name(each), each) for each in tuned]
    groups["quantisation"] = [(each["format"], each) for each in quantised]
    return {
        "threshold": victims[0].config.watermark.threshold,
        "acceptable_loss": config.acceptable_loss,
        "fine_images": fine.images,
        "fine_epochs": fine.epochs,
        "before": of("before"),
        "sweeps": sweeps,
        "fine_pruning": tuned,
        "quantised": quantised,
        "highest": [
            {"attack": name, "models": highest_failing(of("before"), changed)}
            for name, changed in groups.items()
            if changed
        ],
    }


def highest_failing(
    before: Record, changed: list[tuple[str, dict[str, Any]]]
) -> list[Record | None]:
    """Returns for each model the changed one of the highest NC whose owner does not verify.

    Args:
      before: the models before the change, as below.
      changed: what was done, and the `models` it left with whether each `verified`.

    Returns:
      For each model `normal_accuracy`, `lost` (of the NC before), `wm` and `at`, what was done; None
      where the owner verifies on all.
    """
    highest: list[Record | None] = []
    for i, start in enumerate(before["models"]):
        failing = [
            {
                "normal_accuracy": each["models"][i]["normal_accuracy"],
                "lost": start["normal_accuracy"] - each["models"][i]["normal_accuracy"],
                "wm": each["models"][i]["owner"]["wm"],
                "at": at,
            }
            for at, each in changed
            if not each["verified"][i]
        ]
        highest.append(max(failing, key=lambda each: each["normal_accuracy"], default=None))
    return highest


def _changed(bench: Bench, change: Callable[[Params], Params]) -> Callable[[], Record]:
    return lambda: bench.measure(change(bench.victim.params), owner=bench.owner)


def _tuned(
    bench: Bench,
    change: Callable[[Params], Params],
    rate: float,
    fine: ml_collections.ConfigDict,
    seed: int,
) -> Callable[[], Record]:
    adversary = Adversary(
        recipe=Recipe("adam", rate),
        steps=retraining.steps_of(fine.epochs, images=fine.images, batch_size=fine.batch_size),
        batch_size=fine.batch_size,
        inject_ratio=0.0,
    )
    return lambda: (
        bench.attack(
            adversary,
            images=fine.images,
            seed=seed,
            marks={"owner": bench.owner},
            params=change(bench.victim.params),
        ).record
    )


# For readers.


def tables(result: Result) -> list[Table]:
    """Returns the highest NC at which WM fails, the first sweep, and the fine-pruned and quantised."""
    metrics = result["metrics"]
    sweep = metrics["sweeps"][0]
    header = ("NC", "owner null", "owner true", "owner WM", "owner verified")
    others = [
        ("before", metrics["before"]),
        *((f"fine-pruned: {_fine_name(each)}", each) for each in metrics["fine_pruning"]),
        *((f"quantised: {each['format']}", each) for each in metrics["quantised"]),
    ]
    return [
        _highest_table(metrics),
        Table(
            f"Pruning of {sweep['kind']}, {sweep['order']}, %: mean (lowest to highest)",
            ("pruned", *header),
            [_row(f"{100 * each['ratio']:g}", each) for each in sweep["points"]],
            "Of each hidden layer the same share, the smallest neurons by the sum of their absolute "
            "incoming weights first (ascending) or the largest first (descending).",
        ),
        Table(
            "Fine-pruning and quantisation, %: mean (lowest to highest)",
            ("model", *header),
            [_row(name, part) for name, part in others],
            "Fine-pruned: neurons pruned, then all layers trained with Adam for "
            f"{metrics['fine_epochs']} epochs on {metrics['fine_images']} clean images. int8: "
            "weights, symmetric, a scale for each output; bf16: weights and biases.",
        ),
    ]


def _highest_table(metrics: dict[str, Any]) -> Table:
    points = f"{100 * metrics['acceptable_loss']:g}"
    rows = []
    for each in metrics["highest"]:
        models = each["models"]
        failing = [model for model in models if model is not None]
        within = sum(model["lost"] <= metrics["acceptable_loss"] for model in failing)
        fails = f"{len(failing)} of {len(models)}"
        answer = f"**yes**, {within} of {len(models)}" if within else "no"
        if failing:
            numbers = [mean_and_spread(failing, name) for name in ("normal_accuracy", "lost", "wm")]
            at = ", ".join(dict.fromkeys(model["at"] for model in failing))
        else:
            numbers, at = ["", "", ""], ""
        rows.append([_described(each["attack"], metrics), fails, *numbers, at, answer])
    return Table(
        "The highest NC at which the owner's watermark fails, %: mean (lowest to highest)",
        (
            "attack",
            "models on which it fails",
            "NC there",
            "NC lost",
            "owner WM there",
            "at",
            f"fails within {points} points of NC",
        ),
        rows,
        f"It fails where WM does not pass {percent(metrics['threshold'])}%. The papers say of pruning "
        "that it ruins NC first; then the last column says no.",
    )


def _described(attack: str, metrics: dict[str, Any]) -> str:
    if attack != "fine-pruning":
        return attack
    return f"{attack}, {metrics['fine_epochs']} epochs of {metrics['fine_images']} images"


def _row(name: str, part: dict[str, Any]) -> list[str]:
    return [
        name,
        *(mean_and_spread(part["models"], *field) for field in _ACCURACIES),
        f"{sum(part['verified'])} of {len(part['models'])}",
    ]


def _fine_name(each: dict[str, Any]) -> str:
    return f"{each['order']} {100 * each['ratio']:g}%, Adam {each['learning_rate']:g}"


def draw(result: Result) -> dict[str, Figure]:
    """Returns Figure 6 and, descending, Figure 10, by kind and order: a line for each victim."""
    metrics = result["metrics"]
    drawn = {}
    for sweep in metrics["sweeps"]:
        kind, order = sweep["kind"], sweep["order"]
        first = "smallest first" if order == "ascending" else "largest first"
        drawn[f"pruning-{kind}-{order}"] = curves.curves_figure(
            [
                [{"percent": 100 * each["ratio"], **each["models"][i]} for each in sweep["points"]]
                for i in range(len(metrics["before"]["models"]))
            ],
            x=("percent", f"{kind} pruned, % of each {'hidden ' * (kind == 'neurons')}layer"),
            lines=(
                curves.Line("NC", ("normal_accuracy",)),
                curves.Line("owner null", ("owner", "null")),
                curves.Line("owner true", ("owner", "true")),
            ),
            title=f"{kind}, {first} ({order})",
            threshold=metrics["threshold"],
        )
    return drawn


_OURS = ("fine-pruning", "quantisation")


def verdict(result: Result) -> list[Finding]:
    """Returns which kinds of change take the watermark at an acceptable NC: none, the papers say."""
    metrics = result["metrics"]
    do, do_not, taken = [], [], 0
    # The claim is of these; the others are ours.
    pruned = [each for each in metrics["highest"] if each["attack"] not in _OURS]
    for each in metrics["highest"]:
        lost = [model for model in each["models"] if model is not None]
        near = sum(model["lost"] <= metrics["acceptable_loss"] for model in lost)
        if near:
            do.append(f"{each['attack']}, in {near} of {len(each['models'])}")
            taken += each in pruned
        else:
            do_not.append(each["attack"])
    models = len(metrics["before"]["models"])
    these = f"these do: {'; '.join(do)}" if do else "none does"
    others = f"; at so little loss these do not: {', '.join(do_not)}" if do and do_not else ""
    return [
        Finding(
            "No reasonable pruning takes the watermark and leaves the model, the papers say; here, "
            f"{many(models, 'model')}, NC at most {100 * metrics['acceptable_loss']:g} points "
            f"lower, {these}{others}.",
            not taken,
            claim="No pruning takes the mark and leaves the model (both papers)",
            brief=f"{taken} of {len(pruned)} kinds do, on some model",
            cause=FRAGILE,
        )
    ]


EXPERIMENT = Experiment(
    name="pruning",
    title="Pruning and quantisation",
    lead="Neurons or single weights of the model are set to 0, small ones or large ones first, or its "
    "weights rounded. The papers find that NC breaks before the watermark does; here fine-tuning "
    "after pruning and rounding to int8 and bfloat16 stand beside it.",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    verdict=verdict,
    captions={
        "pruning-neurons-ascending": "Both papers' Figure 6, a line for each victim.",
        "pruning-neurons-descending": "The earlier paper's Figure 10, a line for each victim.",
        "pruning-weights-ascending": "Single weights of each layer, the smallest first.",
        "pruning-weights-descending": "Single weights of each layer, the largest first.",
    },
    triggers=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
