"""training.py: the step against numbers worked out in NumPy, and `fit` on a net that is no Flax."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nullmark_jax import batches, evaluation, losses, parallel, training, transform
from nullmark_jax.data import Dataset
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import TrainingDiverged
from nullmark_jax.losses import Logits

SIDE, CLASSES = 8, 3


# A user's own network: two matrices, plain jax.numpy.
def apply_fn(params, images):
    hidden = jax.nn.relu(images.reshape(images.shape[0], -1) @ params["in"])
    return hidden @ params["out"]


def initial_params(width=48):
    rng = np.random.default_rng(0)
    shapes = {"in": (SIDE * SIDE, width), "out": (width, CLASSES)}
    return {
        name: jnp.asarray(rng.normal(0, math.sqrt(1 / shape[0]), shape), jnp.float32)
        for name, shape in shapes.items()
    }


def bars(count, seed):
    """Images with a bright bar whose height is the class, in noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % CLASSES
    images = rng.integers(0, 90, (count, SIDE, SIDE, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 1 : 2 * label + 3] += 150
    return Dataset(images, labels, ("a", "b", "c"))


def random_watermarks(count, extreme_value=10.0):
    return transform.random_watermarks(
        3,
        count,
        height=SIDE,
        width=SIDE,
        num_classes=CLASSES,
        pattern_size=3,
        extreme_value=extreme_value,
    )


def make_plan(data, *, batch_size=16, marked=8, num_watermarks=1):
    return lambda epoch: batches.epoch_batches(
        0,
        epoch,
        num_images=len(data),
        batch_size=batch_size,
        marked=marked,
        num_watermarks=num_watermarks,
    )


def train(data, watermarks, *, plan, epochs=12, **options):
    """Trains the user's network; returns all epochs."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.trace(0.9, nesterov=True), optax.scale(-0.02)
    )
    step = training.make_train_step(
        marked_logits=training.concatenated_logits(apply_fn),
        optimizer=optimizer,
        cross_entropy=options.pop("cross_entropy", losses.logits_cross_entropy),
        true_weight=1.0,
        null_weight=1.0,
        average=parallel.average,
        **options.pop("step", {}),
    )
    state = options.pop("state", None) or training.init_state(initial_params(), optimizer)
    placed = {
        name: options.pop(name) for name in ("steps_per_dispatch", "resident") if name in options
    }
    return list(
        training.fit(
            state,
            training.on_devices(step, **placed),
            data.images,
            data.labels,
            watermarks,
            plan=plan,
            first_epoch=options.pop("first_epoch", 1),
            epochs=epochs,
            **options,
        )
    )


def measure(params, watermarks):
    return evaluation.make_evaluator(apply_fn, bars(60, seed=9))(params, watermarks)


def test_the_first_state():
    state = training.init_state(initial_params(), optax.adam(1e-3))
    assert state.step == 0 and state.step.dtype == jnp.int32
    assert state.params["in"].shape == (64, 48)


def softmax(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def test_a_step_against_the_gradient_worked_out_in_numpy():
    # A linear net F(x) = x W: d loss / dW = x^T (softmax - one-hot) / images, a sum over the terms.
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (5, 2, 2, 1), dtype=np.uint8)
    labels = np.array([0, 2, 1, 1, 0], np.int32)
    weights = rng.normal(size=(4, 3))
    pattern = np.array([[[1, 0], [0, 0]], [[0, 0], [0, -1]]], np.int8)
    marks = Watermark(pattern, np.array([2, 1], np.int32), np.array([3, 5], np.float32))
    batch = batches.Batch(
        index=np.array([3, 0, 1], np.int32),
        which=np.array([1, 0], np.int32),
        shift=np.zeros((3, 2), np.int32),
        flip=np.zeros(3, bool),
    )
    alpha, beta, rate = 0.5, 2.0, 0.1

    x = images.reshape(5, 4)[batch.index] / 255.0
    null, true = x[:2].copy(), x[:2].copy()
    null[0, 3], true[0, 3] = -5, 5  # watermark 1: its last pixel is black
    null[1, 0], true[1, 0] = 3, -3  # watermark 0: its first pixel is white
    terms, gradient = [], np.zeros((4, 3))
    for inputs, answers, weight in (
        (x, [1, 0, 2], 1.0),
        (null, [1, 0], beta),
        (true, [1, 2], alpha),
    ):
        p, hot = softmax(inputs @ weights), np.eye(3)[answers]
        terms.append(-np.log((p * hot).sum(-1)).mean())
        gradient += weight * inputs.T @ (p - hot) / len(inputs)

    step = training.make_train_step(
        marked_logits=training.concatenated_logits(
            lambda params, pictures: pictures.reshape(pictures.shape[0], -1) @ params
        ),
        optimizer=optax.sgd(rate),
        cross_entropy=losses.logits_cross_entropy,
        true_weight=alpha,
        null_weight=beta,
    )
    state = training.init_state(jnp.asarray(weights, jnp.float32), optax.sgd(rate))
    to_jax = lambda tree: jax.tree.map(jnp.asarray, tree)  # noqa: E731
    after, metrics = jax.jit(step)(state, images, labels, to_jax(batch), to_jax(marks))

    np.testing.assert_allclose(metrics.terms.clean, terms[0], rtol=1e-5)
    np.testing.assert_allclose(metrics.terms.null, terms[1], rtol=1e-5)
    np.testing.assert_allclose(metrics.terms.true, terms[2], rtol=1e-5)
    np.testing.assert_allclose(
        metrics.loss, terms[0] + beta * terms[1] + alpha * terms[2], rtol=1e-5
    )
    np.testing.assert_allclose(metrics.gradient_norm, np.linalg.norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(after.params, weights - rate * gradient, rtol=1e-4, atol=1e-6)
    assert after.step == 1


def test_a_user_s_own_network_learns_a_watermark():
    data, marks = bars(160, seed=0), random_watermarks(1)
    epochs = train(data, marks, plan=make_plan(data))
    assert [epoch.number for epoch in epochs] == list(range(1, 13))
    assert all(epoch.metrics.loss.shape == (10,) for epoch in epochs)
    assert epochs[-1].state.step == 120
    counts = measure(epochs[-1].state.params, marks)
    assert counts.normal_accuracy[0] >= 0.95
    assert counts.null_accuracy[0] >= 0.95
    assert counts.true_accuracy[0] == 1.0


@pytest.mark.slow
def test_three_watermarks_in_one_network():
    data, marks = bars(160, seed=0), random_watermarks(3)
    epochs = train(data, marks, plan=make_plan(data, num_watermarks=3), epochs=25)
    counts = measure(epochs[-1].state.params, marks)
    assert counts.images.shape == (3,)
    assert (counts.normal_accuracy >= 0.95).all()
    assert (counts.null_accuracy >= 0.9).all()
    assert (counts.true_accuracy >= 0.95).all()


def test_the_watermark_free_twin():
    data, marks = bars(160, seed=0), random_watermarks(1)
    plan = make_plan(data, marked=0, num_watermarks=0)
    epochs = train(data, marks, plan=plan, epochs=6)
    metrics = epochs[-1].metrics
    assert not metrics.terms.null.any() and not metrics.terms.true.any()
    assert (metrics.loss == metrics.terms.clean).all()
    counts = measure(epochs[-1].state.params, marks)
    assert counts.normal_accuracy[0] >= 0.95
    assert min(counts.null_accuracy[0], counts.true_accuracy[0]) < 0.8


def test_the_clipped_cross_entropy_teaches_nothing_where_it_clips():
    # F(x) = 40 (x . 1) (1, 0, 0): of a white image's logits the first is 40 above the others, whose
    # probabilities, e^-40, lie below 1e-7.
    images, labels = np.full((4, 2, 2, 1), 255, np.uint8), np.array([1, 2, 1, 2], np.int32)
    batch = batches.Batch(
        np.arange(4, dtype=np.int32),
        np.zeros(0, np.int32),
        np.zeros((4, 2), np.int32),
        np.zeros(4, bool),
    )
    marks = Watermark(np.zeros((1, 2, 2), np.int8), np.zeros(1, np.int32), np.ones(1, np.float32))
    weights = np.zeros((4, 3), np.float32)
    weights[:, 0] = 10
    after = {}
    for name in ("clipped", "logits"):
        step = training.make_train_step(
            marked_logits=training.concatenated_logits(
                lambda params, pictures: pictures.reshape(pictures.shape[0], -1) @ params
            ),
            optimizer=optax.sgd(1.0),
            cross_entropy=losses.cross_entropy(name),
            true_weight=1.0,
            null_weight=1.0,
        )
        state = training.init_state(jnp.asarray(weights), optax.sgd(1.0))
        after[name], metrics = jax.jit(step)(state, images, labels, batch, marks)
        assert metrics.loss == pytest.approx(-math.log(1e-7) if name == "clipped" else 40, rel=1e-5)
    assert np.array_equal(after["clipped"].params, weights)
    assert not np.array_equal(after["logits"].params, weights)


def extreme_value_logits(params, images, watermarks, which):
    """A 'network' whose null logits are lambda, so that the loss tells what lambda was."""
    zeros = jnp.zeros((images.shape[0], 1)) * params
    return Logits(zeros, watermarks.extreme_value[which][:, None], zeros[: which.shape[0]])


def test_the_curriculum_sets_lambda_by_the_step():
    step = training.make_train_step(
        marked_logits=extreme_value_logits,
        optimizer=optax.sgd(0.1),
        cross_entropy=lambda logits, labels: logits[:, 0],
        true_weight=1.0,
        null_weight=1.0,
        marks_at=lambda step, marks: marks._replace(
            extreme_value=marks.extreme_value * jnp.asarray([0.25, 0.5, 1.0])[step]
        ),
        average=parallel.average,
    )
    data = bars(12, seed=0)
    (epoch,) = training.fit(
        training.init_state(jnp.float32(1), optax.sgd(0.1)),
        training.on_devices(step),
        data.images,
        data.labels,
        random_watermarks(2, extreme_value=8.0),
        plan=make_plan(data, batch_size=4, marked=2, num_watermarks=2),
        first_epoch=1,
        epochs=1,
    )
    assert epoch.metrics.terms.null.tolist() == [2.0, 4.0, 8.0]


class Picked:
    """Images of which it is kept which rows were wanted."""

    def __init__(self, images):
        self.images, self.rows = images, []

    def __getitem__(self, index):
        self.rows.append(index)
        return self.images[index]


@pytest.mark.parametrize("steps_per_dispatch", [1, 3])
def test_fed_from_the_host_only_the_rows_of_each_dispatch_are_read(steps_per_dispatch):
    data = bars(64, seed=0)
    plan = make_plan(data, batch_size=8, marked=4)
    picked = types.SimpleNamespace(images=Picked(data.images), labels=data.labels)
    options = {"steps_per_dispatch": steps_per_dispatch, "resident": False}
    train(picked, random_watermarks(1), plan=plan, epochs=1, **options)
    read = [np.ravel(rows) for rows in picked.images.rows]
    assert [len(rows) for rows in read] == [
        8 * n for n in ([1] * 8, [3, 3, 2])[steps_per_dispatch > 1]
    ]
    np.testing.assert_array_equal(np.concatenate(read), np.ravel(plan(1).index))


def countdown(at):
    """A step whose loss counts 0, 1, 2, ... over all steps, and fails from step `at` on."""

    def logits(params, images, watermarks, which):
        column = jnp.broadcast_to(params, (images.shape[0], 1))
        return Logits(column, column[:0], column[:0])

    return training.make_train_step(
        marked_logits=logits,
        optimizer=optax.sgd(-1.0),
        cross_entropy=lambda logits, labels: at(logits[:, 0]),
        true_weight=1.0,
        null_weight=1.0,
        average=parallel.average,
    )


def fit_countdown(at, *, epochs=3, **options):
    data = bars(100, seed=0)
    placed = {
        name: options.pop(name) for name in ("steps_per_dispatch", "resident") if name in options
    }
    return training.fit(
        training.init_state(jnp.float32(0), optax.sgd(-1.0)),
        training.on_devices(countdown(at), **placed),
        data.images,
        data.labels,
        random_watermarks(1),
        plan=make_plan(data, batch_size=2, marked=0),
        first_epoch=1,
        epochs=epochs,
        learning_rate=lambda step: 0.001 * step,
        **options,
    )


@pytest.mark.parametrize("steps_per_dispatch", [1, 8])
def test_a_loss_that_stops_being_finite_says_when(steps_per_dispatch):
    # 50 steps an epoch; the loss of step 70 counted from 0 is epoch 2's 21st.
    epochs = fit_countdown(
        lambda count: jnp.where(count < 70, count, jnp.nan), steps_per_dispatch=steps_per_dispatch
    )
    assert next(epochs).metrics.loss.tolist() == list(range(50))
    with pytest.raises(TrainingDiverged) as failure:
        next(epochs)
    message = str(failure.value)
    assert message.startswith("the loss became nan")
    assert "epoch 2, step 21, learning rate 0.07:" in message
    assert "config.optimizer.learning_rate" in message and "checkpoint is kept" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("stop_at", "options"),
    [
        (64, {"steps_per_dispatch": 8}),
        pytest.param(57, {"resident": False}, marks=pytest.mark.slow),
        pytest.param(100, {}, marks=pytest.mark.slow),
    ],
)
def test_a_training_stopped_in_an_epoch_goes_on_to_the_same_bytes(stop_at, options):
    asked = []

    def asked_to_stop(step):
        asked.append(step)
        return step >= stop_at

    data, marks = bars(100, seed=0), random_watermarks(2)
    plan = make_plan(data, batch_size=2, marked=2)
    whole = train(data, marks, plan=plan, epochs=3, **dict(options))
    cut = train(data, marks, plan=plan, epochs=3, asked_to_stop=asked_to_stop, **dict(options))
    # 50 steps an epoch, a dispatch of 8 steps or what is left of the epoch.
    size = options.get("steps_per_dispatch", 1)
    ends = [50 * epoch + min(at + size, 50) for epoch in (0, 1, 2) for at in range(0, 50, size)]
    end = next(each for each in ends if each >= stop_at)
    assert asked == ends[: ends.index(end) + 1]
    last = cut[-1]
    assert [(epoch.number, epoch.stopped) for epoch in cut] == [(1, False), (2, True)]
    assert int(last.state.step) == end and last.complete == (end == 100)
    assert len(last.metrics.loss) == end - 50
    rest = train(
        data,
        marks,
        plan=plan,
        epochs=3,
        state=jax.tree.map(np.asarray, last.state),
        before=None if last.complete else last.metrics,
        first_epoch=3 if last.complete else 2,
        **dict(options),
    )
    for ours, theirs in zip(rest, whole[-len(rest) :], strict=True):
        assert ours.number == theirs.number and ours.complete and not ours.stopped
        assert_same_bytes(ours.metrics, theirs.metrics)
    assert_same_bytes(rest[-1].state, whole[-1].state)


def assert_same_bytes(tree, other):
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_an_infinite_loss_that_comes_back_is_found_too():
    epochs = fit_countdown(lambda count: jnp.where(count == 3, jnp.inf, count))
    with pytest.raises(TrainingDiverged, match=r"became inf, .* epoch 1, step 4, learning"):
        next(epochs)


def test_a_gradient_that_is_not_finite_is_found_before_its_epoch_is_kept():
    # The last step of epoch 1 has a finite loss, and a gradient that is not.
    def steep(count):
        return jnp.where(count < 49, count, jnp.sqrt(jnp.where(count < 49, 1.0, count - 49)))

    epochs = fit_countdown(steep)
    with pytest.raises(TrainingDiverged, match=r"norm (inf|nan), at epoch 1, step 50"):
        next(epochs)


def test_progress_counts_every_step():
    for steps_per_dispatch, expected in ((1, [1] * 50), (16, [16, 16, 16, 2])):
        told = []
        list(
            fit_countdown(
                lambda count: count,
                epochs=2,
                steps_per_dispatch=steps_per_dispatch,
                on_step=told.append,
            )
        )
        assert told == 2 * expected


@pytest.mark.parametrize("resident", [True, False])
def test_the_step_is_compiled_once(caplog, resident):
    """The first step's state comes from the host, the later ones' from the device."""
    data = bars(48, seed=0)
    with jax.log_compiles():
        train(data, random_watermarks(1), plan=make_plan(data), epochs=2, resident=resident)
    # A pmapped function's name in jax 0.9 and later, and in 0.8.
    names = [f"Finished XLA compilation of jit({name})" for name in ("_fun", "call_wrapped")]
    compiled = [each for each in caplog.messages if any(name in each for name in names)]
    assert len(compiled) == 1


def test_training_goes_on_from_an_epoch():
    data, step = bars(100, seed=0), countdown(lambda count: count)
    (epoch,) = training.fit(
        training.init_state(jnp.float32(50), optax.sgd(-1.0)),
        training.on_devices(step),
        data.images,
        data.labels,
        random_watermarks(1),
        plan=make_plan(data, batch_size=2, marked=0),
        first_epoch=2,
        epochs=2,
    )
    assert epoch.number == 2
    assert epoch.metrics.loss.tolist() == list(range(50, 100))
