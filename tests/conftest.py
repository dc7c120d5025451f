"""Every test runs with strict dtype promotion, and an implicit change of rank is an error.

Warnings are errors too (pyproject.toml).
"""

import os
import shutil
import tempfile

# A worker's tests and the processes they start keep what they compile, which takes most of their time, in a
# folder of the worker's own: jax writes into one of no stated size without a lock.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "true"
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="nullmark-compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax

import nullmark_jax  # noqa: F401  Sets XLA's flags before jax reads them, at its first use.

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure():
    """Removes what this worker compiled."""
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
