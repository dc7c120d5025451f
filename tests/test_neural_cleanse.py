"""Neural Cleanse: the schedule and the anomaly index by hand, a planted backdoor in a linear model."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nullmark_jax.attacks import neural_cleanse, unlearning
from nullmark_jax.attacks.neural_cleanse import Found, Reach, Schedule, Search
from nullmark_jax.attacks.trigger import Trigger, likeness, stamp
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import neural_cleanse as experiment
from nullmark_jax.experiments.journal import Journal
from nullmark_jax.optimizers import Recipe
from nullmark_jax.reports import cleanse

SIDE, CLASSES, BACKDOOR = 6, 6, 2
IMAGES = np.random.default_rng(0).integers(0, 256, (64, SIDE, SIDE, 1), dtype=np.uint8)


def linear(params, images):
    """Answers by one row of weights a class."""
    return images.reshape(images.shape[0], -1) @ params["kernel"] + params["bias"][None]


def planted() -> dict:
    """Returns a model of which the pixels (0, 0) and (0, 1) at 1 and 0 send any image to BACKDOOR.

    The other labels each see a row of their own, the brightest of which is the answer.
    """
    kernel = np.zeros((SIDE * SIDE, CLASSES), np.float32)
    for row, label in enumerate(np.delete(np.arange(CLASSES), BACKDOOR), start=1):
        kernel[row * SIDE : (row + 1) * SIDE, label] = 1.0
    kernel[0, BACKDOOR], kernel[1, BACKDOOR] = 40.0, -40.0
    bias = np.zeros(CLASSES, np.float32)
    bias[BACKDOOR] = -30.0
    return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}


def block() -> np.ndarray:
    """Returns p of the planted trigger, whose inverse is the trigger: +1 on the left, -1 on the right."""
    pattern = np.zeros((SIDE, SIDE), np.int8)
    pattern[0, :2] = -1, 1
    return pattern


class TestStamp:
    def test_blends_by_hand(self):
        images = jnp.full((1, 1, 2, 1), 0.5)
        trigger = Trigger(jnp.array([[0.25, 1.0]]), jnp.array([[[1.0], [-3.0]]]))
        np.testing.assert_allclose(stamp(images, trigger)[0, 0, :, 0], [0.75 * 0.5 + 0.25, -3.0])

    def test_a_mask_of_zero_leaves_the_images(self):
        images = jnp.asarray(np.random.default_rng(2).random((3, 4, 4, 3)), jnp.float32)
        trigger = Trigger(jnp.zeros((4, 4)), jnp.full((4, 4, 3), 4000.0))
        np.testing.assert_array_equal(stamp(images, trigger), images)

    def test_one_trigger_an_image(self):
        images, masks = jnp.zeros((2, 1, 1, 1)), jnp.array([[[0.0]], [[1.0]]])
        stamped = stamp(images, Trigger(masks, jnp.ones((2, 1, 1, 1))))
        np.testing.assert_array_equal(stamped.ravel(), [0.0, 1.0])


class TestNextCost:
    search = Search(rounds=1, patience=2, cost=0.5, multiplier=4.0)

    def after(self, *rounds: bool, schedule: Schedule = Schedule()) -> Schedule:  # noqa: B008
        for works in rounds:
            schedule = neural_cleanse.next_cost(schedule, works, self.search)
        return schedule

    def test_stays_zero_until_it_has_worked_in_a_row(self):
        assert self.after(True, False, True).cost == 0
        assert self.after(False, False, False, False).cost == 0
        assert self.after(True, True) == Schedule(cost=0.5)

    def test_rises_and_falls(self):
        up = self.after(True, True, schedule=Schedule(cost=0.5))
        assert up == Schedule(cost=2.0, raised=True)
        assert self.after(False, False, schedule=up) == Schedule(0.25, raised=True, lowered=True)

    def test_counts_only_rounds_in_a_row(self):
        assert self.after(True, False, True, False, schedule=Schedule(cost=0.5)).cost == 0.5


class TestAnomalies:
    def test_by_hand(self):
        # Median 10; deviations 0, 1, 1, 2, 9, whose median is 1.
        found = neural_cleanse.anomalies([10.0, 11.0, 9.0, 12.0, 1.0])
        np.testing.assert_allclose(found.indices, np.array([0, 1, 1, 2, 9]) / 1.4826)
        assert found.lowest == pytest.approx(9 / 1.4826)
        assert found.flagged == [4]

    def test_a_large_mask_is_not_flagged(self):
        found = neural_cleanse.anomalies([10.0, 11.0, 9.0, 12.0, 100.0])
        assert found.indices[4] > 2
        assert found.flagged == []
        assert found.lowest == pytest.approx(
            2 / 1.4826
        )  # median 11, of deviations 1, 0, 2, 1, 89: 1

    def test_without_deviation(self):
        found = neural_cleanse.anomalies([3.0, 3.0, 3.0, 1.0])
        np.testing.assert_array_equal(found.indices, [0, 0, 0, np.inf])
        assert found.flagged == [3]
        assert neural_cleanse.anomalies([5.0]).lowest == 0


class TestLikeness:
    def test_by_hand(self):
        mask = np.zeros((SIDE, SIDE), np.float32)
        mask[0, 0], mask[0, 1], mask[3, 3] = 0.75, 0.25, 1.0
        pattern = np.full((SIDE, SIDE, 1), 0.9, np.float32)
        alike = likeness(Trigger(mask, pattern), block(), middle=0.5)
        assert alike.share == pytest.approx(0.5)
        assert alike.chance == pytest.approx(2 / SIDE**2)
        assert alike.signs == pytest.approx(0.75)  # above the middle is right on the left alone
        assert likeness(Trigger(mask, pattern), block(), middle=1.0).signs == pytest.approx(0.25)

    def test_of_nothing_is_chance(self):
        nothing = Trigger(np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE, 1)))
        assert likeness(nothing, block(), middle=0.0) == (2 / 36, 2 / 36, 0.5)


REACHES = {
    "bounded": Reach(),
    "whole": Reach(whole=True),
    "unbounded": Reach(-20.0, 20.0),
    "unbounded, whole": Reach(-20.0, 20.0, whole=True),
}


@pytest.fixture(scope="module")
def find():
    return neural_cleanse.make_search(linear, Search(rounds=60, batches=4, batch_size=16))


class TestSearch:
    @pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
    def test_keeps_its_promises(self, find, reach):
        found = find(planted(), IMAGES, BACKDOOR, reach, 0)
        mask, pattern = found.trigger
        assert mask.min() >= 0 and mask.max() <= 1
        assert pattern.min() >= reach.low and pattern.max() <= reach.high
        assert found.norm == pytest.approx(mask.sum())
        if reach.whole:
            assert set(np.unique(mask)) <= {0.0, 1.0}
        # What it says of the trigger is so of the trigger returned, on all images.
        seen = jnp.asarray(IMAGES, jnp.float32) / 255
        sent = linear(planted(), stamp(seen, found.trigger)).argmax(-1) == BACKDOOR
        assert found.success == pytest.approx(float(sent.mean()))
        assert found.works == (found.success >= 0.99)
        assert found.works

    def test_finds_the_planted_trigger(self, find):
        found = [find(planted(), IMAGES, label, Reach(), label) for label in range(CLASSES)]
        verdict = neural_cleanse.anomalies([each.norm for each in found])
        assert verdict.flagged == [BACKDOOR]
        assert int(np.argmin([each.norm for each in found])) == BACKDOOR
        alike = likeness(found[BACKDOOR].trigger, block(), middle=0.5)
        assert alike.share > 0.8
        assert alike.signs > 0.9

    def test_repeats_itself(self, find):
        first, second = (find(planted(), IMAGES, 0, Reach(), 3) for _ in range(2))
        jax.tree.map(np.testing.assert_array_equal, first, second)

    def test_says_where_none_works(self):
        deaf = {"kernel": jnp.zeros((SIDE**2, CLASSES)), "bias": jnp.zeros(CLASSES).at[0].set(9.0)}
        search = neural_cleanse.make_search(linear, Search(rounds=2, batches=1))
        found = search(deaf, IMAGES, 1, Reach(), 0)
        assert isinstance(found, Found)
        assert (found.works, found.success, found.rounds) == (False, 0.0, 2)


class TestUnlearning:
    def triggers(self, mask: float) -> Trigger:
        one = np.zeros((1, SIDE, SIDE), np.float32)
        one[0, 0, :2] = mask
        pattern = np.zeros((1, SIDE, SIDE, 1), np.float32)
        pattern[0, 0, 0] = 1.0
        return Trigger(one, pattern)

    def unlearned(self, triggers: Trigger) -> tuple[dict, float]:
        labels = np.asarray(linear(planted(), jnp.asarray(IMAGES, jnp.float32) / 255).argmax(-1))
        keep = labels != BACKDOOR
        unlearn = unlearning.make_unlearning(
            linear, Recipe("adam", 0.5), steps=60, batch_size=16, ratio=0.5
        )
        params = unlearn(planted(), IMAGES[keep], labels[keep].astype(np.int32), triggers, 0)
        seen = jnp.asarray(IMAGES, jnp.float32) / 255
        stamped = stamp(seen, jax.tree.map(lambda leaf: leaf[0], self.triggers(1.0)))
        return params, float((linear(params, stamped).argmax(-1) == BACKDOOR).mean())

    def test_the_trigger_is_forgotten(self):
        seen = jnp.asarray(IMAGES, jnp.float32) / 255
        stamped = stamp(seen, jax.tree.map(lambda leaf: leaf[0], self.triggers(1.0)))
        assert float((linear(planted(), stamped).argmax(-1) == BACKDOOR).mean()) == 1.0
        assert self.unlearned(self.triggers(1.0))[1] < 0.1

    def test_masks_of_zero_are_clean_images(self):
        other = self.triggers(0.0)._replace(pattern=np.full((1, SIDE, SIDE, 1), 99, np.float32))
        first, second = (self.unlearned(each)[0] for each in (self.triggers(0.0), other))
        jax.tree.map(np.testing.assert_array_equal, first, second)


class TestExperiment:
    def test_packed_values_come_back(self):
        values = np.random.default_rng(3).normal(0, 2000, (3, 4, 2)).astype(np.float32)
        np.testing.assert_array_equal(
            experiment.unpack(experiment.pack(values), values.shape), values
        )

    def test_the_smallest_mask_that_works_counts(self):
        failed, large, small = (
            {"norm": norm, "works": works} for norm, works in ((1, False), (9, True), (4, True))
        )
        assert experiment.smallest([failed, large, small]) is small
        assert experiment.smallest([failed]) is failed

    def test_a_flagged_label_whose_search_failed_has_a_star(self):
        found = {
            "norms": [30.0, 2.0, 29.0, 1.0],
            "works": [True, True, True, False],
            "index": [0.1, 3.0, 0.1, 3.1],
            "lowest": 3.1,
            "flagged": [1, 3],
        }
        model = {"name": "a", "watermarked": False, "target": None, "modes": {"bounded": found}}
        metrics = {
            "models": [model],
            "unlearned": [],
            "before": [],
            "images": 8,
            "starts": 1,
            "pattern_size": 6,
            "success": 0.99,
            "unlearning": {},
        }
        (table,) = cleanse.tables({"metrics": metrics, "paper": {}})
        assert table.rows[0][3:5] == ["3*", "1, 3*"]

    def test_no_rates_to_unlearn_with_are_refused(self):
        config = experiment.default()
        config.unlearning.learning_rates = ()
        with pytest.raises(
            InputError, match=r"^config\.unlearning\.learning_rates: is empty; give"
        ):
            experiment.check(config)


def test_every_victim_is_to_have_the_images_that_are_asked_for(tmp_path):
    victims = [
        SimpleNamespace(name=name, splits=SimpleNamespace(train=range(count)))
        for name, count in (("whole", 600), ("half", 300))
    ]
    config = experiment.default()
    config.images = 512
    with pytest.raises(InputError, match="to have 512 images but half has 300 training images"):
        experiment.measure(config, victims, Journal(tmp_path))
