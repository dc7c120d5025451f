"""The table of several runs, against one worked out by hand."""

import json
import pathlib

import pytest

from nullmark_jax.errors import InputError
from nullmark_jax.reports import runs

RESULTS_FOLDER = pathlib.Path(__file__).resolve().parent.parent / "results"


def _result(seed, normal, null, verified):
    accuracies = {
        "normal_accuracy": normal,
        "null_accuracy": null,
        "true_accuracy": 1.0,
        "watermark_accuracy": null,
    }
    return {
        "experiment": "train",
        "task": "digit",
        "seed": seed,
        "metrics": {
            **accuracies,
            "intervals_95": {name: [value - 0.01, value] for name, value in accuracies.items()},
            "images": 1000,
            "verified": verified,
        },
        "paper": {},
        "environment": {
            "command": f"python -m nullmark_jax.main --config.seed={seed}",
            "commit": "abc",
            "date": "2026-11-21",
            "device": "1 x cpu",
            "cpus": 2,
            "jax": "0.10.2",
            "python": "3.11.7",
        },
        "seconds": 90.0,
    }


RESULTS = [
    _result(0, 0.98, 0.97, True),
    _result(1, 0.96, 0.93, True),
    _result(0, 0.99, 0.10, None),
    _result(1, 0.98, 0.12, None),
]
PAPER = {
    "normal_accuracy": 0.9851,
    "null_accuracy": 0.9770,
    "true_accuracy": 1.0,
    "free_normal_accuracy": 0.9851,
}


def test_mean_spread_and_loss_worked_out_by_hand():
    table = runs.runs_table(RESULTS, PAPER)
    assert (
        "| **watermarked, mean (spread)** | 2 | **97.00** (96.00 to 98.00) "
        "| **95.00** (93.00 to 97.00)" in table
    )
    # 1 and 2 points: mean 1.5, standard error 0.5, and Student's t of one degree of freedom is 12.706.
    assert (
        "NC lost against the watermark-free twin of the same seed: 1.50 points, the mean of 2 pairs\n"
        "(1.00 to 2.00; 95% t interval of the mean -4.85 to 7.85). Negative is a gain." in table
    )
    assert "| later paper, watermarked | | 98.51 | 97.70 | 100.00 | 97.70 | | |" in table


def test_of_wonder_filters_the_agreement_has_a_column_and_the_earlier_paper_a_row():
    results = [_result(0, 0.98, 0.97, True), _result(0, 0.99, 0.1, None)]
    for each, agreement in zip(results, (0.975, 0.11), strict=True):
        each["metrics"]["null_agreement"] = agreement
        each["metrics"]["intervals_95"]["null_agreement"] = [agreement - 0.01, agreement]
    paper = {
        "free_normal_accuracy": 0.9924,
        "normal_accuracy": 0.9863,
        "true_accuracy": 1.0,
        "null_agreement": 0.9959,
    }
    lines = runs.runs_table(results, paper, "wonder-filter").splitlines()
    assert lines[0] == "| run | seed | NC | null | agreement | true | WM | verified | minutes |"
    assert "| 97.00 (96.00 to 97.00) | 97.50 (96.50 to 97.50) | 100.00" in lines[2]
    assert "| earlier paper, watermarked | | 98.63 |  | 99.59 | 100.00 | 99.59 | | |" in lines
    assert "| earlier paper, watermark-free | | 99.24 | | | | | | |" in lines
    assert len({line.count("|") for line in lines[:8]}) == 1


def test_only_runs_of_one_seed_are_compared():
    others = [_result(5, 0.5, 0.1, None), _result(6, 0.4, 0.1, True)]
    assert "seed: 1.00 points (one pair)." in runs.runs_table([RESULTS[0], RESULTS[2], *others], {})
    assert "NC lost" not in runs.runs_table([RESULTS[0], others[0]], {})


def test_each_run_has_a_line_with_its_interval_and_verdict():
    table = runs.runs_table([RESULTS[0], _result(7, 0.5, 0.4, False)], {})
    assert "| watermarked | 0 | 98.00 (97.00 to 98.00) |" in table
    assert "| yes | 1.5 |" in table
    assert "| **no** | 1.5 |" in table
    assert "later paper" not in table
    assert "lost" not in table  # there is no twin


def test_the_page_shows_the_curves():
    page = runs.page("digit", RESULTS, PAPER, ["curves-1.png"])
    assert "](curves-1.png)\n\nThe watermarked run of seed 1." in page
    assert "curves" not in runs.page("digit", RESULTS, PAPER)


def test_the_page_names_commands_commit_and_machine():
    page = runs.page("digit", RESULTS, PAPER)
    assert "$ python -m nullmark_jax.main --config.seed=1" in page
    assert "- Commit: abc" in page
    assert "- Device: 1 x cpu" in page


@pytest.fixture
def folder(tmp_path):
    for i, result in enumerate(RESULTS):
        (tmp_path / f"{i}.json").write_text(json.dumps(result))
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*load_module.*:DeprecationWarning")
def test_check_knows_a_stale_page_from_a_true_one(folder, capsys):
    arguments = ["runs", "--config=configs/digit.py", f"--results={folder}"]
    assert runs.main([*arguments, "--check"]) == 1
    assert runs.main([*arguments, "--write"]) == 0
    assert runs.main([*arguments, "--check"]) == 0
    (folder / "0.json").write_text(json.dumps(_result(0, 0.5, 0.4, True)))
    assert runs.main([*arguments, "--check"]) == 1
    assert "stale" in capsys.readouterr().out


def test_a_folder_without_results_is_one_line(tmp_path):
    with pytest.raises(InputError, match="holds no result"):
        runs.load_results(tmp_path)


def test_a_broken_result_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match=r"x\.json: is no result"):
        runs.load_results(tmp_path)


COMMITTED = [path.parent for path in sorted(RESULTS_FOLDER.glob("*/watermarked-*.json"))]


@pytest.mark.filterwarnings("ignore:.*load_module.*:DeprecationWarning")
@pytest.mark.parametrize("folder", sorted(set(COMMITTED)), ids=lambda folder: folder.name)
def test_the_committed_pages_are_what_their_results_say(capsys, folder):
    task = folder.name.partition("-")[0]  # What follows names a variant.
    config = RESULTS_FOLDER.parent / "configs" / f"{task}.py"
    scheme = "wonder-filter" if folder.name.endswith("-wonder") else "null-embedding"
    argv = [f"--config={config}", f"--config.watermark.scheme={scheme}", f"--results={folder}"]
    assert runs.main(["runs", *argv, "--check"]) == 0
