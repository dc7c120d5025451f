"""What readers see of piracy's cost: its table, Figure 2 and findings."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nullmark_jax import verification
from nullmark_jax.experiments import attackers
from nullmark_jax.experiments.experiment import Finding, Metrics, Result
from nullmark_jax.experiments.measuring import Record, of_numbers
from nullmark_jax.reports import curves
from nullmark_jax.reports.table import Table, many, percent

CAPTIONS = {
    "cost-most-owner": "From the owner's model, the most images that were tried: the quickest attacker "
    "(Figure 2a; theirs, all of Digit's, takes 1000k steps).",
    "cost-most-sgd": "The same by plain SGD, as theirs (Figure 2a).",
    "cost-most-scratch": "From scratch, as many images: the quickest (Figure 2b; theirs, all of "
    "Digit's, takes 100k steps).",
    "cost-fewest-owner": "From the owner's model, the fewest images: the quickest (Figure 2c; theirs 1%).",
    "cost-fewest-sgd": "The same by plain SGD (Figure 2c).",
    "cost-fewest-scratch": "From scratch, the fewest images.",
}
_SHORT = "Piracy takes ten times as long as from scratch (later paper)"
_CAUSE = (
    "How they train. Adam arrives, with 1% of the images from the owner's model only; in the null space of "
    "the pirate's own pattern null embedding is there within a few steps. Plain SGD, of which their million "
    "steps are, arrives from neither on Digit in 2,000 ({piracy_cost}): its multiple was not measured; "
    "from the owner's model it can get in at a lower rate ({stability}). Tested by way to train."
)
_CLAIM = "Piracy takes ten times as long as training from scratch, the later paper says"


def bears(point: Record, *, threshold: float, embedding: str, scheme: str) -> bool:
    """Returns whether a point of a curve has the pirate's mark: null of "null only", else WM, above T."""
    part = "null" if embedding == "null only" else "wm"
    return verification.passes(point["pirate"][part], threshold, scheme=scheme)


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
                *_run_and_steps(run, metrics),
                _steps(scratch and scratch["reached"]),
                _multiple(run["reached"], scratch and scratch["reached"], "steps"),
                _seconds(run["reached"]),
                _seconds(quickest and quickest["reached"]),
                _multiple(run["reached"], quickest and quickest["reached"], "seconds"),
                percent(last["normal_accuracy"]) + of_numbers([run]),
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
                "",
                f"{paper['scratch_steps']:.0f}",
                _times(paper["pirate_steps"] / paper["scratch_steps"]),
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
                "images in them",
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
            "only) or WM above T. Images: clean ones, each as often as it was taken. At most "
            f"{metrics['steps']} steps of {metrics['batch_size']} images; "
            "never: not within these. From scratch: the cheapest attacker of the grid with as many "
            f"images{_own_training(metrics)}. Seconds are of the machine as it was, compiling included."
            + attackers.choosing_note(metrics),
        ),
        _from_scratch(metrics),
        _level(metrics),
    ]


def _run_and_steps(run: Record, metrics: Metrics) -> list[str]:
    """Returns a run's first cells: which it is, the steps until it got there, and the images in them."""
    which = [run[field] for field in ("victim", "embedding", "attacker")]
    return [*which, _steps(run["reached"]), _images(run["reached"], metrics)]


def _from_scratch(metrics: Metrics) -> Table:
    """Returns how each attacker fared from scratch, without a model to begin with."""
    rows = []
    for run in metrics["runs"]:
        if run["start"] != "scratch":
            continue
        last = run["curve"][-1]
        rows.append(
            [
                *_run_and_steps(run, metrics),
                _seconds(run["reached"]),
                percent(last["normal_accuracy"]) + of_numbers([run]),
                percent(last["pirate"]["null"]),
                percent(last["pirate"]["true"]),
            ]
        )
    columns = ("steps", "images in them", "seconds", "NC at the end, %", "pirate null")
    return Table(
        "From scratch: each attacker without the owner's model",
        ("beside", "embedded", "attacker", *columns, "pirate true"),
        rows,
        "The target is the same: that model's NC.",
    )


def _level(metrics: Metrics) -> Table:
    """Returns what it takes to get as far as the grid gets from scratch with as many images."""
    rows = []
    groups = dict.fromkeys((r["victim"], r["embedding"], r["images"]) for r in metrics["runs"])
    for group in groups:
        some = [r for r in metrics["runs"] if (r["victim"], r["embedding"], r["images"]) == group]
        scratch = [run for run in some if run["start"] == "scratch"]
        pirates = [run for run in some if run["start"] != "scratch"]
        with_mark = [point for run in scratch for point in _bearing(run, metrics)]
        if not with_mark:
            rows.append([*group, "none bears the mark", *[""] * 5])
            continue
        level = max(point["normal_accuracy"] for point in with_mark)
        (by, theirs), (cheapest, ours) = (
            _first(runs, level, metrics) for runs in (scratch, pirates)
        )
        multiple = _times(ours / theirs) if ours else ""
        rows.append(
            [*group, percent(level), str(theirs), by, str(ours or "never"), cheapest, multiple]
        )
    return Table(
        "Steps until the highest NC that the grid reaches from scratch, with the pirate's mark",
        (
            "model",
            "embedded",
            "images",
            "NC",
            "steps from scratch",
            "by",
            "steps from the owner's model",
            "by",
            "multiple",
        ),
        [[str(cell) for cell in row] for row in rows],
        "The fewest steps of any attacker with as many images, at the points looked at. Where nobody from "
        "scratch comes near the victim's NC, the table before has no multiple; this one has.",
    )


def _bearing(run: Record, metrics: Metrics) -> list[Record]:
    rule = {"threshold": metrics["threshold"], "scheme": metrics["scheme"]}
    return [p for p in run["curve"] if bears(p, embedding=run["embedding"], **rule)]


def _first(runs: list[Record], level: float, metrics: Metrics) -> tuple[str, int]:
    """Returns who gets to an NC with the mark in the fewest steps, and these; ("", 0) where nobody does."""
    found = [
        (point["steps"], run["attacker"])
        for run in runs
        for point in _bearing(run, metrics)
        if point["normal_accuracy"] >= level
    ]
    return min(found)[::-1] if found else ("", 0)


def _images(point: Record | None, metrics: Metrics) -> str:
    return "" if point is None else str(point["steps"] * metrics["batch_size"])


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
    return _times(pirate[field] / scratch[field])


def _times(multiple: float) -> str:
    if multiple < 0.95:
        return f"{multiple:.2g}"
    # 9.96 is not the paper's ten.
    return f"{min(multiple, 9.9):.1f}" if multiple < 10 else f"{multiple:.0f}"


def _own_training(metrics: Metrics) -> str:
    """Returns what the owners' own trainings took; earlier results do not say."""
    own = dict.fromkeys(
        f"{each['steps']} steps of {each['batch_size']} clean images and their marked copies"
        for each in metrics.get("own_training", ())
    )
    return f"; the owner's own training took {' and '.join(own)}" if own else ""


def _looked(metrics: Metrics) -> str:
    """Returns on how many models it was measured, and how closely."""
    models = {run["victim"] for run in metrics["runs"]}
    # Those that diverge end sooner.
    longest = max((run["curve"] for run in metrics["runs"]), key=len)
    steps = [point["steps"] for point in longest if point["steps"]]
    return (
        f"{many(len(models), 'model')}, a pirate each; looked at {many(len(steps), 'time')}, in geometric "
        f"distances, the last after {' and '.join(map(str, steps[-2:]))} steps"
    )


def draw(result: Result) -> dict[str, Figure]:
    """Returns Figure 2: NC and the pirate's null, null-only piracy, by start, most images and any fewer.

    Of each the attacker who was the quickest, or came nearest; from the owner's model by plain SGD, too, as
    the paper's, at the highest learning rate that leaves numbers, where one does.
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
            # Of models of NaN there is nothing to see.
            shown["sgd"] = max(
                by_sgd,
                key=lambda run: (run.get("finite", True), float(run["attacker"].split(", ")[2])),
            )
        for label, run in shown.items():
            drawn[f"cost-{name}-{label}"] = curves.curves_figure(
                run["curve"],
                x=("steps", "training steps"),
                lines=(
                    curves.Line("NC", ("normal_accuracy",)),
                    curves.Line("pirate null", ("pirate", "null")),
                    curves.Line("owner WM", ("owner", "wm")),
                ),
                title=f"from {run['start']}: {run['attacker']}"
                + ("; in the end not a number" if run.get("finite") is False else ""),
                threshold=metrics["threshold"],
                claims=claims if label != "scratch" else None,
                upright=_papers_steps(result["paper"], label) if name == "most" else {},
                log_x=True,
            )
    return drawn


def _papers_steps(paper: dict[str, float], label: str) -> dict[str, float]:
    """Returns how many steps the paper's training takes (Figure 2a, 2b), where it says."""
    steps = paper.get("scratch_steps" if label == "scratch" else "pirate_steps")
    return {} if steps is None else {f"theirs: {steps / 1000:.0f}k steps": steps}


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
    """Returns what piracy took beside training from scratch, by what is embedded."""
    metrics = result["metrics"]
    pirates = [run for run in metrics["runs"] if run["start"] != "scratch"]
    findings = []
    for embedding in dict.fromkeys(run["embedding"] for run in pirates):
        some = [run for run in pirates if run["embedding"] == embedding]
        # Those who got there, beside the cheapest from scratch and where there is none.
        multiples, alone = [], []
        for run in (each for each in some if each["reached"] is not None):
            scratch = _cheapest_from_scratch(metrics, run)
            if scratch is None:
                alone.append(run)
            else:
                multiples.append((run["reached"]["steps"] / scratch["reached"]["steps"], run))
        of_null = " of null embedding alone" if embedding == "null only" else ""
        claim = f"{_CLAIM}{of_null}; here, of {embedding},"
        how = f"({_looked(metrics)}){_own_training(metrics)}"
        if multiples:
            multiple, run = min(multiples, key=lambda each: each[0])
            findings.append(
                Finding(
                    f"{claim} the cheapest attacker ({run['attacker']}) takes {_times(multiple)} times as "
                    "many steps as the grid's cheapest from scratch with the same images; the owner's "
                    f"recipe is not in the grid {how}.",
                    multiple >= 10,
                    claim=_SHORT,
                    brief=f"{_times(multiple)} times ({embedding})",
                    cause=_CAUSE,
                )
            )
        if alone:
            first = min(alone, key=lambda run: run["reached"]["steps"])
            findings.append(
                Finding(
                    f"{claim} {len(alone)} of {many(len(some), 'attacker')} came within "
                    f"{100 * metrics['margin']:g} points of the owner's NC with the pirate's mark above T, "
                    f"the first ({first['attacker']}) after {many(first['reached']['steps'], 'step')} of "
                    f"{metrics['batch_size']} images, where none of the grid's did from scratch with the "
                    f"same images {how}.",
                    False,
                    claim=_SHORT,
                    brief=f"a pirate in after {many(first['reached']['steps'], 'step')}, from scratch "
                    f"nobody ({embedding})",
                    cause=_CAUSE,
                )
            )
        if not multiples and not alone:
            findings.append(_nobody(claim, some, metrics, how))
    return findings


def _nobody(claim: str, pirates: list[Record], metrics: Metrics, how: str) -> Finding:
    """Returns the finding where no pirate got there: agreement only if each was given ten times the steps."""
    beside = [_cheapest_from_scratch(metrics, run) for run in pirates]
    at = [scratch["reached"]["steps"] for scratch in beside if scratch is not None]
    scratch = f"from scratch after {min(at)}" if at else "nor from scratch"
    enough = len(at) == len(pirates) and metrics["steps"] >= 10 * max(at)
    return Finding(
        f"{claim} no attacker got there from the owner's model within {metrics['steps']} steps, {scratch} "
        f"{how}.",
        enough or None,
        claim=_SHORT,
        brief=f"no pirate in within {metrics['steps']} steps",
    )
