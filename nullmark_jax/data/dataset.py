"""The one form that every data source yields: labelled uint8 images, and how they are divided."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nullmark_jax.data.mapped import MappedImages
from nullmark_jax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, in memory; or in a file, as `MappedImages`, where `load` was asked for that.

    Attributes:
      images: uint8 [N, H, W, C]; 255 is the papers' 1.0.
      labels: int32 [N], each in [0, number of classes).
      class_names: one name a class, in label order.

    Raises:
      ValueError: a field of another dtype, rank or length, or a label out of range.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    class_names: tuple[str, ...]

    def __post_init__(self):
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images: {self.images.dtype} {self.images.shape}, not uint8 [N,H,W,C]"
            )
        if self.labels.dtype != np.int32 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: {self.labels.dtype} {self.labels.shape}, not int32 [{len(self.images)}]"
            )
        if self.labels.size and not 0 <= self.labels.min() <= self.labels.max() < self.num_classes:
            raise ValueError(f"labels: some lie outside [0, {self.num_classes})")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def take(self, indices: NDArray[np.integer]) -> "Dataset":
        """Returns the images of `indices`, in that order, as a data set of their own."""
        mapped = self.mapped
        images: Any = self.images[indices] if mapped is None else mapped.take(indices)
        return Dataset(images, self.labels[indices], self.class_names)

    @property
    def mapped(self) -> MappedImages | None:
        """The images, where they lie in a file."""
        images: Any = self.images
        return images if isinstance(images, MappedImages) else None

    def in_memory(self) -> "Dataset":
        """Returns it with all its images in memory."""
        return dataclasses.replace(self, images=np.asarray(self.images))


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint data sets of one task; `validation` is empty where none was asked for."""

    train: Dataset
    validation: Dataset
    test: Dataset


def stratified_split(
    labels: NDArray[np.integer], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divides images in two so that the second part has `fraction` of every class.

    Which images of a class go to the second part is drawn from `seed`. Only the raw output of
    NumPy's PCG64 is used, which NumPy promises to keep, so a split never changes with a version.

    Args:
      labels: integers [N], N > 0.
      fraction: in [0, 1).
      seed: >= 0.

    Returns:
      Two ascending index arrays, int64, disjoint and together 0..N-1. The second has
      round(fraction * N) entries (half to even): each class gives the whole part of fraction * n_c,
      and the classes with the largest remainders (the lower label first) one more. A class always
      keeps at least one image in the first part, which alone can make the second part smaller.
    """
    labels = np.asarray(labels)
    _, counts = np.unique(labels, return_counts=True)
    # Rounded first: 0.1 * 30 is a little above 3, which must not count as a remainder.
    shares = np.round(fraction * counts, 9)
    quotas = np.minimum(np.floor(shares).astype(np.int64), counts - 1)
    remainders = shares - np.floor(shares)
    for index in np.argsort(-remainders, kind="stable"):
        if quotas.sum() >= round(fraction * len(labels)):
            break
        if remainders[index] > 0 and quotas[index] < counts[index] - 1:
            quotas[index] += 1
    drawn = drawn_order(len(labels), seed)
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    groups = np.split(by_class, np.cumsum(counts)[:-1])
    chosen = [group[:quota] for group, quota in zip(groups, quotas, strict=True)]
    second = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), second, assume_unique=True), second


def drawn_order(count: int, seed: int) -> NDArray[np.int64]:
    """Returns 0..count-1 in an order drawn from `seed`, the same in every version of NumPy."""
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def check_fraction(fraction: float) -> None:
    """Raises InputError unless the validation fraction lies in [0, 1)."""
    if not (isinstance(fraction, (int, float)) and math.isfinite(fraction) and 0 <= fraction < 1):
        raise InputError(
            f"config.data.validation_fraction={fraction!r}: must be in [0, 1); "
            "0 trains on every training image"
        )


def check_image_shape(where: str, found: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    """Raises InputError unless images of shape `found` [H, W, C] fit the task."""
    if tuple(found) != tuple(expected):
        raise InputError(
            f"{where} holds images of shape {tuple(found)}, but config.data.input_shape="
            f"{tuple(expected)}: resize the images or set --config.data.input_shape"
        )


def check_num_classes(where: str, found: int, expected: int) -> None:
    """Raises InputError unless the number of classes fits the task."""
    if found != expected:
        raise InputError(
            f"{where} has {found} classes, but config.data.num_classes={expected}: "
            f"set --config.data.num_classes={found}"
        )
