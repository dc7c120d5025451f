"""A victim ready to be attacked: whose watermarks its pirates embed."""

import jax
import ml_collections
import numpy as np
import pytest
import tiny_victim

from nullmark_jax import models, populations
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import attackers, gradual, null_hiding, piracy, piracy_cost
from nullmark_jax.experiments import bench as bench_module
from nullmark_jax.experiments.attackers import Attacker
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.victim import load_victims
from nullmark_jax.optimizers import Recipe


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    (loaded,) = load_victims([str(tiny_victim.folder(tmp_path_factory))], task="digit")
    return loaded


def of_digit(victim, min_free):
    """The victim with Digit's net and images, whose last features are 4x4; the tiny task's are 1x1."""
    config = ml_collections.ConfigDict(victim.config.to_dict())
    config.data.input_shape = (28, 28, 1)
    config.watermark.pattern_size = 6
    config.owner.min_free = min_free
    return victim._replace(config=config, model=models.digit())


def test_a_pirate_who_chooses_signs_until_the_pattern_suits(victim):
    bench = Bench(of_digit(victim, 0.4))
    drawn = bench.victim.foreign(5, 40)
    for seed in range(5):
        chosen = bench.pirate(seed, choosing=True)
        assert chosen.pattern.shape == (1, 28, 28) and chosen.target_label.shape == (1,)
        assert models.free_share(models.digit(), chosen.pattern) >= 0.4
    # The first of those drawn that is such; by hand, on Digit: a patch that reaches three of the four rows
    # and three of the columns leaves 7 of 16 free, 0.44.
    chosen = bench.pirate(5, choosing=True)
    places = [np.argwhere(pattern != 0).min(0) for pattern in drawn.pattern]
    free = [1 - reached(row) * reached(column) / 16 for row, column in places]
    first = next(i for i, share in enumerate(free) if share >= 0.4)
    assert first > 0  # Else the choice would not show.
    jax.tree.map(lambda one, all: np.testing.assert_array_equal(one[0], all[first]), chosen, drawn)


def reached(start):
    """Of Digit's four last rows, how many a patch of rows start..start + 5 reaches."""
    low, high = max(0, start - 4) // 2, min(23, start + 5) // 2  # 24 rows pooled to 12
    low, high = max(0, low - 4), min(7, high)  # 8 rows
    return high // 2 - low // 2 + 1


def test_a_pirate_who_does_not_choose_has_the_first_signature(victim):
    bench = Bench(of_digit(victim, 0.4))
    jax.tree.map(np.testing.assert_array_equal, bench.pirate(5), bench.victim.foreign(5, 1))
    anywhere = Bench(of_digit(victim, 0.0))
    chosen = anywhere.pirate(5, choosing=True)
    jax.tree.map(np.testing.assert_array_equal, chosen, anywhere.victim.foreign(5, 1))


def test_where_no_signature_suits_it_is_one_line(victim):
    with pytest.raises(InputError, match=r"^--victim: .* config\.owner\.min_free=0\.9"):
        Bench(of_digit(victim, 0.9)).pirate(0, choosing=True)


@pytest.mark.slow
def test_pirates_of_our_own_attackers_choose_and_the_papers_do_not(victim):
    """Of the tiny task's 1x1 last features no pattern leaves any free: whoever chooses finds none."""
    config = ml_collections.ConfigDict(victim.config.to_dict())
    config.owner.min_free = 0.5
    bench = Bench(victim._replace(config=config))
    attacker = Attacker("adam", "logits", 1e-3, 16)
    cost = piracy_cost.default()
    planned = [
        *piracy._grid_pirates(bench, attacker, piracy.default(), [0]),
        gradual._raised(bench, attacker, 2.0, gradual.default(), seed=0),
        piracy_cost._trained(bench, attacker, "null and true", "scratch", cost, seed=0),
        null_hiding._never_embedded(bench, 0, null_hiding.default(), "logits"),
    ]
    for attack in planned:
        with pytest.raises(InputError, match=r"config\.owner\.min_free=0\.5"):
            attack()
    paper = attackers.paper_fields()
    paper.epochs, paper.images, paper.batch_size = 1, 16, 8
    (attack,) = piracy._paper_pirates(bench, paper, [0])
    assert attack()["finite"] in (True, False)


def test_a_cost_curve_ends_where_the_model_is_no_longer_numbers(victim):
    config = piracy_cost.default()
    config.grid.steps, config.grid.batch_size, config.points = 4, 8, 3
    ends = {}
    for rate in (1e-6, 1e30):
        attacker = Attacker("sgd", "logits", rate, 16)
        trained = piracy_cost._trained(
            Bench(victim), attacker, "null only", "scratch", config, seed=0
        )()
        ends[rate] = (trained["finite"], [point["steps"] for point in trained["curve"]])
    assert ends[1e-6] == (True, [0, 1, 2, 4])
    finite, steps = ends[1e30]
    assert not finite and steps == [0, 1, 2, 4][: len(steps)] and len(steps) < 4


@pytest.mark.parametrize("choosing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_pirates_of_a_round_are_those_attacked_alone(victim, monkeypatch, choosing):
    """Two at once: the first alone, two full rounds, and one that is filled up."""
    adversary = Adversary(Recipe("adam", 1e-3), steps=3, batch_size=16)
    seeds = [3, 1, 4, 15, 9, 2]

    def records():
        bench = Bench(victim)
        made = bench_module.pirate_attacks(
            bench, adversary, images=48, seeds=seeds, choosing=choosing, points=3
        )
        return [made[i]() for i in (0, 1, 2, 4, 3, 5)]

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        alone = records()
        monkeypatch.setattr(populations, "at_once", lambda: 2)
        together = records()
    assert [each["seed"] for each in together] == [3, 1, 4, 9, 15, 2]
    assert len(together[0]["curve"]) == 4 and "curve" not in together[1]
    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-3)
        # Of 45 images; one may fall on the other side by a rounding.
        assert abs(one["normal_accuracy"] - other["normal_accuracy"]) <= 1.01 / 45
        for who in ("owner", "pirate"):
            assert abs(one[who]["true"] - other[who]["true"]) <= 2.01 / 30
    losses = [each["loss"] for each in together]
    assert len(set(losses)) == len(losses)
