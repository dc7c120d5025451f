"""What the processes of a run agree on without the devices, which wait for a compiler or for each other.

By the store of keys and values of jax's coordination service, which the first process has.
"""

import contextlib
import time
from typing import Any

from jax._src import distributed
from jax.errors import JaxRuntimeError

from nullmark_jax import parallel

# By which jax's preemption service tells all processes that one got SIGTERM.
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"
_PATIENCE_SECONDS = 30
_TO_LEAVE_SECONDS = 0.5


def _store() -> Any:
    return distributed.global_state.client


def is_noticed() -> bool:
    """Returns whether one of the `parallel.joined` processes got SIGTERM."""
    try:
        _store().key_value_try_get(_NOTICE)
    except JaxRuntimeError:  # No such key.
        return False
    return True


def first_word(name: str, word: str) -> str:
    """Returns the word that the first process to say one of this `name` said: the same in all."""
    with contextlib.suppress(JaxRuntimeError):  # Another was first.
        _store().key_value_set(name, word)
    return str(_store().blocking_key_value_get(name, 1000 * _PATIENCE_SECONDS))


def leave(name: str) -> None:
    """Waits for all to be here; the first process, with which the store goes, then lets the others leave."""
    _store().wait_at_barrier(name, 1000 * _PATIENCE_SECONDS)
    if parallel.is_first():
        time.sleep(_TO_LEAVE_SECONDS)
