"""piracy_cost.py: when an attacker has what they want."""

import pytest

from nullmark_jax.experiments.piracy_cost import reached


def point(steps, accuracy, null, wm):
    return {
        "steps": steps,
        "seconds": steps / 10,
        "normal_accuracy": accuracy,
        "pirate": {"null": null, "wm": wm},
    }


CURVE = [
    point(10, 0.90, 0.95, 0.00),
    point(20, 0.97, 0.80, 0.10),
    point(30, 0.98, 0.95, 0.80),
    point(40, 0.99, 0.95, 0.95),
]


@pytest.mark.parametrize(
    ("embedding", "scheme", "steps"),
    [
        # NC is there from step 20 on; null 0.80 does not pass T = 0.8 by Algorithm 3, but by Equation 7.
        ("null only", "null-embedding", 30),
        ("null only", "wonder-filter", 20),
        ("null and true", "null-embedding", 40),
        ("null and true", "wonder-filter", 30),
    ],
)
def test_the_first_point_with_accuracy_and_mark(embedding, scheme, steps):
    found = reached(CURVE, accuracy=0.97, threshold=0.8, embedding=embedding, scheme=scheme)
    assert found == {"steps": steps, "seconds": steps / 10}


def test_never():
    assert (
        reached(
            CURVE, accuracy=1, threshold=0.8, embedding="null and true", scheme="null-embedding"
        )
        is None
    )
