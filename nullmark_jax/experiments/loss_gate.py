"""Whose loss stops a pirate: the owner's loss x the attacker's x the optimiser.

The papers explain their piracy results by the loss alone: one clips the softmax, so that samples the model
answers with too little probability have no gradient (`losses`). That clip may be in the owner's training,
in the attacker's or in both.
"""

from collections.abc import Sequence

from nullmark_jax import verification
from nullmark_jax.experiments.measuring import Record
from nullmark_jax.experiments.victim import Victim
from nullmark_jax.reports.table import Table, percent


def representatives(victims: Sequence[Victim]) -> list[Victim]:
    """Returns the first victim of each owner's loss, in the order given."""
    first: dict[str, Victim] = {}
    for victim in victims:
        first.setdefault(victim.config.loss.cross_entropy, victim)
    return list(first.values())


def strongest(tried: Sequence[Record], scheme: str, threshold: float) -> Record:
    """Returns the attack that keeps the highest NC of those whose pirate watermark verifies.

    Where none verifies, the one with the highest pirate WM. A model that is not a number is no success.
    """
    tried = [each for each in tried if each["finite"]] or tried
    through = [each for each in tried if _through(each, scheme, threshold)]
    if through:
        return max(through, key=lambda each: each["normal_accuracy"])
    return max(tried, key=lambda each: each["pirate"]["wm"])


def table(tried: Sequence[Record], scheme: str, threshold: float) -> Table:
    """Returns the strongest attack of each owner's loss, attacker's loss and optimiser.

    Args:
      tried: the grid's records, with `owner_loss`, `victim` and the fields of `attackers.Attacker`.
      scheme: whose tests a watermark is held to.
      threshold: T.
    """
    rows = []
    for (owner_loss, victim, cross_entropy, way), records in _grouped(
        tried, "owner_loss", "victim", "cross_entropy", "way"
    ).items():
        best = strongest(records, scheme, threshold)
        through = [each for each in records if _through(each, scheme, threshold)]
        rows.append(
            [
                f"{owner_loss} ({victim})",
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
        "clipped: the softmax is held within 1e-7 of 0 and 1 before its logarithm, as Keras did, and a "
        "sample beyond has no gradient. Verified of the attacks with that loss and optimiser, over rates "
        "and numbers of images; the strongest as in the grid.",
    )


def verdict(tried: Sequence[Record], scheme: str, threshold: float) -> str:
    """Returns in how many attacks the pirate verifies, by the two losses, as a sentence."""
    found = []
    for (owner_loss, cross_entropy), records in _grouped(
        tried, "owner_loss", "cross_entropy"
    ).items():
        through = sum(_through(each, scheme, threshold) for each in records)
        found.append(
            f"owner {owner_loss} and attacker {cross_entropy} in {through} of {len(records)}"
        )
    return (
        "The loss as a gate (the earlier paper: what it clips cannot be trained); of the grid's attacks "
        f"the pirate's claim verifies with {', with '.join(found)}."
    )


def _through(record: Record, scheme: str, threshold: float) -> bool:
    return record["finite"] and verification.passes(
        record["pirate"]["wm"], threshold, scheme=scheme
    )


def _grouped(tried: Sequence[Record], *fields: str) -> dict[tuple[str, ...], list[Record]]:
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in tried:
        groups.setdefault(tuple(record[field] for field in fields), []).append(record)
    return groups
