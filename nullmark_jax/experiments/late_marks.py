"""Marks put into a finished model, by somebody who may expect that the model will be examined."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from nullmark_jax import checks
from nullmark_jax.attacks import pruning
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import attackers
from nullmark_jax.experiments.attackers import Attacker
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.marks import Marks
from nullmark_jax.models import Params

# How those who round train the layers behind one, one of `attackers.WAYS`; and what they are called.
AGAIN = "adam-tamed"
LAYER_BY_LAYER = "layer by layer"
PRUNED_FIRST = "of the neurons pruned first"


class Pirate(NamedTuple):
    """How a mark is put into a finished model, with logits.

    Attributes:
      way: one of `attackers.WAYS`.
      images: how many they have.
      steps: of the training, >= 1.
      pruned: the share of the smallest neurons, in [0, 1], that they prune before they train. They stay
        pruned, but for those of a layer whose sum with another's goes into one ReLU (Face's last two).
      rounded: "", or one of `pruning.FORMATS`, to which they round the model afterwards, one layer after
        another from the first on, and train the layers behind it anew each time (by `AGAIN`), so that these
        make up for the rounding: as many steps again in all, or what an equal whole part for each layer but
        the last, one at least, comes to.
    """

    way: str
    images: int
    steps: int
    pruned: float
    rounded: str

    @property
    def name(self) -> str:
        """Of records and tables."""
        again = f" + {self.steps}" if self.rounded else ""
        first = f", {100 * self.pruned:g}% {PRUNED_FIRST}" if self.pruned else ""
        last = f", rounded to {self.rounded} {LAYER_BY_LAYER}" if self.rounded else ""
        return f"{self.way}, {self.images} images, {self.steps}{again} steps{first}{last}"


def pirates(field: str, given: Sequence[Any]) -> list[Pirate]:
    """Returns the pirates of a config's field.

    Args:
      field: its name, for messages.
      given: of each the values of `Pirate`, in its order.

    Raises:
      InputError: one is none, or out of range, or two have one name.
    """
    if not len(given):
        raise InputError(f"{field}: is empty; give one at least")
    found: list[Pirate] = []
    for each in given:
        if (
            not isinstance(each, tuple | list)
            or len(each) != len(Pirate._fields)
            or each[0] not in attackers.WAYS
            or each[4] not in ("", *pruning.FORMATS)
        ):
            raise InputError(
                f"{field}: {checks.shown(each)} is none; give (way, images, steps, share pruned first, "
                f"format rounded to), the way one of {', '.join(attackers.WAYS)}, the format one of "
                f"{', '.join(pruning.FORMATS)} or ''"
            )
        pirate = Pirate(*each)
        checks.integer(f"{field}: images", pirate.images, 1, 10**9)
        checks.integer(f"{field}: steps", pirate.steps, 1, 10**7)
        pruning.check_ratio(f"{field}: share pruned first", pirate.pruned)
        if pirate.name in [other.name for other in found]:
            raise InputError(f"{field}: two are {pirate.name}; give each once")
        found.append(pirate)
    return found


def marked(
    bench: Bench,
    pirate: Pirate,
    marks: Marks,
    *,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> Params:
    """Returns a copy of the bench's model with the marks put in.

    Args:
      bench: with the model.
      pirate: how.
      marks: a population.
      learning_rate: of all their training.
      batch_size: images a step; all of the pirate's where they have fewer.
      seed: of which images they have, and of their order, which is the same in each training.

    Raises:
      InputError: the task has fewer images, or the way is none for these marks (`retraining`).
    """
    model = bench.victim.model
    params = pruning.prune(model, bench.victim.params, "neurons", "ascending", pirate.pruned)

    def trained(params: Params, way: str, steps: int, layers: tuple[str, ...] = ()) -> Params:
        attacker = Attacker(way, "logits", learning_rate, pirate.images)
        (reached,) = bench.train(
            attacker.adversary(steps=steps, batch_size=batch_size)._replace(layers=layers),
            images=pirate.images,
            seed=seed,
            at=[steps],
            embedded=marks,
            params=params,
        )
        return reached.params

    params = trained(params, pirate.way, pirate.steps)
    if not pirate.rounded:
        return params
    layers = sorted(params)  # As images pass them: conv_1, ..., fc_1, ...
    for done, layer in enumerate(layers, 1):
        params = {**params, **pruning.quantise({layer: params[layer]}, pirate.rounded)}
        if done < len(layers):
            again = max(1, pirate.steps // (len(layers) - 1))
            params = trained(params, AGAIN, again, tuple(layers[done:]))
    return params
