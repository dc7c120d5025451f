"""The tfds source: TensorFlow Datasets, prepared and read as array_record without TensorFlow.

Our builders stand in `tfds_builders`, in TFDS's folder convention. TFDS keeps what it has prepared,
so only the first load of a data set downloads or unpacks anything.
"""

import contextlib
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from absl import logging
from PIL import Image

from nullmark_jax.data.dataset import Dataset, check_image_shape, check_num_classes
from nullmark_jax.errors import InputError

# tensorflow_datasets takes half a second to import, so it is imported where it is first needed.
# It, the builders and the files they read can raise anything: each call that can is turned into an
# InputError, with the error as its cause.

OUR_BUILDERS = ("cifar10", "gtsrb", "lisa", "mnist", "youtube_faces")
_FILE_FORMAT = "array_record"  # the one TFDS format that needs no TensorFlow
_BLOCK = 1024  # records in memory at a time
_CONNECT_SECONDS, _ANSWER_SECONDS = 5, 10


def read(
    splits: tuple[str, ...],
    *,
    name: str,
    data_dir: str,
    manual_dir: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
) -> list[Dataset]:
    """Reads splits of a TFDS data set, which is prepared first where it is not yet.

    Args:
      splits: TFDS split names.
      name: one of OUR_BUILDERS, or any TFDS builder with an `image` and a `label` that is already
        prepared as array_record.
      data_dir: where TFDS keeps its data sets; '' for TFDS's own choice (the environment variable
        TFDS_DATA_DIR, or ~/tensorflow_datasets).
      manual_dir: a folder with the archives (or, for some sets, the unpacked images) that TFDS does
        not have to download then; '' for TFDS's own DATA_DIR/downloads/manual.
      input_shape: [H, W, C] that every image must have.
      num_classes: that the data set must have.

    Returns:
      One data set a split, in TFDS's order: the same on every machine, and not by class.

    Raises:
      InputError: no such builder; its files are neither at hand nor to be downloaded (found out
        within seconds); or it does not fit the task. A data set is prepared whole or not at all.
    """
    if not name:
        raise InputError(
            "config.data.name='': source 'tfds' needs --config.data.name=BUILDER, such as "
            + ", ".join(OUR_BUILDERS)
        )
    with _quiet():
        builder = make_builder(name, data_dir)
        if not builder.data_path.exists():
            if name not in OUR_BUILDERS:
                raise InputError(
                    f"the TFDS data set {name!r} is not prepared in {builder.data_dir_root}, and "
                    "preparing it takes TensorFlow: do so elsewhere with file_format="
                    f"{_FILE_FORMAT!r}, and give its folder with --config.data.path=FOLDER"
                )
            prepare(builder, manual_dir)
            builder = make_builder(name, data_dir)  # which now knows its splits and classes
        return [_read_split(builder, split, input_shape, num_classes) for split in splits]


def make_builder(name: str, data_dir: str) -> Any:
    """Returns the TFDS builder `name`, which may be prepared in `data_dir` or not.

    Raises:
      InputError: TFDS does not have it, or cannot read what `data_dir` says of it.
    """
    import tensorflow_datasets

    folder = os.path.expanduser(data_dir) or None
    try:
        if name in OUR_BUILDERS:
            package = f"{__package__}.tfds_builders.{name}"
            module = importlib.import_module(f"{package}.{name}_dataset_builder")
            return module.Builder(data_dir=folder)
        return tensorflow_datasets.builder(name, data_dir=folder)
    except Exception as error:
        raise InputError(
            f"config.data.name={name!r}: TFDS cannot open it ({_describe(error)}); there are "
            f"{', '.join(OUR_BUILDERS)}, and any other already prepared as {_FILE_FORMAT}"
        ) from error


def prepare(builder: Any, manual_dir: str) -> None:
    """Downloads what `manual_dir` lacks and writes the data set, whole or not at all.

    Raises:
      InputError: files are missing and cannot be downloaded, or are not what the builder expects.
    """
    import tensorflow_datasets

    root = Path(builder.data_dir_root)
    manual = Path(os.path.expanduser(manual_dir)) if manual_dir else root / "downloads" / "manual"
    if manual_dir and not manual.is_dir():
        raise InputError(f"config.data.manual_dir={manual_dir!r}: no such folder")
    _check_sources(builder, manual, manual_dir)
    logging.info("preparing the TFDS data set %s in %s", builder.name, root)
    created = _missing_parents(Path(builder.data_dir))
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Archives are of no use once the data set is written, nor are pieces of them.
        with tempfile.TemporaryDirectory(prefix=f"{builder.name}.tmp.", dir=root) as downloads:
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tensorflow_datasets.download.DownloadConfig(
                    manual_dir=manual if manual.is_dir() else None,
                    compute_stats=tensorflow_datasets.download.ComputeStatsMode.SKIP,
                ),
                file_format=_FILE_FORMAT,
            )
    except Exception as error:
        if builder.data_path.exists():
            return  # another process was first
        raise InputError(
            f"config.data.name={builder.name!r}: cannot be prepared in {root} "
            f"({_describe(error)}); check the archives, the network and the disk, and run again: "
            "nothing was kept"
        ) from error
    finally:
        for folder in created:
            with contextlib.suppress(OSError):  # not empty: in use
                folder.rmdir()


def _check_sources(builder: Any, manual: Path, manual_dir: str) -> None:
    """Raises InputError, within seconds, if preparing would end for want of its files.

    TFDS itself retries for minutes without a time-out.
    """
    sources = _sources(builder)
    missing = {file: url for file, url in sources.items() if not (manual / file).exists()}
    if not missing:
        return
    what = (
        f"the TFDS data set {builder.name!r} is not prepared in {builder.data_dir_root}, and "
        f"{', '.join(missing)} not found in config.data.manual_dir={manual_dir!r}"
    )
    by_hand = "put what is missing in a folder and pass --config.data.manual_dir=FOLDER"
    if None in missing.values():
        homepage = builder.info.homepage
        raise InputError(
            f"{what}: get it from {homepage} (it cannot be downloaded freely), {by_hand}"
        )
    for url in {urlsplit(url).netloc: url for url in missing.values() if url}.values():
        problem = _unreachable(url)
        if problem:
            raise InputError(
                f"{what}: {url} cannot be downloaded ({problem}); either run once with network "
                f"access, which downloads and prepares it, or {by_hand}"
            )


def _sources(builder: Any) -> Mapping[str, str | None]:
    """Returns what a builder is made from: names in manual_dir -> URL, None if there is none."""
    if hasattr(builder, "SOURCES"):
        return builder.SOURCES
    return {info.filename: url for url, info in builder.url_infos.items()}


def _unreachable(url: str) -> str:
    """Returns why a URL cannot be downloaded, or '' if it can."""
    import requests

    try:
        timeouts = (_CONNECT_SECONDS, _ANSWER_SECONDS)
        with requests.get(url, stream=True, timeout=timeouts) as answer:
            return "" if answer.ok else f"HTTP status {answer.status_code}"
    except requests.RequestException as error:
        return type(error).__name__


def _read_split(
    builder: Any, split: str, input_shape: tuple[int, int, int], num_classes: int
) -> Dataset:
    import tensorflow_datasets

    where = f"the TFDS data set {builder.name!r} in {builder.data_dir_root}"
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
        raise InputError(f"{where} has no image with a class label: set another --config.data.name")
    check_num_classes(where, features["label"].num_classes, num_classes)
    if split not in builder.info.splits:
        raise InputError(
            f"{where} has no split {split!r} but {', '.join(builder.info.splits)}: "
            "set another --config.data.name"
        )
    try:
        source = builder.as_data_source(
            split, deserialize_method=tensorflow_datasets.decode.DeserializeMethod.RAW_BYTES
        )
        images = np.empty((len(source), *input_shape), np.uint8)
        labels = np.empty(len(source), np.int32)
        for index, (encoded, label) in enumerate(_examples(source)):
            with Image.open(io.BytesIO(encoded)) as image:
                pixels = np.atleast_3d(np.asarray(image))
            check_image_shape(where, pixels.shape, input_shape)
            images[index], labels[index] = pixels, label
        return Dataset(images, labels, tuple(features["label"].names))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where} cannot be read ({_describe(error)}): give another folder with "
            "--config.data.path=FOLDER, or move it away, so that it is prepared anew"
        ) from error


def _examples(source: Any) -> Iterator[tuple[bytes, int]]:
    """Yields each example's encoded image and its label.

    Records are read in blocks and parsed here: TFDS, one example at a time and for any features,
    needs four times as long, half a minute for MNIST.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    for start in range(0, len(source), _BLOCK):
        for record in source.__getitems__(range(start, min(start + _BLOCK, len(source)))):
            feature = tf_example_pb2.Example.FromString(record).features.feature
            yield feature["image"].bytes_list.value[0], feature["label"].int64_list.value[0]


def _missing_parents(folder: Path) -> list[Path]:
    """Returns the folders above `folder` that do not exist, innermost first."""
    return [parent for parent in folder.parents if not parent.exists()]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS's notices are kept back, and its progress bars where no terminal shows them."""
    import tensorflow_datasets

    if not sys.stderr.isatty():
        tensorflow_datasets.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _describe(error: Exception) -> str:
    """Returns an error's kind and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])
