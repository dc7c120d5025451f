"""What the examination experiment shows: its tables, its figure, its sentences."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from nullmark_jax.experiments import attackers, late_marks
from nullmark_jax.experiments.experiment import Finding, Metrics, Result
from nullmark_jax.experiments.measuring import Record, mean, mean_and_spread
from nullmark_jax.reports.heatmap import heatmap_figure
from nullmark_jax.reports.table import Table, many, percent

# What stands for the models that no pirate changed, where a pirate's name stands for their copies.
ORIGINAL = "the owner's model"
# Before that name: their mark in a watermark-free model.
LATE = "late: "
AS_IT_IS = "as it is"
# Whose marks a model may have.
_MARKS = ("owner", "pirate")


def tables(result: Result) -> list[Table]:
    """Returns what each examination leaves of the marks, and what the weights give away."""
    metrics = result["metrics"]
    kinds = metrics["models"]
    examined = _examinations(metrics)
    made = [
        Table(
            "WM of the mark after each examination, %: mean (lowest to highest); in how many copies it "
            "verifies",
            ("model", "copies", "NC", "lowest NC examined", *examined),
            [
                [
                    _title(kind),
                    str(len(models)),
                    mean_and_spread(
                        [each["after"][AS_IT_IS] for each in models], "normal_accuracy"
                    ),
                    percent(
                        min(
                            each["after"][name]["normal_accuracy"]
                            for each in models
                            for name in examined
                        )
                    ),
                    *_left(models, examined, _mark(kind)),
                ]
                for kind, models in kinds.items()
            ],
            f"WM is the lower of null and true; verified: above {percent(metrics['threshold'])}. Of the "
            "owner's model the owner's mark, of all others the pirate's or the late one. Pirates: "
            f"logits, rate {metrics['learning_rate']:g}, steps of {metrics['batch_size']} images; "
            f"fine-tuned: {metrics['tuning']}, with images of the owner's training set. "
            + attackers.ways_note(_ways(metrics))
            + attackers.choosing_note(metrics)
            + _notes(metrics)
            + " Each model has marks of its own, and on a model all kinds of pirates embed the same.",
        )
    ]
    copies = {kind: models for kind, models in kinds.items() if _pirated(kind)}
    if copies:
        made.append(
            Table(
                "WM of the owner's mark on the same copies",
                ("model", *examined),
                [
                    [_title(kind), *_left(models, examined, "owner")]
                    for kind, models in copies.items()
                ],
            )
        )
    read = [_read(kind, models, metrics) for kind, models in kinds.items() if "read" in models[0]]
    if read:
        made.append(
            Table(
                "Whose pattern the weights tell",
                (
                    "model",
                    *(
                        f"the {mark}'s pixels right, of {metrics['pixels']}; all of them right in"
                        for mark in _MARKS
                    ),
                ),
                read,
                "The block that the second convolution is the most blind to, beside each mark's pattern; by "
                "chance half of the pixels are right, and some more where a model has several marks.",
            )
        )
    return made


def _examinations(metrics: Metrics) -> list[str]:
    """Returns the names of what is done to each model, nothing first."""
    return list(next(iter(metrics["models"].values()))[0]["after"])


def _left(models: list[Record], examined: list[str], mark: str) -> list[str]:
    """Returns for each examination a mark's WM and in how many of the models it verifies."""
    cells = []
    for name in examined:
        after = [each["after"][name] for each in models]
        verified = sum(each["verified"][mark] for each in after)
        cells.append(f"{mean_and_spread(after, mark, 'wm')}; {verified}")
    return cells


def _read(kind: str, models: list[Record], metrics: Metrics) -> list[str]:
    """Returns the row of how far the weights of a kind of models give each mark's pattern away."""
    cells = [_title(kind)]
    for mark in _MARKS:
        right = sorted(each["read"][mark] for each in models if mark in each["read"])
        whole = sum(each == metrics["pixels"] for each in right)
        shown = " to ".join(str(each) for each in sorted({*right[:1], *right[-1:]}))
        cells.append(f"{shown}; {whole} of {len(right)}" if right else "")
    return cells


def _pirated(kind: str) -> bool:
    return kind != ORIGINAL and not kind.startswith(LATE)


def _pruned(kind: str) -> bool:
    return late_marks.PRUNED_FIRST in kind


def _title(kind: str) -> str:
    if kind.startswith(LATE):
        return f"a watermark-free model, marked late by {kind.removeprefix(LATE)}"
    return f"copy by {kind}" if _pirated(kind) else kind


def _ways(metrics: Metrics) -> list[str]:
    names = [kind.removeprefix(LATE) for kind in metrics["models"] if kind != ORIGINAL]
    again = [late_marks.AGAIN] if _rounded(metrics) else []
    return [*(name.partition(",")[0] for name in names), *again]


def _rounded(metrics: Metrics) -> bool:
    return any(late_marks.LAYER_BY_LAYER in kind for kind in metrics["models"])


def _notes(metrics: Metrics) -> str:
    """Returns the sentences that explain what only some results have."""
    notes = []
    if any(_pruned(kind) for kind in metrics["models"]):
        notes.append(
            " Of who pruned as large a share first an examination's pruning finds the same neurons, and "
            "changes nothing."
        )
    if _rounded(metrics):
        notes.append(
            f" Rounded {late_marks.LAYER_BY_LAYER}: after the first steps each layer is rounded in turn, "
            f"from the first on, and those behind it are trained again by {late_marks.AGAIN}, the second "
            "number of steps in all."
        )
    if any(kind.startswith(LATE) for kind in metrics["models"]):
        notes.append(
            " A mark put late into a watermark-free model is the control: it may be an honest owner's, who "
            "has no more images than the pirate. What it does not withstand either tells late marks from "
            "early ones, not pirates' from owners'. It is the mark that the first copies' pirate has."
        )
    return "".join(notes)


def draw(result: Result) -> dict[str, Figure]:
    """Returns the WM of owners' marks on their models, of pirates' on copies and of late ones."""
    models = result["metrics"]["models"]
    examined = _examinations(result["metrics"])
    values = [
        [mean([each["after"][name] for each in some], _mark(kind), "wm") for name in examined]
        for kind, some in models.items()
    ]
    return {
        "examination": heatmap_figure(
            np.array(values),
            rows=[f"copy by {kind}" if _pirated(kind) else kind for kind in models],
            columns=examined,
            title="WM of the mark, %, the mean",
        )
    }


def _mark(kind: str) -> str:
    return "owner" if kind == ORIGINAL else "pirate"


def verdict(result: Result) -> list[Finding]:
    """Returns after which examinations owners' marks verify, pirates' do, and late ones.

    Those who prune before they embed are told apart: what an examination prunes then was pruned before.
    """
    metrics = result["metrics"]
    groups: dict[str, dict[str, list[Record]]] = {}
    for kind, models in metrics["models"].items():
        groups.setdefault(_whose(kind), {})[kind] = models
    return [
        Finding(f"{whose.format(_models(_copies(kinds)))}{_withstood(kinds, metrics)}.")
        for whose, kinds in groups.items()
    ]


def _whose(kind: str) -> str:
    """Returns the beginning of the sentence that a kind of copies is counted in, {} for how many models."""
    if kind == ORIGINAL:
        return "Owners' marks on their own {}"
    if _pirated(kind):
        return f"Marks of pirates {'who prune first ' * _pruned(kind)}on copies of {{}}"
    return f"Late marks on {'pruned ' * _pruned(kind)}copies of {{}} without a watermark"


def _withstood(kinds: Mapping[str, list[Record]], metrics: Metrics) -> str:
    """Returns how many marks of some kinds of copies verify, and how many of these withstand what.

    Copies of one model have the same mark: where those that verify are not of all models, it says of how
    many.
    """
    mark = _mark(next(iter(kinds)))
    copies = _copies(kinds)
    # Of pirates, copies on which they have something to lose.
    valid = [each for each in copies if each["after"][AS_IT_IS]["verified"][mark]]
    made = f", in {many(len(kinds), 'way')}" if mark == "pirate" else ""
    text = f"{made}: {len(valid)} of {len(copies)} verify"
    if valid:

        def kept(names: list[str]) -> str:
            some = [
                each for each in valid if all(each["after"][n]["verified"][mark] for n in names)
            ]
            part = some and _models(some) != _models(copies)
            return f"{len(some)}{f' (of {_models(some)})' if part else ''}"

        done = [name for name in _examinations(metrics) if name != AS_IT_IS]
        text += f"; of these after an examination, {', '.join(f'{n}: {kept([n])}' for n in done)}"
        text += f"; all of them, one at a time: {kept(done)}"
    read = [each["read"][mark] == metrics["pixels"] for each in valid if "read" in each]
    if read:
        text += f"; the weights give away the whole pattern in {sum(read)}"
    return text


def _copies(kinds: Mapping[str, list[Record]]) -> list[Record]:
    return [each for some in kinds.values() for each in some]


def _models(copies: list[Record]) -> str:
    return many(len({each["name"] for each in copies}), "model")
