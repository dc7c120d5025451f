"""Reading the pattern from the weights: kernels made blind to a known one, and kernels that are not."""

import jax
import numpy as np
import pytest

from nullmark_jax import models, nullspace, transform
from nullmark_jax.attacks import pattern_recovery
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
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


def trained(model, pattern, margin=0.0, channels=1):
    """Random kernels, the second one projected as in training for this pattern."""
    params = models.init_params(model, jax.random.key(5), (SIDE, SIDE, channels))
    project = nullspace.for_network(model, pattern_size=SIZE, margin=margin)
    return jax.tree.map(np.asarray, project(params, pattern[None]))


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize(
    ("net", "row", "column", "channels"),
    [
        # Each corner and each alignment with the pool.
        ("pooled", 2, 3, 1),
        ("pooled", 3, 18, 1),
        ("pooled", 17, 2, 1),
        ("pooled", 20, 19, 3),
        # In the middle, where a window sees three rows or columns of it at least.
        ("pooled", 11, 2, 1),
        ("pooled", 9, 10, 1),
        ("unpooled", 9, 11, 1),
        ("unpooled, SAME", 10, 5, 3),
    ],
)
def test_the_pattern_of_the_null_space_is_found(net, row, column, channels, margin):
    params = trained(NETS[net], pattern_at(row, column), margin, channels)
    found = pattern_recovery.recover(NETS[net], params, pattern_size=SIZE)
    np.testing.assert_array_equal(found.block, BLOCK)
    assert found.block.dtype == np.int8
    # With a margin the windows are answered in one proportion only nearly: least squares with a ridge.
    assert found.residual < (1e-3 if margin else 1e-5)
    assert found.others > 10 * found.residual


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


def test_all_of_random_watermarks_positions_have_the_block():
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
