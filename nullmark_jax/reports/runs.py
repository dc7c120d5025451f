"""Several training runs as one table: the README.md of a results folder.

    python -m nullmark_jax.reports.runs --config=configs/digit.py --results=results/digit --write

Reads every *.json of a folder, each a run's result.json, and prints the Markdown that stands in
that folder's README.md: one line a run, then mean and spread, and the accuracy that the watermark
costs against the watermark-free twins. Shows curves-SEED.png, too, some watermarked run's
curves.png. `--write` writes it there, `--check` exits 1 where it is stale.
"""

import json
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from nullmark_jax import config as configs
from nullmark_jax import files, program
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.measuring import t_interval
from nullmark_jax.reports.table import percent

COLUMNS = {
    "normal_accuracy": "NC",
    "null_accuracy": "null",
    "true_accuracy": "true",
    "watermark_accuracy": "WM",
}
# Wonder filters' null embedding is to leave the model's answers as they are, right or wrong.
WONDER_COLUMNS = {
    "normal_accuracy": "NC",
    "null_accuracy": "null",
    "null_agreement": "agreement",
    "true_accuracy": "true",
    "watermark_accuracy": "WM",
}


def load_results(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the results in a folder, by file name; InputError where there are none."""
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            results.append(json.loads(files.read_bounded(path, 2**20)))
        except ValueError as error:
            raise InputError(f"{path}: is no result.json ({error}); take it out") from error
    if not results:
        raise InputError(f"{folder}: holds no result (*.json); copy some runs' result.json there")
    return results


def runs_table(
    results: list[dict[str, Any]], paper: dict[str, float], scheme: str = "null-embedding"
) -> str:
    """Returns a task's runs as Markdown; accuracies in percent.

    Args:
      results: of runs with a watermark and of twins without (whose `verified` is None).
      paper: what the scheme's paper prints, as `config.printed` returns it; may be empty.
      scheme: `config.watermark.scheme`.
    """
    wonder = scheme == "wonder-filter"
    columns = WONDER_COLUMNS if wonder else COLUMNS
    marked = [each for each in results if each["metrics"]["verified"] is not None]
    free = [each for each in results if each["metrics"]["verified"] is None]
    lines = [
        f"| run | seed | {' | '.join(columns.values())} | verified | minutes |",
        f"|---|---|{'---|' * len(columns)}---|---|",
    ]
    for kind, group in (("watermarked", marked), ("watermark-free", free)):
        for each in group:
            cells = [_with_interval(each, name) for name in columns]
            verified = {True: "yes", False: "**no**", None: "-"}[each["metrics"]["verified"]]
            minutes = f"{each['seconds'] / 60:.1f}"
            lines.append(
                f"| {kind} | {each['seed']} | {' | '.join(cells)} | {verified} | {minutes} |"
            )
    for kind, group in (("watermarked", marked), ("watermark-free", free)):
        if group:
            cells = [_mean_and_spread(group, name) for name in columns]
            lines.append(f"| **{kind}, mean (spread)** | {len(group)} | {' | '.join(cells)} | | |")
    if any(each["metrics"]["null_accuracy"] is None for each in results):
        paper = {}  # It is of null embedding; these are of triggers.
    printed, null = ("earlier", "null_agreement") if wonder else ("later", "null_accuracy")
    if null in paper:
        theirs = paper | {"watermark_accuracy": min(paper[null], paper["true_accuracy"])}
        cells = [percent(theirs.get(name)) for name in columns]
        lines.append(f"| {printed} paper, watermarked | | {' | '.join(cells)} | | |")
    if "free_normal_accuracy" in paper:
        free_accuracy = percent(paper["free_normal_accuracy"])
        rest = " |" * (len(columns) + 1)
        lines.append(f"| {printed} paper, watermark-free | | {free_accuracy} |{rest}")
    lost = _lost(marked, free)
    return "\n".join([*lines, "", lost] if lost else lines)


def _lost(marked: list[dict[str, Any]], free: list[dict[str, Any]]) -> str:
    """Returns in words what the watermark costs, from pairs of one seed; "" where there are none."""
    twins = {each["seed"]: each["metrics"]["normal_accuracy"] for each in free}
    lost = [
        100 * (twins[each["seed"]] - each["metrics"]["normal_accuracy"])
        for each in marked
        if each["seed"] in twins
    ]
    if not lost:
        return ""
    mean = statistics.mean(lost)
    text = f"NC lost against the watermark-free twin of the same seed: {_points(mean)} points"
    if len(lost) == 1:
        return text + " (one pair)."
    low, high = t_interval(lost)
    return (
        f"{text}, the mean of {len(lost)} pairs\n({_points(min(lost))} to {_points(max(lost))}; 95% t "
        f"interval of the mean {_points(low)} to {_points(high)}). Negative is a gain."
    )


def _points(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # Adding 0.0 turns a rounded -0.0 into 0.0.


def commands(results: list[dict[str, Any]]) -> str:
    """Returns where the runs came from: each run's command, and their commits and machines."""
    lines = ["```console", *(f"$ {each['environment']['command']}" for each in results), "```", ""]
    for field, title in (
        ("commit", "Commit"),
        ("date", "Date"),
        ("device", "Device"),
        ("cpus", "CPU cores"),
        ("processor", "Processor"),
        ("jax", "jax"),
        ("python", "Python"),
    ):
        # Earlier runs do not know their processor; the rest all do.
        values = {str(({"processor": "unknown"} | each["environment"])[field]) for each in results}
        if values != {"unknown"}:
            lines.append(f"- {title}: {', '.join(sorted(values))}")
    return "\n".join(lines)


def page(
    name: str,
    results: list[dict[str, Any]],
    paper: dict[str, float],
    curves: Sequence[str] = (),
    scheme: str = "null-embedding",
) -> str:
    """Returns the README.md of the results folder `name`; `curves` names its curves-SEED.png."""
    pictures = "".join(
        f"![Accuracies on validation images against epochs]({curve})\n\n"
        f"The watermarked run of seed {curve.removeprefix('curves-').removesuffix('.png')}.\n\n"
        for curve in curves
    )
    images = sorted({each["metrics"]["images"] for each in results})
    return (
        f"# {name}: runs\n\n"
        f"Accuracies in percent on {', '.join(map(str, images))} test images, which no run trained "
        "on or chose by; with exact\n95% (Clopper-Pearson) intervals. The spread is the lowest and "
        "highest run. In a watermark-free run null and true are\nof the watermark the owner would "
        "have embedded. Minutes are of the machine as it was, shared\nwith other work or not. "
        "Which data these are, and which the paper's were:\n[results](../README.md).\n\n"
        f"{runs_table(results, paper, scheme)}\n\n{pictures}{commands(results)}\n"
    )


def _with_interval(result: dict[str, Any], name: str) -> str:
    if result["metrics"][name] is None:
        return ""
    low, high = result["metrics"]["intervals_95"][name]
    return f"{percent(result['metrics'][name])} ({percent(low)} to {percent(high)})"


def _mean(results: list[dict[str, Any]], name: str) -> float:
    return statistics.mean(each["metrics"][name] for each in results)


def _mean_and_spread(results: list[dict[str, Any]], name: str) -> str:
    values = [each["metrics"][name] for each in results]
    if None in values:  # Of triggers, which have no null embedding.
        return ""
    return f"**{percent(_mean(results, name))}** ({percent(min(values))} to {percent(max(values))})"


def main(argv: list[str]) -> int:
    """Runs the program on a command line, the program's name first; returns the exit status."""
    flag_values = flags.FlagValues()
    program.define_config(flag_values, argv, "The task's config file, for the paper's figures.")
    flags.DEFINE_string("results", None, "Folder with results.", flag_values=flag_values)
    flags.DEFINE_bool("write", False, "Write README.md there.", flag_values=flag_values)
    flags.DEFINE_bool("check", False, "Exit 1 where README.md is stale.", flag_values=flag_values)
    flags.mark_flag_as_required("results", flag_values)
    return program.run(_main, flag_values, argv, __doc__ or "")


def _main(flag_values: flags.FlagValues) -> int:
    folder = pathlib.Path(flag_values.results)
    curves = sorted(path.name for path in folder.glob("curves-*.png"))
    name = folder.resolve().name
    config = flag_values.config
    text = page(
        name, load_results(folder), configs.printed(config), curves, config.watermark.scheme
    )
    readme = folder / "README.md"
    if flag_values.check:
        stale = not readme.exists() or readme.read_text() != text
        print(f"{readme}: {'is stale; write it again with --write' if stale else 'is true'}")
        return int(stale)
    if flag_values.write:
        files.write_whole(readme, text.encode())
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
