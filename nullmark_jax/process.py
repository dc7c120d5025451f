"""What training wants of its process: memory that is kept, one thread for small systems, compiled programs.

XLA:CPU allocates a step's temporary arrays anew in every step. glibc maps large blocks from the system
and unmaps them when they are freed, so the system clears, and the processor faults in, every page of
them again in every step: with the Digit net a third of a step's time. So freed memory is kept, and given
back now and then, lest a long run grow by what lies in between.

jax solves linear systems on the CPU with SciPy's OpenBLAS, whose threads go on spinning for a while after
each call, on the cores that XLA's threads then want: a third of a Digit step's time again.

Compiled programs are kept from start to start by `compilation_cache`.
"""

import ctypes
import functools
import os
from collections.abc import Callable, Mapping

import scipy.linalg  # noqa: F401  Loads the OpenBLAS that jax uses, for its threads to be set.
import threadpoolctl

from nullmark_jax import compilation_cache

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER_TRIM = 2**31 - 1
_GROW_BY = 64 << 20
# glibc has eight arenas a core, and each grows to the largest temporaries that ever came its way, as a long
# run deals them out among XLA's threads.
_ARENAS = 2
_GIVE_BACK_EPOCHS = 100
_USER_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


@functools.cache
def prepare() -> None:
    """Does all of it, for the rest of the process.

    Before jax starts its threads (by the first question about devices or processes): by then each has an
    arena. Once is enough: again it does nothing.
    """
    compilation_cache.enable()
    keep_freed_memory()
    one_blas_thread()


def one_blas_thread() -> None:
    """Makes NumPy's and SciPy's products and solvers use one thread; XLA's own use all as before."""
    threadpoolctl.threadpool_limits(1, user_api="blas")


def keep_freed_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Makes this process reuse the memory that it frees, rather than give it back to the system.

    The process then stays as large as it once was, until `give_back_freed_memory`. Nothing is changed
    where the C library is not glibc, or where the environment sets glibc's allocator.

    Returns:
      Whether it is set.
    """
    mallopt = _of_glibc("mallopt", environ)
    if mallopt is None:
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER_TRIM, _M_TOP_PAD: _GROW_BY}
    if "MALLOC_ARENA_MAX" not in environ:
        settings[_M_ARENA_MAX] = _ARENAS
    return all([mallopt(name, value) == 1 for name, value in settings.items()])


def give_back_freed_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Gives the system the memory that is free by now, such as a compiler's and the holes of long runs.

    What is used again afterwards is faulted in again: that is for now and then. Nothing is done where
    `keep_freed_memory` does nothing.

    Returns:
      Whether any was given back.
    """
    trim = _of_glibc("malloc_trim", environ)
    return trim is not None and bool(trim(0) == 1)


def after_epoch(number: int) -> None:
    """Gives freed memory back after a training's first epoch here, which compiled, and the 101st, 201st, ...

    Args:
      number: of the epoch, from 1 at this start of the training.
    """
    if number % _GIVE_BACK_EPOCHS == 1:
        give_back_freed_memory()


def _of_glibc(name: str, environ: Mapping[str, str]) -> Callable[..., int] | None:
    """Returns a function of glibc's allocator; None where there is none, or where it is the user's to set."""
    tuned = "glibc.malloc." in environ.get("GLIBC_TUNABLES", "")
    if tuned or any(each in environ for each in _USER_SETTINGS):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # No such function, or no libc to ask.
        return None
