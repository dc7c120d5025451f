"""What a section says that its command set otherwise than the experiment's config, and of other data."""

import pathlib

import pytest

from nullmark_jax.errors import InputError
from nullmark_jax.reports import overrides

ROOT = pathlib.Path(__file__).parents[1]


def said(name, *flags):
    command = f"python -m nullmark_jax.experiments.{name} --config=configs/attacks/{name} "
    return overrides.sentences({"environment": {"command": command + " ".join(flags)}}, ROOT)


def test_a_command_that_sets_nothing_has_nothing_said_of_it():
    assert said("pruning.py:digit", "--victim=runs/a", "--workdir=runs/b") == []


def test_what_it_sets_is_told_with_what_the_config_has_in_brackets():
    flags = [
        "--config.later.epochs=4",
        """'--config.ways=('"'"'FTAL'"'"',)'""",
        "'--config.learning_rates=(1e-4,1e-3)'",
        "--config.grid_epochs=10",  # As the config has it.
        "--config.test_images=1000",  # Is told with the accuracies.
        "--config.owners=3",  # Of an earlier version.
    ]
    assert said("fine_tuning.py:traffic", *flags) == [
        "Its command has otherwise than today's config, which is in brackets: `later.epochs` 4 (100); "
        "`learning_rates` 0.0001, 0.001 (1e-05, 0.0001, 0.001, 0.002); `owners` 3; `ways` FTAL (FTAL, FTLL, "
        "RTAL, RTLL)."
    ]


def test_an_empty_list_is_none_and_one_of_phrases_is_told_apart():
    (sentence,) = said("functionality.py:object", "'--config.extreme_values=()'")
    assert "`extreme_values` none (2, 10, 100, 1000, 10000)." in sentence
    (sentence,) = said("neural_cleanse.py:digit", """'--config.modes=("bounded",)'""")
    assert "`modes` bounded (bounded | unbounded | bounded, whole pixels | unbounded," in sentence


@pytest.mark.parametrize(
    ("task", "flags", "of"),
    [
        ("digit", [], "scikit-learn's digits, 2 neighbouring classes as one"),
        ("traffic", ["--config.student.source=npz", "--config.student.path=data/lisa.npz"], "lisa"),
        ("object", [], "cifar10, 2 neighbouring classes as one"),
    ],
)
def test_the_students_images_are_named(task, flags, of):
    assert said(f"transfer.py:{task}", *flags) == [f"The students' images are of {of}."]


def test_images_from_elsewhere_are_named():
    (sentence,) = said("extraction.py:digit", "--config.ood_path=data/ood.npz,data/lfw.npz")
    assert sentence.startswith("The images from elsewhere are ood and lfw (")


def test_what_config_json_holds_is_told_against_todays_config():
    command = "python -m x --config=configs/attacks/fragility.py:face --config.epochs=2"
    kept = {
        "experiment": "fragility",
        "victims": [{"name": "face-wm-0"}],
        "paper": {},
        "seed": 1,
        "task": "face",
        "epochs": 2,
        "batch_size": 32,
        "prunings": [["weights", "ascending", 0.5]],
        "search": {"rounds": 3},
    }
    (sentence,) = overrides.sentences({"environment": {"command": command}}, ROOT, kept)
    assert "`epochs` 2 (10); " in sentence
    assert "; `extreme_values` was not there (10, 100, 300, 1000); " in sentence
    assert "`prunings` weights, ascending, 0.5 (neurons, ascending, 0.01 | neurons, " in sentence
    assert sentence.endswith("; `search.rounds` 3.")
    assert not any(name in sentence for name in ("batch_size", "victims", "`seed`", "`task`"))


@pytest.mark.parametrize(
    "given",
    [
        "--config configs/attacks/false_positives.py:digit --config.tries 9",
        "-config=configs/attacks/false_positives.py:digit --config.tries=9 --config.seed=3",
        "--config.tries=5 --config.tries=9 --config=configs/attacks/false_positives.py:digit",
    ],
)
def test_flags_are_read_as_absl_reads_them(given):
    result = {"environment": {"command": f"python -m x {given}"}}
    (sentence,) = overrides.sentences(result, ROOT)
    assert sentence.endswith(": `tries` 9 (10000).")


def test_a_list_without_quotes_is_one():
    (sentence,) = said("fine_tuning.py:digit", "--config.ways=('FTAL',)")  # As no shell takes it.
    assert "`ways` FTAL (FTAL, FTLL, RTAL, RTLL)." in sentence


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--victim=a", r"--victim=a: names no --config; run the experiment again, with one$"),
        ("--config=configs/attacks/gone.py:digit", r"gone\.py: is no config file"),
    ],
)
def test_a_command_whose_config_cannot_be_had_is_one_line(given, says):
    with pytest.raises(InputError, match=says):
        overrides.sentences({"environment": {"command": f"python -m x {given}"}}, ROOT)
