"""The TFDS source, without TensorFlow: our builders from their dummy data, and every way to fail.

TFDS's own `tfds.testing.DatasetBuilderTestCase` needs TensorFlow; it stands beside each builder
(`*_dataset_builder_test.py`). Here the same builders go through what users call: TFDS's
`download_and_prepare` and the reading of what it wrote, with files from manual_dir or from a local
HTTP server.
"""

import contextlib
import functools
import gzip
import hashlib
import http.server
import importlib
import io
import json
import pathlib
import shutil
import socket
import sys
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from configs import traffic
from nullmark_jax import data, run
from nullmark_jax.errors import InputError

pytest.importorskip("array_record")  # Linux only

BUILDERS = pathlib.Path(data.__file__).parent / "tfds_builders"
GTSRB, LISA = BUILDERS / "gtsrb" / "dummy_data", BUILDERS / "lisa" / "dummy_data"
ARCHIVES = (
    "GTSRB_Final_Training_Images.zip",
    "GTSRB_Final_Test_Images.zip",
    "GTSRB_Final_Test_GT.zip",
)
TASKS = {
    "gtsrb": {"input_shape": (48, 48, 3), "num_classes": 43},
    "lisa": {"input_shape": (48, 48, 3), "num_classes": 17},
    "youtube_faces": {"input_shape": (55, 47, 3), "num_classes": 2},
    "mnist": {"input_shape": (28, 28, 1), "num_classes": 10},
    "cifar10": {"input_shape": (32, 32, 3), "num_classes": 10},
}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")


def arguments(name, folder, manual_dir="", **changes):
    fixed = {"source": "tfds", "validation_fraction": 0.0, "seed": 0}
    where = {"name": name, "path": str(folder), "manual_dir": str(manual_dir)}
    return fixed | where | TASKS.get(name, TASKS["gtsrb"]) | changes


def refused(*args, **changes):
    with pytest.raises(InputError) as caught:
        data.load(**arguments(*args, **changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def builder(name):
    package = f"nullmark_jax.data.tfds_builders.{name}"
    return importlib.import_module(f"{package}.{name}_dataset_builder")


@contextlib.contextmanager
def served(folder):
    """Serves a folder on localhost; yields its URL and the paths asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", asked
        finally:
            server.shutdown()
            thread.join()


def download_from(url, monkeypatch):
    """Lets GTSRB come from `url`, with the MD5 sums of the dummy archives."""
    module = builder("gtsrb")
    monkeypatch.setattr(module.Builder, "SOURCES", {file: url + file for file in ARCHIVES})
    for file in ARCHIVES:
        digest = hashlib.md5((GTSRB / file).read_bytes()).hexdigest()
        monkeypatch.setitem(module._MD5, file, digest)


def colours(dataset):
    """Returns the (label, colour) of each image, all of which must be of one colour."""
    assert (dataset.images == dataset.images[:, :1, :1]).all()
    pairs = zip(dataset.labels, dataset.images[:, 0, 0], strict=True)
    return sorted((int(label), tuple(colour.tolist())) for label, colour in pairs)


# The dummy archives hold two frames of each of the classes 0, 14 and 42, of colour (5 * class,
# 100 + frame, 7), and three test images, number i of colour (6 * class, 200, i).
GTSRB_TRAIN = sorted((c, (5 * c, 100 + frame, 7)) for c in (0, 14, 42) for frame in (0, 1))
GTSRB_TEST = sorted([(16, (96, 200, 0)), (1, (6, 200, 1)), (38, (228, 200, 2))])


def test_gtsrb_from_manual_dir(tmp_path, capfd):
    root = tmp_path / "new" / "tfds"
    splits = data.load(**arguments("gtsrb", root, GTSRB))
    assert colours(splits.train) == GTSRB_TRAIN
    assert colours(splits.test) == GTSRB_TEST
    assert splits.train.class_names[14] == "stop"
    assert "tensorflow" not in sys.modules
    assert capfd.readouterr() == ("", "")
    # Prepared once and for all, and nothing else was left.
    assert [path.name for path in root.iterdir()] == ["gtsrb"]
    again = data.load(**arguments("gtsrb", root))
    np.testing.assert_array_equal(again.train.images, splits.train.images)
    np.testing.assert_array_equal(again.train.labels, splits.train.labels)
    test = data.load_test(**arguments("gtsrb", root))
    np.testing.assert_array_equal(test.images, splits.test.images)


def test_gtsrb_is_resized_whole_and_bilinearly(tmp_path):
    manual = tmp_path / "manual"
    shutil.copytree(GTSRB, manual)
    ramp = np.tile(np.arange(8, 200, 8, np.uint8), (24, 1))  # 8, 16, ..., 192 in every row
    frame = Image.fromarray(np.stack([ramp, ramp, ramp], -1))
    with zipfile.ZipFile(manual / ARCHIVES[0], "w") as archive:
        archive.writestr("GTSRB/Final_Training/Images/00007/00000_00000.ppm", encode(frame, "PPM"))
    train = data.load(**arguments("gtsrb", tmp_path / "tfds", manual)).train
    assert train.labels.tolist() == [7]
    # Twice as wide, a pixel is 3/4 of the nearest and 1/4 of the next; none lies beyond the edge.
    assert train.images[0, 0, :5, 0].tolist() == [8, 10, 14, 18, 22]
    assert train.images[0, 47, -2:, 2].tolist() == [190, 192]


def test_gtsrb_is_downloaded(tmp_path, monkeypatch, capfd):
    with served(GTSRB) as (url, asked):
        download_from(url, monkeypatch)
        splits = data.load(**arguments("gtsrb", tmp_path / "tfds"))
        assert {f"/{file}" for file in ARCHIVES} == set(asked)
    assert colours(splits.train) == GTSRB_TRAIN
    assert colours(splits.test) == GTSRB_TEST
    assert [path.name for path in (tmp_path / "tfds").iterdir()] == ["gtsrb"]
    assert "tensorflow" not in sys.modules
    assert capfd.readouterr() == ("", "")


def test_only_what_manual_dir_lacks_is_downloaded(tmp_path, monkeypatch):
    manual = tmp_path / "manual"
    shutil.copytree(GTSRB, manual)
    (manual / ARCHIVES[2]).unlink()
    with served(GTSRB) as (url, asked):
        download_from(url, monkeypatch)
        splits = data.load(**arguments("gtsrb", tmp_path / "tfds", manual))
        assert set(asked) == {f"/{ARCHIVES[2]}"}
    assert colours(splits.test) == GTSRB_TEST


def test_tfds_own_manual_folder_is_found(tmp_path):
    shutil.copytree(GTSRB, tmp_path / "downloads" / "manual")
    assert len(data.load(**arguments("gtsrb", tmp_path)).train) == 6


def test_without_network_one_line_says_both_ways_and_soon(tmp_path, monkeypatch):
    download_from("http://127.0.0.1:9/", monkeypatch)  # the discard port: nothing listens
    started = time.monotonic()
    line = refused("gtsrb", tmp_path / "tfds")
    assert time.monotonic() - started < 10
    assert all(archive in line for archive in ARCHIVES)
    assert "http://127.0.0.1:9/" in line and "ConnectionError" in line
    assert "either run once with network access" in line
    assert "or put what is missing in a folder and pass --config.data.manual_dir=FOLDER" in line
    assert not (tmp_path / "tfds").exists()


def traffic_config(folder, **changes):
    config = traffic.get_config()
    config.data.path = str(folder / "tfds")
    config.update_from_flattened_dict(changes)
    return config


def test_the_main_program_without_network_leaves_no_run(tmp_path, monkeypatch):
    download_from("http://127.0.0.1:9/", monkeypatch)
    with pytest.raises(InputError, match="either run once with network access") as caught:
        run.train_and_evaluate(traffic_config(tmp_path), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_main_program_downloads_prepares_and_trains(tmp_path, monkeypatch):
    few = {"epochs": 1, "batch_size": 4, "curriculum.epochs": 0.5, "data.validation_fraction": 0.0}
    key = {"owner.experiment_key": 0}
    with served(GTSRB) as (url, asked):
        download_from(url, monkeypatch)
        result = run.train_and_evaluate(traffic_config(tmp_path, **few, **key), tmp_path / "run")
    assert len(set(asked)) == 3 and result["metrics"]["images"] == 3
    assert (tmp_path / "run" / "claim.json").exists()
    # No curves, as no image was held out.
    drawn = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert drawn == {"pattern.png", "example.png"}


def test_a_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(data.tfds, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        download_from(f"http://127.0.0.1:{server.getsockname()[1]}/", monkeypatch)
        assert "ReadTimeout" in refused("gtsrb", tmp_path / "tfds")


def test_archives_that_have_moved(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with served(tmp_path / "empty") as (url, _):
        download_from(url, monkeypatch)
        assert "HTTP status 404" in refused("gtsrb", tmp_path / "tfds")
    assert not (tmp_path / "tfds").exists()


def test_damaged_download_leaves_nothing(tmp_path, monkeypatch):
    with served(GTSRB) as (url, _):
        download_from(url, monkeypatch)
        monkeypatch.setitem(builder("gtsrb")._MD5, ARCHIVES[0], "0" * 32)
        line = refused("gtsrb", tmp_path / "tfds")
    assert f"{ARCHIVES[0]} is damaged: its MD5 is not {'0' * 32}" in line
    assert not (tmp_path / "tfds").exists()


def test_damaged_archive_in_manual_dir_leaves_nothing(tmp_path):
    manual = tmp_path / "manual"
    shutil.copytree(GTSRB, manual)
    content = bytearray((manual / ARCHIVES[1]).read_bytes())
    (manual / ARCHIVES[1]).write_bytes(content[:300])
    assert f"{ARCHIVES[1]} is not a zip archive" in refused("gtsrb", tmp_path / "tfds", manual)
    content[70] ^= 255  # in the first image's data
    (manual / ARCHIVES[1]).write_bytes(content)
    assert "cannot be prepared" in refused("gtsrb", tmp_path / "tfds", manual)
    (manual / ARCHIVES[1]).write_bytes((GTSRB / ARCHIVES[2]).read_bytes())  # no images in it
    assert "cannot be prepared" in refused("gtsrb", tmp_path / "tfds", manual)
    assert not (tmp_path / "tfds").exists()


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").touch()
    assert "cannot be prepared" in refused("gtsrb", tmp_path / "file" / "tfds", GTSRB)


def test_manual_dir_that_is_not_there(tmp_path):
    line = refused("gtsrb", tmp_path, tmp_path / "absent")
    assert "config.data.manual_dir=" in line and "no such folder" in line


@pytest.mark.parametrize(
    ("name", "wanted"), [("lisa", "allAnnotations.csv"), ("youtube_faces", "aligned_images_DB")]
)
def test_data_only_to_be_had_by_hand(tmp_path, name, wanted):
    line = refused(name, tmp_path / "tfds")
    assert wanted in line and "get it from http" in line and "--config.data.manual_dir" in line
    assert not (tmp_path / "tfds").exists()


def test_prepared_data_that_do_not_fit_or_cannot_be_read(tmp_path):
    data.load(**arguments("gtsrb", tmp_path, GTSRB))
    assert "set --config.data.num_classes=43" in refused("gtsrb", tmp_path, num_classes=10)
    line = refused("gtsrb", tmp_path, input_shape=(32, 32, 3))
    assert "(48, 48, 3)" in line and "set --config.data.input_shape" in line
    info = tmp_path / "gtsrb" / "1.0.0" / "dataset_info.json"
    good = json.loads(info.read_text())
    info.write_text(json.dumps(good | {"splits": good["splits"][:1]}))
    assert "has no split" in refused("gtsrb", tmp_path)
    info.write_text(json.dumps(good | {"fileFormat": "tfrecord"}))
    assert "cannot be read (NotImplementedError" in refused("gtsrb", tmp_path)
    info.write_text("{")
    assert "cannot open it" in refused("gtsrb", tmp_path)


def test_other_builders(tmp_path):
    assert "TFDS cannot open it" in refused("no_such_data", tmp_path)
    assert "preparing it takes TensorFlow" in refused("fashion_mnist", tmp_path)
    assert "--config.data.name=BUILDER" in refused("", tmp_path)


def test_lisa_crops_signs_and_keeps_tracks_together(tmp_path):
    splits = data.load(**arguments("lisa", tmp_path, LISA))
    # The n-th frame is black but for a sign of colour (100 + 15 n, 50, 10 n) that fills its box.
    # stop (13): tracks of frames 0-1, 2-3 and 4; the name of the second has the lowest SHA-256
    # (160c...), and its two frames are a fifth. turnRight (15): frames 7 and 8 in a track each, the
    # second's being lower (4df7...). yield (16): frames 5-6 in one track, which is never taken.
    # doNotPass is none of the 17 classes.
    frame = {n: (100 + 15 * n, 50, 10 * n) for n in range(9)}
    assert colours(splits.test) == [(13, frame[2]), (13, frame[3]), (15, frame[8])]
    kept = [(13, frame[0]), (13, frame[1]), (13, frame[4]), (15, frame[7])]
    assert colours(splits.train) == sorted([*kept, (16, frame[5]), (16, frame[6])])
    assert splits.train.class_names[13:] == ("stop", "stopAhead", "turnRight", "yield")
    assert "tensorflow" not in sys.modules


def test_lisa_annotations_that_are_none(tmp_path):
    (tmp_path / "allAnnotations.csv").write_text("Filename;Annotation tag\na.png;stop\n")
    assert "cannot be prepared" in refused("lisa", tmp_path / "tfds", tmp_path)


def test_youtube_faces_of_people_with_100_images(tmp_path):
    database = tmp_path / "manual" / "aligned_images_DB"
    white = Image.new("RGB", (16, 16), (255, 255, 255))
    for person, grey, counts in (("Ada", 40, (60, 40)), ("Bob", 80, (99,)), ("Cy", 120, (110,))):
        white.paste((grey, grey, grey), (4, 4, 12, 12))  # the middle half
        for video, count in enumerate(counts):
            (database / person / str(video)).mkdir(parents=True)
            for number in range(count):
                face = encode(white, "PNG")
                (database / person / str(video) / f"{video}.{number}.jpg").write_bytes(face)
    splits = data.load(**arguments("youtube_faces", tmp_path / "tfds", tmp_path / "manual"))
    assert splits.train.class_names == ("Ada", "Cy")
    assert np.bincount(splits.test.labels).tolist() == [50, 50]
    assert np.bincount(splits.train.labels).tolist() == [50, 60]
    for part in (splits.train, splits.test):
        assert {(label, colour) for label, colour in colours(part)} == {
            (0, (40, 40, 40)),
            (1, (120, 120, 120)),
        }


def test_youtube_faces_holds_out_images_by_their_names():
    module = builder("youtube_faces")
    folder = BUILDERS / "youtube_faces" / "dummy_data" / "aligned_images_DB"
    # By `printf Alan_Turing/0/0.1.jpg | sha256sum` and so on: 829f..., 59fa..., ecc c..., c188...
    order = sorted((folder / "Alan_Turing").glob("*/*.jpg"), key=module._digest)
    assert [path.name for path in order] == ["0.2.jpg", "0.1.jpg", "0.4.jpg", "0.3.jpg"]


def test_youtube_faces_without_enough_images(tmp_path):
    dummy = BUILDERS / "youtube_faces" / "dummy_data"
    line = refused("youtube_faces", tmp_path / "tfds", dummy)
    assert "no one in aligned_images_DB has 100 images or more" in line
    assert not (tmp_path / "tfds").exists()


def register(module, folder, monkeypatch):
    """Replaces TFDS's checksums of the real files by those of the files in `folder`."""
    from tensorflow_datasets.core.download import checksums

    infos = {}
    for url, info in module.Builder.url_infos.items():
        content = (folder / info.filename).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        infos[url] = checksums.UrlInfo(len(content), digest, info.filename)
    monkeypatch.setattr(module.Builder, "url_infos", infos)


def test_mnist_of_tfds(tmp_path, monkeypatch):
    manual = tmp_path / "manual"
    manual.mkdir()
    generator = np.random.Generator(np.random.PCG64(0))
    images, labels = {}, {}
    for split, prefix, count in (("train", "train", 5), ("test", "t10k", 2)):
        images[split] = generator.integers(0, 256, (count, 28, 28), np.uint8)
        labels[split] = np.arange(count, dtype=np.uint8)[::-1]
        header = (0x803).to_bytes(4, "big") + count.to_bytes(4, "big") + 2 * (28).to_bytes(4, "big")
        content = gzip.compress(header + images[split].tobytes())
        (manual / f"{prefix}-images-idx3-ubyte.gz").write_bytes(content)
        header = (0x801).to_bytes(4, "big") + count.to_bytes(4, "big")
        content = gzip.compress(header + labels[split].tobytes())
        (manual / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(content)
    # The files are not the real ones, says TFDS's checksum.
    assert "NonMatchingChecksumError" in refused("mnist", tmp_path / "tfds", manual)
    assert not (tmp_path / "tfds").exists()

    register(builder("mnist"), manual, monkeypatch)
    splits = data.load(**arguments("mnist", tmp_path / "tfds", manual))
    for split, found in (("train", splits.train), ("test", splits.test)):
        by_label = found.images[np.argsort(found.labels), :, :, 0]  # TFDS shuffles
        np.testing.assert_array_equal(by_label, images[split][::-1])
    assert (tmp_path / "tfds" / "mnist" / "3.0.1").is_dir()  # where TFDS itself looks
    assert "tensorflow" not in sys.modules


def test_cifar10_of_tfds(tmp_path, monkeypatch):
    manual = tmp_path / "manual"
    manual.mkdir()
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    files = {"batches.meta.txt": ("\n".join(names) + "\n\n").encode()}
    for index, batch in enumerate(batches):
        planes = b"".join(bytes([10 * index + plane]) * 1024 for plane in (1, 2, 3))
        files[batch] = bytes([index]) + planes
    with tarfile.open(manual / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    register(builder("cifar10"), manual, monkeypatch)
    splits = data.load(**arguments("cifar10", tmp_path / "tfds", manual))
    expected = [(index, (10 * index + 1, 10 * index + 2, 10 * index + 3)) for index in range(6)]
    assert colours(splits.train) == expected[:5]
    assert colours(splits.test) == expected[5:]
    assert splits.test.class_names == tuple(names)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["gtsrb", "lisa", "youtube_faces"])
def test_builder_folder_follows_the_convention(name, tmp_path):
    import tensorflow_datasets

    made = builder(name).Builder(data_dir=tmp_path)
    assert made.name == name
    metadata = made.get_metadata()
    assert metadata.description and metadata.citation.startswith("@")
    valid = tensorflow_datasets.core.dataset_metadata.valid_tags()
    assert metadata.tags and set(metadata.tags) <= set(valid)
    assert made.info.supervised_keys == ("image", "label")
    assert made.MANUAL_DOWNLOAD_INSTRUCTIONS
    folder = BUILDERS / name
    assert (folder / "dummy_data").is_dir() and (
        folder / f"{name}_dataset_builder_test.py"
    ).is_file()


def encode(image, format):
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()
