"""False positives: a whole small run of the program, and its numbers made from the records by hand."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny_victim

from nullmark_jax import claim, evaluation, models, signing, transform, verification
from nullmark_jax.experiments import experiment, false_positives
from nullmark_jax.experiments.victim import load_victims

# ml_collections loads a config file by a method that Python will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

CONFIG = """
from nullmark_jax.experiments import false_positives


def get_config(argument=None):
    config = false_positives.default()
    config.task = "digit"
    config.watermarks = 110
    config.tries = 30
    config.screening_images = 20
    return config
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tiny_victim.folder(tmp_path_factory)


@pytest.fixture(scope="module")
def command(tmp_path_factory, trained):
    """Runs the program on a watermarked model and its watermark-free twin."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "small.py").write_text(CONFIG)
    free = tiny_victim.free(trained, folder / "free")
    given = [f"--config={folder / 'small.py'}", f"--victim={trained}", f"--victim={free}"]

    def run(workdir, *more):
        argv = ["false_positives", *given, f"--workdir={workdir}", *more]
        return experiment.main(false_positives.EXPERIMENT, argv)

    return run


@pytest.fixture(scope="module")
def done(tmp_path_factory, command):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "false-positives"
    assert command(folder) == 0
    return folder


def read(folder):
    return json.loads((folder / "result.json").read_text())


def records_of(folder):
    lines = (folder / "records.jsonl").read_text().splitlines()
    return {entry["name"]: entry["record"] for entry in map(json.loads, lines)}


def test_the_run_folder(done, trained):
    assert sorted(str(path.relative_to(done)) for path in done.rglob("*")) == [
        ".lock",
        "config.json",
        "figures",
        "figures/false-positives.png",
        "records.jsonl",
        "report.html",
        "result.json",
    ]
    assert list(records_of(done)) == [
        f"{kind}/{name}/{start}"
        for name in (trained.name, "free")
        for kind, start in (("random", 0), ("random", 100), ("tries", 0))
    ]
    assert (done / "report.html").read_text().count("data:image/png;base64,") == 1


def test_the_random_watermarks_accuracies(done, trained):
    (victim,) = load_victims([str(trained)], task="digit")
    model, _ = read(done)["metrics"]["models"]
    assert (model["name"], model["watermarked"], model["images"]) == (trained.name, True, 45)
    lengths = {len(model[name]) for name in ("null", "true", "agreement", "wm")}
    assert lengths == {110}
    assert model["wm"] == list(map(min, model["true"], model["null"]))
    # The 1st and, from the second record, the 103rd of them, by another way.
    marks = victim.foreign(0, 110)
    two = jax.tree.map(lambda leaf: leaf[[0, 102]], marks)
    counts = evaluation.make_evaluator(models.apply_fn(victim.model), victim.splits.test)(
        victim.params, two
    )
    for name in ("null_accuracy", "true_accuracy"):
        expected = getattr(counts, name)
        found = [model[name.split("_")[0]][i] for i in (0, 102)]
        assert found == pytest.approx(list(expected))


def test_rates_and_grinding_by_threshold(done, trained):
    records = records_of(done)
    marked, free = read(done)["metrics"]["models"]
    assert (free["name"], free["watermarked"]) == ("free", False)
    for model in (marked, free):
        assert model["num_classes"] == 3 and model["tries"] == 30
        tried = records[f"tries/{model['name']}/0"]["wm"]
        assert len(tried) == 30
        assert [rate["threshold"] for rate in model["rates"]] == [
            0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95
        ]  # fmt: skip
        for rate, ground in zip(model["rates"], model["grinding"], strict=True):
            above = [wm > rate["threshold"] for wm in model["wm"]]
            assert (rate["passed"], rate["of"]) == (sum(above), 110)
            assert (rate["low"], rate["high"]) == verification.clopper_pearson(sum(above), 110)
            passed = [wm > ground["threshold"] for wm in tried]
            assert (ground["passed"], ground["of"]) == (sum(passed), 30)
            assert ground["first"] == (passed.index(True) + 1 if any(passed) else None)


def test_a_cheat_s_watermarks_are_of_real_signatures(done, trained):
    (victim,) = load_victims([str(trained)], task="digit")
    records = records_of(done)
    evaluate = evaluation.make_evaluator(models.apply_fn(victim.model), victim.splits.test)
    tried = records[f"tries/{trained.name}/0"]["wm"]
    # The best of them was measured on all images: the 1st, 2nd, ... second of the year.
    best = int(np.argmax(tried))
    key = signing.experiment_key(0)
    made = claim.claim_for(
        key,
        owner="cheat",
        timestamp=f"2026-01-01T00:00:{best:02}Z",
        scheme="null-embedding",
        pattern_size=4,
        extreme_value=20.0,
        input_shape=(16, 16, 1),
        num_classes=3,
        model_sha256=victim.sha256,
    )
    assert claim.signature_is_valid(made)
    counts = evaluate(victim.params, transform.stack([claim.watermark_of(made)]))
    wm = min(counts.null_accuracy[0], counts.true_accuracy[0])
    assert tried[best] == pytest.approx(wm)


def test_again_nothing_is_measured(done, command):
    before, records = read(done), (done / "records.jsonl").read_bytes()
    assert command(done) == 0
    assert (done / "records.jsonl").read_bytes() == records
    assert read(done)["metrics"] == before["metrics"]


def test_interrupted_it_ends_in_equal_metrics(done, command, tmp_path):
    cut = shutil.copytree(done, tmp_path / "cut")
    lines = (done / "records.jsonl").read_text().splitlines(keepends=True)
    (cut / "records.jsonl").write_text("".join(lines[:2]))
    (cut / "result.json").unlink()
    assert command(cut) == 0
    assert read(cut)["metrics"] == read(done)["metrics"]
    kept = (cut / "records.jsonl").read_text().splitlines(keepends=True)
    assert kept[:2] == lines[:2] and len(kept) == len(lines)


@pytest.mark.parametrize("field", ["watermarks", "tries", "screening_images"])
def test_a_config_out_of_range_is_one_line(command, capsys, tmp_path, field):
    assert command(tmp_path / "run", f"--config.{field}=0") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"config.{field}: 0 is out of range")
    assert not (tmp_path / "run").exists()
