"""Every experiment's smoke run on the bundled digits, as a user starts it, and the book made of them."""

import html
import json
import pathlib
import re
import shutil

import pytest

from nullmark_jax import batches, files
from nullmark_jax import config as configs
from nullmark_jax.attacks import pruning
from nullmark_jax.attacks.extraction import Thief, make_extraction
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import examination_tables, experiment
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.catalogue import EXPERIMENTS
from nullmark_jax.experiments.late_marks import Pirate
from nullmark_jax.experiments.measuring import derived_seed
from nullmark_jax.experiments.victim import load_victims
from nullmark_jax.main import main
from nullmark_jax.optimizers import Recipe
from nullmark_jax.reports import book, committed

ROOT = pathlib.Path(__file__).parents[1]
KEY = ["--config.owner.experiment_key=3", "--config.owner.timestamp=2026-11-21T00:00:00Z"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),  # ml_collections
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A watermarked model of the digits, its watermark-free twin, and two of earlier designs."""
    folder = tmp_path_factory.mktemp("runs")
    config = f"--config={ROOT}/configs/quickstart.py"
    assert main(["main", config, f"--workdir={folder}/marked", *KEY]) == 0
    free = ["--config.watermark.num_watermarks=0", "--config.epochs=4"]
    assert main(["main", config, f"--workdir={folder}/free", *KEY, *free]) == 0
    for scheme in ("adi", "zhang-content"):
        earlier = [f"--config.watermark.scheme={scheme}", "--config.epochs=12"]
        assert main(["main", config, f"--workdir={folder}/{scheme}", *KEY, *earlier]) == 0
    return folder


def run(name, runs, workdir):
    argv = [f"--config={ROOT}/configs/attacks/{name}.py:quickstart,smoke"]
    marked = "adi" if name.startswith("trigger_") else "marked"
    argv += [f"--victim={runs}/{marked}", f"--workdir={workdir}"]
    # Pattern recovery of models without a pattern, as long as of one with it: test_pattern_recovery.py.
    alone = ("functionality", "trigger_false_positives", "pattern_recovery")
    if EXPERIMENTS[name].free and name not in alone:
        argv.append(f"--victim={runs}/free")
    return experiment.main(EXPERIMENTS[name], [name, *argv])


@pytest.fixture(scope="module")
def done(runs):
    """Runs an experiment once; returns its folder and its result."""
    kept = {}

    def get(name):
        if name not in kept:
            assert run(name, runs, runs / f"experiment-{name}") == 0
            folder = runs / f"experiment-{name}"
            kept[name] = folder, json.loads((folder / "result.json").read_text())
        return kept[name]

    return get


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_writes_its_folder(done, name):
    folder, result = done(name)
    assert result["experiment"] == name and result["task"] == "quickstart"
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert figures <= set(EXPERIMENTS[name].captions)
    assert figures or not EXPERIMENTS[name].draw(result)
    report = (folder / "report.html").read_text()
    assert report.count("data:image/png;base64,") == len(figures)
    assert all(html.escape(table.title) in report for table in EXPERIMENTS[name].tables(result))
    for table in EXPERIMENTS[name].tables(result):
        assert {len(row) for row in table.rows} == {len(table.header)}
    for finding in EXPERIMENTS[name].verdict(result):
        assert finding.text.endswith(".") and finding.agrees in (True, False, None)
        assert type(finding.agrees) in (bool, type(None))


def test_a_watermark_free_model_is_examined_with_a_late_mark_of_the_first_copy_s(done):
    _, result = done("examination")
    models = result["metrics"]["models"]
    pirate = Pirate("adam-tamed", 129, 30, 0.02, "int8").name
    assert list(models) == [
        examination_tables.ORIGINAL,
        pirate,
        f"{examination_tables.LATE}{pirate}",
    ]
    names = [[each["name"] for each in some] for some in models.values()]
    assert names == [["marked"], ["marked"], ["free"]]
    marks = [list(some[0]["after"]["int8 weights"]["verified"]) for some in models.values()]
    assert marks == [["owner"], ["owner", "pirate"], ["pirate"]]
    copy, late = models[pirate][0], models[f"{examination_tables.LATE}{pirate}"][0]
    assert copy["seed"] == late["seed"]


def test_a_control_of_extraction_is_trained_on_true_labels(done, runs):
    _, result = done("extraction")
    (victim,) = load_victims([str(runs / "marked")], task="quickstart")
    bench = Bench(victim, 100)
    seed = derived_seed(0, "thief", 0, 0)
    images, labels = bench.images(129, seed)
    config = victim.config
    thief = Thief(
        configs.recipe(config),
        60,
        config.batch_size,
        config.weight_standardization,
        batches.Augmentation(**config.augmentation),
    )
    shape = tuple(config.data.input_shape)
    train = make_extraction(victim.model, thief, "label", input_shape=shape)
    expected = bench.measure(train(images, labels, seed), owner=bench.owner)
    controls = result["metrics"]["controls"]
    assert [each["images"] for each in controls] == [129, 1294]
    (control,) = controls[0]["models"]
    assert control["labels_seen"] == 10 and expected.items() <= control.items()


# Those that keep something beside their journal's records; of the journal itself: test_experiment.py.
@pytest.mark.parametrize("name", ["functionality", "piracy", "extraction", "transfer"])
def test_a_finished_experiment_measures_nothing_again(done, runs, capsys, name):
    folder, result = done(name)
    records = (folder / "records.jsonl").read_bytes()
    capsys.readouterr()
    assert run(name, runs, folder) == 0
    assert (folder / "records.jsonl").read_bytes() == records
    again = json.loads((folder / "result.json").read_text())
    assert again["metrics"] == result["metrics"]


def test_the_pirate_of_triggers_goes_on_in_the_middle_of_their_curve(done, runs, tmp_path):
    folder, result = done("trigger_piracy")
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 4  # Before, after 1 and 2 epochs, after the owner's 12.
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    (again / "records.jsonl").write_text("".join(lines[:2]))
    assert run("trigger_piracy", runs, again) == 0
    assert json.loads((again / "result.json").read_text())["metrics"] == result["metrics"]


def test_the_book_of_all_of_them(done, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").mkdir()
    marks = (b"claims", b"results")
    table = b"\n".join(b"<!-- %b -->\n<!-- end of %b -->" % (mark, mark) for mark in marks)
    files.write_whole(tmp_path / "README.md", b"# It\n" + table + b"\nend\n")
    adds = [f"--add={done(name)[0]}" for name in EXPERIMENTS]
    assert book.main(["book", f"--root={tmp_path}", "--check"]) == 1
    assert book.main(["book", f"--root={tmp_path}", *adds]) == 0
    assert book.main(["book", f"--root={tmp_path}", "--check"]) == 0
    other = [f"--add={done('pruning')[0]}", "--variant=other"]
    assert book.main(["book", f"--root={tmp_path}", *other]) == 0
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "(results-other.md)" in text
    assert text.count(f"### {EXPERIMENTS['pruning'].title}: quickstart\n") == 1
    page = tmp_path / "docs" / "results-other.md"
    assert f"### {EXPERIMENTS['pruning'].title}: quickstart\n" in page.read_text()
    assert "results/experiments/quickstart/pruning-other/" in page.read_text()
    # A variant that results/ no longer holds has no page.
    shutil.rmtree(tmp_path / "results/experiments/quickstart/pruning-other")
    assert book.main(["book", f"--root={tmp_path}", "--check"]) == 1
    assert book.main(["book", f"--root={tmp_path}"]) == 0
    assert not page.exists()
    text = (tmp_path / "docs" / "results.md").read_text()
    for name, each in EXPERIMENTS.items():
        assert f"## {each.title}\n" in text
        assert f"python -m nullmark_jax.experiments.{name} " in text
    glance, _, rest = text.partition("## The papers' claims")[2].partition("## Training")
    headings = {
        re.sub("[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in rest.splitlines()
        if line.startswith(("## ", "### "))
    }
    linked = set(re.findall(r"\(#([^)]*)\)", glance))
    assert linked <= headings
    of_task = {each for each in headings if each.endswith("-quickstart")}
    assert {each for each in linked if each.endswith("-quickstart")} == of_task and of_task
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "docs" / line.rpartition("(")[2].rstrip(")")).resolve().exists()
    (tmp_path / "docs" / "results.md").write_text(text + "An edit.\n")
    assert book.main(["book", f"--root={tmp_path}", "--check"]) == 1


def test_the_recipe_s_null_embedding_stays_through_rounding_and_fine_tuning(runs):
    (victim,) = load_victims([str(runs / "marked")], task="quickstart")
    assert not victim.config.null_space
    bench = Bench(victim)
    tuned = Adversary(recipe=Recipe("sgd", 1e-3), steps=100, batch_size=32, inject_ratio=0.0)
    changed = {
        "int8": pruning.quantise(victim.params, "int8"),
        "bf16": pruning.quantise(victim.params, "bf16"),
        "tuned": next(bench.train(tuned, images=400, seed=0, at=[100])).params,
    }
    before = bench.measure(victim.params, owner=bench.owner)["owner"]["wm"]
    for name, params in changed.items():
        after = bench.measure(params, owner=bench.owner)["owner"]["wm"]
        assert after > before - 0.05, (name, before, after)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("piracy", "adi"),
        ("fine_tuning", "adi"),
        ("transfer", "adi"),
        ("pruning", "adi"),
        ("input_filter", "zhang-content"),
        ("extraction", "zhang-content"),
        ("neural_cleanse", "adi"),
        ("neural_cleanse", "zhang-content"),
        ("stability", "adi"),
    ],
)
def test_an_attack_on_an_earlier_scheme(runs, tmp_path, name, scheme):
    design = f",{scheme}" if name in ("piracy", "stability") else ""
    argv = [f"--config={ROOT}/configs/attacks/{name}.py:quickstart,smoke{design}"]
    argv += [f"--victim={runs}/{scheme}", f"--workdir={tmp_path}/run"]
    assert experiment.main(EXPERIMENTS[name], [name, *argv]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    for table in EXPERIMENTS[name].tables(result):
        assert {len(row) for row in table.rows} == {len(table.header)}
    # What the papers say of null embedding is not said of these.
    spoken = experiment.findings(EXPERIMENTS[name], result)
    assert all(finding.text.endswith(".") for finding in spoken)
    assert bool(spoken) is (name in ("piracy", "stability"))
    with pytest.raises(InputError, match="give it a --variant of its own, say adi"):
        committed.add(tmp_path, tmp_path / "run")
    if name == "input_filter":
        plain = result["metrics"]["filters"][0]["models"][0]
        assert plain["verified"] and plain["owner"]["null"] is None
    if name == "piracy":
        assert "earlier" not in result["metrics"]
        before = result["metrics"]["before"]["adi"]
        assert before["owner"]["null"] is None and before["owner"]["wm"] >= 0.8
        assert before["pirate"]["wm"] < 0.5


def test_piracy_is_of_one_design(runs, tmp_path, capsys):
    argv = [
        f"--config={ROOT}/configs/attacks/piracy.py:quickstart,smoke",
        f"--workdir={tmp_path}/run",
    ]
    assert experiment.main(EXPERIMENTS["piracy"], ["piracy", *argv, f"--victim={runs}/adi"]) == 2
    assert capsys.readouterr().err == (
        "--victim: adi is of adi, and this config is not for that; give --config=FILE.py:TASK,adi\n"
    )
    assert not (tmp_path / "run").exists()


def test_an_attack_on_null_embedding_alone_refuses_triggers(runs, tmp_path, capsys):
    argv = [f"--config={ROOT}/configs/attacks/gradual.py:quickstart,smoke"]
    argv += [f"--victim={runs}/adi", f"--workdir={tmp_path}/run"]
    assert experiment.main(EXPERIMENTS["gradual"], ["gradual", *argv]) == 2
    assert capsys.readouterr().err == (
        "--victim: adi is of a scheme of triggers (adi), to which this attack does nothing; give a "
        "model of null embedding\n"
    )
    assert not (tmp_path / "run").exists()
