"""The commit in a result: git's own where there is git, else what the environment says."""

import pathlib
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
