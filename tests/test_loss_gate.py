"""The loss gate: the strongest attack, and the table of losses and optimisers, by hand."""

import pytest

from configs import quickstart
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import loss_gate
from nullmark_jax.experiments.victim import Victim


def tried(nc, wm, finite=True, **fields):
    accuracies = {"pirate": {"wm": wm}, "owner": {"wm": 0.25}}
    return {"normal_accuracy": nc, **accuracies, "finite": finite, **fields}


@pytest.mark.parametrize(
    ("records", "scheme", "best"),
    [
        # Of those that verify the highest NC, whatever their WM.
        ([tried(0.99, 0.5), tried(0.7, 1.0), tried(0.9, 0.81)], "null-embedding", 2),
        # At T itself only the wonder filter's verifies.
        ([tried(0.99, 0.8), tried(0.5, 0.9)], "null-embedding", 1),
        ([tried(0.99, 0.8), tried(0.5, 0.9)], "wonder-filter", 0),
        # None verifies: the highest WM.
        ([tried(0.99, 0.1), tried(0.2, 0.8), tried(0.9, 0.7)], "null-embedding", 1),
        # Equals: the first, the attacker of the fewest images.
        ([tried(0.9, 0.9), tried(0.9, 1.0)], "null-embedding", 0),
        ([tried(0.9, 0.3), tried(1.0, 0.3)], "null-embedding", 0),
        # A model that is not a number answers class 0 to all: no success, unless there is no other.
        ([tried(1.0, 1.0, finite=False), tried(0.5, 0.9)], "wonder-filter", 1),
        ([tried(0.1, 0.1, finite=False), tried(0.1, 0.2, finite=False)], "null-embedding", 1),
    ],
)
def test_the_strongest(records, scheme, best):
    assert loss_gate.strongest(records, scheme, 0.8) is records[best]


def victim(name, loss, rising=0.0, **watermark):
    config = quickstart.get_config()
    config.loss.cross_entropy = loss
    config.curriculum.epochs = rising
    config.watermark.update(watermark)
    return Victim(name, config, *[None] * 6)


def test_victims_by_their_owners_loss():
    a, b, c = victim("a", "clipped"), victim("b", "logits"), victim("c", "clipped")
    assert loss_gate.split([a, b, c]) == ([a, c], [b])
    assert loss_gate.split([a, c]) == ([a, c], [])
    with pytest.raises(
        InputError, match=r"^--victim: c and a were both trained with the loss clipped, b"
    ):
        loss_gate.split([b, a, c])


def test_lambda_rising_is_another_training_than_the_same_loss_without():
    without, with_it = victim("a", "logits"), victim("b", "logits", 4.5)
    clipped = victim("c", "clipped", 4.5)
    assert loss_gate.split([clipped, with_it, without]) == ([clipped], [with_it, without])
    assert str(loss_gate.owner_of(clipped)) == "clipped (lambda rising)"
    # Triggers have no lambda, and one that starts at its end does not rise.
    for own in ({"scheme": "adi"}, {"num_watermarks": 0}, {"extreme_value": 1.0}):
        assert loss_gate.owner_of(victim("d", "logits", 4.5, **own)) == ("logits", False)


def attack(owner_loss, cross_entropy, way, rate, nc, wm, finite=True):
    return tried(
        nc,
        wm,
        finite,
        owner_loss=owner_loss,
        victim=f"run-{owner_loss}",
        cross_entropy=cross_entropy,
        way=way,
        learning_rate=rate,
        images=50,
    )


ATTACKS = [
    attack("logits", "logits", "sgd", 1e-3, 0.1, 0.9, finite=False),
    attack("logits", "logits", "sgd", 1e-4, 0.97, 0.5),
    attack("logits", "clipped", "sgd", 1e-3, 0.98, 0.1),
    attack("logits", "logits", "adam", 1e-3, 0.96, 0.95),
    attack("logits", "logits", "adam", 1e-4, 0.99, 0.85),
    attack("clipped", "clipped", "sgd", 1e-3, 0.98, 0.9),
]


def test_the_table_has_each_combination_with_its_strongest():
    before = {
        f"run-{loss}": {"normal_accuracy": 0.99, "owner": {"wm": 0.985}}
        for loss in ("logits", "clipped")
    }
    rows = loss_gate.table(ATTACKS, before, "null-embedding", 0.8).rows
    assert rows == [
        # The one that diverged neither verifies nor is the strongest.
        [
            "logits (run-logits: NC 99.00, WM 98.50)",
            "logits",
            "sgd",
            "0 of 2",
            "0.0001, 50 images",
            "97.00",
            "50.00",
            "25.00",
        ],
        [
            "logits (run-logits: NC 99.00, WM 98.50)",
            "clipped",
            "sgd",
            "0 of 1",
            "0.001, 50 images",
            "98.00",
            "10.00",
            "25.00",
        ],
        # Both verify: the higher NC.
        [
            "logits (run-logits: NC 99.00, WM 98.50)",
            "logits",
            "adam",
            "2 of 2",
            "0.0001, 50 images",
            "99.00",
            "85.00",
            "25.00",
        ],
        [
            "clipped (run-clipped: NC 99.00, WM 98.50)",
            "clipped",
            "sgd",
            "1 of 1",
            "0.001, 50 images",
            "98.00",
            "90.00",
            "25.00",
        ],
    ]


def test_a_result_that_does_not_say_whether_lambda_rose_shows_the_loss_alone():
    before = {"run-clipped": {"normal_accuracy": 0.99, "owner": {"wm": 0.985}}}
    rows = [
        loss_gate.table([ATTACKS[-1] | more], before, "null-embedding", 0.8).rows[0][0]
        for more in ({}, {"owner_rising": False}, {"owner_rising": True})
    ]
    run = "(run-clipped: NC 99.00, WM 98.50)"
    assert rows == [f"clipped {run}", f"clipped {run}", f"clipped (lambda rising) {run}"]


def test_the_verdict_counts_by_the_two_losses():
    (finding,) = loss_gate.verdict(ATTACKS, "null-embedding", 0.8)
    # The clip let one through.
    assert finding.agrees is False
    # That it let none through, or was not tried, does not say that it lets none.
    (none,) = loss_gate.verdict(ATTACKS[:-1], "null-embedding", 0.8)
    assert none.agrees is None and none.claim
    without = [
        each for each in ATTACKS if "clipped" not in (each["cross_entropy"], each["owner_loss"])
    ]
    assert without and loss_gate.verdict(without, "null-embedding", 0.8) == []
    assert finding.text.endswith(
        "the pirate's claim verifies with owner logits and attacker logits in 2 of 4, with owner logits "
        "and attacker clipped in 0 of 1, with owner clipped and attacker clipped in 1 of 1."
    )
