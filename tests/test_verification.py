"""Algorithm 3 on models made by hand, whose every answer is known."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import scipy.stats

from nullmark_jax import claim as claims
from nullmark_jax import signing, verification
from nullmark_jax.errors import InputError

SIDE, CLASSES, SIZE, EXTREME = 12, 5, 4, 2000.0


def make_claim(**changes):
    fields = {
        "owner": "Ada",
        "timestamp": "2026-11-21T17:00:00Z",
        "scheme": "null-embedding",
        "pattern_size": SIZE,
        "extreme_value": EXTREME,
        "input_shape": (SIDE, SIDE, 1),
        "num_classes": CLASSES,
        "model_sha256": "0" * 64,
        **changes,
    }
    return claims.claim_for(signing.experiment_key(3), **fields)


class TableModel:
    """Answers from tables: one for clean images, one for null and one for true copies.

    An image's number stands in two pixels that the block leaves free, as multiples of 1/255. The
    copies are told apart by the pixels under the claim's block.
    """

    def __init__(self, claim, clean, null, true):
        self.pattern = np.asarray(claims.watermark_of(claim).pattern, np.float32)
        self.free = np.argwhere(self.pattern == 0)[:2]
        self.clean, self.null, self.true = (np.asarray(t) for t in (clean, null, true))
        self.batches = []

    def images(self):
        images = np.full((len(self.clean), SIDE, SIDE, 1), 100, np.uint8)
        for digit, (row, column) in enumerate(self.free):
            images[:, row, column, 0] = np.arange(len(images)) // 256**digit % 256
        return images

    def __call__(self, images):
        assert images.dtype == np.float32 and images.shape[1:] == (SIDE, SIDE, 1)
        self.batches.append(len(images))
        answers = []
        for image in images[..., 0]:
            low, high = (round(float(image[row, column]) * 255) for row, column in self.free)
            number = low + 256 * high
            for pattern, table in ((self.pattern, self.null), (-self.pattern, self.true)):
                if np.array_equal(image[pattern != 0], EXTREME * pattern[pattern != 0]):
                    answers.append(table[number])
                    break
            else:
                # Foreign patterns overwhelm it; a copy at 1 is as good as clean.
                extreme = np.abs(image).max() > 1
                answers.append(
                    (self.clean[number] + 1) % CLASSES if extreme else self.clean[number]
                )
        return np.asarray(answers)


def tables(claim, *, clean=100, null=100, agree=100, true=100, count=100):
    """Labels and tables so that of each 100 images these many are as the watermark has it.

    `null` images have F(null) = F(x) = y, `agree` F(null) = F(x), `clean` F(x) = y.
    """
    target = int(claims.watermark_of(claim).target_label)
    labels = np.arange(count) % CLASSES
    number = np.arange(count)
    wrong = (labels + 1) % CLASSES
    clean_answers = np.where(number < clean, labels, wrong)
    # The first `null` agree and are right; then some agree and are wrong (those above `clean`).
    agrees = (number < null) | ((number >= clean) & (number < clean + agree - null))
    null_answers = np.where(agrees, clean_answers, (clean_answers + 2) % CLASSES)
    counted = np.cumsum(labels != target) - 1
    true_answers = np.where((labels != target) & (counted >= true), (target + 1) % CLASSES, target)
    return labels, clean_answers, null_answers, true_answers


class TestCounts:
    def test_known_counts(self):
        claim = make_claim()
        labels, *answers = tables(claim, clean=90, null=85, agree=93, true=72)
        model = TableModel(claim, *answers)
        found = verification.verify(model, claim, model.images(), labels)
        counted = {
            name: (part.successes, part.trials)
            for name, part in vars(found).items()
            if isinstance(part, verification.Proportion)
        }
        assert counted == {
            "normal_accuracy": (90, 100),
            "null_accuracy": (85, 100),
            "null_agreement": (93, 100),
            "true_accuracy": (72, 80),  # the 20 images with y = y_W are left out
        }
        assert found.true_accuracy.value == 0.9
        assert found.watermark_accuracy == 0.85
        assert found.verified and found.signature_valid
        assert (found.threshold, found.confidence) == (0.8, 0.95)

    def test_images_of_the_target_label_never_count_as_true(self):
        claim = make_claim()
        target = int(claims.watermark_of(claim).target_label)
        labels = np.arange(10) % CLASSES
        always = np.full(10, target)
        model = TableModel(claim, always, always, always)
        found = verification.verify(model, claim, model.images(), labels)
        assert (found.true_accuracy.successes, found.true_accuracy.trials) == (8, 8)
        assert (found.null_accuracy.successes, found.null_accuracy.trials) == (2, 10)
        assert (found.null_agreement.successes, found.null_agreement.trials) == (10, 10)
        never = np.full(10, (target + 1) % CLASSES)
        model = TableModel(claim, always, always, np.where(labels == target, target, never))
        found = verification.verify(model, claim, model.images(), labels)
        assert (found.true_accuracy.successes, found.true_accuracy.trials) == (0, 8)

    def test_all_images_are_asked_in_batches(self):
        claim = make_claim()
        labels, *answers = tables(claim, count=700, clean=700, null=700, agree=700, true=700)
        model = TableModel(claim, *answers)
        found = verification.verify(model, claim, model.images(), labels)
        assert found.normal_accuracy.trials == found.null_accuracy.successes == 700
        assert found.true_accuracy.successes == found.true_accuracy.trials == 560
        assert max(model.batches) <= 500
        assert sum(model.batches) == 3 * 700 + 8 * 700

    def test_clean_pixels_are_divided_by_255(self):
        seen = []

        def predict(images):
            seen.append(images)
            return [0] * len(images)

        images = np.arange(256, dtype=np.uint8).repeat(SIDE * SIDE).reshape(256, SIDE, SIDE, 1)
        verification.verify(predict, make_claim(), images, np.arange(256) % CLASSES)
        clean, null, true = (copies[..., 0] for copies in seen[:3])
        np.testing.assert_allclose(clean[:, 0, 0], np.arange(256) / 255, rtol=2e-7, atol=0)
        pattern = claims.watermark_of(make_claim()).pattern
        written = EXTREME * pattern[pattern != 0]
        for image in range(256):
            np.testing.assert_array_equal(null[image][pattern != 0], written)
            np.testing.assert_array_equal(true[image][pattern != 0], -written)
        for copies in (null, true):
            np.testing.assert_array_equal(copies[:, pattern == 0], clean[:, pattern == 0])

    def test_every_channel_is_marked(self):
        claim = make_claim(input_shape=(SIDE, SIDE, 3))
        block = claims.watermark_of(claim).pattern != 0
        seen = []

        def predict(images):
            seen.append(images)
            return np.zeros(len(images), np.int64)

        images = np.zeros((2, SIDE, SIDE, 3), np.uint8)
        verification.verify(predict, claim, images, np.array([0, 1]))
        assert np.all(np.abs(seen[1][:, block]) == EXTREME) and np.all(seen[1][:, ~block] == 0)


class TestVerdict:
    @pytest.mark.parametrize(
        ("scheme", "null", "agree", "true", "verified"),
        [
            ("null-embedding", 81, 81, 80, True),
            ("null-embedding", 80, 100, 80, False),  # Algorithm 3: strictly above
            ("null-embedding", 100, 100, 64, False),
            ("null-embedding", 100, 100, 65, True),
            ("wonder-filter", 70, 80, 80, True),  # Equation 7: not below, and agreement counts
            ("wonder-filter", 70, 79, 80, False),
            ("wonder-filter", 100, 100, 64, True),
            ("wonder-filter", 100, 100, 63, False),
        ],
    )
    def test_threshold_of_each_scheme(self, scheme, null, agree, true, verified):
        claim = make_claim(scheme=scheme)
        clean = 100 - (agree - null)
        labels, *answers = tables(claim, clean=clean, null=null, agree=agree, true=true)
        model = TableModel(claim, *answers)
        found = verification.verify(model, claim, model.images(), labels, threshold=0.8)
        assert (found.null_accuracy.successes, found.null_agreement.successes) == (null, agree)
        assert (found.true_accuracy.successes, found.true_accuracy.trials) == (true, 80)
        tested = agree if scheme == "wonder-filter" else null
        assert found.watermark_accuracy == min(tested / 100, true / 80)
        assert found.verified is verified

    @pytest.mark.parametrize("threshold", [0.05, 0.5, 0.9, 1])
    def test_other_thresholds(self, threshold):
        claim = make_claim()
        labels, *answers = tables(claim, null=51)
        model = TableModel(claim, *answers)
        found = verification.verify(model, claim, model.images(), labels, threshold=threshold)
        assert found.verified is (threshold < 0.51)

    def test_perfect_model_does_not_exceed_one(self):
        claim = make_claim()
        labels, *answers = tables(claim)
        model = TableModel(claim, *answers)
        assert not verification.verify(model, claim, model.images(), labels, threshold=1.0).verified
        wonder = make_claim(scheme="wonder-filter")
        labels, *answers = tables(wonder)
        model = TableModel(wonder, *answers)
        assert verification.verify(model, wonder, model.images(), labels, threshold=1.0).verified

    @pytest.mark.parametrize(
        "changes",
        [
            {"signature": bytes(64)},
            {"timestamp": "2026-11-21T17:00:01Z"},
            {"owner": "Mallory"},
            {"public_key": signing.experiment_key(4).public_key},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_bad_signature_fails_without_asking_the_model(self, changes):
        claim = dataclasses.replace(make_claim(), **changes)

        def predict(images):
            raise AssertionError("asked")

        images = np.zeros((4, SIDE, SIDE, 1), np.uint8)
        found = verification.verify(predict, claim, images, np.arange(4))
        assert not found.verified and not found.signature_valid
        figures = [
            found.normal_accuracy,
            found.null_accuracy,
            found.true_accuracy,
            found.null_agreement,
            found.watermark_accuracy,
            found.watermark_low,
            found.watermark_high,
            found.clipping_agreement,
            found.clipped_inputs,
        ]
        assert figures == [None] * 9

    def test_another_owners_watermark_is_not_found(self):
        claim = make_claim()
        labels, *answers = tables(claim)
        model = TableModel(claim, *answers)
        other = make_claim(owner="Mallory")
        assert verification.verify(model, claim, model.images(), labels).verified
        assert not verification.verify(model, other, model.images(), labels).verified
        other = make_claim(index=1)
        assert not verification.verify(model, other, model.images(), labels).verified


class TestIntervals:
    @pytest.mark.parametrize(
        ("successes", "trials", "confidence", "low", "high"),
        [
            # Closed forms at the ends: (a/2)^(1/n).
            (0, 10, 0.95, 0.0, 1 - 0.025**0.1),
            (10, 10, 0.95, 0.025**0.1, 1.0),
            (1, 1, 0.9, 0.05, 1.0),
            # Clopper and Pearson's own kind of table: 8 of 10.
            (8, 10, 0.95, 0.4439045376, 0.9747892737),
            # n = 2, k = 1: 1 - (1 - low)^2 = a/2 and 1 - high^2 = a/2.
            (1, 2, 0.95, 1 - math.sqrt(0.975), math.sqrt(0.975)),
        ],
    )
    def test_worked_values(self, successes, trials, confidence, low, high):
        found = verification.clopper_pearson(successes, trials, confidence)
        assert found == pytest.approx((low, high), abs=1e-9)

    @pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
    @pytest.mark.parametrize(("k", "n"), [(1, 30), (9770, 10000), (9999, 10000), (360, 719)])
    def test_ends_leave_half_of_the_rest_each(self, k, n, confidence):
        low, high = verification.clopper_pearson(k, n, confidence)
        tail = (1 - confidence) / 2
        assert scipy.stats.binom.sf(k - 1, n, low) == pytest.approx(tail, rel=1e-6)
        assert scipy.stats.binom.cdf(k, n, high) == pytest.approx(tail, rel=1e-6)
        reference = scipy.stats.binomtest(k, n).proportion_ci(confidence, method="exact")
        assert (low, high) == pytest.approx((reference.low, reference.high), rel=1e-6)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((1, 0), "trials: 0"),
            ((-1, 5), "successes: -1"),
            ((6, 5), "successes: 6"),
            ((1.0, 5), "successes: 1.0"),
            ((1, 5, 0), "confidence: 0"),
            ((1, 5, 1), "confidence: 1"),
            ((1, 5, math.nan), "confidence: nan"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(InputError, match=message):
            verification.clopper_pearson(*arguments)

    def test_verification_reports_them(self):
        claim = make_claim()
        labels, *answers = tables(claim, null=85, true=72)
        model = TableModel(claim, *answers)
        found = verification.verify(model, claim, model.images(), labels, confidence=0.9)
        parts = (found.null_accuracy, found.true_accuracy)
        assert [(part.low, part.high) for part in parts] == [
            verification.clopper_pearson(85, 100, 0.9),
            verification.clopper_pearson(72, 80, 0.9),
        ]
        assert found.watermark_low == min(part.low for part in parts)
        assert found.watermark_high == min(part.high for part in parts)


class TestReport:
    def report(self, claim):
        labels, *answers = tables(claim, null=85)
        model = TableModel(claim, *answers)
        return verification.verify(model, claim, model.images(), labels)

    def test_json_holds_every_figure(self):
        claim = make_claim()
        found = self.report(claim)
        values = json.loads(found.to_json())
        assert values == json.loads(json.dumps(found.to_dict()))
        assert values["format"] == "nullmark-verification/1"
        assert values["verified"] is True
        assert values["owner"] == "Ada" and values["public_key"] == claim.public_key.hex()
        low, high = verification.clopper_pearson(85, 100)
        expected = {"value": 0.85, "successes": 85, "trials": 100, "low": low, "high": high}
        assert values["null_accuracy"] == expected
        assert set(values) == {"format"} | {f.name for f in dataclasses.fields(found)}

    def test_report_does_not_give_the_watermark_away(self):
        claim = make_claim()
        found = self.report(claim)
        for text in (found.to_json(), repr(found)):
            assert claim.signature.hex() not in text
            assert "signature" not in text.replace("signature_valid", "")
            assert not re.search("pattern|target", text)

    def test_json_without_figures(self):
        claim = dataclasses.replace(make_claim(), signature=bytes(64))
        values = json.loads(self.report(claim).to_json())
        assert values["signature_valid"] is False and values["normal_accuracy"] is None


class TestClipping:
    def test_least_of_four_patterns_counts(self):
        claim = make_claim()
        images = TableModel(claim, *tables(claim)[1:]).images()
        # One more answer that differs in a hundred is the limit.
        pattern = np.asarray(claims.watermark_of(claim).pattern, np.float32)

        def differing(count):
            free = np.argwhere(pattern == 0)[0]

            def predict(batch):
                null = np.all(
                    np.where(pattern != 0, batch[..., 0] == EXTREME * pattern, True), (1, 2)
                )
                number = np.round(batch[:, free[0], free[1], 0] * 255)
                return np.where(null & (number < count), 1, 0)

            return verification.clipping_agreement(predict, claim, images)

        assert [differing(count) for count in (0, 1, 2, 100)] == [1.0, 0.99, 0.98, 0.0]

    def test_at_most_1000_images_evenly_spaced(self):
        seen = []

        def predict(batch):
            seen.append(len(batch))
            return np.zeros(len(batch), np.int32)

        images = np.zeros((2500, SIDE, SIDE, 1), np.uint8)
        images[::5] = 255  # of any 5 in a row one is white
        assert verification.clipping_agreement(predict, make_claim(), images) == 1.0
        assert sum(seen) == 8 * 1000


class TestAnswers:
    def verify(self, predict):
        images = np.zeros((6, SIDE, SIDE, 1), np.uint8)
        return verification.verify(predict, make_claim(), images, np.arange(6) % CLASSES)

    @pytest.mark.parametrize(
        "answer",
        [
            lambda n: np.zeros(n, np.int64),
            lambda n: np.zeros(n, np.uint8),
            lambda n: [0] * n,
            lambda n: tuple([4] * n),
        ],
    )
    def test_any_integers_will_do(self, answer):
        self.verify(lambda images: answer(len(images)))

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (lambda n: np.zeros(n), "float64 (6,) to 6 images"),
            (lambda n: np.zeros(n, bool), "bool (6,)"),
            (lambda n: np.zeros((n, CLASSES), int), "(6, 5)"),
            (lambda n: np.zeros(n - 1, int), "(5,)"),
            (lambda n: 0, "()"),
            (lambda n: None, "object ()"),
            (lambda n: ["1"] * n, "return one integer label an image"),
            (lambda n: [[1], [1, 2]], "no array"),
            (lambda n: np.full(n, CLASSES), "[5, 5]; the claim's task has 5 classes"),
            (lambda n: np.full(n, -1), "[-1, -1]"),
            (lambda n: [2**70] * n, "object (6,)"),
        ],
    )
    def test_other_answers_are_refused(self, answer, message):
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            self.verify(lambda images: answer(len(images)))
        assert str(caught.value).startswith("predict: ") and "\n" not in str(caught.value)

    def test_a_models_own_errors_pass_through(self):
        def predict(images):
            raise ConnectionError("gone")

        with pytest.raises(ConnectionError, match="gone"):
            self.verify(predict)


IMAGES = np.zeros((6, SIDE, SIDE, 1), np.uint8)
LABELS = np.arange(6) % CLASSES


@pytest.mark.parametrize(
    ("images", "labels", "keywords", "message"),
    [
        (IMAGES.astype(np.float32), LABELS, {}, "images: float32"),
        (IMAGES[..., 0], LABELS, {}, "images: uint8 (6, 12, 12)"),
        (IMAGES[:, :11], LABELS, {}, "give uint8 [N, 12, 12, 1]"),
        (IMAGES[:0], LABELS[:0], {}, "images: uint8 (0, 12, 12, 1)"),
        (IMAGES, LABELS[:5], {}, "labels: int64 (5,)"),
        (IMAGES, LABELS.astype(float), {}, "labels: float64 (6,)"),
        (IMAGES, LABELS + 1, {}, "labels: lie in [1, 5]; give some in [0, 5)"),
        (IMAGES, LABELS - 1, {}, "labels: lie in [-1, 3]"),
        (IMAGES, LABELS, {"threshold": 0}, "threshold: 0"),
        (IMAGES, LABELS, {"threshold": 80}, "threshold: 80"),
        (IMAGES, LABELS, {"threshold": math.nan}, "threshold: nan"),
        (IMAGES, LABELS, {"threshold": None}, "threshold: None"),
        (IMAGES, LABELS, {"confidence": 1.0}, "confidence: 1.0"),
        (IMAGES, LABELS, {"confidence": 95}, "confidence: 95"),
    ],
)
def test_bad_arguments(images, labels, keywords, message):
    with pytest.raises(InputError, match=re.escape(message)):
        verification.verify(lambda x: [0] * len(x), make_claim(), images, labels, **keywords)


def test_test_set_of_the_target_label_alone_is_refused():
    claim = make_claim()
    labels = np.full(6, claims.watermark_of(claim).target_label)
    with pytest.raises(InputError, match="labels: all are the watermark's own label"):
        verification.verify(lambda x: [0] * len(x), claim, IMAGES, labels)
