"""Several runs at once: from their configs to a run folder each, trained as a population.

Each folder ends as `run.train_and_evaluate` leaves it; the model is that of the run alone but for the
rounding of sums in another order, which training makes grow. A checkpoint is written where SIGTERM comes,
once a minute, and after the last epoch; a run goes on from it at once with others that are as far, or alone.
"""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from nullmark_jax import config as configs
from nullmark_jax import (
    data,
    environment,
    evaluation,
    folder,
    models,
    optimizers,
    outcome,
    parallel,
    populations,
    process,
    run,
    stopping,
    trainer,
    training,
)
from nullmark_jax.batches import Batch
from nullmark_jax.checkpoint import Checkpoint, Checkpoints
from nullmark_jax.data.dataset import stratified_split
from nullmark_jax.errors import InputError, TrainingDiverged
from nullmark_jax.marks import Marks, count
from nullmark_jax.owner import Owner
from nullmark_jax.progress import Progress

# Between two checkpoints of all members, which take a tenth of a second each.
_SAVE_SECONDS = 60.0
_RECORDED = ("loss", "normal_accuracy", "null_accuracy", "true_accuracy")


class Run(NamedTuple):
    """One of the runs.

    Attributes:
      name: by which the caller knows it.
      config: as `nullmark_jax.config.default` describes it.
      folder: the run folder.
      command: what trains it alone, for result.json.
    """

    name: str
    config: ml_collections.ConfigDict
    folder: pathlib.Path
    command: str


class _Member(NamedTuple):
    """A run that has begun; its folder is locked.

    Attributes:
      run: which.
      owner: who signs it.
      marks: a population (leading axis K >= 1).
      start: where it goes on from.
      history: the records of the epochs until there.
      seconds: that these took.
      initial_digest: of the file of the parameters that it began with.
      held_out: the rows of its validation split, int64 [V].
      plan: epoch -> its batches, of rows of the whole training set.
    """

    run: Run
    owner: Owner
    marks: Marks
    start: Checkpoint
    history: list[dict[str, Any]]
    seconds: float
    initial_digest: str
    held_out: np.ndarray
    plan: Callable[[int], Batch]


Ends = dict[str, InputError | TrainingDiverged]
OnDead = Callable[[str, TrainingDiverged], None]


def train_and_evaluate(
    runs: Sequence[Run],
    *,
    at_once: int | None = None,
    on_dead: OnDead = lambda name, error: None,
) -> Ends:
    """Trains the runs, at most `at_once` at a time, and writes and verifies each as a run alone does.

    Args:
      runs: of one `config.training_program`. All are locked until the last one has ended.
      at_once: how many; None for as many as the devices take (`populations.at_once`).
      on_dead: called with a run's name as soon as its loss is no longer finite.

    Returns:
      By name why a run has no result: its loss stopped being finite, or its own key, model or folder
      cannot be used. The others are none the worse for it.

    Raises:
      InputError: the runs cannot be trained together: configs are not alike, or their data cannot be used.
      Preempted: SIGTERM came; the states of those under way are in their folders.
    """
    if not runs:
        return {}
    process.prepare()
    parallel.check_platform()
    for each in runs:
        configs.check(each.config)
    first = runs[0].config
    wanted = {configs.training_program(each.config) for each in runs}
    if len(wanted) > 1 or None in wanted:
        raise InputError(
            "--points: their configs ask for different programs, or for one that is trained alone; give "
            "points that differ in seed, owner or extreme value alone"
        )
    arguments = run.data_arguments(first) | {"validation_fraction": 0.0}
    splits = data.load(**arguments, seed=first.seed)
    if not trainer.is_resident(first, splits.train):
        raise InputError(
            f"config.resident_bytes: {first.resident_bytes} is less than the training set, which runs at "
            f"once have on the device; give {splits.train.images.nbytes}, or --population=never"
        )
    # Before the training, which the source tree may not wait for.
    where = environment.describe("")
    together = _Together(first, splits, on_dead)
    with (
        Progress(total=together.steps * first.epochs * len(runs)) as progress,
        contextlib.ExitStack() as held,
    ):
        members, ends = together.begin(runs, held)
        for some in _shares(members, at_once or populations.at_once()):
            ends |= together.train(some, where, progress)
    return ends


def _shares(members: Sequence["_Member"], most: int) -> Iterator[Sequence["_Member"]]:
    """Yields members in equal shares of at most `most`, as far as can be: each size is compiled anew."""
    if not members:
        return
    number = -(-len(members) // most)
    each = -(-len(members) // number)
    for start in range(0, len(members), each):
        yield members[start : start + each]


class _Together:
    """The compiled programs of runs that are alike, and the data that they share.

    Attributes:
      steps: of an epoch.

    Args:
      config: of any of the runs.
      splits: its data, with no validation split.
      on_dead: as `train_and_evaluate` has it.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, splits: data.Splits, on_dead: OnDead
    ) -> None:
        # Which images they are depends on the seed, how many does not.
        kept, _ = stratified_split(splits.train.labels, config.data.validation_fraction, 0)
        self.steps = len(kept) // config.batch_size
        self._splits, self._epochs, self._on_dead = splits, config.epochs, on_dead
        model = models.create(config.model, config.data.num_classes, precision=config.precision)
        step, self._optimizer, project = trainer.make_step(
            config, model, max(self.steps, 1), average=lambda tree: tree
        )
        self._run = populations.on_devices(step)
        self._projected = jax.jit(jax.vmap(project))
        self._learning_rate = optimizers.learning_rate(
            configs.recipe(config), self.steps * config.epochs
        )
        # Here, and not where they are used: they are on the devices once.
        self._images, self._labels = parallel.replicate((splits.train.images, splits.train.labels))
        evaluator = partial(evaluation.make_population_evaluator, models.apply_fn(model))
        self._validate = evaluator(self._images, self._labels)
        self._test = evaluator(splits.test.images, splits.test.labels)

    def begin(self, runs: Sequence[Run], held: contextlib.ExitStack) -> tuple[list[_Member], Ends]:
        """Returns the runs that can be trained, locked in `held`, and why others cannot.

        They go on from the last state that all have, from the beginning where none has any.
        """
        kept = [folder.kept_steps(each.folder) for each in runs]
        shared = max(set.intersection(*kept), default=0)
        members, ends = [], Ends()
        for each, own in zip(runs, kept, strict=True):
            try:
                if own and not shared:
                    raise InputError(
                        f"--workdir: {each.folder} goes on after {max(own)} steps, others do not; "
                        "train it alone"
                    )
                members.append(self._begin(each, shared, held))
            except InputError as error:
                ends[each.name] = error
        return members, ends

    def _begin(self, each: Run, after: int, held: contextlib.ExitStack) -> _Member:
        """Checks what a run needs, then makes its folder and locks it; it goes on after so many steps."""
        config, whole = each.config, self._splits.train
        fraction = config.data.validation_fraction
        kept, held_out = stratified_split(whole.labels, fraction, config.seed)
        own = data.Splits(whole.take(kept), whole.take(held_out), self._splits.test)
        initial, digest = run.initial_params(config)
        # No batch is shared, whatever the number of devices.
        owner, marks = run.begin_run(config, each.folder, own, digest, held, devices=1)
        start = Checkpoint(
            training.init_state(initial, self._optimizer), trainer.no_metrics(self.steps)
        )
        if after:
            with Checkpoints(each.folder / "checkpoints") as checkpoints:
                start = checkpoints.at(after, start)
        history = folder.read_history(each.folder, after // self.steps)
        seconds = folder.read_seconds(each.folder, after)
        of_own = trainer.make_plan(config, own.train, count(marks), devices=1)

        def plan(epoch: int) -> Batch:
            batch = of_own(epoch)
            return batch._replace(index=kept[batch.index].astype(np.int32))

        return _Member(each, owner, marks, start, history, seconds, digest, held_out, plan)

    def train(self, members: Sequence[_Member], where: dict[str, Any], progress: Progress) -> Ends:
        """Trains members that are equally far at once, to their results.

        Args:
          members: some.
          where: as `environment.describe` returns it, of no command.
          progress: of the steps of all runs.

        Returns:
          Why those without a result have none.
        """
        ends: Ends = {}
        histories = [list(each.history) for each in members]
        seconds = [each.seconds for each in members]
        marks = populations.stack([each.marks for each in members])
        held_out = np.stack([each.held_out for each in members])
        starts = populations.stack([each.start for each in members])
        done, into = divmod(int(members[0].start.state.step), self.steps)
        progress.advance((done * self.steps + into) * len(members))
        params: models.Params = self._projected(starts.state.params, marks)
        started = saved = time.monotonic()
        with stopping.asked_to_stop() as asked_to_stop:
            parts = populations.fit(
                starts.state,
                self._run,
                self._images,
                self._labels,
                marks,
                plan=lambda epoch: populations.stack([each.plan(epoch) for each in members]),
                parts=self._epochs,
                first=done + 1,
                before=jax.tree.map(lambda field: field[:, :into], starts.metrics),
                asked_to_stop=asked_to_stop,
            )
            for epoch, part in enumerate(parts, start=done + 1):
                params = self._projected(part.params, marks)
                complete = part.metrics.loss.shape[1] == self.steps
                counts = [None] * len(members)
                if complete and held_out.size:
                    counts = self._validate(params, marks, held_out)
                # A member's share, so that the seconds of all add up.
                share = (time.monotonic() - started) / len(members)
                for i, (each, history) in enumerate(zip(members, histories, strict=True)):
                    if each.run.name in ends:
                        continue
                    own = populations.member(part.metrics, i)
                    why = training.divergence(own, epoch, self.steps, self._learning_rate)
                    if why:
                        ends[each.run.name] = dead = TrainingDiverged(why)
                        self._on_dead(each.run.name, dead)
                        continue
                    seconds[i] = each.seconds + share
                    if complete:
                        history.append(outcome.epoch_record(epoch, own, counts[i]))
                    try:
                        folder.write_history(each.run.folder, history)
                        folder.write_seconds(each.run.folder, seconds[i])
                    except InputError as error:
                        ends[each.run.name] = error
                alive = [i for i, each in enumerate(members) if each.run.name not in ends]
                if not alive:
                    return ends
                late = time.monotonic() - saved > _SAVE_SECONDS
                if part.stopped or (complete and (late or epoch == self._epochs)):
                    ends |= self._save(part, {i: members[i].run for i in alive})
                    saved = time.monotonic()
                if part.stopped:
                    raise stopping.Preempted(
                        f"terminated; the states of {len(alive)} runs in epoch {epoch} are in their folders: "
                        "give the same command again to go on"
                    )
                progress.advance((self.steps - into) * len(members))
                into = 0
                progress.note({"epoch": epoch} | _means([histories[i][-1] for i in alive]))
                process.after_epoch(epoch - done)
        every = np.broadcast_to(
            np.arange(len(self._splits.test)), (len(members), len(self._splits.test))
        )
        tests = self._test(params, marks, every)
        params = jax.device_get(params)
        for i, (each, history) in enumerate(zip(members, histories, strict=True)):
            if each.run.name not in ends:
                reached = populations.member(params, i)
                told = where | {"command": each.run.command, "trained_at_once": len(members)}
                self._finish(each, reached, history, tests[i], told, seconds[i])
        return ends

    def _save(self, part: populations.Part, runs: dict[int, Run]) -> Ends:
        """Writes the checkpoints of members, by their place; returns why some could not be written."""
        ends: Ends = {}
        states = part.state()
        for i, each in runs.items():
            metrics = trainer.under_way(populations.member(part.metrics, i), self.steps)
            state = populations.member(states, i)
            try:
                with Checkpoints(each.folder / "checkpoints") as checkpoints:
                    checkpoints.save(Checkpoint(state, metrics))
            except InputError as error:
                ends[each.name] = error
        return ends

    def _finish(
        self,
        member: _Member,
        params: models.Params,
        history: list[dict[str, Any]],
        test: Any,
        where: dict[str, Any],
        seconds: float,
    ) -> None:
        """Writes what a run's end leaves in its folder."""
        config, path = member.run.config, member.run.folder
        metrics = run.write_outcome(
            config,
            path,
            member.owner,
            member.marks,
            params,
            history,
            test,
            self._splits.test,
            initial_digest=member.initial_digest,
        )
        run.write_result(config, path, metrics, where, seconds)


def _means(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns the mean over members of what progress shows of an epoch."""
    shown = [name for name in _RECORDED if name in records[0]]
    return {name: math.fsum(each[name] for each in records) / len(records) for name in shown}
