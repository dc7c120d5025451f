"""Pruning and quantisation, by hand and as their docstrings promise; the highest NC at which WM fails."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nullmark_jax import models
from nullmark_jax.attacks import pruning
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import pruning as experiment

# Sums of absolute incoming weights: 3, 1, 6, 2.
KERNEL = np.array([[1, -1, 3, 0], [-2, 0, -3, 2]], np.float32)
BIAS = np.array([10, 20, 30, 40], np.float32)
LAST = {
    "kernel": np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.float32),
    "bias": np.array([1, 2], np.float32),
}
PARAMS = {"fc_1": {"kernel": KERNEL, "bias": BIAS}, "fc_2": LAST}


@pytest.fixture(scope="module")
def face():
    model = models.face(7)
    return model, models.init_params(model, jax.random.key(0), (31, 31, 3))


def zeros_in(kernel):
    return int(np.sum(np.asarray(kernel) == 0))


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize(
    ("ratio", "descending", "gone"),
    [
        (0.25, False, [1]),
        (0.5, False, [1, 3]),
        (0.25, True, [2]),
        (0.75, True, [0, 2, 3]),
        (0.1, False, []),  # 0.4 neurons
        (0.2, False, [1]),  # 0.8 neurons
        (1.0, False, [0, 1, 2, 3]),
    ],
)
def test_neurons_by_hand(ratio, descending, gone):
    pruned = pruning.prune_neurons(PARAMS, ratio, last="fc_2", descending=descending)
    kernel, bias = KERNEL.copy(), BIAS.copy()
    kernel[:, gone], bias[gone] = 0, 0
    np.testing.assert_array_equal(pruned["fc_1"]["kernel"], kernel)
    np.testing.assert_array_equal(pruned["fc_1"]["bias"], bias)
    assert same(pruned["fc_2"], LAST)


def test_a_convolutions_neuron_is_a_channel():
    kernel = np.ones((3, 3, 2, 4), np.float32) * np.array([4, -1, 3, 2], np.float32)
    params = {"conv_1": {"kernel": kernel, "bias": BIAS}, "fc_1": LAST}
    pruned = pruning.prune_neurons(params, 0.5, last="fc_1")["conv_1"]
    np.testing.assert_array_equal(np.asarray(pruned["kernel"])[0, 0, 0], [4, 0, 3, 0])
    np.testing.assert_array_equal(pruned["bias"], [10, 0, 30, 0])
    assert zeros_in(pruned["kernel"]) == 2 * 18


def test_of_equal_neurons_the_first_goes_first():
    params = {"fc_1": {"kernel": np.ones((2, 4), np.float32), "bias": BIAS}, "fc_2": LAST}
    for descending in (False, True):
        pruned = pruning.prune_neurons(params, 0.5, last="fc_2", descending=descending)
        np.testing.assert_array_equal(pruned["fc_1"]["bias"], [0, 0, 30, 40])


def test_weights_by_hand():
    # Absolute values in row-major order: 1, 1, 3, 0; 2, 0, 3, 2.
    smallest = pruning.prune_weights(PARAMS, 0.5)
    np.testing.assert_array_equal(smallest["fc_1"]["kernel"], [[0, 0, 3, 0], [-2, 0, -3, 2]])
    largest = pruning.prune_weights(PARAMS, 3 / 8, descending=True)
    np.testing.assert_array_equal(largest["fc_1"]["kernel"], [[1, -1, 0, 0], [0, 0, 0, 2]])
    # The last layer's weights, too, and no biases.
    np.testing.assert_array_equal(smallest["fc_2"]["kernel"], [[0, 0], [0, 0], [5, 6], [7, 8]])
    np.testing.assert_array_equal(smallest["fc_1"]["bias"], BIAS)
    np.testing.assert_array_equal(smallest["fc_2"]["bias"], LAST["bias"])


@pytest.mark.parametrize(("kind", "order"), list(itertools.product(pruning.KINDS, pruning.ORDERS)))
def test_a_whole_network(kind, order, face):
    model, params = face
    before = jax.tree.map(np.array, params)
    assert same(pruning.prune(model, params, kind, order, 0), params)
    images = jnp.ones((2, 31, 31, 3))
    answers = models.apply_fn(model)(pruning.prune(model, params, kind, order, 1.0), images)
    expected = np.tile(params[model.last_layer]["bias"], (2, 1))
    np.testing.assert_array_equal(answers, expected)
    half = pruning.prune(model, params, kind, order, 0.5)
    for name, layer in half.items():
        if kind == "weights" or name != model.last_layer:
            assert zeros_in(layer["kernel"]) == pytest.approx(layer["kernel"].size / 2, abs=1)
    assert same(params, before)
    jitted = jax.jit(lambda params: pruning.prune(model, params, kind, order, 0.5))(params)
    assert same(jitted, half)


def test_ascending_and_descending_halves_are_complements(face):
    model, params = face
    for kind in pruning.KINDS:
        small, large = (pruning.prune(model, params, kind, order, 0.5) for order in pruning.ORDERS)
        for name, layer in params.items():
            if kind == "weights" or name != model.last_layer:
                total = np.asarray(small[name]["kernel"]) + np.asarray(large[name]["kernel"])
                np.testing.assert_array_equal(total, layer["kernel"])


def test_a_pruned_neuron_stays_pruned_under_training():
    model = models.digit(3)
    params = models.init_params(model, jax.random.key(1), (16, 16, 1))
    pruned = pruning.prune_neurons(params, 0.5, last=model.last_layer)
    images = jax.random.uniform(jax.random.key(2), (4, 16, 16, 1))
    apply = models.apply_fn(model)
    gradient = jax.jit(jax.grad(lambda params: (apply(params, images) ** 2).sum()))(pruned)
    for name in ("conv_1", "conv_2", "fc_1"):
        dead = np.all(
            np.asarray(pruned[name]["kernel"]).reshape(-1, len(pruned[name]["bias"])) == 0, 0
        )
        assert dead.sum() == len(dead) // 2
        for leaf in gradient[name].values():
            assert np.all(np.asarray(leaf)[..., dead] == 0)


@pytest.mark.parametrize("ratio", [-0.1, 1.01, float("nan"), True, "0.5"])
def test_a_ratio_out_of_range(ratio):
    for prune in (
        lambda: pruning.prune_neurons(PARAMS, ratio, last="fc_2"),
        lambda: pruning.prune_weights(PARAMS, ratio),
    ):
        with pytest.raises(InputError, match="ratio"):
            prune()


def test_unknown_names():
    model = models.digit(3)
    with pytest.raises(InputError, match="kind: 'layers' is none"):
        pruning.prune(model, PARAMS, "layers", "ascending", 0.5)
    with pytest.raises(InputError, match="order: 'random' is none"):
        pruning.prune(model, PARAMS, "neurons", "random", 0.5)
    with pytest.raises(InputError, match="number_format: 'int4' is none"):
        pruning.quantise(PARAMS, "int4")


def test_int8_by_hand():
    # Columns' steps: 127/127 = 1, 2, and 0.
    kernel = np.array([[127, 254, 0], [-3.4, 5.1, 0], [0.5, -254, 0], [1.5, 0.9, 0]], np.float32)
    bias = np.array([0.1, 0.2, 0.3], np.float32)
    quantised = pruning.quantise({"fc_1": {"kernel": kernel, "bias": bias}}, "int8")["fc_1"]
    expected = [[127, 254, 0], [-3, 6, 0], [0, -254, 0], [2, 0, 0]]  # Halves to the even.
    np.testing.assert_array_equal(quantised["kernel"], expected)
    np.testing.assert_array_equal(quantised["bias"], bias)


def test_int8_moves_no_weight_by_more_than_half_a_step(face):
    _, params = face
    for name, layer in pruning.quantise(params, "int8").items():
        before, after = (np.asarray(p["kernel"], np.float64) for p in (params[name], layer))
        inputs = tuple(range(before.ndim - 1))
        step = np.abs(before).max(inputs) / 127
        assert np.all(np.abs(after - before) <= 0.5 * step * (1 + 1e-4))
        whole = after / step
        np.testing.assert_allclose(whole, np.rint(whole), atol=1e-4)
        assert np.abs(whole).max() < 127.001
        assert layer["kernel"].dtype == jnp.float32


def test_bf16_is_the_round_trip_also_under_jit(face):
    _, params = face
    expected = jax.tree.map(lambda leaf: np.asarray(leaf.astype(jnp.bfloat16), np.float32), params)
    rounded = pruning.quantise(params, "bf16")
    assert same(rounded, expected)
    assert not same(rounded, params)
    assert same(jax.jit(lambda params: pruning.quantise(params, "bf16"))(params), expected)
    assert same(pruning.quantise(rounded, "bf16"), rounded)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(rounded))


def record(nc, wm):
    return {"normal_accuracy": nc, "owner": {"null": wm, "true": 1.0, "agreement": wm, "wm": wm}}


def part(*pairs, **fields):
    models = [record(nc, wm) for nc, wm in pairs]
    return {**fields, "models": models, "verified": [wm > 0.8 for _, wm in pairs]}


BEFORE = part((0.9, 0.88), (0.95, 0.9))
POINTS = [
    part((0.9, 0.88), (0.95, 0.9), ratio=0.0),
    part((0.88, 0.85), (0.93, 0.5), ratio=0.5),
    part((0.3, 0.2), (0.4, 0.3), ratio=1.0),
]


def test_highest_failing():
    changed = [(f"{each['ratio']:g}", each) for each in POINTS]
    first, second = experiment.highest_failing(BEFORE, changed)
    assert first == {"normal_accuracy": 0.3, "lost": pytest.approx(0.6), "wm": 0.2, "at": "1"}
    assert second == {"normal_accuracy": 0.93, "lost": pytest.approx(0.02), "wm": 0.5, "at": "0.5"}
    assert experiment.highest_failing(BEFORE, changed[:1]) == [None, None]


def result():
    changed = [(f"{100 * each['ratio']:g}%", each) for each in POINTS]
    tuned = part((0.9, 0.85), (0.9, 0.85), order="ascending", ratio=0.5, learning_rate=1e-3)
    return {
        "metrics": {
            "threshold": 0.8,
            "acceptable_loss": 0.05,
            "fine_images": 5,
            "fine_epochs": 2,
            "before": BEFORE,
            "sweeps": [{"kind": "neurons", "order": "ascending", "points": POINTS}],
            "fine_pruning": [tuned],
            "quantised": [part((0.9, 0.9), (0.9, 0.9), format="int8")],
            "highest": [
                {
                    "attack": "neurons, ascending",
                    "models": experiment.highest_failing(BEFORE, changed),
                },
                {"attack": "quantisation", "models": [None, None]},
            ],
        }
    }


def test_tables():
    highest, sweep, others = experiment.tables(result())
    assert highest.rows[0] == [
        "neurons, ascending",
        "2 of 2",
        "61.50 (30.00 to 93.00)",
        "31.00 (2.00 to 60.00)",
        "35.00 (20.00 to 50.00)",
        "100%, 50%",
        "**yes**, 1 of 2",
    ]
    assert highest.rows[1] == ["quantisation", "0 of 2", "", "", "", "", "no"]
    assert [row[0] for row in sweep.rows] == ["0", "50", "100"]
    assert [row[-1] for row in sweep.rows] == ["2 of 2", "1 of 2", "0 of 2"]
    assert [row[0] for row in others.rows] == [
        "before",
        "fine-pruned: ascending 50%, Adam 0.001",
        "quantised: int8",
    ]
    assert all(len(row) == len(t.header) for t in (highest, sweep, others) for row in t.rows)


def test_figures_show_each_model_against_percent():
    figure = experiment.draw(result())["pruning-neurons-ascending"]
    first, second = figure.axes[0].lines[:2]
    for line in (first, second):
        np.testing.assert_allclose(line.get_xdata(), [0, 50, 100])
    np.testing.assert_allclose(first.get_ydata(), [90, 88, 30])
    np.testing.assert_allclose(second.get_ydata(), [95, 93, 40])
    # A name in the legend for both.
    assert first.get_label() == "NC" and second.get_label().startswith("_")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kinds", ("layers",), "config.kinds"),
        ("ratios", (0.0, 0.5), "no ratio 0"),
        ("ratios", (1.5,), "config.ratios"),
        ("formats", ("int4",), "config.formats"),
        ("acceptable_loss", 2.0, "config.acceptable_loss"),
        ("fine_pruning.orders", ("random",), "config.fine_pruning.orders"),
        ("fine_pruning.learning_rates", (0.0,), "config.fine_pruning.learning_rates"),
        ("fine_pruning.epochs", 0, "config.fine_pruning.epochs"),
    ],
)
def test_config_out_of_range(field, value, message):
    config = experiment.default()
    experiment.check(config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        experiment.check(config)
