"""checkpoint.py: whole or absent, and one line where it cannot be."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nullmark_jax.checkpoint import Checkpoint, Checkpoints
from nullmark_jax.errors import InputError
from nullmark_jax.losses import Terms
from nullmark_jax.training import StepMetrics, init_state

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())


def checkpoint_of(seed, size=30):
    """A checkpoint after `seed` steps."""
    rng = np.random.default_rng(seed)
    metrics = rng.random((5, 7), np.float32)
    params = {"conv_1": {"kernel": jnp.asarray(rng.normal(size=(size, 3)), jnp.float32)}}
    state = init_state(params, OPTIMIZER)
    state = state._replace(
        step=jnp.int32(seed),
        opt_state=jax.tree.map(lambda leaf: leaf + leaf.dtype.type(1), state.opt_state),
    )
    return Checkpoint(state, StepMetrics(metrics[0], Terms(*metrics[1:4]), metrics[4]))


def equal(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs
    )


@pytest.fixture
def folder(tmp_path):
    """Checkpoints after 1 and 2 steps."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(checkpoint_of(1))
        checkpoints.save(checkpoint_of(2))
    return tmp_path / "checkpoints"


def latest(folder, like=None):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.latest(checkpoint_of(0) if like is None else like)


def test_none_yet(tmp_path):
    like = checkpoint_of(0)
    assert latest(tmp_path / "checkpoints", like) is like


def test_the_latest_comes_back_bit_for_bit(folder):
    assert equal(latest(folder), checkpoint_of(2))


def test_the_two_latest_are_kept(folder):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(checkpoint_of(3))
        assert checkpoints.latest(checkpoint_of(0)).state.step == 3
    assert sorted(entry.name for entry in folder.iterdir()) == ["2", "3"]


def test_what_a_killed_process_left_is_ignored_and_removed(folder, capfd):
    shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp")
    assert latest(folder).state.step == 2
    assert sorted(entry.name for entry in folder.iterdir()) == ["1", "2"]
    assert capfd.readouterr().err == ""


def item(step):
    """The folder of a checkpoint's own files, in orbax's."""
    (arrays,) = step.rglob("arrays.npz")
    return arrays.parent


def damage(step, kind):
    arrays, digest = item(step) / "arrays.npz", item(step) / "sha256"
    if kind == "no arrays":
        arrays.unlink()
    elif kind == "no digest":
        digest.unlink()
    elif kind == "cut":
        arrays.write_bytes(arrays.read_bytes()[:-1])
    elif kind.startswith("a flipped byte"):
        path = digest if "digest" in kind else arrays
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    elif kind == "garbage":
        for path in (arrays, digest):
            path.write_bytes(b"garbage")
    else:
        shutil.rmtree(item(step))


DAMAGES = [
    "no arrays",
    "no digest",
    "cut",
    "a flipped byte",
    "a flipped byte of the digest",
    "garbage",
    "nothing",
]


@pytest.mark.parametrize("kind", DAMAGES)
def test_the_one_before_a_damaged_checkpoint_is_taken(folder, kind, capfd, caplog):
    damage(folder / "2", kind)
    assert equal(latest(folder), checkpoint_of(1))
    assert not (folder / "2").exists()
    (record,) = (each for each in caplog.records if each.name == "nullmark_jax.checkpoint")
    assert record.getMessage() == (
        f"{folder / '2'}: was damaged; going on from {folder / '1'}, the one before"
    )
    assert "Traceback" not in capfd.readouterr().err
    # The removed one's place is free.
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(checkpoint_of(2))
    assert equal(latest(folder), checkpoint_of(2))


def test_all_damaged_is_one_line_with_the_way_on(folder, capfd):
    damage(folder / "1", "no arrays")
    damage(folder / "2", "garbage")
    with pytest.raises(InputError) as failure:
        latest(folder)
    message = str(failure.value)
    assert message.startswith(f"{folder / '2'}: is not a whole checkpoint of this run (")
    assert message.endswith(f"delete {folder} to begin anew")
    assert "\n" not in message and "Traceback" not in capfd.readouterr().err
    assert sorted(entry.name for entry in folder.iterdir()) == ["1", "2"]


def test_a_checkpoint_with_a_flipped_bit_is_refused_wherever_it_is(folder, tmp_path):
    """In our files; a flipped bit in one of orbax's own does not matter."""
    rng = np.random.default_rng(0)
    ours = set(item(folder / "2").glob("*")) - {item(folder / "2") / "commit_success.txt"}
    assert {path.name for path in ours} == {"arrays.npz", "sha256"}
    with Checkpoints(folder) as checkpoints:
        for path in sorted(path for path in (folder / "2").rglob("*") if path.is_file()):
            whole = path.read_bytes()
            places = range(0, len(whole), 1 if len(whole) < 100 else 23)
            for at in places if path in ours else places[:2]:
                content = bytearray(whole)
                content[at] ^= 1 << rng.integers(8)
                path.write_bytes(content)
                if path in ours:
                    with pytest.raises(InputError, match="its SHA-256 differs"):
                        checkpoints._read(2, checkpoint_of(0))
                else:
                    assert equal(checkpoints._read(2, checkpoint_of(0)), checkpoint_of(2)), (
                        path,
                        at,
                    )
                path.write_bytes(whole)
    assert equal(latest(folder), checkpoint_of(2))


def test_a_checkpoint_in_another_one_s_place_is_refused(folder):
    shutil.rmtree(folder / "2")
    shutil.copytree(folder / "1", folder / "2")
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(InputError, match=r"\(it is of step 1\)"),
    ):
        checkpoints._read(2, checkpoint_of(0))
    assert equal(latest(folder), checkpoint_of(1))


def test_a_checkpoint_of_other_shapes_is_refused(folder):
    before = sorted(entry.name for entry in folder.iterdir())
    with pytest.raises(InputError, match="its shapes differ"):
        latest(folder, checkpoint_of(0, size=10))
    other = checkpoint_of(0)._replace(state=init_state({"fc_1": jnp.zeros(3)}, OPTIMIZER))
    with pytest.raises(InputError, match="is not a whole checkpoint of this run"):
        latest(folder, other)
    assert sorted(entry.name for entry in folder.iterdir()) == before


def test_a_file_in_the_folder_s_place_is_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("x")
    with pytest.raises(InputError, match=r"checkpoints: cannot hold checkpoints \(File exists\)"):
        Checkpoints(tmp_path / "checkpoints")


def test_a_signal_in_the_middle_of_a_save_waits_for_it(tmp_path):
    class Stop(Exception):
        pass

    def stop(number, frame):
        raise Stop

    saved = 0
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        with Checkpoints(tmp_path / "checkpoints") as checkpoints:
            for delay in np.linspace(0, 0.05, 8):
                timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGTERM))
                with pytest.raises(Stop):
                    timer.start()
                    saved += 1
                    checkpoints.save(checkpoint_of(saved))
                    time.sleep(1)
                timer.join()
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert signal.getsignal(signal.SIGTERM) is previous
    found = latest(tmp_path / "checkpoints")
    step = int(found.state.step)
    assert step >= saved - 1 and equal(found, checkpoint_of(step))
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))


def test_it_works_outside_the_main_thread(tmp_path):
    results = []
    work = threading.Thread(
        target=lambda: results.append(int(latest(tmp_path / "checkpoints").state.step))
    )
    work.start()
    work.join()
    assert results == [0]


def test_arrays_are_numpy_s_and_no_pickle_is_among_them(folder):
    with np.load(item(folder / "2") / "arrays.npz", allow_pickle=False) as arrays:
        kernel = arrays["state/params/conv_1/kernel"]
        assert len(arrays) == len(jax.tree.leaves(checkpoint_of(2)))
    np.testing.assert_array_equal(kernel, checkpoint_of(2).state.params["conv_1"]["kernel"])
    for path in folder.rglob("*"):
        if path.is_file():
            assert not path.read_bytes().startswith(b"\x80"), path


_SAVES = """
import sys, pathlib, logging
sys.path.insert(0, sys.argv[1])
import test_checkpoint as its
def resident():
    return next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith("VmRSS"))
with its.Checkpoints(pathlib.Path(sys.argv[2])) as checkpoints:
    for step in range(1, 401):
        checkpoints.save(its.checkpoint_of(step))
        if step in (100, 400):
            print(resident())
"""


@pytest.mark.slow
def test_saving_many_leaves_no_memory_behind(tmp_path):
    """Less than 3 KiB each over 300; orbax's own handler leaves some 10 KiB, and more of more arrays."""
    command = [
        sys.executable,
        "-c",
        _SAVES,
        str(pathlib.Path(__file__).parent),
        str(tmp_path / "c"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before < 3 * 300
