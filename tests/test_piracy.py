"""Piracy: a whole small run of the program."""

import json
import shutil

import pytest
import tiny_victim

from nullmark_jax.experiments import experiment, loss_gate, piracy

# ml_collections loads a config file by a method that Python will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

CONFIG = """
from nullmark_jax.experiments import piracy


def get_config(argument=None):
    config = piracy.default()
    config.task = "digit"
    for paper in (config.later, config.earlier):
        paper.epochs = 2
        paper.images = 40
        paper.batch_size = 16
    config.earlier.epochs = 1
    config.later.pirates = 2
    config.grid.cross_entropies = ("logits",)
    config.grid.ways = ("sgd",)
    config.grid.learning_rates = (1e-2, 1e-3)
    config.grid.fractions = (0.5,)
    config.grid.images = ()
    config.grid.steps = 4
    config.grid.batch_size = 16
    config.strongest_pirates = 1
    return config
"""


def read(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def command(tmp_path_factory, config_file):
    """Runs the program on the victim in a folder; returns its status."""
    victim = tiny_victim.folder(tmp_path_factory)

    def run(workdir, *more):
        argv = [f"--config={config_file}", f"--victim={victim}", f"--workdir={workdir}", *more]
        return experiment.main(piracy.EXPERIMENT, ["piracy", *map(str, argv)])

    return run


@pytest.fixture(scope="module")
def done(tmp_path_factory, command):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "piracy"
    assert command(folder) == 0
    return folder


@pytest.mark.slow
def test_the_run_folder(done):
    assert sorted(str(path.relative_to(done)) for path in done.rglob("*")) == [
        ".lock",
        "config.json",
        "figures",
        "figures/piracy-earlier.png",
        "figures/piracy-later.png",
        "figures/piracy-strongest.png",
        "records.jsonl",
        "report.html",
        "result.json",
    ]
    result = read(done)
    assert (result["experiment"], result["task"]) == ("piracy", "digit")
    report = (done / "report.html").read_text()
    assert report.count("data:image/png;base64,") == 3 and "http" not in report


@pytest.mark.slow
def test_the_metrics(done):
    metrics = read(done)["metrics"]
    ((name, before),) = metrics["before"].items()
    assert metrics["victims"][0]["name"] == name
    assert before["images"] == 45 and metrics["threshold"] == 0.8
    # Before: the owner's verifies, a watermark that nobody embedded does not.
    assert before["normal_accuracy"] == before["owner"]["wm"] == 1.0
    assert before["pirate"]["wm"] < 0.8
    counts = {part: len(metrics[part]["pirates"]) for part in ("later", "earlier", "strongest")}
    assert counts == {"later": 2, "earlier": 1, "strongest": 1}
    assert metrics["later"]["attacker"] == "logits, sgd 0.001, 40 images, 2 epochs"
    for part in counts:
        pirates = metrics[part]["pirates"]
        for who, field in (("pirate", "verified"), ("owner", "owner_verified")):
            assert metrics[part][field] == sum(each[who]["wm"] > 0.8 for each in pirates)
        for each in pirates:
            for who in ("owner", "pirate"):
                assert each[who]["wm"] == min(each[who]["null"], each[who]["true"])
        # The first one's curve, from before the first step on: an epoch is 40 // 16 steps.
        steps = [point["steps"] for point in pirates[0]["curve"]]
        expected = {"later": [0, 2, 4], "earlier": [0, 1, 2], "strongest": [0, 1, 2, 3, 4]}
        assert steps == expected[part]
        assert not any("curve" in each for each in pirates[1:])
    # Other pirates, not the same one again.
    assert len({each["seed"] for each in metrics["later"]["pirates"]}) == 2
    names = [each["name"] for each in metrics["grid"]["attackers"]]
    assert names == [f"logits, sgd, {rate}, 54 images" for rate in ("0.01", "0.001")]
    best = loss_gate.strongest(metrics["grid"]["attackers"], "null-embedding", 0.8)
    assert metrics["strongest"]["attacker"] == best["name"]
    # The strongest's pirate is none of the grid's.
    assert metrics["strongest"]["pirates"][0]["seed"] != best["seed"]


@pytest.mark.slow
def test_of_several_numbers_of_images_the_fewest_have_a_strongest_of_their_own(command, tmp_path):
    assert command(tmp_path / "run", "--config.grid.fractions=(0.25,0.5)") == 0
    metrics = read(tmp_path / "run")["metrics"]
    tried = metrics["grid"]["attackers"]
    assert sorted({each["images"] for each in tried}) == [27, 54]
    few = loss_gate.strongest(tried[:2], "null-embedding", 0.8)
    assert few["images"] == 27 and metrics["fewest"]["attacker"] == few["name"]
    (pirate,) = metrics["fewest"]["pirates"]
    others = [few, *metrics["strongest"]["pirates"]]
    assert pirate["seed"] not in {each["seed"] for each in others}
    assert (tmp_path / "run" / "figures" / "piracy-fewest.png").exists()


@pytest.mark.slow
def test_again_nothing_is_measured(done, command):
    before = read(done)
    records = (done / "records.jsonl").read_bytes()
    assert command(done) == 0
    assert (done / "records.jsonl").read_bytes() == records
    after = read(done)
    assert (after["metrics"], after["seconds"]) == (before["metrics"], before["seconds"])


@pytest.mark.slow
def test_interrupted_it_ends_in_equal_metrics(done, command, tmp_path):
    cut = shutil.copytree(done, tmp_path / "cut")
    lines = (done / "records.jsonl").read_text().splitlines(keepends=True)
    (cut / "records.jsonl").write_text("".join(lines[:2]))
    (cut / "result.json").unlink()
    assert command(cut) == 0
    assert read(cut)["metrics"] == read(done)["metrics"]
    kept = (cut / "records.jsonl").read_text().splitlines(keepends=True)
    assert kept[:2] == lines[:2] and len(kept) == len(lines)


@pytest.mark.slow
def test_the_commits_of_all_starts_are_stated(done, command, tmp_path):
    cut = shutil.copytree(done, tmp_path / "cut")
    lines = [json.loads(line) for line in (done / "records.jsonl").read_text().splitlines()]
    now = read(done)["environment"]["commit"]
    old = "".join(json.dumps({**line, "commit": "earlier"}) + "\n" for line in lines[:-1])
    (cut / "records.jsonl").write_text(old)
    assert command(cut) == 0
    assert read(cut)["environment"]["commit"] == f"earlier, {now}"


@pytest.mark.slow
def test_another_owners_loss_is_for_the_grid_alone(command, tmp_path_factory, tmp_path):
    victim = tiny_victim.folder(tmp_path_factory)
    other = tiny_victim.other(victim, tmp_path / "clipped-owner")
    tiny_victim.change_json(other / "config.json", cross_entropy="clipped")
    assert (
        command(tmp_path / "run", f"--victim={other}", "--config.grid.learning_rates=(1e-3,)") == 0
    )
    metrics = read(tmp_path / "run")["metrics"]
    assert list(metrics["before"]) == [victim.name]
    assert len(metrics["later"]["pirates"]) == 2 and len(metrics["earlier"]["pirates"]) == 1
    tried = metrics["grid"]["attackers"]
    assert [(each["victim"], each["owner_loss"]) for each in tried] == [
        (victim.name, "logits"),
        ("clipped-owner", "clipped"),
    ]
    # The attacker's images, not the 45 that accuracies are measured on.
    assert [each["images"] for each in tried] == [54, 54]
    assert list(metrics["grid"]["before"]) == [victim.name, "clipped-owner"]
    gate = piracy.EXPERIMENT.tables(read(tmp_path / "run"))[-1]
    assert [row[4] for row in gate.rows] == ["0.001, 54 images"] * 2
    # The same attacker, pirate and images on another model.
    assert tried[0]["name"] == tried[1]["name"] and tried[0]["seed"] == tried[1]["seed"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--config.later.pirates=0", "config.later.pirates: 0 is out of range"),
        ("--config.strongest_pirates=0", "config.strongest_pirates: 0 is out of range"),
        ("--config.earlier.epochs=0", "config.earlier.epochs: 0 is out of range"),
        ("--config.grid.steps=0", "config.grid.steps: 0 is out of range"),
        ("--config.grid.ways=()", "config.grid.ways: is empty"),
        ("--config.later.optimizer.name=lion", "'lion' is none; take one of sgd"),
    ],
)
def test_a_config_out_of_range_is_one_line(command, capsys, tmp_path, more, said):
    assert command(tmp_path / "run", more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--config.later.images=109", "has 108 training images"),
        ("--config.test_images=46", "config.test_images: 46 is out of range"),
    ],
)
def test_more_images_than_there_are_is_one_line(command, capsys, tmp_path, more, said):
    assert command(tmp_path / "run", more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "run").exists()
