"""GTSRB, the German Traffic Sign Recognition Benchmark, from its official archives."""

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from PIL import Image

_URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
_TRAIN = "GTSRB_Final_Training_Images.zip"
_TEST = "GTSRB_Final_Test_Images.zip"
_TEST_LABELS = "GTSRB_Final_Test_GT.zip"
# The published archives' MD5 sums. TFDS's own checksums.tsv wants SHA-256, which nobody publishes.
_MD5 = {
    _TRAIN: "f33fd80ac59bff73c82d25ab499e03a3",
    _TEST: "c7e4e6327067d32654124b0fe9e82185",
    _TEST_LABELS: "fe31e9c9270bbcd7b84b7f21a9d9d9e5",
}
_SIZE = (48, 48)
CLASS_NAMES = (
    "speed limit 20",
    "speed limit 30",
    "speed limit 50",
    "speed limit 60",
    "speed limit 70",
    "speed limit 80",
    "end of speed limit 80",
    "speed limit 100",
    "speed limit 120",
    "no passing",
    "no passing for trucks",
    "priority at next intersection",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "danger",
    "bend left",
    "bend right",
    "double bend",
    "uneven road",
    "slippery road",
    "road narrows",
    "construction",
    "traffic signals",
    "pedestrians",
    "children",
    "bicycles",
    "snow",
    "wild animals",
    "end of all limits",
    "turn right ahead",
    "turn left ahead",
    "ahead only",
    "ahead or right",
    "ahead or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no passing",
    "end of no passing for trucks",
)


class Builder(tfds.core.GeneratorBasedBuilder):
    """GTSRB: 43 classes, 39,209 training and 12,630 test images, resized to 48x48x3."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "The official archives; whole images at 48x48, bilinear."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Only without network access: put {_TRAIN}, {_TEST} and {_TEST_LABELS} from {_URL} here."
    )
    SOURCES: ClassVar = {file: _URL + file for file in _MD5}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(*_SIZE, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://benchmark.ini.rub.de/gtsrb_news.html",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        paths = self._archives(dl_manager)
        return {
            "train": self._generate_examples(paths[_TRAIN], None),
            "test": self._generate_examples(paths[_TEST], _read_test_labels(paths[_TEST_LABELS])),
        }

    def _archives(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        """Returns each archive's path: in manual_dir, taken as it is, or downloaded and checked."""
        try:
            manual = dl_manager.manual_dir
            paths = {file: manual / file for file in self.SOURCES if (manual / file).exists()}
        except AssertionError:  # TFDS: the folder does not exist or is empty
            paths = {}
        missing = {file: url for file, url in self.SOURCES.items() if file not in paths}
        if missing:
            downloaded = dl_manager.download(missing)
            for file, path in downloaded.items():
                with path.open("rb") as content:
                    if hashlib.file_digest(content, "md5").hexdigest() != _MD5[file]:
                        raise ValueError(f"{missing[file]} is damaged: its MD5 is not {_MD5[file]}")
            paths |= downloaded
        for path in paths.values():
            if not zipfile.is_zipfile(path):
                raise ValueError(f"{path} is not a zip archive")
        return paths

    def _generate_examples(
        self, archive_path: Any, labels: dict[str, int] | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the .ppm images. `labels` is by file name; without it the folder is the class."""
        with zipfile.ZipFile(archive_path) as archive:
            for member in map(PurePosixPath, archive.namelist()):
                if member.suffix != ".ppm":
                    continue
                label = int(member.parent.name) if labels is None else labels[member.name]
                with archive.open(str(member)) as file, Image.open(file) as image:
                    resized = image.convert("RGB").resize(_SIZE, Image.Resampling.BILINEAR)
                yield f"{label:05d}/{member.name}", {"image": resized, "label": label}


def _read_test_labels(path: Any) -> dict[str, int]:
    with zipfile.ZipFile(path) as archive, archive.open("GT-final_test.csv") as file:
        rows = csv.DictReader(io.TextIOWrapper(file, "utf-8", newline=""), delimiter=";")
        return {row["Filename"]: int(row["ClassId"]) for row in rows}
