"""Libraries that stand before libc's calls, compiled for a test."""

import pathlib
import subprocess


def library(name: str, source: str, folder: pathlib.Path) -> pathlib.Path:
    """Compiles C into a folder; returns what LD_PRELOAD takes."""
    code, built = folder / f"{name}.c", folder / f"{name}.so"
    code.write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", built, code, "-ldl"], check=True)
    return built
