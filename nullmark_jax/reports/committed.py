"""The results that the book is made of, under results/: taken in, and read.

results/experiments/TASK/NAME[-VARIANT]/ holds an experiment's result.json and figures, of victims of the
task's own recipe or of another; results/sweeps/TASK/FIELD/ those of a sweep over a field of its config.
"""

import pathlib
from collections.abc import Callable, Sequence

from nullmark_jax import checks, files
from nullmark_jax.baselines import schemes
from nullmark_jax.config import TASKS
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.catalogue import EXPERIMENTS
from nullmark_jax.experiments.experiment import Result
from nullmark_jax.reports import sweeps
from nullmark_jax.reports.table import Table

LARGEST = 2**28
_SWEEP = "sweep"  # What a result.json of a sweep calls its experiment.


def add(root: pathlib.Path, folder: pathlib.Path, variant: str = "") -> pathlib.Path:
    """Takes an experiment's or a sweep's result.json and figures into results/; returns where they are.

    Args:
      root: the project's folder.
      folder: its run folder.
      variant: of victims that another recipe or scheme trained, its name; "" for those, and of sweeps.

    Raises:
      InputError: the folder holds no such result, one of another version of the code, or a sweep's with
        points that were not trained.
    """
    text = files.read_bounded(folder / "result.json", LARGEST)
    result = checks.json_object(text)
    name, task = result.get("experiment"), result.get("task")
    if name not in (*EXPERIMENTS, _SWEEP) or task not in TASKS:
        raise InputError(
            f"--add: {folder} holds no result of an experiment or a sweep; give its --workdir"
        )
    if name == _SWEEP:
        target = _sweep_target(root, folder, result, variant)
    else:
        target = _experiment_target(root, folder, result, variant)
    with files.writing(target):
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("*.png"):
            old.unlink()
    for figure in sorted((folder / "figures").glob("*.png")):
        files.write_whole(target / figure.name, files.read_bounded(figure, LARGEST))
    # Last: a result without its figures is none.
    files.write_whole(target / "result.json", text)
    return target


def _experiment_target(
    root: pathlib.Path, folder: pathlib.Path, result: Result, variant: str
) -> pathlib.Path:
    name = str(result["experiment"])
    _check_tables(EXPERIMENTS[name].tables, result, str(folder))
    if (
        not variant
        and result["metrics"].get("scheme") in schemes.SCHEMES
        and not name.startswith("trigger_")  # Of such victims alone.
    ):
        raise InputError(
            f"--add: {folder} is of an earlier scheme's victims; give it a --variant of its own, say adi"
        )
    if variant and not variant.isalnum():
        raise InputError(f"--variant: {checks.shown(variant)} must be letters and digits")
    return folder_of(root, str(result["task"]), name, variant)


def _sweep_target(
    root: pathlib.Path, folder: pathlib.Path, result: Result, variant: str
) -> pathlib.Path:
    _check_tables(sweeps.tables, result, str(folder))
    if variant:
        raise InputError(f"--variant: {checks.shown(variant)} is for experiments; leave it out")
    dead = result["metrics"]["dead"]
    if dead:
        raise InputError(
            f"--add: of {folder} {', '.join(dead)} are not trained; give its command again"
        )
    axis = result["metrics"]["axis"].rpartition(".")[2]
    return root / "results" / "sweeps" / str(result["task"]) / axis


def _check_tables(tables: Callable[[Result], Sequence[Table]], result: Result, where: str) -> None:
    try:
        tables(result)
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{where}: the result is of another version ({error!r} is missing); run it again"
        ) from error


def variants(root: pathlib.Path) -> list[str]:
    """Returns the names of the other recipes whose victims were attacked, in alphabetical order."""
    folders = (root / "results" / "experiments").glob("*/*-*/result.json")
    return sorted({path.parent.name.partition("-")[2] for path in folders})


def load(root: pathlib.Path, variant: str = "") -> dict[str, dict[str, Result]]:
    """Returns committed results by experiment and task, in order: a variant's, or the tasks' own."""
    found: dict[str, dict[str, Result]] = {}
    for name, experiment in EXPERIMENTS.items():
        for task in TASKS:
            path = folder_of(root, task, name, variant) / "result.json"
            if path.exists():
                result = checks.json_object(files.read_bounded(path, LARGEST))
                _check_tables(experiment.tables, result, str(path))
                found.setdefault(name, {})[task] = result
    return found


def folder_of(root: pathlib.Path, task: str, name: str, variant: str) -> pathlib.Path:
    """Returns where a result stands or is to stand, of victims of the task's own recipe with variant ""."""
    label = f"{name}-{variant}" if variant else name
    return root / "results" / "experiments" / task / label


def load_sweeps(root: pathlib.Path) -> list[tuple[pathlib.Path, Result]]:
    """Returns committed sweeps, each with its folder: by task, then by the swept field."""
    found = []
    for task in TASKS:
        for path in sorted((root / "results" / "sweeps" / task).glob("*/result.json")):
            result = checks.json_object(files.read_bounded(path, LARGEST))
            _check_tables(sweeps.tables, result, str(path))
            found.append((path.parent, result))
    return found
