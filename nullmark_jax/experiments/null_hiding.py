"""Null hiding: the owner turns the null embedding into a true one, and brings it back when asked.

    python -m nullmark_jax.experiments.null_hiding --config=configs/attacks/null_hiding.py:TASK \\
        --victim=RUN [--victim=RUN ...] --workdir=OUT

Earlier paper, section VIII-B, appendix B and Figure 11. "Any null embedding that can be restored must have
been hidden there by the owner" is put to the test: watermarks that were never embedded are brought back in
the same way, on the watermarked model and on free ones.
"""

import itertools
import sys
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from matplotlib.figure import Figure

from nullmark_jax import checks, losses, optimizers
from nullmark_jax.attacks import retraining
from nullmark_jax.attacks.corruption import corruption
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import attackers, experiment
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import Record, check_images, derived_seed, mean_and_spread
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.marks import as_watermarks
from nullmark_jax.models import Params
from nullmark_jax.optimizers import Recipe
from nullmark_jax.reports import curves
from nullmark_jax.reports.table import Table, many, percent


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # Hiding: so many images for so many epochs.
    config.images = 5000
    config.epochs = (1, 2, 5, 10)
    # Recovery: one epoch over this fraction of the training set (the paper's: all of it).
    config.recovery_fraction = 1.0
    config.recovery_null_space = False
    config.batch_size = 128
    config.learning_rate = 1e-3
    # The earlier paper's is the clipped one.
    config.cross_entropies = ("logits", "clipped")
    # Watermarks never embedded, on each model.
    config.foreign = 10
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    checks.integer("config.images", config.images, 1, 10**9)
    checks.integer("config.batch_size", config.batch_size, 1, 10**6)
    checks.integer("config.foreign", config.foreign, 1, 10**4)
    for epochs in config.epochs:
        checks.integer("config.epochs", epochs, 1, 10**5)
    if not len(config.cross_entropies):
        raise InputError("config.cross_entropies: is empty; give ('logits',) say")
    for name in config.cross_entropies:
        losses.cross_entropy(name, field="config.cross_entropies")
    if not 0 < checks.real("config.recovery_fraction", config.recovery_fraction) <= 1:
        raise InputError(
            f"config.recovery_fraction: {config.recovery_fraction} is out of range; "
            "give one in (0, 1]"
        )
    optimizers.check_learning_rate("config.learning_rate", config.learning_rate)


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: the owner's mark hidden and recovered, and foreign ones "recovered"."""
    planned: dict[str, Callable[[], Record]] = {}
    for victim in victims:
        check_images(victim, config.images)
        bench = Bench(victim, config.test_images)
        for loss in config.cross_entropies:
            if victim.watermarks is not None:
                for epochs in config.epochs:
                    name = f"{loss}, owner {epochs}/{victim.name}"
                    planned[name] = _hidden(bench, epochs, config, loss)
            for index in range(config.foreign):
                name = f"{loss}, foreign {index}/{victim.name}"
                planned[name] = _never_embedded(bench, index, config, loss)
    records = dict(journal.run(planned))
    marked = [victim.name for victim in victims if victim.watermarks is not None]
    return {
        "threshold": victims[0].config.watermark.threshold,
        "images": config.images,
        "recovery_fraction": config.recovery_fraction,
        "owner": [
            {
                "cross_entropy": loss,
                "epochs": epochs,
                "models": [records[f"{loss}, owner {epochs}/{name}"] for name in marked],
            }
            for loss, epochs in itertools.product(config.cross_entropies, config.epochs)
            if marked
        ],
        "foreign": [
            {
                "cross_entropy": loss,
                "watermarked": victim.name in marked,
                "name": victim.name,
                "models": [
                    records[f"{loss}, foreign {index}/{victim.name}"]
                    for index in range(config.foreign)
                ],
            }
            for loss, victim in itertools.product(config.cross_entropies, victims)
        ],
    }


def _hidden(
    bench: Bench, epochs: int, config: ml_collections.ConfigDict, cross_entropy: str
) -> Callable[[], Record]:
    def hide_and_recover() -> Record:
        own = jax.tree.map(lambda leaf: np.asarray(leaf)[:1], bench.watermarks)
        plan = corruption(own, "break-null", num_classes=bench.victim.config.data.num_classes)
        adversary = Adversary(
            recipe=Recipe("adam", config.learning_rate, clip_norm=1.0),
            steps=retraining.steps_of(epochs, images=config.images, batch_size=config.batch_size),
            cross_entropy=cross_entropy,
            batch_size=config.batch_size,
            true_weight=plan.true_weight,
            null_weight=plan.null_weight,
        )
        (hidden,) = bench.train(
            adversary,
            images=config.images,
            seed=config.seed,
            at=[adversary.steps],
            embedded=plan.embedded,
        )
        return {
            "before": bench.measure(bench.victim.params, mark=own),
            "hidden": bench.measure(hidden.params, mark=own),
            "recovered": _recovered(bench, hidden.params, own, config, cross_entropy, config.seed),
        }

    return hide_and_recover


def _never_embedded(
    bench: Bench, index: int, config: ml_collections.ConfigDict, cross_entropy: str
) -> Callable[[], Record]:
    def recover() -> Record:
        seed = derived_seed(config.seed, "foreign", index)
        mark = as_watermarks(bench.pirate(seed, choosing=True))
        return {
            "before": bench.measure(bench.victim.params, mark=mark),
            "recovered": _recovered(bench, bench.victim.params, mark, config, cross_entropy, seed),
        }

    return recover


def _recovered(
    bench: Bench,
    params: Params,
    mark: Watermark,
    config: ml_collections.ConfigDict,
    cross_entropy: str,
    seed: int,
) -> Record:
    """Measures the model after one epoch of the null term alone, whoever's the mark."""
    images = max(1, round(config.recovery_fraction * len(bench.victim.splits.train)))
    adversary = Adversary(
        recipe=Recipe("adam", config.learning_rate, clip_norm=1.0),
        steps=retraining.steps_of(1, images=images, batch_size=config.batch_size),
        cross_entropy=cross_entropy,
        batch_size=config.batch_size,
        true_weight=0.0,
        null_space=config.recovery_null_space,
    )
    (reached,) = bench.train(
        adversary, images=images, seed=seed, at=[adversary.steps], embedded=mark, params=params
    )
    return bench.measure(reached.params, mark=mark)


# For readers.


def tables(result: Result) -> list[Table]:
    """Returns null accuracy before, hidden and recovered, of the owner's and of foreign marks."""
    metrics = result["metrics"]
    rows = []
    for each in metrics["owner"]:
        name = f"the owner's, hidden for {many(each['epochs'], 'epoch')}, {_loss(each)}"
        rows.append(_row(name, each["models"], metrics["threshold"]))
    for each in metrics["foreign"]:
        kind = "watermarked" if each["watermarked"] else "free"
        name = f"never embedded, {each['name']} ({kind}), {_loss(each)}"
        rows.append(_row(name, each["models"], metrics["threshold"]))
    return [
        Table(
            "Null accuracy, %: mean (lowest to highest)",
            (
                "watermark",
                "of them",
                "before",
                "hidden",
                "recovered",
                "NC then",
                "recovered above T",
                "true then",
                "verified then",
            ),
            rows,
            "Hidden and recovered with Adam and the cross entropy named; the earlier paper's is the clipped "
            f"one. Hidden with {metrics['images']} images; recovered with one epoch of the null "
            f"term over {percent(metrics['recovery_fraction'])}% of the training set. Where null "
            "accuracy of marks that were never embedded recovers as well, its recovery proves nothing.",
        )
    ]


def _loss(each: Record) -> str:
    return str(each.get("cross_entropy", "logits"))  # Earlier results are all from logits.


def _of_loss(parts: list[Record], loss: str) -> list[Record]:
    return [each for each in parts if _loss(each) == loss]


def _row(name: str, models: list[Record], threshold: float) -> list[str]:
    null = [
        mean_and_spread(models, part, "mark", "null") if part in models[0] else ""
        for part in ("before", "hidden", "recovered")
    ]
    passed = sum(each["recovered"]["mark"]["null"] > threshold for each in models)
    accuracy = mean_and_spread(models, "recovered", "normal_accuracy")
    true = mean_and_spread(models, "recovered", "mark", "true")
    verified = sum(each["recovered"]["mark"]["wm"] > threshold for each in models)
    above, whole = (f"{count} of {len(models)}" for count in (passed, verified))
    return [name, str(len(models)), *null, accuracy, above, true, whole]


def draw(result: Result) -> dict[str, Figure]:
    """Returns Figure 11 by loss: null after hiding and after recovery, by epochs of hiding."""
    metrics = result["metrics"]
    drawn = {}
    for loss in dict.fromkeys(map(_loss, metrics["owner"])):
        owner = _of_loss(metrics["owner"], loss)
        if len(owner) < 2:  # Of one hiding there is no curve.
            continue
        # The curves are the first watermarked victim's: so are the marks that it never had.
        marked = (each for each in _of_loss(metrics["foreign"], loss) if each["watermarked"])
        control = [each["recovered"]["mark"]["null"] for each in next(marked)["models"]]
        drawn["null-hiding" if loss == "logits" else f"null-hiding-{loss}"] = curves.curves_figure(
            [{"epochs": each["epochs"], **each["models"][0]} for each in owner],
            x=("epochs", "epochs of hiding"),
            lines=(
                curves.Line("null, hidden", ("hidden", "mark", "null")),
                curves.Line("null, recovered", ("recovered", "mark", "null")),
                curves.Line("NC, recovered", ("recovered", "normal_accuracy")),
            ),
            title=f"hiding and recovering the null embedding, {loss}",
            threshold=metrics["threshold"],
            beside=("null, never embedded", control),
        )
    return drawn


def verdict(result: Result) -> list[Finding]:
    """Returns whether recovery tells what was embedded from what never was."""
    metrics = result["metrics"]
    less = metrics["images"] < attackers.PAPERS_IMAGES or metrics["recovery_fraction"] < 1
    findings, restored = [], set()
    for loss in dict.fromkeys(map(_loss, metrics["owner"])):
        owner = [m for each in _of_loss(metrics["owner"], loss) for m in each["models"]]
        null = sum(each["recovered"]["mark"]["null"] > metrics["threshold"] for each in owner)
        whole = sum(each["recovered"]["mark"]["wm"] > metrics["threshold"] for each in owner)
        hidden = sum(each["hidden"]["mark"]["null"] <= metrics["threshold"] for each in owner)
        if hidden and null == len(owner):
            restored.add(loss)
        findings.append(
            Finding(
                "The owner's null embedding can be hidden and brought back, the earlier paper says; by Adam "
                f"with {_called(loss)}, null is at or below the threshold after {hidden} of "
                f"{many(len(owner), 'hiding')}, above it in {null} after one epoch of recovery, and the "
                f"claim verifies in {whole}.",
                # Of what was never hidden nothing was brought back; with less training than theirs it may
                # not come.
                True if hidden == null == len(owner) else None if less or not hidden else False,
                claim="A hidden null embedding comes back (earlier paper)",
                brief=f"null in {null} of {len(owner)}, the claim in {whole} ({loss})"
                if hidden
                else f"never hidden ({loss})",
                cause="The loss: the clipped one, the paper's, hides null and does not bring it back, as it "
                "trains no pirate's in; with logits null comes back. Tested by loss ({null_hiding}).",
            )
        )
    for each in metrics["foreign"]:
        marks = [m["recovered"]["mark"] for m in each["models"]]
        back = sum(mark["null"] > metrics["threshold"] for mark in marks)
        whole = sum(mark["wm"] > metrics["threshold"] for mark in marks)
        findings.append(
            Finding(
                "Only a null embedding that was hidden can be brought back, the earlier paper says; on "
                f"{each['name']} ({'watermarked' if each['watermarked'] else 'free'}), by Adam with "
                f"{_called(_loss(each))}, {back} of {len(marks)} that never were come back above the "
                f"threshold, {whole} of them with true above it, too.",
                # Where the owner's own does not come back either, nothing is told apart.
                False if back else True if _loss(each) in restored else None,
                claim="Only a hidden null embedding comes back (earlier paper)",
                brief=f"{back} of {len(marks)} foreign marks do "
                f"({'watermarked' if each['watermarked'] else 'free'}, {_loss(each)})",
                cause="With logits an epoch of the null term alone over the training set embeds foreign "
                "marks anew, at some cost in NC; with the clipped loss none comes back, but the owner's does "
                "not, either. Tested by loss ({null_hiding}).",
            )
        )
    return findings


def _called(loss: str) -> str:
    return "the cross entropy from logits" if loss == "logits" else f"the {loss} cross entropy"


EXPERIMENT = Experiment(
    name="null_hiding",
    title="Null hiding and recovery",
    lead="The earlier paper's owner hides the null embedding by training another label onto it, and brings "
    "it back with an epoch of training. Beside it: marks that were never there, brought back alike.",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    verdict=verdict,
    captions={
        "null-hiding": "As the earlier paper's Figure 11, on the first victim, with logits; diamonds: marks "
        "that were never embedded, each after the same recovery.",
        "null-hiding-clipped": "The same with the clipped cross entropy, the earlier paper's.",
    },
    free=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
