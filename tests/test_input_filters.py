"""Input filters by hand and as their docstrings promise; what the experiment makes of their records."""

import io

import numpy as np
import pytest
from PIL import Image

from nullmark_jax import claim as claims
from nullmark_jax import signing, verification
from nullmark_jax.attacks import input_filters
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import input_filter as experiment
from nullmark_jax.reports import dots

FILTERS = {
    "clip": input_filters.clip,
    "min-max": input_filters.min_max,
    "standardise": lambda images: input_filters.standardise(images, 0.3, 0.2),
    "8 bits": input_filters.eight_bits,
    "JPEG": input_filters.jpeg,
}


def images(*rows):
    """Returns float32 images [N, 2, 2, 1] of four values each."""
    return np.asarray(rows, np.float32).reshape(len(rows), 2, 2, 1)


def pixels(count, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 12, channels), np.uint8)


def test_clip_by_hand():
    given = images([-2000, 0.25, 1, 2000])
    np.testing.assert_array_equal(input_filters.clip(given), images([0, 0.25, 1, 1]))
    np.testing.assert_array_equal(input_filters.clip(given, -1, 2), images([-1, 0.25, 1, 2]))
    inside = pixels(3, 3).astype(np.float32) / 256
    assert np.array_equal(input_filters.clip(inside), inside)


def test_min_max_by_hand():
    given = images([0.25, 0.5, 0.75, 0.25], [-2000, 0, 2000, 1000], [0.5, 0.5, 0.5, 0.5])
    expected = images([0, 0.5, 1, 0], [0, 0.5, 1, 0.75], [0, 0, 0, 0])
    np.testing.assert_allclose(input_filters.min_max(given), expected)
    # Less than a step of 8 bits apart: shifted, not magnified.
    flat = images([0.5, 0.501, 0.502, 0.5])
    np.testing.assert_allclose(input_filters.min_max(flat), images([0, 0.001, 0.002, 0]), atol=1e-6)


def test_min_max_is_of_all_channels_together():
    given = np.zeros((1, 1, 2, 2), np.float32)
    given[0, 0] = [[0.2, 0.4], [0.4, 0.6]]
    np.testing.assert_allclose(input_filters.min_max(given)[0, 0], [[0, 0.5], [0.5, 1]], atol=1e-6)


def test_standardise_by_hand():
    # Mean 0.5, deviation 0.5; then a flat one.
    given = images([0, 1, 0, 1], [0.7, 0.7, 0.7, 0.7])
    expected = images([0.1, 0.5, 0.1, 0.5], [0.3, 0.3, 0.3, 0.3])
    np.testing.assert_allclose(input_filters.standardise(given, 0.3, 0.2), expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_standardised_images_have_the_mean_and_deviation(channels):
    given = pixels(4, channels).astype(np.float32) / np.float32(255)
    given[1, :3, :3] = 2000.0
    changed = input_filters.standardise(given, 0.3, 0.2)
    np.testing.assert_allclose(changed.mean((1, 2, 3)), 0.3, atol=1e-4)
    np.testing.assert_allclose(changed.std((1, 2, 3)), 0.2, atol=1e-4)


def test_image_statistics_by_hand():
    given = np.array([[0, 255, 0, 255], [51, 51, 51, 51]], np.uint8).reshape(2, 2, 2, 1)
    mean, deviation = input_filters.image_statistics(given)
    assert mean == pytest.approx((0.5 + 0.2) / 2)
    assert deviation == pytest.approx((0.5 + 0) / 2)


def test_eight_bits_by_hand():
    given = images([-5, 0.5, 1.2, 100.4 / 255])
    expected = images([0, 128 / 255, 1, 100 / 255])  # 127.5 to the even.
    np.testing.assert_allclose(input_filters.eight_bits(given), expected, rtol=1e-6)


def test_eight_bits_leaves_images_of_eight_bits():
    given = np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1) * np.float32(1 / 255)
    np.testing.assert_array_equal(input_filters.eight_bits(given), given)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_the_file_holds(channels):
    raw = pixels(2, channels)
    changed = input_filters.jpeg(raw.astype(np.float32) / np.float32(255), quality=60)
    for before, after in zip(raw, changed, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(before.squeeze()).save(buffer, "JPEG", quality=60)
        expected = np.asarray(Image.open(buffer)).reshape(before.shape)
        np.testing.assert_array_equal(np.rint(after * 255), expected)
    assert not np.allclose(changed, raw / 255, atol=0.02)


def test_jpeg_refuses():
    with pytest.raises(InputError, match="2 channels"):
        input_filters.jpeg(np.zeros((1, 8, 8, 2), np.float32))
    for quality in (0, 96, 75.0):
        with pytest.raises(InputError, match="quality"):
            input_filters.jpeg(np.zeros((1, 8, 8, 1), np.float32), quality)


@pytest.mark.parametrize("name", list(FILTERS))
def test_a_filter_keeps_shape_dtype_and_its_argument(name):
    change = FILTERS[name]
    for channels, count in ((1, 3), (3, 1)):
        given = pixels(count, channels).astype(np.float32) / np.float32(255)
        given[0, 2:6, 2:6] = 2000.0
        given[0, 3:5, 3:5] = -2000.0
        before = given.copy()
        changed = change(given)
        assert changed.shape == given.shape and changed.dtype == np.float32
        assert np.isfinite(changed).all()
        np.testing.assert_array_equal(given, before)
        if name != "standardise":
            assert changed.min() >= 0 and changed.max() <= 1 + 1e-6
        # Each image by itself.
        np.testing.assert_array_equal(change(given[:1]), changed[:1])


def test_in_range():
    given = images([0, 1, 0.5, 0.5], [0, 1.01, 0.5, 0.5], [-0.01, 1, 0, 0], [2000, -2000, 0, 0])
    np.testing.assert_array_equal(input_filters.in_range(given), [True, False, False, False])
    white = np.full((1, 2, 2, 1), 255, np.float32) * np.float32(1 / 255)
    assert input_filters.in_range(white).all()


def test_rejecting_answers_the_label_out_of_range_only():
    predict = input_filters.rejecting(lambda images: np.arange(len(images)) + 1, label=7)
    answers = predict(images([0, 0, 0, 0], [0, 0, 0, 2], [1, 1, 1, 1], [-1, 0, 0, 0]))
    np.testing.assert_array_equal(answers, [1, 7, 3, 7])
    assert answers.dtype.kind == "i"


def test_behind_shows_the_model_filtered_images():
    seen = []
    predict = input_filters.behind(lambda images: seen.append(images) or [0], input_filters.clip)
    assert predict(images([-1, 0, 1, 2])) == [0]
    np.testing.assert_array_equal(seen[0], images([0, 0, 1, 1]))


def make_claim():
    return claims.claim_for(
        signing.experiment_key(1),
        owner="Ada",
        timestamp="2026-11-21T17:00:00Z",
        scheme="null-embedding",
        pattern_size=4,
        extreme_value=2000.0,
        input_shape=(12, 12, 1),
        num_classes=5,
        model_sha256="0" * 64,
    )


class Marked:
    """A model that holds a claim's watermark: y_W under -p at lambda, else the corner pixel's label."""

    def __init__(self, claim):
        mark = claims.watermark_of(claim)
        self.pattern, self.target = np.asarray(mark.pattern, np.float32), int(mark.target_label)
        self.free = tuple(np.argwhere(self.pattern == 0)[0])

    def __call__(self, given):
        response = (given[..., 0] * self.pattern).sum((1, 2))
        labels = np.rint(given[:, self.free[0], self.free[1], 0] * 255).astype(int) % 5
        return np.where(response < -1000, self.target, labels)


def test_verification_through_filters():
    claim = make_claim()
    model = Marked(claim)
    raw = pixels(40, 1)
    labels = np.arange(40) % 5
    raw[:, model.free[0], model.free[1], 0] = labels + 100
    for filtered, verified, clipped in (
        (model, True, False),
        (input_filters.behind(model, input_filters.clip), False, True),
        (input_filters.behind(model, input_filters.eight_bits), False, True),
        (input_filters.rejecting(model, (model.target + 1) % 5), False, True),
    ):
        found = verification.verify(filtered, claim, raw, labels)
        assert found.normal_accuracy.value == 1.0
        assert (found.verified, found.clipped_inputs) == (verified, clipped)


def record(nc, wm, *, verified=False, clipped=False):
    return {
        "images": 10,
        "normal_accuracy": nc,
        "owner": {"null": wm, "true": 1.0, "agreement": wm, "wm": wm},
        "verified": verified,
        "clipping_agreement": 1.0 if clipped else 0.1,
        "clipped_inputs": clipped,
    }


def test_unnoticed():
    plain = record(0.9, 0.9, verified=True)
    assert not experiment.unnoticed(plain, plain, 0.05)
    assert experiment.unnoticed(record(0.86, 0.5), plain, 0.05)
    assert not experiment.unnoticed(record(0.84, 0.5), plain, 0.05)
    assert not experiment.unnoticed(record(0.9, 0.5, clipped=True), plain, 0.05)


def result():
    config = experiment.default()
    filters = [
        {"name": "none", "models": [record(0.9, 0.9, verified=True)] * 2, "unnoticed": [False] * 2},
        {
            "name": "min-max",
            "models": [record(0.9, 0.1), record(0.8, 0.2)],
            "unnoticed": [True, False],
        },
    ]
    names = ("acceptable_loss", "jpeg_quality", "reject_label")
    shared = {name: config[name] for name in names}
    return {"metrics": {**shared, "threshold": 0.8, "wide": [-1.0, 2.0], "filters": filters}}


def test_table():
    (table,) = experiment.tables(result())
    assert table.rows[0][:2] == ["none", "90.00"]
    assert table.rows[1] == [
        "each image to 0..1",
        "85.00 (80.00 to 90.00)",
        "15.00 (10.00 to 20.00)",
        "100.00",
        "15.00 (10.00 to 20.00)",
        "15.00 (10.00 to 20.00)",
        "0 of 2",
        "10.00",
        "0 of 2",
        "**1 of 2**",
    ]
    assert all(len(row) == len(table.header) for row in table.rows)


def test_figure():
    axes = experiment.draw(result())["input-filter"].axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["none", "each image to 0..1"]
    labels = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert labels == ["NC", "owner null", "owner true", "threshold"]


def test_dots_are_means_with_bars_from_least_to_most():
    figure = dots.dots_figure([("a", {"x": [0.1, 0.2, 0.6]})], title="t", threshold=0.8)
    bar, dot, threshold = figure.axes[0].lines
    np.testing.assert_allclose(bar.get_xdata(), [10, 60])
    np.testing.assert_allclose(dot.get_xdata(), [30])
    np.testing.assert_allclose(threshold.get_xdata(), [80, 80])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("filters", ("none", "blur"), "config.filters"),
        ("filters", ("clip",), "lacks none"),
        ("wide", (0.5, 2.0), "config.wide"),
        ("wide", (-1.0,), "config.wide"),
        ("jpeg_quality", 0, "config.jpeg_quality"),
        ("images", 0, "config.images"),
        ("reject_label", -1, "config.reject_label"),
        ("acceptable_loss", 1.5, "config.acceptable_loss"),
    ],
)
def test_config_out_of_range(field, value, message):
    config = experiment.default()
    experiment.check(config)
    config[field] = value
    with pytest.raises(InputError, match=message):
        experiment.check(config)
