"""Results under results/, taken in and read by the book: sweeps', and which schemes stand side by side.

Experiments' own are in test_experiments.py.
"""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from sweep_results import point, result_of

from nullmark_jax.errors import InputError
from nullmark_jax.reports import book, committed, figures, sweeps

ROOT = pathlib.Path(__file__).parents[1]
AXIS = "loss.inject_ratio"
TWO = [point({AXIS: 0.5}, 0.98, 0.9), point({AXIS: 1.0}, 0.97, 0.9)]


def swept(folder, result):
    """A sweep's folder, as the sweep's program leaves it."""
    for name, figure in sweeps.draw(result).items():
        figures.save(figure, folder / "figures" / f"{name}.png")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"seed": result["seed"]}))
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def root(tmp_path):
    """A project's folder without results."""
    root = tmp_path / "root"
    for name in ("docs", "results"):
        (root / name).mkdir(parents=True)
    (root / "configs").symlink_to(ROOT / "configs")
    marks = [f"<!-- {mark} -->\n<!-- end of {mark} -->\n" for mark in ("claims", "results")]
    (root / "README.md").write_text("".join(["# It\n", *marks]))
    return root


def page(root):
    assert book.main(["book", f"--root={root}"]) == 0
    return (root / "docs" / "results.md").read_text()


def test_figures_are_drawn_anew_and_what_is_no_figure_any_more_goes(root, tmp_path):
    folder = swept(tmp_path / "sweep", result_of(TWO))
    assert book.main(["book", f"--root={root}", f"--add={folder}"]) == 0
    target = root / "results" / "sweeps" / "digit" / AXIS
    drawn = (target / "sweep.png").read_bytes()
    (target / "sweep.png").write_bytes(b"")
    (target / "old.png").write_bytes(b"")
    assert book.main(["book", f"--root={root}", "--redraw"]) == 0
    assert (target / "sweep.png").read_bytes() == drawn
    assert not (target / "old.png").exists()


def test_what_cannot_be_drawn_is_one_line(root, tmp_path, capsys):
    folder = swept(tmp_path / "sweep", result_of(TWO))
    assert book.main(["book", f"--root={root}", f"--add={folder}"]) == 0
    path = root / "results" / "sweeps" / "digit" / AXIS / "result.json"
    path.write_text(json.dumps(result_of(TWO) | {"experiment": "gone"}))
    assert book.main(["book", f"--root={root}", "--redraw"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{path}: 'gone' is no experiment; remove its folder")


def test_a_sweep_stands_in_the_book_with_its_table_figure_and_command(root, tmp_path):
    folder = swept(tmp_path / "sweep", result_of(TWO))
    assert "## Sweeps" not in page(root)
    assert book.main(["book", f"--root={root}", f"--add={folder}"]) == 0
    assert book.main(["book", f"--root={root}", "--check"]) == 0
    text = (root / "docs" / "results.md").read_text()
    assert text.index("## Sweeps\n") < text.index("### loss.inject_ratio: digit\n")
    assert "| 0.5 | 1 | 98.00 | 90.00 | 100.00 | 1 of 1 |" in text
    assert "$ python -m nullmark_jax.sweep --config=configs/sweeps/inject_ratio.py:digit\n" in text
    assert "4.0 minutes" in text
    kept = root / "results" / "sweeps" / "digit" / AXIS / "config.json"
    assert kept.read_bytes() == (folder / "config.json").read_bytes()
    picture = root / "results" / "sweeps" / "digit" / AXIS / "sweep.png"
    assert "](../results/sweeps/digit/loss.inject_ratio/sweep.png)" in text
    shown = [np.asarray(Image.open(path)) for path in (picture, folder / "figures" / "sweep.png")]
    np.testing.assert_array_equal(*shown)


def test_a_sweep_made_again_takes_the_place_of_the_one_before(root, tmp_path):
    committed.add(root, swept(tmp_path / "one", result_of(TWO)))
    stale = root / "results" / "sweeps" / "digit" / AXIS / "sweep-gone.png"
    stale.write_bytes(b"")
    again = [point({AXIS: 1.0}, 0.5, 0.5), point({AXIS: 0.5}, 0.5, 0.5)]
    target = committed.add(root, swept(tmp_path / "two", result_of(again)))
    ((folder, result),) = committed.load_sweeps(root)
    assert folder == target and not stale.exists()
    assert result["metrics"]["points"][0]["metrics"]["normal_accuracy"] == 0.5


def test_another_sweep_over_the_same_field_needs_a_variant(root, tmp_path):
    committed.add(root, swept(tmp_path / "one", result_of(TWO)))
    other = swept(tmp_path / "two", result_of(TWO[:1]))
    with pytest.raises(InputError, match=r"holds another sweep over loss.inject_ratio than .*give"):
        committed.add(root, other)
    committed.add(root, other, "short")
    metrics = [point({"watermark.pattern_size": 3}, 0.9, 0.9)]
    committed.add(root, swept(tmp_path / "3", result_of(metrics, axis="watermark.pattern_size")))
    face = result_of(TWO) | {"task": "face"}
    committed.add(root, swept(tmp_path / "4", face))
    # By task, then by field.
    assert [str(folder.relative_to(root / "results/sweeps")) for folder, _ in (
        committed.load_sweeps(root)
    )] == [
        "digit/loss.inject_ratio",
        "digit/loss.inject_ratio-short",
        "digit/watermark.pattern_size",
        "face/loss.inject_ratio",
    ]  # fmt: skip


def test_every_group_s_figure_is_shown_with_words_of_its_own(root, tmp_path):
    scheme = "watermark.scheme"
    points = [
        point({AXIS: 0.5, scheme: name}, 0.98, 0.9, scheme=name)
        for name in ("null-embedding", "wonder-filter")
    ]
    committed.add(root, swept(tmp_path / "sweep", result_of(points, groups=[scheme])))
    text = page(root)
    for name in ("null-embedding", "wonder-filter"):
        assert text.count(f"\n{name}: The mean over seeds; ") == 1
        assert f"sweep-{name}.png)" in text


@pytest.mark.parametrize(
    ("changes", "variant", "message"),
    [
        ({"dead": {"inject_ratio=0.1": "no disk"}}, "", r"inject_ratio=0.1 are not trained; give"),
        ({}, "a/b", r"^--variant: 'a/b' must be letters and digits"),
        ({"axis": "../../etc"}, "", r"a sweep over '../../etc', which is no field of a config"),
        ({"points": []}, "", r"sweep has no points; give a sweep's --workdir"),
        ({"dead": ["x"]}, "", None),
    ],
)
def test_what_is_not_taken_in_is_one_line_and_leaves_nothing(
    root, tmp_path, changes, variant, message
):
    result = result_of(TWO)
    folder = swept(tmp_path / "sweep", result)
    if changes.get("axis"):  # Its points have no such value.
        for each in result["metrics"]["points"]:
            each["values"][changes["axis"]] = 1.0
    result["metrics"] |= changes
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match=message or r"damaged .*'list' object .*; run it again"):
        committed.add(root, folder, variant)
    assert list((root / "results").iterdir()) == []


def test_a_result_of_neither_kind_or_version_is_refused(root, tmp_path):
    folder = swept(tmp_path / "sweep", result_of(TWO))
    path = folder / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"experiment": "training"}))
    with pytest.raises(InputError, match=r"holds no result of an experiment or a sweep; give its"):
        committed.add(root, folder)
    for missing in ("environment", "metrics"):
        part = dict(result)
        del part[missing]
        path.write_text(json.dumps(part))
        with pytest.raises(InputError, match=f"of another version, or damaged .*'{missing}'"):
            committed.add(root, folder)


def test_a_damaged_file_of_results_is_named(root, tmp_path):
    target = committed.add(root, swept(tmp_path / "sweep", result_of(TWO)))
    (target / "result.json").write_bytes(b"{")
    with pytest.raises(InputError, match=f"^{target}/result.json: is not JSON"):
        committed.load_sweeps(root)


def training(root, name, accuracy, verified=True):
    folder = root / "results" / name
    folder.mkdir(exist_ok=True)
    source = ROOT / "results" / "digit" / "watermarked-0.json"
    result = json.loads(source.read_text())
    result["metrics"] |= {"normal_accuracy": accuracy, "verified": verified}
    kind = "watermarked" if verified is not None else "watermark-free"
    (folder / f"{kind}-{len(list(folder.iterdir()))}.json").write_text(json.dumps(result))


def test_schemes_stand_side_by_side_where_two_have_results(root):
    training(root, "digit", 0.995)
    training(root, "digit", 0.5, verified=None)  # A watermark-free twin is no owner's.
    assert "## Schemes side by side" not in page(root)
    training(root, "digit-zhang", 0.99)
    (root / "results" / "digit-adi").mkdir()  # Nothing in it.
    text = page(root)
    assert "|  | null embedding | Zhang et al., a text |\n" in text
    assert "| owners | 1 | 1 |\n| NC, % | 99.50 | 99.00 |\n" in text
    # Attacks without their victims' training are results, too.
    attack = root / "results" / "experiments" / "digit" / "input_filter-adi"
    attack.mkdir(parents=True)
    source = ROOT / "results" / "experiments" / "digit" / "input_filter-adi" / "result.json"
    (attack / "result.json").write_bytes(source.read_bytes())
    text = page(root)
    assert "|  | null embedding | Adi et al., 100 images | Zhang et al., a text |\n" in text
    assert "| owners | 1 |  | 1 |\n" in text
    assert "| owners verified behind input filters | not measured | 18 of 21 (3 x 7) |" in text


def test_a_model_with_the_name_of_another_is_marked_with_the_other_s_digits():
    def result(digest, **where):
        environment = {"command": "x", "commit": "c", "date": "d", "device": "1 x cpu", "cpus": 2}
        return {
            "metrics": {"victims": [{"name": "digit-wm-0", "model_sha256": digest}]},
            "environment": environment | {"jax": "1"} | where,
            "seed": 0,
            "seconds": 90.0,
        }

    one, other = result("aaaaaaa"), result("bbbbbbb", processor="Abacus 3000")
    models = committed.models_of([one, other, {"metrics": {}}])
    assert models == {"digit-wm-0": {"aaaaaa", "bbbbbb"}}
    (line,) = [each for each in committed.provenance(one, models) if "Models" in each]
    assert line.startswith("Models: digit-wm-0 (aaaaaa; in other sections bbbbbb). Commit c, d; ")
    (line,) = [each for each in committed.provenance(other, models) if "Models" in each]
    assert "1 x cpu, 2 cores (Abacus 3000), jax 1; seed 0; 1.5 minutes" in line
    (line,) = [
        each for each in committed.provenance(one, committed.models_of([one])) if "Models" in each
    ]
    assert line.startswith("Models: digit-wm-0 (aaaaaa). Commit")
