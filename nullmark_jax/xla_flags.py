"""The XLA flag that training on a CPU needs, set before jax starts.

With YNN fusion on, jaxlib 0.10 and later run a convolution's gradient on the CPU 5 to 10 times
slower. A jaxlib that does not know the flag refuses to start, so it is set only where the installed
library contains its name, and never where the user's XLA_FLAGS name it.
"""

import functools
import importlib.util
import mmap
import os
import pathlib
from collections.abc import MutableMapping

CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def set_cpu_flags(environ: MutableMapping[str, str] = os.environ) -> None:
    """Adds `--xla_cpu_experimental_ynn_fusion_type=` (empty: off) to XLA_FLAGS, as `add` does."""
    add(CPU_FLAG, "", environ)


def add(flag: str, value: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Adds `flag=value` to XLA_FLAGS if jaxlib knows the flag. Must run before the first use of jax.

    The user's own flags stay as they are; where they name this flag, or XLA_FLAGS names a file of
    flags, nothing is changed.

    Args:
      flag: its whole name, two dashes in front.
      value: "" for none.
      environ: that XLA_FLAGS is of.
    """
    flags = environ.get("XLA_FLAGS", "")
    if flags.strip() and not flags.lstrip().startswith("-"):
        return  # XLA reads a value without a leading dash as a file's name.
    named = [each.partition("=")[0] for each in flags.split()]
    if flag not in named and jaxlib_knows(flag.removeprefix("--")):
        environ["XLA_FLAGS"] = f"{flags} {flag}={value}".strip()


@functools.cache
def jaxlib_knows(flag: str) -> bool:
    """Returns whether the installed jaxlib's libraries contain the flag's name."""
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or spec.origin is None:
        return False
    for library in sorted(pathlib.Path(spec.origin).parent.glob("lib*.so")):
        with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as text:
            if text.find(flag.encode()) >= 0:
                return True
    return False
