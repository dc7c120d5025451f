"""The .npz source: what it accepts; all else is one clear line, and nothing is unpickled."""

import io
import os
import zipfile

import numpy as np
import pytest

from nullmark_jax import data, run
from nullmark_jax.errors import InputError

SHAPE, NUM_CLASSES = (4, 5, 3), 3


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (os.abort, ())


def arrays(**changes):
    """Returns a good file's arrays, changed; None leaves one out."""
    generator = np.random.Generator(np.random.PCG64(0))
    good = {
        "x_train": generator.integers(0, 256, (6, *SHAPE), np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": generator.integers(0, 256, (3, *SHAPE), np.uint8),
        "y_test": np.array([2, 1, 0]),
    }
    return {key: value for key, value in (good | changes).items() if value is not None}


def write(folder, **changes):
    path = folder / "own.npz"
    np.savez(path, **arrays(**changes))
    return str(path)


def arguments(path, **changes):
    return {
        "source": "npz",
        "name": "",
        "path": path,
        "manual_dir": "",
        "input_shape": SHAPE,
        "num_classes": NUM_CLASSES,
        "validation_fraction": 0.0,
        "seed": 0,
    } | changes


def refused(path, **changes):
    """Returns the one line with which load() refuses a file, which names the file."""
    with pytest.raises(InputError) as caught:
        data.load(**arguments(path, **changes))
    line = str(caught.value)
    assert "\n" not in line
    assert path in line
    return line


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", ">i4"])
def test_any_integer_labels(tmp_path, dtype):
    splits = data.load(**arguments(write(tmp_path, y_train=arrays()["y_train"].astype(dtype))))
    assert splits.train.labels.dtype == np.int32
    assert splits.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(splits.train.images, arrays()["x_train"])
    np.testing.assert_array_equal(splits.test.images, arrays()["x_test"])
    assert splits.test.class_names == ("0", "1", "2")


def test_images_without_a_channel_axis_have_one_channel(tmp_path):
    x_train, x_test = (arrays()[key][..., 0] for key in ("x_train", "x_test"))
    path = write(tmp_path, x_train=x_train, x_test=x_test)
    splits = data.load(**arguments(path, input_shape=(4, 5, 1)))
    np.testing.assert_array_equal(splits.train.images, x_train[..., None])
    assert "shape (4, 5, 1)" in refused(path)


def test_compressed_and_fortran_ordered_arrays(tmp_path):
    path = tmp_path / "own.npz"
    fortran = {key: np.asfortranarray(value) for key, value in arrays().items()}
    np.savez_compressed(path, more=np.zeros(3), **fortran)
    splits = data.load(**arguments(str(path)))
    np.testing.assert_array_equal(splits.train.images, arrays()["x_train"])


def test_home_is_expanded(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(data.load(**arguments("~/own.npz")).train) == 6


def test_the_test_split_alone_needs_no_training_arrays(tmp_path):
    path = write(tmp_path, x_train=None, y_train=None)
    test = data.load_test(**arguments(path))
    np.testing.assert_array_equal(test.images, arrays()["x_test"])
    assert "no array x_train and no array y_train (it has ['x_test', 'y_test'])" in refused(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "no array y_test (it has ['x_train', 'y_train', 'x_test'])"),
        ({"x_train": arrays()["x_train"] / 255}, "x_train is float64; must be uint8"),
        ({"x_train": arrays()["x_train"].astype(np.int16)}, "x_train is int16; must be uint8"),
        ({"x_train": arrays()["x_train"].reshape(6, -1)}, "x_train has shape (6, 60)"),
        ({"x_train": np.array(7, np.uint8)}, "x_train has shape ()"),
        ({"x_train": arrays()["x_train"][:, :3]}, "images of shape (3, 5, 3)"),
        ({"x_train": arrays()["x_train"][:0]}, "x_train is empty"),
        ({"y_train": np.zeros(6)}, "y_train is float64; must be integers"),
        ({"y_train": np.zeros(6, bool)}, "y_train is bool; must be integers"),
        ({"y_train": np.zeros((6, 1), int)}, "y_train has shape (6, 1); must be (6,)"),
        ({"y_train": np.zeros(5, int)}, "y_train has shape (5,); must be (6,)"),
        ({"y_test": np.array([0, 1, 3])}, "labels 0..3; must lie in [0, 3)"),
        ({"y_test": np.array([0, 1, -1])}, "labels -1..1; must lie in [0, 3)"),
        ({"y_test": np.array([0, 1, 2**64 - 1], np.uint64)}, f"labels 0..{2**64 - 1}"),
        ({"y_test": np.array([0, "1", None], object)}, "y_test holds Python objects"),
        ({"x_test": np.array([Bomb()] * 3, object)}, "x_test holds Python objects"),
        ({"x_test": np.zeros(3, [("a", object)])}, "x_test holds Python objects"),
    ],
)
def test_bad_arrays(tmp_path, changes, message):
    assert message in refused(write(tmp_path, **changes))


def test_no_such_file(tmp_path):
    assert "no such file" in refused(str(tmp_path / "absent.npz"))
    assert "no such file" in refused(str(tmp_path))
    assert "--config.data.path=FILE" in refused("")


def test_unreadable_file(tmp_path):
    path = write(tmp_path)
    os.chmod(path, 0)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads everything")
    assert "cannot be read (Permission denied)" in refused(path)


def test_other_files(tmp_path):
    path = tmp_path / "own.npz"
    np.save(tmp_path / "own.npy", arrays()["x_train"])
    for content in (b"", b"\x80\x04N.", os.urandom(5000), (tmp_path / "own.npy").read_bytes()):
        path.write_bytes(content)
        assert "not an .npz file" in refused(str(path))


def npy(array, header=None):
    """Returns the .npy bytes of an array, its header's text replaced."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    content = buffer.getvalue()
    if header is None:
        return content
    size = int.from_bytes(content[8:10], "little")
    return content[:10] + header.encode().ljust(size - 1) + b"\n" + content[10 + size :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x_train is not a readable NumPy array"),
        (b"\x80\x04N.", "x_train is not a readable NumPy array"),
        (npy(arrays()["x_train"])[:40], "x_train is not a readable NumPy array"),
        (npy(arrays()["x_train"])[:-1], "says uint8 (6, 4, 5, 3) but has 359 bytes"),
        (npy(arrays()["x_train"]) + b"0", "says uint8 (6, 4, 5, 3) but has 361 bytes"),
        (npy(arrays()["x_train"], "{'descr': '|u1'"), "x_train is not a readable NumPy array"),
        (
            npy(arrays()["x_train"], "__import__('os').abort()"),
            "x_train is not a readable NumPy array",
        ),
        (
            b"\x93NUMPY\x09\x00" + npy(arrays()["x_train"])[8:],
            "x_train is not a readable NumPy array",
        ),
        (
            npy(
                arrays()["x_train"],
                "{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999999999999, 4, 5, 3)}",
            ),
            "but has 360 bytes",
        ),
        (
            npy(
                arrays()["x_train"],
                "{'descr': '|u1', 'fortran_order': False, 'shape': (-6, -4, 5, 3)}",
            ),
            "but has 360 bytes",
        ),
    ],
)
def test_forged_array(tmp_path, content, message):
    path = write(tmp_path, x_train=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", content)
    assert message in refused(path)


def test_encrypted_flag(tmp_path):
    path = write(tmp_path)
    with open(path, "rb") as file:
        content = bytearray(file.read())
    content[6] |= 1  # the first local header's flags: x_train is encrypted
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with open(path, "wb") as file:
        file.write(content)
    assert "x_train is not a readable NumPy array" in refused(path)


@pytest.mark.parametrize(("compressed", "mapped"), [(False, False), (True, False), (False, True)])
def test_damaged_anywhere_is_one_line_or_the_same_data(tmp_path, compressed, mapped):
    path = tmp_path / "own.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays())
    content = path.read_bytes()
    generator = np.random.Generator(np.random.PCG64(1))
    for trial in range(60):
        damaged = bytearray(content)
        if trial % 3:
            for _ in range(trial % 3):
                damaged[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
        else:
            del damaged[generator.integers(len(content)) :]
        path.write_bytes(damaged)
        try:
            splits = data.load(**arguments(str(path)), mapped=mapped)
            run.check_whole(splits)
        except InputError as error:
            assert "\n" not in str(error)
            continue
        np.testing.assert_array_equal(splits.train.images, arrays()["x_train"])
        np.testing.assert_array_equal(splits.test.images, arrays()["x_test"])
