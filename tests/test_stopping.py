"""stopping.py: what a training is told of SIGTERM."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest
from processes import free_port

from nullmark_jax import parallel, stopping


def tell(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def test_in_a_training_sigterm_is_an_answer():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(stopping.Preempted), stopping.asked_to_stop() as asked:
        assert not asked(1)
        tell()
        assert asked(2) and asked(3)
        raise stopping.Preempted
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_came_after_the_last_step_stops_at_the_block_s_end():
    with stopping.stoppable(), pytest.raises(stopping.Stopped) as stop:
        with stopping.asked_to_stop() as asked:
            assert not asked(1)
            tell()
        pytest.fail("the signal was lost")
    assert stop.value.number == signal.SIGTERM


def test_a_signal_that_is_put_off_comes_at_the_block_s_end():
    with stopping.stoppable(), pytest.raises(stopping.Stopped):
        with stopping.put_off():
            tell()
            reached = True
        pytest.fail("the signal was lost")
    assert reached


def test_put_off_in_a_training_it_is_still_an_answer():
    with pytest.raises(stopping.Preempted), stopping.asked_to_stop() as asked:
        assert not asked(1)
        with stopping.put_off():
            tell()
        assert asked(2)
        raise stopping.Preempted


COMPILING = """
import hashlib, os, sys
from nullmark_jax import stopping
with stopping.stoppable(), stopping.asked_to_stop() as asked:
    if sys.argv[1] == "begun":
        asked(1)
    print("ready", flush=True)
    # Minutes, in which Python's handlers wait, as they do for the compiler.
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[2]))
    print(asked(2))
"""


def compiling(*arguments, program=COMPILING):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=pathlib.Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_before_the_first_step_sigterm_ends_the_process_at_once():
    with compiling("first", 10**9) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, said) == (
        0,
        "terminated; no step was done since the start: give the same command again to go on\n",
    )


def test_later_it_waits_for_the_step():
    with compiling("begun", 10**6) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        answer, _ = process.communicate(timeout=20)
    # The block ends after the answer, and with it what puts the signal off.
    assert (process.returncode, answer) == (1, "True\n")


def test_a_signal_of_another_kind_is_left_to_its_handler():
    with stopping.stoppable(), pytest.raises(stopping.Stopped) as stop, stopping.asked_to_stop():
        tell(signal.SIGINT)
    assert stop.value.number == signal.SIGINT
    assert signal.set_wakeup_fd(-1) == -1


def test_a_thread_is_never_asked():
    answers = []

    def train():
        with stopping.asked_to_stop() as asked:
            answers.append(asked(1))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert answers == [False]


@pytest.mark.parametrize(
    ("agreed", "calls", "answers"),
    [
        # The service says yes of one step alone, whatever steps the dispatches end with.
        (101, (50, 100, 150, 200), [False, False, True, False]),
        (100, (50, 100, 150), [False, True, False]),
        # A run that goes on with step 26; the signal came before it asked of any.
        (1, (26, 27), [True, False]),
    ],
)
def test_of_several_processes_every_step_is_asked_about(monkeypatch, agreed, calls, answers):
    monkeypatch.setattr(parallel, "stop_agreed", lambda step: step == agreed)
    asked = stopping._asking_at_every_step()
    assert [asked(step) for step in calls] == answers


JOINED = """
import hashlib, sys, time
from nullmark_jax import parallel, stopping
begun, rounds, coordinator, process = sys.argv[1:]
with parallel.joined(coordinator, 2, int(process)), stopping.asked_to_stop() as asked:
    parallel.process_count()  # Of the devices, which are there before a step is compiled.
    if begun == "begun":
        asked(1)
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(rounds))
    step = 2
    while not asked(step):
        time.sleep(0.05)
        step += 1
    print(step)
"""


def joined(begun, rounds, *, to):
    """Tells one of two processes to stop; returns the exit statuses, and what each wrote."""
    coordinator = f"localhost:{free_port()}"
    each = [compiling(begun[i], rounds, coordinator, i, program=JOINED) for i in (0, 1)]
    try:
        for process in each:
            assert process.stdout.readline() == "ready\n"
        each[to].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=60) for process in each]
    finally:
        for process in each:
            process.kill()
    return [process.returncode for process in each], said


@pytest.mark.slow
@pytest.mark.parametrize("to", [0, 1])
def test_before_the_first_step_sigterm_to_one_of_several_ends_all_at_once(to):
    ended, said = joined(("first", "first"), 10**9, to=to)
    assert ended == [0, 0], said
    line = "terminated; no step was done since the start: give the same command again to go on\n"
    assert line in said[0][1] and "terminated" not in said[1][1]


@pytest.mark.slow
@pytest.mark.parametrize("second", ["begun", "first"])
def test_once_one_has_begun_all_of_them_stop_after_the_same_step(second):
    # A second or so, in which the second one is told.
    ended, said = joined(("begun", second), 2 * 10**6, to=1)
    (first, second) = (out for out, _ in said)
    assert ended == [0, 0] and first == second and int(first) >= 2, said
