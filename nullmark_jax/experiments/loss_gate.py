"""Whose loss stops a pirate: the owner's loss x the attacker's x the optimiser.

The earlier paper explains its piracy results by the loss: it clips the softmax, so that samples that the
model answers with too little probability have no gradient (`losses`). That clip may be in the owner's
training, in the attacker's or in both.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nullmark_jax import verification
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.experiment import Finding
from nullmark_jax.experiments.measuring import Record
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.reports.table import Table, percent


class Owner(NamedTuple):
    """What a victim's owner trained with, as far as it may stop a pirate.

    Attributes:
      loss: "logits" or "clipped".
      rising: whether lambda rose; None where a result does not say.
    """

    loss: str
    rising: bool | None

    def __str__(self) -> str:
        return f"{self.loss} (lambda rising)" if self.rising else self.loss


def owner_of(victim: Victim) -> Owner:
    """Returns what its owner trained with."""
    return Owner(str(victim.config.loss.cross_entropy), victim.lambda_rises)


def owner_fields(victim: Victim) -> Record:
    """Returns what a record of the grid has of it."""
    owner = owner_of(victim)
    return {"owner_loss": owner.loss, "owner_rising": owner.rising}


def split(victims: Sequence[Victim]) -> tuple[list[Victim], list[Victim]]:
    """Returns the victims whose owners trained as the first one's, and the one of each other way.

    Raises:
      InputError: there are two of another way than the first one's.
    """
    way = owner_of(victims[0])
    alike = [each for each in victims if owner_of(each) == way]
    others: dict[Owner, Victim] = {}
    for victim in victims:
        own = owner_of(victim)
        if own == way:
            continue
        if own in others:
            raise InputError(
                f"--victim: {victim.name} and {others[own].name} were both trained with the loss {own}, "
                f"{victims[0].name} with {way}; give one of another loss than the first one's"
            )
        others[own] = victim
    return alike, list(others.values())


def strongest(tried: Sequence[Record], scheme: str, threshold: float) -> Record:
    """Returns the attack that keeps the highest NC of those whose pirate watermark verifies.

    Where none verifies, the one with the highest pirate WM. A model that is not a number is no success.
    """
    tried = [each for each in tried if each["finite"]] or tried
    through = [each for each in tried if verifies(each, scheme, threshold)]
    if through:
        return max(through, key=lambda each: each["normal_accuracy"])
    return max(tried, key=lambda each: each["pirate"]["wm"])


def table(
    tried: Sequence[Record], before: Mapping[str, Record], scheme: str, threshold: float
) -> Table:
    """Returns the strongest attack of each owner's loss, attacker's loss and optimiser.

    Args:
      tried: the grid's records, with `victim`, the fields of `attackers.Attacker` and those of
        `owner_fields`, of which earlier results have `owner_loss` alone.
      before: by victim, the record of the model as it was.
      scheme: whose tests a watermark is held to.
      threshold: T.
    """
    rows = []
    for (owner, victim, cross_entropy, way), records in _grouped(
        tried, "victim", "cross_entropy", "way"
    ).items():
        best = strongest(records, scheme, threshold)
        through = [each for each in records if verifies(each, scheme, threshold)]
        rows.append(
            [
                f"{owner} ({victim}: NC {percent(before[victim]['normal_accuracy'])}, WM "
                f"{percent(before[victim]['owner']['wm'])})",
                cross_entropy,
                way,
                f"{len(through)} of {len(records)}",
                f"{best['learning_rate']:g}, {best['images']} images",
                percent(best["normal_accuracy"]),
                percent(best["pirate"]["wm"]),
                percent(best["owner"]["wm"]),
            ]
        )
    return Table(
        "The loss gate: owner's loss, attacker's loss and optimiser, %",
        (
            "owner's loss",
            "attacker's loss",
            "optimiser",
            "pirate verified",
            "strongest",
            "its NC",
            "pirate WM",
            "owner WM",
        ),
        rows,
        "clipped: the softmax is held at least 1e-7 away from 0 and 1 before its logarithm, as Keras did, "
        "and a sample beyond has no gradient. Verified: of the attacks with that loss and optimiser, over "
        "rates and numbers of images; the strongest as in the grid. One model of each owner's loss, one "
        "pirate watermark; the models may differ in more than what their row says.",
    )


def verdict(tried: Sequence[Record], scheme: str, threshold: float) -> list[Finding]:
    """Returns in how many attacks the pirate verifies, by the two losses; nothing where neither's clips."""
    if not any("clipped" in (each["cross_entropy"], each["owner_loss"]) for each in tried):
        return []
    found = []
    for (owner, cross_entropy), records in _grouped(tried, "cross_entropy").items():
        through = sum(verifies(each, scheme, threshold) for each in records)
        found.append(f"owner {owner} and attacker {cross_entropy} in {through} of {len(records)}")
    clipped = [each for each in tried if each["cross_entropy"] == "clipped"]
    let_in = sum(verifies(each, scheme, threshold) for each in clipped)
    finding = Finding(
        "The loss as a gate (the earlier paper: what it clips cannot be trained), one model of each owner's "
        "loss and one pirate; of the grid's attacks, over optimisers and rates, the pirate's claim verifies "
        f"with {', with '.join(found)}.",
        # That none of some attackers got through does not say that none can.
        False if let_in else None,
        claim="What ends in log(0), here the clipped loss, cannot be trained in (earlier paper)",
        brief=f"{let_in} of {len(clipped)} clipped attackers get in",
        cause="What is clipped has no gradient. Who begins where less is (lambda raised from 1, or in the "
        "pattern's null space; how much was not measured) mostly gets in on the recipe's models, who trains "
        "otherwise does not. Tested by way to train (the table of losses, {piracy}).",
        models=len({each["victim"] for each in tried}),
    )
    return [finding]


def verifies(record: Record, scheme: str, threshold: float) -> bool:
    return record["finite"] and verification.passes(
        record["pirate"]["wm"], threshold, scheme=scheme
    )


def _grouped(tried: Sequence[Record], *fields: str) -> dict[tuple[Any, ...], list[Record]]:
    """Returns the records by their `Owner` and these fields."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in tried:
        owner = Owner(record["owner_loss"], record.get("owner_rising"))
        groups.setdefault((owner, *(record[field] for field in fields)), []).append(record)
    return groups
