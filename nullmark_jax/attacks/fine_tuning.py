"""Fine-tuning: training on with clean images, of all layers or the last, kept or started anew.

The four ways of Adi et al. ("Turning Your Weakness Into a Strength", 2018): FTAL, fine-tune all layers
(both papers' way); FTLL, fine-tune the last; RTAL and RTLL, the same from a re-initialised last layer.
"""

from typing import NamedTuple

from nullmark_jax.attacks.transfer import with_new_last_layer
from nullmark_jax.models import ConvNet, Params


class Way(NamedTuple):
    """Which layers are trained.

    Attributes:
      last_only: only the last layer, the others frozen.
      reset_last: the last layer starts from new initial values.
    """

    last_only: bool
    reset_last: bool


WAYS: dict[str, Way] = {
    "FTAL": Way(last_only=False, reset_last=False),
    "FTLL": Way(last_only=True, reset_last=False),
    "RTAL": Way(last_only=False, reset_last=True),
    "RTLL": Way(last_only=True, reset_last=True),
}


def start_params(
    model: ConvNet, params: Params, way: Way, *, seed: int, input_shape: tuple[int, int, int]
) -> Params:
    """Returns the params that fine-tuning starts from: the same, or with a new last layer.

    Args:
      model: the network.
      params: the victim's, left as they are.
      way: one of `WAYS`.
      seed: of the new layer's Glorot uniform kernel; its bias is 0.
      input_shape: H, W, C.
    """
    if not way.reset_last:
        return params
    return with_new_last_layer(params, model, seed=seed, input_shape=input_shape)


def trained_layers(model: ConvNet, way: Way) -> tuple[str, ...]:
    """Returns the layers that are trained, as `retraining.Adversary.layers` has them."""
    return (model.last_layer,) if way.last_only else ()
