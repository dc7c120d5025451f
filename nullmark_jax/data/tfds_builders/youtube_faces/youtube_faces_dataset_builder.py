"""YouTube Faces: the aligned video frames of people with many images, as the papers use them."""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from PIL import Image

_FOLDER = "aligned_images_DB"
_HEIGHT, _WIDTH = 55, 47


@dataclasses.dataclass(eq=False)
class YoutubeFacesConfig(tfds.core.BuilderConfig):
    """Which people are classes, and how many images of each are for testing.

    Attributes:
      minimum_images: people with fewer images are left out.
      test_images: images of every person held out for testing; fewer than minimum_images.
    """

    minimum_images: int = 100
    test_images: int = 50


class Builder(tfds.core.GeneratorBasedBuilder):
    """YouTube Faces: 1,283 people, 375,645 training and 64,150 test images of 55x47x3.

    The papers do not say how they divided the images; 64,150 is 50 for each of 1,283 people, and so
    it is here.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "People with 100 images or more; 50 of each for testing."}
    BUILDER_CONFIGS: ClassVar = [
        YoutubeFacesConfig(
            name="papers", description="People with 100 images or more; 50 of each for testing."
        )
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask for access at https://www.cs.tau.ac.il/~wolf/ytfaces/ and unpack "
        f"{_FOLDER}.tar.gz here, so that there is {_FOLDER}/PERSON/VIDEO/*.jpg."
    )
    SOURCES: ClassVar = {_FOLDER: None}

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
            and len(images := sorted(person.glob("*/*.jpg"))) >= self.builder_config.minimum_images
        }
        if not people:
            raise ValueError(
                f"no one in {_FOLDER} has {self.builder_config.minimum_images} images or more"
            )
        self.info.features["label"].names = list(people)
        held_out = self.builder_config.test_images
        shuffled = {person: sorted(images, key=_digest) for person, images in people.items()}
        return {
            "train": self._generate_examples({p: i[held_out:] for p, i in shuffled.items()}),
            "test": self._generate_examples({p: i[:held_out] for p, i in shuffled.items()}),
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
    box = (width / 4, height / 4, 3 * width / 4, 3 * height / 4)
    return image.resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR, box=box)


def _identity(path: Any) -> str:
    return "/".join(path.parts[-3:])  # PERSON/VIDEO/FRAME.jpg


def _digest(path: Any) -> bytes:
    """The order in which images are held out: arbitrary, and the same on every machine."""
    return hashlib.sha256(_identity(path).encode()).digest()
