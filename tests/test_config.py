"""The config files against the papers, and every way a config can be wrong as one clear line."""

import importlib.util
import math
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest
from absl import flags

from nullmark_jax import config as configs
from nullmark_jax import optimizers, program
from nullmark_jax.errors import InputError

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
TASKS = ("digit", "face", "traffic", "object")

# Later paper, Table 14: lr, decay, optimizer, batch_size, epochs, inject_ratio.
TABLE_14 = {
    "digit": (0.001, 0.0, "sgd", 128, 300, 0.5),
    "face": (0.001, 1e-7, "adam", 128, 10, 0.5),
    "traffic": (0.02, 2e-5, "sgd", 128, 120, 0.1),
    "object": (0.05, 1e-4, "sgd", 128, 500, 0.1),
}
# Later paper, Table 4: NC without a watermark, NC, null, true, in percent.
TABLE_4 = {
    "digit": (98.51, 98.51, 97.70, 100),
    "face": (99.19, 97.39, 97.22, 100),
    "traffic": (96.84, 96.10, 95.76, 100),
    "object": (85.87, 84.70, 82.87, 100),
}
# Earlier paper, Table III: NC without a watermark, NC, true, null agreement, in percent.
TABLE_III = {
    "digit": (99.24, 98.63, 100, 99.59),
    "face": (98.60, 98.74, 100, 99.48),
    "traffic": (97.10, 94.90, 100, 99.48),
}
PROTOCOL = {
    "quickstart": ("digit", (28, 28, 1), 10),
    "digit": ("digit", (28, 28, 1), 10),
    "face": ("face", (55, 47, 3), 1283),
    "traffic": ("traffic", (48, 48, 3), 43),
    "object": ("object", (32, 32, 3), 10),
}


def get_config(task: str, argument: str | None = None) -> ml_collections.ConfigDict:
    spec = importlib.util.spec_from_file_location(f"config_{task}", FOLDER / f"{task}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def changed(field: str, value: Any, task: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns a task's config with one field set, to whatever type."""
    tree = get_config(task).to_dict()
    *path, last = field.split(".")
    inner = tree
    for name in path:
        inner = inner[name]
    inner[last] = value
    return ml_collections.ConfigDict(tree)


def refusal(config: ml_collections.ConfigDict) -> str:
    with pytest.raises(InputError) as caught:
        configs.check(config)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("task", configs.TASKS)
def test_every_task_has_a_config_that_passes(task):
    config = get_config(task)
    configs.check(config)
    assert config.task == task
    assert (config.model, config.data.input_shape, config.data.num_classes) == PROTOCOL[task]


@pytest.mark.parametrize(
    ("task", "recipe"),
    [(task, "") for task in configs.TASKS] + [(task, "paper") for task in TASKS],
)
def test_the_protocols_numbers_are_the_papers(task, recipe):
    watermark = get_config(task, recipe).watermark
    assert watermark.to_dict() == {
        "scheme": "null-embedding",
        "trigger_images": "",
        "num_watermarks": 1,
        "pattern_size": 6,
        "extreme_value": 2000.0,
        "threshold": 0.8,
    }


@pytest.mark.parametrize("task", TASKS)
def test_paper_is_table_14_to_the_letter(task):
    config = get_config(task, "paper")
    configs.check(config)
    rate, decay, optimizer, batch_size, epochs, inject_ratio = TABLE_14[task]
    assert (config.batch_size, config.epochs) == (batch_size, epochs)
    assert config.loss.inject_ratio == inject_ratio
    # The optimiser's name and numbers, and nothing that the table does not name.
    assert configs.recipe(config) == optimizers.Recipe(
        optimizer, rate, "inverse-time" if decay else "constant", decay=decay
    )
    assert config.curriculum.epochs == 0
    assert not config.null_space and not config.weight_standardization and not config.owner.min_free
    assert config.augmentation.to_dict() == {"shift": 0, "flip": False}
    assert (config.loss.true_weight, config.loss.null_weight) == (1.0, 1.0)
    # All training images, and the loss that learns.
    assert config.data.validation_fraction == 0 and config.loss.cross_entropy == "logits"


@pytest.mark.parametrize("task", TASKS)
def test_papers_rate_is_keras_decay(task):
    rate, decay, *_ = TABLE_14[task]
    schedule = optimizers.learning_rate(configs.recipe(get_config(task, "paper")), 10**5)
    for step in (0, 1, 1000, 99_999):
        np.testing.assert_allclose(schedule(step), rate / (1 + decay * step), rtol=1e-6)


@pytest.mark.parametrize("task", ["digit", "traffic", "object"])
def test_papers_sgd_is_plain(task):
    recipe = configs.recipe(get_config(task, "paper"))
    optimizer = optimizers.optimizer(recipe, 1000)
    params = {"kernel": np.array([[1.0, 2.0]], np.float32)}
    gradient = {"kernel": np.array([[100.0, -300.0]], np.float32)}
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    for step in range(2):
        moved, state = update(gradient, state, params)
        rate = recipe.learning_rate / (1 + recipe.decay * step)
        np.testing.assert_allclose(moved["kernel"], -rate * gradient["kernel"], rtol=1e-6)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("recipe", ["", "paper"])
def test_the_papers_accuracies_are_table_4s(task, recipe):
    names = ("free_normal_accuracy", "normal_accuracy", "null_accuracy", "true_accuracy")
    expected = dict(zip(names, (percent / 100 for percent in TABLE_4[task]), strict=True))
    assert configs.printed(get_config(task, recipe)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_of_wonder_filters_they_are_table_iii_s(task):
    config = get_config(task)
    config.watermark.scheme = "wonder-filter"
    names = ("free_normal_accuracy", "normal_accuracy", "true_accuracy", "null_agreement")
    figures = (percent / 100 for percent in TABLE_III.get(task, ()))
    expected = dict(zip(names, figures, strict=False))
    assert configs.printed(config) == pytest.approx(expected, abs=1e-12)
    config.watermark.scheme = "adi"
    assert configs.printed(config) == {}


def test_faces_of_lfw_are_an_npz_of_158_people():
    ours, lfw = get_config("face"), get_config("face", "lfw")
    assert (ours.data.source, ours.data.num_classes) == ("tfds", 1283)
    assert (lfw.data.source, lfw.data.num_classes) == ("npz", 158)
    assert (ours.watermark.threshold, lfw.watermark.threshold) == (0.8, 0.6)
    for config in (ours, lfw):
        config.data.path = "faces.npz"
        configs.check(config)


@pytest.mark.parametrize("argument", [None, ""])
def test_no_argument_is_our_recipe(argument):
    assert get_config("digit", argument).to_dict() == get_config("digit").to_dict()
    assert configs.choose(argument) == ""


@pytest.mark.parametrize("task", configs.TASKS)
@pytest.mark.parametrize("argument", ["papr", "Paper", "paper:", "a\nb"])
def test_an_unknown_recipe_is_one_clear_line(task, argument):
    with pytest.raises(InputError) as caught:
        get_config(task, argument)
    ours = {"quickstart": "none", "face": "none or :paper or :lfw"}.get(task, "none or :paper")
    assert str(caught.value) == f"--config: {argument!r} is no recipe of this task; take {ours}"


def test_the_defaults_must_be_completed():
    assert refusal(configs.default()).startswith("config.task: '' is none; take one of quickstart,")


def test_each_default_is_its_own():
    one = configs.default()
    one.data.name = "mine"
    assert configs.default().data.name == ""


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        # Unknown and missing fields.
        ("learning_rate", 0.1, "config.learning_rate: is no field; take one of augmentation, "),
        ("data.shape", (1,), "config.data.shape: is no field; take one of input_shape, manual_dir"),
        (
            "optimizer.beta",
            0.9,
            "config.optimizer.beta: is no field; take one of b2, clip_norm, decay",
        ),
        # Wrong types.
        ("data", 3, "config.data: must hold fields; see "),
        ("paper", None, "config.paper: must hold fields; see "),
        ("task", 3, "config.task: 3 is not text; give a string"),
        ("model", ["digit"], "config.model: ['digit'] is not text; give a string"),
        ("owner.name", None, "config.owner.name: None is not text; give a string"),
        ("data.path", 5, "config.data.path: 5 is not text; give a string"),
        ("loss.cross_entropy", {"a": {"b": 1}}, "config.loss.cross_entropy: must hold a value, "),
        ("epochs", {"a": 1}, "config.epochs: must hold a value, not fields; see "),
        ("epochs", "3", "config.epochs: '3' is not an integer; give one in [1, 1000000]"),
        ("epochs", 3.0, "config.epochs: 3.0 is not an integer; give one in [1, 1000000]"),
        ("batch_size", True, "config.batch_size: True is not an integer; give one in "),
        ("seed", None, "config.seed: None is not an integer; give one in [0, 4294967295]"),
        ("augmentation.flip", 1, "config.augmentation.flip: 1 is no bool; give True or False"),
        ("loss.inject_ratio", "0.5", "config.loss.inject_ratio: '0.5' is not a number; give one"),
        ("optimizer.learning_rate", "x", "config.optimizer.learning_rate: 'x' is not a number; "),
        ("optimizer.warmup_steps", 0.5, "config.optimizer.warmup_steps: 0.5 is not an integer; "),
        ("data.input_shape", 28, "config.data.input_shape: 28 is no image's; give (height, width"),
        ("data.input_shape", "abc", "config.data.input_shape: 'abc' is no image's; give (height"),
        ("paper.null_accuracy", "high", "config.paper.null_accuracy: 'high' is not a number; "),
        # Names of nothing.
        ("task", "mnist", "config.task: 'mnist' is none; take one of quickstart, digit, face, "),
        ("model", "vgg", "config.model: 'vgg' is none; take one of digit, face, traffic, object"),
        (
            "precision",
            "fp8",
            "config.precision: 'fp8' is none; take one of highest, high, default, ",
        ),
        ("data.source", "web", "config.data.source: 'web' is none; take one of digits, npz, tfds"),
        (
            "watermark.scheme",
            "uchida",
            "config.watermark.scheme: 'uchida' is none; take one of null-embedding, wonder-filter",
        ),
        ("loss.cross_entropy", "l2", "config.loss.cross_entropy: 'l2' is none; take one of "),
        ("optimizer.name", "lion", "config.optimizer.name: 'lion' is none; take one of sgd, "),
        ("optimizer.schedule", "x", "config.optimizer.schedule: 'x' is none; take one of "),
        # Numbers out of range.
        ("watermark.extreme_value", 0.0, "config.watermark.extreme_value: 0.0 is not above the "),
        ("watermark.extreme_value", 1.0, "config.watermark.extreme_value: 1.0 is not above the "),
        ("watermark.extreme_value", -2e3, "config.watermark.extreme_value: -2000.0 is not above "),
        ("watermark.extreme_value", math.nan, "config.watermark.extreme_value: nan is not finite"),
        ("watermark.extreme_value", math.inf, "config.watermark.extreme_value: inf is not finite"),
        ("watermark.extreme_value", "x", "config.watermark.extreme_value: 'x' is not a number; "),
        (
            "watermark.pattern_size",
            28,
            "config.watermark.pattern_size: 28 leaves a 28 x 28 image no place for the block; "
            "give at most 27 for null-embedding",
        ),
        ("watermark.pattern_size", 0, "config.watermark.pattern_size: 0 is out of range; give an"),
        ("watermark.num_watermarks", -1, "config.watermark.num_watermarks: -1 is out of range; "),
        ("watermark.threshold", 1.01, "config.watermark.threshold: 1.01 is out of range; take one"),
        ("loss.inject_ratio", 1.01, "config.loss.inject_ratio: 1.01 is out of range; take one in"),
        ("loss.inject_ratio", -0.1, "config.loss.inject_ratio: -0.1 is out of range; take one in"),
        ("loss.inject_ratio", math.nan, "config.loss.inject_ratio: nan is not finite; give an"),
        ("loss.true_weight", -1.0, "config.loss.true_weight: -1.0 is out of range; take one in "),
        ("data.validation_fraction", 0.6, "config.data.validation_fraction: 0.6 is out of range; "),
        ("data.num_classes", 1, "config.data.num_classes: 1 is out of range; give an integer in "),
        ("data.input_shape", (28, 28), "config.data.input_shape: (28, 28) is no image's; give "),
        ("data.input_shape", (1, 28, 1), "config.data.input_shape: 1 is out of range; give an "),
        ("data.input_shape", (28, 28, 0), "config.data.input_shape: 0 is out of range; give an "),
        (
            "data.input_shape",
            (15, 28, 1),
            "config.data.input_shape: (15, 28, 1) is too small for the digit model; take larger ",
        ),
        ("seed", -1, "config.seed: -1 is out of range; give an integer in [0, 4294967295]"),
        ("epochs", 0, "config.epochs: 0 is out of range; give an integer in [1, 1000000]"),
        ("batch_size", 0, "config.batch_size: 0 is out of range; give an integer in [1, 1000000]"),
        ("owner.experiment_key", -2, "config.owner.experiment_key: -2 is out of range; give an "),
        ("augmentation.shift", 28, "config.augmentation.shift: 28 is out of range; give an "),
        ("owner.min_free", 1.5, "config.owner.min_free: 1.5 is out of range; take one in "),
        ("curriculum.start", 0.5, "config.curriculum.start: 0.5 is out of range; take one in "),
        ("curriculum.epochs", 21.0, "config.curriculum.epochs: 21.0 is out of range; take one in "),
        ("optimizer.learning_rate", 0.0, "config.optimizer.learning_rate: 0.0 must be above 0; "),
        ("optimizer.clip_norm", -1.0, "config.optimizer.clip_norm: -1.0 must not be negative; "),
        ("paper.null_accuracy", 97.7, "config.paper.null_accuracy: 97.7 is out of range; take "),
    ],
)
def test_a_wrong_field_is_one_clear_line(field, value, message):
    assert refusal(changed(field, value)).startswith(message)


@pytest.mark.parametrize("field", ["task", "epochs", "data", "data.path", "optimizer.decay"])
def test_a_missing_field_is_one_clear_line(field):
    tree = get_config("quickstart").to_dict()
    *path, last = field.split(".")
    inner = tree[path[0]] if path else tree
    del inner[last]
    assert refusal(ml_collections.ConfigDict(tree)) == (
        f"config.{field}: is missing; start from nullmark_jax.config.default()"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("watermark.num_watermarks", 0),
        ("watermark.num_watermarks", 4),
        ("watermark.pattern_size", 27),
        ("watermark.pattern_size", 1),
        ("watermark.extreme_value", 2000),
        ("watermark.extreme_value", 1.5),
        ("watermark.scheme", "wonder-filter"),
        ("loss.inject_ratio", 0.0),
        ("loss.inject_ratio", 1.0),
        ("data.input_shape", [28, 28, 1]),
        ("data.input_shape", (16, 16, 1)),
        ("data.validation_fraction", 0.0),
        ("curriculum.start", 1.0),
        ("curriculum.epochs", 12),
        ("seed", 2**32 - 1),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(field, value):
    configs.check(changed(field, value))


def test_recipe_is_what_config_optimizer_holds():
    config = get_config("quickstart")
    config.optimizer.weight_decay = 0.25
    assert configs.recipe(config) == optimizers.Recipe(
        name="adam",
        learning_rate=2e-3,
        schedule="cosine",
        warmup_steps=100,
        clip_norm=1.0,
        weight_decay=0.25,
    )


# ml_collections loads config files in a way that Python is giving up.
old_loader = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def parsed(task: str, *arguments: str) -> ml_collections.ConfigDict:
    """Returns the config that a program takes from a command line."""
    flag_values = flags.FlagValues()
    argv = ["program", f"--config={FOLDER / task}", *arguments]
    program.define_config(flag_values, argv, "The task's config file.")
    program.parse(flag_values, argv)
    return flag_values.config


@old_loader
def test_fields_from_the_command_line():
    config = parsed(
        "digit.py:paper",
        "--config.epochs=3",
        "--config.watermark.extreme_value=500",
        "--config.augmentation.flip=true",
        "--config.data.path=some.npz",
    )
    configs.check(config)
    assert (config.epochs, config.watermark.extreme_value) == (3, 500.0)
    assert (config.augmentation.flip, config.data.path) == (True, "some.npz")
    assert config.optimizer.name == "sgd"


@old_loader
@pytest.mark.parametrize(
    ("task", "argument", "named"),
    [
        ("digit.py", "--config.epochs=three", ["--config.epochs", "three"]),
        ("digit.py", "--config.epochs=1.5", ["--config.epochs", "1.5"]),
        ("digit.py", "--config.loss.inject_ratio=half", ["--config.loss.inject_ratio", "half"]),
        ("digit.py", "--config.augmentation.flip=maybe", ["--config.augmentation.flip", "maybe"]),
        ("digit.py", "--config.nothing=1", ["nothing"]),
        ("digit.py:letter", "--config.epochs=1", ["--config", "letter", "none or :paper"]),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(task, argument, named):
    with pytest.raises(InputError) as caught:
        parsed(task, argument)
    assert len(str(caught.value).splitlines()) == 1
    for text in named:
        assert text in str(caught.value)


@old_loader
@pytest.mark.parametrize("value", ["nan", "0", "1.0"])
def test_lambda_from_the_command_line_must_leave_the_pixel_range(value):
    config = parsed("digit.py", f"--config.watermark.extreme_value={value}")
    assert refusal(config).startswith("config.watermark.extreme_value: ")


def test_fields_of_an_earlier_version_get_defaults():
    fields = get_config("digit").to_dict()
    del fields["curriculum"], fields["watermark"]["trigger_images"]
    fields["owner"]["min_free"] = 0.125
    filled = configs.with_defaults(fields)
    configs.check(filled)
    assert filled.curriculum == configs.default().curriculum
    assert filled.watermark.trigger_images == "" and filled.owner.min_free == 0.125
    assert filled.paper == get_config("digit").paper
    # What no version knew is still refused.
    with pytest.raises(InputError, match=r"config\.nonsense: is no field"):
        configs.check(configs.with_defaults(fields | {"nonsense": 1}))
