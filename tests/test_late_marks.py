"""late_marks.py: how a mark gets into a finished model whose pirate expects an examination."""

import re

import jax
import numpy as np
import pytest
import tiny_victim

from nullmark_jax.attacks import pruning
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.attackers import Attacker
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.late_marks import Pirate, marked, pirates
from nullmark_jax.experiments.victim import load_victims

IMAGES, STEPS, RATE = 24, 6, 1e-3
LAYERS = ("conv_1", "conv_2", "fc_1", "fc_2")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    (victim,) = load_victims([str(tiny_victim.folder(tmp_path_factory))], task="digit")
    return Bench(victim)


def copy(bench, pruned=0.0, rounded="", way="adam-tamed"):
    pirate = Pirate(way, IMAGES, STEPS, pruned, rounded)
    return marked(bench, pirate, bench.pirate(3), learning_rate=RATE, batch_size=8, seed=3)


def trained(bench, params, way, steps, layers=()):
    adversary = Attacker(way, "logits", RATE, IMAGES).adversary(steps=steps, batch_size=8)
    (reached,) = bench.train(
        adversary._replace(layers=layers),
        images=IMAGES,
        seed=3,
        at=[steps],
        embedded=bench.pirate(3),
        params=params,
    )
    return reached.params


def pruned_victim(bench, share):
    return pruning.prune(bench.victim.model, bench.victim.params, "neurons", "ascending", share)


@pytest.mark.parametrize("pruned", [0.0, 0.2])
def test_a_copy_is_what_the_attack_alone_leaves(bench, pruned):
    expected = trained(bench, pruned_victim(bench, pruned), "adam-tamed", STEPS)
    jax.tree.map(np.testing.assert_array_equal, copy(bench, pruned), expected)


@pytest.mark.parametrize("rounded", pruning.FORMATS)
def test_each_layer_is_rounded_and_those_behind_it_are_trained_again(bench, rounded):
    params = trained(bench, bench.victim.params, "adam-raised", STEPS)
    for number, layer in enumerate(LAYERS, 1):
        params = {**params, **pruning.quantise({layer: params[layer]}, rounded)}
        if number < len(LAYERS):  # Three such trainings: a third of six steps each.
            params = trained(bench, params, "adam-tamed", 2, LAYERS[number:])
    found = copy(bench, rounded=rounded, way="adam-raised")
    jax.tree.map(np.testing.assert_array_equal, found, params)
    # It is rounded already: again, it moves by a float's rounding at most.
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=0),
        pruning.quantise(found, rounded),
        found,
    )


@pytest.mark.parametrize("rounded", ["", "int8"])
def test_a_pruned_neuron_stays_pruned(bench, rounded):
    start, left = pruned_victim(bench, 0.2), copy(bench, 0.2, rounded)
    for layer in LAYERS[:-1]:  # All but the labels'.
        kernel = np.asarray(start[layer]["kernel"])
        gone = ~kernel.any(axis=tuple(range(kernel.ndim - 1)))
        assert 0 < gone.sum() < len(gone)
        assert not np.asarray(left[layer]["kernel"])[..., gone].any()
        assert not np.asarray(left[layer]["bias"])[gone].any()


def test_names_tell_all_that_was_done():
    assert Pirate("adam-raised", 600, 300, 0.05, "").name == (
        "adam-raised, 600 images, 300 steps, 5% of the neurons pruned first"
    )
    assert Pirate("sgd", 6, 3, 0.0, "int8").name == (
        "sgd, 6 images, 3 + 3 steps, rounded to int8 layer by layer"
    )


@pytest.mark.parametrize(
    ("attackers", "message"),
    [
        ((), "config.attackers: is empty"),
        ((("rmsprop", 1, 1, 0.0, ""),), "is none; give"),
        ((("adam-tamed", 1, 1, 0.0),), "is none; give"),
        ((("adam-tamed", 1, 1, 0.0, "int4"),), "is none; give"),
        ((1, 2), "config.attackers: 1 is none; give"),
        (
            (("sgd", 1, 2, 0.05, ""), ("sgd", 1, 2, 0.0500000001, "")),
            "config.attackers: two are sgd, 1 images, 2 steps, 5% of the neurons pruned first; give",
        ),
        ((("adam-tamed", 0, 1, 0.0, ""),), "config.attackers: images: 0 "),
        ((("adam-tamed", 1, 0, 0.0, ""),), "config.attackers: steps: 0 "),
        ((("adam-tamed", 1, 1, 1.5, ""),), "config.attackers: share pruned first: 1.5 "),
    ],
)
def test_unusable_pirates_are_one_line(attackers, message):
    with pytest.raises(InputError, match=re.escape(message)) as failure:
        pirates("config.attackers", attackers)
    assert "\n" not in str(failure.value)
