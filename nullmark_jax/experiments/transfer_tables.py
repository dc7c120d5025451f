"""What readers see of transfer learning: its tables, figures and findings."""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure

from nullmark_jax.experiments.experiment import Finding, Metrics, Result
from nullmark_jax.experiments.measuring import Record, mean_and_spread
from nullmark_jax.reports import curves, dots
from nullmark_jax.reports.table import Table, many, percent

# What config.paper holds of Tables 7 and 8 for each way, named by `printed_name`, and after "earlier_" of the
# earlier paper's VI and VII.
PRINTED = ("free_student", "student", "normal_accuracy", "null_accuracy", "true_accuracy")
# How the recovery's new last layer may begin, besides draws: with no kernel at all.
ZEROS = "zeros"
# Of the later paper's students: how, epochs of a student, and of its recovery.
_PAPERS_OPTIMIZER, _PAPERS_EPOCHS, _PAPERS_RECOVERY = "sgd at 0.01", 200, 6
_KINDS = ("watermarked", "free")


def printed_name(way: str, name: str) -> str:
    """Returns the field of config.paper for a way and one of `PRINTED`."""
    return f"{way.replace(' ', '_')}_{name}"


def _printed(paper: dict[str, float], way: str, prefix: str = "") -> dict[str, float]:
    """Returns what a paper prints of a way, by `PRINTED`; {} where nothing."""
    found = {name: paper.get(f"{prefix}{printed_name(way, name)}") for name in PRINTED}
    return {name: value for name, value in found.items() if value is not None}


def starts_of(part: Metrics) -> list[Metrics]:
    """Returns a part's recoveries by start; earlier results have the first draw alone."""
    first = {
        "start": "draw 1",
        "models": [model["recovered"] for model in part["models"]],
        "verified": part["verified"],
        "foreign_verified": part["foreign_verified"],
    }
    return part.get("starts", [first])


class _Recovered:
    """The recoveries of a part that begin with draws, or of those that begin with zeros."""

    def __init__(self, part: Metrics, *, zeros: bool) -> None:
        starts = [each for each in starts_of(part) if (each["start"] == ZEROS) == zeros]
        self.records: list[Record] = [record for each in starts for record in each["models"]]
        self.verified = sum(each["verified"] for each in starts)
        self.foreign_verified = sum(each["foreign_verified"] for each in starts)


def _parts(metrics: Metrics) -> Iterator[tuple[str, Metrics]]:
    """Yields each way's watermarked and free part, where there are models, with a name."""
    for each in metrics["ways"]:
        for kind in _KINDS:
            if each[kind]["models"]:
                yield f"{each['way']}, {kind} teacher", each[kind]


def tables(result: Result) -> list[Table]:
    """Returns Tables 7 and 8 by way of fine-tuning, of watermarked and of free teachers."""
    metrics, paper = result["metrics"], result["paper"]
    rows = []
    for each in metrics["ways"]:
        for kind in _KINDS:
            if each[kind]["models"]:
                rows.append(_row(f"{each['way']}, {kind} teacher", each[kind]))
        for prefix, name in (("", "later"), ("earlier_", "earlier")):
            if printed := _printed(paper, each["way"], prefix):
                free, student, *recovered = map(percent, printed.values())
                rows.append(
                    [
                        f"{each['way']}, {name} paper",
                        f"{student} (free: {free})",
                        *recovered,
                        "",
                        "",
                    ]
                )
    earlier = (
        " The earlier paper's are of wonder filters, its null is agreement, and its student has one dense "
        "layer more: what it calls the added layers stands beside the last two."
        if any(name.startswith("earlier_") for name in paper)
        else ""
    )
    made = [
        Table(
            "Students, and the owner's watermark recovered from them, %: mean (lowest to highest)",
            (
                "fine-tuned",
                "student NC",
                "recovered NC",
                "owner null",
                "owner true",
                "owner verified",
                "foreign verified",
            ),
            rows,
            f"Students: {metrics['epochs']} epochs over {metrics['student_images']} images; recovery: "
            f"{metrics['recovery_epochs']} epochs over the teacher's clean images, the same layers; both by "
            f"{metrics['optimizer']}, the paper's students by {_PAPERS_OPTIMIZER}. The recovery's new last "
            "layer begins with one draw, the same in all rows. From a "
            "free teacher's student the owner's watermark must not recover; nor a foreign one anywhere."
            f"{earlier}",
        )
    ]
    if len(starts_of(metrics["ways"][0]["watermarked"])) > 1:
        made.append(_starts_table(metrics))
    return made


def _row(name: str, part: Metrics) -> list[str]:
    found = part["models"]
    return [
        name,
        mean_and_spread(found, "student"),
        mean_and_spread(found, "recovered", "normal_accuracy"),
        mean_and_spread(found, "recovered", "owner", "null"),
        mean_and_spread(found, "recovered", "owner", "true"),
        f"{part['verified']} of {len(found)}",
        f"{part['foreign_verified']} of {len(found)}",
    ]


def _starts_table(metrics: Metrics) -> Table:
    rows = []
    for name, part in _parts(metrics):
        row = [name]
        for some in (_Recovered(part, zeros=False), _Recovered(part, zeros=True)):
            row += [
                mean_and_spread(some.records, "owner", "null"),
                mean_and_spread(some.records, "owner", "true"),
                f"{some.verified} of {len(some.records)}",
                f"{some.foreign_verified} of {len(some.records)}",
            ]
        rows.append(row)
    columns = ("owner null", "owner true", "owner verified", "foreign verified")
    return Table(
        "The same by how the recovery's new last layer begins, %: mean (lowest to highest)",
        ("fine-tuned", *(f"{start}: {column}" for start in ("draws", ZEROS) for column in columns)),
        rows,
        "Each student's recovery is made once for each draw, and once with a kernel of zeros, all with the "
        "images in one order. An owner may choose no draw: a cheat would choose as well, and the draws of "
        "one model are no models of their own.",
    )


_EPOCHS = ("epochs", "epochs of the recovery")


def draw(result: Result) -> dict[str, Figure]:
    """Returns the earlier paper's Figure 8, all layers last, and what each start brings back."""
    metrics = result["metrics"]
    way = metrics["ways"][-1]
    drawn = {}
    for kind in _KINDS:
        if way[kind]["models"]:
            drawn[f"transfer-{kind}"] = curves.curves_figure(
                _recovery(way[kind], metrics),
                x=_EPOCHS,
                lines=(
                    curves.Line("NC", ("normal_accuracy",)),
                    curves.Line("owner null", ("owner", "null")),
                    curves.Line("owner true", ("owner", "true")),
                ),
                title=f"{way['way']}, {kind} teacher",
                threshold=metrics["threshold"],
                claims=_claims(result["paper"], way["way"]) if kind == "watermarked" else None,
            )
    ways = [each for each in metrics["ways"] if each["watermarked"]["models"]]
    # Triggers have no null.
    if len(ways) > 1 and way["watermarked"]["models"][0]["curve"][0]["owner"]["null"] is not None:
        recoveries = [_recovery(each["watermarked"], metrics) for each in ways]
        drawn["transfer-ways"] = curves.curves_figure(
            [
                {"epochs": points[0]["epochs"]}
                | {w["way"]: p["owner"]["null"] for w, p in zip(ways, points, strict=True)}
                for points in zip(*recoveries, strict=True)
            ],
            x=_EPOCHS,
            lines=[curves.Line(each["way"], (each["way"],)) for each in ways],
            title="owner null, by what the student was fine-tuned in",
            threshold=metrics["threshold"],
        )
    if len(starts_of(way["watermarked"])) > 1:
        drawn["transfer-starts"] = dots.dots_figure(
            [(name, _dots(part)) for name, part in _parts(metrics)],
            title="recovered, by the last layer's start",
            threshold=metrics["threshold"],
        )
    return drawn


def _recovery(part: Metrics, metrics: Metrics) -> list[dict[str, Any]]:
    return curves.in_epochs(part["models"][0]["curve"], metrics["recovery_epochs"])


def _claims(paper: dict[str, float], way: str) -> dict[str, float]:
    """Returns what the earlier paper, whose Figure 8 it is, prints of it, for the lines of `draw`."""
    lines = {"NC": "normal_accuracy", "null": "null_accuracy", "true": "true_accuracy"}
    printed = _printed(paper, way, "earlier_")
    return {
        f"{line}, Table VII": printed[field] for line, field in lines.items() if field in printed
    }


def _dots(part: Metrics) -> dict[str, Sequence[float]]:
    values: dict[str, Sequence[float]] = {}
    for name in ("null", "true"):
        for label, zeros in (("draws", False), (ZEROS, True)):
            records = _Recovered(part, zeros=zeros).records
            found: list[Any] = [record["owner"][name] for record in records]
            # Triggers have no null embedding.
            if None not in found:
                values[f"{name}, {label}"] = found
    return values


def verdict(result: Result) -> list[Finding]:
    """Returns whether the watermark is recovered where it was, and only there."""
    metrics = result["metrics"]
    own, free = (
        [_Recovered(each[kind], zeros=False) for each in metrics["ways"]] for kind in _KINDS
    )
    students, free_students = (
        sum(len(each[kind]["models"]) for each in metrics["ways"]) for kind in _KINDS
    )
    teachers = len(metrics["ways"][0]["watermarked"]["models"])
    draws = len(own[0].records) // teachers

    def count(recovered: Sequence[_Recovered]) -> str:
        return f"{sum(each.verified for each in recovered)} of {sum(len(each.records) for each in recovered)}"

    sentence = (
        "The owner's watermark is recovered from every student, the later paper says (of "
        f"{_PAPERS_EPOCHS} epochs by {_PAPERS_OPTIMIZER}, by {_PAPERS_RECOVERY} more); here, of "
        f"{metrics['epochs']} epochs on {metrics['student_images']} images and by "
        f"{metrics['recovery_epochs']} more, all by {metrics['optimizer']}, "
    )
    zeros, free_zeros = (
        [_Recovered(each[kind], zeros=True) for each in metrics["ways"]] for kind in _KINDS
    )
    # Earlier results have a draw alone.
    with_zeros = any(each.records for each in zeros)
    if draws == 1:
        sentence += (
            f"from {sum(each.verified for each in own)} of {many(students, 'student')} of "
            f"{many(teachers, 'teacher')}"
        )
    else:
        sentence += (
            f"from {many(students, 'student')} of {many(teachers, 'teacher')} in {count(own)} recoveries, "
            f"whose new last layers begin with {draws} draws"
        )
    if with_zeros:
        sentence += f" (with zeros: {count(zeros)})"
    if free_students:
        sentence += f", and of watermark-free ones in {count(free)}"
        if with_zeros:
            sentence += f" ({count(free_zeros)})"
    # What another optimiser or fewer epochs do says nothing of theirs.
    asked = (
        metrics["optimizer"] == _PAPERS_OPTIMIZER
        and metrics["epochs"] >= _PAPERS_EPOCHS
        and metrics["recovery_epochs"] >= _PAPERS_RECOVERY
    )
    every = all(each.verified == len(each.records) for each in own)
    return [
        Finding(
            f"{sentence}.",
            every if asked else None,
            claim="The mark is recovered from every student (both papers)",
            brief=count(own)
            + f", from zeros {count(zeros)}" * with_zeros
            + f", free {count(free)}" * bool(free_students),
            cause="Where all layers were fine-tuned, null is lost from whatever start of the new last layer; "
            "where fewer were, the start decides whether true comes back (Traffic, Object). Tested by layers "
            "and by start ({transfer}).",
        )
    ]
