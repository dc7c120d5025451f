"""TFDS's own builder test, on the dummy data beside this file.

It needs TensorFlow, so it is not part of the fast suite, which tests the same without TensorFlow in
tests/test_data_tfds.py. To run it: pip install tensorflow-cpu dill, and pytest on this folder.
"""

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("dill")

import tensorflow_datasets as tfds

from nullmark_jax.data.tfds_builders.gtsrb import gtsrb_dataset_builder


class GtsrbTest(tfds.testing.DatasetBuilderTestCase):
    """The builder, its files and its metadata by TFDS's rules."""

    DATASET_CLASS = gtsrb_dataset_builder.Builder
    SPLITS = {"train": 6, "test": 3}  # noqa: RUF012
