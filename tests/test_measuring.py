"""An experiment's measures, against the answers counted one by one."""

import jax
import numpy as np
import pytest
import tiny_victim

from nullmark_jax import models
from nullmark_jax.data import Dataset
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import measuring
from nullmark_jax.experiments.victim import load_victims
from nullmark_jax.metrics import Counts


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    return load_victims([str(tiny_victim.folder(tmp_path_factory))], task="digit")[0]


@pytest.fixture(scope="module")
def predict(victim):
    return models.predictor("digit", victim.params, 3)


def by_hand(predict, images, labels, mark):
    """The record of a single watermark, its copies written out."""
    x = images.astype(np.float32) / np.float32(255)
    written = mark.pattern[None, :, :, None] * np.float32(mark.extreme_value)
    clean = predict(x)
    null = predict(np.where(written == 0, x, written))
    true = predict(np.where(written == 0, x, -written))
    others = labels != mark.target_label
    found = {
        "null": float(((null == clean) & (clean == labels)).mean()),
        "true": float((true[others] == mark.target_label).mean()),
        "agreement": float((null == clean).mean()),
    }
    return found | {"wm": min(found["null"], found["true"])}


def single(population, index):
    return jax.tree.map(lambda leaf: leaf[index], population)


@pytest.mark.parametrize("count", [0, 20])
def test_a_record_is_what_the_network_answers(victim, predict, count):
    foreign = victim.foreign(3, 3)
    measure = measuring.make_measure(victim, test_images=count)
    record = measure(victim.params, owner=victim.watermarks, second=foreign)
    # Of 45 images 20, evenly spaced: the i-th is floor(2.25 i).
    picked = list(range(45))
    if count:
        picked = [0, 2, 4, 6, 9, 11, 13, 15, 18, 20, 22, 24, 27, 29, 31, 33, 36, 38, 40, 42]
    images, labels = victim.splits.test.images[picked], victim.splits.test.labels[picked]
    assert record.pop("images") == len(picked)
    assert record.pop("normal_accuracy") == (predict(images / np.float32(255)) == labels).mean()
    # Of a population it is the first.
    assert list(record) == ["owner", "second"]
    for name, population in (("owner", victim.watermarks), ("second", foreign)):
        expected = by_hand(predict, images, labels, single(population, 0))
        assert record[name] == pytest.approx(expected, abs=1e-6), name
    assert record["owner"]["wm"] == 1.0 and record["second"]["wm"] < 0.8


def test_too_many_test_images_are_one_line(victim):
    with pytest.raises(
        InputError, match=r"^config\.test_images: 46 is out of range; .* \[1, 45\], or 0 for all$"
    ) as error:
        measuring.make_measure(victim, test_images=46)
    assert "\n" not in str(error.value)


# Counts of 10 images, 8 of another class than the watermark's.
COUNTS = Counts(images=10, correct=9, null=6, agree=7, true_images=8, true=5)


@pytest.mark.parametrize(
    ("scheme", "true", "wm"),
    [
        ("null-embedding", 5, 0.6),  # null 0.6, true 5/8
        ("null-embedding", 4, 0.5),
        ("wonder-filter", 5, 0.625),  # agreement 0.7, true 5/8
        ("wonder-filter", 6, 0.7),
    ],
)
def test_accuracies_by_scheme(scheme, true, wm):
    counts = Counts(*map(np.int32, COUNTS._replace(true=true)))
    found = measuring.accuracies(counts, scheme)
    assert found == pytest.approx({"null": 0.6, "true": true / 8, "agreement": 0.7, "wm": wm})
    assert all(type(value) is float for value in found.values())


def test_a_record_passes_above_the_threshold(victim):
    # The null-embedding scheme's test: above T, not at it.
    assert victim.config.watermark.threshold == 0.8
    for wm, expected in ((0.79, False), (0.8, False), (0.81, True)):
        assert measuring.passes({"wm": wm}, victim) is expected
    assert measuring.passes({"wm": 0.6}, victim, 0.5)
    assert not measuring.passes({"wm": 0.9}, victim, 0.95)


def numbered(count):
    labels = np.arange(count, dtype=np.int32)
    return Dataset(np.zeros((count, 2, 2, 1), np.uint8), labels, tuple(map(str, range(count))))


@pytest.mark.parametrize(
    ("count", "of", "expected"),
    [
        (1, 10, [0]),
        (3, 10, [0, 3, 6]),
        (4, 10, [0, 2, 5, 7]),
        (10, 10, list(range(10))),
        (0, 10, list(range(10))),
    ],
)
def test_images_evenly_spaced(count, of, expected):
    assert measuring.limited(numbered(of), count).labels.tolist() == expected


@pytest.mark.parametrize("count", [11, -1])
def test_no_such_number_of_images(count):
    with pytest.raises(InputError, match=rf"^config\.test_images: {count} is out of range"):
        measuring.limited(numbered(10), count)


RECORDS = [
    {"owner": {"wm": 0.25}, "normal_accuracy": 1.0},
    {"owner": {"wm": 0.5}, "normal_accuracy": 1.0},
    {"owner": {"wm": 0.9}, "normal_accuracy": 1.0},
]


def test_means_and_spreads():
    assert measuring.mean(RECORDS, "owner", "wm") == pytest.approx(0.55)
    assert measuring.spread(RECORDS, "owner", "wm") == (0.25, 0.9)
    assert measuring.mean_and_spread(RECORDS, "owner", "wm") == "55.00 (25.00 to 90.00)"
    assert measuring.mean_and_spread(RECORDS, "normal_accuracy") == "100.00"
    assert measuring.mean_and_spread(RECORDS[:1], "owner", "wm") == "25.00"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 0.5), (0.0, 0.0), (float("nan"), None), (float("inf"), None), (float("-inf"), None)],
)
def test_what_json_cannot_hold_is_none(value, expected):
    assert measuring.finite(value) == expected


def test_more_images_than_the_task_has(victim):
    measuring.check_images(victim, 1, 108)
    for count in (0, 109):
        with pytest.raises(
            InputError,
            match=rf"^config: the attacker is to have {count} images but {victim.name} has 108 tr",
        ) as error:
            measuring.check_images(victim, 5, count)
        assert "\n" not in str(error.value)
