"""Neural Cleanse: does a backdoor detector see the watermark, and does unlearning remove it?

    python -m nullmark_jax.experiments.neural_cleanse --config=configs/attacks/neural_cleanse.py:TASK \\
        --victim=RUN [--victim=RUN ...] --workdir=OUT

Later paper, section 8.2 and Table 5, on watermarked and on watermark-free models; then detectors whose
pattern can say +-lambda, and whose mask counts pixels.
"""

import base64
import functools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from nullmark_jax import checks, models, optimizers
from nullmark_jax.attacks import neural_cleanse, retraining, unlearning
from nullmark_jax.attacks.neural_cleanse import Find, Reach, Search
from nullmark_jax.attacks.trigger import Trigger, likeness
from nullmark_jax.attacks.unlearning import Unlearn
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import experiment
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.experiment import Experiment, Metrics
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import Record, check_images, finite, passes
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.models import Params
from nullmark_jax.optimizers import Recipe
from nullmark_jax.reports import cleanse

# (whether the pattern may leave [0, 1], whether the mask is rounded), by name.
MODES = {
    "bounded": (False, False),
    "unbounded": (True, False),
    "bounded, whole pixels": (False, True),
    "unbounded, whole pixels": (True, True),
}
# What an attacker unlearns. Which label is the owner's they would have to know.
NOTHING, TARGET, EVERY = "nothing: clean images alone", "y_W's trigger", "every label's trigger"


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # The attacker's clean images.
    config.images = 512
    config.modes = tuple(MODES)
    # Searches for each label from other initial values, of which the smallest mask that works counts.
    config.starts = 2
    # Fields of `neural_cleanse.Search`.
    config.search = ml_collections.ConfigDict()
    config.search.rounds = 100
    config.search.batches = 8
    config.search.batch_size = 32
    config.search.success = 0.99
    config.search.patience = 5
    # The original's: Adam, one epoch on a tenth of the training set, a fifth of it stamped; at its rate
    # and at lower ones.
    config.unlearning = ml_collections.ConfigDict()
    config.unlearning.optimizer = "adam"
    config.unlearning.learning_rates = (1e-3, 1e-4, 1e-5)
    config.unlearning.epochs = 1
    config.unlearning.fraction = 0.1
    config.unlearning.ratio = 0.2
    config.unlearning.batch_size = 32
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    checks.integer("config.images", config.images, 1, 10**9)
    checks.integer("config.starts", config.starts, 1, 1000)
    if not len(config.modes):
        raise InputError("config.modes: is empty; give one at least")
    for each in config.modes:
        if each not in MODES:
            raise InputError(
                f"config.modes: {checks.shown(each)} is none; take some of {', '.join(MODES)}"
            )
    for field in ("rounds", "batches", "batch_size", "patience"):
        checks.integer(f"config.search.{field}", config.search[field], 1, 10**6)
    if not len(config.unlearning.learning_rates):
        raise InputError("config.unlearning.learning_rates: is empty; give one at least")
    for rate in config.unlearning.learning_rates:
        optimizers.check_recipe(Recipe(config.unlearning.optimizer, rate))
    for field in ("epochs", "batch_size"):
        checks.integer(f"config.unlearning.{field}", config.unlearning[field], 1, 10**6)
    shares = {
        "search.success": config.search.success,
        "unlearning.fraction": config.unlearning.fraction,
        "unlearning.ratio": config.unlearning.ratio,
    }
    for name, share in shares.items():
        if not 0 < checks.real(f"config.{name}", share) <= 1:
            raise InputError(f"config.{name}: {share} is out of range; give one in (0, 1]")


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: for each model and mode its labels' masks, then what unlearning leaves."""
    for victim in victims:
        check_images(victim, config.images)
    benches = [Bench(victim, config.test_images) for victim in victims]
    # Models of one task are mostly one network, for which the search is then compiled once.
    make_search = functools.cache(
        lambda model: neural_cleanse.make_search(
            models.apply_fn(model), Search(**config.search.to_dict())
        )
    )
    searched = dict(
        journal.run(
            {
                f"{mode}/{bench.victim.name}/{label}/{start}": _search(
                    bench, config, make_search(bench.victim.model), mode, label, start
                )
                for bench in benches
                for mode in config.modes
                for label in range(bench.victim.config.data.num_classes)
                for start in range(config.starts)
            }
        )
    )
    described = []
    planned: dict[str, Callable[[], Record]] = {}
    for bench in benches:
        name = bench.victim.name
        best = {
            mode: [
                smallest([searched[f"{mode}/{name}/{label}/{s}"] for s in range(config.starts)])
                for label in range(bench.victim.config.data.num_classes)
            ]
            for mode in config.modes
        }
        described.append(_describe(bench, best))
        if bench.victim.watermarks is not None:
            planned[f"before/{name}"] = _before(bench)
        if _label(bench) is not None:
            planned |= _unlearning(bench, config, best)
    left = dict(journal.run(planned))
    first = victims[0]
    return {
        "threshold": first.config.watermark.threshold,
        "pattern_size": first.pattern_size,
        "images": config.images,
        "starts": config.starts,
        "success": config.search.success,
        "search": {name: config.search[name] for name in ("rounds", "batches", "batch_size")},
        "unlearning": config.unlearning.to_dict(),
        "models": described,
        "before": [each for name, each in left.items() if name.startswith("before/")],
        "unlearned": [each for name, each in left.items() if name.startswith("unlearned/")],
    }


def reach_of(victim: Victim, mode: str) -> Reach:
    """Returns a mode's triggers: unbounded ones lie within twice the task's lambda."""
    wide, whole = MODES[mode]
    limit = 2.0 * victim.config.watermark.extreme_value
    return Reach(-limit, limit, whole) if wide else Reach(whole=whole)


def smallest(starts: list[Record]) -> Record:
    """Returns the start with the smallest mask, of those whose trigger works where one does."""
    through = [each for each in starts if each["works"]]
    return min(through or starts, key=lambda each: each["norm"])


def _search(
    bench: Bench, config: ml_collections.ConfigDict, find: Find, mode: str, label: int, start: int
) -> Callable[[], Record]:
    def searched() -> Record:
        images, _ = bench.images(config.images, config.seed)
        seed = config.seed + 10_000 * start + label
        found = find(bench.victim.params, images, label, reach_of(bench.victim, mode), seed)
        return {
            "norm": found.norm,
            "success": found.success,
            "works": found.works,
            "rounds": found.rounds,
            "mask": pack(np.asarray(found.trigger.mask)),
            "pattern": pack(np.asarray(found.trigger.pattern)),
        }

    return searched


def _describe(bench: Bench, best: dict[str, list[Record]]) -> Record:
    """Returns a model's part of the metrics: by mode its norms, indices and y_W's trigger."""
    victim = bench.victim
    marked = victim.watermarks is not None
    target = _label(bench)
    pattern = _pattern(bench)
    described: Record = {"name": victim.name, "watermarked": marked, "target": target, "modes": {}}
    if pattern is not None:
        described["pattern"] = pattern.tolist()
    for mode, labels in best.items():
        found = neural_cleanse.anomalies([each["norm"] for each in labels])
        record: Record = {
            "norms": [each["norm"] for each in labels],
            "works": [each["works"] for each in labels],
            "index": [finite(each) for each in found.indices],
            "lowest": finite(found.lowest),
            "flagged": found.flagged,
        }
        if target is not None and pattern is not None:
            trigger = _trigger(victim, labels[target])
            alike = likeness(trigger, pattern, middle=reach_of(victim, mode).middle)
            written = np.asarray((trigger.mask[..., None] * trigger.pattern).mean(-1))
            record |= {"likeness": alike._asdict(), "written": _rounded(written)}
        described["modes"][mode] = record
    return described


def _label(bench: Bench) -> int | None:
    """Returns the label that the mark gives any image; None where there is no mark, or none such."""
    if bench.victim.watermarks is None:
        return None
    labels = np.unique(
        bench.owner.target_label[:1] if not bench.victim.has_triggers else bench.owner.target_label
    )
    return int(labels[0]) if len(labels) == 1 else None


def _pattern(bench: Bench) -> np.ndarray | None:
    """Returns null embedding's pattern; None where there is none."""
    if bench.victim.watermarks is None or bench.victim.has_triggers:
        return None
    return np.asarray(bench.watermarks.pattern[0])


def _measured(bench: Bench, params: Params) -> Record:
    record = bench.measure(params, owner=bench.owner)
    return {
        "model": bench.victim.name,
        **record,
        "verifies": passes(record["owner"], bench.victim),
    }


def _before(bench: Bench) -> Callable[[], Record]:
    return lambda: _measured(bench, bench.victim.params)


def _unlearning(
    bench: Bench, config: ml_collections.ConfigDict, best: dict[str, list[Record]]
) -> dict[str, Callable[[], Record]]:
    """Returns the measurements of a model unlearned, by name.

    All have as many triggers, so that one compilation will do: of clean images all masks are 0, and
    y_W's trigger stands in every label's place.
    """
    victim, how = bench.victim, config.unlearning
    target = int(bench.owner.target_label[0])
    count = max(1, round(how.fraction * len(victim.splits.train)))
    steps = retraining.steps_of(how.epochs, images=count, batch_size=how.batch_size)
    planned: dict[str, Callable[[], Record]] = {}
    for rate in how.learning_rates:
        unlearn = unlearning.make_unlearning(
            models.apply_fn(victim.model),
            Recipe(how.optimizer, rate),
            steps=steps,
            batch_size=how.batch_size,
            ratio=how.ratio,
        )
        for what, mode in (
            (NOTHING, ""),
            *((what, mode) for mode in config.modes for what in (TARGET, EVERY)),
        ):

            def unlearned(
                what: str = what, mode: str = mode, rate: float = rate, unlearn: Unlearn = unlearn
            ) -> Record:
                each = [_trigger(victim, record) for record in best[mode or config.modes[0]]]
                if what == NOTHING:
                    each = [trigger._replace(mask=jnp.zeros_like(trigger.mask)) for trigger in each]
                elif what == TARGET:
                    each = [each[target]] * len(each)
                triggers = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
                own = bench.images(count, config.seed)
                params = unlearn(victim.params, *own, triggers, config.seed)
                return {
                    "what": what,
                    "mode": mode,
                    "learning_rate": rate,
                    "had": count,
                    **_measured(bench, params),
                }

            planned[f"unlearned/{what}/{mode}/{rate:g}/{victim.name}"] = unlearned
    return planned


def _rounded(values: np.ndarray) -> list[list[float]]:
    """Returns a matrix with four digits a number, which will do for a figure."""
    return [[float(f"{value:.4g}") for value in row] for row in values]


def pack(values: np.ndarray) -> str:
    """Returns float32 values as text; `unpack` turns it back."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def unpack(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns what `pack` was given, float32 of that shape."""
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)


def _trigger(victim: Victim, record: Record) -> Trigger:
    height, width, channels = victim.config.data.input_shape
    return Trigger(
        jnp.asarray(unpack(record["mask"], (height, width))),
        jnp.asarray(unpack(record["pattern"], (height, width, channels))),
    )


EXPERIMENT = Experiment(
    name="neural_cleanse",
    title="Neural Cleanse",
    lead="A backdoor detector looks for a small trigger for every label and for a label whose trigger is "
    "smaller than the others'. The later paper finds that it does not see the watermark; here detectors "
    "that know of lambda stand beside its own, and what they find is unlearned.",
    default=default,
    check=check,
    measure=measure,
    tables=cleanse.tables,
    draw=cleanse.draw,
    verdict=cleanse.verdict,
    captions={
        "neural-cleanse-norms": "The smallest mask that sends images to each label.",
        "neural-cleanse-triggers": "Mask times pattern, as found for the owner's label, beside the "
        "owner's own trigger.",
    },
    free=True,
    triggers=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
