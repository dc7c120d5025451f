"""The attackers of the papers and of the grid: loss, optimiser, learning rate, data, by name."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import ml_collections

from nullmark_jax import checks, losses, optimizers
from nullmark_jax.attacks.retraining import Adversary
from nullmark_jax.config import TASKS
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.optimizers import Recipe
from nullmark_jax.reports.table import many

# What an attacker may train with; "-tamed": warm-up, cosine decay and clipping, as Digit's owner
# would; "-raised": so, and lambda rises from 1 over three quarters of the steps, as the deep nets'
# owners would.
WAYS = ("sgd", "momentum", "adam", "adam-tamed", "adam-raised", "adam-null-space")


class Attacker(NamedTuple):
    """One attacker of a grid.

    Attributes:
      way: one of `WAYS`.
      cross_entropy: "logits" or "clipped".
      learning_rate: the peak.
      images: how many images of the task they have.
    """

    way: str
    cross_entropy: str
    learning_rate: float
    images: int

    @property
    def name(self) -> str:
        """A name for records and tables."""
        return f"{self.cross_entropy}, {self.way}, {self.learning_rate:g}, {self.images} images"

    def adversary(self, *, steps: int, batch_size: int, true_weight: float = 1.0) -> Adversary:
        """Returns how they train, for so many steps."""
        tamed = self.way.startswith("adam-")
        recipe = Recipe(
            name=self.way.split("-")[0],
            learning_rate=self.learning_rate,
            schedule="cosine" if tamed else "constant",
            warmup_steps=max(1, steps // 10) if tamed else 0,
            clip_norm=1.0 if tamed else 0.0,
        )
        return Adversary(
            recipe=recipe,
            steps=steps,
            cross_entropy=self.cross_entropy,
            batch_size=batch_size,
            true_weight=true_weight,
            null_space=self.way == "adam-null-space",
            rising_steps=steps * 3 // 4 if self.way == "adam-raised" else 0,
        )


# Of an attacker in both papers.
PAPERS_IMAGES = 5000


def grid_fields() -> ml_collections.ConfigDict:
    """Returns a grid's config: all combinations are tried."""
    config = ml_collections.ConfigDict()
    config.cross_entropies = ("logits", "clipped")
    config.ways = WAYS
    config.learning_rates = (1e-3, 1e-4, 1e-5)
    # Images as fractions of the training set, and the paper's number beside them.
    config.fractions = (0.01, 1.0)
    config.images = (PAPERS_IMAGES,)
    config.steps = 600
    config.batch_size = 64
    return config


def grid(config: ml_collections.ConfigDict, training_images: int) -> list[Attacker]:
    """Returns the attackers of a grid, the fewest images first."""
    counts = {max(1, round(fraction * training_images)) for fraction in config.fractions}
    counts |= set(config.images)
    return [
        Attacker(way, cross_entropy, rate, count)
        for count in sorted(counts)
        for cross_entropy in config.cross_entropies
        for way in config.ways
        for rate in config.learning_rates
    ]


_WAYS_NOTE = {
    "tamed": "-tamed: warm-up over a tenth of the steps, cosine decay, gradients clipped to norm 1",
    "adam-raised": "adam-raised: tamed, and lambda rises from 1 over three quarters of the steps",
    "adam-null-space": "adam-null-space: tamed, and the second convolution trained in the null space of "
    "the pirate's pattern",
}


def ways_note(names: Collection[str]) -> str:
    """Returns the sentences on how those of `WAYS` train that are named."""
    tamed = any(name.startswith("adam-") for name in names)
    notes = [note for way, note in _WAYS_NOTE.items() if way in names or (tamed and way == "tamed")]
    sentences = [f"{'; '.join(notes)}."] if notes else []
    if not all(name.startswith("adam-") for name in names):
        others = "The other ways: constant rate" if notes else "Constant rate"
        sentences.append(f"{others}, no clipping.")
    return " ".join(sentences)


def choosing_note(metrics: dict[str, Any]) -> str:
    """Returns the sentence on where the pirates' patterns lie, where they choose; "" where any does."""
    free = metrics.get("min_free", 0.0)  # Earlier results lack it; their pirates did not choose.
    if not free:
        return ""
    return (
        f" Pirates sign until their pattern leaves {free:.0%} of the last features free, as the "
        "owner's does."
    )


def check_grid(name: str, config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a grid's field is out of range."""
    for field in ("cross_entropies", "ways", "learning_rates"):
        if not len(config[field]):
            raise InputError(f"{name}.{field}: is empty; give one at least")
    if not len(config.fractions) + len(config.images):
        raise InputError(f"{name}.fractions, {name}.images: are empty; give one of the two")
    for each in config.cross_entropies:
        losses.cross_entropy(each, field=f"{name}.cross_entropies")
    for each in config.ways:
        if each not in WAYS:
            raise InputError(
                f"{name}.ways: {checks.shown(each)} is none; take some of {', '.join(WAYS)}"
            )
    for rate in config.learning_rates:
        optimizers.check_learning_rate(f"{name}.learning_rates", rate)
    for fraction in config.fractions:
        if not 0 < checks.real(f"{name}.fractions", fraction) <= 1:
            raise InputError(f"{name}.fractions: {fraction} is out of range; give one in (0, 1]")
    for count in config.images:
        checks.integer(f"{name}.images", count, 1, 10**9)
    checks.integer(f"{name}.steps", config.steps, 1, 10**7)
    checks.integer(f"{name}.batch_size", config.batch_size, 1, 10**6)


def paper_fields() -> ml_collections.ConfigDict:
    """Returns the config of a paper's own attacker, who goes on with the owner's training."""
    config = ml_collections.ConfigDict()
    config.cross_entropy = "logits"
    config.optimizer = ml_collections.ConfigDict(Recipe("sgd", 1e-3)._asdict())
    config.epochs = 10
    config.images = PAPERS_IMAGES
    config.batch_size = 128
    config.inject_ratio = 0.5
    return config


def check_paper(name: str, config: ml_collections.ConfigDict) -> None:
    """Raises InputError where a paper attacker's field is out of range."""
    losses.cross_entropy(config.cross_entropy, field=f"{name}.cross_entropy")
    optimizers.check_recipe(Recipe(**config.optimizer.to_dict()), f"{name}.optimizer")
    for field, high in (("epochs", 10**6), ("images", 10**9), ("batch_size", 10**6)):
        checks.integer(f"{name}.{field}", config[field], 1, high)
    ratio = checks.real(f"{name}.inject_ratio", config.inject_ratio)
    if not 0 <= ratio <= 1:
        raise InputError(f"{name}.inject_ratio: {ratio} is out of range; give one in [0, 1]")


def paper_adversary(config: ml_collections.ConfigDict, steps: int) -> Adversary:
    """Returns how a paper's attacker trains."""
    return Adversary(
        recipe=Recipe(**config.optimizer.to_dict()),
        steps=steps,
        cross_entropy=config.cross_entropy,
        batch_size=config.batch_size,
        inject_ratio=config.inject_ratio,
    )


def as_tested(agrees: bool, *, unmoved: bool, images: int, theirs: str) -> bool | None:
    """Returns whether a paper's claim on its attack holds; None where ours cannot tell.

    Less training than theirs that leaves a model as it was says nothing of theirs; nor does what an attack of
    fewer images does to one.

    Args:
      agrees: whether it holds of our attack.
      unmoved: whether that left the model as it was.
      images: that it had.
      theirs: of how much more theirs is (`table.beside_papers`); "" where it is not.
    """
    return None if images < PAPERS_IMAGES or (unmoved and theirs) else agrees


def describe(config: ml_collections.ConfigDict) -> str:
    """Returns a paper's attacker in words."""
    optimizer = config.optimizer
    return (
        f"{config.cross_entropy}, {optimizer.name} {optimizer.learning_rate:g}, {config.images} "
        f"images, {many(config.epochs, 'epoch')}"
    )


# Later paper, Table 14: the optimiser of each task at the last learning rate of the owner's training,
# lr / (1 + decay * steps) where it decays; injection ratio; epochs of a piracy attack (section 7.2).
_LAST: dict[str, tuple[str, float, float, int]] = {
    "digit": ("sgd", 1e-3, 0.5, 10),
    "face": ("adam", 1e-3, 0.5, 1),
    # 0.02 and 2e-5 over 120 epochs of 306 steps.
    "traffic": ("sgd", 0.0115, 0.1, 25),
    # 0.05 and 1e-4 over 500 epochs of 390 steps.
    "object": ("sgd", 0.00244, 0.1, 10),
}
_LAST["quickstart"] = _LAST["digit"]


def set_paper_attacker(config: ml_collections.ConfigDict, task: str, earlier: str = "") -> None:
    """Makes `paper_fields` those of the later paper's piracy attack on a task.

    On null embedding (section 7.2), or on an `earlier` design, "adi" or "zhang" (Table 9, appendix A.2).
    """
    name, rate, ratio, epochs = _LAST[task]
    config.optimizer.name = name
    config.optimizer.learning_rate = rate
    config.inject_ratio = ratio
    config.epochs = epochs
    if earlier == "adi":
        config.inject_ratio = 0.28125 if task in ("digit", "quickstart") else 0.0625
    elif earlier == "zhang":
        config.inject_ratio = 0.1
        config.epochs = 10 if task == "traffic" else epochs


def check_design(design: str, victims: Sequence[Victim]) -> None:
    """Raises InputError unless the victims are of the design, "", "adi" or "zhang", that an attack is for."""
    for victim in victims:
        found = victim.scheme.split("-")[0] if victim.has_triggers else ""
        if found != design:
            raise InputError(
                f"--victim: {victim.name} is of {victim.scheme}, and this config is not for that; give "
                f"--config=FILE.py:TASK{found and ',' + found}"
            )


def choose_earlier(argument: str | None) -> tuple[str | None, str]:
    """Returns a config's argument without the earlier design that it ends in, and that design.

    TASK,adi and TASK,zhang, with ,smoke before where it is the smoke run; "" for null embedding.
    """
    rest, _, last = (argument or "").rpartition(",")
    return (rest, last) if last in ("adi", "zhang") else (argument, "")


def choose_task(argument: str | None) -> tuple[str, bool]:
    """Returns the task of a config's argument TASK or TASK,smoke and whether it is the smoke run.

    Raises:
      InputError: there is no such task, or something else stands behind it.
    """
    task, _, rest = (argument or "").partition(",")
    if task not in TASKS or rest not in ("", "smoke"):
        raise InputError(
            f"--config: {checks.shown(argument)} is no task of an attack; take FILE.py:TASK or "
            f"FILE.py:TASK,smoke with TASK one of {', '.join(TASKS)}"
        )
    return task, rest == "smoke"
