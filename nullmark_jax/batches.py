"""Which images, marks and augmentations each training step takes: a function of the seed alone.

Every random choice of training is made here, on the host, for the *global* batch. A step is then a
deterministic function of its `Batch`, so the result does not depend on how many devices or hosts
share the work, and a resumed run repeats an unbroken one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nullmark_jax.errors import InputError


class Batch(NamedTuple):
    """The choices of one step; with a leading axis, those of many.

    Attributes:
      index: rows of the training set, int32 [batch]. The first `marked` images get a null and a
        true copy each.
      which: the watermark in those copies, int32 [marked], in [0, K).
      shift: rows and columns to move each image by, int32 [batch, 2]; 0 where not augmented.
      flip: whether to mirror each image left to right, bool [batch].
    """

    index: Int[Array, "*steps batch"]  # type: ignore[assignment]  # hides tuple.index
    which: Int[Array, "*steps marked"]
    shift: Int[Array, "*steps batch 2"]
    flip: Bool[Array, "*steps batch"]


class Augmentation(NamedTuple):
    """Label-preserving changes of an image: shifts of up to `shift` pixels, mirroring or not."""

    shift: int = 0
    flip: bool = False


AS_IT_IS = Augmentation()


def marked_per_batch(inject_ratio: float, batch_size: int) -> int:
    """Returns k = round(inject_ratio * batch_size), the images of a batch with marked copies."""
    return round(inject_ratio * batch_size)


def epoch_batches(
    seed: int,
    epoch: int,
    *,
    num_images: int,
    batch_size: int,
    marked: int,
    num_watermarks: int,
    augmentation: Augmentation = AS_IT_IS,
) -> Batch:
    """Returns all steps of one epoch, NumPy arrays with a leading axis of num_images // batch_size.

    Each image is taken at most once an epoch; the num_images % batch_size left over at random are
    left out. The same arguments give the same bytes.

    Raises:
      InputError: a batch larger than the training set.
    """
    if not 1 <= batch_size <= num_images:
        raise InputError(
            f"config.batch_size: {batch_size} does not fit {num_images} training images; "
            f"take one from 1 to {num_images}"
        )
    rng = np.random.default_rng([seed, epoch])
    steps = num_images // batch_size
    order = rng.permutation(num_images)[: steps * batch_size]
    shape = (steps, batch_size)
    far = augmentation.shift
    # NumPy's arrays, where the type asks for JAX's; both are leaves alike.
    choices: dict[str, Any] = {
        "index": order.reshape(shape).astype(np.int32),
        "which": rng.integers(0, max(num_watermarks, 1), (steps, marked), dtype=np.int32),
        "shift": rng.integers(-far, far, (*shape, 2), dtype=np.int32, endpoint=True),
        "flip": rng.integers(0, 2, shape).astype(bool) & augmentation.flip,
    }
    return Batch(**choices)


def augment(
    images: Float[Array, "batch height width channel"],
    shift: Int[Array, "batch 2"],
    flip: Bool[Array, " batch"],
    augmentation: Augmentation,
) -> Float[Array, "batch height width channel"]:
    """Returns the images mirrored, then shifted, their border repeated into the space left free.

    `augmentation` is static: what it leaves out costs nothing, and its shift and flip are ignored.
    Shifts are positive downwards and to the right, and lie within +-augmentation.shift.
    """
    if augmentation.flip:
        images = jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
    if augmentation.shift:
        images = _shift_axis(images, shift[:, 0], augmentation.shift, axis=1)
        images = _shift_axis(images, shift[:, 1], augmentation.shift, axis=2)
    return images


def _shift_axis(images: jax.Array, shift: jax.Array, far: int, axis: int) -> jax.Array:
    """Returns each image moved by its shift along `axis`: a choice among 2 far + 1 slices.

    Faster on a CPU than a gather, which copies pixel by pixel.
    """
    size = images.shape[axis]
    borders = [(0, 0)] * images.ndim
    borders[axis] = (far, far)
    padded = jnp.pad(images, borders, mode="edge")
    result = images
    for by in (*range(-far, 0), *range(1, far + 1)):
        moved = jax.lax.slice_in_dim(padded, far - by, far - by + size, axis=axis)
        result = jnp.where((shift == by)[:, None, None, None], moved, result)
    return result


def pick(images: jax.Array, labels: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the rows `index` of a data set that lies on the device."""
    return images[index], labels[index]
