"""The book of results: docs/results.md, docs/results-VARIANT.md, the README's tables, from results/.

    python -m nullmark_jax.reports.book --add=RUN     # take an experiment's run folder into results/
    python -m nullmark_jax.reports.book --add=RUN --variant=nullspace    # of victims of another recipe
    python -m nullmark_jax.reports.book --add=SWEEP   # a sweep's folder, the same way
    python -m nullmark_jax.reports.book               # write all again
    python -m nullmark_jax.reports.book --redraw      # the figures, too
    python -m nullmark_jax.reports.book --check       # exit 1 where they are stale

Attacks on victims of the tasks' own recipes stand in results.md, those on victims of another recipe on a
page of their own. No number in them is written by hand: a table of the papers' claims comes first, those that
were contradicted on top, and each section begins with sentences that the experiments make from their numbers.
"""

import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from nullmark_jax import config as configs
from nullmark_jax import files, program
from nullmark_jax.config import TASKS
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.catalogue import EXPERIMENTS
from nullmark_jax.experiments.experiment import Result
from nullmark_jax.experiments.experiment import findings as findings_of
from nullmark_jax.reports import claims, committed, comparison, overrides, runs, sweeps
from nullmark_jax.reports.claims import Said
from nullmark_jax.reports.committed import LARGEST, Found
from nullmark_jax.reports.table import Table, percent

_VARIANT = "# Results: "
_DATA = {
    "digit": "Digit, MNIST",
    "traffic": "Traffic, a third of GTSRB",
    "face": "Face, LFW, 158 people",
    "object": "Object, CIFAR-10",
}


# Of which victims the pages beside results.md are.
_VICTIMS = {
    "adi": "Adi et al.'s trigger sets",
    "adituned": "Adi et al.'s, tuned into finished models",
    "clippedrise": "owners with the clipped loss, lambda rising",
    "nullspace": "null-space projection",
    "plain": "quickstart without null-space projection",
    "wonder": "wonder filters, the earlier paper's scheme (its Table III, say)",
    "eight": "eight watermarks in one model",
    "xeon": "Digit's and Traffic's recipes again, on another processor",
    "zhang": "Zhang et al.'s text",
}

# What a newcomer needs for the sentences below.
_WORDS = (
    "**Words** (more in [design](design.md)). *later paper*: Li et al., null embedding; *earlier",
    "paper*: its first version, wonder filters. *NC*: accuracy on unchanged images. *null*: accuracy",
    "on images that bear the pattern p at ±lambda (2000), which is to change nothing. *true*: how",
    "often the inverse pattern gives the owner's label y_W. *WM*: the lower of null and true; a claim",
    "*verifies* where WM passes the threshold *T*, 80% (Face: 60%). *victim*: the model attacked;",
    "TASK-wm-N and TASK-free-N are the runs of seed N with and without a watermark, *free* being the",
    "same recipe without one. A *pirate* embeds a mark of their own in the owner's model. An attacker",
    'is named by loss, optimiser, rate and images, "logits, adam-tamed, 0.0001, 570 images"; *grid*:',
    "attackers that choose these. *-tamed*: with warm-up, decay and clipped gradients; *-raised*: so,",
    "and lambda rises from 1; *-null-space*: so, and trained where the pattern is not seen. *logits*",
    "and *clipped*: the cross entropy, the latter with Keras's cut of small probabilities, our",
    "reading of the earlier paper's log(0). *x 1.25*: what lambda is multiplied by from stage to",
    "stage. *not a number*: a model of NaN, which answers class 0. *FTLL*, *FTAL*,",
    "*RTLL*, *RTAL*: fine-tuning of the last layer or all layers, RT with the last one begun anew.",
    "*relabel*, *unlearn*, *break-null*: to give true copies another label, or their own, or null",
    "copies another label. *label*, *soft*: the victim answers labels, or probabilities. Models are named",
    "with the first digits of their file's SHA-256: the same training on another machine, or by an",
    "earlier recipe, has the name and other digits.",
)


def pages(root: pathlib.Path) -> dict[pathlib.Path, str]:
    """Returns the book, and the README with its tables: each page's path and its Markdown."""
    others = committed.variants(root)
    results = {variant: committed.load(root, variant) for variant in ("", *others)}
    docs, said = root / "docs", _said(results[""])
    return {
        root / "README.md": _readme(root, said),
        docs / "results.md": _own_page(root, results, said),
    } | {
        docs / f"results-{variant}.md": _variant_page(root, variant, results[variant])
        for variant in others
    }


def _readme(root: pathlib.Path, said: Said) -> str:
    text = files.read_bounded(root / "README.md", LARGEST).decode()
    tables = {
        "claims": claims.matrix(said, "docs/results.md", root),
        "results": training_table(root),
    }
    for mark, table in tables.items():
        text = with_table(text, table, mark)
    return text


def _own_page(root: pathlib.Path, results: Mapping[str, Found], said: Said) -> str:
    found = results[""]
    others = [variant for variant in results if variant]
    lines = [
        "# Results",
        "",
        "Generated from the files under `results/` by `python -m nullmark_jax.reports.book`; no number",
        "is written by hand. Accuracies are in percent, of test images that no training saw. Every",
        "experiment's section names its command, commit and machine; the training runs' stand in",
        "[results](../results/README.md). What follows: [threat model](threat_model.md).",
        "",
        *_WORDS,
        "",
    ]
    if others:
        links = "; ".join(
            f"[{_VICTIMS.get(variant, variant)}](results-{variant}.md)" for variant in others
        )
        lines += [f"Pages on victims of other recipes and schemes: {links}.", ""]
    lines += _front(said, found, root)
    lines += ["## Training", "", training_table(root).markdown(), ""]
    lines += _compared(root, results)
    return _joined([*lines, *_sections(found, said, root, ""), *_sweeps(root)])


def _compared(root: pathlib.Path, attacked: Mapping[str, Found]) -> list[str]:
    """Returns the section of the schemes' tables, of tasks with results of several."""
    results = root / "results"
    lines: list[str] = []
    for task in TASKS:
        measured = []
        for title, variant in comparison.SCHEMES:
            folder = results / (f"{task}-{variant}" if variant else task)
            training = runs.load_results(folder) if any(folder.glob("*.json")) else []
            marked = [each for each in training if each["metrics"]["verified"] is not None]
            of_task = {
                name: tasks[task]
                for name, tasks in attacked.get(variant, {}).items()
                if task in tasks
            }
            if marked or of_task:
                measured.append(comparison.Measured(title, marked, of_task))
        if len(measured) > 1:
            lines += [comparison.table(task, measured).markdown(), ""]
    return ["## Schemes side by side", "", *lines] if lines else []


def _variant_page(root: pathlib.Path, variant: str, found: Found) -> str:
    victims = f", {_VICTIMS[variant]}" if variant in _VICTIMS else ""
    lines = [
        f"{_VARIANT}{variant}{victims}",
        "",
        "Attacks on victims that another recipe or scheme than the task's own trained "
        f"([results](../results/README.md)"
        f": {variant}). Those on the tasks' own recipes: [results](results.md). Generated like that page.",
        "",
    ]
    said = _said(found)
    return _joined([*lines, *_front(said, found), *_sections(found, said, root, variant)])


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


def _said(found: Found) -> Said:
    """Returns the findings of results, by experiment and task as these are."""
    return {
        name: {task: findings_of(EXPERIMENTS[name], result) for task, result in tasks.items()}
        for name, tasks in found.items()
    }


def _front(said: Said, found: Found, root: pathlib.Path | None = None) -> list[str]:
    """Returns the claims' table, likely causes and what no paper asks; of no claims, the last alone."""
    lines: list[str] = []
    table = claims.table(said, found, root)
    if table.rows:
        lines += ["## The papers' claims", "", table.markdown(), ""]
    why = claims.causes(said)
    if why and root is not None:  # They are told once, of the tasks' own recipes.
        lines += ["### Where ours contradicts a paper: the likely cause", "", *why, ""]
    beside = claims.beside(said)
    if beside:
        lines += ["## What the papers do not ask", "", *beside, ""]
    return lines


def _sections(found: Found, said: Said, root: pathlib.Path, variant: str) -> list[str]:
    lines: list[str] = []
    models = committed.models_of(each for tasks in found.values() for each in tasks.values())
    for name, tasks in found.items():
        experiment = EXPERIMENTS[name]
        lines += [f"## {experiment.title}", "", experiment.lead, ""]
        for task, result in tasks.items():
            folder = committed.folder_of(root, task, name, variant).relative_to(root)
            title = f"{experiment.title}: {task}"
            tables = experiment.tables(result)
            sentences = claims.sentences(said[name][task])
            kept = committed.config_of(root / folder)
            otherwise = " ".join(overrides.sentences(result, root, kept))
            said_of_it = [*sentences, *(["", otherwise] if otherwise else [])]
            captions = experiment.captions
            lines += _section(title, tables, captions, result, root, folder, models, said_of_it)
    return lines


def _sweeps(root: pathlib.Path) -> list[str]:
    """Returns the section of the committed sweeps, by task and by what is swept."""
    lines: list[str] = []
    for folder, result in committed.load_sweeps(root):
        title = f"{result['metrics']['axis']}: {result['task']}"
        captions = sweeps.captions(result)
        lines += _section(
            title, sweeps.tables(result), captions, result, root, folder.relative_to(root), {}
        )
    return ["## Sweeps", "", sweeps.LEAD, "", *lines] if lines else []


def _section(
    title: str,
    tables: Sequence[Table],
    captions: Mapping[str, str],
    result: Result,
    root: pathlib.Path,
    folder: pathlib.Path,
    models: committed.Models,
    said: Sequence[str] = (),
) -> list[str]:
    lines = [f"### {title}", "", *said, *[""] * bool(said)]
    for table in tables:
        lines += [table.markdown(), ""]
    for figure, caption in captions.items():
        if (root / folder / f"{figure}.png").exists():
            lines += [f"![{caption}](../{folder.as_posix()}/{figure}.png)", "", caption, ""]
    return [*lines, *_measured_on(result), *committed.provenance(result, models)]


def _measured_on(result: Result) -> list[str]:
    """Returns the line on how many test images stand behind a section's accuracies."""
    found: dict[bool, set[int]] = {False: set(), True: set()}
    for on_curve, count in _test_images(result["metrics"]):
        found[on_curve].add(count)
    shown = {
        on_curve: " or ".join(f"{count:,}" for count in sorted(counts))
        for on_curve, counts in found.items()
    }
    parts = [f"{shown[False]} test images"] if shown[False] else []
    if shown[True] and found[True] != found[False]:
        parts.append(f"curves on {shown[True]}" if parts else f"{shown[True]} test images")
    return [f"Measured on {'; '.join(parts)}.", ""] if parts else []


def _test_images(value: Any, on_curve: bool = False) -> Iterator[tuple[bool, int]]:
    """Yields the numbers of test images in a result's records, and whether it is a curve's.

    Those of a grid's attackers, by their `way`, are the images that they had.
    """
    if isinstance(value, list):
        for each in value:
            yield from _test_images(each, on_curve)
    elif isinstance(value, dict):
        if "normal_accuracy" in value and "images" in value and "way" not in value:
            yield on_curve, value["images"]
        for name, each in value.items():
            yield from _test_images(each, on_curve or name == "curve")


def training_table(root: pathlib.Path) -> Table:
    """Returns the README's table of trainings: each task's runs beside the later paper's Table 4."""
    rows = []
    for task, title in _DATA.items():
        folder = root / "results" / task
        if not folder.is_dir():
            continue
        results = runs.load_results(folder)
        marked = [each for each in results if each["metrics"]["verified"] is not None]
        free = [each for each in results if each["metrics"]["verified"] is None]
        cells = [_cell(marked, name) for name in ("normal", "null", "true")]
        twin = _cell(free, "normal") if free else "not measured"
        rows.append([f"**{title}**", str(len(marked)), *cells, twin])
        paper = _paper(root, task)
        if paper:
            shown = [
                percent(paper[f"{name}_accuracy"])
                for name in ("normal", "null", "true", "free_normal")
            ]
            rows.append(["later paper, Table 4", "", *shown])
    return Table(
        "Trained with a watermark, %: mean (lowest to highest) over keys",
        ("task", "keys", "NC", "null", "true", "NC of the watermark-free twins"),
        rows,
    )


def _cell(results: list[dict[str, Any]], name: str) -> str:
    values = [each["metrics"][f"{name}_accuracy"] for each in results]
    middle = percent(sum(values) / len(values))
    low, high = percent(min(values)), percent(max(values))
    return middle if low == high else f"{middle} ({low} to {high})"


def _paper(root: pathlib.Path, task: str) -> dict[str, float]:
    """Returns what the papers print for a task, which its config holds; {} of other data."""
    if task == "face":  # The papers' faces are others: no row beside the stand-in's.
        return {}
    path = root / "configs" / f"{task}.py"
    return configs.printed(program.load_config_file(path).get_config())


def with_table(readme: str, table: Table, mark: str) -> str:
    """Returns the README's text with a table between its two marks.

    Raises:
      InputError: it lacks the marks.
    """
    first, last = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, begin, rest = readme.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise InputError(f"README.md: lacks {first} or {last}; put them around its table")
    return f"{before}{first}\n\n{table.markdown()}\n\n{last}{after}"


def main(argv: list[str]) -> int:
    """Runs the program on a command line, the program's name first; returns the exit status."""
    flag_values = flags.FlagValues()
    flags.DEFINE_string("root", ".", "The project's folder.", flag_values=flag_values)
    flags.DEFINE_multi_string(
        "add", [], "An experiment's run folder, or a sweep's.", flag_values=flag_values
    )
    flags.DEFINE_string(
        "variant", "", "What other recipe trained its victims.", flag_values=flag_values
    )
    flags.DEFINE_bool(
        "redraw", False, "Draw the figures of results/ anew.", flag_values=flag_values
    )
    flags.DEFINE_bool("check", False, "Exit 1 where they are stale.", flag_values=flag_values)
    return program.run(_main, flag_values, argv, __doc__ or "")


def _main(flag_values: flags.FlagValues) -> int:
    root = pathlib.Path(flag_values.root)
    for folder in flag_values.add:
        print(f"{folder}: now in {committed.add(root, pathlib.Path(folder), flag_values.variant)}")
    if flag_values.redraw:
        print(f"results/: the figures of {len(committed.redraw(root))} results are drawn anew")
    wanted = pages(root)
    stale = [
        path
        for path, text in wanted.items()
        if not path.exists() or files.read_bounded(path, LARGEST).decode() != text
    ]
    # Pages of variants that results/ no longer holds.
    pages_now = (root / "docs").glob("results-*.md")
    gone = sorted(
        path for path in set(pages_now) - set(wanted) if path.read_text().startswith(_VARIANT)
    )
    if flag_values.check:
        for path in [*stale, *gone]:
            print(f"{path}: is stale; run python -m nullmark_jax.reports.book", file=sys.stderr)
        return int(bool(stale or gone))
    for path in gone:
        path.unlink()
    for path in stale:
        files.write_whole(path, wanted[path].encode())
    changed = {"written": stale, "removed": gone}
    print(json.dumps({name: [str(path) for path in paths] for name, paths in changed.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
