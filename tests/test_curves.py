"""The figures of experiments: what is drawn is the records, in percent."""

import numpy as np
import pytest
from matplotlib import rc_context

from nullmark_jax.reports import curves, figures
from nullmark_jax.reports.curves import Line

RECORDS = [
    {"steps": 0, "nc": 1.0, "owner": {"wm": 0.75}},
    {"steps": 10, "nc": 0.5, "owner": {"wm": None}},
    {"steps": 40, "nc": 0.25, "owner": {"wm": 0.0}},
]
LINES = (Line("NC", ("nc",)), Line("owner WM", ("owner", "wm")))


def drawn(figure):
    """Returns the figure's lines by label: their x, their y."""
    (axes,) = figure.axes
    return {line.get_label(): line for line in axes.lines}


def labels(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def draw(**changes):
    given = {"x": ("steps", "training steps"), "lines": LINES, "title": "an attacker"} | changes
    return curves.curves_figure(RECORDS, **given)


def test_the_lines_are_the_records_in_percent():
    figure = draw()
    found = drawn(figure)
    assert list(found) == ["NC", "owner WM"] == labels(figure)
    for label, expected in (("NC", [100, 50, 25]), ("owner WM", [75, np.nan, 0])):
        np.testing.assert_array_equal(found[label].get_xdata(), [0, 10, 40])
        np.testing.assert_array_equal(found[label].get_ydata(), expected)
    (axes,) = figure.axes
    assert axes.get_title() == "an attacker"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training steps", "images, %")
    low, high = axes.get_ylim()
    assert low < 0 and high > 100  # so that a line at either end is seen whole
    assert axes.get_xscale() == "linear"


def test_a_threshold_and_a_paper_s_numbers():
    figure = draw(threshold=0.8, claims={"paper: NC": 0.19, "paper: null": 0.112})
    found = drawn(figure)
    assert labels(figure) == ["NC", "owner WM", "threshold", "paper: NC", "paper: null"]
    for label, value, style in (
        ("threshold", 80, ":"),
        ("paper: NC", 19, "--"),
        ("paper: null", 11.2, "--"),
    ):
        assert found[label].get_ydata() == pytest.approx([value, value])
        assert found[label].get_linestyle() == style
    # A number of the paper's has the colour of its line.
    assert found["paper: NC"].get_color() == found["NC"].get_color()
    assert found["paper: null"].get_color() == found["owner WM"].get_color()


def test_a_value_of_the_x_axis_is_an_upright_line():
    figure = draw(upright={"as many as they had": 30.0})
    assert labels(figure) == ["NC", "owner WM", "as many as they had"]
    line = drawn(figure)["as many as they had"]
    assert list(line.get_xdata()) == [30, 30] and line.get_linestyle() == "-."


def test_a_threshold_of_0_is_drawn_and_none_is_not():
    assert drawn(draw(threshold=0.0))["threshold"].get_ydata() == [0.0, 0.0]
    assert "threshold" not in drawn(draw(threshold=None))


def test_a_logarithmic_axis_has_a_place_for_0():
    figure = draw(log_x=True)
    (axes,) = figure.axes
    assert axes.get_xscale() == "symlog"
    assert -1 < axes.get_xlim()[0] < 0
    np.testing.assert_array_equal(drawn(figure)["NC"].get_xdata(), [0, 10, 40])


def test_groups_have_values_of_their_own():
    figure = curves.groups_figure(
        [("one", [1e-5, 1e-3], [1.0, 0.25]), ("two", [0.5], [0.5])],
        x="rate",
        title="t",
        upright={"the paper's rate": 1e-4},
    )
    found = drawn(figure)
    assert labels(figure) == ["one", "two", "the paper's rate"]
    np.testing.assert_array_equal(found["one"].get_xdata(), [1e-5, 1e-3])
    np.testing.assert_array_equal(found["one"].get_ydata(), [100, 25])
    np.testing.assert_array_equal(found["two"].get_ydata(), [50])
    assert list(found["the paper's rate"].get_xdata()) == [1e-4, 1e-4]
    (axes,) = figure.axes
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "rate"


def test_a_logarithmic_axis_of_values_above_0_is_plain():
    records = [{"steps": 1e-5, "nc": 0.99}, {"steps": 2000, "nc": 0.98}]
    (axes,) = curves.curves_figure(
        records, x=("steps", "steps"), lines=(Line("NC", ("nc",)),), title="t", log_x=True
    ).axes
    assert axes.get_xscale() == "log"


def test_what_all_lies_high_is_drawn_from_there():
    low, high = draw(bottom=0.95).axes[0].get_ylim()
    assert 94 < low < 95 and 100 < high < 101
    assert draw().axes[0].get_ylim() == (-3, 103)


def test_six_lines_differ_without_colour_too():
    six = tuple(Line(str(i), ("nc",)) for i in range(6))
    found = list(drawn(draw(lines=six)).values())
    assert len(found) == 6
    assert len({line.get_color() for line in found}) == 6
    assert len({line.get_marker() for line in found}) == 6


def test_one_record_is_a_point():
    figure = curves.curves_figure(RECORDS[:1], x=("steps", "s"), lines=LINES, title="t")
    assert drawn(figure)["NC"].get_ydata() == [100]


@pytest.mark.parametrize("vertical", [True, False])
def test_points(vertical):
    groups = [("a", [0.0, 50.0], [100.0, 25.0]), ("b", [10.0], [20.0])]
    figure = curves.scatter_figure(
        groups, x="true, %", y="null, %", title="t", threshold=80.0, vertical=vertical
    )
    assert labels(figure) == ["a", "b"]
    found = drawn(figure)
    for label, xs, ys in groups:
        assert list(found[label].get_xdata()) == xs and list(found[label].get_ydata()) == ys
        assert found[label].get_linestyle() == "None"
    assert found["a"].get_marker() != found["b"].get_marker()
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("true, %", "null, %", "t")
    across = [line for line in axes.lines if list(line.get_ydata()) == [80, 80]]
    upright = [line for line in axes.lines if list(line.get_xdata()) == [80, 80]]
    assert (len(across), len(upright)) == (1, int(vertical))
    assert {line.get_linestyle() for line in across + upright} == {":"}


@pytest.mark.parametrize("length", [5, 30, 31, 60])
def test_the_names_of_points_are_not_wider_than_the_figure(length, tmp_path):
    # As wide as the letters of a name are on average.
    groups = [(f"{i}" + "e" * (length - 1), [50.0], [50.0]) for i in range(3)]
    figure = curves.scatter_figure(groups, x="x", y="y", title="t", threshold=80.0)
    figures.save(figure, tmp_path / "drawn.png")
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_the_same_records_give_the_same_bytes_whatever_the_user_s_style(tmp_path):
    figures.save(draw(threshold=0.8), tmp_path / "one.png")
    with rc_context({"lines.linewidth": 31, "font.size": 31}):
        figures.save(draw(threshold=0.8), tmp_path / "two.png")
    data = (tmp_path / "one.png").read_bytes()
    assert data == (tmp_path / "two.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 5000


def test_long_names_stay_within_the_figure():
    figure = draw(lines=[Line("pirate null, at that value", ("nc",))] * 5, threshold=0.8)
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_several_models_lines_have_one_colour_and_name_and_dashes_of_their_own():
    other = [{**record, "nc": record["nc"] / 2} for record in RECORDS]
    figure = curves.curves_figure([RECORDS, other], x=("steps", "x"), lines=LINES[:1], title="")
    first, second, *in_legend = figure.axes[0].lines
    np.testing.assert_array_equal(second.get_ydata(), first.get_ydata() / 2)
    assert first.get_color() == second.get_color()
    assert labels(figure) == ["NC", "model 1", "model 2"]
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")
    assert [line.get_linestyle() for line in in_legend] == ["-", "--"]
    assert not any(len(line.get_xdata()) for line in in_legend)


def test_a_training_s_points_in_epochs():
    points = curves.in_epochs([{"steps": 0}, {"steps": 39}, {"steps": 390}], 10)
    assert points == [
        {"steps": 0, "epochs": 0.0},
        {"steps": 39, "epochs": 1.0},
        {"steps": 390, "epochs": 10.0},
    ]
    assert curves.in_epochs([{"steps": 0}], 10) == [{"steps": 0, "epochs": 0.0}]


@pytest.mark.parametrize(("log_x", "place"), [(False, 11.6), (True, 14.3)])
def test_points_beside_the_curves(log_x, place):
    """To the right of the last."""
    records = [{"at": 1, "y": 0.5}, {"at": 11, "y": 0.6}]
    figure = curves.curves_figure(
        records,
        x=("at", "at"),
        lines=[Line("y", ("y",))],
        title="t",
        log_x=log_x,
        beside=("others", [0.2, 0.9]),
    )
    (points,) = figure.axes[0].collections
    assert points.get_label() == "others"
    np.testing.assert_allclose(points.get_offsets(), [[place, 20.0], [place, 90.0]])
