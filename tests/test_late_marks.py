"""late_marks.py: how a mark gets into a finished model whose pirate expects an examination."""

import jax
import numpy as np
import pytest
import tiny_victim

from nullmark_jax.attacks import pruning
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import examination
from nullmark_jax.experiments.attackers import Attacker
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.experiments.late_marks import Pirate, marked
from nullmark_jax.experiments.victim import load_victims

IMAGES, STEPS, RATE = 24, 6, 1e-3


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    (loaded,) = load_victims([str(tiny_victim.folder(tmp_path_factory))], task="digit")
    return loaded


@pytest.fixture(scope="module")
def bench(victim):
    return Bench(victim)


def copy(bench, pruned=0.0, rounded=""):
    pirate = Pirate("adam-tamed", IMAGES, STEPS, pruned, rounded)
    return marked(bench, pirate, bench.pirate(3), learning_rate=RATE, batch_size=8, seed=3)


def test_a_copy_is_what_the_attack_alone_leaves(bench):
    adversary = Attacker("adam-tamed", "logits", RATE, IMAGES).adversary(steps=STEPS, batch_size=8)
    for pruned in (0.0, 0.2):
        start = pruning.prune(
            bench.victim.model, bench.victim.params, "neurons", "ascending", pruned
        )
        (reached,) = bench.train(
            adversary, images=IMAGES, seed=3, at=[STEPS], embedded=bench.pirate(3), params=start
        )
        jax.tree.map(np.testing.assert_array_equal, copy(bench, pruned), reached.params)


def test_a_copy_rounded_layer_by_layer_is_whole_and_each_layer_made_up_for_those_before(bench):
    plain, rounded = copy(bench), copy(bench, rounded="int8")
    # Whole multiples already: rounding moves nothing.
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=0),
        pruning.quantise(rounded, "int8"),
        rounded,
    )
    at_once = pruning.quantise(plain, "int8")
    assert sorted(at_once) == ["conv_1", "conv_2", "fc_1", "fc_2"]
    # Nothing comes before the first; the others were trained again.
    jax.tree.map(np.testing.assert_array_equal, rounded["conv_1"], at_once["conv_1"])
    for layer in ("conv_2", "fc_1", "fc_2"):
        assert np.any(rounded[layer]["kernel"] != at_once[layer]["kernel"])


def test_a_pruned_neuron_stays_pruned_also_where_it_is_rounded(bench):
    pruned = pruning.prune(bench.victim.model, bench.victim.params, "neurons", "ascending", 0.2)
    gone = {
        name: ~np.any(layer["kernel"], (0, 1, 2))
        for name, layer in pruned.items()
        if "conv" in name
    }
    assert any(each.any() for each in gone.values())
    left = copy(bench, 0.2, "int8")
    for name, each in gone.items():
        assert not left[name]["kernel"][..., each].any()


def test_pirates_who_choose_are_of_victims_of_one_recipe(victim, tmp_path):
    other = victim._replace(config=victim.config.copy_and_resolve_references())
    other.config.owner.min_free = 0.1
    with pytest.raises(
        InputError,
        match=r"^--victim: their config.owner.min_free is 0.0, 0.1, and .*; give victims of one$",
    ):
        config = examination.default()
        examination.measure(config, [victim, other], Journal(tmp_path))
