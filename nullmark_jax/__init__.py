"""Piracy-resistant ownership watermarks for neural networks, in JAX."""

from nullmark_jax.xla_flags import set_cpu_flags

set_cpu_flags()  # Before anything imports jax: XLA reads its flags once.
