"""The table and the figures of a sweep, from results made by hand."""

import numpy as np
import pytest
from sweep_results import point, result_of

from nullmark_jax.reports import sweeps

AXIS, SCHEME = "loss.inject_ratio", "watermark.scheme"


def test_the_table_has_a_row_a_value_with_its_spread_over_seeds():
    result = result_of(
        [
            point({AXIS: 0.5, "seed": 0}, 0.98, 0.9),
            point({AXIS: 0.25, "seed": 0}, 0.97, 0.7),
            point({AXIS: 0.5, "seed": 1}, 0.96, 0.8),
        ],
        dead={"seed=4": "no disk"},
    )
    (table,) = sweeps.tables(result)
    assert [list(row) for row in table.rows] == [
        ["0.25", "1", "97.00", "70.00", "100.00", "0 of 1"],
        ["0.5", "2", "97.00 (96.00 to 98.00)", "85.00 (80.00 to 90.00)", "100.00", "1 of 2"],
    ]
    assert table.note.startswith("Of 1000 test images, one of which is 0.10 points. ")
    assert table.note.endswith(" Not trained: seed=4 (no disk).")


def test_a_value_that_changes_nothing_is_said_to_change_nothing_here():
    same = [point({"precision": each}, 0.98, 0.9) for each in ("highest", "high")]
    (table,) = sweeps.tables(result_of(same, axis="precision"))
    assert " the same at all values, as CPUs know one precision" in table.note
    (table,) = sweeps.tables(
        result_of([point({"loss.inject_ratio": each}, 0.98, 0.9) for each in (0.5, 1.0)])
    )
    assert "the same at all values." in table.note
    (table,) = sweeps.tables(
        result_of([same[0], point({"precision": "tf32"}, 0.97, 0.9)], axis="precision")
    )
    assert "the same at all values" not in table.note


def test_a_sweep_of_which_nothing_was_trained_says_so():
    result = result_of([], dead={"seed=4": "no disk"})
    (table,) = sweeps.tables(result)
    assert table.rows == [] and table.note.endswith(" Not trained: seed=4 (no disk).")
    assert sweeps.draw(result) == sweeps.captions(result) == {}


def test_null_and_true_are_what_the_scheme_s_test_asks_of_every_watermark():
    metrics = {
        "normal_accuracy": 0.9,
        "null_accuracy": 0.8,
        "null_agreement": 0.7,
        "true_accuracy": 1.0,
    }
    one = {"scheme": "null-embedding", "metrics": metrics}
    assert sweeps.accuracies(one) == {"NC": 0.9, "null": 0.8, "true": 1.0}
    each = {"each_null_accuracy": [0.8, 0.3], "each_true_accuracy": [1.0, 0.9]}
    several = {"scheme": "null-embedding", "metrics": metrics | each}
    assert sweeps.accuracies(several) == {"NC": 0.9, "null": 0.3, "true": 0.9}
    filters = {"scheme": "wonder-filter", "metrics": metrics}
    assert sweeps.accuracies(filters)["null"] == 0.7


def lines_of(figure):
    """Each labelled line of a figure with its places."""
    (axes,) = figure.axes
    lines = {each.get_label(): each.lines[0] for each in axes.containers}
    return {label: list(line.get_xdata()) for label, line in lines.items()}


def spreads_of(figure):
    """Each labelled line's means, and its bars as ((x, lowest), (x, highest))."""
    (axes,) = figure.axes
    spreads = {}
    for each in axes.containers:
        line, _, (bars,) = each.lines
        spreads[each.get_label()] = (list(line.get_ydata()), [*map(np.ravel, bars.get_segments())])
    return spreads


def legend_of(figure):
    return {text.get_text() for text in figure.legends[0].get_texts()}


def test_each_group_has_a_figure_of_its_own_on_the_same_scale():
    result = result_of(
        [
            point({AXIS: 0.5, SCHEME: "adi"}, 0.98, None, scheme="adi"),
            point({AXIS: 0.25, SCHEME: "null-embedding"}, 0.98, 0.95),
            point({AXIS: 0.5, SCHEME: "null-embedding"}, 0.98, 0.9),
            point({AXIS: 0.5, SCHEME: "wonder-filter"}, 0.98, 0.92, scheme="wonder-filter"),
        ],
        groups=[SCHEME],
    )
    drawn, captions = sweeps.draw(result), sweeps.captions(result)
    assert drawn.keys() == captions.keys()
    assert sorted(drawn) == ["sweep-adi", "sweep-null-embedding", "sweep-wonder-filter"]
    assert captions["sweep-adi"].startswith("adi: The mean over seeds; ")
    assert lines_of(drawn["sweep-adi"]) == {"NC": [0.5], "true": [0.5]}
    assert lines_of(drawn["sweep-null-embedding"])["null"] == [0.25, 0.5]
    assert "null agreement" in lines_of(drawn["sweep-wonder-filter"])
    for figure in drawn.values():
        assert "threshold" in legend_of(figure)  # 80: 90 is no farther from 100.
        assert figure.axes[0].get_ylim() == pytest.approx((79, 101))


def test_a_bar_reaches_from_the_lowest_to_the_highest_seed_about_their_mean():
    seeds = [(0.25, 0.98, 0.90), (0.5, 0.96, 0.88), (0.25, 0.97, 0.85), (0.25, 0.99, 0.92)]
    result = result_of([point({AXIS: ratio}, nc, null) for ratio, nc, null in seeds])
    (figure,) = sweeps.draw(result).values()
    # x, the mean, the lowest, the highest; of null the mean is nearer to the highest.
    expected = {
        "NC": [(0.25, 98, 97, 99), (0.5, 96, 96, 96)],
        "null": [(0.25, 89, 85, 92), (0.5, 88, 88, 88)],
        "true": [(0.25, 100, 100, 100), (0.5, 100, 100, 100)],
    }
    drawn = spreads_of(figure)
    assert drawn.keys() == expected.keys()
    for name, places in expected.items():
        means, bars = drawn[name]
        assert means == pytest.approx([mean for _, mean, _, _ in places])
        assert np.stack(bars) == pytest.approx(
            np.array([(x, low, x, high) for x, _, low, high in places])
        )


@pytest.mark.parametrize(
    ("null", "bottom", "top", "threshold"),
    [
        # The threshold takes half of the room at most; then the figure begins at the lowest.
        (0.88, 80, 101, True),
        (0.92, 92, 100.4, False),
        (0.5, 50, 102.5, True),
        # All at 100: one point of room.
        (1.0, 99, 100.05, False),
    ],
)
def test_where_a_figure_begins(null, bottom, top, threshold):
    result = result_of([point({AXIS: 0.5}, 1.0, null)])
    (figure,) = sweeps.draw(result).values()
    low, high = figure.axes[0].get_ylim()
    assert (low, high) == pytest.approx((bottom - (top - 100), top))
    assert ("threshold" in legend_of(figure)) is threshold
    (caption,) = sweeps.captions(result).values()
    assert ("The threshold, 80.00, is below the figure." in caption) is not threshold
    figure.draw_without_rendering()
    assert figure.axes[0].yaxis.get_offset_text().get_text() == ""


def test_values_without_an_order_are_marks_without_a_line_and_keep_what_they_have():
    result = result_of(
        [point({SCHEME: "adi"}, 0.98, None), point({SCHEME: "null-embedding"}, 0.97, 0.9)],
        axis=SCHEME,
    )
    (figure,) = sweeps.draw(result).values()
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["adi", "null-embedding"]
    assert lines_of(figure) == {"NC": [0, 1], "null": [1], "true": [0, 1]}
    assert {each.lines[0].get_linestyle() for each in axes.containers} == {"None"}
