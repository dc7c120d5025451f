"""Images that stay in their file: the same as those in memory, read row by row, and checked in parts."""

import pathlib
import re
import zipfile
import zlib

import numpy as np
import pytest
from test_data_npz import SHAPE, arguments, arrays

from nullmark_jax import data, run
from nullmark_jax.data.mapped import MappedImages, _joined
from nullmark_jax.errors import InputError


def mapped(path, **changes):
    return data.load(**arguments(str(path), **changes), mapped=True)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays())
    return path


def start_of(path, name):
    """Returns where an array's pixels begin in the file, found by their content."""
    return path.read_bytes().index(arrays()[name].tobytes())


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_they_are_those_in_memory(file, fraction):
    ours = mapped(file, validation_fraction=fraction, seed=3)
    theirs = data.load(**arguments(str(file), validation_fraction=fraction, seed=3))
    for name, split in vars(theirs).items():
        own = vars(ours)[name]
        assert isinstance(own.images, MappedImages) and isinstance(split.images, np.ndarray)
        for field in ("dtype", "ndim", "shape", "nbytes"):
            assert getattr(own.images, field) == getattr(split.images, field)
        assert len(own) == len(own.images) == len(split)
        np.testing.assert_array_equal(own.labels, split.labels)
        np.testing.assert_array_equal(own.images, split.images)
        np.testing.assert_array_equal(own.in_memory().images, split.images)
        assert type(own.in_memory().images) is np.ndarray
        if len(split):
            index = np.array([[0, len(split) - 1], [0, 0]])
            picked = own.images[index]
            assert type(picked) is np.ndarray and picked.shape == (2, 2, *SHAPE)
            np.testing.assert_array_equal(picked, split.images[index])


def test_rows_of_rows(file):
    images = mapped(file).train.images.take(np.array([5, 1, 3])).take(np.array([2, 0]))
    np.testing.assert_array_equal(images, arrays()["x_train"][[3, 5]])


def test_a_row_is_read_when_it_is_picked(file):
    images = mapped(file).train.images
    size = int(np.prod(SHAPE))
    flip(file, start_of(file, "x_train") + 4 * size)
    expected = arrays()["x_train"]
    expected[4].flat[0] ^= 1
    np.testing.assert_array_equal(images[np.array([3, 4])], expected[[3, 4]])


def resident(path):
    """Returns how many bytes of a file's pages this process has touched, by Linux's account."""
    of_file = False
    total = 0
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            of_file = line.rstrip().endswith(str(path))
        elif of_file and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


def test_no_others_are_read(tmp_path):
    path = tmp_path / "large.npz"
    shape, count = (32, 32, 3), 20_000
    labels = np.arange(count) % 3
    np.savez(
        path,
        x_train=np.zeros((count, *shape), np.uint8),
        y_train=labels,
        x_test=np.zeros((3, *shape), np.uint8),
        y_test=labels[:3],
    )
    splits = mapped(path, input_shape=shape, validation_fraction=0.1)
    splits.train.images[np.array([100, 9_000, 17_000])]
    # Three rows of 3 KiB; the system maps up to 2 MiB around each. All are 59 MiB.
    assert 0 < resident(path) < 10 << 20


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"x_train": arrays()["x_train"][..., 0], "x_test": arrays()["x_test"][..., 0]}
        ),
        pytest.param({"x_train": np.asfortranarray(arrays()["x_train"])}),
    ],
    ids=["no channel axis", "fortran"],
)
def test_other_layouts(tmp_path, changes):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays(**changes))
    fortran = np.ndim(changes["x_train"]) == 4
    shape = SHAPE if fortran else (*SHAPE[:2], 1)
    images = mapped(path, input_shape=shape).train.images
    assert isinstance(images, MappedImages) == (not fortran)
    np.testing.assert_array_equal(images, changes["x_train"].reshape(-1, *shape))


def test_what_is_compressed_is_read_whole(tmp_path):
    path = tmp_path / "own.npz"
    np.savez_compressed(path, **arrays())
    images = mapped(path).train.images
    assert isinstance(images, np.ndarray)
    np.testing.assert_array_equal(images, arrays()["x_train"])


def test_a_member_with_fields_of_its_own_before_its_content(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(tmp_path / "plain.npz", **arrays())
    with zipfile.ZipFile(tmp_path / "plain.npz") as plain, zipfile.ZipFile(path, "w") as archive:
        for name in plain.namelist():
            member = zipfile.ZipInfo(name)
            member.extra = b"\xfe\xca\x05\x00abcde"
            archive.writestr(member, plain.read(name))
    splits = mapped(path)
    np.testing.assert_array_equal(splits.train.images, arrays()["x_train"])
    run.check_whole(splits)


# What was damaged is found by parts, whichever of them it is in.


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_the_parts_crcs_are_the_whole_s(file, parts):
    images = mapped(file).train.images
    images.check_whole(np.array([images.crc_of_part(part, parts) for part in range(parts)]))


@pytest.mark.parametrize("at", [0, 25_000, 59_999])
def test_a_flipped_bit_is_found_in_one_line(tmp_path, at):
    file = tmp_path / "own.npz"
    x_train = np.random.default_rng(0).integers(0, 256, (1_000, *SHAPE), np.uint8)
    np.savez(file, **arrays(x_train=x_train, y_train=np.zeros(1_000, int)))
    flip(file, file.read_bytes().index(x_train.tobytes()) + at)
    # Of a smaller array zipfile has seen it all with its header.
    images = mapped(file).train.images
    for parts in (1, 2, 3):
        crcs = np.array([images.crc_of_part(part, parts) for part in range(parts)])
        with pytest.raises(InputError, match=r"own.npz': x_train cannot be read \(Bad CRC-32\)"):
            images.check_whole(crcs)
    with pytest.raises(InputError, match=r"the file is damaged$"):
        run.check_whole(mapped(file))


def test_parts_are_read_in_chunks(tmp_path):
    """More than one of a mebibyte, and not a whole number of them."""
    path = tmp_path / "own.npz"
    generator = np.random.default_rng(0)
    x_train = generator.integers(0, 256, (60_000, *SHAPE), np.uint8)
    np.savez(path, **arrays(x_train=x_train, y_train=np.zeros(60_000, int)))
    images = mapped(path).train.images
    images.check_whole(np.array([images.crc_of_part(part, 2) for part in range(2)]))


@pytest.mark.parametrize("length", [0, 1, 5, 300, 2**20 + 7])
def test_crcs_of_what_stands_one_behind_the_other(length):
    generator = np.random.default_rng(length)
    first, second = generator.bytes(1_000), generator.bytes(length)
    joined = _joined(zlib.crc32(first), zlib.crc32(second), length)
    assert joined == zlib.crc32(first + second)
