"""folder.py: whose run a folder holds, and the files by which it goes on."""

import errno
import math
import re

import pytest
import tiny_task

from nullmark_jax import folder as folders
from nullmark_jax.errors import FolderBusy, InputError


def claim(folder, config):
    with folders.claim_folder(folder, config):
        pass


def names(folder):
    """Those of a folder's entries but the lock's."""
    return {entry.name for entry in folder.iterdir()} - {".lock"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def test_a_folder_is_claimed_once_and_found_again(data, tmp_path):
    config, folder = tiny_task.config(data), tmp_path / "a" / "b"
    claim(folder, config)
    text = (folder / "config.json").read_text()
    (folder / "more").write_text("kept")
    claim(folder, config)
    assert (folder / "config.json").read_text() == text
    assert (folder / "more").read_text() == "kept"


def test_what_a_killed_process_was_writing_is_no_foreign_file(data, tmp_path):
    part = tmp_path / ".config.json.0123456789abcdef.part"
    part.write_text("{")
    claim(tmp_path, tiny_task.config(data))
    assert names(tmp_path) == {"config.json"}


def test_a_folder_at_work_is_refused_until_it_is_free(data, tmp_path):
    config = tiny_task.config(data)
    part = tmp_path / ".model.0123456789abcdef.part"
    refused = r"^--workdir: another process is at work in .*; wait for it, or give another folder$"
    with folders.claim_folder(tmp_path, config):
        part.write_text("the first one's")
        with pytest.raises(FolderBusy, match=refused):
            claim(tmp_path, config)
        assert part.exists()
    claim(tmp_path, config)
    assert not part.exists()


def test_a_file_system_without_locks_is_warned_of(data, tmp_path, monkeypatch, caplog):
    def none(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folders.fcntl, "flock", none)
    claim(tmp_path, tiny_task.config(data))
    (record,) = (each for each in caplog.records if each.name == "nullmark_jax.folder")
    assert record.getMessage() == (
        f"{tmp_path}: cannot be locked (No locks available); start no second run in it"
    )


def test_another_config_s_run_is_left_alone(data, tmp_path):
    claim(tmp_path, tiny_task.config(data))
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"^--workdir: .* holds the run of another config"):
        claim(tmp_path, tiny_task.config(data, seed=1))
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("text", ["", "garbage", "{}", "[" * 10_000])
def test_a_damaged_config_json_is_one_line(data, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json differs"):
        claim(tmp_path, tiny_task.config(data))
    assert (tmp_path / "config.json").read_text() == text


def test_a_config_json_that_cannot_be_read_is_one_line(data, tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match=r"config.json: cannot be read \(Is a directory\)"):
        claim(tmp_path, tiny_task.config(data))


@pytest.mark.parametrize("name", ["x", ".hidden", "model.part"])
def test_a_foreign_folder_is_left_alone(data, tmp_path, name):
    (tmp_path / name).write_text("theirs")
    part = tmp_path / ".x.0123456789abcdef.part"
    part.write_text("theirs too")
    with pytest.raises(InputError, match=r"^--workdir: .* is not empty and holds no run"):
        claim(tmp_path, tiny_task.config(data))
    assert {entry.name for entry in tmp_path.iterdir()} == {name, part.name}


def test_a_file_in_the_folder_s_place_is_one_line(data, tmp_path):
    (tmp_path / "run").write_text("theirs")
    for folder in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(InputError, match=r": cannot be written \((File exists|Not a dir)"):
            claim(folder, tiny_task.config(data))
    assert (tmp_path / "run").read_text() == "theirs"


RECORDS = [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 0.25}, {"epoch": 3, "loss": 0.125}]


def test_the_history_comes_back_up_to_the_checkpoint(tmp_path):
    assert folders.read_history(tmp_path, 0) == []
    folders.write_history(tmp_path, RECORDS)
    for epochs in range(4):
        assert folders.read_history(tmp_path, epochs) == RECORDS[:epochs]


@pytest.mark.parametrize(
    "text",
    [
        '{"epoch": 1, "loss": 2.5}\n{"epoch": 2, "lo',
        '{"epoch": 1, "loss": 2.5}\ngarbage\n',
        '{"epoch": 1, "loss": 2.5}\n[2]\n',
        '{"epoch": 1, "loss": NaN}\n{"epoch": 2}\n',
        "\xff\xfe" * 20,
        "[" * 100_000 + "\n",
        "",
        '{"epoch": 1, "loss": 2.5}\n',
        '{"epoch": 2, "loss": 2.5}\n{"epoch": 1, "loss": 2.5}\n',
        None,
    ],
)
def test_a_damaged_history_is_one_line(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: ") as failure:
        folders.read_history(tmp_path, 2)
    assert "\n" not in str(failure.value)


def test_a_history_never_holds_what_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        folders.write_history(tmp_path, [{"epoch": 1, "loss": math.nan}])
    assert list(tmp_path.iterdir()) == []


def test_the_seconds_of_earlier_starts_come_back(tmp_path):
    assert folders.read_seconds(tmp_path, 0) == 0
    folders.write_seconds(tmp_path, 12.34)
    assert folders.read_seconds(tmp_path, 3) == 12.3


@pytest.mark.parametrize("text", ["{}", '{"seconds": "1"}', '{"seconds": NaN}', "garbage", None])
def test_damaged_seconds_are_one_line(tmp_path, text):
    path = tmp_path / "seconds.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: .*") as failure:
        folders.read_seconds(tmp_path, 2)
    assert "\n" not in str(failure.value)


def test_a_resumed_run_keeps_its_first_timestamp(tmp_path):
    assert folders.read_verifier(tmp_path) is None
    folders.write_verifier(tmp_path, owner="Ann", timestamp="2026-01-02T03:04:05Z")
    folders.write_verifier(tmp_path, owner="Ann", timestamp="2027-01-01T00:00:00Z")
    assert folders.read_verifier(tmp_path) == ("Ann", "2026-01-02T03:04:05Z")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "[]",
        '{"owner": "Ann"}',
        '{"owner": 3, "timestamp": "2026-01-02T03:04:05Z"}',
        '{"owner": "Ann", "timestamp": "now"}',
    ],
)
def test_a_damaged_verifier_json_is_one_line(tmp_path, text):
    path = tmp_path / "verifier.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: ") as failure:
        folders.read_verifier(tmp_path)
    assert "\n" not in str(failure.value)
    assert path.read_text() == text
