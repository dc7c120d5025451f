"""Of a result's environment: the commit, git's own where there is git, and the processor."""

import pathlib
import platform
import subprocess

from nullmark_jax import environment


def test_in_git_the_commit_is_the_trees_own(monkeypatch):
    monkeypatch.setenv("NULLMARK_COMMIT", "f" * 40)
    here = pathlib.Path(environment.__file__).parent
    said = subprocess.run(
        ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert environment.describe("")["commit"].rstrip("+") == said.stdout.strip()


def test_a_copy_outside_git_has_the_commit_that_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    monkeypatch.delenv("NULLMARK_COMMIT", raising=False)
    assert environment.describe("")["commit"] == ""
    monkeypatch.setenv("NULLMARK_COMMIT", "f" * 40)
    assert environment.describe("")["commit"] == "f" * 40


def test_the_processor_is_the_kernel_s_name_of_it_and_elsewhere_what_python_knows(monkeypatch):
    cores = (
        "processor\t: 0\nmodel name\t: Abacus 3000: fast\n\nprocessor\t: 1\nmodel name\t: Other\n"
    )
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: cores)
    assert environment.describe("")["processor"] == "Abacus 3000: fast"

    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(pathlib.Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "abacus64")
    assert environment.describe("")["processor"] == "abacus64"
