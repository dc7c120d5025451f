"""checkpoint.py: whole or absent, and one line where it cannot be."""

import json
import os
import shutil
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nullmark_jax.checkpoint import Checkpoints
from nullmark_jax.errors import InputError
from nullmark_jax.training import init_state

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())


def state_of(seed, size=30):
    rng = np.random.default_rng(seed)
    params = {"conv_1": {"kernel": jnp.asarray(rng.normal(size=(size, 3)), jnp.float32)}}
    state = init_state(params, OPTIMIZER)
    return state._replace(
        step=jnp.int32(seed),
        opt_state=jax.tree.map(lambda leaf: leaf + leaf.dtype.type(1), state.opt_state),
    )


def equal(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs
    )


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of epochs 1 and 2."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state_of(1))
        checkpoints.save(2, state_of(2))
    return tmp_path / "checkpoints"


def latest(folder, like=None):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.latest(state_of(0) if like is None else like)


def test_none_yet(tmp_path):
    like = state_of(0)
    epoch, state = latest(tmp_path / "checkpoints", like)
    assert epoch == 0 and state is like


def test_the_latest_comes_back_bit_for_bit(folder):
    epoch, state = latest(folder)
    assert epoch == 2 and equal(state, state_of(2))


def test_the_two_latest_are_kept(folder):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(3, state_of(3))
        assert checkpoints.latest(state_of(0))[0] == 3
    assert sorted(entry.name for entry in folder.iterdir()) == ["2", "3"]


def test_what_a_killed_process_left_is_ignored_and_removed(folder, capfd):
    shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp")
    assert latest(folder)[0] == 2
    assert sorted(entry.name for entry in folder.iterdir()) == ["1", "2"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("damage", ["no manifest", "no metadata", "garbage", "empty folder"])
def test_a_damaged_checkpoint_is_one_line_with_the_way_on(folder, damage, capfd):
    if damage == "no manifest":
        (folder / "2" / "default" / "manifest.ocdbt").unlink()
    elif damage == "no metadata":
        (folder / "2" / "default" / "_METADATA").unlink()
    elif damage == "garbage":
        for path in (folder / "2" / "default").rglob("*"):
            if path.is_file():
                path.write_bytes(b"garbage")
    else:
        shutil.rmtree(folder / "2" / "default")
    with pytest.raises(InputError) as failure:
        latest(folder)
    message = str(failure.value)
    assert message.startswith(f"{folder / '2'}: is not a whole checkpoint of this run (")
    assert message.endswith("delete that folder to go on from the one before")
    assert "\n" not in message and "Traceback" not in capfd.readouterr().err
    shutil.rmtree(folder / "2")
    assert latest(folder)[0] == 1


def test_a_checkpoint_of_other_shapes_is_refused(folder):
    with pytest.raises(InputError, match="its shapes differ"):
        latest(folder, state_of(0, size=10))
    other = init_state({"fc_1": jnp.zeros(3)}, OPTIMIZER)
    with pytest.raises(InputError, match="is not a whole checkpoint of this run"):
        latest(folder, other)


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
                    checkpoints.save(saved, state_of(saved))
                    time.sleep(1)
                timer.join()
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert signal.getsignal(signal.SIGTERM) is previous
    epoch, state = latest(tmp_path / "checkpoints")
    assert epoch >= saved - 1 and equal(state, state_of(epoch))
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))


def test_it_works_outside_the_main_thread(tmp_path):
    results = []
    work = threading.Thread(target=lambda: results.append(latest(tmp_path / "checkpoints")[0]))
    work.start()
    work.join()
    assert results == [0]


def test_no_pickle_in_a_checkpoint(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            assert not path.read_bytes().startswith(b"\x80"), path
    json.loads((folder / "2" / "default" / "_METADATA").read_text())
