"""piracy_cost.py: when an attacker has what they want."""

import pytest

from nullmark_jax.experiments.piracy_cost import reached
from nullmark_jax.experiments.piracy_cost_tables import draw, tables, verdict


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
    pirate = {"null": 0.8, "true": 1.0, "wm": 0.8}
    end = {"steps": 500, "normal_accuracy": 0.9, "owner": {"wm": 0.0}, "pirate": pirate}
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
    runs[1]["finite"] = False
    metrics = {"runs": runs, "margin": 0.01, "steps": 500, "batch_size": 64, "threshold": 0.8}
    metrics["scheme"] = "null-embedding"
    paper = {"pirate_steps": 1e6, "scratch_steps": 1e5}
    table, scratch, _ = tables({"metrics": metrics, "paper": paper})
    assert [len(row) for row in table.rows] == [len(table.header)] * 3
    # The cheapest in steps and the quickest are two: 300 / 200 steps, 20 / 5 seconds; 64 images a step.
    assert table.rows[0][3:10] == ["300", "19200", "200", "1.5", "20", "5", "4.0"]
    assert table.rows[1][3:10] == ["never", "", "200", "", "", "5", ""]
    assert table.rows[2][3:7] == ["1000000", "", "100000", "10"]
    assert [row[10] for row in table.rows] == ["90.00", "90.00; not a number", ""]
    assert scratch.rows == [
        ["a", "null only", "x", "400", "25600", "5", "90.00", "80.00", "100.00"],
        ["a", "null only", "y", "200", "12800", "8", "90.00", "80.00", "100.00"],
    ]
    assert {len(row) for row in scratch.rows} == {len(scratch.header)}


def test_steps_to_what_from_scratch_is_reached():
    """Where nobody gets near the victim's NC: the highest of scratch's points with the mark, here 0.85."""
    runs = [run(start, name, 0, 0.0) for start in ("scratch", "the owner's model") for name in "xy"]
    curves = [
        [point(10, 0.70, 0.9, 0.0), point(50, 0.85, 0.9, 0.0), point(90, 0.95, 0.8, 0.0)],
        [point(10, 0.60, 0.9, 0.0)],
        [point(10, 0.99, 0.1, 0.0), point(50, 0.80, 0.9, 0.0), point(90, 0.86, 0.9, 0.0)],
        [point(10, 0.99, 0.8, 0.0), point(70, 0.85, 0.9, 0.0)],
    ]
    for each, curve in zip(runs, curves, strict=True):
        for p in curve:
            p |= {"owner": {"wm": 0.0}, "pirate": p["pirate"] | {"true": 0.0}}
        each["curve"] = curve
    metrics = {"runs": runs, "margin": 0.01, "steps": 90, "batch_size": 64, "threshold": 0.8}
    metrics["scheme"] = "null-embedding"
    _, _, table = tables({"metrics": metrics, "paper": {}})
    (row,) = table.rows
    assert row == ["a", "null only", "100", "85.00", "50", "x", "70", "y", "1.4"]
    metrics["threshold"] = 0.95
    _, _, table = tables({"metrics": metrics, "paper": {}})
    assert [len(row) for row in table.rows] == [len(table.header)]
    assert table.rows[0][3] == "none bears the mark"


def titles_and_claims(figures):
    def claims(figure):
        (axes,) = figure.axes
        return [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]

    return {name: (figure.axes[0].get_title(), claims(figure)) for name, figure in figures.items()}


def test_figure_2_shows_the_quickest_and_the_paper_s_sgd_and_what_few_images_reach_from_scratch():
    def with_images(made, images, *points):
        curve = [
            {"steps": 10 * i, "normal_accuracy": nc, "owner": {"wm": 0.0}, "pirate": {"null": null}}
            for i, (nc, null) in enumerate(points)
        ]
        return made | {"images": images, "curve": curve}

    owner = "the owner's model"
    runs = [
        with_images(run(owner, "logits, sgd, 0.0001, 5 images", 0, 0), 5, (0.9, 0.1), (0.2, 0.2)),
        with_images(run(owner, "logits, sgd, 0.001, 5 images", 0, 0), 5, (0.9, 0.1), (0.1, 0.1)),
        with_images(run(owner, "logits, adam, 0.001, 5 images", 0, 0), 5, (0.9, 0.1), (0.7, 0.6)),
        with_images(run("scratch", "logits, adam, 0.001, 5 images", 0, 0), 5, (0.8, 0), (0.75, 1)),
        with_images(run("scratch", "logits, sgd, 0.001, 5 images", 0, 0), 5, (0.1, 0), (0.3, 0)),
        with_images(run(owner, "logits, adam, 0.001, 50 images", 9, 1), 50, (0.9, 0.1), (0.9, 0.9)),
        with_images(run("scratch", "logits, adam, 0.001, 50 images", 8, 1), 50, (0, 0), (0.9, 0.9)),
    ]
    paper = {"pirate_steps": 1e6, "scratch_steps": 1e5}
    drawn = draw({"metrics": {"threshold": 0.8, "runs": runs}, "paper": paper})
    upright = {
        name: [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "-."]
        for name, figure in drawn.items()
    }
    # Of 1% of the images the paper gives no number of steps.
    fewest = {name: [] for name in drawn if "fewest" in name}
    assert upright == {"cost-most-owner": [1e6], "cost-most-scratch": [1e5], **fewest}
    found = titles_and_claims(drawn)
    assert found == {
        "cost-most-owner": (f"from {owner}: logits, adam, 0.001, 50 images", []),
        "cost-most-scratch": ("from scratch: logits, adam, 0.001, 50 images", []),
        "cost-fewest-owner": (f"from {owner}: logits, adam, 0.001, 5 images", [pytest.approx(80)]),
        "cost-fewest-scratch": ("from scratch: logits, adam, 0.001, 5 images", []),
        "cost-fewest-sgd": (f"from {owner}: logits, sgd, 0.001, 5 images", [pytest.approx(80)]),
    }


def findings(*runs, steps):
    curve = [{"steps": 0}, {"steps": 90}, {"steps": steps}]
    metrics = {
        "runs": [each | {"curve": curve} for each in runs],
        "margin": 0.01,
        "steps": steps,
        "batch_size": 64,
        "own_training": [{"steps": 3104, "batch_size": 128}],
    }
    return verdict({"metrics": metrics, "paper": {}})


NEVER, SCRATCH = run("the owner's model", "x", 0, 0.0), run("scratch", "x", 60, 1.0)


def test_where_no_pirate_gets_there_it_counts_how_many_steps_were_tried():
    (neither,) = findings(NEVER, run("scratch", "x", 0, 0.0), steps=600)
    assert neither.agrees is None and neither.claim
    assert "within 600 steps, nor from scratch (" in neither.text
    assert neither.text.endswith(
        "; the owner's own training took 3104 steps of 128 clean images and their marked copies."
    )
    (too_few,) = findings(NEVER, run("scratch", "x", 61, 1.0), steps=600)
    assert too_few.agrees is None and "from scratch after 61 (" in too_few.text
    (enough,) = findings(NEVER, SCRATCH, steps=600)
    assert enough.agrees is True


def test_each_pirate_stands_beside_its_own_model_and_embedding():
    # Another model's pirate was given less than ten times its steps from scratch.
    other = [each | {"victim": "b"} for each in (NEVER, run("scratch", "x", 500, 1.0))]
    (found,) = findings(NEVER, SCRATCH, *other, steps=600)
    assert found.agrees is None and "from scratch after 60 (" in found.text
    # What both take from scratch says nothing of null alone, of which the claim is.
    both = [each | {"embedding": "null and true"} for each in (NEVER, SCRATCH)]
    null, null_and_true = findings(NEVER, *both, steps=600)
    assert null.agrees is None and "of null only, no attacker" in null.text
    assert null_and_true.agrees is True


def test_one_embedding_s_multiple_does_not_hide_that_the_other_never_got_there():
    both = [each | {"embedding": "null and true"} for each in (NEVER, SCRATCH)]
    there = run("the owner's model", "x", 90, 1.0)
    null, null_and_true = findings(there, SCRATCH, *both, steps=600)
    assert null.agrees is False and "takes 1.5 times as many steps" in null.text
    assert null_and_true.agrees is True


def test_who_gets_there_where_nobody_does_from_scratch():
    there = run("the owner's model", "x", 90, 1.0)
    (found,) = findings(there, run("scratch", "x", 0, 0.0), steps=600)
    assert found.agrees is False
    assert "1 of 1 attacker came within 1 points" in found.text
    assert "the first (x) after 90 steps of 64 images, where none" in found.text


def test_with_one_number_of_images_there_are_no_fewest():
    only = {"steps": 1, "normal_accuracy": 0.5, "owner": {"wm": 0.0}, "pirate": {"null": 0.5}}
    starts = ("the owner's model", "scratch")
    runs = [run(s, "logits, adam, 0.001, 100 images", 0, 0) | {"curve": [only]} for s in starts]
    found = draw({"metrics": {"threshold": 0.8, "runs": runs}, "paper": {}})
    assert set(found) == {"cost-most-owner", "cost-most-scratch"}
