"""An attacker's training against one written out step by step, and what it leaves alone."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nullmark_jax import batches, models, parallel, training
from nullmark_jax.attacks import retraining
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.baselines.triggers import as_triggers
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError, TrainingDiverged
from nullmark_jax.losses import Logits
from nullmark_jax.models import Conv, ConvNet
from nullmark_jax.optimizers import Recipe

SHAPE, SIZE, CLASSES = (12, 12, 1), 3, 3
NET = ConvNet(CLASSES, ((Conv(4, 3),), (Conv(5, 3),)), (6,), precision="highest")
RATE = 0.05
PLAIN = Adversary(Recipe("sgd", RATE), steps=7, batch_size=8, true_weight=0.5, null_weight=2.0)


def watermark(*places, seed=3):
    """A population with a block at each place."""
    rng = np.random.default_rng(seed)
    patterns = np.zeros((len(places), *SHAPE[:2]), np.int8)
    for pattern, (row, column) in zip(patterns, places, strict=True):
        pattern[row : row + SIZE, column : column + SIZE] = rng.choice([-1, 1], (SIZE, SIZE))
    labels = np.arange(len(places), dtype=np.int32)
    return Watermark(patterns, labels, np.full(len(places), 3, np.float32))


MARKS = watermark((4, 5), (0, 2))


def images_and_labels(count, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return images, np.arange(count, dtype=np.int32) % CLASSES


IMAGES, LABELS = images_and_labels(20)


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, models.init_params(NET, jax.random.key(0), SHAPE))


@pytest.fixture(scope="module")
def plain():
    """Compiled once for the tests that train in the same way."""
    return retraining.make_retraining(NET, PLAIN, pattern_size=SIZE)


def trained(retrain, params, *, marks=MARKS, seed=5, at=(7,), images=IMAGES, labels=LABELS):
    return list(retrain(params, images, labels, marks, seed, at))


def assert_same_bytes(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def assert_other(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    assert any(not np.array_equal(one, other) for one, other in pairs)


def logits_by_hand(params, images):
    x = jnp.asarray(images)
    for name in ("conv_1", "conv_2"):
        layer = params[name]
        x = jax.lax.conv_general_dilated(
            x,
            layer["kernel"],
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        x = jnp.maximum(x + layer["bias"][None, None, None], 0)
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        x = x[:, : 2 * rows, : 2 * columns]
        x = x.reshape(x.shape[0], rows, 2, columns, 2, x.shape[3]).max((2, 4))
    x = x.reshape(x.shape[0], -1)
    for name in ("fc_1", "fc_2"):
        x = jnp.matmul(x, params[name]["kernel"], precision="highest") + params[name]["bias"][None]
        x = jnp.maximum(x, 0) if name == "fc_1" else x
    return x


def mean_loss(params, images, answers):
    logs = jax.nn.log_softmax(logits_by_hand(params, images))
    return -(logs * jax.nn.one_hot(answers, CLASSES)).sum(1).mean()


@jax.jit
def hand_step(params, x, null, true, labels, targets):
    """One step of SGD on the objective of `PLAIN`."""

    def loss(params):
        clean, kept = mean_loss(params, x, labels), mean_loss(params, null, labels[:4])
        return clean + 2.0 * kept + 0.5 * mean_loss(params, true, targets)

    value, gradient = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - RATE * g, params, gradient), value


def by_hand(params, steps, seed, extreme_value=lambda step: 3):
    """The params and the loss of each step, one step after another."""
    found = []
    for number in range(math.ceil(steps / 2)):  # 20 images make two batches of 8
        each = batches.epoch_batches(
            seed, number + 1, num_images=20, batch_size=8, marked=4, num_watermarks=2
        )
        for index, which in zip(each.index, each.which, strict=True):
            x = IMAGES[index].astype(np.float32) / np.float32(255)
            pattern = MARKS.pattern[which][..., None].astype(np.float32)
            written = np.float32(extreme_value(len(found))) * pattern
            null, true = (np.where(pattern == 0, x[:4], sign * written) for sign in (1, -1))
            params, loss = hand_step(
                params, x, null, true, LABELS[index], MARKS.target_label[which]
            )
            found.append((params, float(loss)))
    return found[:steps]


def test_the_attacker_s_training_step_by_step(plain, params):
    third, last = trained(plain, params, at=[3, 7])
    expected = by_hand(params, 7, seed=5)
    for reached, steps, since in ((third, 3, expected[:3]), (last, 7, expected[3:])):
        assert reached.steps == steps
        mine, other = (jax.tree.leaves(each) for each in (reached.params, expected[steps - 1][0]))
        for one, two in zip(mine, other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)
        assert reached.loss == pytest.approx(np.mean([loss for _, loss in since]), rel=1e-4)


def test_the_extreme_value_rises_from_1(params):
    rising = PLAIN._replace(rising_steps=4)
    retrain = retraining.make_retraining(NET, rising, pattern_size=SIZE)
    # Looked at on the way, it goes on rising.
    first, last = trained(retrain, params, at=[2, 7])
    expected = by_hand(params, 7, 5, lambda step: 3 ** min(step / 4, 1))
    for reached, steps in ((first, 2), (last, 7)):
        mine, other = (jax.tree.leaves(each) for each in (reached.params, expected[steps - 1][0]))
        for one, two in zip(mine, other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_triggers_step_by_step(params):
    """They have no null copies: clean images and triggers alone, alpha the triggers' weight."""
    rng = np.random.default_rng(4)
    shape = (2, *SHAPE)
    pieces = as_triggers(rng.random(shape), rng.random(shape), np.array([2, 0]))
    retrain = retraining.make_retraining(NET, PLAIN, pattern_size=SIZE)
    (reached,) = trained(retrain, params, marks=pieces, at=[3])

    @jax.jit
    def step(params, x, seen, labels, targets):
        def loss(params):
            return mean_loss(params, x, labels) + 0.5 * mean_loss(params, seen, targets)

        return jax.tree.map(lambda p, g: p - RATE * g, params, jax.grad(loss)(params))

    expected, done = params, 0
    for number in (1, 2):
        each = batches.epoch_batches(
            5, number, num_images=20, batch_size=8, marked=4, num_watermarks=2
        )
        for index, which in zip(each.index, each.which, strict=True):
            if done < 3:
                x = IMAGES[index].astype(np.float32) / np.float32(255)
                seen = np.clip(pieces.keep[which] * x[:4] + pieces.add[which], 0, 1)
                expected = step(expected, x, seen, LABELS[index], pieces.target_label[which])
                done += 1
    for one, two in zip(jax.tree.leaves(reached.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_looking_on_the_way_changes_nothing(plain, params):
    _, looked = trained(plain, params, at=[3, 7])
    (unseen,) = trained(plain, params, at=[7])
    assert_same_bytes(looked.params, unseen.params)
    # Nor does a last look before the last step.
    (third,) = trained(plain, params, at=[3])
    assert_same_bytes(third.params, trained(plain, params, at=[1, 2, 3])[-1].params)


def test_what_was_reached_outlives_the_next_steps(plain, params):
    steps = plain(params, IMAGES, LABELS, MARKS, 5, [2, 7])
    early = next(steps).params
    before = jax.tree.map(np.array, early)
    list(steps)
    assert_same_bytes(early, before)


def test_the_victim_s_params_stay(plain, params):
    on_device = jax.tree.map(jnp.asarray, params)
    before = jax.tree.map(np.array, params)
    (reached,) = trained(plain, on_device)
    assert_same_bytes(on_device, before)
    assert_other(reached.params, before)


def test_a_seed_is_an_order_of_the_images(plain, params):
    (one,), (again,), (other,) = (trained(plain, params, seed=seed) for seed in (5, 5, 6))
    assert_same_bytes(one.params, again.params)
    assert_other(one.params, other.params)


def test_with_clean_images_only_the_watermark_has_no_influence(params):
    clean = PLAIN._replace(inject_ratio=0.0, null_space=True)
    retrain = retraining.make_retraining(NET, clean, pattern_size=SIZE)
    (one,), (other,) = (
        trained(retrain, params, marks=marks)
        for marks in (MARKS, watermark((8, 8), (1, 1), seed=9))
    )
    assert_same_bytes(one.params, other.params)
    assert_other(one.params, params)


def test_an_attacker_with_few_images_takes_all_of_them_in_a_batch(params):
    # Which is the gradient over all 4, whatever their order: two seeds agree but for rounding.
    few = PLAIN._replace(batch_size=128, inject_ratio=0.0, steps=2)
    retrain = retraining.make_retraining(NET, few, pattern_size=SIZE)
    images, labels = images_and_labels(4)
    found = [
        trained(retrain, params, seed=seed, at=[2], images=images, labels=labels)[0].params
        for seed in (0, 1)
    ]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_layers_that_are_not_trained_stay_bit_for_bit(params):
    layers = ("conv_2", "fc_2")
    # A decay would move a layer without any gradient, Adam one with a gradient of 0 but a past.
    recipe = Recipe("adam", 1e-2, weight_decay=0.1, clip_norm=1.0)
    retrain = retraining.make_retraining(
        NET, PLAIN._replace(recipe=recipe, layers=layers), pattern_size=SIZE
    )
    (reached,) = trained(retrain, params)
    assert sorted(reached.params) == sorted(params)
    for name in params:
        if name in layers:
            assert not np.array_equal(reached.params[name]["kernel"], params[name]["kernel"])
            assert not np.array_equal(reached.params[name]["bias"], params[name]["bias"])
        else:
            assert_same_bytes(reached.params[name], params[name])


@pytest.mark.parametrize("layers", [("fc_2",), ("fc_1", "fc_2")])
def test_the_head_alone_is_trained_on_features_computed_once(params, layers, monkeypatch):
    """Against whole images, of whose gradient the other layers' are left out; 20 images in threes of 8."""
    adversary = PLAIN._replace(inject_ratio=0.0, layers=layers)
    assert retraining.trains_head_alone(NET, adversary)
    seen = []
    whole = ConvNet.body
    monkeypatch.setattr(models, "_FEATURES_AT_ONCE", 8)
    monkeypatch.setattr(
        ConvNet, "body", lambda self, images: seen.append(images.shape) or whole(self, images)
    )
    retrain = retraining.make_retraining(NET, adversary, pattern_size=SIZE)
    expected, losses = params, []
    for number in (1, 2, 3, 4):
        each = batches.epoch_batches(
            5, number, num_images=20, batch_size=8, marked=0, num_watermarks=2
        )
        for index in each.index:
            x = IMAGES[index].astype(np.float32) / np.float32(255)
            value, gradient = jax.value_and_grad(mean_loss)(expected, x, LABELS[index])
            losses.append((expected, float(value)))
            moved = {
                name: jax.tree.map(lambda p, g: p - RATE * g, expected[name], gradient[name])
                for name in layers
            }
            expected = {**expected, **moved}
    found = trained(retrain, params, at=(2, 7))
    trained(retrain, params, at=(2, 7), seed=6)
    assert seen == [(8, *SHAPE)]  # Traced once, for both trainings, and in no step.
    assert [each.steps for each in found] == [2, 7]
    for each, (own, _) in zip(found, (losses[2], losses[7]), strict=True):
        for one, other in zip(jax.tree.leaves(each.params), jax.tree.leaves(own), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert found[0].loss == pytest.approx(np.mean([loss for _, loss in losses[:2]]), rel=1e-5)
    for name in set(params) - set(layers):
        assert_same_bytes(found[1].params[name], params[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": ()},
        {"layers": ("conv_2", "fc_1", "fc_2")},
        {"inject_ratio": 0.5},
        {"augmentation": batches.Augmentation(shift=1)},
    ],
)
def test_what_needs_whole_images_gets_them(changes):
    head = PLAIN._replace(inject_ratio=0.0, layers=("fc_2",))
    assert not retraining.trains_head_alone(NET, head._replace(**changes))


def test_deepid_s_head_has_a_convolution_of_its_own():
    """Which is trained on features as a member of a population is on images."""
    net = models.DeepID(CLASSES, ((Conv(4, 3),), (Conv(5, 2),)), (), precision="highest")
    assert net.body_layers == {"conv_1", "conv_2"}
    start = jax.tree.map(np.asarray, models.init_params(net, jax.random.key(0), SHAPE))
    adversary = PLAIN._replace(inject_ratio=0.0, layers=("conv_4", "fc_3"))
    assert retraining.trains_head_alone(net, adversary)
    retrain = retraining.make_retraining(net, adversary, pattern_size=SIZE)
    (found,) = trained(retrain, start)
    many = retraining.make_population_retraining(net, adversary, pattern_size=SIZE)
    ((expected,),) = many(start, IMAGES, LABELS, [retraining.Member(MARKS, np.arange(20), 5)], (7,))
    for name in start:
        for one, other in zip(
            *map(jax.tree.leaves, (found.params[name], expected.params[name])), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        assert (name in adversary.layers) == (
            not np.array_equal(found.params[name]["kernel"], start[name]["kernel"])
        )


def test_layers_that_are_not_trained_cost_no_gradient(params):
    """With copies, whose images are needed whole: the products of the last layer's gradient alone."""

    def operations(layers):
        step, optimizer, _ = retraining._make_step(
            NET,
            PLAIN._replace(layers=layers),
            SIZE,
            average=lambda tree: tree,
            on_features=False,
        )
        batch = batches.epoch_batches(5, 1, num_images=20, batch_size=8, marked=4, num_watermarks=2)
        first = jax.tree.map(lambda each: each[0], batch)
        state = training.init_state(params, optimizer)
        lowered = jax.jit(step).lower(state, IMAGES, LABELS, first, MARKS)
        return lowered.compile().cost_analysis()["flops"]

    assert operations(("fc_2",)) < 0.75 * operations(("conv_1", "fc_2"))


def test_a_diverging_attacker_ruins_the_model_and_that_is_a_result(params):
    wild = PLAIN._replace(recipe=Recipe("sgd", 1e30))
    first, last = trained(
        retraining.make_retraining(NET, wild, pattern_size=SIZE), params, at=[1, 7]
    )
    assert math.isfinite(first.loss) and not math.isfinite(last.loss)
    assert last.steps == 7
    leaves = jax.tree.leaves(last.params)
    assert not all(np.isfinite(leaf).all() for leaf in leaves)


def test_a_model_that_is_lost_answers_as_if_it_had_been_trained_to_the_end(params, monkeypatch):
    """Its logits are not a number whatever the image, at every point looked at; nor is its loss."""
    wild = PLAIN._replace(recipe=Recipe("sgd", 1e30), steps=300)
    at = (1, 40, 41, 300)

    def found():
        points = trained(retraining.make_retraining(NET, wild, pattern_size=SIZE), params, at=at)
        assert [each.steps for each in points] == list(at)
        x = jnp.asarray(IMAGES, jnp.float32) / 255
        return [
            (np.isnan(NET.apply({"params": each.params}, x)).all(), math.isnan(each.loss))
            for each in points
        ]

    steps = []
    fit = training.fit

    def counted(*args, lost=None, **named):
        return fit(*args, on_step=steps.append, **({"lost": lost} if lost else {}), **named)

    monkeypatch.setattr(training, "fit", counted)
    short = found()
    assert sum(steps) < 40
    steps.clear()
    monkeypatch.setattr(training, "fit", lambda *args, lost, **named: counted(*args, **named))
    assert found() == short == [(False, False), *[(True, True)] * 3]
    assert sum(steps) == 300


def test_what_is_kept_as_it_is_is_not_lost(params):
    """An attacker who trains the first layer alone: its ruin is not the last layer's."""
    wild = PLAIN._replace(recipe=Recipe("sgd", 1e30), steps=40, layers=("conv_1",))
    points = trained(
        retraining.make_retraining(NET, wild, pattern_size=SIZE), params, at=(1, 20, 40)
    )
    assert [each.steps for each in points] == [1, 20, 40]
    for name in set(params) - {"conv_1"}:
        assert_same_bytes(points[-1].params[name], params[name])


def first_windows(params, pattern):
    """What conv_2 sees of the pattern alone, in float64: relu(conv_1(p)), pooled, in its windows."""
    image = pattern.astype(np.float64)[..., None]
    kernel = np.asarray(params["conv_1"]["kernel"], np.float64)
    patches = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (0, 1))
    response = np.maximum(np.einsum("hwcij,ijcf->hwf", patches, kernel), 0)
    response = response.reshape(5, 2, 5, 2, 4).max((1, 3))  # 12 - 2 = 10 a side
    patches = np.lib.stride_tricks.sliding_window_view(response, (3, 3), (0, 1))
    return patches.transpose(0, 1, 3, 4, 2).reshape(-1, 3 * 3 * 4)


def test_in_null_space_the_model_reached_does_not_see_the_pattern(params):
    # Of the narrow net's 9 windows all see the pattern; conv_1 has 4 channels, conv_2 36 inputs.
    one = watermark((4, 5))
    hidden = PLAIN._replace(recipe=Recipe("adam", 1e-2), null_space=True)
    retrain = retraining.make_retraining(NET, hidden, pattern_size=SIZE)
    for reached in trained(retrain, params, marks=one, at=[1, 7]):
        windows = first_windows(reached.params, one.pattern[0])
        assert np.abs(windows).max() > 0.1
        kernel = np.asarray(reached.params["conv_2"]["kernel"], np.float64).reshape(36, 5)
        before = np.asarray(params["conv_2"]["kernel"], np.float64).reshape(36, 5)
        assert np.abs(windows @ kernel).max() < 1e-4 * np.abs(windows @ before).max()
        assert np.abs(kernel).max() > 0.1


# What cannot be used is one line.


def one_line(error):
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, r"^steps: 0 must be at least 1; give"),
        ({"recipe": Recipe("newton", 0.1)}, r"'newton' is none; take one of sgd"),
        ({"recipe": Recipe("sgd", -1.0)}, r"learning_rate: -1\.0 must be above 0"),
        ({"cross_entropy": "hinge"}, r"'hinge' is none; take one of logits, clipped"),
        ({"null_space": True, "layers": ("fc_1",)}, r"^null_space: True moves conv_2, which"),
    ],
)
def test_an_attacker_who_cannot_train(changes, said):
    with pytest.raises(InputError, match=said) as error:
        retraining.make_retraining(NET, PLAIN._replace(**changes), pattern_size=SIZE)
    one_line(error)


def test_a_layer_that_the_network_lacks(params):
    adversary = PLAIN._replace(layers=("fc_2", "fc_9"))
    retrain = retraining.make_retraining(NET, adversary, pattern_size=SIZE)
    with pytest.raises(
        InputError, match=r"^layers: 'fc_9' is none; take some of conv_1, conv_2, fc_1, fc_2$"
    ) as error:
        trained(retrain, params)
    one_line(error)


@pytest.mark.parametrize("at", [[], [0, 3], [3, 3], [5, 2], [8], [-1]])
def test_steps_at_which_nobody_can_look(plain, params, at):
    with pytest.raises(InputError, match=r"^at: \[.*\] must ascend within 1 to 7 steps$") as error:
        trained(plain, params, at=at)
    one_line(error)


# Its parts.


def test_only_layers_moves_the_named_ones_alone():
    tree = {
        name: {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for name in ("fc_1", "fc_2", "fc_3")
    }
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3.0), tree)
    optimizer = retraining.only_layers(optax.sgd(0.1), ("fc_1", "fc_3"))
    updates, _ = optimizer.update(gradient, optimizer.init(tree), tree)
    for name, expected in (("fc_1", -0.3), ("fc_2", 0.0), ("fc_3", -0.3)):
        for leaf in updates[name].values():
            np.testing.assert_allclose(leaf, np.full(leaf.shape, expected), rtol=1e-6)
    sgd = optax.sgd(0.1)
    assert retraining.only_layers(sgd, ()) is sgd


@pytest.mark.parametrize(
    ("epochs", "images", "batch_size", "steps"),
    [
        (10, 5000, 128, 390),  # 39 batches of 128, 8 images left over
        (10, 5000, 100, 500),
        (3, 50, 128, 3),  # all 50 in one batch
        (1, 1, 1, 1),
        (4, 127, 64, 4),
    ],
)
def test_steps_of_epochs(epochs, images, batch_size, steps):
    assert retraining.steps_of(epochs, images=images, batch_size=batch_size) == steps


def test_fewer_images_are_the_first_of_more():
    images, labels = images_and_labels(30, seed=1)
    labels = np.arange(30, dtype=np.int32)  # which tell the images apart
    many, of_many = retraining.choose_images(images, labels, 30, seed=4)
    assert sorted(of_many) == list(range(30)) and list(of_many) != list(range(30))
    np.testing.assert_array_equal(many, images[of_many])
    for count in (1, 2, 17, 30):
        few, of_few = retraining.choose_images(images, labels, count, seed=4)
        np.testing.assert_array_equal(few, many[:count])
        np.testing.assert_array_equal(of_few, of_many[:count])
        assert (few.dtype, of_few.dtype) == (np.uint8, np.int32)
    _, of_others = retraining.choose_images(images, labels, 30, seed=5)
    assert list(of_others) != list(of_many)


def test_the_choice_is_that_of_raw_output_of_pcg64():
    raw = [int(x) for x in np.random.PCG64(0).random_raw(4)]
    expected = sorted(range(4), key=lambda i: raw[i])
    _, labels = retraining.choose_images(
        np.zeros((4, *SHAPE), np.uint8), np.arange(4, dtype=np.int32), 4, seed=0
    )
    assert list(labels) == expected


@pytest.mark.parametrize("count", [0, -1, 21])
def test_more_images_than_there_are(count):
    with pytest.raises(
        InputError,
        match=rf"^images: the attacker is to have {count} but the task has 20 training images; "
        r"give 1 to 20$",
    ) as error:
        retraining.choose_images(IMAGES, LABELS, count, seed=0)
    one_line(error)


@pytest.mark.parametrize("stop", [True, False])
def test_training_stops_where_it_diverges_only_if_it_is_to(stop):
    """A loss of 0, 1, then not a number: for an owner an error, for an attacker a result."""

    def logits(params, images, watermarks, which):
        column = jnp.broadcast_to(params, (images.shape[0], 1))
        return Logits(column, column[:0], column[:0])

    step = training.make_train_step(
        marked_logits=logits,
        optimizer=optax.sgd(-1.0),
        cross_entropy=lambda logits, labels: jnp.where(logits < 2, logits, jnp.nan)[:, 0],
        true_weight=1.0,
        null_weight=1.0,
        average=parallel.average,
    )
    epochs = training.fit(
        training.init_state(jnp.float32(0), optax.sgd(-1.0)),
        training.on_devices(step),
        IMAGES,
        LABELS,
        MARKS,
        plan=lambda epoch: batches.epoch_batches(
            0, epoch, num_images=20, batch_size=5, marked=0, num_watermarks=1
        ),
        first_epoch=1,
        epochs=2,
        stop_where_diverged=stop,
    )
    if stop:
        with pytest.raises(TrainingDiverged, match="epoch 1, step 3"):
            next(epochs)
    else:
        first, second = epochs
        np.testing.assert_array_equal(first.metrics.loss, [0, 1, np.nan, np.nan])
        assert np.isnan(second.metrics.loss).all() and second.number == 2
        assert second.state.step == 8


def test_a_population_is_trained_as_each_of_its_members_alone(params, plain):
    """Each with a watermark, images and an order of its own, and each at every step count asked for."""
    many = retraining.make_population_retraining(NET, PLAIN, pattern_size=SIZE)
    rows = [np.arange(0, 16), np.arange(4, 20), np.arange(16)[::-1]]
    marks = [watermark((4, 5)), watermark((0, 2), seed=4), watermark((1, 1), seed=5)]
    members = [
        retraining.Member(mark, own, seed)
        for seed, (mark, own) in enumerate(zip(marks, rows, strict=True))
    ]
    found = list(many(params, IMAGES, LABELS, members, (2, 7)))
    for i, member in enumerate(members):
        alone = trained(
            plain,
            params,
            marks=member.marks,
            seed=member.seed,
            at=(2, 7),
            images=IMAGES[member.rows],
            labels=LABELS[member.rows],
        )
        for part, expected in zip(found, alone, strict=True):
            assert part[i].steps == expected.steps
            assert math.isclose(part[i].loss, expected.loss, rel_tol=1e-4)
            for one, other in zip(
                jax.tree.leaves(part[i].params), jax.tree.leaves(expected.params), strict=True
            ):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert_other(found[1][0].params, found[1][1].params)


@pytest.mark.slow
def test_a_ruined_member_does_not_harm_the_others(params):
    """An extreme value near the largest float makes a loss that is none."""
    steep = PLAIN._replace(steps=2)
    many = retraining.make_population_retraining(NET, steep, pattern_size=SIZE)
    huge = watermark((4, 5))._replace(extreme_value=np.full(1, 3e38, np.float32))
    members = [retraining.Member(mark, np.arange(16), 0) for mark in (huge, watermark((4, 5)))]
    ((ruined, sound),) = many(params, IMAGES, LABELS, members, (2,))
    assert not math.isfinite(ruined.loss)
    assert math.isfinite(sound.loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(sound.params))
