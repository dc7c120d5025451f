"""Commitments to trigger sets: binding, hiding, opened one by one; and the forgery that passes."""

import hashlib
import struct

import numpy as np
import pytest
from scipy import special

from nullmark_jax.baselines import adi
from nullmark_jax.baselines.triggers import generator
from nullmark_jax.errors import InputError

SHAPE = (12, 12, 1)
CLASSES = 10
SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def owner():
    """Images, labels, commitments and openings of 20 triggers."""
    images, labels = adi.trigger_set(3, 20, shape=SHAPE, num_classes=CLASSES)
    return images, labels, *adi.commit(images, labels, SECRET)


def watermarked(images, labels):
    """A model that gives the triggers' labels, and to anything else a hash of its pixels."""
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}

    def predict(batch):
        return np.array(
            [known.get(i.tobytes(), hashlib.md5(i).digest()[0] % CLASSES) for i in batch]
        )

    return predict


def verify(predict, published, openings, **changes):
    arguments = {"shape": SHAPE, "num_classes": CLASSES, "threshold": 0.8, "least": 1}
    arguments["asked"] = [opening.number for opening in openings if opening]
    return adi.verify(predict, published, openings, **arguments | changes)


def test_a_trigger_set_is_a_function_of_its_seed():
    images, labels = adi.trigger_set(3, shape=SHAPE, num_classes=CLASSES)
    again = adi.trigger_set(3, shape=SHAPE, num_classes=CLASSES)
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert images.shape == (100, *SHAPE) and labels.dtype == np.int32
    assert len({image.tobytes() for image in images}) == 100
    # 100 uniform draws of 10: each between 1 and 25 times but once in many thousands of seeds.
    assert np.all((np.bincount(labels, minlength=10) >= 1) & (np.bincount(labels) <= 25))


def test_a_commitment_by_hand(owner):
    images, labels, published, openings = owner
    data = openings[4].nonce + struct.pack("<3IQ", 12, 12, 1, labels[4]) + images[4].tobytes()
    person = b"nullmark-adi".ljust(16, b"\0")
    assert published[4] == hashlib.blake2b(data, digest_size=32, person=person).digest()
    nonce = hashlib.blake2b(
        struct.pack("<Q", 4), digest_size=32, key=SECRET, person=b"nullmark-nonce".ljust(16, b"\0")
    )
    assert openings[4].nonce == nonce.digest()


def test_equal_triggers_have_unequal_commitments_and_other_secrets_too():
    images, labels = np.zeros((2, *SHAPE), np.uint8), np.zeros(2, np.int32)
    one, _ = adi.commit(images, labels, SECRET)
    other, _ = adi.commit(images, labels, SECRET[::-1])
    assert len({*one, *other}) == 4


def test_a_few_are_opened_and_verified(owner):
    images, labels, published, openings = owner
    predict = watermarked(images, labels)
    asked = adi.ask(6, 20, seed=1)
    assert len(set(asked)) == 6 and asked == sorted(asked) == adi.ask(6, 20, seed=1)
    assert adi.ask(6, 20, seed=2) != asked
    verdict = verify(predict, published, [openings[index] for index in asked], asked=asked)
    # The least that passes is 5 of 6, each 1 in 10.
    tail = 6 * 0.1**5 * 0.9 + 0.1**6
    assert verdict == adi.Verdict(True, 6, 6, pytest.approx(tail), "")


def test_the_threshold_is_the_least_share(owner):
    images, labels, published, openings = owner
    known = watermarked(images[:16], labels[:16])
    wrong = {
        image.tobytes(): (label + 1) % CLASSES for image, label in zip(images, labels, strict=True)
    }

    def predict(batch):
        answers = known(batch)
        return np.array(
            [
                answer
                if image.tobytes() in {i.tobytes() for i in images[:16]}
                else wrong[image.tobytes()]
                for answer, image in zip(answers, batch, strict=True)
            ]
        )

    assert verify(predict, published, openings, threshold=0.8).verified
    refused = verify(predict, published, openings, threshold=0.81)
    assert (refused.verified, refused.right) == (False, 16)
    assert refused.reason == "the model gives 16 of 20 labels"


def test_another_model_is_not_verified(owner):
    *_, published, openings = owner
    verdict = verify(watermarked([], []), published, openings)
    assert not verdict.verified and verdict.right <= 8
    assert verdict.reason == f"the model gives {verdict.right} of 20 labels"


def changed(opening, **fields):
    return opening._replace(**fields)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda o: [*o[:2], o[0]], "a commitment is opened twice"),
        (
            lambda o: [changed(o[0], label=(o[0].label + 1) % 10)],
            "commitment 0 is to something else",
        ),
        (lambda o: [changed(o[0], image=o[1].image)], "commitment 0 is to something else"),
        (lambda o: [changed(o[0], nonce=o[1].nonce)], "commitment 0 is to something else"),
        (lambda o: [changed(o[0], number=1)], "commitment 1 is to something else"),
        (lambda o: [changed(o[0], number=20)], "there is no commitment 20"),
        (lambda o: [changed(o[0], number=-1)], "there is no commitment -1"),
        (
            lambda o: [changed(o[0], label=10)],
            "the label of commitment 0 is none of the model's",
        ),
        (
            lambda o: [o[0], changed(o[1], image=o[0].image)],
            "an image is opened with two labels",
        ),
        (
            lambda o: [o[0], changed(o[1], image=np.zeros((2, 2, 1), np.uint8))],
            "commitment 1 is opened with no uint8 image of the task's shape",
        ),
        (
            lambda o: [changed(o[0], image=o[0].image.view(np.int8))],
            "commitment 0 is opened with no uint8 image of the task's shape",
        ),
        (
            lambda o: [changed(o[0], nonce=o[0].nonce + b"more")],
            "commitment 0 is opened without a nonce of 32 bytes",
        ),
        (
            lambda o: [changed(o[0], nonce="x" * 32)],
            "commitment 0 is opened without a nonce of 32 bytes",
        ),
        (
            lambda o: [changed(o[0], label=1.0)],
            "the label of commitment 0 is none of the model's",
        ),
    ],
)
def test_what_was_not_committed_to_does_not_verify(owner, change, reason):
    images, labels, published, openings = owner
    verdict = verify(watermarked(images, labels), published, change(openings))
    assert (verdict.verified, verdict.right, verdict.reason) == (False, 0, reason)


@pytest.mark.parametrize("shown", [[0, 1], [0, 1, 2, 3], [0, 1, 3]])
def test_exactly_what_was_asked_for_is_opened(owner, shown):
    images, labels, published, openings = owner
    verdict = verify(
        watermarked(images, labels), published, [openings[i] for i in shown], asked=[0, 1, 2]
    )
    assert not verdict.verified
    assert verdict.reason == "the commitments opened are not those asked for"


def test_the_forged_commitment_passes_where_the_prover_chooses(owner):
    images, labels, *_ = owner
    model = watermarked(images, labels)  # That the forger never touched, and came after.
    theirs, _ = adi.trigger_set(99, 100, shape=SHAPE, num_classes=CLASSES)
    published, openings = adi.forge(theirs, CLASSES, SECRET[::-1])
    assert len(published) == len(openings) == 100 * CLASSES
    shown = adi.fitting(model, openings)
    assert len(shown) == 100  # One label of each image fits any model whatever.
    verdict = verify(model, published, shown, threshold=1.0, asked=None)
    assert verdict.verified and verdict.right == 100
    # Of which the verdict claims no odds.
    assert verdict.chance is None


def test_one_commits_to_what_any_good_model_says(owner):
    """Without having seen the model: labels that every model of the task gives, and they are right."""
    images, labels, *_ = owner
    theirs, _ = adi.trigger_set(99, 40, shape=SHAPE, num_classes=CLASSES)
    other_model = watermarked([], [])  # Which answers as the owner's does on all but its triggers.
    published, openings = adi.commit(theirs, other_model(theirs), SECRET[::-1])
    model, asked = watermarked(images, labels), adi.ask(20, 40, seed=0)
    shown = [openings[number] for number in asked]
    assert verify(model, published, shown, asked=asked, least=20).verified
    # A reference of the verifier's own stops it.
    verdict = verify(model, published, shown, asked=asked, least=20, reference=other_model)
    assert (verdict.verified, verdict.opened) == (False, 0)
    assert verdict.reason == "only 0 labels count; 20 must"


def test_with_a_reference_the_owner_still_verifies(owner):
    images, labels, published, openings = owner
    other_model = watermarked([], [])
    differ = int((other_model(images) != labels).sum())
    verdict = verify(watermarked(images, labels), published, openings, reference=other_model)
    assert verdict.verified and verdict.opened == verdict.right == differ < 20
    # Of labels that differ from the reference's there are nine left to guess among.
    assert verdict.chance == pytest.approx(
        adi.chance(differ, num_classes=CLASSES - 1, threshold=0.8)
    )


def test_too_few_openings_are_not_enough(owner):
    images, labels, published, openings = owner
    verdict = adi.verify(
        watermarked(images, labels), published, openings[:19],
        shape=SHAPE, num_classes=CLASSES, threshold=0.8, asked=range(19),
    )  # fmt: skip
    assert (verdict.verified, verdict.reason) == (False, "only 19 labels count; 20 must")


@pytest.mark.parametrize("right", range(1, 20))
def test_a_threshold_that_is_just_reached_passes(owner, right):
    """As 11 of 20 at 0.55, whose product in floats lies above 11."""
    images, labels, published, openings = owner
    wrong = (labels + 1) % CLASSES
    answers = np.where(np.arange(20) < right, labels, wrong)
    predict = watermarked(images, answers)
    assert verify(predict, published, openings, threshold=right / 20).verified
    assert not verify(predict, published, openings, threshold=(right + 0.5) / 20).verified


def test_what_is_opened_tells_nothing_of_other_labels():
    """A picture and the labels are drawn by generators of their own."""
    for seed in range(5):
        labels = generator("labels", seed).integers(0, 10, 50)
        others = [generator("art", seed, number).integers(0, 10, 50) for number in range(50)]
        assert max((labels == other).mean() for other in others) < 0.5


def test_it_fails_where_the_verifier_chooses(owner):
    images, labels, *_ = owner
    model = watermarked(images, labels)
    theirs, _ = adi.trigger_set(99, 100, shape=SHAPE, num_classes=CLASSES)
    published, openings = adi.forge(theirs, CLASSES, SECRET)
    for seed in range(20):
        asked = adi.ask(20, len(published), seed)
        verdict = verify(model, published, [openings[i] for i in asked], asked=asked)
        assert not verdict.verified
    fit = len(adi.fitting(model, openings)) / len(openings)
    assert fit == 1 / CLASSES


@pytest.mark.parametrize(
    ("opened", "classes", "threshold", "least"),
    [(100, 10, 0.8, 80), (10, 2, 0.75, 8), (1, 43, 1.0, 1), (5, 10, 0.6, 3), (3, 4, 0.01, 1)],
)
def test_the_chance_is_the_binomial_tail(opened, classes, threshold, least):
    p = 1 / classes
    by_hand = sum(
        special.comb(opened, k, exact=True) * p**k * (1 - p) ** (opened - k)
        for k in range(least, opened + 1)
    )
    found = adi.chance(opened, num_classes=classes, threshold=threshold)
    assert found == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: adi.commit(np.zeros((1, *SHAPE), np.uint8), np.zeros(1, int), b"short"),
            "secret: is of 5 bytes; give 16 to 64",
        ),
        (
            lambda: adi.commit(np.zeros((2, *SHAPE), np.uint8), np.zeros(1, int), SECRET),
            "labels: there are 1 for 2 images; give one for each",
        ),
        (lambda: verify(None, [], []), "openings: is empty; give one at least"),
        (
            lambda: verify(None, [], [None], threshold=0),
            "threshold: 0 is out of range; give one in (0, 1]",
        ),
        (lambda: adi.ask(21, 20, 0), "count: 21 is out of range"),
    ],
)
def test_what_cannot_be_used_is_one_line(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)
