"""piracy_cost.py: when an attacker has what they want."""

import pytest

from nullmark_jax.experiments.piracy_cost import reached, tables


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


def run(start, attacker, steps, seconds):
    """A run of 100 images that got there after so many steps, or (0) never."""
    end = {"normal_accuracy": 0.9, "owner": {"wm": 0.0}, "pirate": {"null": 0.8, "true": 1.0}}
    return {
        "victim": "a",
        "embedding": "null only",
        "images": 100,
        "start": start,
        "attacker": attacker,
        "reached": {"steps": steps, "seconds": seconds} if steps else None,
        "curve": [end],
    }


def test_steps_and_seconds_as_multiples_of_the_cheapest_from_scratch():
    runs = [
        run("the owner's model", "x", 300, 20.0),
        run("the owner's model", "y", 0, 0.0),
        run("scratch", "x", 400, 5.0),
        run("scratch", "y", 200, 8.0),
    ]
    metrics = {"runs": runs, "margin": 0.01, "steps": 500, "batch_size": 64}
    (table,) = tables({"metrics": metrics, "paper": {"pirate_steps": 1e6, "scratch_steps": 1e5}})
    assert [len(row) for row in table.rows] == [len(table.header)] * 3
    # The cheapest in steps and the quickest are two: 300 / 200 steps, 20 / 5 seconds.
    assert table.rows[0][3:9] == ["300", "200", "1.5", "20", "5", "4"]
    assert table.rows[1][3:9] == ["never", "200", "", "", "5", ""]
    assert table.rows[2][3:6] == ["1000000", "100000", "10"]
