"""Results under results/, taken in and read by the book: sweeps'. Experiments' are in test_experiments.py."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from nullmark_jax.errors import InputError
from nullmark_jax.reports import book, committed, figures, sweeps

ROOT = pathlib.Path(__file__).parents[1]


def point(value, nc, seconds=2.0):
    return {
        "name": f"inject_ratio={value}",
        "values": {"loss.inject_ratio": value, "seed": 0},
        "scheme": "null-embedding",
        "metrics": {
            "normal_accuracy": nc,
            "null_accuracy": 0.9,
            "true_accuracy": 1.0,
            "verified": True,
        },
        "seconds": seconds,
    }


def swept(folder, **metrics):
    """A sweep's folder, as the sweep's program leaves it."""
    metrics = {
        "axis": "loss.inject_ratio",
        "groups": [],
        "threshold": 0.8,
        "points": [point(0.5, 0.98), point(1.0, 0.97)],
        "dead": {},
    } | metrics
    environment = {
        "command": "python -m nullmark_jax.sweep --config=configs/sweeps/inject_ratio.py:digit",
        "commit": "1234567",
        "date": "2026-11-26",
        "device": "TFRT_CPU_0",
        "cpus": 2,
        "jax": "0.10.2",
    }
    result = {
        "experiment": "sweep",
        "task": "digit",
        "seed": 0,
        "metrics": metrics,
        "paper": {},
        "environment": environment,
        "seconds": 240.0,
    }
    for name, figure in sweeps.draw(result).items():
        figures.save(figure, folder / "figures" / f"{name}.png")
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def root(tmp_path):
    """A project's folder without results."""
    root = tmp_path / "root"
    for name in ("docs", "results"):
        (root / name).mkdir(parents=True)
    (root / "configs").symlink_to(ROOT / "configs")
    (root / "README.md").write_text("# It\n<!-- results -->\n<!-- end of results -->\n")
    return root


def test_a_sweep_stands_in_the_book_with_its_table_figure_and_command(root, tmp_path):
    folder = swept(tmp_path / "sweep")
    assert book.main(["book", f"--root={root}"]) == 0
    assert "## Sweeps" not in (root / "docs" / "results.md").read_text()
    assert book.main(["book", f"--root={root}", f"--add={folder}"]) == 0
    assert book.main(["book", f"--root={root}", "--check"]) == 0
    text = (root / "docs" / "results.md").read_text()
    assert text.index("## Sweeps\n") < text.index("### loss.inject_ratio: digit\n")
    assert "| 0.5 | 1 | 98.00 | 90.00 | 100.00 | 1 of 1 |" in text
    assert "$ python -m nullmark_jax.sweep --config=configs/sweeps/inject_ratio.py:digit\n" in text
    assert "4.0 minutes" in text
    picture = root / "results" / "sweeps" / "digit" / "inject_ratio" / "sweep.png"
    assert "](../results/sweeps/digit/inject_ratio/sweep.png)" in text
    shown = [np.asarray(Image.open(path)) for path in (picture, folder / "figures" / "sweep.png")]
    np.testing.assert_array_equal(*shown)


def test_a_sweep_taken_in_again_replaces_the_one_before(root, tmp_path):
    committed.add(root, swept(tmp_path / "one"))
    stale = root / "results" / "sweeps" / "digit" / "inject_ratio" / "sweep-gone.png"
    stale.write_bytes(b"")
    target = committed.add(root, swept(tmp_path / "two", points=[point(0.25, 0.5)]))
    ((folder, result),) = committed.load_sweeps(root)
    assert folder == target and not stale.exists()
    assert [each["values"]["loss.inject_ratio"] for each in result["metrics"]["points"]] == [0.25]


@pytest.mark.parametrize(
    ("metrics", "variant", "message"),
    [
        ({"dead": {"inject_ratio=0.1": "no disk"}}, "", "inject_ratio=0.1 are not trained; give"),
        ({}, "adi", "--variant: 'adi' is for experiments; leave it out"),
    ],
)
def test_what_is_not_taken_in_is_one_line_and_leaves_nothing(
    root, tmp_path, metrics, variant, message
):
    folder = swept(tmp_path / "sweep", **metrics)
    with pytest.raises(InputError, match=message):
        committed.add(root, folder, variant)
    assert list((root / "results").iterdir()) == []


def test_a_result_of_neither_kind_or_version_is_refused(root, tmp_path):
    folder = swept(tmp_path / "sweep")
    path = folder / "result.json"
    result = json.loads(path.read_text())
    del result["metrics"]["threshold"], result["metrics"]["groups"]
    path.write_text(json.dumps(result))
    with pytest.raises(InputError, match=r"of another version .*'groups'.* run it again"):
        committed.add(root, folder)
    path.write_text(json.dumps(result | {"experiment": "training"}))
    with pytest.raises(InputError, match="holds no result of an experiment or a sweep; give its"):
        committed.add(root, folder)
