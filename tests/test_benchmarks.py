"""The benchmark programs run, as a user runs them, and print what their texts say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"

pytestmark = pytest.mark.slow


def run(program: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(_FOLDER / program), *arguments], capture_output=True, text=True
    )


def test_growth_is_printed_as_one_object_and_drawn(tmp_path):
    figure = tmp_path / "growth.png"
    done = run(
        "step_scaling.py", "--json", "--batches=2,8", "--sizes=28", "--watermarks=2",
        "--rounds=3", "--steps=1", f"--figure={figure}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    growth = json.loads(done.stdout)
    assert {name: [point[name] for point in points] for name, points in growth.items()} == {
        "batch": [2, 8],
        "size": [28],
        "watermarks": [2],
    }
    for points in growth.values():
        assert points[0]["times"] == 1
        for point in points:
            assert 0 < point["milliseconds"] / 1e3 < point["first_step_seconds"]
            low, high = point["quartiles"]
            assert 0 < low <= point["milliseconds"] <= high
            assert point["peak_memory_bytes"] > 2**26  # Python and jax alone are more
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_populations_are_timed_each_way():
    done = run("populations.py", "--json", "--members=2", "--batch=2", "--images=3", "--rounds=3")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: list(ways) for name, ways in found.items()} == {
        "pirates": ["loop", "vmap"],
        "watermarks": ["loop", "vmap", "unrolled"],
    }
    for ways in found.values():
        assert ways["loop"]["times_the_loop"] == 1
        for way in ways.values():
            assert 0 < way["low"] <= way["times_the_loop"] <= way["high"]
            assert way["milliseconds"] > 0 and way["peak_memory_bytes"] > 2**26


@pytest.mark.parametrize("values", ["2,x", ""])
def test_a_value_that_is_no_count_is_refused(values):
    done = run("step_scaling.py", f"--batches={values}")
    assert done.returncode == 1
    assert done.stderr.startswith("--batches, --sizes, --watermarks: take positive integers")
    assert not done.stdout


def test_an_image_too_small_for_the_net_is_named():
    done = run("step_scaling.py", "--sizes=8", "--batches=2", "--watermarks=1", "--rounds=3")
    assert done.returncode == 1
    assert done.stderr.startswith("--sizes: 8 did not run")


def test_an_unknown_net_is_refused():
    done = run("train_step.py", "--tasks=cat")
    assert done.returncode == 1
    assert done.stderr == "--tasks: 'cat' is none; take digit, traffic\n"
