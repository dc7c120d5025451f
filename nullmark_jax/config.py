"""Every field of a task's config, with its default, its meaning and its check.

`configs/TASK.py` starts from `default()` and says what the task changes, so that a field stands in
one place. Numbers under `watermark` and `data.input_shape`, `data.num_classes` are the task's
protocol: the authority takes them from here, never from a claim.
"""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from nullmark_jax import checks, models, rounding, transform
from nullmark_jax.baselines import schemes
from nullmark_jax.errors import InputError
from nullmark_jax.losses import cross_entropy
from nullmark_jax.optimizers import Recipe, check_recipe

TASKS = ("quickstart", "digit", "face", "traffic", "object")
PRECISIONS = ("highest", "high", "default", *rounding.MANTISSA)
SOURCES = ("digits", "npz", "tfds")
# What the names of the earlier paper's figures begin with in `config.paper`.
_EARLIER = "earlier_"


def default() -> ml_collections.ConfigDict:
    """Returns the defaults; a task must still set `task`, `model`, `data` and `epochs`."""
    config = ml_collections.ConfigDict()
    config.task = ""
    # Of the initial parameters, the validation split, the order and every random choice.
    config.seed = 0
    # Of convolutions and products, as in jax.lax.Precision: "highest" is float32 everywhere; "high"
    # and "default" allow TF32 on GPUs and bfloat16 passes on TPUs. "tf32" and "bfloat16" round as these do on
    # any machine, CPUs too, to see what comes of it (`rounding`).
    config.precision = "highest"
    config.model = ""
    config.epochs = 0
    # The model.safetensors of a finished run to go on from, as an owner who marks a model afterwards; it
    # stays there until the run has ended. "" starts from random parameters.
    config.initial_model = ""
    # Clean images a step, over all devices; marked copies come on top.
    config.batch_size = 128

    config.data = ml_collections.ConfigDict()
    config.data.source = "tfds"  # "digits" (bundled), "npz" (your own) or "tfds"
    config.data.name = ""  # the TFDS builder
    config.data.path = ""  # the .npz file, or TFDS's data_dir ("" for its default)
    config.data.manual_dir = ""  # downloaded archives, for TFDS builders
    config.data.input_shape = (0, 0, 0)  # H, W, C
    config.data.num_classes = 0  # Y
    # Of train, stratified, held out for the curves and for every choice of a recipe.
    config.data.validation_fraction = 0.05

    config.watermark = ml_collections.ConfigDict()
    # "null-embedding" or "wonder-filter"; or an earlier design's triggers: "adi", "zhang-content",
    # "zhang-unrelated", "zhang-noise", of which pattern size and extreme value say nothing.
    config.watermark.scheme = "null-embedding"
    # Of "adi": the owner's own images, an .npz or a folder of pictures; "" for abstract art.
    config.watermark.trigger_images = ""
    # Indices 0..K-1 of one signature; 0 trains the watermark-free twin.
    config.watermark.num_watermarks = 1
    config.watermark.pattern_size = 6  # n
    config.watermark.extreme_value = 2000.0  # lambda
    config.watermark.threshold = 0.8  # T_watermark

    config.owner = ml_collections.ConfigDict()
    config.owner.name = "owner"
    config.owner.timestamp = ""  # RFC 3339, UTC, to the second; "" for now, or as min_free has it
    # Where there is no timestamp: that or, as min_free has it, a second before; "" for now. What is to
    # come out the same another day names one.
    config.owner.latest_timestamp = ""
    config.owner.key_file = ""  # "" makes owner.key in the run folder
    config.owner.passphrase_file = ""
    # At least 0: sign with the *public* experiment key of this number, so that anyone can repeat
    # the run bit for bit. Proves nothing about an owner.
    config.owner.experiment_key = -1
    # Of the last block's features (`models.free_share`), what each of the owner's patterns must leave
    # free: near the middle of the image null embedding is learned badly, or not at all. The owner
    # signs at a time whose patterns do; 0 takes any.
    config.owner.min_free = 0.0

    config.loss = ml_collections.ConfigDict()
    config.loss.cross_entropy = "logits"  # or "clipped", Keras's clip of the softmax at 1e-7
    config.loss.true_weight = 1.0  # alpha
    config.loss.null_weight = 1.0  # beta
    config.loss.inject_ratio = 0.5  # k = round(ratio * batch) images get a null and a true copy

    # Train the second convolution in the null space of what patterns leave in the first one's
    # features (`nullmark_jax.nullspace`), so that null embedding holds wherever the pattern lies;
    # it is fragile then, and the weights show the pattern (docs/threat_model.md, sections 4 and 10).
    config.null_space = False

    # Train every kernel but the last layer's standardised (`nullmark_jax.standardization`): nets
    # without a normalisation layer then learn in fewer epochs. The written model is plain.
    config.weight_standardization = False

    config.optimizer = ml_collections.ConfigDict(Recipe("adam", 2e-3)._asdict())

    # The extreme value rises geometrically from start, at least 1, to lambda over the first `epochs`
    # epochs.
    config.curriculum = ml_collections.ConfigDict()
    config.curriculum.start = 1.0
    config.curriculum.epochs = 0.0

    config.augmentation = ml_collections.ConfigDict()
    config.augmentation.shift = 0  # pixels, each way
    config.augmentation.flip = False

    # Steps in one call of the device; 0 chooses: 1 on a CPU, 50 on an accelerator.
    config.steps_per_dispatch = 0
    # A larger training set stays on the host, which then feeds the device; so does one of which several
    # processes read their shares from an .npz.
    config.resident_bytes = 4 * 2**30

    # What the papers print for this task, as fractions, for the tables beside ours: null embedding's, and
    # after "earlier_" wonder filters'.
    config.paper = ml_collections.ConfigDict()
    return config


def printed(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Returns what the scheme's own paper prints for the task, as fractions; {} of triggers.

    Of null embedding that is `normal_accuracy`, `null_accuracy` and `true_accuracy` (later paper, Table 4),
    of wonder filters `normal_accuracy`, `true_accuracy` and `null_agreement` (earlier paper, Table III), of
    both the watermark-free model's `free_normal_accuracy`; those that the config lacks are missing.
    """
    return printed_of(config.watermark.scheme, config.paper.to_dict())


def printed_of(scheme: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Returns the same of a scheme and of what `config.paper` holds."""
    if scheme in schemes.SCHEMES:
        return {}
    earlier = {name: value for name, value in figures.items() if name.startswith(_EARLIER)}
    if scheme == "wonder-filter":
        return {name.removeprefix(_EARLIER): value for name, value in earlier.items()}
    return {name: value for name, value in figures.items() if name not in earlier}


def with_defaults(fields: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the config of some fields, as config.json holds them, with defaults for those missing."""

    def filled(given: Mapping[str, Any], known: ml_collections.ConfigDict) -> dict[str, Any]:
        made = dict(given)
        for name, value in known.items():
            if isinstance(value, ml_collections.ConfigDict) and isinstance(given.get(name), dict):
                made[name] = filled(given[name], value)
            else:
                made.setdefault(name, value)
        return made

    return ml_collections.ConfigDict(filled(fields, default()))


# What a member of a population may have of its own: data of the compiled training step, or nothing to it.
_OF_A_MEMBER = (
    "seed",
    "initial_model",
    "owner",
    "watermark.scheme",
    "watermark.extreme_value",
    "watermark.threshold",
    "paper",
)


def training_program(config: ml_collections.ConfigDict) -> str | None:
    """Returns a text that is the same of configs whose trainings are one program on one data set.

    Such trainings can be a population's members: they differ at most in seed, owner, extreme value,
    threshold, the model they go on from, and in which of the two papers' schemes they have. All else sets
    shapes (batch and pattern sizes, numbers of watermarks, the validation split's size) or is compiled into
    the step (the optimiser's and the loss's numbers).

    None for a run that is trained alone in any case: one of earlier schemes' triggers, whose sets differ in
    shape and are evaluated otherwise, or one that sets steps_per_dispatch, which a population chooses itself.
    """
    if config.watermark.scheme in schemes.SCHEMES or config.steps_per_dispatch:
        return None
    rest = config.to_dict()
    for dotted in _OF_A_MEMBER:
        *outer, name = dotted.split(".")
        fields = rest
        for each in outer:
            fields = fields[each]
        del fields[name]
    return json.dumps(rest, sort_keys=True, default=list)


def recipe(config: ml_collections.ConfigDict) -> Recipe:
    """Returns `config.optimizer` as a `Recipe`."""
    return Recipe(**config.optimizer.to_dict())


def choose(argument: str | None, recipes: tuple[str, ...] = ("paper",)) -> str:
    """Returns a config file's string argument, "" for none; InputError for an unknown one."""
    if argument and argument not in recipes:
        raise InputError(
            f"--config: {checks.shown(argument)} is no recipe of this task; "
            f"take {' or '.join(['none', *(f':{recipe}' for recipe in recipes)])}"
        )
    return argument or ""


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a field is missing, unknown, of a wrong type or out of range."""
    check_fields(config, default(), "config")
    one_of = {
        "task": (config.task, TASKS),
        "model": (config.model, tuple(models.MODELS)),
        "precision": (config.precision, PRECISIONS),
        "data.source": (config.data.source, SOURCES),
        "watermark.scheme": (config.watermark.scheme, (*transform.SCHEMES, *schemes.SCHEMES)),
    }
    for field, (value, known) in one_of.items():
        if value not in known:
            raise InputError(
                f"config.{field}: {checks.shown(value)} is none; take one of {', '.join(known)}"
            )
    cross_entropy(config.loss.cross_entropy)
    check_recipe(recipe(config))
    shape = config.data.input_shape
    if not isinstance(shape, tuple | list) or len(shape) != 3:
        raise InputError(
            f"config.data.input_shape: {checks.shown(shape)} is no image's; "
            "give (height, width, channels)"
        )
    for side, low in zip(shape, (2, 2, 1), strict=True):
        checks.integer("config.data.input_shape", side, low, transform.MAX_SIDE)
    for field, low, high in (
        ("seed", 0, 2**32 - 1),
        ("epochs", 1, 10**6),
        ("batch_size", 1, 10**6),
        ("steps_per_dispatch", 0, 10**6),
        ("resident_bytes", 0, 2**63 - 1),
        ("data.num_classes", 2, 2**31 - 1),
        ("watermark.num_watermarks", 0, 1000),
        ("augmentation.shift", 0, min(shape[:2]) - 1),
        ("owner.experiment_key", -1, 2**63 - 1),
    ):
        checks.integer(f"config.{field}", config[field], low, high)
    for field, bottom, top in (
        ("loss.inject_ratio", 0.0, 1.0),
        ("loss.true_weight", 0.0, 1e6),
        ("loss.null_weight", 0.0, 1e6),
        ("watermark.threshold", 1e-6, 1.0),
        ("owner.min_free", 0.0, 1.0),
        ("data.validation_fraction", 0.0, 0.5),
        ("curriculum.start", 1.0, 1e9),
        ("curriculum.epochs", 0.0, float(config.epochs)),
        *((f"paper.{name}", 0.0, 1.0) for name in config.paper),
    ):
        value = checks.real(f"config.{field}", config[field])
        if not bottom <= value <= top:
            raise InputError(
                f"config.{field}: {value} is out of range; take one in [{bottom}, {top}]"
            )
    triggers = config.watermark.scheme in schemes.SCHEMES
    if triggers and config.watermark.num_watermarks > 1:
        raise InputError(
            f"config.watermark.num_watermarks: {config.watermark.num_watermarks} is too many for "
            f"{config.watermark.scheme}; give 1, or 0 for a watermark-free model"
        )
    if triggers and config.null_space:
        raise InputError(
            f"config.null_space: True is nothing for {config.watermark.scheme}; give False"
        )
    try:
        transform.check_geometry(
            scheme="null-embedding" if triggers else config.watermark.scheme,
            height=shape[0],
            width=shape[1],
            num_classes=config.data.num_classes,
            pattern_size=config.watermark.pattern_size,
        )
        transform.check_extreme_value(config.watermark.extreme_value)
    except InputError as error:
        raise InputError(f"config.watermark.{error}") from error
    models.parameter_shapes(config.model, tuple(shape), config.data.num_classes)


def check_fields(
    config: ml_collections.ConfigDict, known: ml_collections.ConfigDict, name: str
) -> None:
    """Raises InputError unless `config` has just the fields of `known`, texts and bools of their type.

    `name` stands before each field's in the message. Fields named `paper` hold what they like.
    """
    for field in config:
        if field not in known:
            raise InputError(f"{name}.{field}: is no field; take one of {', '.join(sorted(known))}")
    for field in known:
        if field not in config:
            raise InputError(
                f"{name}.{field}: is missing; start from nullmark_jax.config.default()"
            )
        value, default_value = config[field], known[field]
        holds_fields = isinstance(default_value, ml_collections.ConfigDict)
        if holds_fields != isinstance(value, ml_collections.ConfigDict):
            kind = "fields" if holds_fields else "a value, not fields"
            raise InputError(f"{name}.{field}: must hold {kind}; see nullmark_jax/config.py")
        if holds_fields and field != "paper":  # Whose fields differ from task to task.
            check_fields(value, default_value, f"{name}.{field}")
        elif isinstance(default_value, str):
            checks.text(f"{name}.{field}", value)
        elif isinstance(default_value, bool) and not isinstance(value, bool):
            raise InputError(
                f"{name}.{field}: {checks.shown(value)} is no bool; give True or False"
            )
