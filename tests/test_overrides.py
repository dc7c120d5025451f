"""What a section says that its command set otherwise than the experiment's config, and of other data."""

import pathlib

import pytest

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
        "--config.grid_epochs=20",  # As the config has it.
        "--config.test_images=1000",  # Is told with the accuracies.
        "--config.owners=3",  # Of an earlier version.
    ]
    assert said("fine_tuning.py:traffic", *flags) == [
        "Otherwise than its config, whose values are in brackets: `later.epochs` 4 (100); `ways` FTAL (FTAL, "
        "FTLL, RTAL, RTLL); `learning_rates` 0.0001, 0.001 (1e-05, 0.0001, 0.001, 0.002); `owners` 3."
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
    assert sentence.endswith(
        "`epochs` 2 (10); `prunings` weights, ascending, 0.5 (neurons, ascending, 0.01 | neurons, "
        "descending, 0.02 | weights, ascending, 0.15); `search.rounds` 3."
    )
