"""XLA_FLAGS: set where the installed jaxlib knows the flag, and never over the user's own."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys

import pytest

from nullmark_jax.xla_flags import CPU_FLAG, add, jaxlib_knows, set_cpu_flags

SHOW = "import os, nullmark_jax; print(os.environ.get('XLA_FLAGS', 'unset'))"


def run(code: str, *, path: pathlib.Path | None = None, flags: str | None = None) -> str:
    """Returns what a fresh Python prints."""
    environ = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environ["JAX_PLATFORMS"] = "cpu"
    if flags is not None:
        environ["XLA_FLAGS"] = flags
    if path is not None:
        environ["PYTHONPATH"] = os.pathsep.join([str(path), environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def jaxlib(tmp_path):
    """Returns a function that makes a jaxlib whose library holds a text, and returns where."""

    def make(text: str) -> pathlib.Path:
        package = tmp_path / "jaxlib"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "libjax_common.so").write_bytes(b"\x7fELF\0" + text.encode() + b"\0rest")
        return tmp_path

    return make


def test_importing_the_package_sets_the_flag_where_jaxlib_knows_it(jaxlib):
    where = jaxlib("xla_cpu_experimental_ynn_fusion_type")
    assert run(SHOW, path=where) == "--xla_cpu_experimental_ynn_fusion_type="
    assert run(SHOW, path=where, flags="") == "--xla_cpu_experimental_ynn_fusion_type="


def test_importing_the_package_sets_nothing_where_jaxlib_does_not_know_the_flag(jaxlib):
    where = jaxlib("xla_cpu_some_other_flag")
    assert run(SHOW, path=where) == "unset"
    assert run(SHOW, path=where, flags="--xla_a=1") == "--xla_a=1"


def test_the_users_other_flags_are_kept(jaxlib):
    where = jaxlib("xla_cpu_experimental_ynn_fusion_type")
    assert run(SHOW, path=where, flags="--xla_a=1 --xla_b") == f"--xla_a=1 --xla_b {CPU_FLAG}="


@pytest.mark.parametrize("own", [f"{CPU_FLAG}=4 --xla_a=1", f"--xla_a=1 {CPU_FLAG}="])
def test_the_users_own_value_is_kept(jaxlib, own):
    assert run(SHOW, path=jaxlib("xla_cpu_experimental_ynn_fusion_type"), flags=own) == own


def test_a_file_of_flags_is_kept(jaxlib):
    where = jaxlib("xla_cpu_experimental_ynn_fusion_type")
    assert run(SHOW, path=where, flags="/etc/xla.flags") == "/etc/xla.flags"


def test_the_installed_jaxlib_starts_with_what_was_set_before_it():
    code = (
        "import os, sys, nullmark_jax; assert 'jax' not in sys.modules;"
        "import jax.numpy as jnp; print(int(jnp.arange(4).sum()), os.environ.get('XLA_FLAGS', ''))"
    )
    shown = run(code, flags="--xla_force_host_platform_device_count=1")
    expected = "6 --xla_force_host_platform_device_count=1"
    if jaxlib_knows("xla_cpu_experimental_ynn_fusion_type"):
        expected += " --xla_cpu_experimental_ynn_fusion_type="
    assert shown == expected


def test_jaxlib_0_10_2_knows_the_flag():
    if importlib.metadata.version("jaxlib") != "0.10.2":
        pytest.skip("another jaxlib")
    assert jaxlib_knows(CPU_FLAG.removeprefix("--"))


def test_jaxlib_knows_old_flags_and_no_invented_ones():
    assert jaxlib_knows("xla_force_host_platform_device_count")
    assert not jaxlib_knows("xla_cpu_no_jaxlib_ever_had_this")


def test_setting_twice_sets_once():
    environ = {}
    set_cpu_flags(environ)
    once = dict(environ)
    set_cpu_flags(environ)
    assert environ == once


def test_a_flag_is_added_with_its_value_behind_those_there():
    # Not theirs, whose name only begins alike.
    flag = "--xla_force_host_platform_device_count"
    environ = {"XLA_FLAGS": f"{flag}s=1"}
    add(flag, "2", environ)
    assert environ == {"XLA_FLAGS": f"{flag}s=1 {flag}=2"}
    add(flag, "3", environ)
    add("--xla_cpu_no_jaxlib_ever_had_this", "2", environ)
    assert environ == {"XLA_FLAGS": f"{flag}s=1 {flag}=2"}
