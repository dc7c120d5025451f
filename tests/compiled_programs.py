"""What processes of a test share: the programs they compile, which takes them the most time."""

import os


def shared(folder) -> dict[str, str]:
    """Returns the environment of processes that keep it in a folder; conftest.py's keep nothing."""
    return {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": os.fspath(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
