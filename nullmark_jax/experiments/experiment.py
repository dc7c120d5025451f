"""What every experiment's program shares: victims and config in, a run folder out."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from matplotlib.figure import Figure

from nullmark_jax import checks, environment, files, parallel, process, program
from nullmark_jax import config as configs
from nullmark_jax.baselines import schemes
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.victim import Victim, load_victims
from nullmark_jax.folder import claim_folder, to_json
from nullmark_jax.reports import figures, page
from nullmark_jax.reports.table import Table

Metrics = dict[str, Any]
Result = dict[str, Any]


class Finding(NamedTuple):
    """A sentence of the book of results.

    Attributes:
      text: what a paper claims, where one does, and what was found.
      agrees: whether what was found is as the paper says; None where none says anything of it, or where what
        was done is too little or too different to confirm or contradict it.
      claim: what a paper says, in a few words, the same on every task; "" where none says anything. Where
        agrees is not None, one does.
      brief: what was found, in a few words.
      cause: where agrees is False, the likely cause and where it was tested, with experiments' names in
        braces; "" where none is known.
      models: how many it is of; 0 for all of the experiment's victims.
    """

    text: str
    agrees: bool | None = None
    claim: str = ""
    brief: str = ""
    cause: str = ""
    models: int = 0


class Experiment(NamedTuple):
    """An experiment: all that its program, its report and the book of results need.

    Attributes:
      name: its module's and its config's.
      title: for readers.
      lead: what is measured, for readers, a paragraph.
      default: () -> its config with every field; `base` makes the common ones.
      check: raises InputError where a field of its own is out of range.
      measure: (config, victims, journal) -> result.json's metrics.
      tables: what result.json holds -> tables.
      draw: likewise -> figures by name.
      captions: by name of a figure, what it shows.
      verdict: what result.json holds -> what a paper claims and what was found.
      free: whether watermark-free models are victims, too.
      triggers: whether models marked by an earlier scheme's triggers are.
      speaks_of_triggers: whether its verdict is on those, too.
    """

    name: str
    title: str
    lead: str
    default: Callable[[], ml_collections.ConfigDict]
    check: Callable[[ml_collections.ConfigDict], None]
    measure: Callable[[ml_collections.ConfigDict, list[Victim], Journal], Metrics]
    tables: Callable[[Result], Sequence[Table]]
    draw: Callable[[Result], Mapping[str, Figure]]
    captions: Mapping[str, str]
    verdict: Callable[[Result], Sequence[Finding]] = lambda result: ()
    free: bool = False
    triggers: bool = False
    speaks_of_triggers: bool = False


def findings(experiment: Experiment, result: Result) -> Sequence[Finding]:
    """Returns an experiment's sentences on a result.

    What papers claim of null embedding they do not claim of earlier designs' triggers: of those there are
    only the sentences that speak of them.
    """
    if result["metrics"].get("scheme") in schemes.SCHEMES and not experiment.speaks_of_triggers:
        return ()
    return experiment.verdict(result)


def base() -> ml_collections.ConfigDict:
    """Returns the fields that every experiment's config has."""
    config = ml_collections.ConfigDict()
    config.task = ""
    # Of the attackers' images, watermarks and orders.
    config.seed = 0
    # Where the victims' data are now; "" for where their runs had them.
    config.data_path = ""
    # Test images that accuracies are measured on; 0 for all.
    config.test_images = 0
    # What the papers print, for the tables beside ours.
    config.paper = ml_collections.ConfigDict()
    return config


def run(
    experiment: Experiment,
    config: ml_collections.ConfigDict,
    folders: list[str],
    workdir: pathlib.Path,
    *,
    command: str = "",
) -> Result:
    """Runs an experiment, or goes on with an interrupted one; writes its run folder.

    Args:
      experiment: which.
      config: as its `default` describes it.
      folders: its victims' run folders.
      workdir: its own.
      command: what was run, for result.json.

    Returns:
      What result.json holds.

    Raises:
      InputError: the config, a victim or the folder cannot be used; nothing was measured or written.
    """
    configs.check_fields(config, experiment.default(), "config")
    if config.task not in configs.TASKS:
        raise InputError(
            f"config.task: {checks.shown(config.task)} is none; "
            f"take one of {', '.join(configs.TASKS)}"
        )
    checks.integer("config.seed", config.seed, 0, 2**31 - 1)
    checks.integer("config.test_images", config.test_images, 0, 10**9)
    experiment.check(config)
    process.prepare()
    parallel.check_platform()
    victims = load_victims(
        folders,
        task=config.task,
        data_path=config.data_path,
        free=experiment.free,
        triggers=experiment.triggers,
    )
    # What the folder is of: the config and the very models.
    stated = ml_collections.ConfigDict(config.to_dict())
    stated.experiment = experiment.name
    stated.victims = [{"name": each.name, "model_sha256": each.sha256} for each in victims]
    where = environment.describe(command)
    with contextlib.ExitStack() as held:

        def begin() -> None:
            held.enter_context(claim_folder(workdir, stated))

        journal = Journal(
            workdir, begin=begin, commit=where["commit"], processor=where["processor"]
        )
        metrics = experiment.measure(config, victims, journal)
        return _write(experiment, config, victims, journal, metrics, where, workdir)


def _write(
    experiment: Experiment,
    config: ml_collections.ConfigDict,
    victims: list[Victim],
    journal: Journal,
    metrics: Metrics,
    where: dict[str, Any],
    workdir: pathlib.Path,
) -> Result:
    """Writes figures, result.json and report.html; returns what result.json holds."""
    # Of an interrupted one all: those that measured, and the one that ended it.
    for field, of_records in (("commit", journal.commits), ("processor", journal.processors)):
        found = dict.fromkeys([*of_records, where[field]])
        where[field] = ", ".join(each or "unknown" for each in found)
    metrics["scheme"] = victims[0].scheme
    metrics["victims"] = [
        {"name": each.name, "seed": each.config.seed, "model_sha256": each.sha256}
        for each in victims
    ]
    result = {
        "experiment": experiment.name,
        "task": config.task,
        "seed": config.seed,
        "metrics": metrics,
        "paper": config.paper.to_dict(),
        "environment": where,
        "seconds": round(journal.seconds, 1),
    }
    for name, figure in experiment.draw(result).items():
        figures.save(figure, workdir / "figures" / f"{name}.png")
    files.write_whole(workdir / "result.json", to_json(result))
    page.write_page(
        workdir,
        title=f"{experiment.title}: {config.task}",
        lead=experiment.lead,
        tables=experiment.tables(result),
        captions=experiment.captions,
        result=result,
    )
    return result


def main(experiment: Experiment, argv: list[str]) -> int:
    """Runs an experiment's program on a command line, its name first; returns the exit status."""
    flag_values = flags.FlagValues()
    program.define_config(
        flag_values, argv, f"configs/attacks/{experiment.name}.py:TASK or :TASK,smoke."
    )
    flags.DEFINE_multi_string(
        "victim",
        [],
        "A run folder of the main program; may be given again.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "workdir",
        None,
        f"runs/{experiment.name}-TASK where none is given.",
        flag_values=flag_values,
    )

    command = program.command_line(f"nullmark_jax.experiments.{experiment.name}", argv)

    def body(flag_values: flags.FlagValues) -> int:
        config = flag_values.config
        workdir = flag_values.workdir or f"runs/{experiment.name}-{config.get('task', '')}"
        victims = list(flag_values.victim)
        result = run(experiment, config, victims, pathlib.Path(workdir), command=command)
        for table in experiment.tables(result):
            print(table.markdown(), end="\n\n")
        print(f"the run is in {workdir}; open its report.html")
        return 0

    return program.run(body, flag_values, argv, f"{experiment.title}. {experiment.lead}")
