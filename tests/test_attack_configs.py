"""The config files of the attacks: every task and its smoke run, loaded as the programs load them."""

import pathlib

import pytest
from absl import flags

from nullmark_jax import config as configs
from nullmark_jax import program
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.catalogue import EXPERIMENTS

FOLDER = pathlib.Path(__file__).parents[1] / "configs" / "attacks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
# ml_collections loads a config file by a method that Python will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def load(name, argument):
    """Returns the config of a command line with FILE.py:ARGUMENT."""
    argv = ["attack", f"--config={FOLDER / name}.py{argument}"]
    flag_values = flags.FlagValues()
    program.define_config(flag_values, argv, "")
    program.parse(flag_values, argv)
    return flag_values.config


def test_every_experiment_has_one():
    assert sorted(EXPERIMENTS) == NAMES


@pytest.mark.parametrize("smoke", ["", ",smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_every_task_passes_the_experiment_s_checks(name, smoke):
    experiment = EXPERIMENTS[name]
    for task in configs.TASKS:
        config = load(name, f":{task}{smoke}")
        assert config.task == task
        configs.check_fields(config, experiment.default(), "config")
        experiment.check(config)


@pytest.mark.parametrize("argument", ["", ":chess", ":digit,fast", ":smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_no_such_task(name, argument):
    with pytest.raises(InputError) as error:
        load(name, argument)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("--config: ") and "is no task of an attack" in message
    assert ", ".join(configs.TASKS) in message


def test_a_smoke_run_is_smaller():
    assert load("piracy", ":digit,smoke").grid.steps < load("piracy", ":digit").grid.steps
    small, whole = load("false_positives", ":digit,smoke"), load("false_positives", ":digit")
    assert small.tries < whole.tries and small.watermarks < whole.watermarks


@pytest.mark.parametrize(
    ("argument", "ratio", "epochs"),
    [
        (":digit,adi", 0.28125, 10),
        (":traffic,adi", 0.0625, 25),
        (":face,adi", 0.0625, 1),
        (":object,adi", 0.0625, 10),
        (":digit,zhang", 0.1, 10),
        (":traffic,zhang", 0.1, 10),
        (":quickstart,smoke,adi", 0.28125, 2),
    ],
)
def test_piracy_of_earlier_designs_is_table_9_and_appendix_a_2(argument, ratio, epochs):
    config = load("piracy", argument)
    assert (config.later.inject_ratio, config.later.epochs) == (ratio, epochs)
    assert "adam-raised" not in config.grid.ways and "pirate_null" not in config.paper
    configs.check_fields(config, EXPERIMENTS["piracy"].default(), "config")
    EXPERIMENTS["piracy"].check(config)
