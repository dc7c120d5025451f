"""Transfer learning: a student of another task on the owner's layers; is the watermark still in there?

    python -m nullmark_jax.experiments.transfer --config=configs/attacks/transfer.py:TASK \\
        --victim=RUN --victim=FREE_RUN --workdir=OUT

Later paper, Tables 7 and 8; earlier paper, Tables VI and VII, Figure 8: GTSRB to LISA, four ways to
fine-tune, then recovery of y_W. The side that the papers leave out: the same recovery from the student of a
watermark-free teacher, and of watermarks never embedded, must fail.
"""

import re
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from nullmark_jax import checks, claim, data, evaluation, files, models
from nullmark_jax.attacks import retraining, transfer
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.attacks.transfer import WAYS
from nullmark_jax.data import Dataset, Splits
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import experiment, transfer_tables
from nullmark_jax.experiments.bench import Bench, Outcome
from nullmark_jax.experiments.experiment import Experiment, Metrics
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.measuring import (
    Record,
    all_finite,
    derived_seed,
    passes,
)
from nullmark_jax.experiments.transfer_tables import ZEROS
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.marks import Marks
from nullmark_jax.models import Params
from nullmark_jax.optimizers import Recipe


def default() -> ml_collections.ConfigDict:
    """Returns the config with every field."""
    config = experiment.base()
    # The student's task: as config.data of a training, its labels divided by `merge`, rounded down.
    config.student = ml_collections.ConfigDict()
    config.student.source = "tfds"
    config.student.name = ""
    config.student.path = ""
    config.student.manual_dir = ""
    config.student.num_classes = 0
    config.student.merge = 1
    config.ways = WAYS
    # The later paper's: 200 epochs for the student, 6 for the recovery.
    config.epochs = 200
    config.recovery_epochs = 6
    # Of the recovery's new last layer: the papers' is one. One of zeros is tried besides.
    config.draws = 4
    config.batch_size = 128
    # Of both; the paper gives the student's alone.
    config.optimizer = ml_collections.ConfigDict(Recipe("sgd", 0.01)._asdict())
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is out of range."""
    for field in ("epochs", "recovery_epochs", "batch_size"):
        checks.integer(f"config.{field}", config[field], 1, 10**6)
    checks.integer("config.draws", config.draws, 1, 10**4)
    checks.integer("config.student.num_classes", config.student.num_classes, 2, 10**6)
    checks.integer("config.student.merge", config.student.merge, 1, 10**6)
    for way in config.ways:
        if way not in WAYS:
            raise InputError(
                f"config.ways: {checks.shown(way)} is none; take some of {', '.join(WAYS)}"
            )


def measure(config: ml_collections.ConfigDict, victims: list[Victim], journal: Journal) -> Metrics:
    """Returns the metrics: by way each teacher's student and what was recovered from it."""
    marked = [victim for victim in victims if victim.watermarks is not None]
    if not marked:
        raise InputError("--victim: all are watermark-free; give a watermarked one, too")
    student = load_student(config, marked[0])
    planned: dict[str, Callable[[], Record]] = {}
    for victim in victims:
        bench = Bench(victim, config.test_images)
        # From a free teacher the first owner's mark is looked for, which was never in it.
        owner = victim.watermarks if victim.watermarks is not None else marked[0].watermarks
        assert owner is not None
        for way in config.ways:
            kept = (
                journal.folder / "students" / f"{way.replace(' ', '_')}-{victim.name}.safetensors"
            )
            pupil = _Pupil(bench, student, way, owner, config, kept)
            planned[f"{way}/{victim.name}"] = pupil.teach_and_recover
            for start in _starts(config)[1:]:
                planned[f"{way}/{victim.name}/{start}"] = partial(pupil.recover, start)
    records = dict(journal.run(planned))
    names = {victim.name for victim in marked}
    return {
        "threshold": marked[0].config.watermark.threshold,
        "epochs": config.epochs,
        "recovery_epochs": config.recovery_epochs,
        "student_images": len(student.train),
        "optimizer": f"{config.optimizer.name} at {config.optimizer.learning_rate:g}",
        "ways": [
            {
                "way": way,
                "watermarked": _part(records, way, [v for v in victims if v.name in names], config),
                "free": _part(records, way, [v for v in victims if v.name not in names], config),
            }
            for way in config.ways
        ],
    }


def _starts(config: ml_collections.ConfigDict) -> list[str]:
    """Returns how the recovery's new last layer begins, the papers' way first."""
    return [*(f"draw {number}" for number in range(1, config.draws + 1)), ZEROS]


def _part(
    records: dict[str, Record], way: str, victims: list[Victim], config: ml_collections.ConfigDict
) -> Metrics:
    found = [records[f"{way}/{victim.name}"] for victim in victims]
    first, *others = _starts(config)
    by_start = [
        [record["recovered"] for record in found],
        *([records[f"{way}/{victim.name}/{start}"] for victim in victims] for start in others),
    ]

    def verified(recovered: list[Record], mark: str) -> int:
        return sum(
            passes(record[mark], victim) for record, victim in zip(recovered, victims, strict=True)
        )

    return {
        "models": found,
        "verified": verified(by_start[0], "owner"),
        "foreign_verified": verified(by_start[0], "foreign"),
        "starts": [
            {
                "start": start,
                "models": recovered,
                "verified": verified(recovered, "owner"),
                "foreign_verified": verified(recovered, "foreign"),
            }
            for start, recovered in zip((first, *others), by_start, strict=True)
        ],
    }


def load_student(config: ml_collections.ConfigDict, victim: Victim) -> Splits:
    """Returns the student's data, in the teacher's image shape.

    Raises:
      InputError: they cannot be loaded; names the field of `config.student`.
    """
    fields: dict[str, Any] = config.student.to_dict()
    merge = fields.pop("merge")
    try:
        splits = data.load(
            **fields,
            input_shape=tuple(victim.config.data.input_shape),
            validation_fraction=0.0,
            seed=config.seed,
        )
    except InputError as error:  # It names a training's arguments.
        names = rf"config\.data\.(?=({'|'.join(fields)})\b)"
        raise InputError(re.sub(names, "config.student.", str(error))) from error
    if merge == 1:
        return splits

    def merged(dataset: Dataset) -> Dataset:
        names = dataset.class_names
        groups = tuple("/".join(names[i : i + merge]) for i in range(0, len(names), merge))
        return Dataset(dataset.images, dataset.labels // merge, groups)

    return Splits(*(merged(each) for each in (splits.train, splits.validation, splits.test)))


class _Pupil:
    """One teacher's student by one way, and what is recovered from it.

    Args:
      bench: with the teacher.
      student: the student's data.
      way: which layers are fine-tuned.
      owner: the marks looked for.
      config: the experiment's.
      kept: the student's file, once it is taught.
    """

    def __init__(
        self,
        bench: Bench,
        student: Splits,
        way: str,
        owner: Marks,
        config: ml_collections.ConfigDict,
        kept: Path,
    ) -> None:
        victim = bench.victim
        self._bench, self._student, self._config, self._kept = bench, student, config, kept
        self._marks = {
            "owner": owner,
            "foreign": bench.pirate(derived_seed(config.seed, "foreign")),
        }
        self._shape = tuple(victim.config.data.input_shape)
        self._classes = student.train.num_classes
        self._model = models.create(
            victim.config.model, self._classes, precision=victim.config.precision
        )
        self._adversary = Adversary(
            recipe=Recipe(**config.optimizer.to_dict()),
            steps=retraining.steps_of(
                config.epochs, images=len(student.train), batch_size=config.batch_size
            ),
            batch_size=config.batch_size,
            inject_ratio=0.0,
            layers=transfer.layers(victim.params, way),
        )
        self._taught = cache(self._read_or_teach)

    def teach_and_recover(self) -> Record:
        """Returns the student's NC, and what the first start recovers, with its curve."""
        count = evaluation.make_evaluator(models.apply_fn(self._model), self._student.test)
        counts = count(self._taught(), self._marks["foreign"])
        recovered = self._recovered("draw 1", points=max(2, self._config.recovery_epochs))
        return {
            "student": float(np.ravel(counts.normal_accuracy)[0]),
            "recovered": recovered.record,
            "curve": recovered.curve,
        }

    def recover(self, start: str) -> Record:
        """Returns what the start named recovers."""
        return self._recovered(start, points=1).record

    def _recovered(self, start: str, *, points: int) -> Outcome:
        config, bench = self._config, self._bench
        again = transfer.with_new_last_layer(
            self._taught(),
            bench.victim.model,
            seed=seed_of(start, config.seed),
            input_shape=self._shape,
        )
        images = len(bench.victim.splits.train)
        return bench.attack(
            self._adversary._replace(
                steps=retraining.steps_of(
                    config.recovery_epochs, images=images, batch_size=config.batch_size
                )
            ),
            images=images,
            seed=config.seed,
            marks=self._marks,
            params=again,
            points=points,
        )

    def _read_or_teach(self) -> Params:
        """Returns the student, from its file if there is one: to teach it may take hours."""
        victim = self._bench.victim
        name, shape, classes = victim.config.model, self._shape, self._classes
        if self._kept.exists():
            return claim.read_model(
                self._kept,
                model=name,
                input_shape=shape,
                num_classes=classes,
                expected_shapes=models.parameter_shapes(name, shape, classes),
            )
        retrain = retraining.make_retraining(
            self._model, self._adversary, pattern_size=victim.pattern_size
        )
        start = transfer.with_new_last_layer(
            victim.params,
            self._model,
            seed=derived_seed(self._config.seed, "student"),
            input_shape=self._shape,
        )
        train = self._student.train
        (taught,) = retrain(
            start,
            train.images,
            train.labels,
            self._marks["foreign"],
            self._config.seed,
            [self._adversary.steps],
        )
        # One that diverged has no file, and a run that goes on teaches it again.
        if all_finite(taught.params):
            with files.writing(self._kept.parent):
                self._kept.parent.mkdir(exist_ok=True)
            claim.write_model(
                self._kept, taught.params, model=name, input_shape=shape, num_classes=classes
            )
        return taught.params


def seed_of(start: str, seed: int) -> int | None:
    """Returns the seed of a start's last layer; None for zeros."""
    if start == ZEROS:
        return None
    number = start.removeprefix("draw ")
    # The first's is what it was when it was the only one.
    return derived_seed(seed, "recovery", *(() if number == "1" else (number,)))


EXPERIMENT = Experiment(
    name="transfer",
    title="Transfer learning and recovery",
    lead="A student learns another task on the owner's layers, by which the watermark's label is lost; "
    "fine-tuning with the owner's clean images is to bring the watermark back. It must not bring back one "
    "that was never there.",
    default=default,
    check=check,
    measure=measure,
    tables=transfer_tables.tables,
    draw=transfer_tables.draw,
    verdict=transfer_tables.verdict,
    captions={
        "transfer-watermarked": "Recovery from a watermarked teacher's student, as Figure 8.",
        "transfer-ways": "Owner null in the recovery from each way's student, first draw of the last layer.",
        "transfer-free": "The same from a watermark-free teacher's: the control.",
        "transfer-starts": "What comes back, by how the recovery's new last layer begins.",
    },
    free=True,
    triggers=True,
)


if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT, sys.argv))
