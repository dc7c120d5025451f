"""Compiled programs kept from start to start, in the user's cache folder, least recently used dropped first.

What XLA made is loaded again where the program, its shapes, the compiler's flags and the machine are the
same, so that results are the same bytes with and without. An entry that was damaged fails zlib's checksum and
is compiled anew (jax prefers the zstandard package where that is installed, which this one does not ask for).

A cache is code that is run: it lies in a folder of the user's alone, one for each jaxlib and kind of
processor. jax's own settings stand: JAX_COMPILATION_CACHE_DIR names another folder, and
JAX_ENABLE_COMPILATION_CACHE=false wants none.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import platform
import time
from collections.abc import Mapping

import jax
import jaxlib

# A thousand programs or so. Whenever jax keeps one more it reads a small file of every one that is there, a
# tenth of a millisecond each.
MAX_BYTES = 128 << 20
# Older than that, nobody is writing it.
_HALF_SECONDS = 60.0
# Shorter compilations are not worth that.
_MIN_SECONDS = 0.05


def enable(environ: Mapping[str, str] = os.environ) -> pathlib.Path | None:
    """Turns the cache on for the rest of the process, before anything is compiled.

    Returns:
      Its folder; None where the user's settings decide, or where the folder cannot be used, which a
      warning says.
    """
    settings = jax.config.values
    wanted = settings["jax_enable_compilation_cache"]
    if not wanted or settings["jax_compilation_cache_dir"] is not None:
        return None
    folder = _folder(environ)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
            raise PermissionError(f"others may write to {folder}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} is not writable")
    except OSError as error:
        logging.getLogger(__name__).warning("programs are compiled anew at each start: %s", error)
        return None
    _remove_halves(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in (
        ("jax_compilation_cache_max_size", MAX_BYTES),
        ("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS),
    ):
        if name.upper() not in environ:
            jax.config.update(name, value)
    return folder


def _remove_halves(folder: pathlib.Path) -> None:
    """Removes what a killed process had begun to keep, without which jax keeps nothing more.

    An entry is a file NAME-cache and then NAME-atime: jax's limit looks for the second of each first.
    """
    for entry in folder.glob("*-cache"):
        with contextlib.suppress(OSError):  # Another process is at it.
            whole = entry.with_name(f"{entry.name.removesuffix('-cache')}-atime").exists()
            if not whole and entry.stat().st_mtime < time.time() - _HALF_SECONDS:
                entry.unlink()


def _folder(environ: Mapping[str, str]) -> pathlib.Path:
    """Returns the folder of this jaxlib on this kind of processor: code of another may not run here."""
    home = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    kind = [platform.machine(), platform.processor()]
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        kind += sorted(
            {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        )
    except OSError:  # No such file: another system than Linux.
        kind.append(platform.platform())
    digest = hashlib.sha256("\n".join(kind).encode()).hexdigest()[:12]
    return pathlib.Path(home) / "nullmark_jax" / f"jaxlib-{jaxlib.__version__}-{digest}"
