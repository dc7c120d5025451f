"""Transfer learning: a student takes over all layers of a teacher but the last, and learns another task.

Its labels are others than the teacher's, so that y_W is gone; the authority "recovers" it by the same step
backwards: a new last layer of the teacher's classes, fine-tuned with the teacher's clean images (later
paper, section 8.4).
"""

import jax
import jax.numpy as jnp

from nullmark_jax import models
from nullmark_jax.models import ConvNet, Params

# Tables 7 and 8: which layers are fine-tuned.
WAYS = ("last layer", "last two layers", "all dense layers", "all layers")


def with_new_last_layer(
    params: Params, model: ConvNet, *, seed: int | None, input_shape: tuple[int, int, int]
) -> Params:
    """Returns params with a new last layer, of the classes of `model`.

    Args:
      params: of the same network with any number of classes; left as they are.
      model: the network with the classes wanted.
      seed: of the layer's Glorot uniform kernel; None for a kernel of zeros. Its bias is 0.
      input_shape: H, W, C.
    """
    fresh = models.init_params(model, jax.random.key(seed or 0), input_shape)[model.last_layer]
    if seed is None:
        fresh = jax.tree.map(jnp.zeros_like, fresh)
    return {**params, model.last_layer: fresh}


def layers(params: Params, way: str) -> tuple[str, ...]:
    """Returns the layers that one of `WAYS` fine-tunes, as `retraining.Adversary.layers` has them."""
    dense = sorted(name for name in params if name.startswith("fc_"))
    chosen = {
        "last layer": dense[-1:],
        "last two layers": dense[-2:],
        "all dense layers": dense,
        "all layers": [],
    }
    return tuple(chosen[way])
