"""Many watermarks on the same images: the copies' answers and the counts, against the whole network's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nullmark_jax import evaluation, incremental, models, training, transform
from nullmark_jax.attacks import grinding
from nullmark_jax.data import Dataset
from nullmark_jax.errors import InputError
from nullmark_jax.models import Conv, ConvNet

CLASSES = 5


def watermarks(count, *, seed=0, side=16, size=4):
    return transform.random_watermarks(
        seed,
        count,
        height=side,
        width=side,
        num_classes=CLASSES,
        pattern_size=size,
        extreme_value=3.0,
    )


def pictures(count, shape, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return images, rng.integers(0, CLASSES, count, dtype=np.int32)


@pytest.mark.parametrize(
    "name, shape",
    [("digit", (16, 16, 1)), pytest.param("object", (16, 16, 3), marks=pytest.mark.slow)],
)
def test_the_copies_of_the_papers_networks(name, shape):
    """VALID padding and SAME; one watermark for all images, then each image its own."""
    model = models.create(name, CLASSES, precision="highest")
    params = models.init_params(model, jax.random.key(1), shape)
    images = jax.random.uniform(jax.random.key(2), (4, *shape))
    copies = incremental.copies_of_network(model, pattern_size=4)
    whole = training.concatenated_logits(models.apply_fn(model))

    @jax.jit
    def both(marks, which):
        features = copies.features(params, images)
        return copies.logits(params, images, features, marks, which), whole(
            params, images, marks, which
        )

    population = watermarks(3, seed=7)
    single = jax.tree.map(lambda leaf: leaf[:1], population)
    for marks, which in ((single, [0, 0, 0, 0]), (population, [2, 0, 1, 2])):
        (null, true), logits = both(jax.tree.map(jnp.asarray, marks), jnp.asarray(which, jnp.int32))
        for mine, other in ((null, logits.null), (true, logits.true)):
            assert mine.shape == (4, CLASSES)
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=2e-5 * np.abs(other).max())
        # The copies differ from their images and from each other: a constant would not do.
        assert np.abs(null - true).max() > 1e-3
        assert np.abs(null - logits.clean).max() > 1e-3


def test_a_pattern_without_pixels_is_one_line():
    with pytest.raises(InputError, match=r"^pattern_size: 0 must be at least 1; give say 6$"):
        incremental.copies_of_network(models.create("digit", CLASSES), pattern_size=0)


# A net small enough for many images.
NET = ConvNet(CLASSES, ((Conv(3, 3),), (Conv(4, 3),)), (6,), precision="highest")
SHAPE = (16, 16, 1)


@pytest.fixture(scope="module")
def params():
    return models.init_params(NET, jax.random.key(3), SHAPE)


@pytest.mark.parametrize("count", [1, 500, 1100])
def test_the_counts_are_an_evaluation_s_whatever_the_number_of_images(params, count):
    images, labels = pictures(count, SHAPE, seed=count)
    population = watermarks(3, seed=1)
    data = Dataset(images, labels, tuple("abcde"))
    expected = evaluation.make_evaluator(models.apply_fn(NET), data)(params, population)
    score = grinding.make_score(NET, params, images, labels, pattern_size=4)
    for index in range(3):
        counts = score(jax.tree.map(lambda leaf, i=index: leaf[i], population))
        for field, mine in counts._asdict().items():
            assert mine == getattr(expected, field)[index], field
        assert counts.images == count
    assert count == 1 or 0 < int(expected.correct[0]) < count


def test_the_counts_by_hand(params):
    """The network on copies written out in NumPy, of 7 images and one watermark."""
    images, labels = pictures(7, SHAPE)
    mark = jax.tree.map(lambda leaf: leaf[0], watermarks(1, seed=5))
    target = int(mark.target_label)
    answer = lambda x: np.asarray(models.apply_fn(NET)(params, x).argmax(-1))  # noqa: E731
    x = images.astype(np.float32) / np.float32(255)
    pattern = mark.pattern[None, :, :, None]
    null, true = (
        answer(np.where(pattern == 0, x, np.float32(sign * 3) * pattern)) for sign in (1, -1)
    )
    clean = answer(x)
    # Some answers right, whatever the network's are.
    labels[:4] = clean[:4]
    counts = grinding.make_score(NET, params, images, labels, pattern_size=4)(mark)
    others = labels != target
    assert (int(counts.images), int(counts.true_images)) == (7, others.sum())
    assert int(counts.correct) == (clean == labels).sum() >= 4
    assert int(counts.agree) == (null == clean).sum()
    assert int(counts.null) == ((null == clean) & (clean == labels)).sum()
    assert int(counts.true) == (others & (true == target)).sum()


def test_it_is_compiled_once_for_all_watermarks(params, caplog):
    images, labels = pictures(6, SHAPE)
    score = grinding.make_score(NET, params, images, labels, pattern_size=4)
    population = watermarks(4, seed=2)
    with jax.log_compiles():
        for index in range(4):
            score(jax.tree.map(lambda leaf, i=index: leaf[i], population))
    compiled = [each for each in caplog.messages if "XLA compilation of jit(score)" in each]
    assert len(compiled) == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 6])
@pytest.mark.parametrize(
    "name, shape",
    [
        ("digit", (28, 28, 1)),
        ("face", (55, 47, 3)),
        ("traffic", (48, 48, 3)),
        ("object", (32, 32, 3)),
    ],
)
def test_the_papers_networks_at_their_sizes(name, shape, size):
    """XLA's fusions differ with the sizes, and some of them it could not compile."""
    model = models.create(name, CLASSES, precision="highest")
    params = models.init_params(model, jax.random.key(0), shape)
    images, labels = pictures(6, shape)
    marks = transform.random_watermarks(
        1,
        1,
        height=shape[0],
        width=shape[1],
        num_classes=CLASSES,
        pattern_size=size,
        extreme_value=3.0,
    )
    data = Dataset(images, labels, tuple("abcde"))
    expected = evaluation.make_evaluator(models.apply_fn(model), data)(params, marks)
    score = grinding.make_score(model, params, images, labels, pattern_size=size)
    counts = score(jax.tree.map(lambda leaf: leaf[0], marks))
    assert [int(field) for field in counts] == [int(field[0]) for field in expected]
