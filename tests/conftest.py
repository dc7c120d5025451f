"""Every test runs with strict dtype promotion, and an implicit change of rank is an error.

Warnings are errors too (pyproject.toml).
"""

import os
import shutil
import tempfile

# Processes that tests start compile for themselves, or share a folder that the test gives them: one that is
# killed while it writes leaves a damaged entry.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax

# The package sets flags of its own before jax reads them, at its first use.
from nullmark_jax import xla_flags

# Tests compile more than they compute: without its newer way to emit loops the fast suite takes 349 CPU
# seconds, not 512. What users' programs are compiled with, test_the_quickstart_as_it_is sees.
xla_flags.add("--xla_cpu_use_fusion_emitters", "false")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# The tests of a process compile each program once.
_COMPILED = tempfile.mkdtemp(prefix="nullmark-compiled-")
jax.config.update("jax_enable_compilation_cache", True)
jax.config.update("jax_compilation_cache_dir", _COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_unconfigure():
    """Removes what this process compiled."""
    shutil.rmtree(_COMPILED, ignore_errors=True)
