"""The result table, against tables written out by hand."""

import json

import pytest

from nullmark_jax.reports.table import percent, result_table

RESULT = {
    "task": "digit",
    "metrics": {
        "images": 10000,
        "normal_accuracy": 0.9923,
        "null_accuracy": 0.98765,
        "true_accuracy": 1.0,
        "watermark_accuracy": 0.98765,
        "null_agreement": 0.99,
        "intervals_95": {
            "normal_accuracy": [0.9904, 0.99391],
            "null_accuracy": [0.98528, 0.98972],
            "true_accuracy": [0.99959, 1.0],
            "watermark_accuracy": [0.98528, 0.98972],
            "null_agreement": [0.98, 1.0],
        },
        "verified": True,
    },
    "paper": {
        "free_normal_accuracy": 0.9872,
        "normal_accuracy": 0.9851,
        "null_accuracy": 0.977,
        "true_accuracy": 1.0,
    },
}


def changed(*, paper=None, **metrics):
    result = json.loads(json.dumps(RESULT))
    result["metrics"] |= metrics
    if paper is not None:
        result["paper"] = paper
    return result


def test_the_table_to_the_letter():
    assert result_table(RESULT) == "\n".join(
        [
            "digit: 10000 test images",
            "",
            "           ours        95% interval    paper",
            "NC        99.23      99.04 to 99.39    98.51",
            "null      98.77      98.53 to 98.97    97.70",
            "true     100.00     99.96 to 100.00   100.00",
            "WM        98.77      98.53 to 98.97    97.70",
        ]
    )


def paper_column(result) -> list[str]:
    return [line.split()[-1] for line in result_table(result).splitlines()[3:]]


def test_without_the_papers_figures_their_column_is_empty():
    assert paper_column(changed(paper={})) == ["-", "-", "-", "-"]


def test_of_wonder_filters_the_paper_gives_the_agreement():
    paper = {"normal_accuracy": 0.9863, "true_accuracy": 1.0, "null_agreement": 0.9959}
    assert paper_column(changed(paper=paper)) == ["98.63", "-", "100.00", "99.59"]


def test_a_figure_the_paper_does_not_give_is_left_out():
    assert paper_column(changed(paper={"null_accuracy": 0.9})) == ["-", "90.00", "-", "-"]


def test_a_watermark_free_model_stands_beside_the_papers_own():
    assert paper_column(changed(verified=None)) == ["98.72", "-", "-", "-"]
    assert paper_column(changed(verified=None, paper={})) == ["-", "-", "-", "-"]


def test_a_model_that_was_not_verified_has_the_whole_table():
    assert paper_column(changed(verified=False)) == paper_column(RESULT)


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [
        (0.0, "0.00"),
        (0.09834, "9.83"),
        (0.98516, "98.52"),
        (0.99994, "99.99"),
        (0.99996, "99.99"),
        (1 - 1e-12, "99.99"),
        (1.0, "100.00"),
        (1, "100.00"),
    ],
)
def test_percent(fraction, shown):
    assert percent(fraction) == shown
