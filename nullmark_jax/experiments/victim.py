"""The finished models that experiments attack: run folders of the main program, read again."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from nullmark_jax import checks, data, files, models, outcome, owner, signing, transform
from nullmark_jax import claim as claims
from nullmark_jax import config as configs
from nullmark_jax.baselines import schemes
from nullmark_jax.baselines.triggers import Triggers
from nullmark_jax.data import Splits
from nullmark_jax.errors import InputError
from nullmark_jax.marks import Marks
from nullmark_jax.models import ConvNet, Params

_LARGEST = 2**26


class Victim(NamedTuple):
    """A finished model, its data and its owner's watermarks.

    Attributes:
      name: of its run folder.
      config: of its run.
      model: its network.
      params: its parameters, as the model file has them.
      watermarks: the owner's 0..K-1, or an earlier scheme's triggers, a population; None of a
        watermark-free model.
      claim: the owner's, of the first of them; None likewise, and of triggers.
      splits: the task's data, divided as for the run.
      sha256: the model file's digest, hexadecimal.
    """

    name: str
    config: ml_collections.ConfigDict
    model: ConvNet
    params: Params
    watermarks: Marks | None
    claim: claims.Claim | None
    splits: Splits
    sha256: str

    @property
    def scheme(self) -> str:
        """Whose tests its watermarks are held to."""
        return self.config.watermark.scheme

    @property
    def pattern_size(self) -> int:
        """n."""
        return self.config.watermark.pattern_size

    @property
    def has_triggers(self) -> bool:
        """Whether its scheme is an earlier one, by triggers."""
        return self.scheme in schemes.SCHEMES

    @property
    def lambda_rises(self) -> bool:
        """Whether lambda rose over the first epochs of its training; triggers have none."""
        curriculum = self.config.curriculum
        return (
            self.config.watermark.num_watermarks > 0
            and not self.has_triggers
            and curriculum.epochs > 0
            and curriculum.start < self.config.watermark.extreme_value
        )

    @property
    def training_steps(self) -> int:
        """Its own training's steps, of `config.batch_size` clean images and their marked copies each."""
        return self.config.epochs * (len(self.splits.train) // self.config.batch_size)

    def foreign(self, seed: int, count: int = 1) -> Marks:
        """Returns marks of somebody else's on this task, drawn at random.

        Args:
          seed: of the draw.
          count: how many watermarks the population has; of triggers it is one owner's in any case.
        """
        height, width, _ = self.config.data.input_shape
        if self.has_triggers:
            return schemes.make(
                self.scheme,
                f"somebody else {seed}".encode(),
                shape=tuple(self.config.data.input_shape),
                num_classes=self.config.data.num_classes,
                pirate=True,
            )
        return transform.random_watermarks(
            seed,
            count,
            height=height,
            width=width,
            num_classes=self.config.data.num_classes,
            pattern_size=self.pattern_size,
            extreme_value=self.config.watermark.extreme_value,
            scheme=self.scheme,
        )


def load_victims(
    folders: list[str],
    *,
    task: str,
    data_path: str = "",
    free: bool = False,
    triggers: bool = True,
) -> list[Victim]:
    """Reads run folders.

    Args:
      folders: one or more.
      task: what all of them must be of.
      data_path: where the task's data are now; "" for where each run had them.
      free: whether watermark-free models will do, too.
      triggers: whether models of a scheme of triggers will.

    Raises:
      InputError: a folder holds no finished run, one of another task, one not verified, a damaged
        file, or a watermark-free model where that will not do; two folders hold one model, have one
        name, or are of other protocols (scheme, n, lambda, threshold, images, classes).
    """
    if not folders:
        raise InputError("--victim: none is given; give the run folder of a finished training")
    shared: dict[str, Splits] = {}
    victims = [_load(pathlib.Path(each), task, data_path, free, shared) for each in folders]
    for victim in victims:
        if victim.has_triggers and not triggers:
            raise InputError(
                f"--victim: {victim.name} is of a scheme of triggers ({victim.scheme}), to which this attack "
                "does nothing; give a model of null embedding"
            )
    _check_alike(victims)
    names = [victim.name for victim in victims]
    if len(set(names)) < len(names):
        raise InputError(
            f"--victim: {', '.join(folders)}: two folders have one name, by which results tell them "
            "apart; rename one"
        )
    digests = [victim.sha256 for victim in victims]
    if len(set(digests)) < len(digests):
        raise InputError(f"--victim: {', '.join(folders)}: two hold the same model; give each once")
    return victims


def min_free_of(victims: Sequence[Victim]) -> float:
    """Returns what pirates who choose as owners do leave free (`config.owner.min_free`); 0 of triggers.

    Raises:
      InputError: that of two victims differs, and so do their pirates.
    """
    _refuse_unlike(
        victims, lambda victim: {"config.owner.min_free": float(victim.config.owner.min_free)}
    )
    first = victims[0]
    return 0.0 if first.has_triggers else first.config.owner.min_free


def _check_alike(victims: Sequence[Victim]) -> None:
    """Raises InputError unless one authority's numbers judge all victims."""
    numbers = ("scheme", "pattern_size", "extreme_value", "threshold")

    def protocol(victim: Victim) -> dict[str, object]:
        config = victim.config
        return {
            **{f"config.watermark.{name}": config.watermark[name] for name in numbers},
            "config.data.input_shape": tuple(config.data.input_shape),
            "config.data.num_classes": config.data.num_classes,
        }

    _refuse_unlike(victims, protocol)


def _refuse_unlike(
    victims: Sequence[Victim], fields_of: Callable[[Victim], dict[str, object]]
) -> None:
    """Raises InputError unless these fields, by name, are those of the first victim."""
    first = fields_of(victims[0])
    for victim in victims[1:]:
        for field, value in fields_of(victim).items():
            if value != first[field]:
                raise InputError(
                    f"--victim: {victim.name} has {field} {checks.shown(value)}, {victims[0].name} "
                    f"{checks.shown(first[field])}; attack them one by one"
                )


def _load(
    folder: pathlib.Path, task: str, data_path: str, free: bool, shared: dict[str, Splits]
) -> Victim:
    config = _read_config(folder)
    if config.task != task:
        raise InputError(
            f"--victim: {folder} is a run of the task {checks.shown(config.task)}, the attack's "
            f"config is for {task}; give them of one task"
        )
    verified = _read_verdict(folder)
    if verified is False:
        raise InputError(
            f"--victim: {folder} holds a model whose own watermark was not verified: an attack on "
            "it would show nothing; train it longer"
        )
    if verified is None and not free:
        raise InputError(
            f"--victim: {folder} holds a watermark-free model; give one with a watermark"
        )
    name = folder.resolve().name
    if not name.isprintable():
        raise InputError(
            f"--victim: {checks.shown(name)} cannot be shown in tables; rename the folder"
        )
    shape, num_classes = tuple(config.data.input_shape), config.data.num_classes
    signed = config.watermark.scheme in transform.SCHEMES
    made = claims.read_claim(folder / "claim.json") if signed and verified is not None else None
    path = folder / "model.safetensors"
    params = claims.read_model(
        path,
        model=config.model,
        input_shape=shape,
        num_classes=num_classes,
        expected_shapes=models.parameter_shapes(config.model, shape, num_classes),
        expected_sha256=None if made is None else made.model_sha256,
    )
    if data_path:
        config.data.path = data_path
    arguments = config.data.to_dict()
    key = json.dumps([arguments, config.seed], default=list, sort_keys=True)
    if key not in shared:
        shared[key] = data.load(**arguments, seed=config.seed)
    return Victim(
        name=name,
        config=config,
        model=models.create(config.model, num_classes, precision=config.precision),
        params=jax.tree.map(np.asarray, params),
        watermarks=None if verified is None else _marks(folder, config, made),
        claim=made,
        splits=shared[key],
        sha256=claims.model_digest(path) if made is None else made.model_sha256,
    )


def _marks(
    folder: pathlib.Path, config: ml_collections.ConfigDict, made: claims.Claim | None
) -> Marks:
    """Returns all the owner's marks: the watermarks that the claim's signature gives, or the triggers.

    Triggers stand nowhere; they are made again as the owner made them, from the key.
    """
    if made is None:
        key = owner.named_key(config)
        if key is None and not (folder / signing.PRIVATE_NAME).exists():
            raise InputError(
                f"--victim: {folder} has no {signing.PRIVATE_NAME}, from which its triggers are made; put it "
                "back for the attack"
            )
        signer = owner.find_owner(config, folder, key)
        marks = owner.owner_marks(config, signer)
        if config.watermark.scheme == "adi" and isinstance(marks, Triggers):
            outcome.check_commitments(folder, signer, marks)
        return marks
    indices = range(config.watermark.num_watermarks)
    return transform.stack(
        [claims.watermark_of(dataclasses.replace(made, index=index)) for index in indices]
    )


def _read_config(folder: pathlib.Path) -> ml_collections.ConfigDict:
    path = folder / "config.json"
    data = _read(path)
    try:
        # A run of before some field was made had what is now its default.
        config = configs.with_defaults(checks.json_object(data))
        configs.check(config)
    except InputError as error:
        raise InputError(f"--victim: {path}: {error}") from error
    return config


def _read(path: pathlib.Path) -> bytes:
    try:
        return files.read_bounded(path, _LARGEST)
    except InputError as error:
        raise InputError(f"--victim: {error}") from error


def _read_verdict(folder: pathlib.Path) -> bool | None:
    """Returns whether the run was verified; None of a watermark-free one."""
    path = folder / "result.json"
    if not path.exists():
        raise InputError(
            f"--victim: {folder} holds no result.json, so its training has not ended; give its "
            "command again to go on"
        )
    data = _read(path)
    try:
        result = checks.json_object(data)
    except InputError as error:
        raise InputError(f"--victim: {path}: {error}") from error
    metrics = result.get("metrics")
    verdict = metrics.get("verified", "") if isinstance(metrics, dict) else ""
    if verdict is not None and not isinstance(verdict, bool):
        raise InputError(
            f"--victim: {path} is no training's result; give a run of the main program"
        )
    return verdict
