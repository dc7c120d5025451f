"""The keygen program, through its command line."""

import subprocess
import sys

import pytest

from nullmark_jax import keygen, signing


def run(*arguments):
    return keygen.main(["keygen", *map(str, arguments)])


def test_makes_a_key(tmp_path, capsys):
    assert run(f"--out={tmp_path}/keys") == 0
    key = signing.read_key(tmp_path / "keys" / "owner.key")
    assert signing.read_public_key(tmp_path / "keys" / "owner.pub") == key.public_key
    printed = capsys.readouterr()
    assert key.public_key.hex() in printed.out and printed.err == ""
    secret = (tmp_path / "keys" / "owner.key").read_text().split()[-1]
    assert secret not in printed.out


def test_makes_a_sealed_key(tmp_path, capsys):
    (tmp_path / "passphrase").write_bytes(b"open sesame\n")
    assert run("--out", tmp_path, "--passphrase_file", tmp_path / "passphrase") == 0
    assert " argon2id " in (tmp_path / "owner.key").read_text()
    signing.read_key(tmp_path / "owner.key", b"open sesame")
    assert "open sesame" not in capsys.readouterr().out


def test_makes_another_key_each_time(tmp_path):
    assert run(f"--out={tmp_path}/a") == run(f"--out={tmp_path}/b") == 0
    public = [signing.read_public_key(tmp_path / name / "owner.pub") for name in "ab"]
    assert public[0] != public[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out"),
        (["--out=keys", "--size=2048"], "size"),
        (["--out=keys", "more"], "'more': is not a flag"),
        (["--out=keys", "--passphrase_file=none"], "none: cannot be read"),
        (["--out=keys", "--passphrase_file=empty"], "passphrase: give 1 to 4096 bytes"),
        (["--out=empty"], "cannot be written"),
    ],
)
def test_bad_command_lines_leave_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and message in printed.err and printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_second_run_keeps_the_first_key(tmp_path, capsys):
    assert run(f"--out={tmp_path}") == 0
    before = (tmp_path / "owner.key").read_bytes()
    assert run(f"--out={tmp_path}") == 2
    assert "never overwritten" in capsys.readouterr().err
    assert (tmp_path / "owner.key").read_bytes() == before


def test_help(capsys):
    assert run("--help") == 0
    assert "--out" in capsys.readouterr().out.replace("--[no]", "--")


def test_as_a_program(tmp_path):
    command = [sys.executable, "-m", "nullmark_jax.keygen", f"--out={tmp_path}"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stdout == "" and again.stderr.count("\n") == 1
