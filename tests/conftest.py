"""Every test runs with strict dtype promotion, and an implicit change of rank is an error.

Warnings are errors too (pyproject.toml).
"""

import os

# Tests compile for themselves, theirs in processes of their own too.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax

import nullmark_jax  # noqa: F401  Sets XLA's flags before jax reads them, at its first use.

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
