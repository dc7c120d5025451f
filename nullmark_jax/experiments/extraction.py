"""Model extraction: a substitute trained on the victim's answers alone. Does the watermark come along?

    python -m nullmark_jax.experiments.extraction --config=configs/attacks/extraction.py:TASK \\
        --victim=RUN [--victim=RUN ...] --workdir=OUT --config.ood_path=imagenet.npz,faces.npz

Later paper, section 8.3 and Table 6: which accuracy how many queries buy, with images of the task, images
of something else and random ones; by labels, as in the paper, and by softmax outputs. As a control the
task's images with their true labels, no victim asked: what an answer is worth.
"""

import functools
import sys
from collections.abc import Callable

import ml_collections
import numpy as np
from matplotlib.figure import Figure

from nullmark_jax import batches, checks, models, verification
from nullmark_jax import config as configs
from nullmark_jax.attacks import extraction
from nullmark_jax.attacks.extraction import ANSWERS, Extract, Thief
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import experiment, queries
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import Record, derived_seed, mean, mean_and_spread, passes
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.models import Params
from nullmark_jax.reports import series
from nullmark_jax.reports.table import Table, many, percent

# Of a control's images: their own labels.
_TRUE_LABELS = "true labels"
_ACCURACIES = (("normal_accuracy",), ("owner", "null"), ("owner", "true"), ("owner", "wm"))


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # An .npz of images of anything else, or several with commas between; "" for none.
    config.ood_path = ""
    # Queries, as fractions of the victim's training set: its own images, and others. Of a file, all
    # its images where it has fewer.
    config.task_fractions = (0.01, 0.1, 0.5, 1.0)
    config.other_fractions = (0.1, 1.0, 2.55)
    config.answers = tuple(ANSWERS)
    # Training steps, whatever the number of queries; 0 for as many as the victim's own training had.
    config.steps = 0
    # Substitutes of each kind, from other initial parameters and other queries.
    config.repeats = 1
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    checks.integer("config.steps", config.steps, 0, 10**7)
    checks.integer("config.repeats", config.repeats, 1, 1000)
    if not len(config.answers):
        raise InputError("config.answers: is empty; give one at least")
    for each in config.answers:
        if each not in ANSWERS:
            raise InputError(
                f"config.answers: {checks.shown(each)} is none; take some of {', '.join(ANSWERS)}"
            )
    for field, high in (("task_fractions", 1.0), ("other_fractions", 1000.0)):
        for fraction in config[field]:
            if not 0 < checks.real(f"config.{field}", fraction) <= high:
                raise InputError(
                    f"config.{field}: {fraction} is out of range; give one in (0, {high:g}]"
                )
    if not len(config.task_fractions) + len(config.other_fractions):
        raise InputError(
            "config.task_fractions, config.other_fractions: are empty; give one of the two"
        )


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: the victims before, and for each source, count and answer its substitutes."""
    paths = queries.paths_of(config.ood_path)
    most = {name: queries.available(path, victims[0]) for name, path in paths.items()}
    if len({victim.training_steps for victim in victims}) > 1:
        raise InputError(
            "--victim: they trained for different numbers of steps; give them one by one"
        )
    planned: dict[str, Callable[[], Record]] = {}
    for v, victim in enumerate(victims):
        bench, ask = Bench(victim, config.test_images), _answers(victim)
        make = functools.cache(functools.partial(_make_extraction, victim, config.steps))
        planned[f"before/{victim.name}"] = _before(bench)
        for source, count in queries.counts(config, len(victim.splits.train), most):
            for kind in _kinds(config, source):
                for repeat in range(config.repeats):
                    planned[f"{source}/{count}/{kind}/{victim.name}/{repeat}"] = _substitute(
                        bench,
                        make,
                        ask,
                        path=paths.get(source, ""),
                        source=source,
                        count=count,
                        kind=kind,
                        seed=derived_seed(config.seed, "thief", v, repeat),
                    )
    records = dict(journal.run(planned))
    first = victims[0]

    def part(source: str, count: int, kind: str) -> Metrics:
        prefix = f"{source}/{count}/{kind}/"
        models = [record for name, record in records.items() if name.startswith(prefix)]
        return {"source": source, "answers": kind, "images": count, "models": models}

    asked = queries.counts(config, len(first.splits.train), most)
    return {
        "threshold": first.config.watermark.threshold,
        "training_images": len(first.splits.train),
        "steps": config.steps or first.training_steps,
        "victim_steps": first.training_steps,
        "before": [record for name, record in records.items() if name.startswith("before/")],
        "substitutes": [part(*each, kind) for each in asked for kind in config.answers],
        "controls": [part(*each, _TRUE_LABELS) for each in asked if each[0] == queries.TASK],
    }


def _kinds(config: ml_collections.ConfigDict, source: str) -> tuple[str, ...]:
    return (*config.answers, _TRUE_LABELS) if source == queries.TASK else tuple(config.answers)


def _before(bench: Bench) -> Callable[[], Record]:
    return lambda: {
        "name": bench.victim.name,
        **bench.before(),
    }


def _make_extraction(victim: Victim, steps: int, kind: str) -> Extract:
    """Returns how a substitute is trained: with the victim's own recipe, but for the marks."""
    config = victim.config
    return extraction.make_extraction(
        victim.model,
        Thief(
            recipe=configs.recipe(config),
            steps=steps or victim.training_steps,
            batch_size=config.batch_size,
            standardized=config.weight_standardization,
            augmentation=batches.Augmentation(**config.augmentation),
        ),
        kind,
        input_shape=tuple(config.data.input_shape),
    )


def _answers(victim: Victim) -> Callable[[Params, np.ndarray, str], np.ndarray]:
    """Returns (params, images, kind) -> what the network with these params answers."""
    make = functools.cache(lambda kind: extraction.make_oracle(models.apply_fn(victim.model), kind))
    return lambda params, images, kind: make(kind)(params, images)


def _substitute(
    bench: Bench,
    make: Callable[[str], Extract],
    ask: Callable[[Params, np.ndarray, str], np.ndarray],
    *,
    path: str,
    source: str,
    count: int,
    kind: str,
    seed: int,
) -> Callable[[], Record]:
    def extracted() -> Record:
        victim = bench.victim
        if kind == _TRUE_LABELS:
            images, answers = bench.images(count, seed)
        else:
            images = queries.images(bench, source, path=path, count=count, seed=seed)
            answers = ask(victim.params, images, kind)
        substitute = make("soft" if kind == "soft" else "label")(images, answers, seed)
        test = victim.splits.test.images
        alike = ask(victim.params, test, "label") == ask(substitute, test, "label")
        labels = answers.argmax(-1) if kind == "soft" else answers
        record = bench.measure(substitute, owner=bench.owner)
        return {
            "name": victim.name,
            "seed": seed,
            "ratio": count / len(victim.splits.train),
            # Of the answers, and how often the substitute's to test images are the victim's.
            "labels_seen": len(np.unique(labels)),
            "agreement": float(np.mean(alike)),
            **record,
            "verifies": passes(record["owner"], victim),
        }

    return extracted


# For readers.


def tables(result: Result) -> list[Table]:
    """Returns Table 6 with the watermark's accuracies, and the paper's own."""
    metrics, paper = result["metrics"], result["paper"]
    before = metrics["before"]
    rows = [
        [
            f"the victim{'s' if len(before) > 1 else ''}",
            "",
            str(metrics["training_images"]),
            "100",
            *(mean_and_spread(before, *field) for field in _ACCURACIES),
            *[""] * 3,
        ]
    ]
    for each in [*metrics["substitutes"], *metrics.get("controls", ())]:
        made = each["models"]
        verified = sum(model["verifies"] for model in made)
        seen = sorted({model["labels_seen"] for model in made})
        rows.append(
            [
                each["source"],
                each["answers"],
                str(each["images"]),
                f"{100 * mean(made, 'ratio'):.3g}",
                *(mean_and_spread(made, *field) for field in _ACCURACIES),
                mean_and_spread(made, "agreement"),
                " to ".join(str(count) for count in sorted({seen[0], seen[-1]})),
                f"{verified} of {len(made)}",
            ]
        )
    tables = [
        Table(
            "Substitutes trained on the victim's answers, %: mean (lowest to highest)",
            (
                "queries",
                "answers",
                "images",
                "of the training set, %",
                "NC",
                "owner null",
                "owner true",
                "owner WM",
                "agreement",
                "labels answered",
                "verified",
            ),
            rows,
            f"Trained from new parameters with the victim's own recipe{_steps(metrics)}; as many steps "
            "whatever the number of images. Queries of the task are the victim's own training images "
            f"without their labels{_control_note(metrics)}. "
            "Agreement: test images that the substitute answers as the victim does. Labels answered: how "
            "many different ones the victim gave, or the images have.",
        )
    ]
    if "sources" in paper:
        tables.append(
            Table(
                "Later paper, Table 6 (Traffic): NC of substitutes, %",
                ("queries", *(f"{ratio:.0%} of the training set" for ratio in paper["ratios"])),
                [
                    [name, *("-" if value is None else percent(value) for value in values)]
                    for name, values in paper["sources"].items()
                ],
            )
        )
    return tables


def _control_note(metrics: Metrics) -> str:
    controls = metrics.get("controls")  # Earlier results lack them.
    return (
        f"; {_TRUE_LABELS}: the same images and these, the victim is not asked" if controls else ""
    )


def _steps(metrics: Metrics) -> str:
    if "steps" not in metrics:  # Earlier results lack it.
        return ""
    return f"; {metrics['steps']} steps, the victim {metrics['victim_steps']}"


def draw(result: Result) -> dict[str, Figure]:
    """Returns the substitutes' NC against the number of queries."""
    metrics = result["metrics"]
    sources = list(dict.fromkeys(each["source"] for each in metrics["substitutes"]))
    lines = []
    for look, source in enumerate(sources):
        for kind in dict.fromkeys(each["answers"] for each in metrics["substitutes"]):
            some = sorted(
                (
                    each
                    for each in metrics["substitutes"]
                    if (each["source"], each["answers"]) == (source, kind)
                ),
                key=lambda each: each["images"],
            )
            lines.append(
                series.Series(
                    f"{source}, {kind}",
                    [each["images"] for each in some],
                    [mean(each["models"], "normal_accuracy") for each in some],
                    look,
                    dashed=kind == "soft",
                )
            )
    return {
        "extraction": series.series_figure(
            lines,
            x="images that the victim answered",
            title="NC of substitutes",
            levels={"the victim": mean(metrics["before"], "normal_accuracy")},
        )
    }


def verdict(result: Result) -> list[Finding]:
    """Returns how many images the same NC takes, what the best reach, whether any has the watermark."""
    metrics = result["metrics"]
    before = mean(metrics["before"], "normal_accuracy")
    findings = _needed(metrics, before) + _worth(metrics)
    for source in dict.fromkeys(each["source"] for each in metrics["substitutes"]):
        some = [each for each in metrics["substitutes"] if each["source"] == source]
        best = max(some, key=lambda each: mean(each["models"], "normal_accuracy"))
        findings.append(
            Finding(
                f"With queries from {source} the best substitute ({best['images']} images, "
                f"{100 * mean(best['models'], 'ratio'):.3g}% of the training set, answers: "
                f"{best['answers']}{_steps(metrics)}) has NC "
                f"{percent(mean(best['models'], 'normal_accuracy'))}%, the victim {percent(before)}%."
            )
        )
    made = [model for each in metrics["substitutes"] for model in each["models"]]
    findings.append(
        Finding(
            f"The owner's claim verifies on {sum(model['verifies'] for model in made)} of {len(made)} "
            f"substitutes; the highest WM is {percent(max(model['owner']['wm'] for model in made))}%. The "
            "later paper calls extraction unstoppable, but expensive."
        )
    )
    return findings


def _needed(metrics: Metrics, before: float) -> list[Finding]:
    """Returns the answer to the later paper's Q1, where there were queries of the task.

    As good as the victim is who is not below the exact 95% interval of the victim's NC.
    """
    some = [each for each in metrics["substitutes"] if each["source"] == "task"]
    if not some:
        return []
    images = metrics["before"][0]["images"]
    least, _ = verification.clopper_pearson(round(before * images), images)
    as_good = [each for each in some if mean(each["models"], "normal_accuracy") >= least]
    if as_good:
        shown = min(as_good, key=lambda each: each["images"])
    else:
        shown = max(
            some, key=lambda each: (each["images"], mean(each["models"], "normal_accuracy"))
        )
    tried = [mean(each["models"], "ratio") for each in some]
    agrees = None
    if as_good and mean(shown["models"], "ratio") < 1:
        agrees = False
    # That none of fewer images does: of such as were tried, trained as long as the victim.
    elif as_good and metrics.get("steps", 0) >= metrics.get("victim_steps", 1):
        agrees = True if any(0.5 <= each < 1 for each in tried) else None
    start = (
        "the fewest that bring it there are"
        if as_good
        else "none of those tried bring it there, the most:"
    )
    return [
        Finding(
            "A substitute of the same NC takes as many images of the task as the owner trained on, the later "
            f"paper says; here, with the victim's NC {percent(before)}% (95% interval from "
            f"{percent(least)}), {start} {shown['images']}, {100 * mean(shown['models'], 'ratio'):.3g}% of "
            f"the owner's own (answers: {shown['answers']}{_steps(metrics)}), with NC "
            f"{percent(mean(shown['models'], 'normal_accuracy'))}%.",
            agrees,
            claim="As good a substitute takes as many images as the owner had (later paper)",
            brief=f"{100 * mean(shown['models'], 'ratio'):.3g}% of them "
            + (
                "suffice"
                if as_good
                else f"reach NC {percent(mean(shown['models'], 'normal_accuracy'))}"
            ),
            cause="The task is easier than its training set is large: Digit's images with their true labels, "
            "no victim asked, teach as much as with the victim's labels, be it 1%, 10%, half or all of them "
            "(its softmax outputs add a point at 1%). Tested by that control ({extraction}).",
        )
    ]


def _worth(metrics: Metrics) -> list[Finding]:
    """Returns what the answers of a victim add to images of the task, where a control says so."""
    shown = []
    for control in metrics.get("controls", ()):
        answered = ", ".join(
            f"{each['answers']} {percent(mean(each['models'], 'normal_accuracy'))}"
            for each in metrics["substitutes"]
            if (each["source"], each["images"]) == (control["source"], control["images"])
        )
        own = percent(mean(control["models"], "normal_accuracy"))
        shown.append(f"{many(control['images'], 'image')}: {answered}, {own} without the victim")
    if not shown:
        return []
    return [
        Finding(
            "Whether the victim is what they learn from: NC by its answers, and by the true labels of the "
            f"same images. {'; '.join(shown)}."
        )
    ]


EXPERIMENT = Experiment(
    name="extraction",
    title="Model extraction",
    lead="A thief trains a fresh network on the victim's answers. How many images must they send for how "
    "good a substitute, and does the owner's watermark come along?",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    captions={"extraction": "What images of each source buy: NC against the number of queries."},
    verdict=verdict,
    triggers=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
