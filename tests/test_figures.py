"""Tests of nullmark_jax.reports.figures: what is drawn, the files' bytes, bad input."""

import hashlib
import io
import math
import os
import struct
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
from nullmark_jax.reports import figures

# Row 1, column 2 of 4 x 6; p's block is [[1, -1], [-1, -1]].
PATTERN = np.array(
    [[0, 0, 0, 0, 0, 0], [0, 0, 1, -1, 0, 0], [0, 0, -1, -1, 0, 0], [0, 0, 0, 0, 0, 0]], np.int8
)
WATERMARK = Watermark(PATTERN, np.int32(7), np.float32(2000))
ORANGE, BLUE = (0xE6, 0x9F, 0x00), (0x00, 0x72, 0xB2)


def record(epoch, normal, null, true):
    return {
        "epoch": epoch,
        "loss": 1.0,
        "normal_accuracy": normal,
        "null_accuracy": null,
        "true_accuracy": true,
    }


HISTORY = [record(1, 0.5, 0.1, 0.25), record(2, 0.75, 0.5, 1.0), record(3, 0.97, 0.95, 1.0)]


def drawn(axes):
    """Returns the image an axes shows, as uint8 RGB."""
    (image,) = axes.get_images()
    values = np.asarray(image.get_array())
    return values if values.dtype == np.uint8 else np.round(255 * values).astype(np.uint8)


def signs(axes):
    """Returns the (row, column) of every sign drawn, by its marker."""
    return {
        line.get_marker(): {
            (int(row), int(column))
            for column, row in zip(line.get_xdata(), line.get_ydata(), strict=True)
        }
        for line in axes.get_lines()
    }


def labelled(axes):
    """Returns the lines of an axes by their legend label."""
    return {line.get_label(): line for line in axes.get_lines()}


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def png(figure, tmp_path, name="figure.png"):
    figures.save(figure, tmp_path / name)
    return (tmp_path / name).read_bytes()


def test_pattern_shows_white_black_and_grey_where_p_is_1_minus_1_and_0():
    whole, block = figures.pattern_figure(WATERMARK).axes
    grey, white, black = [0xA6] * 3, [255] * 3, [0] * 3
    expected = np.full((4, 6, 3), 0xA6, np.uint8)
    expected[1, 2], expected[1, 3], expected[2, 2], expected[2, 3] = white, black, black, black
    np.testing.assert_array_equal(drawn(whole), expected)
    assert drawn(whole)[0, 0].tolist() == grey
    np.testing.assert_array_equal(drawn(block), [[white, black], [black, black]])


def test_pattern_names_label_lambda_n_and_position():
    figure = figures.pattern_figure(WATERMARK)
    title = figure.get_suptitle()
    assert title == "$y_W$ = 7   λ = 2000   n = 2   at row 1, column 2"
    assert [axes.get_title() for axes in figure.axes] == ["p, 4 × 6", "its block, 2 × 2"]
    assert legend(figure) == ["1: +λ", "−1: −λ", "0: unchanged"]


def test_pattern_block_lies_at_its_own_rows_and_columns_with_a_grid_between_its_pixels():
    whole, block = figures.pattern_figure(WATERMARK).axes
    assert whole.get_images()[0].get_extent() == [-0.5, 5.5, 3.5, -0.5]
    assert block.get_images()[0].get_extent() == [1.5, 3.5, 2.5, 0.5]
    (frame,) = whole.patches
    assert (frame.get_x(), frame.get_y(), frame.get_width()) == (1.5, 0.5, 2)
    across, down = block.get_lines()
    assert list(across.get_ydata()) == [1.5, 1.5]
    assert list(down.get_xdata()) == [2.5, 2.5]


@pytest.mark.parametrize(
    "pattern",
    [
        np.zeros((4, 6), np.int8),
        np.where(PATTERN == 1, 0, PATTERN).astype(np.int8),  # a hole in the block
        np.pad(np.ones((2, 3), np.int8), 1),  # not square
        PATTERN[None],  # a population
    ],
)
def test_pattern_of_another_form_is_refused(pattern):
    with pytest.raises(InputError, match=r"^watermark: ") as error:
        figures.pattern_figure(WATERMARK._replace(pattern=pattern))
    assert "\n" not in str(error.value)


def test_examples_show_x_and_paint_its_copies_where_p_says():
    image = np.arange(24, dtype=np.uint8).reshape(4, 6, 1) * 10
    clean, null, true = figures.examples_figure(image, WATERMARK).axes
    grey = np.repeat(image, 3, axis=-1)
    np.testing.assert_array_equal(drawn(clean), grey)

    expected = grey.copy()
    expected[1, 2] = ORANGE
    expected[1, 3] = expected[2, 2] = expected[2, 3] = BLUE
    np.testing.assert_array_equal(drawn(null), expected)
    assert signs(null) == {"+": {(1, 2)}, "_": {(1, 3), (2, 2), (2, 3)}}

    expected[1, 2] = BLUE
    expected[1, 3] = expected[2, 2] = expected[2, 3] = ORANGE
    np.testing.assert_array_equal(drawn(true), expected)
    assert signs(true) == {"_": {(1, 2)}, "+": {(1, 3), (2, 2), (2, 3)}}


def test_examples_never_paint_pixels_within_the_range():
    extremes = np.zeros((4, 6, 3), np.uint8)
    extremes[:, ::2] = 255
    clean, _, _ = figures.examples_figure(extremes, WATERMARK).axes
    np.testing.assert_array_equal(drawn(clean), extremes)
    assert signs(clean) == {"+": set(), "_": set()}


def test_examples_say_what_is_drawn_and_which_label_it_has():
    image = np.zeros((4, 6, 3), np.uint8)
    figure = figures.examples_figure(image, WATERMARK)
    assert [axes.get_title() for axes in figure.axes] == [
        "x",
        "null: x ⊕ [p, λ]",
        "true: x ⊕ [inv(p), λ]",
    ]
    assert [axes.get_xlabel() for axes in figure.axes] == ["label y", "label y", "label $y_W$ = 7"]
    assert legend(figure) == ["+: +λ = 2000", "−: −λ = −2000"]


def test_examples_draw_colour_in_colour_and_other_channels_as_their_grey_mean():
    colour = np.zeros((4, 6, 3), np.uint8)
    colour[0, 0] = (10, 20, 30)
    assert drawn(figures.examples_figure(colour, WATERMARK).axes[0])[0, 0].tolist() == [10, 20, 30]
    two = np.zeros((4, 6, 2), np.uint8)
    two[0, 0] = (10, 30)
    figure = figures.examples_figure(two, WATERMARK)
    assert drawn(figure.axes[0])[0, 0].tolist() == [20, 20, 20]
    assert tuple(drawn(figure.axes[1])[1, 2]) == ORANGE


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 6), np.uint8),
        np.zeros((6, 4, 1), np.uint8),
        np.zeros((4, 6, 1), np.float32),
        np.zeros((1, 4, 6, 1), np.uint8),
    ],
)
def test_examples_refuse_another_image(image):
    with pytest.raises(InputError, match=r"^image: .*\(4, 6\)") as error:
        figures.examples_figure(image, WATERMARK)
    assert "\n" not in str(error.value)


def test_examples_refuse_a_population():
    with pytest.raises(InputError, match=r"^watermark: .*\(1, 4, 6\)"):
        figures.examples_figure(
            np.zeros((4, 6, 1), np.uint8), WATERMARK._replace(pattern=PATTERN[None])
        )


def test_curves_draw_percent_against_epoch_in_both_panels():
    figure = figures.curves_figure(HISTORY)
    assert len(figure.axes) == 2
    for axes in figure.axes:
        lines = labelled(axes)
        assert set(lines) == {"NC", "null", "true", "threshold"}
        for line in ("NC", "null", "true"):
            assert list(lines[line].get_xdata()) == [1, 2, 3]
        np.testing.assert_allclose(lines["NC"].get_ydata(), [50, 75, 97])
        np.testing.assert_allclose(lines["null"].get_ydata(), [10, 50, 95])
        np.testing.assert_allclose(lines["true"].get_ydata(), [25, 100, 100])
        assert lines["threshold"].get_ydata()[0] == 80
    assert legend(figure) == ["NC", "null", "true", "threshold"]


def test_curves_upper_panel_starts_below_what_ended_high():
    # 95 ends lowest above 50: two below it is 93, of which 90 is the multiple of 5 below.
    whole, upper = figures.curves_figure(HISTORY).axes
    assert whole.get_ylim()[0] < 0 and whole.get_ylim()[1] > 100
    assert upper.get_ylim()[0] == 90
    # The paper's 83 ends lowest now: 81, so 80.
    _, upper = figures.curves_figure(HISTORY, paper={"null_accuracy": 0.83}).axes
    assert upper.get_ylim()[0] == 80
    assert upper.get_title() == "the same from 80% up"


def test_curves_draw_the_papers_numbers_where_given():
    paper = {"normal_accuracy": 0.9851, "true_accuracy": 1.0}
    figure = figures.curves_figure(HISTORY, threshold=0.6, paper=paper)
    lines = labelled(figure.axes[0])
    assert lines["paper: 98.51"].get_ydata()[0] == pytest.approx(98.51)
    assert lines["paper: 98.51"].get_color() == lines["NC"].get_color()
    assert lines["paper: 98.51"].get_linestyle() == "--"
    assert lines["paper: 100.00"].get_color() == lines["true"].get_color()
    assert lines["threshold"].get_ydata()[0] == 60
    assert legend(figure) == ["NC", "paper: 98.51", "null", "true", "paper: 100.00", "threshold"]


def test_curves_of_one_epoch_have_a_point_each_and_one_tick(tmp_path):
    figure = figures.curves_figure([record(1, 0.3, 0.1, 0.2)])
    (axes,) = figure.axes  # nothing ended high
    png(figure, tmp_path)
    assert labelled(axes)["NC"].get_marker() == "o"
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_curves_of_a_watermark_free_run_call_null_and_true_a_control():
    figure = figures.curves_figure([record(1, 0.9, 0.1, 0.1)], embedded=False)
    assert legend(figure) == ["NC", "null (control)", "true (control)", "threshold"]
    assert figure.axes[0].get_title() == "validation images, no watermark"


def test_curves_leave_out_values_that_are_not_finite(tmp_path):
    figure = figures.curves_figure([record(1, 0.9, math.nan, 0.1), record(2, 0.9, 0.2, math.nan)])
    assert png(figure, tmp_path).startswith(b"\x89PNG")


def test_curves_tell_the_three_apart_without_colour():
    lines = labelled(figures.curves_figure(HISTORY).axes[0])
    assert len({lines[name].get_marker() for name in ("NC", "null", "true")}) == 3


def test_curves_refuse_no_epochs_and_records_without_a_field():
    with pytest.raises(InputError, match=r"^history: there are no epochs"):
        figures.curves_figure([])
    short = dict(HISTORY[1])
    del short["null_accuracy"]
    with pytest.raises(InputError, match=r"^history: a record has no null_accuracy"):
        figures.curves_figure([HISTORY[0], short])


def all_figures():
    image = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    return [
        figures.pattern_figure(WATERMARK),
        figures.examples_figure(image, WATERMARK),
        figures.curves_figure(HISTORY, paper={"normal_accuracy": 0.98}),
    ]


def test_same_input_gives_the_same_bytes_whatever_the_users_style(tmp_path):
    first = [png(figure, tmp_path) for figure in all_figures()]
    with matplotlib.rc_context(
        {"font.size": 30, "image.origin": "lower", "savefig.dpi": 40, "lines.linewidth": 9}
    ):
        second = [png(figure, tmp_path) for figure in all_figures()]
    assert first == second
    assert len(set(first)) == 3


def test_another_process_writes_the_same_bytes_and_never_loads_pyplot(tmp_path):
    program = (
        "import sys\n"
        "import numpy as np\n"
        "from nullmark_jax.embedding import Watermark\n"
        "from nullmark_jax.reports import figures\n"
        f"p = np.array({PATTERN.tolist()}, np.int8)\n"
        "figure = figures.pattern_figure(Watermark(p, np.int32(7), np.float32(2000)))\n"
        "figures.save(figure, sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    path = tmp_path / "other.png"
    environ = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", program, path], check=True, env=environ)
    ours = png(figures.pattern_figure(WATERMARK), tmp_path)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(ours).digest()


def test_files_hold_neither_a_date_nor_a_program(tmp_path):
    for figure in all_figures():
        data = png(figure, tmp_path)
        kinds, at = [], 8
        while at < len(data):
            (length,) = struct.unpack(">I", data[at : at + 4])
            kinds.append(data[at + 4 : at + 8])
            at += 12 + length
        assert set(kinds) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}


def test_files_are_whole_pictures_of_the_declared_size(tmp_path):
    data = png(figures.curves_figure(HISTORY), tmp_path)
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        assert picture.size == (10 * figures.DPI, round(4.8 * figures.DPI))
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_save_makes_the_folder_and_replaces_a_file(tmp_path):
    path = tmp_path / "run" / "figures" / "pattern.png"
    figures.save(figures.pattern_figure(WATERMARK), path)
    first = path.read_bytes()
    figures.save(figures.curves_figure(HISTORY), str(path))
    assert path.read_bytes() != first


def test_save_where_no_file_can_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(InputError, match="cannot be written") as error:
        figures.save(Figure(), tmp_path / "file" / "pattern.png")
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_bytes() == b"kept"
