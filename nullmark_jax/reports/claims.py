"""The book's first page: the papers' claims by task, what was found of each, and why where it was not so."""

import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nullmark_jax.config import TASKS
from nullmark_jax.experiments import functionality
from nullmark_jax.experiments.catalogue import EXPERIMENTS
from nullmark_jax.experiments.experiment import Finding
from nullmark_jax.reports import runs
from nullmark_jax.reports.committed import Found
from nullmark_jax.reports.table import Table

# Findings by experiment and task.
Said = Mapping[str, Mapping[str, Sequence[Finding]]]

# By whether what was found agrees with a claim: in a table, and before a sentence.
_WORDS = {False: "**no**", True: "yes", None: "open"}
_SENTENCES = {
    False: "*Otherwise than the paper.* ",
    True: "*As the paper says.* ",
    None: "*Open.* ",
}


def table(said: Said, found: Found, root: pathlib.Path | None = None) -> Table:
    """Returns what was found of each claim on each task, contradicted ones first, with links to the sections.

    Args:
      said: findings by experiment and task.
      found: the results that they are of.
      root: the project's folder, for tasks where training runs alone tell what a watermark costs; None not to
        look for such.
    """
    tasks = _tasks(said)
    cells: dict[str, dict[str, str]] = {}
    verdicts: dict[str, list[bool | None]] = {}
    for name, task, finding in _claimed(said):
        row = cells.setdefault(finding.claim, dict.fromkeys(tasks, ""))
        link = f"[{_WORDS[finding.agrees]}](#{anchor(f'{EXPERIMENTS[name].title}: {task}')})"
        models = len(found[name][task]["metrics"]["victims"])
        # Its one victim says with which recipe it trains its own.
        of = "" if name == functionality.EXPERIMENT.name else f"; n {models}"
        row[task] = _with(row[task].removesuffix(of), link, finding.brief) + of
        verdicts.setdefault(finding.claim, []).append(finding.agrees)
    for claim, row in cells.items():
        if root is not None and claim.startswith(functionality.COST):
            for task in tasks:
                if not row[task] and _has_twins(root, task):
                    row[task] = f"[in training](../results/{task}/README.md)"
    order = sorted(
        cells, key=lambda claim: (False not in verdicts[claim], True not in verdicts[claim])
    )
    return Table(
        "The papers' claims, and what was found",
        ("the papers say", *tasks),
        [[claim, *cells[claim].values()] for claim in order],
        "**no**: it was found not to hold. yes: it was found to hold. open: what was done is too little, or "
        "too different from what the papers did, to say. pirates, owners: how many of their "
        "claims verify afterwards. Cheap: at no more than 5 points of NC. n: the models attacked, free "
        "ones included. Empty: not measured. Each word leads to the section with the sizes and conditions.",
    )


def matrix(said: Said, page: str) -> Table:
    """Returns by claim and task whether it was found to hold, of claims that were decided on some task.

    Args:
      said: findings by experiment and task.
      page: the path of the page that the words lead to.
    """
    tasks = _tasks(said)
    cells: dict[str, dict[str, str]] = {}
    verdicts: dict[str, dict[str, set[bool | None]]] = {}
    for name, task, finding in _claimed(said):
        every = verdicts.setdefault(finding.claim, {}).setdefault(task, set())
        every.add(finding.agrees)
        # As far as any of its findings goes.
        word = next(_WORDS[each] for each in (False, None, True) if each in every)
        section = anchor(f"{EXPERIMENTS[name].title}: {task}")
        row = cells.setdefault(finding.claim, dict.fromkeys(tasks, ""))
        row[task] = f"[{word}]({page}#{section})"
    decided = {
        claim: set().union(*of_tasks.values()) - {None} for claim, of_tasks in verdicts.items()
    }
    order = sorted(
        (each for each in cells if decided[each]), key=lambda each: False not in decided[each]
    )
    return Table(
        "The papers' claims: does it hold?",
        ("the papers say", *tasks),
        [[claim, *cells[claim].values()] for claim in order],
        "open: what was done is too little to say, or too different from what the papers did.",
    )


def _with(cell: str, link: str, brief: str) -> str:
    """Returns a cell with one more finding; what stands there already is not said again."""
    before, found, own = cell.rpartition(f"{link}: ")
    if not found:
        return f"{cell}; {link}: {brief}" if cell else f"{link}: {brief}"
    return cell if brief in own.split("; ") else f"{before}{link}: {own}; {brief}"


def causes(said: Said) -> list[str]:
    """Returns a list of the contradicted claims' likely causes, with links to where these were tested."""
    found: dict[str, list[str]] = {}
    for _, _, finding in _claimed(said):
        if finding.agrees is False and finding.cause:
            found.setdefault(finding.cause, []).append(finding.claim)
    titles = {
        name: f"[{each.title}](#{anchor(each.title)})" if name in said else each.title
        for name, each in EXPERIMENTS.items()
    }
    return [
        f"- **{'; '.join(dict.fromkeys(claims))}.** {cause.format(**titles)}"
        for cause, claims in found.items()
    ]


def beside(said: Said) -> list[str]:
    """Returns a list of the experiments of which no paper claims anything, with links by task."""
    lines = []
    for name, tasks in said.items():
        if not any(finding.claim for findings in tasks.values() for finding in findings):
            title = EXPERIMENTS[name].title
            links = ", ".join(f"[{task}](#{anchor(f'{title}: {task}')})" for task in tasks)
            lines.append(f"- {title}: {links}.")
    return lines


def sentences(findings: Sequence[Finding]) -> list[str]:
    """Returns a section's findings as a list."""
    return [
        f"- {_SENTENCES[finding.agrees] if finding.claim else ''}{finding.text}"
        for finding in findings
    ]


def anchor(heading: str) -> str:
    """Returns a heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _claimed(said: Said) -> Iterator[tuple[str, str, Finding]]:
    for name, tasks in said.items():
        for task, findings in tasks.items():
            for finding in findings:
                if finding.claim:
                    yield name, task, finding


def _tasks(said: Said) -> list[str]:
    measured: set[Any] = {task for _, task, _ in _claimed(said)}
    return [task for task in TASKS if task in measured]


def _has_twins(root: pathlib.Path, task: str) -> bool:
    """Whether of a task's training runs some are watermarked and some their watermark-free twins."""
    folder = root / "results" / task
    trained = runs.load_results(folder) if any(folder.glob("*.json")) else []
    return len({each["metrics"]["verified"] is None for each in trained}) == 2
