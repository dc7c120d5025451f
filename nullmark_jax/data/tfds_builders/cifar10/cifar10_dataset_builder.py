"""TFDS's own CIFAR-10; only the reading of its archive, which there needs TensorFlow, is done here.

Name, version, features, URL and checksum are TFDS's, so data that either has prepared serve both.
"""

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.image_classification import cifar

_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes


class Builder(cifar.Cifar10, skip_registration=True):  # type: ignore[call-arg]
    """CIFAR-10, version and content of TFDS."""

    url_infos = cifar.Cifar10.url_infos

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        info = self._cifar_info
        with tarfile.open(dl_manager.download(info.url)) as archive:
            files = {
                PurePosixPath(member.name).name: content.read()
                for member in archive
                if (content := archive.extractfile(member))
            }
        self.info.features["label"].names = files[info.label_files[0]].decode().split()
        return {
            "train": self._generate_examples("train_", [files[file] for file in info.train_files]),
            "test": self._generate_examples("test_", [files[file] for file in info.test_files]),
        }

    def _generate_examples(
        self, prefix: str, batches: list[bytes]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        records = np.frombuffer(b"".join(batches), np.uint8).reshape(-1, _RECORD)
        for index, record in enumerate(records):
            image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
            yield (
                index,
                {
                    "id": f"{prefix}{index:05d}",
                    "image": Image.fromarray(image),
                    "label": int(record[0]),
                },
            )
