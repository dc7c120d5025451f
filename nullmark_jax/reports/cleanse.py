"""Neural Cleanse's result for readers: tables, figures and what to say of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nullmark_jax.experiments.experiment import Finding
from nullmark_jax.reports import triggers
from nullmark_jax.reports.table import Table, many, percent

# Of a whole search for one label (`experiments.neural_cleanse.default`).
_ROUNDS = 100
# Fewer watermarked models than these, without a flag, decide nothing.
_FEWEST = 3

Record = Mapping[str, Any]
Result = Mapping[str, Any]


def tables(result: Result) -> list[Table]:
    """Returns Table 5 by model and mode, and what unlearning leaves."""
    metrics, paper = result["metrics"], result["paper"]
    rows = [
        _index_row(model, mode, found)
        for model in metrics["models"]
        for mode, found in model["modes"].items()
    ]
    for name in ("free", "watermarked"):
        if name in paper:
            rows.append([f"later paper ({name})", "bounded", f"{paper[name]:.2f}", *[""] * 7])
    left = [
        [
            each["model"],
            f"{each['what']}{each['mode'] and ', ' + each['mode']}",
            f"{each['learning_rate']:g}",
            *_accuracies(each),
        ]
        for each in metrics["unlearned"]
    ]
    before = [[each["model"], "before", "", *_accuracies(each)] for each in metrics["before"]]
    size = _pattern_size(metrics)
    own = f" The owner's own trigger has norm {size**2}." if size else ""
    found = Table(
        "Neural Cleanse: the anomaly index of the smallest mask, and the owner's label",
        (
            "model",
            "pattern",
            "anomaly index",
            "of label",
            "flagged",
            "median of norms",
            "y_W",
            "y_W's norm; index",
            "of it in the block (by chance), %",
            "signs of inv(p), %",
        ),
        rows,
        f"From {_searched(metrics)}. A label is flagged "
        "with an index above 2 and a mask smaller than the median. The bounded pattern is an image, as in "
        "the papers; the unbounded one lies within twice lambda; with whole pixels the mask is 0 or 1, so "
        f"that its norm counts pixels.{own} A * marks a mask that sends fewer than "
        f"{percent(metrics['success'])}% of the images to the label.",
    )
    how = metrics["unlearning"]
    if not left:
        return [found]
    return [
        found,
        Table(
            "Unlearning what was found, %",
            ("model", "unlearned", "rate", "NC", "owner null", "true", "WM", "verifies"),
            before + left,
            f"{how['optimizer'].capitalize()}, {many(how['epochs'], 'epoch')} over "
            f"{metrics['unlearned'][0]['had']} images, {100 * how['ratio']:g}% of which carry a trigger "
            "as well. The owner's label is no attacker's to know unless it was flagged.",
        ),
    ]


def _searched(metrics: Record) -> str:
    """Returns how long triggers were looked for, in words."""
    found = f"{metrics['images']} clean images, {many(metrics['starts'], 'start')} a label"
    search = metrics.get("search")  # Earlier results lack it.
    if search is None:
        return found
    found += f", {search['rounds']} rounds of {search['batches']} batches"
    return f"{found} of {search['batch_size']} at most"


def _pattern_size(metrics: dict[str, Any]) -> int:
    """Returns n; 0 where the models are marked by triggers, or not at all."""
    return metrics["pattern_size"] if any("pattern" in m for m in metrics["models"]) else 0


def _index_row(model: Record, mode: str, found: Record) -> list[str]:
    smallest = int(np.argmin(found["norms"]))
    failed = {label for label, works in enumerate(found["works"]) if not works}
    row = [
        f"{model['name']} ({'watermarked' if model['watermarked'] else 'free'})",
        mode,
        _index(found["lowest"]),
        f"{smallest}{'*' if smallest in failed else ''}",
        ", ".join(f"{each}{'*' if each in failed else ''}" for each in found["flagged"]) or "none",
        f"{np.median(found['norms']):.3g}",
    ]
    target = model["target"]
    if target is None:
        return row + [""] * 4
    star = "*" if target in failed else ""
    flagged = " (flagged)" if target in found["flagged"] else ""
    row += [
        f"{target}{flagged}",
        f"{found['norms'][target]:.3g}{star}; {_index(found['index'][target])}",
    ]
    alike = found.get("likeness")  # To a pattern, which triggers have not.
    if alike is None:
        return row + [""] * 2
    return [
        *row,
        f"{percent(alike['share'])} ({percent(alike['chance'])})",
        percent(alike["signs"]),
    ]


def _index(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f}"


def _accuracies(record: Record) -> list[str]:
    return [
        percent(record["normal_accuracy"]),
        *(percent(record["owner"][part]) for part in ("null", "true", "wm")),
        "yes" if record["verifies"] else "no",
    ]


def draw(result: Result) -> dict[str, Figure]:
    """Returns the norms by label, and the first watermarked model's y_W trigger as each mode found it."""
    metrics = result["metrics"]
    modes = list(metrics["models"][0]["modes"])
    drawn = {
        "neural-cleanse-norms": triggers.norms_figure(
            [
                (
                    mode,
                    [
                        triggers.Norms(each["name"], each["modes"][mode]["norms"], each["target"])
                        for each in metrics["models"]
                    ],
                )
                for mode in modes
            ],
            owner=float(_pattern_size(metrics) ** 2),
            title="mask found for each label",
        )
    }
    model: dict[str, Any] | None = next((m for m in metrics["models"] if "pattern" in m), None)
    if model:
        inverse = -np.asarray(model["pattern"], np.float32)
        drawn["neural-cleanse-triggers"] = triggers.triggers_figure(
            [
                ("inv(p)", inverse),
                *((m, np.asarray(model["modes"][m]["written"])) for m in modes),
            ],
            block=inverse != 0,
            title=f"{model['name']}: what a trigger for $y_W$ = {model['target']} writes",
        )
    return drawn


def verdict(result: Result) -> list[Finding]:
    """Returns whether the owner's label and any is flagged, by mode, and what unlearning leaves."""
    metrics = result["metrics"]
    findings = []
    # One with a label for each trigger has none to be flagged.
    watermarked = [each for each in metrics["models"] if each["target"] is not None]
    free = [each for each in metrics["models"] if each["target"] is None]
    for mode in metrics["models"][0]["modes"]:
        parts, brief = [], ""
        if watermarked:
            own = sum(m["target"] in m["modes"][mode]["flagged"] for m in watermarked)
            flagged = sum(bool(m["modes"][mode]["flagged"]) for m in watermarked)
            brief = f"{flagged} of {len(watermarked)}"
            parts.append(
                f"the owner's label is flagged in {own}, some label in {brief} "
                f"watermarked models (anomaly index of the smallest mask {_lowest(watermarked, mode)})"
            )
        if free:
            others = sum(bool(m["modes"][mode]["flagged"]) for m in free)
            parts.append(
                f"some label in {others} of {len(free)} {_others(free)} ({_lowest(free, mode)})"
            )
        claim, agrees = "", None
        if mode == "bounded":
            claim = "; the later paper's watermarked models all stay below 2"
            if watermarked:
                # A search cut short that finds nothing, or finds badly, says nothing of theirs.
                cut = metrics.get("search", {}).get("rounds", _ROUNDS) < _ROUNDS
                # That nothing is flagged in a model or two may be chance: of the search, too.
                few = len(watermarked) < _FEWEST and not flagged
                agrees = None if cut or few else not flagged
        findings.append(
            Finding(
                f"With a pattern {mode} ({_searched(metrics)}), {', '.join(parts)}{claim}.",
                agrees,
                claim="Neural Cleanse flags no watermarked model (later paper)" if claim else "",
                brief=brief,
            )
        )
    for rate in metrics["unlearning"]["learning_rates"]:
        left = [each for each in metrics["unlearned"] if each["learning_rate"] == rate]
        for found in (False, True):
            # A clean run has no mode, and shows what the triggers add to plain fine-tuning.
            some = [each for each in left if bool(each["mode"]) == found]
            if some:
                what = "Unlearning what was found" if found else "Fine-tuning alone"
                findings.append(
                    Finding(
                        f"{what} at rate {rate:g} leaves the owner's claim verified in "
                        f"{sum(each['verifies'] for each in some)} of {len(some)} cases, with NC from "
                        f"{percent(min(each['normal_accuracy'] for each in some))}% and true from "
                        f"{percent(min(each['owner']['true'] for each in some))}% up."
                    )
                )
    return findings


def _others(models: list[Record]) -> str:
    return "others" if any(each["watermarked"] for each in models) else "free ones"


def _lowest(models: list[Record], mode: str) -> str:
    return ", ".join(_index(each["modes"][mode]["lowest"]) for each in models)
