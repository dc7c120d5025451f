"""An experiment's program: its run folder, and one line for what it cannot use."""

import json
import shlex

import pytest
import tiny_victim

from nullmark_jax.errors import InputError
from nullmark_jax.experiments import experiment
from nullmark_jax.experiments.experiment import Experiment
from nullmark_jax.reports.table import Table

# ml_collections loads a config file by a method that Python will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tiny_victim.folder(tmp_path_factory)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "counting.py"
    path.write_text(
        "import ml_collections\n\n\ndef get_config(argument=None):\n"
        "    config = ml_collections.ConfigDict()\n"
        "    config.update(task='digit', seed=0, data_path='', test_images=0, paper={}, steps=3)\n"
        "    config.task = argument or config.task\n"
        "    return config\n"
    )
    return path


measured: list[str] = []  # in the last run of the program


def counting(free=False):
    """An experiment that counts test images, in as many steps as its config has."""

    def default():
        config = experiment.base()
        config.steps = 3
        return config

    def check(config):
        if config.steps < 1:
            raise InputError(f"config.steps: {config.steps} must be at least 1; give say 3")

    def measure(config, victims, journal):
        def step(victim, number):
            def made():
                measured.append(f"{victim.name}/{number}")
                return {"images": len(victim.splits.test) + number}

            return made

        planned = {f"{v.name}/{i}": step(v, i) for v in victims for i in range(config.steps)}
        return {"counts": [record["images"] for _, record in journal.run(planned)]}

    return Experiment(
        name="counting",
        title="Counting",
        lead="Images, counted.",
        default=default,
        check=check,
        measure=measure,
        tables=lambda result: [
            Table("Counts", ("images",), [[str(n)] for n in result["metrics"]["counts"]])
        ],
        draw=lambda result: {},
        captions={},
        free=free,
    )


def answer(capsys, *arguments, free=False):
    """Runs the program; returns its status, what it printed and stderr's lines."""
    measured.clear()
    status = experiment.main(counting(free), ["counting", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err.splitlines()


def test_a_run(capsys, config_file, trained, tmp_path):
    workdir = tmp_path / "new" / "run"
    arguments = [f"--config={config_file}", f"--victim={trained}", f"--workdir={workdir}"]
    status, out, _ = answer(capsys, *arguments)
    assert status == 0 and len(measured) == 3
    assert "**Counts**\n\n| images |\n|---|\n| 45 |\n| 46 |\n| 47 |\n\n" in out
    assert out.endswith(f"the run is in {workdir}; open its report.html\n")
    assert sorted(entry.name for entry in workdir.iterdir() if entry.name != ".lock") == [
        "config.json",
        "records.jsonl",
        "report.html",
        "result.json",
    ]
    result = json.loads((workdir / "result.json").read_text())
    assert list(result) == [
        "experiment",
        "task",
        "seed",
        "metrics",
        "paper",
        "environment",
        "seconds",
    ]
    assert (result["experiment"], result["task"], result["seed"]) == ("counting", "digit", 0)
    assert result["metrics"]["counts"] == [45, 46, 47]
    # The command line as given, not that of the process that it runs in.
    command = shlex.split(result["environment"]["command"])
    assert command == ["python", "-m", "nullmark_jax.experiments.counting", *arguments]
    (victim,) = result["metrics"]["victims"]
    assert victim["name"] == trained.name and victim["seed"] == 0
    stated = json.loads((workdir / "config.json").read_text())
    assert stated["victims"] == [
        {"name": trained.name, "model_sha256": victim["model_sha256"]},
    ]
    assert stated["experiment"] == "counting" and stated["steps"] == 3
    # Again: nothing is measured anew.
    records = (workdir / "records.jsonl").read_bytes()
    status, again, _ = answer(capsys, *arguments)
    assert status == 0 and measured == [] and again == out
    assert (workdir / "records.jsonl").read_bytes() == records
    assert json.loads((workdir / "result.json").read_text())["metrics"] == result["metrics"]
    # Interrupted: the rest is measured.
    lines = (workdir / "records.jsonl").read_text().splitlines(keepends=True)
    (workdir / "records.jsonl").write_text("".join(lines[:2]))
    status, _, _ = answer(capsys, *arguments)
    assert status == 0 and measured == [f"{trained.name}/2"]
    assert json.loads((workdir / "result.json").read_text())["metrics"] == result["metrics"]


def test_a_folder_is_of_its_config_and_of_the_very_models(capsys, config_file, trained, tmp_path):
    other = tiny_victim.other(trained, tmp_path / "other")
    workdir = tmp_path / "run"
    given = [f"--config={config_file}", f"--workdir={workdir}"]
    assert answer(capsys, *given, f"--victim={trained}")[0] == 0
    before = {entry.name: entry.read_bytes() for entry in workdir.iterdir()}
    for changed in (
        [f"--victim={other}"],
        [f"--victim={trained}", f"--victim={other}"],
        [f"--victim={trained}", "--config.steps=4"],
        [f"--victim={trained}", "--config.seed=1"],
    ):
        status, out, lines = answer(capsys, *given, *changed)
        assert (status, out, measured) == (2, "", [])
        assert len(lines) == 1 and "holds the run of another config" in lines[0]
    assert {entry.name: entry.read_bytes() for entry in workdir.iterdir()} == before


def test_another_model_under_the_same_name(capsys, config_file, trained, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    other = tiny_victim.other(trained, tmp_path / "elsewhere" / trained.name)
    given = [f"--config={config_file}", f"--workdir={tmp_path / 'run'}"]
    assert answer(capsys, *given, f"--victim={trained}")[0] == 0
    status, _, lines = answer(capsys, *given, f"--victim={other}")
    assert status == 2 and "holds the run of another config" in lines[0]


def test_watermark_free_victims_by_experiment(capsys, config_file, trained, tmp_path):
    free = tiny_victim.free(trained, tmp_path / "free")
    given = [f"--config={config_file}", f"--victim={free}", f"--workdir={tmp_path / 'run'}"]
    status, _, lines = answer(capsys, *given)
    assert status == 2 and "watermark-free" in lines[0] and not (tmp_path / "run").exists()
    assert answer(capsys, *given, free=True)[0] == 0


def test_help(capsys):
    status, out, lines = answer(capsys, "--help")
    assert status == 0 and not lines
    for said in ("Counting. Images, counted.", "--victim", "--workdir", "configs/attacks/counting"):
        assert said in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--config"),
        (["--config=nowhere.py", "{victim}"], "--config: [Errno 2] No such file"),
        (["{config}"], "--victim: none is given; give the run folder"),
        (["{config}", "--victim=nowhere"], "--victim: nowhere/config.json"),
        (["{config}", "{victim}", "--config.foo=1"], "--config: there is no field 'foo'"),
        (["{config}", "{victim}", "--config.steps=0"], "config.steps: 0 must be at least 1"),
        (["{config}", "{victim}", "--config.seed=-1"], "config.seed: -1 is out of range"),
        (["{config}", "{victim}", "--config.test_images=-1"], "config.test_images: -1 is out of"),
        (["{config}:chess", "{victim}"], "config.task: 'chess' is none; take one of"),
        (["{config}:traffic", "{victim}"], "is a run of the task 'digit', the attack's config is"),
        (["{config}", "{victim}", "more"], "'more': is not a flag"),
        (["{config}", "{victim}", "{victim}"], "two folders have one name"),
        (["{config}", "{victim}", "--config.data_path=gone.npz"], "gone.npz"),
        (["{config}", "{victim}", "--workdir=/proc/nowhere"], "/proc/nowhere: cannot be written"),
        (["{config}", "{victim}", "--workdir={victim_folder}"], "holds the run of another config"),
    ],
)
def test_what_it_cannot_use_is_one_line_and_leaves_nothing_behind(
    capsys, config_file, trained, tmp_path, monkeypatch, arguments, said
):
    monkeypatch.chdir(tmp_path)
    before = sorted(trained.rglob("*"))
    names = {
        "config": f"--config={config_file}",
        "victim": f"--victim={trained}",
        "victim_folder": trained,
    }
    status, out, lines = answer(capsys, *(each.format(**names) for each in arguments))
    assert (status, out, measured) == (2, "", [])
    assert len(lines) == 1 and said in lines[0]
    assert list(tmp_path.iterdir()) == []
    assert sorted(trained.rglob("*")) == before


def test_a_config_that_lacks_a_field(trained, tmp_path):
    config = counting().default()
    config.task = "digit"
    del config.steps
    with pytest.raises(InputError, match=r"^config\.steps: is missing"):
        experiment.run(counting(), config, [str(trained)], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damaged_records_are_one_line(capsys, config_file, trained, tmp_path):
    workdir = tmp_path / "run"
    given = [f"--config={config_file}", f"--victim={trained}", f"--workdir={workdir}"]
    assert answer(capsys, *given)[0] == 0
    (workdir / "records.jsonl").write_text('{"name": "x"')
    status, _, lines = answer(capsys, *given)
    assert (status, measured, len(lines)) == (2, [], 1)
    assert lines[0].endswith(
        "records.jsonl: was damaged or is of another version; delete it to measure all again"
    )
    (workdir / "records.jsonl").unlink()
    assert answer(capsys, *given)[0] == 0 and len(measured) == 3
