"""Data sets as uint8 arrays: bundled digits, an .npz of your own, or TFDS without TensorFlow."""

from nullmark_jax.data.dataset import Dataset, Splits
from nullmark_jax.data.loading import SOURCES, load, load_test

__all__ = ["SOURCES", "Dataset", "Splits", "load", "load_test"]
