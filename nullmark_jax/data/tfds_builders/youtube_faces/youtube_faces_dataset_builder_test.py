"""TFDS's own builder test, on the dummy data beside this file.

It needs TensorFlow, so it is not part of the fast suite, which tests the same without TensorFlow in
tests/test_data_tfds.py. To run it: pip install tensorflow-cpu dill, and pytest on this folder.
"""

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("dill")

import tensorflow_datasets as tfds

from nullmark_jax.data.tfds_builders.youtube_faces import youtube_faces_dataset_builder


class FewImages(youtube_faces_dataset_builder.Builder, skip_registration=True):  # type: ignore[call-arg]
    """The builder with bounds that the dummy data reach."""

    name = "youtube_faces"
    MINIMUM_IMAGES = 4
    TEST_IMAGES = 1


class YoutubeFacesTest(tfds.testing.DatasetBuilderTestCase):
    """The builder, its files and its metadata by TFDS's rules."""

    DATASET_CLASS = FewImages
    SPLITS = {"train": 7, "test": 2}  # noqa: RUF012
