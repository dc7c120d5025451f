"""False positives: how often does a watermark verify that nobody embedded?

    python -m nullmark_jax.experiments.false_positives \\
        --config=configs/attacks/false_positives.py:TASK --victim=RUN [--victim=RUN ...] --workdir=OUT

Later paper, section 7.3 (1,000 random watermarks on free and on watermarked models); earlier paper,
Table IV (single images). Then what a cheat makes of it: signatures tried until one passes, by threshold.
"""

import datetime
import itertools
import sys
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from matplotlib.figure import Figure

from nullmark_jax import checks, signing, transform, verification
from nullmark_jax.attacks import grinding
from nullmark_jax.experiments import experiment
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import Record, accuracies, at_own_threshold, limited
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.reports import curves
from nullmark_jax.reports.table import Table, percent

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
_CHUNK = 100
# The most of its four tasks in the later paper, on the watermarked Object.
_PAPERS_RATE = 1e-3


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # Random watermarks on each model.
    config.watermarks = 1000
    # Signatures that a cheat tries on each model, on fewer images first.
    config.tries = 10_000
    config.screening_images = 100
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    checks.integer("config.watermarks", config.watermarks, 1, 10**6)
    checks.integer("config.tries", config.tries, 1, 10**7)
    checks.integer("config.screening_images", config.screening_images, 1, 10**6)


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: for each model its random watermarks' accuracies, and its grinding."""
    planned: dict[str, Callable[[], Record]] = {}
    for victim in victims:
        test = limited(victim.splits.test, config.test_images)
        few = limited(test, min(config.screening_images, len(test)))
        score, screen = (
            grinding.make_score(
                victim.model,
                victim.params,
                each.images,
                each.labels,
                pattern_size=victim.pattern_size,
            )
            for each in (test, few)
        )
        for start in range(0, config.watermarks, _CHUNK):
            count = min(_CHUNK, config.watermarks - start)
            planned[f"random/{victim.name}/{start}"] = _random(
                victim, score, config.seed, start, count
            )
        for start in range(0, config.tries, _CHUNK):
            count = min(_CHUNK, config.tries - start)
            planned[f"tries/{victim.name}/{start}"] = _tries(
                victim, screen, score, config.seed, start, count
            )
    records = dict(journal.run(planned))
    models = []
    for victim in victims:
        random = _joined(records, f"random/{victim.name}/")
        tries = _joined(records, f"tries/{victim.name}/")
        models.append(
            {
                "name": victim.name,
                "watermarked": victim.watermarks is not None,
                "scheme": victim.scheme,
                "num_classes": victim.config.data.num_classes,
                "images": len(limited(victim.splits.test, config.test_images)),
                "null": random["null"],
                "true": random["true"],
                "agreement": random["agreement"],
                "wm": random["wm"],
                "rates": [
                    rate_at(random["wm"], each, victim.scheme) for each in thresholds(victim)
                ],
                "grinding": [
                    _grinding(tries["wm"], each, victim.scheme) for each in thresholds(victim)
                ],
                "threshold": victim.config.watermark.threshold,
                "tries": config.tries,
                "screening_images": config.screening_images,
            }
        )
    return {"models": models}


def _random(
    victim: Victim, score: grinding.Score, seed: int, start: int, count: int
) -> Callable[[], Record]:
    def measured() -> Record:
        # The first k of a larger population are the population of k.
        marks = victim.foreign(seed, start + count)
        record: Record = {"null": [], "true": [], "agreement": [], "wm": []}
        for index in range(start, start + count):
            counts = score(jax.tree.map(lambda leaf, i=index: leaf[i], marks))
            for name, value in accuracies(counts, victim.scheme).items():
                record[name].append(value)
        return record

    return measured


def _tries(
    victim: Victim,
    screen: grinding.Score,
    score: grinding.Score,
    seed: int,
    start: int,
    count: int,
) -> Callable[[], Record]:
    """Tries real signatures of one key, of one name at one second after another."""

    def measured() -> Record:
        key = signing.experiment_key(seed)
        height, width, _ = victim.config.data.input_shape
        first = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        wm = []
        for index in range(start, start + count):
            at = first + datetime.timedelta(seconds=index)
            signature = signing.sign(
                key, owner="cheat", timestamp=at.strftime("%Y-%m-%dT%H:%M:%SZ")
            )
            mark = transform.transform(
                signature,
                scheme=victim.scheme,
                height=height,
                width=width,
                num_classes=victim.config.data.num_classes,
                pattern_size=victim.pattern_size,
                extreme_value=victim.config.watermark.extreme_value,
                index=0,
            )
            measured = accuracies(screen(mark), victim.scheme)["wm"]
            # A hopeless one on a few images is not tried on all.
            if measured >= THRESHOLDS[0] / 2:
                measured = accuracies(score(mark), victim.scheme)["wm"]
            wm.append(measured)
        return {"wm": wm}

    return measured


def thresholds(victim: Victim) -> list[float]:
    """Returns those that rates are given at: `THRESHOLDS` and the victim's own."""
    return sorted({*THRESHOLDS, victim.config.watermark.threshold})


def _joined(records: dict[str, Record], prefix: str) -> dict[str, Any]:
    parts = [record for name, record in records.items() if name.startswith(prefix)]
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def rate_at(wm: list[float], threshold: float, scheme: str) -> Record:
    """Returns how many of some WMs verify at a threshold, with the exact interval of the rate."""
    passed = sum(verification.passes(each, threshold, scheme=scheme) for each in wm)
    low, high = verification.clopper_pearson(passed, len(wm))
    return {"threshold": threshold, "passed": passed, "of": len(wm), "low": low, "high": high}


def _grinding(wm: list[float], threshold: float, scheme: str) -> Record:
    """Returns the tries that the first pass took, None where there was none, and all passes."""
    passed = [verification.passes(each, threshold, scheme=scheme) for each in wm]
    first = passed.index(True) + 1 if any(passed) else None
    low, high = verification.clopper_pearson(sum(passed), len(passed))
    return {
        "threshold": threshold,
        "first": first,
        "passed": sum(passed),
        "of": len(passed),
        "low": low,
        "high": high,
    }


# For readers.


def tables(result: Result) -> list[Table]:
    """Returns the single-image matches, the rates, and what grinding takes, by model."""
    models, paper = result["metrics"]["models"], result["paper"]
    matches = [
        [
            _title(each),
            str(each["images"]),
            percent(float(np.mean(each["true"]))),
            percent(float(np.mean(each["null"]))),
            percent(1 / each["num_classes"]),
            percent(max(each["true"])),
            percent(max(each["null"])),
            percent(max(each["wm"])),
        ]
        for each in models
    ]
    if "true_match" in paper:
        matches.append(
            [
                "earlier paper (free)",
                "",
                percent(paper["true_match"]),
                percent(paper["null_match"]),
                *[""] * 4,
            ]
        )
    rates = [
        [
            _title(each),
            shown,
            f"{rate['passed']} of {rate['of']}",
            f"{100 * rate['low']:.3g} to {100 * rate['high']:.3g}",
            "none" if tried["first"] is None else str(tried["first"]),
            f"{tried['passed']} of {tried['of']}",
            _tries_needed(rate, tried),
        ]
        for each in models
        for shown, rate, tried in _alike(each)
    ]
    for kind in ("free", "watermarked"):
        if kind in paper:
            passed = f"{round(1000 * paper[kind])} of 1000"
            rates.append([f"later paper ({kind})", "80", passed, *[""] * 4])
    return [
        Table(
            "Random watermarks that nobody embedded: how often one image matches, %",
            (
                "model",
                "images",
                "true",
                "null",
                "1/Y",
                "highest true",
                "highest null",
                "highest WM",
            ),
            matches,
            "Means and maxima over the watermarks. In the earlier paper's Table IV a single image "
            "matches about 1 in Y times.",
        ),
        Table(
            "False positive rates, and grinding, by threshold",
            (
                "model",
                "T, %",
                "passed",
                "rate, 95% interval, %",
                "first signature to pass",
                "signatures passed",
                "tries a cheat needs, 95% interval",
            ),
            rates,
            "Thresholds with the same counts share a row. Intervals are exact (Clopper-Pearson). A cheat "
            "tries real signatures, on few images first. A signature's watermark is as random as a random "
            "one, so that the tries they need are reckoned from both; where none passed the interval's "
            "upper end is open: what was tried says no more.",
        ),
    ]


def _title(model: dict[str, Any]) -> str:
    return f"{model['name']} ({'watermarked' if model['watermarked'] else 'free'})"


def _alike(model: dict[str, Any]) -> list[tuple[str, Record, Record]]:
    """Returns the rates and the tries of thresholds in a row that have the same counts, and which."""
    pairs = list(zip(model["rates"], model["grinding"], strict=True))
    found = []
    for _, group in itertools.groupby(
        pairs, lambda pair: (pair[0]["passed"], pair[1]["passed"], pair[1]["first"])
    ):
        some = list(group)
        ends = dict.fromkeys(f"{100 * rate['threshold']:g}" for rate, _ in (some[0], some[-1]))
        found.append((" to ".join(ends), *some[0]))
    return found


def _tries_needed(rate: Record, tried: Record) -> str:
    low, high = verification.clopper_pearson(
        rate["passed"] + tried["passed"], rate["of"] + tried["of"]
    )
    return f"{1 / high:.0f} to {'?' if low == 0 else f'{1 / low:.0f}'}"


def draw(result: Result) -> dict[str, Figure]:
    """Returns null against true accuracy of every random watermark."""
    groups = [
        (_title(each), [100 * x for x in each["true"]], [100 * y for y in each["null"]])
        for each in result["metrics"]["models"]
    ]
    threshold = 100 * at_own_threshold(result["metrics"]["models"][0])["threshold"]
    return {
        "false-positives": curves.scatter_figure(
            groups,
            x="true accuracy, %",
            y="null accuracy, %",
            title=f"random watermarks; beyond both dotted lines one verifies at T = {threshold:g}%",
            threshold=threshold,
        )
    }


def verdict(result: Result) -> list[Finding]:
    """Returns how many random watermarks verified at the model's own T, and what the papers say."""
    findings = []
    for each in result["metrics"]["models"]:
        rate, tried = at_own_threshold(each), at_own_threshold(each, "grinding")
        high = max(rate["low"], tried["low"]) > _PAPERS_RATE
        some = rate["passed"] + tried["passed"] > 0
        findings.append(
            Finding(
                f"Of {rate['of']} random watermarks {rate['passed']} verify on {_title(each)} at T = "
                f"{100 * rate['threshold']:g}% "
                f"(95% interval {100 * rate['low']:.2g} to {100 * rate['high']:.2g}%; the later paper: "
                "none, 1 of 1,000 on its watermarked Object); of a cheat's "
                f"{tried['of']} signatures {tried['passed']}.",
                # A few of so many are within what the intervals allow of theirs, but are not none; of fewer
                # marks than theirs none says nothing.
                False if high else None if some or rate["of"] < 1 / _PAPERS_RATE else True,
                claim="Random watermarks do not verify (both papers)",
                brief=f"{rate['passed']} of {rate['of']} "
                f"({'watermarked' if each['watermarked'] else 'free'} model)",
            )
        )
    return findings


EXPERIMENT = Experiment(
    name="false_positives",
    title="False positives and grinding",
    lead="Watermarks that nobody embedded, tried on watermarked and on free models: the papers' 1,000 "
    "random ones, and the signatures that a cheat tries one after another until one passes.",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    verdict=verdict,
    captions={"false-positives": "Every random watermark: its true and its null accuracy."},
    free=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
