"""The results that the book is made of, under results/: taken in, and read.

results/experiments/TASK/NAME[-VARIANT]/ holds an experiment's config.json, result.json and figures, of
victims of the task's own recipe or of another; results/sweeps/TASK/FIELD[-VARIANT]/ those of a sweep over a
field of its config, and of another sweep over it.
"""

import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from matplotlib.figure import Figure

from nullmark_jax import checks, files
from nullmark_jax.baselines import schemes
from nullmark_jax.config import TASKS
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.catalogue import EXPERIMENTS
from nullmark_jax.experiments.experiment import Result
from nullmark_jax.reports import figures, sweeps

LARGEST = 2**28
_SWEEP = "sweep"  # What a result.json of a sweep calls its experiment.
_Shown = TypeVar("_Shown")
# Results by experiment and task.
Found = dict[str, dict[str, Result]]


def add(root: pathlib.Path, folder: pathlib.Path, variant: str = "") -> pathlib.Path:
    """Takes an experiment's or a sweep's result.json and config.json, and draws it; returns where.

    Args:
      root: the project's folder.
      folder: its run folder.
      variant: the name of the recipe or scheme that trained the victims, where it is not the task's own; of
        a second sweep over one field, whatever tells them apart.

    Raises:
      InputError: the folder holds no such result, one of another version of the code, a sweep's with points
        that were not trained, or a sweep's that would take another one's place.
    """
    config = files.read_bounded(folder / "config.json", LARGEST)
    text = files.read_bounded(folder / "result.json", LARGEST)
    result = _parsed(text, folder / "result.json")
    name, task = result.get("experiment"), result.get("task")
    if name not in (*EXPERIMENTS, _SWEEP) or task not in TASKS:
        raise InputError(
            f"--add: {folder} holds no result of an experiment or a sweep; give its --workdir"
        )
    if variant and not variant.isalnum():
        raise InputError(f"--variant: {checks.shown(variant)} must be letters and digits")
    if name == _SWEEP:
        target = _sweep_target(root, folder, result, variant)
    else:
        target = _experiment_target(root, folder, result, variant)
    drawn = _check_version(_draw_of(name, folder), result, folder)
    _write_figures(target, drawn)
    files.write_whole(target / "config.json", config)
    # Last: a result without its figures is none.
    files.write_whole(target / "result.json", text)
    return target


def redraw(root: pathlib.Path) -> list[pathlib.Path]:
    """Draws the figures of all committed results anew, as the code now draws them; returns their folders.

    Raises:
      InputError: one cannot be read, or is of another version of the code.
    """
    patterns = ("experiments/*/*/result.json", "sweeps/*/*/result.json")
    paths = sorted(path for each in patterns for path in (root / "results").glob(each))
    for path in paths:
        result = _read(path)
        _write_figures(
            path.parent, _check_version(_draw_of(result.get("experiment"), path), result, path)
        )
    return [path.parent for path in paths]


def _draw_of(name: Any, where: pathlib.Path) -> Callable[[Result], Mapping[str, Figure]]:
    if name != _SWEEP and name not in EXPERIMENTS:
        raise InputError(f"{where}: {checks.shown(name)} is no experiment; remove its folder")
    return sweeps.draw if name == _SWEEP else EXPERIMENTS[name].draw


def _write_figures(target: pathlib.Path, figures_of: Mapping[str, Figure]) -> None:
    """Writes figures into a result's folder, and takes away what else was drawn there."""
    drawn = {f"{figure}.png": picture for figure, picture in figures_of.items()}
    with files.writing(target):
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("*.png"):
            if old.name not in drawn:
                old.unlink()
    for figure, picture in drawn.items():
        figures.save(picture, target / figure)


def _experiment_target(
    root: pathlib.Path, folder: pathlib.Path, result: Result, variant: str
) -> pathlib.Path:
    name = str(result["experiment"])
    _check_version(EXPERIMENTS[name].tables, result, folder)
    if (
        not variant
        and result["metrics"].get("scheme") in schemes.SCHEMES
        and not name.startswith("trigger_")  # Of such victims alone.
    ):
        raise InputError(
            f"--add: {folder} is of an earlier scheme's victims; give it a --variant of its own, say adi"
        )
    return folder_of(root, str(result["task"]), name, variant)


def _sweep_target(
    root: pathlib.Path, folder: pathlib.Path, result: Result, variant: str
) -> pathlib.Path:
    _check_version(sweeps.tables, result, folder)
    metrics = result["metrics"]
    axis = metrics["axis"]
    if not re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)*", axis):
        raise InputError(
            f"--add: {folder} is a sweep over {checks.shown(axis)}, which is no field of a config; give "
            "a sweep's --workdir"
        )
    if metrics["dead"]:
        raise InputError(
            f"--add: of {folder} {', '.join(metrics['dead'])} are not trained; give its command again"
        )
    if not metrics["points"]:
        raise InputError(f"--add: {folder} has no points; give a sweep's --workdir")
    target = root / "results" / "sweeps" / str(result["task"]) / _named(axis, variant)
    if (target / "result.json").exists():
        there = _read(target / "result.json")["metrics"]
        if _values(there) != _values(metrics):
            raise InputError(
                f"--add: {target} holds another sweep over {axis} than {folder}; give this one a "
                "--variant, or remove that one"
            )
    return target


def _values(metrics: Result) -> list[Any]:
    """Returns what is varied in a sweep, as text that does not depend on the points' order."""
    return sorted(str(point["values"]) for point in metrics["points"])


def _parsed(text: bytes, path: pathlib.Path) -> Result:
    try:
        return checks.json_object(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read(path: pathlib.Path) -> Result:
    return _parsed(files.read_bounded(path, LARGEST), path)


def _check_version(show: Callable[[Result], _Shown], result: Result, where: pathlib.Path) -> _Shown:
    """Returns what the book shows of a result; raises InputError where the result lacks it."""
    try:
        provenance(result, models_of([result]))
        return show(result)
    except (KeyError, TypeError, IndexError, AttributeError, StopIteration) as error:
        raise InputError(
            f"{where}: the result is of another version, or damaged ({error!r}); run it again"
        ) from error


Models = dict[str, set[str]]


def models_of(results: Iterable[Result]) -> Models:
    """Returns the models that were attacked: by name, the first six digits of each file's SHA-256."""
    found: Models = {}
    for result in results:
        for each in result["metrics"].get("victims", ()):  # A sweep has none.
            found.setdefault(each["name"], set()).add(each["model_sha256"][:6])
    return found


def provenance(result: Result, models: Models) -> list[str]:
    """Returns the Markdown of how a result was made: command, models, commit, machine, seed and minutes.

    Args:
      result: of an experiment or a sweep.
      models: all that the page is of: a model that has its name from several trainings is marked.
    """
    where = result["environment"]
    shown = []
    for name, digests in models_of([result]).items():
        others = sorted(models[name] - digests)
        also = f"; in other sections {', '.join(others)}" if others else ""
        shown.append(f"{name} ({', '.join(sorted(digests))}{also})")
    of_models = f"Models: {', '.join(shown)}. " if shown else ""
    processor = f" ({where['processor']})" if where.get("processor") else ""
    return [
        "```console",
        f"$ {where['command']}",
        "```",
        "",
        f"{of_models}Commit {where['commit'] or 'unknown'}, "
        f"{where['date']}; {where['device']}, {where['cpus']} cores{processor}, "
        f"jax {where['jax']}; seed {result['seed']}; {result['seconds'] / 60:.1f} minutes of the "
        "machine as it was.",
        "",
    ]


def variants(root: pathlib.Path) -> list[str]:
    """Returns the names of the other recipes whose victims were attacked, in alphabetical order."""
    folders = (root / "results" / "experiments").glob("*/*-*/result.json")
    return sorted({path.parent.name.partition("-")[2] for path in folders})


def load(root: pathlib.Path, variant: str = "") -> Found:
    """Returns committed results by experiment and task, in order: a variant's, or the tasks' own.

    Raises:
      InputError: one cannot be read, or is of another version of the code.
    """
    found: Found = {}
    for name, experiment in EXPERIMENTS.items():
        for task in TASKS:
            path = folder_of(root, task, name, variant) / "result.json"
            if path.exists():
                result = _read(path)
                _check_version(experiment.tables, result, path)
                found.setdefault(name, {})[task] = result
    return found


def folder_of(root: pathlib.Path, task: str, name: str, variant: str) -> pathlib.Path:
    """Returns where a result stands or is to stand, of victims of the task's own recipe with variant ""."""
    return root / "results" / "experiments" / task / _named(name, variant)


def config_of(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns what config.json beside a committed result holds; None where there is none."""
    path = folder / "config.json"
    return _read(path) if path.exists() else None


def _named(name: str, variant: str) -> str:
    return f"{name}-{variant}" if variant else name


def load_sweeps(root: pathlib.Path) -> list[tuple[pathlib.Path, Result]]:
    """Returns committed sweeps, each with its folder: by task, then by the swept field.

    Raises:
      InputError: one cannot be read, or is of another version of the code.
    """
    found = []
    for task in TASKS:
        for path in sorted((root / "results" / "sweeps" / task).glob("*/result.json")):
            result = _read(path)
            _check_version(sweeps.tables, result, path)
            found.append((path.parent, result))
    return found
