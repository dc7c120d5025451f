"""Freed memory is reused, measured in page faults, BLAS has one thread, imports wait; in fresh processes."""

import os
import platform
import subprocess
import sys

import preload
import pytest
import tiny_task

from nullmark_jax.process import give_back_freed_memory, keep_freed_memory

PAGES = """
import resource, sys
import numpy as np
from nullmark_jax.process import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        np.ones(4 << 20)  # 32 MiB, all written, and freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
done = keep_freed_memory()
np.ones(4 << 20)
print(int(done), before, faults())
"""
GLIBC = platform.libc_ver()[0] == "glibc"


HOLES = """
import ctypes, pathlib, resource
from nullmark_jax.process import after_epoch, give_back_freed_memory, keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def resident():  # MiB
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

def allocate_and_free():
    blocks = [libc.malloc(1 << 20) for _ in range(128)]
    for block in blocks:
        ctypes.memset(block, 1, 1 << 20)
    for block in blocks[:-1]:  # the last one holds the heap's end
        libc.free(block)

keep_freed_memory()
give_back_freed_memory()  # what the imports left
at_first = resident()
for number in (1, 2, 100, 101):
    allocate_and_free()
    after_epoch(number)
    print(resident() - at_first)
"""

# Before the code that counts them; glibc tells them in a file.
COUNT_ARENAS = """
import ctypes

libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
libc.fclose.argtypes = [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]

def arenas(path):
    file = libc.fopen(path.encode(), b"w")
    libc.malloc_info(0, file)
    libc.fclose(file)
    return open(path).read().count("<heap ")
"""
ARENAS = """
import sys, threading
from nullmark_jax.process import keep_freed_memory

keep_freed_memory()
before, barrier = arenas(sys.argv[1]), threading.Barrier(6)

def work():
    libc.malloc(1 << 20)
    barrier.wait()

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(before, arenas(sys.argv[1]))
"""

THREADS = """
import threadpoolctl
from nullmark_jax import process

process.prepare()
blas = [each for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]
print(len(blas), *(each["num_threads"] for each in blas))
"""


# Stands before glibc's own, and writes a letter a call.
TRIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

int malloc_trim(size_t pad) {
  int (*next)(size_t) = dlsym(RTLD_NEXT, "malloc_trim");
  FILE *file = fopen(getenv("TRIMS"), "a");
  fputc('t', file);
  fclose(file);
  return next(pad);
}
"""
TRAININGS = """
import contextlib, pathlib, sys, time
import tiny_task
from nullmark_jax import main, run_population
from nullmark_jax.experiments.journal import Journal

folder, trims = map(pathlib.Path, sys.argv[1:])
config = f"--config={tiny_task.write(folder)}"
with contextlib.redirect_stdout(sys.stderr):
    main.main(["main", config, f"--workdir={folder / 'run'}", "--config.epochs=3", *tiny_task.EXPERIMENT])
alone = len(trims.read_text())
two = [
    run_population.Run(f"{seed}", tiny_task.config(folder, epochs=3, seed=seed), folder / f"{seed}", "")
    for seed in (1, 2)
]
assert not run_population.train_and_evaluate(two, at_once=2)
at_once = len(trims.read_text()) - alone
long = {f"{i}": lambda: time.sleep(1) or {} for i in range(2)}
(folder / "attack").mkdir()
list(Journal(folder / "attack").run(long | {"short": dict}))
measured = len(trims.read_text()) - alone - at_once
print(alone, at_once, measured, arenas(str(folder / "arenas")))
"""


def fresh(code, *arguments, **environ):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={name: value for name, value in os.environ.items() if "MALLOC" not in name.upper()}
        | environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_freed_memory_is_not_faulted_in_again():
    done, before, after = fresh(PAGES)
    assert done == 1
    assert before > 200  # with huge pages, 16 a block; with small ones, 8192
    assert after < before / 8


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_freed_memory_is_given_back_after_the_first_epoch_and_each_hundredth():
    after_1, after_2, after_100, after_101 = fresh(HOLES)
    assert after_1 < 16 and after_101 < 16  # MiB, of 128
    assert after_2 > 100 and after_100 > 100


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_threads_share_two_arenas_but_where_the_user_says_how_many(tmp_path):
    before, after = fresh(COUNT_ARENAS + ARENAS, str(tmp_path / "info"))
    assert after == max(before, 2)
    assert fresh(COUNT_ARENAS + ARENAS, str(tmp_path / "info"), MALLOC_ARENA_MAX="4")[1] == 4


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_trainings_and_long_measurements_give_memory_back_and_threads_share_arenas(tmp_path):
    library = preload.library("trim", TRIM, tmp_path)
    trims = tmp_path / "trims"
    found = fresh(
        COUNT_ARENAS + TRAININGS,
        str(tmp_path),
        str(trims),
        LD_PRELOAD=str(library),
        TRIMS=str(trims),
        PYTHONPATH=os.path.dirname(tiny_task.__file__),
    )
    # After the first epoch of either, and after two measurements of three; of XLA's threads none has its own.
    assert found == [1, 1, 2, 2]


def test_the_users_own_allocator_settings_stand():
    for environ in (
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"},
        {"MALLOC_MMAP_MAX_": "65536"},
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
    ):
        assert keep_freed_memory(environ) is False
        assert give_back_freed_memory(environ) is False


def test_blas_has_one_thread():
    count, *threads = fresh(THREADS, OPENBLAS_NUM_THREADS="2")
    assert count >= 1
    assert set(threads) == {1}


def test_a_start_waits_for_no_import_that_its_first_step_does_not_need():
    """Each takes a tenth of a second and more, the first two about as long as jax's own."""
    waiting = {"scipy.stats", "matplotlib", "scipy.special", "tqdm"}
    code = f"import sys, nullmark_jax.main; print({waiting} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
