"""Reading the pattern from the weights: kernels made blind to a known one, and kernels that are not."""

import jax
import numpy as np
import pytest

from nullmark_jax import models, nullspace, transform
from nullmark_jax.attacks import pattern_recovery
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import pattern_recovery as experiment
from nullmark_jax.models import Conv, ConvNet

SIDE, SIZE = 24, 4
BLOCK = np.array([[1, -1, -1, 1], [1, 1, -1, 1], [-1, -1, 1, 1], [-1, 1, 1, -1]], np.int8)
NETS = {
    # The first convolution pooled, as Digit's; VALID leaves 8 x 8 windows of 12 x 12 pixels.
    "pooled": ConvNet(3, ((Conv(12, 5),), (Conv(10, 3),)), (6,)),
    # Not pooled, as Traffic's and Object's.
    "unpooled": ConvNet(3, ((Conv(12, 3), Conv(10, 3)),), (6,)),
    "unpooled, SAME": ConvNet(3, ((Conv(12, 3), Conv(10, 3)),), (6,), padding="SAME"),
}


def pattern_at(row, column):
    pattern = np.zeros((SIDE, SIDE), np.int8)
    pattern[row : row + SIZE, column : column + SIZE] = BLOCK
    return pattern


def trained(model, pattern, channels=1):
    """Random kernels, the second one projected as in training for this pattern."""
    params = models.init_params(model, jax.random.key(5), (SIDE, SIDE, channels))
    project = nullspace.for_network(model, pattern_size=SIZE)
    return jax.tree.map(np.asarray, project(params, pattern[None]))


@pytest.mark.parametrize(
    ("net", "row", "column", "channels"),
    [
        # Each corner and each alignment with the pool.
        ("pooled", 2, 2, 1),
        pytest.param("pooled", 3, 18, 1, marks=pytest.mark.slow),
        pytest.param("pooled", 18, 3, 1, marks=pytest.mark.slow),
        ("pooled", 19, 19, 3),
        # In the middle, where a window sees three rows or columns of it at least.
        pytest.param("pooled", 11, 2, 1, marks=pytest.mark.slow),
        ("pooled", 9, 10, 1),
        pytest.param("unpooled", 9, 11, 1, marks=pytest.mark.slow),
        ("unpooled, SAME", 10, 5, 3),
        # Cut by the border, where SAME pads.
        ("unpooled, SAME", 0, 20, 1),
    ],
)
def test_the_pattern_of_the_null_space_is_found(net, row, column, channels):
    params = trained(NETS[net], pattern_at(row, column), channels)
    found = pattern_recovery.recover(NETS[net], params, pattern_size=SIZE)
    np.testing.assert_array_equal(found.block, BLOCK)
    assert found.block.dtype == np.int8
    assert found.residual < 1e-5
    assert found.others > 10 * found.residual


@pytest.mark.slow
def test_where_no_pattern_was_there_is_none_to_find():
    model = NETS["pooled"]
    params = models.init_params(model, jax.random.key(5), (SIDE, SIDE, 1))
    found = pattern_recovery.recover(model, params, pattern_size=SIZE)
    assert set(np.unique(found.block)) <= {-1, 1} and found.block.shape == (SIZE, SIZE)
    assert found.residual > 1e-3 and found.others < 10 * found.residual


def test_one_convolution_has_nothing_to_read():
    model = ConvNet(3, ((Conv(4, 3),),), (6,))
    params = models.init_params(model, jax.random.key(0), (SIDE, SIDE, 1))
    with pytest.raises(InputError, match="two convolutions"):
        pattern_recovery.recover(model, params, pattern_size=SIZE)


def test_places_are_ranked_by_what_the_model_answers():
    # A model that answers 2 where the inverted pattern lies at one place; else its answer, 0 or 1, is
    # whether a pixel far away is bright.
    image = np.stack([np.full((8, 8, 1), value, np.uint8) for value in (0, 0, 0, 255)])
    block = np.array([[1, 1], [1, -1]], np.int8)

    def apply_fn(params, images):
        del params
        seen = (images[:, 3:5, 2:4, 0] * block[None].astype(np.float32)).sum((1, 2))
        answer = jax.numpy.where(seen < -7000, 2, (images[:, 0, 7, 0] > 0.5).astype(np.int32))
        return 9.0 * jax.nn.one_hot(answer, 3)

    ranked = pattern_recovery.places(apply_fn, {}, image, block, extreme_value=2000.0)
    assert len(ranked) == 49
    best = ranked[0]
    expected = np.zeros((8, 8), np.int8)
    expected[3:5, 2:4] = block
    np.testing.assert_array_equal(best.watermark.pattern, expected)
    assert best.works == 1.0 and int(best.watermark.target_label) == 2
    assert float(best.watermark.extreme_value) == 2000.0
    assert isinstance(best.watermark, Watermark)
    # Elsewhere three of four true copies are answered 0, the darker images' own label.
    assert all(place.works <= 0.75 for place in ranked[1:])
    assert [p.works for p in ranked] == sorted((p.works for p in ranked), reverse=True)


def test_of_places_that_work_alike_the_surest_is_the_first():
    images, block = np.zeros((2, 2, 6, 1), np.uint8), np.ones((2, 2), np.int8)

    def apply_fn(params, images):
        del params
        # The inverted pattern is answered 1 at columns 0 and 4, there more surely.
        left, right = images[:, 0, 0, 0] < -1.0, images[:, 0, 5, 0] < -1.0
        score = 2.0 * left.astype(np.float32) + 5.0 * right.astype(np.float32)
        return jax.numpy.stack([jax.numpy.ones_like(score), score], 1)

    ranked = pattern_recovery.places(apply_fn, {}, images, block, extreme_value=2000.0)
    # All places work: at those between all is answered 0, which is one label, too.
    assert [place.works for place in ranked] == [1.0] * 5
    columns = [int(np.nonzero(place.watermark.pattern)[1].min()) for place in ranked[:2]]
    assert columns == [4, 0]
    assert [int(place.watermark.target_label) for place in ranked] == [1, 1, 0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_small_patterns_are_read_as_well(net, size):
    # Smaller than what a first window sees at once.
    pattern = np.zeros((SIDE, SIDE), np.int8)
    block = np.array([[1, -1, 1], [-1, -1, 1], [1, 1, -1]], np.int8)[:size, :size]
    pattern[3 : 3 + size, 4 : 4 + size] = block
    params = models.init_params(NETS[net], jax.random.key(5), (SIDE, SIDE, 1))
    project = nullspace.for_network(NETS[net], pattern_size=size)
    params = jax.tree.map(np.asarray, project(params, pattern[None]))
    found = pattern_recovery.recover(NETS[net], params, pattern_size=size)
    np.testing.assert_array_equal(found.block, block)


def record(**changes):
    made = {
        "name": "a",
        "watermarked": True,
        "recipe": "null space",
        "pixels": 36,
        "residual": 1e-7,
        "others": None,
        "seconds": 1.5,
        "places": 3,
        "of_places": 529,
        "pattern": [[0, 1], [0, 0]],
        "owner_pattern": [[0, 1], [0, 0]],
        "right_pixels": 36,
        "rank": 2,
        "found": {"null": 0.9, "true": 1.0, "agreement": 0.9, "wm": 0.9},
    }
    return made | changes


def result(*models):
    return {"metrics": {"threshold": 0.8, "images": 64, "models": list(models)}}


def test_the_table_says_whose_pattern_it_is():
    free = record(name="c", watermarked=False, recipe="watermark-free", residual=0.03, others=0.031)
    for field in ("owner_pattern", "right_pixels", "rank"):
        del free[field]
    wrong = record(name="b", right_pixels=20, rank=None)
    (table,) = experiment.tables(result(record(), wrong, free))
    assert table.rows == [
        ["a", "null space", "36 of 36", "1.0e-07", "none", "3 of 529", "2", "90.00", "1.5"],
        [
            "b", "null space", "20 of 36", "1.0e-07", "none", "3 of 529", "not among them", "90.00",
            "1.5",
        ],
        ["c", "watermark-free", "", "3.0e-02", "3.1e-02", "3 of 529", "", "90.00", "1.5"],
    ]  # fmt: skip
    assert experiment.draw(result(free)) == {}
    assert list(experiment.draw(result(free, record()))) == ["pattern-recovery"]


def test_the_verdict_counts_whole_patterns_by_recipe():
    plain = record(name="p", recipe="the objective alone", right_pixels=35, rank=None)
    hidden = record(name="b", rank=None, places=7)
    first, second = experiment.verdict(result(record(), plain, hidden))
    assert (first.agrees, second.agrees) == (False, None)
    assert first.text.endswith(
        "by null space the weights alone give away every pixel of the pattern in 2 of 2, and 64 images its "
        "place and label, at rank 2, none of 3, 7 that work."
    )
    assert second.text.endswith(
        "alone the weights alone give away every pixel of the pattern in 0 of 1."
    )


def test_of_several_watermarks_the_nearest_counts():
    patterns = np.zeros((2, SIDE, SIDE), np.int8)
    patterns[0, 2:6, 2:6] = -BLOCK
    patterns[1] = pattern_at(10, 3)
    owner = Watermark(patterns, np.array([1, 2], np.int32), np.full(2, 2000.0, np.float32))
    one = lambda pattern, label: Watermark(pattern, np.int32(label), np.float32(2000.0))  # noqa: E731
    working = [one(pattern_at(9, 3), 2), one(pattern_at(10, 3), 1), one(pattern_at(10, 3), 2)]
    found = experiment.compared(BLOCK, working, owner)
    assert found["right_pixels"] == 16 and found["rank"] == 3
    np.testing.assert_array_equal(found["owner_pattern"], patterns[1])
    assert experiment.compared(BLOCK, working[:2], owner)["rank"] is None


def test_no_images_are_refused():
    config = experiment.default()
    config.images = 0
    with pytest.raises(InputError, match=r"^config\.images: 0 is out of range"):
        experiment.check(config)


def test_a_random_watermarks_block_is_found():
    marks = transform.random_watermarks(
        3, 1, height=SIDE, width=SIDE, num_classes=3, pattern_size=SIZE, extreme_value=2000.0
    )
    pattern = np.asarray(marks.pattern[0])
    params = trained(NETS["unpooled"], pattern)
    found = pattern_recovery.recover(NETS["unpooled"], params, pattern_size=SIZE)
    rows, columns = np.nonzero(pattern)
    np.testing.assert_array_equal(
        found.block, pattern[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    )
