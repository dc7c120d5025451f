"""Transfer: a student's new last layer, what is kept of a run, and what the tables say of several starts."""

import json
import pathlib
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny_victim

from configs import digit, face, traffic
from configs.attacks import transfer as attack_configs
from nullmark_jax import models
from nullmark_jax.attacks import transfer
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import experiment, transfer_tables
from nullmark_jax.experiments import transfer as transfer_experiment
from nullmark_jax.experiments.measuring import derived_seed

ROOT = pathlib.Path(__file__).parents[1]
SHAPE = (16, 16, 1)
TASKS = {
    "digit": digit.get_config(),
    "face": face.get_config("lfw"),
    "traffic": traffic.get_config(),
}
TEACHER, STUDENT = models.create("digit", 3), models.create("digit", 5)

ignoring_ml_collections = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def recovered(true, null=0.9):
    marks = {"null": null, "true": true, "agreement": null, "wm": min(null, true)}
    return {"normal_accuracy": 0.95, "owner": marks, "foreign": marks | {"true": 0.0}}


def part(*by_start):
    """One model's part: what each start's recovery has of true; the last begins with zeros."""
    records = [recovered(true) for true in by_start]
    names = [*(f"draw {i}" for i in range(1, len(by_start))), "zeros"]
    starts = [
        {
            "start": name,
            "models": [record],
            "verified": int(record["owner"]["wm"] >= 0.8),
            "foreign_verified": 0,
        }
        for name, record in zip(names, records, strict=True)
    ]
    first = {"student": 0.8, "recovered": records[0], "curve": [{"steps": 0, **records[0]}]}
    return {
        "models": [first],
        "verified": starts[0]["verified"],
        "foreign_verified": 0,
        "starts": starts,
    }


def result(*ways):
    names = ("last layer", "all layers")
    empty = {"models": [], "verified": 0, "foreign_verified": 0}
    metrics = {
        "threshold": 0.8,
        "epochs": 200,
        "recovery_epochs": 6,
        "student_images": 340,
        "optimizer": "sgd at 0.01",
        "ways": [
            {"way": name, "watermarked": marked, "free": free or empty}
            for name, (marked, free) in zip(names, ways, strict=False)
        ],
    }
    return {"metrics": metrics, "paper": {}}


@pytest.fixture(scope="module")
def params():
    return models.init_params(TEACHER, jax.random.key(1), SHAPE)


def test_a_new_last_layer_is_of_its_seed_and_the_model_s_classes_and_the_rest_is_left(params):
    student = transfer.with_new_last_layer(params, STUDENT, seed=4, input_shape=SHAPE)
    again = transfer.with_new_last_layer(params, STUDENT, seed=4, input_shape=SHAPE)
    other = transfer.with_new_last_layer(params, STUDENT, seed=5, input_shape=SHAPE)
    last = student["fc_2"]
    assert last["kernel"].shape[1] == 5 and not np.any(last["bias"])
    # Glorot's uniform draw lies within sqrt(6 / (fan in + fan out)), and nearly fills it.
    rows, columns = last["kernel"].shape
    limit = np.sqrt(6 / (rows + columns))
    assert 0.95 * limit < np.abs(last["kernel"]).max() <= limit
    np.testing.assert_array_equal(last["kernel"], again["fc_2"]["kernel"])
    assert np.any(np.asarray(last["kernel"]) != np.asarray(other["fc_2"]["kernel"]))
    for name in set(params) - {"fc_2"}:
        jax.tree.map(np.testing.assert_array_equal, student[name], params[name])


def test_without_a_seed_the_new_last_layer_is_of_zeros(params):
    student = transfer.with_new_last_layer(params, STUDENT, seed=None, input_shape=SHAPE)
    assert student["fc_2"]["kernel"].shape == (params["fc_2"]["kernel"].shape[0], 5)
    assert not np.any(student["fc_2"]["kernel"]) and not np.any(student["fc_2"]["bias"])
    assert student["fc_2"]["kernel"].dtype == np.float32


def run(tmp_path_factory, workdir, *more):
    victim = tiny_victim.folder(tmp_path_factory)
    argv = [
        f"--config={ROOT}/configs/attacks/transfer.py:digit",
        f"--victim={victim}",
        f"--workdir={workdir}",
        "--config.student.source=npz",
        f"--config.student.path={victim.parent}/tiny-victim-data/tiny.npz",
        "--config.student.num_classes=3",
        "--config.student.merge=1",
        "--config.ways=('last layer',)",
        "--config.batch_size=16",
        "--config.epochs=2",
        "--config.recovery_epochs=2",
        *more,
    ]
    return experiment.main(transfer_experiment.EXPERIMENT, ["transfer", *argv])


@ignoring_ml_collections
def test_a_run_that_goes_on_reads_its_student_and_refuses_one_that_was_damaged(
    tmp_path_factory, tmp_path, capsys
):
    out = tmp_path / "out"
    assert run(tmp_path_factory, out, "--config.draws=2") == 0
    made = json.loads((out / "result.json").read_text())["metrics"]
    (way,) = made["ways"]
    (first, second, zeros) = way["watermarked"]["starts"]
    assert [each["start"] for each in (first, second, zeros)] == ["draw 1", "draw 2", "zeros"]
    assert first["models"] == [way["watermarked"]["models"][0]["recovered"]]
    # The loss of the last step alone tells the starts apart, whatever they come to.
    assert len({each["models"][0]["loss"] for each in (first, second, zeros)}) == 3

    lines = (out / "records.jsonl").read_text().splitlines(keepends=True)
    (kept,) = (out / "students").iterdir()
    assert len(lines) == 3 and kept.name == "last_layer-tiny-victim.safetensors"
    student = kept.read_bytes()

    def interrupted():
        (out / "records.jsonl").write_text("".join(lines[:1]))
        (out / "result.json").unlink(missing_ok=True)

    interrupted()
    assert run(tmp_path_factory, out, "--config.draws=2") == 0
    assert json.loads((out / "result.json").read_text())["metrics"] == made
    interrupted()
    kept.unlink()  # Taught again.
    assert run(tmp_path_factory, out, "--config.draws=2") == 0
    assert json.loads((out / "result.json").read_text())["metrics"] == made
    assert kept.read_bytes() == student
    interrupted()
    kept.write_bytes(student[:-4])
    capsys.readouterr()
    assert run(tmp_path_factory, out, "--config.draws=2") == 2
    assert str(kept) in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (out / "result.json").exists()


@ignoring_ml_collections
def test_draws_out_of_range_are_one_line(tmp_path_factory, tmp_path, capsys):
    assert run(tmp_path_factory, tmp_path / "out", "--config.draws=0") == 2
    assert "config.draws: 0" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_each_draw_is_another_and_the_first_what_it_was_alone():
    seeds = [transfer_experiment.seed_of(f"draw {i}", 7) for i in range(1, 5)]
    assert seeds[0] == derived_seed(7, "recovery") and len(set(seeds)) == 4
    assert transfer_experiment.seed_of("zeros", 7) is None


def test_the_starts_table_counts_draws_and_zeros_apart():
    made = result((part(1.0, 0.0, 0.5, 1.0), part(0.0, 0.25, 0.0, 0.0)))
    first, starts = transfer_tables.tables(made)
    assert first.rows[0][-3:] == ["100.00", "1 of 1", "0 of 1"]
    marked, free = starts.rows
    draws, zeros = "50.00 (0.00 to 100.00)", "100.00"
    assert marked[:5] == ["last layer, watermarked teacher", "90.00", draws, "1 of 3", "0 of 3"]
    assert marked[5:] == ["90.00", zeros, "1 of 1", "0 of 1"]
    assert free[2:4] == ["8.33 (0.00 to 25.00)", "0 of 3"] and free[-2:] == ["0 of 1", "0 of 1"]


def test_a_result_of_one_draw_has_neither_a_starts_table_nor_its_figure():
    old = result((part(1.0, 1.0), None))
    del old["metrics"]["ways"][0]["watermarked"]["starts"]
    assert len(transfer_tables.tables(old)) == 1
    assert set(transfer_tables.draw(old)) == {"transfer-watermarked"}
    (finding,) = transfer_tables.verdict(old)
    assert finding.agrees is True
    assert finding.text.endswith("from 1 of 1 student of 1 teacher.")
    new = result((part(1.0, 1.0), part(0.0, 0.0)))
    assert set(transfer_tables.draw(new)) == {
        f"transfer-{x}" for x in ("watermarked", "free", "starts")
    }


@pytest.mark.parametrize(("draws", "agrees"), [((1.0, 1.0, 0.0), True), ((1.0, 0.0, 1.0), False)])
def test_the_paper_s_claim_is_of_draws_and_every_one_of_them(draws, agrees):
    """The last of each is the start with zeros, which the paper has not."""
    made = result((part(*draws), part(0.0, 0.0, 0.0)), (part(*draws), part(0.0, 1.0, 0.0)))
    (finding,) = transfer_tables.verdict(made)
    assert finding.agrees is agrees
    k = 2 * (1 + agrees)
    zeros = 0 if agrees else 2
    assert finding.text.endswith(
        f"from 2 students of 1 teacher in {k} of 4 recoveries, whose new last layers begin with 2 draws "
        f"(with zeros: {zeros} of 2), and of watermark-free ones in 1 of 4 (0 of 2)."
    )


def test_triggers_have_no_null_to_draw():
    marked = part(1.0, 0.0)
    for start in marked["starts"]:
        start["models"][0]["owner"]["null"] = None
    (figure,) = (transfer_tables.draw(result((marked, None)))["transfer-starts"],)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [name for name in names if re.match("null", name)] == []
    assert "true, draws" in names and "true, zeros" in names


def config_of(task, folder):
    """A task's transfer config, and a victim's config beside it."""
    config = attack_configs.get_config(task)
    config.student.manual_dir = str(folder)
    return config, SimpleNamespace(config=TASKS[task])


@pytest.mark.parametrize(
    ("task", "fields", "says"),
    [
        # Neither has its student's images here.
        ("face", {}, r"^config\.student\.path='': source 'npz' needs --config\.student\.path=FILE"),
        (
            "traffic",
            {},
            r"not found in config\.student\.manual_dir='.*--config\.student\.manual_dir=",
        ),
        (
            "digit",
            {"num_classes": 3},
            r"^config\.student\.source='digits'.*student\.num_classes=3: ",
        ),
    ],
)
def test_a_student_without_images_is_refused_by_the_experiment_s_own_argument(
    task, fields, says, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    config, victim = config_of(task, tmp_path)
    config.student.update(fields)
    transfer_experiment.check(config)
    with pytest.raises(InputError, match=says) as error:
        transfer_experiment.load_student(config, victim)
    assert "config.data" not in str(error.value) and "\n" not in str(error.value)
