"""The attackers by name: grids counted by hand, the papers' learning rates from their tables."""

import pytest

from nullmark_jax import config as configs
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import attackers
from nullmark_jax.experiments.attackers import Attacker
from nullmark_jax.optimizers import Recipe


def grid_fields(**changes):
    config = attackers.grid_fields()
    with config.unlocked():
        config.update(changes)
    return config


def test_the_grid_is_all_combinations_the_fewest_images_first():
    config = grid_fields(
        cross_entropies=("logits", "clipped"),
        ways=("adam", "sgd"),
        learning_rates=(1e-2, 1e-3),
        fractions=(1.0, 0.01),
        images=(5,),
    )
    # 1% of 240 is 2.4.
    assert attackers.grid(config, 240) == [
        Attacker("adam", "logits", 1e-2, 2),
        Attacker("adam", "logits", 1e-3, 2),
        Attacker("sgd", "logits", 1e-2, 2),
        Attacker("sgd", "logits", 1e-3, 2),
        Attacker("adam", "clipped", 1e-2, 2),
        Attacker("adam", "clipped", 1e-3, 2),
        Attacker("sgd", "clipped", 1e-2, 2),
        Attacker("sgd", "clipped", 1e-3, 2),
        *(
            Attacker(way, loss, rate, count)
            for count in (5, 240)
            for loss in ("logits", "clipped")
            for way in ("adam", "sgd")
            for rate in (1e-2, 1e-3)
        ),
    ]


@pytest.mark.parametrize(
    ("fractions", "images", "counts"),
    [
        ((0.01,), (), [1]),  # 0.3 of an image is one
        ((0.1, 1.0), (3, 30), [3, 30]),  # the same number twice is once
        ((), (7, 5), [5, 7]),
    ],
)
def test_the_numbers_of_images(fractions, images, counts):
    config = grid_fields(fractions=fractions, images=images, ways=("sgd",), learning_rates=(0.1,))
    config.cross_entropies = ("logits",)
    assert [each.images for each in attackers.grid(config, 30)] == counts


def test_the_whole_grid():
    # 2 losses, 6 ways, 3 rates; 1%, 5,000 and all images.
    found = attackers.grid(attackers.grid_fields(), 60_000)
    assert len(found) == 108
    assert len({each.name for each in found}) == 108
    assert [found[i].images for i in (0, 35, 36, 71, 72, 107)] == [600] * 2 + [5000] * 2 + [
        60000
    ] * 2


def test_an_attacker_s_name():
    assert (
        Attacker("adam-tamed", "clipped", 1e-5, 600).name
        == "clipped, adam-tamed, 1e-05, 600 images"
    )


TAMED = Recipe("adam", 0.1, schedule="cosine", warmup_steps=60, clip_norm=1.0)


@pytest.mark.parametrize(
    ("way", "recipe", "more"),
    [
        ("sgd", Recipe("sgd", 0.1), {}),
        ("momentum", Recipe("momentum", 0.1), {}),
        ("adam", Recipe("adam", 0.1), {}),
        ("adam-tamed", TAMED, {}),
        ("adam-raised", TAMED, {"rising_steps": 450}),
        ("adam-null-space", TAMED, {"null_space": True}),
    ],
)
def test_how_each_way_trains(way, recipe, more):
    assert way in attackers.WAYS
    adversary = Attacker(way, "clipped", 0.1, 9).adversary(
        steps=600, batch_size=64, true_weight=0.5
    )
    assert adversary == Adversary(
        recipe=recipe,
        steps=600,
        cross_entropy="clipped",
        batch_size=64,
        true_weight=0.5,
        **more,
    )


def test_a_short_training_warms_up_too():
    adversary = Attacker("adam-tamed", "logits", 0.1, 9).adversary(steps=4, batch_size=64)
    assert adversary.recipe.warmup_steps == 1


def test_a_paper_s_attacker():
    config = attackers.paper_fields()
    config.optimizer.learning_rate = 0.25
    config.cross_entropy = "clipped"
    config.inject_ratio = 0.1
    assert attackers.paper_adversary(config, 390) == Adversary(
        recipe=Recipe("sgd", 0.25),
        steps=390,
        cross_entropy="clipped",
        batch_size=128,
        inject_ratio=0.1,
    )
    assert attackers.describe(config) == "clipped, sgd 0.25, 5000 images, 10 epochs"


@pytest.mark.parametrize(
    ("task", "name", "rate", "ratio", "epochs"),
    [
        ("digit", "sgd", 1e-3, 0.5, 10),
        ("quickstart", "sgd", 1e-3, 0.5, 10),
        ("face", "adam", 1e-3, 0.5, 1),
        # Keras's decay, lr / (1 + decay steps), after the owner's last step.
        ("traffic", "sgd", 0.02 / (1 + 2e-5 * 120 * 306), 0.1, 25),
        ("object", "sgd", 0.05 / (1 + 1e-4 * 500 * 390), 0.1, 10),
    ],
)
def test_the_later_paper_s_attacker_goes_on_at_the_owner_s_last_learning_rate(
    task, name, rate, ratio, epochs
):
    config = attackers.paper_fields()
    attackers.set_paper_attacker(config, task)
    assert config.optimizer.name == name
    assert config.optimizer.learning_rate == pytest.approx(rate, rel=5e-3)
    assert (config.inject_ratio, config.epochs) == (ratio, epochs)
    attackers.check_paper("config.later", config)


def one_line(error):
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cross_entropies": ()}, r"^grid\.cross_entropies: is empty; give one at least$"),
        ({"ways": ()}, r"^grid\.ways: is empty; give"),
        ({"learning_rates": ()}, r"^grid\.learning_rates: is empty; give"),
        ({"fractions": (), "images": ()}, r"^grid\.fractions, grid\.images: are empty; give one"),
        ({"cross_entropies": ("hinge",)}, r"'hinge' is none; take one of logits, clipped$"),
        ({"ways": ("sgd", "lion")}, r"^grid\.ways: 'lion' is none; take some of sgd, momentum, ad"),
        ({"learning_rates": (0.1, 0.0)}, r"^grid\.learning_rates: 0\.0 must be above 0; give say"),
        ({"learning_rates": (float("nan"),)}, r"^grid\.learning_rates: nan is not finite"),
        ({"learning_rates": ("high",)}, r"^grid\.learning_rates: 'high' is not a number"),
        ({"fractions": (0.5, 0.0)}, r"^grid\.fractions: 0\.0 is out of range; give one in \(0, 1"),
        ({"fractions": (1.01,)}, r"^grid\.fractions: 1\.01 is out of range"),
        ({"images": (0,)}, r"^grid\.images: 0 is out of range"),
        ({"images": (2.5,)}, r"^grid\.images: 2\.5 is not an integer"),
        ({"steps": 0}, r"^grid\.steps: 0 is out of range"),
        ({"batch_size": 0}, r"^grid\.batch_size: 0 is out of range"),
    ],
)
def test_a_grid_out_of_range(changes, said):
    attackers.check_grid("grid", grid_fields())
    with pytest.raises(InputError, match=said) as error:
        attackers.check_grid("grid", grid_fields(**changes))
    one_line(error)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("cross_entropy", "hinge", r"'hinge' is none"),
        ("epochs", 0, r"^config\.later\.epochs: 0 is out of range"),
        ("images", 0, r"^config\.later\.images: 0 is out of range"),
        ("batch_size", 0, r"^config\.later\.batch_size: 0 is out of range"),
        (
            "inject_ratio",
            1.5,
            r"^config\.later\.inject_ratio: 1\.5 is out of range; give one in \[",
        ),
        ("inject_ratio", -0.1, r"^config\.later\.inject_ratio: -0\.1 is out of range"),
        ("optimizer.name", "lion", r"'lion' is none; take one of sgd"),
        ("optimizer.learning_rate", 0.0, r"learning_rate: 0\.0 must be above 0"),
    ],
)
def test_a_paper_s_attacker_out_of_range(field, value, said):
    config = attackers.paper_fields()
    attackers.check_paper("config.later", config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=said) as error:
        attackers.check_paper("config.later", config)
    one_line(error)


@pytest.mark.parametrize("task", configs.TASKS)
def test_a_task_and_its_smoke_run(task):
    assert attackers.choose_task(task) == (task, False)
    assert attackers.choose_task(f"{task},smoke") == (task, True)


@pytest.mark.parametrize(
    "argument", [None, "", "chess", "digit,fast", ",smoke", "digit,smoke,smoke", "digit smoke"]
)
def test_no_task(argument):
    with pytest.raises(
        InputError, match=r"^--config: .* is no task of an attack; take FILE\.py:TASK or .* digit"
    ) as error:
        attackers.choose_task(argument)
    one_line(error)
