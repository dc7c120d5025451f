"""SIGINT and SIGTERM: at once and cleanly, or, of SIGTERM in training, once the state is on the disk."""

import contextlib
import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from nullmark_jax import agreement, parallel

_AGAIN = "give the same command again to go on"
_STOPS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_NO_STEP = f"{_STOPS[signal.SIGTERM]}; no step was done since the start: {_AGAIN}"
# How often a process looks whether another got SIGTERM, until its first step is done.
_LOOK_SECONDS = 0.2
# The trainings of this process, whose words differ: the store keeps them.
_trainings = itertools.count(1)


class Stopped(BaseException):
    """SIGINT or SIGTERM, as an exception, so that what is being written is cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(stop_line(number))
        self.number = number


class Preempted(Exception):
    """SIGTERM came while a model was trained, and the training's state is on the disk.

    Says so in the process that wrote it, and nothing in the others of the run.
    """


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Makes SIGINT and SIGTERM end the block with a `Stopped`, or the process, below jax."""
    previous = {number: signal.signal(number, _stop) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    while frame is not None:
        # jax compiles in a thread of its own, which crashes the process once an exception has freed
        # what it reads; and jax's callback of the garbage collector loses exceptions.
        if frame.f_globals.get("__name__", "").partition(".")[0] == "jax":
            _exit(stop_line(number), 128 + number)
        frame = frame.f_back
    raise Stopped(number)


def _exit(line: str, status: int) -> NoReturn:
    bar_end = "\n" if os.isatty(2) else ""
    os.write(2, f"{bar_end}{line}\n".encode() if line else b"")
    os._exit(status)


def stop_line(number: int) -> str:
    """Returns what a program says that the signal ended."""
    return f"{_STOPS[number]}; {_AGAIN}"


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Puts SIGINT and SIGTERM off to the end of the block. Only the main thread gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    previous = {
        each: signal.signal(each, lambda number, frame: arrived.append(number))
        for each in _STOPS
        if _is_pythons(each)
    }
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
        for number in arrived:
            signal.raise_signal(number)


def _is_pythons(number: int) -> bool:
    """Returns whether Python gets it: among `joined` processes jax's preemption service has SIGTERM."""
    return number != signal.SIGTERM or not parallel.is_joined()


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Callable[[int], bool]]:
    """Within the block SIGTERM ends nothing, but answers the function yielded.

    That takes the number of steps done, which grows from call to call, and returns whether to stop there:
    in all processes of a run at the same call, whichever got the signal. Outside the main thread, which
    alone gets signals, a process that is none of several is never asked.

    Before the first call, while the first step is compiled, which can take a minute, nothing is done that
    the disk does not have: there SIGTERM ends the process, and to one of several all of them, at once and
    with status 0, `put_off` or not. Of several it is the first call of any that counts.
    """
    if parallel.is_joined():
        with _all_ended_at_once() as begin:
            agreed = _asking_at_every_step()

            def all_to_stop(step: int) -> bool:
                begin()
                return agreed(step)

            yield all_to_stop
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    arrived: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: arrived.append(number))
    try:
        with _ended_at_once() as begin:

            def to_stop(step: int) -> bool:
                begin()
                return bool(arrived)

            yield to_stop
    finally:
        signal.signal(signal.SIGTERM, previous)
    if arrived:  # After the last step: nothing of the training is lost.
        signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def _ended_at_once() -> Iterator[Callable[[], None]]:
    """Lets SIGTERM end the process until the function yielded is called, or the block ends.

    A thread does: Python's handlers wait for the main one, which waits for the compiler.
    """
    told, tell = socket.socketpair()
    tell.setblocking(False)
    deciding, begun = threading.Lock(), threading.Event()

    def watch() -> None:
        while number := told.recv(1):
            with deciding:
                if number[0] == signal.SIGTERM and not begun.is_set():
                    _exit(_NO_STEP, 0)

    def begin() -> None:
        if not begun.is_set():
            with deciding:
                begun.set()

    previous = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="SIGTERM", daemon=True)
    watcher.start()
    try:
        yield begin
    finally:
        begin()
        signal.set_wakeup_fd(previous)
        tell.close()
        watcher.join()
        told.close()


@contextlib.contextmanager
def _all_ended_at_once() -> Iterator[Callable[[], None]]:
    """The same of `joined` processes: SIGTERM to one ends all, or none, once one has called the function.

    A thread looks out for jax's word of the signal, whose handler is jax's.
    """
    name = f"nullmark_jax/training-{next(_trainings)}"
    saying, begun = threading.Lock(), threading.Event()

    def end_or_go_on(word: str) -> None:
        with saying:
            if agreement.first_word(f"{name}/word", word) == "end":
                agreement.leave(f"{name}/left")
                _exit(_NO_STEP if parallel.is_first() else "", 0)

    def watch() -> None:
        while not begun.wait(_LOOK_SECONDS):
            if agreement.is_noticed():
                end_or_go_on("end")
                return

    def begin() -> None:
        if not begun.is_set():
            begun.set()
            end_or_go_on("begin")

    watcher = threading.Thread(target=watch, name="SIGTERM of any process", daemon=True)
    watcher.start()
    try:
        yield begin
        begin()
    finally:
        begun.set()
        watcher.join()


def _asking_at_every_step() -> Callable[[int], bool]:
    """Returns the question of `joined` processes, which may be put after every so many steps.

    The service has one step in mind, which it must be asked about: one between two calls, or before the
    first, where a run goes on and the signal came as it started.
    """
    asked = 0

    def to_stop(step: int) -> bool:
        nonlocal asked
        answers = [parallel.stop_agreed(each) for each in range(asked + 1, step + 1)]
        asked = max(asked, step)
        return any(answers)

    return to_stop
