"""Compiled programs are kept from start to start, and change no result; in fresh processes."""

import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import nullmark_jax
import jax, jax.monitoring
import jax.numpy as jnp
from nullmark_jax import compilation_cache, process

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
process.prepare()

@jax.jit
def slow_to_compile(x):
    for i in range(60):
        x = jnp.sin(x @ x + i) / 8
    return x

answer = slow_to_compile(jnp.linspace(0, 1, 64).reshape(8, 8))
hits = sum("cache_hits" in event for event in events)
print(json.dumps({
    "folder": jax.config.jax_compilation_cache_dir,
    "size": jax.config.jax_compilation_cache_max_size,
    "hits": hits,
    "answer": answer.tobytes().hex(),
}))
"""


def start(home, program=PROGRAM, **environ):
    """Runs a program with a cache home, compiled as users do; returns what it found, and its stderr.

    The suite's own flags compile it in less time than is worth a file.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, "XDG_CACHE_HOME": str(home), **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return home, *start(home)


def entries(folder):
    return sorted(pathlib.Path(folder).glob("*-cache"))


def test_the_second_start_loads_what_the_first_compiled(first):
    home, found, errors = first
    assert found["hits"] == 0 and not errors
    again, _ = start(home)
    assert again["hits"] >= 1
    assert again["answer"] == found["answer"]


def test_the_folder_is_the_user_s_alone_and_of_a_capped_size(first):
    home, found, _ = first
    folder = pathlib.Path(found["folder"])
    assert folder.parent == home / "nullmark_jax" and entries(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert found["size"] == 2**27


@pytest.mark.slow
def test_beyond_the_size_what_was_used_longest_ago_goes(first, tmp_path):
    _, found, _ = first
    each = max(path.stat().st_size for path in entries(found["folder"]))
    cap = {"JAX_COMPILATION_CACHE_MAX_SIZE": str(int(2.5 * each))}
    made = []
    for number in range(4):  # Programs of much the same size, of which two fit.
        there, _ = start(tmp_path, PROGRAM.replace("/ 8", f"/ {9 + number}"), **cap)
        kept = entries(there["folder"])
        assert sum(path.stat().st_size for path in kept) <= 2.5 * each
        # On a busy machine smaller ones may take long enough to be kept, too.
        slow = {path for path in kept if path.name.startswith("jit_slow_to_compile")}
        made += sorted(slow - set(made))
    assert there["size"] == int(2.5 * each)
    assert len(made) == 4 and slow == set(made[2:])


# In a home of their own: an entry is of its folder's path, too.


@pytest.mark.slow
def test_a_damaged_entry_is_compiled_anew(tmp_path):
    found, _ = start(tmp_path)
    kept = entries(found["folder"])
    assert start(tmp_path)[0]["hits"] == len(kept) > 0
    for entry in entries(found["folder"]):
        data = bytearray(entry.read_bytes())
        data[len(data) // 2] ^= 1
        entry.write_bytes(data)
    again, _ = start(tmp_path)
    assert (again["hits"], again["answer"]) == (0, found["answer"])


@pytest.mark.slow
def test_what_a_killed_process_had_half_written_is_compiled_and_kept_anew(tmp_path):
    found, _ = start(tmp_path)
    for entry in entries(found["folder"]):
        entry.write_bytes(entry.read_bytes()[:100])
        entry.with_name(entry.name.replace("-cache", "-atime")).unlink()
        os.utime(entry, (0, 0))
    again, _ = start(tmp_path)
    assert (again["hits"], again["answer"]) == (0, found["answer"])
    # Another may take just about as long as is worth a file.
    (kept,) = (each for each in entries(found["folder"]) if "slow_to_compile" in each.name)
    assert kept.stat().st_size > 100
    young = kept.with_name("another-cache")  # Which another process may be writing.
    young.write_bytes(b"half")
    assert start(tmp_path)[0]["hits"] > 0 and young.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "environ",
    [{"JAX_ENABLE_COMPILATION_CACHE": "false"}, {"JAX_COMPILATION_CACHE_DIR": "own"}],
)
def test_jax_s_own_settings_stand(environ, tmp_path):
    if "JAX_COMPILATION_CACHE_DIR" in environ:
        environ = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")}
    found, _ = start(tmp_path / "home", **environ)
    assert found["folder"] == environ.get("JAX_COMPILATION_CACHE_DIR")
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_a_size_of_the_user_s_own_stands(first):
    home, _, _ = first
    found, _ = start(home, JAX_COMPILATION_CACHE_MAX_SIZE="123456789")
    assert found["size"] == 123456789


def test_a_folder_that_others_may_write_to_is_not_used(first, tmp_path):
    _, found, _ = first
    folder = tmp_path / "home" / "nullmark_jax" / pathlib.Path(found["folder"]).name
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    again, errors = start(tmp_path / "home")
    assert again["folder"] is None and not entries(folder)
    assert again["answer"] == found["answer"]
    (line,) = errors.splitlines()
    assert line.endswith(f"compiled anew at each start: others may write to {folder}")


@pytest.mark.slow
def test_a_home_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "home").write_text("a file")
    found, errors = start(tmp_path / "home")
    assert found["folder"] is None
    assert len(errors.splitlines()) == 1 and "compiled anew at each start" in errors
