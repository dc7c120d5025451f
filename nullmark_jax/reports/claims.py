"""The book's first page: the papers' claims by task, what was found of each, and why where it was not so."""

import pathlib
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
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
_ORDER = (False, None, True)
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

    def cell(name: str, task: str, findings: Sequence[Finding]) -> str:
        briefs: dict[bool | None, list[str]] = {}
        for each in findings:
            briefs.setdefault(each.agrees, []).append(each.brief)
        link = anchor(f"{EXPERIMENTS[name].title}: {task}")
        parts = [
            f"[{_WORDS[agrees]}](#{link}): {'; '.join(dict.fromkeys(briefs[agrees]))}"
            for agrees in _ORDER
            if agrees in briefs
        ]
        models = max(each.models for each in findings) or len(
            found[name][task]["metrics"]["victims"]
        )
        # Its one victim says with which recipe it trains its own.
        return "; ".join(
            parts if name == functionality.EXPERIMENT.name else [*parts, f"n {models}"]
        )

    return Table(
        "The papers' claims, and what was found",
        ("the papers say", *_tasks(said)),
        _rows(said, cell, root, "../"),
        "**no**: it was found not to hold. yes: it was found to hold. open: what was done is too little, or "
        "too different from what the papers did, to say. pirates, owners: how many of their claims verify "
        "afterwards. Cheap: at no more than 5 points of NC. n: the models attacked, free ones included. "
        "Empty: not measured. Each word leads to the section with the sizes and conditions.",
    )


def matrix(said: Said, page: str, root: pathlib.Path | None = None) -> Table:
    """Returns by claim and task whether it was found to hold, of claims that were decided on some task.

    Args:
      said: findings by experiment and task.
      page: the path of the page that the words lead to.
      root: as in `table`.
    """

    def cell(name: str, task: str, findings: Sequence[Finding]) -> str:
        # As far as any of its findings goes.
        found = {each.agrees for each in findings}
        word = next(_WORDS[each] for each in _ORDER if each in found)
        return f"[{word}]({page}#{anchor(f'{EXPERIMENTS[name].title}: {task}')})"

    decided = {each.claim for _, _, each in _claimed(said) if each.agrees is not None}
    return Table(
        "The papers' claims: do they hold?",
        ("the papers say", *_tasks(said)),
        [row for row in _rows(said, cell, root, "") if row[0] in decided],
        "open: what was done is too little to say, or too different from what the papers did. Empty: not "
        "measured.",
    )


def _rows(
    said: Said,
    cell: Callable[[str, str, Sequence[Finding]], str],
    root: pathlib.Path | None,
    up: str,
) -> list[list[str]]:
    """Returns a row for each claim: contradicted ones first, then those that hold somewhere."""
    tasks = _tasks(said)
    of_claim: dict[str, dict[str, tuple[str, list[Finding]]]] = {}
    for name, task, finding in _claimed(said):
        _, findings = of_claim.setdefault(finding.claim, {}).setdefault(task, (name, []))
        findings.append(finding)
    rows = []
    for claim, by_task in of_claim.items():
        verdicts = {each.agrees for _, findings in by_task.values() for each in findings}
        cells = [
            cell(by_task[task][0], task, by_task[task][1]) if task in by_task else ""
            for task in tasks
        ]
        if root is not None and claim.startswith(functionality.COST):
            cells = [
                own or (f"[in training]({up}results/{task}/README.md)" * _has_twins(root, task))
                for own, task in zip(cells, tasks, strict=True)
            ]
        rows.append(((False not in verdicts, True not in verdicts), [claim, *cells]))
    return [row for _, row in sorted(rows, key=lambda each: each[0])]


def causes(said: Said) -> list[str]:
    """Returns a list of the contradicted claims' likely causes, with links to where these were tested.

    A cause that names an experiment of which there is no result is left out.
    """
    found: dict[str, list[str]] = {}
    for _, _, finding in _claimed(said):
        named = {name for _, name, _, _ in string.Formatter().parse(finding.cause) if name}
        if finding.agrees is False and finding.cause and named <= set(said):
            found.setdefault(finding.cause, []).append(finding.claim)
    titles = {name: f"[{each.title}](#{anchor(each.title)})" for name, each in EXPERIMENTS.items()}
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
