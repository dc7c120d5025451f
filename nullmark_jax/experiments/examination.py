"""Examination: what an authority may do to a disputed model to tell the pirate's mark from the owner's.

    python -m nullmark_jax.experiments.examination --config=configs/attacks/examination.py:TASK \\
        --victim=RUN [--victim=RUN ...] --workdir=OUT

No paper has it. A pirate's copy carries a mark that a short training put into a finished model; the owner's
was trained in from the start. Should the two not withstand the same changes of the model (rounding, pruning,
fine-tuning), or the weights give one away and not the other, then that is evidence where both marks verify,
or where each party shows a model of their own. A watermark-free model among the victims is the control: a
mark put into it late, in a pirate's ways, may be an honest owner's.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import ml_collections
import numpy as np

from nullmark_jax import checks, optimizers
from nullmark_jax.attacks import pattern_recovery, pruning, retraining
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import attackers, examination_tables, experiment, late_marks
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.examination_tables import AS_IT_IS, LATE, ORIGINAL
from nullmark_jax.experiments.experiment import Experiment, Metrics
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.late_marks import Pirate
from nullmark_jax.experiments.measuring import (
    Record,
    check_images,
    derived_seed,
    finite,
    passes,
)
from nullmark_jax.experiments.victim import Victim, min_free_of
from nullmark_jax.marks import Marks, as_watermarks
from nullmark_jax.models import Params


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # The pirates (`late_marks.Pirate`). The last four expect an examination, and are there to pass it; the
    # last but one has as many steps as the last in all.
    config.attackers = (
        ("adam-tamed", 600, 600, 0.0, ""),
        ("adam-raised", 600, 600, 0.0, ""),
        ("adam-null-space", 600, 600, 0.0, ""),
        ("adam-raised", 5000, 3000, 0.0, ""),
        ("adam-raised", 600, 600, 0.05, ""),
        ("adam-tamed", 600, 600, 0.05, ""),
        ("adam-tamed", 600, 1200, 0.05, ""),
        ("adam-tamed", 600, 600, 0.05, "int8"),
    )
    config.learning_rate = 1e-4
    config.batch_size = 64
    # Of each, on each victim; they choose where their pattern lies.
    config.pirates = 1
    # What an authority does to a model: rounds it, prunes the smallest neurons, fine-tunes it.
    config.formats = pruning.FORMATS
    config.ratios = (0.01, 0.02, 0.05)
    # Whether the pattern is looked for in the weights, which takes most of the time.
    config.weights = True
    # Fine-tuning as the papers do, on clean images.
    config.tuning = attackers.paper_fields()
    config.tuning.inject_ratio = 0.0
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    attackers.check_paper("config.tuning", config.tuning)
    if config.tuning.inject_ratio:
        raise InputError(
            f"config.tuning.inject_ratio: {config.tuning.inject_ratio} would embed a mark; give 0"
        )
    late_marks.pirates("config.attackers", config.attackers)
    optimizers.check_learning_rate("config.learning_rate", config.learning_rate)
    for field, high in (("batch_size", 10**6), ("pirates", 1000)):
        checks.integer(f"config.{field}", config[field], 1, high)
    for ratio in config.ratios:
        pruning.check_ratio("config.ratios", ratio)
    for each in config.formats:
        if each not in pruning.FORMATS:
            raise InputError(
                f"config.formats: {checks.shown(each)} is none; take some of "
                f"{', '.join(pruning.FORMATS)}"
            )


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: each model and each copy, as it is and after each examination."""
    pirates = late_marks.pirates("config.attackers", config.attackers)
    min_free = min_free_of(victims)
    planned: dict[str, Callable[[], Record]] = {}
    counted: Counter[str] = Counter()
    for victim in victims:
        check_images(victim, max(config.tuning.images, *(each.images for each in pirates)))
        bench = Bench(victim, config.test_images)
        if victim.watermarks is not None:
            planned[f"{ORIGINAL}/{victim.name}/0"] = partial(
                _examined, bench, config, victim.params, {"owner": bench.owner}
            )
        prefix = LATE if victim.watermarks is None else ""
        # The first free model gets the marks that copies of the first owner's have, and so on.
        v = counted[prefix]
        counted[prefix] += 1
        for pirate in pirates:
            for number in range(config.pirates):
                planned[f"{prefix}{pirate.name}/{victim.name}/{number}"] = partial(
                    _copy, bench, config, pirate, derived_seed(config.seed, "pirate", v, number)
                )
    records = dict(journal.run(planned))
    kinds = [ORIGINAL, *(f"{prefix}{each.name}" for prefix in ("", LATE) for each in pirates)]
    models = {
        kind: [record for name, record in records.items() if name.startswith(f"{kind}/")]
        for kind in kinds
    }
    return {
        "threshold": victims[0].config.watermark.threshold,
        "learning_rate": config.learning_rate,
        "batch_size": config.batch_size,
        "tuning": attackers.describe(config.tuning),
        "pixels": victims[0].pattern_size ** 2,
        "min_free": min_free,
        "models": {kind: some for kind, some in models.items() if some},
    }


def _copy(bench: Bench, config: ml_collections.ConfigDict, pirate: Pirate, seed: int) -> Record:
    """Makes a pirate's copy, and examines it."""
    mark = bench.pirate(seed, choosing=True)
    owners = {} if bench.victim.watermarks is None else {"owner": bench.owner}
    params = late_marks.marked(
        bench,
        pirate,
        mark,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        seed=seed,
    )
    return _examined(bench, config, params, {**owners, "pirate": mark}) | {"seed": seed}


def _examined(
    bench: Bench, config: ml_collections.ConfigDict, params: Params, marks: Mapping[str, Marks]
) -> Record:
    """Returns what a model answers after each examination, and how far its weights give a mark away."""
    victim = bench.victim
    changed: dict[str, Callable[[], Params]] = {AS_IT_IS: lambda: params}
    for each in config.formats:
        changed[f"{each} weights"] = partial(pruning.quantise, params, each)
    for ratio in config.ratios:
        changed[f"{100 * ratio:g}% of the neurons pruned"] = partial(
            pruning.prune, victim.model, params, "neurons", "ascending", ratio
        )
    tuning = config.tuning
    steps = retraining.steps_of(tuning.epochs, images=tuning.images, batch_size=tuning.batch_size)
    changed["fine-tuned"] = partial(
        _tuned, bench, config, attackers.paper_adversary(tuning, steps), params
    )
    after = {}
    for name, change in changed.items():
        record = bench.measure(change(), **marks)
        after[name] = record | {"verified": {mark: passes(record[mark], victim) for mark in marks}}
    examined: Record = {"name": victim.name, "after": after}
    if not config.weights:
        return examined
    found = pattern_recovery.recover(victim.model, params, pattern_size=victim.pattern_size)
    return examined | {
        "read": {
            # Of several patterns of one owner the nearest.
            mark: max(
                pattern_recovery.right_pixels(found.block, np.asarray(as_watermarks(each).pattern))
            )
            for mark, each in marks.items()
        },
        # Of the block, and the least of another's.
        "residual": found.residual,
        "others": finite(found.others),
    }


def _tuned(
    bench: Bench, config: ml_collections.ConfigDict, adversary: Adversary, params: Params
) -> Params:
    (reached,) = bench.train(
        adversary,
        images=config.tuning.images,
        seed=derived_seed(config.seed, "tuning"),
        at=[adversary.steps],
        params=params,
    )
    return reached.params


EXPERIMENT = Experiment(
    name="examination",
    title="Examining a pirate's copy",
    lead="An authority has a model on which a pirate's mark verifies. Do rounding, pruning and fine-tuning "
    "it, or a look at its weights, tell that mark from an owner's? No paper asks this.",
    default=default,
    check=check,
    measure=measure,
    tables=examination_tables.tables,
    draw=examination_tables.draw,
    verdict=examination_tables.verdict,
    captions={
        "examination": "What each examination leaves: owners' marks on their models, pirates' on copies, "
        "and (late) marks put in the same ways into watermark-free models."
    },
    free=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
