"""A run's result as a small table of plain text."""

from typing import Any

_ROWS = (
    ("normal_accuracy", "NC"),
    ("null_accuracy", "null"),
    ("true_accuracy", "true"),
    ("watermark_accuracy", "WM"),
)


def result_table(result: dict[str, Any]) -> str:
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
    lines = [f"{result['task']}: {metrics['images']} test images", ""]
    lines.append(f"{'':6}{'ours':>9}{'95% interval':>20}{'paper':>9}")
    for name, short in _ROWS:
        low, high = metrics["intervals_95"][name]
        interval = f"{percent(low)} to {percent(high)}"
        theirs = percent(paper[name]) if name in paper else "-"
        lines.append(f"{short:6}{percent(metrics[name]):>9}{interval:>20}{theirs:>9}")
    return "\n".join(lines)


def percent(fraction: float) -> str:
    """Returns a fraction as percent with two digits, rounded down to 99.99 unless it is 1."""
    shown = f"{100 * fraction:.2f}"
    return "99.99" if shown == "100.00" and fraction < 1 else shown
