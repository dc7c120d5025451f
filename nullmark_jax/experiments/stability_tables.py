"""What the stability experiment shows: its table, its figures, its sentences."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from nullmark_jax.experiments import attackers
from nullmark_jax.experiments.experiment import Finding, Metrics, Result
from nullmark_jax.experiments.measuring import BROKEN, Record, mean, mean_and_spread, ruined
from nullmark_jax.reports import curves
from nullmark_jax.reports.table import Table, many, percent


def stands(record: Record, normal_accuracy: float) -> bool:
    """Returns whether a model is worth having after an attack, of that NC before."""
    return bool(record["finite"]) and record["normal_accuracy"] >= normal_accuracy - BROKEN


def stable_up_to(attacks: Sequence[Record], normal_accuracy: float) -> float | None:
    """Returns the highest rate below the first that breaks the model; None where the lowest does.

    Args:
      attacks: records of one model, way and extreme value.
      normal_accuracy: of the victim.
    """
    best = None
    for each in sorted(attacks, key=lambda each: each["learning_rate"]):
        if not stands(each, normal_accuracy):
            break
        best = each["learning_rate"]
    return best


_SHARED = ("cross_entropy", "clip_norm", "embeds", "extreme_value")


def _groups(metrics: Metrics) -> list[tuple[Record, list[list[Record]]]]:
    """Returns the attacks by way and extreme value: what each group shares, its records by victim."""
    groups: dict[tuple[Any, ...], dict[str, list[Record]]] = {}
    for each in metrics["attacks"]:
        group = groups.setdefault(tuple(each[name] for name in _SHARED), {})
        group.setdefault(each["victim"], []).append(each)
    return [
        (dict(zip(_SHARED, key, strict=True)), list(found.values()))
        for key, found in groups.items()
    ]


def _way(about: Record, metrics: Metrics) -> str:
    held = f", gradients held at norm {about['clip_norm']:g}" if about["clip_norm"] else ""
    return f"{about['cross_entropy']}, {metrics['attacker']['optimizer']}{held}"


def _lambda(about: Record) -> str:
    if not about["embeds"]:
        return "clean images alone"
    return "triggers" if about["extreme_value"] is None else f"lambda {about['extreme_value']:g}"


class _Summary(NamedTuple):
    """What one way did at one extreme value, over models.

    Attributes:
      stable: the lowest of the models' highest stable rates; None where a model has none.
      lowest: the lowest NC of any model at a rate up to that; None likewise.
      highest: the highest rate tried.
      best: of each model that stands at some rate its record with the most pirate WM there.
      at_papers: each model's record at the later paper's rate.
    """

    stable: float | None
    lowest: float | None
    highest: float
    best: list[Record]
    at_papers: list[Record]


def _summary(models: list[list[Record]], metrics: Metrics) -> _Summary:
    nc = {name: before["normal_accuracy"] for name, before in metrics["before"].items()}
    stable = [stable_up_to(records, nc[records[0]["victim"]]) for records in models]
    standing = [
        [each for each in records if stands(each, nc[each["victim"]])] for records in models
    ]
    rate = None if None in stable else min(each for each in stable if each is not None)
    up_to = [
        each["normal_accuracy"]
        for records in models
        for each in records
        if rate is not None and each["learning_rate"] <= rate
    ]
    return _Summary(
        stable=rate,
        lowest=min(up_to, default=None),
        highest=max(each["learning_rate"] for each in models[0]),
        best=[max(each, key=lambda one: one["pirate"]["wm"]) for each in standing if each],
        at_papers=[
            next(each for each in records if each["learning_rate"] == metrics["papers_rate"])
            for records in models
        ],
    )


def _rates(summary: _Summary) -> str:
    if summary.stable is None:
        return "none"
    tried = " (the highest tried)" if summary.stable == summary.highest else ""
    return f"{summary.stable:g}{tried}"


def _best_rates(summary: _Summary) -> str:
    return ", ".join(
        f"{rate:g}" for rate in sorted({each["learning_rate"] for each in summary.best})
    )


def _step(records: list[Record]) -> str:
    steps = [each["first_step"] for each in records]
    if None in steps:
        return "not a number"
    return f"{np.mean(steps):.2g}"


def tables(result: Result) -> list[Table]:
    """Returns for each way and extreme value the stable rates, what is embedded, and the paper's rate."""
    metrics = result["metrics"]
    rate, attacker = metrics["papers_rate"], metrics["attacker"]
    rows = []
    for about, models in _groups(metrics):
        found = _summary(models, metrics)
        best, at_papers = found.best, found.at_papers
        dead = ruined(at_papers)
        marks = about["embeds"]
        rows.append(
            [
                _way(about, metrics),
                _lambda(about),
                _step(at_papers),
                mean_and_spread(at_papers, "normal_accuracy")
                + (f"; {dead} not a number" if dead else ""),
                mean_and_spread(at_papers, "pirate", "wm") if marks else "",
                _rates(found),
                percent(found.lowest),
                _best_rates(found) if marks else "",
                mean_and_spread(best, "normal_accuracy") if best and marks else "",
                mean_and_spread(best, "pirate", "wm") if best and marks else "",
                mean_and_spread(best, "owner", "wm") if best and marks else "",
                f"{sum(each['verified'] for each in best)} of {len(models)}" if marks else "",
            ]
        )
    return [
        Table(
            f"{metrics['steps']} steps on {attacker['images']} images, {attacker['batch_size']} and "
            f"{attacker['inject_ratio']:g} times as many copies of each kind a step, "
            f"{many(len(metrics['before']), 'model')}, a pirate each, %: mean (lowest to highest)",
            (
                "attacker",
                "embedded",
                f"first step at {rate:g}",
                f"NC at {rate:g}",
                f"pirate WM at {rate:g}",
                "stands up to",
                "lowest NC up to there",
                "best rates",
                "their NC",
                "their pirate WM",
                "their owner WM",
                "verify at the owner's lambda",
            ),
            rows,
            f"{rate:g} is the later paper's rate, whose attack has {metrics['papers_steps']} steps. First "
            "step: how far it moves the parameters, over their norm; the mean. A model that lost more than "
            f"{100 * BROKEN:g} points of NC, or is not a number, is broken; stands up to: the highest rate "
            "tried below the first that breaks a model. Best: of all rates that leave a model standing, "
            "higher ones than that among them, the one with the most pirate WM, at the lambda trained, all "
            "on the test images. Attackers who "
            "choose their optimiser: piracy." + attackers.choosing_note(metrics),
        )
    ]


def draw(result: Result) -> dict[str, Figure]:
    """Returns for each way, on the first victim, NC against the rate, and against the first step's size."""
    metrics = result["metrics"]
    by_way: dict[tuple[str, float], list[tuple[str, list[Record]]]] = {}
    for about, models in _groups(metrics):
        way = (about["cross_entropy"], about["clip_norm"])
        by_way.setdefault(way, []).append((_lambda(about), models[0]))
    drawn: dict[str, Figure] = {}
    for (loss, norm), groups in by_way.items():
        named = _way({"cross_entropy": loss, "clip_norm": norm}, metrics)
        name = f"stability-{loss}{'-held' if norm else ''}"
        title = f"NC after {metrics['steps']} steps: {named}"
        drawn[name] = curves.groups_figure(
            [_line(label, records, "learning_rate") for label, records in groups],
            x="learning rate",
            title=title,
            upright={"the later paper's": metrics["papers_rate"]},
        )
        if not norm:
            drawn[f"{name}-step"] = curves.groups_figure(
                [_line(label, records, "first_step") for label, records in groups],
                x="how far the first step moves the parameters, over their norm",
                title=title,
                upright={},
            )
    return drawn


def _line(label: str, records: list[Record], field: str) -> tuple[str, list[float], list[float]]:
    # A step of 0, and one that is not a number, have no place on a logarithmic axis.
    shown = sorted((each for each in records if each[field]), key=lambda each: each[field])
    ys = [each["normal_accuracy"] if each["finite"] else 0.0 for each in shown]
    return label, [each[field] for each in shown], ys


def verdict(result: Result) -> list[Finding]:
    """Returns for each way up to which rate models stand, and what is embedded in those that do."""
    metrics = result["metrics"]
    count = len(metrics["before"])
    ways: dict[str, list[tuple[Record, _Summary]]] = {}
    for about, models in _groups(metrics):
        ways.setdefault(_way(about, metrics), []).append((about, _summary(models, metrics)))
    findings = []
    for way, groups in ways.items():
        text = (
            f"{way}, {metrics['steps']} steps, {many(count, 'model')}: all stand (lose at most "
            f"{100 * BROKEN:g} points of NC) up to rate "
            + ", ".join(f"{_rates(found)} {_where(about)}" for about, found in groups)
        )
        embedded = [_embedded(about, found, count) for about, found in groups if about["embeds"]]
        if embedded:
            triggers = all(about["extreme_value"] is None for about, _ in groups)
            of_claims = "" if triggers else " at the owner's lambda"
            text += (
                "; the most WM, as trained, that a pirate has in models that stand, at whatever rate, and "
                f"how many claims verify{of_claims}: {', '.join(embedded)}"
            )
        findings.append(Finding(f"{text}."))
    return findings


def _embedded(about: Record, found: _Summary, count: int) -> str:
    if not found.best:
        return f"none {_where(about)} (no model stands)"
    verified = sum(each["verified"] for each in found.best)
    return (
        f"{percent(mean(found.best, 'pirate', 'wm'))} {_where(about)} (rate {_best_rates(found)}; "
        f"{len(found.best)} of {count} stand, {verified} verify)"
    )


def _where(about: Record) -> str:
    where = _lambda(about)
    if not about["embeds"]:
        return f"on {where}"
    return f"with {where}" if about["extreme_value"] is None else f"at {where}"
