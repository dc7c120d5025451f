"""Tables: a run's result as plain text, and tables of results as Markdown and HTML."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

_ROWS = (
    ("normal_accuracy", "NC"),
    ("null_accuracy", "null"),
    ("true_accuracy", "true"),
    ("watermark_accuracy", "WM"),
)


class Table(NamedTuple):
    """A table of results.

    Attributes:
      title: what it shows, a phrase.
      header: the columns' names.
      rows: cells as text, as many as columns; `**bold**` stands for what the eye should find first.
      note: what a reader must know to read it, one paragraph; "" for nothing.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """Returns the table as Markdown, its title in bold above, its note below."""
        lines = [
            f"**{self.title}**",
            "",
            _markdown_row(self.header),
            f"|{'---|' * len(self.header)}",
            *(_markdown_row(row) for row in self.rows),
        ]
        return "\n".join([*lines, "", self.note] if self.note else lines)

    def html(self) -> str:
        """Returns the table as HTML, whatever its cells hold escaped."""
        rows = [_html_row(self.header, "th"), *(_html_row(row, "td") for row in self.rows)]
        caption = f"<caption>{html.escape(self.title)}</caption>"
        note = f"<p class='note'>{html.escape(self.note)}</p>" if self.note else ""
        return f"<table>{caption}{''.join(rows)}</table>{note}"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _html_row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{_html_cell(cell)}</{tag}>' for cell in cells)}</tr>"


def _html_cell(cell: str) -> str:
    text = html.escape(cell)
    if text.startswith("**") and text.endswith("**") and len(text) > 4:
        return f"<b>{text[2:-2]}</b>"
    return text


def accuracies_table(result: dict[str, Any]) -> Table:
    """Returns NC, null, true and WM in percent, each with its 95% interval and the paper's figure.

    Args:
      result: what result.json of a training run holds.
    """
    metrics, paper = result["metrics"], dict(result["paper"])
    if metrics["verified"] is None:  # A watermark-free model: beside the paper's own.
        free = paper.get("free_normal_accuracy")
        paper = {} if free is None else {"normal_accuracy": free}
    if {"null_accuracy", "true_accuracy"} <= paper.keys():
        paper["watermark_accuracy"] = min(paper["null_accuracy"], paper["true_accuracy"])
    if {"null_agreement", "true_accuracy"} <= paper.keys():
        paper["watermark_accuracy"] = min(paper["null_agreement"], paper["true_accuracy"])
    rows = []
    for name, short in _ROWS:
        if metrics[name] is None:  # Of triggers, which have no null embedding.
            continue
        low, high = metrics["intervals_95"][name]
        theirs = percent(paper[name]) if name in paper else "-"
        rows.append([short, percent(metrics[name]), f"{percent(low)} to {percent(high)}", theirs])
    title = f"{result['task']}: {metrics['images']} test images"
    return Table(title, ("", "ours", "95% interval", "paper"), rows)


def result_table(result: dict[str, Any]) -> str:
    """Returns `accuracies_table` as lines of plain text."""
    table = accuracies_table(result)
    lines = [
        f"{name:6}{ours:>9}{interval:>20}{paper:>9}"
        for name, ours, interval, paper in (table.header, *table.rows)
    ]
    return "\n".join([table.title, "", *lines])


def many(count: int, noun: str) -> str:
    """Returns a count with its noun, "1 model" or "3 models"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def beside_papers(*numbers: tuple[int, int, str]) -> str:
    """Returns " (theirs: 100 epochs)", of each (ours, theirs, noun) where theirs is greater; "" of none."""
    more = [many(theirs, noun) for ours, theirs, noun in numbers if ours < theirs]
    return f" (theirs: {', '.join(more)})" if more else ""


def percent(fraction: float | None) -> str:
    """Returns a fraction as percent with two digits, rounded down to 99.99 unless it is 1; "" of None."""
    if fraction is None:
        return ""
    shown = f"{100 * fraction:.2f}"
    return "99.99" if shown == "100.00" and fraction < 1 else shown
