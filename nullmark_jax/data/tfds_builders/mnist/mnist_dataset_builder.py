"""TFDS's own MNIST; only the reading of its files, which there needs TensorFlow, is done here.

Name, version, features, URLs and checksums are TFDS's, so data that either has prepared serve both.
"""

import gzip
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.image_classification import mnist


class Builder(mnist.MNIST, skip_registration=True):  # type: ignore[call-arg]
    """MNIST, version and content of TFDS."""

    url_infos = mnist.MNIST.url_infos

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        files = {url.rsplit("/", 1)[-1]: url for url in self.url_infos}
        paths = dl_manager.download(files)
        return {
            split: self._generate_examples(
                paths[f"{prefix}-images-idx3-ubyte.gz"], paths[f"{prefix}-labels-idx1-ubyte.gz"]
            )
            for split, prefix in (("train", "train"), ("test", "t10k"))
        }

    def _generate_examples(self, images_path: Any, labels_path: Any) -> Iterator[tuple[int, dict]]:
        images = _read_idx(images_path)
        labels = _read_idx(labels_path)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": Image.fromarray(image), "label": int(label)}


def _read_idx(path: Any) -> np.ndarray:
    """Reads a gzipped idx file: 0, 0, 8 (uint8), the rank, and as many big-endian sizes."""
    with gzip.open(path) as file:
        content = file.read()
    rank = content[3]
    shape = np.frombuffer(content, ">u4", count=rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
