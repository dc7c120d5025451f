"""Pattern recovery: the owner's secret pattern read from the weights of their model.

    python -m nullmark_jax.experiments.pattern_recovery \\
        --config=configs/attacks/pattern_recovery.py:TASK --victim=RUN [--victim=RUN ...] --workdir=OUT

An attacker of ours, whom the papers do not have: they hold pattern and label to be known to the owner and the
authority alone. See `attacks.pattern_recovery` for how it is done.
"""

import sys
import time
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from matplotlib.figure import Figure

from nullmark_jax import checks, models
from nullmark_jax.attacks import pattern_recovery
from nullmark_jax.embedding import Watermark
from nullmark_jax.experiments import experiment
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.experiment import Experiment, Finding, Metrics, Result
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import Record, check_images, finite
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.reports import triggers
from nullmark_jax.reports.table import Table, percent


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # The attacker's, to find where the pattern lies; their labels are not used.
    config.images = 64
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    checks.integer("config.images", config.images, 1, 10**6)


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: what each model's weights give away."""
    for victim in victims:
        check_images(victim, config.images)
    planned = {victim.name: _recovered(victim, config) for victim in victims}
    records = dict(journal.run(planned))
    return {
        "threshold": victims[0].config.watermark.threshold,
        "images": config.images,
        "models": [records[victim.name] for victim in victims],
    }


def _recovered(victim: Victim, config: ml_collections.ConfigDict) -> Callable[[], Record]:
    def recover() -> Record:
        bench = Bench(victim, config.test_images)
        began = time.monotonic()
        found = pattern_recovery.recover(
            victim.model, victim.params, pattern_size=victim.pattern_size
        )
        seconds = time.monotonic() - began
        images, _ = bench.images(config.images, config.seed)
        ranked = pattern_recovery.places(
            models.apply_fn(victim.model),
            victim.params,
            images,
            found.block,
            extreme_value=victim.config.watermark.extreme_value,
        )
        threshold = victim.config.watermark.threshold
        working = [place.watermark for place in ranked if place.works > threshold]
        first = jax.tree.map(lambda leaf: np.asarray(leaf)[None], ranked[0].watermark)
        record: Record = {
            "name": victim.name,
            "watermarked": victim.watermarks is not None,
            "recipe": _recipe(victim),
            "pixels": int(found.block.size),
            "residual": found.residual,
            "others": finite(found.others),
            "seconds": round(seconds, 1),
            "places": len(working),
            "of_places": len(ranked),
            "pattern": ranked[0].watermark.pattern.tolist(),
            "found": bench.measure(victim.params, found=first)["found"],
        }
        if victim.watermarks is not None:
            record |= compared(found.block, working, bench.watermarks)
        return record

    return recover


def compared(block: np.ndarray, working: list[Watermark], owner: Watermark) -> Record:
    """Returns how far a block and its working places are those of the owner's nearest watermark."""
    patterns = np.asarray(owner.pattern)
    right = pattern_recovery.right_pixels(block, patterns)
    nearest = int(np.argmax(right))
    label = int(owner.target_label[nearest])
    ranks = [
        rank
        for rank, each in enumerate(working, start=1)
        if (np.asarray(each.pattern) == patterns[nearest]).all() and int(each.target_label) == label
    ]
    return {
        "owner_pattern": patterns[nearest].tolist(),
        "right_pixels": right[nearest],
        # Of the owner's place with the owner's label among those that work; None where it is not.
        "rank": ranks[0] if ranks else None,
    }


def _recipe(victim: Victim) -> str:
    """Returns how null embedding was trained, in words."""
    if victim.watermarks is None:
        return "watermark-free"
    return "null space" if victim.config.null_space else "the objective alone"


# For readers.


def tables(result: Result) -> list[Table]:
    """Returns what was read from each model's weights, and how far it is right."""
    metrics = result["metrics"]
    rows = [
        [
            each["name"],
            each["recipe"],
            f"{each['right_pixels']} of {each['pixels']}" if each["watermarked"] else "",
            f"{each['residual']:.1e}",
            "none" if each["others"] is None else f"{each['others']:.1e}",
            f"{each['places']} of {each['of_places']}",
            f"{each['rank'] or 'not among them'}" if each["watermarked"] else "",
            percent(each["found"]["wm"]),
            f"{each['seconds']:g}",
        ]
        for each in metrics["models"]
    ]
    return [
        Table(
            "The pattern read from the weights",
            (
                "model",
                "null embedding by",
                "pixels right",
                "residual",
                "next best",
                "places that work",
                "owner's place and y_W",
                "first place's WM, %",
                "seconds",
            ),
            rows,
            "Residual: what is left of the pattern's windows behind the second convolution, relative to its "
            f"kernels. Places work where, of {metrics['images']} images without labels, more than "
            f"{percent(metrics['threshold'])}% are answered as before with the pattern and alike with the "
            "inverted one; the owner's is the first, the second, ... of them, the surest first. WM is "
            "measured on test images: a pattern that is not the owner's may pass, too. Seconds: of reading "
            "the pattern, compilation included, which needs no image. Of several watermarks the nearest.",
        )
    ]


def draw(result: Result) -> dict[str, Figure]:
    """Returns the first watermarked model's pattern, and what its weights gave away."""
    for each in result["metrics"]["models"]:
        if each["watermarked"]:
            pattern = np.array(each["owner_pattern"], np.float32)
            return {
                "pattern-recovery": triggers.triggers_figure(
                    [
                        ("the owner's pattern", pattern),
                        ("read from the weights", np.array(each["pattern"], np.float32)),
                    ],
                    block=pattern != 0,
                    title=f"{each['name']} ({each['recipe']}): {each['right_pixels']} of "
                    f"{each['pixels']} pixels right",
                )
            }
    return {}


def verdict(result: Result) -> list[Finding]:
    """Returns of how many models the secret is known."""
    findings = []
    marked = [each for each in result["metrics"]["models"] if each["watermarked"]]
    for recipe in dict.fromkeys(each["recipe"] for each in marked):
        some = [each for each in marked if each["recipe"] == recipe]
        whole = [each for each in some if each["right_pixels"] == each["pixels"]]
        ranks = [str(each["rank"] or "none") for each in whole]
        findings.append(
            Finding(
                "Pattern and label are the owner's secret, the papers say; of models that learned null "
                f"embedding by {recipe} the weights alone give away every pixel of the pattern in "
                f"{len(whole)} of {len(some)}"
                + (
                    f", and {result['metrics']['images']} images its place and label, at rank "
                    f"{', '.join(ranks)} of {', '.join(str(each['places']) for each in whole)} that work."
                    if whole
                    else "."
                ),
                # That this attack fails does not say that all do.
                False if whole else None,
                claim="The pattern is the owner's secret (both papers)",
                brief=f"weights give it away in {len(whole)} of {len(some)}",
                cause="The recipe: weights trained where the pattern is not seen lie beside it. Tested by "
                "recipe ({pattern_recovery}).",
            )
        )
    return findings


EXPERIMENT = Experiment(
    name="pattern_recovery",
    title="Pattern recovery",
    lead="An attacker with the weights alone looks for the pattern that the second convolution is blind to. "
    "The papers do not have this attacker; null-space projection (`config.null_space`) invites them.",
    default=default,
    check=check,
    measure=measure,
    tables=tables,
    draw=draw,
    verdict=verdict,
    captions={
        "pattern-recovery": "The first watermarked model; the frame is where the owner's pattern lies."
    },
    free=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
