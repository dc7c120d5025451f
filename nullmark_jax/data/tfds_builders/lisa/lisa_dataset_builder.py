"""LISA, US traffic signs: the 17 classes of the papers' transfer learning, cropped and at 48x48."""

import collections
import csv
import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from PIL import Image

_HOMEPAGE = "http://cvrr.ucsd.edu/LISA/lisa-traffic-sign-dataset.html"
_ANNOTATIONS = "allAnnotations.csv"
_SIZE = (48, 48)
_TEST_FRACTION = 0.2
# The 17 most frequent of LISA's 47 classes, and those of the work the papers follow.
CLASS_NAMES = (
    "addedLane",
    "keepRight",
    "laneEnds",
    "merge",
    "pedestrianCrossing",
    "school",
    "schoolSpeedLimit25",
    "signalAhead",
    "speedLimit25",
    "speedLimit30",
    "speedLimit35",
    "speedLimit45",
    "speedLimitUrdbl",
    "stop",
    "stopAhead",
    "turnRight",
    "yield",
)
_CORNERS = (
    "Upper left corner X",
    "Upper left corner Y",
    "Lower right corner X",
    "Lower right corner Y",
)


class Builder(tfds.core.GeneratorBasedBuilder):
    """LISA: 17 classes of annotated signs, cropped to their boxes and resized to 48x48x3.

    No track (the frames of one sign) stands in both splits. The papers name 3,987 training and 340
    test images of the same 17 classes, but not which; a fifth of each class is held out here.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "17 classes; a fifth of each, in whole tracks, for testing."
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Get the LISA Traffic Sign Dataset from {_HOMEPAGE} and unpack it, so that "
        f"{_ANNOTATIONS} and the frames it names stand in this folder."
    )
    SOURCES: ClassVar = {_ANNOTATIONS: None}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(*_SIZE, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=_HOMEPAGE,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = dl_manager.manual_dir
        lines = (folder / _ANNOTATIONS).read_text().splitlines()
        rows = [
            row
            for row in csv.DictReader(lines, delimiter=";", restval="")
            if row["Annotation tag"] in CLASS_NAMES
        ]
        test = held_out_tracks(rows)
        return {
            "train": self._generate_examples(folder, [r for r in rows if _track(r) not in test]),
            "test": self._generate_examples(folder, [r for r in rows if _track(r) in test]),
        }

    def _generate_examples(
        self, folder: Any, rows: list[dict[str, str]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in rows:
            left, top, right, bottom = (int(row[corner]) for corner in _CORNERS)
            box = (left, top, right, bottom)
            with Image.open(folder / row["Filename"]) as frame:
                # Not resize(box=box), whose filter reaches over the edge of the box.
                sign = frame.crop(box).convert("RGB").resize(_SIZE, Image.Resampling.BILINEAR)
            # A frame may show several signs.
            key = f"{row['Filename']}:{box}:{row['Annotation tag']}"
            yield key, {"image": sign, "label": row["Annotation tag"]}


def held_out_tracks(rows: list[dict[str, str]]) -> set[tuple[str, str]]:
    """Returns the tracks held out for testing, as (class, track) pairs.

    Of each class whole tracks are taken, in the order of the SHA-256 of their names, until they
    hold a fifth of its images or more; its last track is never taken. The same on every machine.
    """
    sizes: dict[str, dict[str, int]] = collections.defaultdict(lambda: collections.defaultdict(int))
    for row in rows:
        sizes[row["Annotation tag"]][row["Origin track"]] += 1
    chosen = set()
    for label, tracks in sizes.items():
        taken = 0
        for track in sorted(tracks, key=lambda name: hashlib.sha256(name.encode()).digest())[:-1]:
            if taken >= _TEST_FRACTION * sum(tracks.values()):
                break
            chosen.add((label, track))
            taken += tracks[track]
    return chosen


def _track(row: dict[str, str]) -> tuple[str, str]:
    return row["Annotation tag"], row["Origin track"]
