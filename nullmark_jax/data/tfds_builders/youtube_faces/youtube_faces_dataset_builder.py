"""YouTube Faces: the aligned video frames of people with many images, as the papers use them."""

import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from PIL import Image

_FOLDER = "aligned_images_DB"
_HEIGHT, _WIDTH = 55, 47


class Builder(tfds.core.GeneratorBasedBuilder):
    """YouTube Faces: 1,283 people, 375,645 training and 64,150 test images of 55x47x3.

    The papers do not say how they divided the images; 64,150 is 50 for each of 1,283 people, and so
    it is here.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "People with 100 images or more; 50 of each for testing."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask for access at https://www.cs.tau.ac.il/~wolf/ytfaces/ and unpack "
        f"{_FOLDER}.tar.gz here, so that there is {_FOLDER}/PERSON/VIDEO/*.jpg."
    )
    SOURCES: ClassVar = {_FOLDER: None}
    MINIMUM_IMAGES = 100  # of a person who is a class
    TEST_IMAGES = 50  # of each person, held out for testing

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(_HEIGHT, _WIDTH, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(),  # named when the folder is read
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://www.cs.tau.ac.il/~wolf/ytfaces/",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        people = {
            person.name: images
            for person in sorted((dl_manager.manual_dir / _FOLDER).iterdir())
            if person.is_dir()
            and len(images := sorted(person.glob("*/*.jpg"))) >= self.MINIMUM_IMAGES
        }
        if not people:
            raise ValueError(f"no one in {_FOLDER} has {self.MINIMUM_IMAGES} images or more")
        self.info.features["label"].names = list(people)
        shuffled = {person: sorted(images, key=_digest) for person, images in people.items()}
        return {
            "train": self._generate_examples(
                {p: i[self.TEST_IMAGES :] for p, i in shuffled.items()}
            ),
            "test": self._generate_examples(
                {p: i[: self.TEST_IMAGES] for p, i in shuffled.items()}
            ),
        }

    def _generate_examples(
        self, people: dict[str, list[Any]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for person, images in people.items():
            for path in images:
                with Image.open(path) as image:
                    face = crop_face(image.convert("RGB"))
                yield _identity(path), {"image": face, "label": person}


def crop_face(image: Image.Image) -> Image.Image:
    """Returns the middle half of an aligned frame at 55x47, bilinear.

    The frames show the face with a wide margin, whose background is the same throughout a video and
    would tell the videos apart.
    """
    width, height = image.size
    left, top = width // 4, height // 4
    face = image.crop((left, top, width - left, height - top))
    return face.resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR)


def _identity(path: Any) -> str:
    return "/".join(path.parts[-3:])  # PERSON/VIDEO/FRAME.jpg


def _digest(path: Any) -> bytes:
    """The order in which images are held out: arbitrary, and the same on every machine."""
    return hashlib.sha256(_identity(path).encode()).digest()
