"""Files read up to a bound, and written whole or not at all."""

import contextlib
import errno
import os
import resource

import pytest

from nullmark_jax import files
from nullmark_jax.errors import InputError


@contextlib.contextmanager
def small_disk():
    """Lets no file grow beyond 1,000 bytes, as a full disk would not.

    No fixture: pytest's own output may be such a file, and it writes between a test and its fixtures.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_reads_up_to_the_bound(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert files.read_bounded(tmp_path / "file", 5) == b"12345"
    assert files.read_bounded(str(tmp_path / "file"), 6) == b"12345"
    with pytest.raises(InputError, match="file: longer than the 4 bytes"):
        files.read_bounded(tmp_path / "file", 4)


def test_reads_no_more_than_the_bound_of_an_endless_file():
    with pytest.raises(InputError, match="/dev/zero: longer than the 10 bytes"):
        files.read_bounded("/dev/zero", 10)


@pytest.mark.parametrize(("name", "message"), [("none", "No such file"), (".", "directory")])
def test_unreadable(tmp_path, name, message):
    with pytest.raises(InputError, match=f"cannot be read .*{message}"):
        files.read_bounded(tmp_path / name, 10)


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "file"
    for data in (b"first", b"", b"second"):
        files.write_whole(path, data)
        assert path.read_bytes() == data
        assert os.listdir(tmp_path) == ["file"]


def test_what_writes_the_bytes_itself_writes_all_or_nothing(tmp_path):
    path = tmp_path / "file"
    files.write_whole(path, lambda file: file.writelines([b"a", b"b"]))

    def dies(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"file: cannot be written \(No space left on device\)"):
        files.write_whole(path, dies)
    assert path.read_bytes() == b"ab" and os.listdir(tmp_path) == ["file"]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_whole(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    files.write_whole(path, b"x" * 1000)
    refused = pytest.raises(
        InputError, match=r"file: cannot be written .*; give a folder with room"
    )
    with refused, small_disk():
        files.write_whole(path, b"y" * 1001)
    assert path.read_bytes() == b"x" * 1000
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["none/file", "taken/file", "folder", "a\0b"])
def test_unwritable(tmp_path, name):
    (tmp_path / "taken").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        files.write_whole(tmp_path / name, b"data")
    assert sorted(os.listdir(tmp_path)) == ["folder", "taken"]


def test_nothing_is_left_when_the_caller_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.aside(tmp_path / "file", b"data") as part:
        assert part.read_bytes() == b"data"
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_input_errors_pass_through():
    for context in (files.reading("path"), files.writing("path")):
        with pytest.raises(InputError, match=r"^mine$"), context:
            raise InputError("mine")
