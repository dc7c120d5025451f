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


def damage(step, kind):
    if kind == "no manifest":
        (step / "state" / "manifest.ocdbt").unlink()
    elif kind == "no metadata":
        (step / "state" / "_METADATA").unlink()
    elif kind == "garbage":
        for path in (step / "state").rglob("*"):
            if path.is_file():
                path.write_bytes(b"garbage")
    elif kind == "no digest":
        shutil.rmtree(step / "digest")
    else:
        shutil.rmtree(step / "state")


DAMAGES = ["no manifest", "no metadata", "garbage", "no digest", "no state"]


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
    damage(folder / "1", "no manifest")
    damage(folder / "2", "garbage")
    with pytest.raises(InputError) as failure:
        latest(folder)
    message = str(failure.value)
    assert message.startswith(f"{folder / '2'}: is not a whole checkpoint of this run (")
    assert message.endswith(f"delete {folder} to begin anew")
    assert "\n" not in message and "Traceback" not in capfd.readouterr().err
    assert sorted(entry.name for entry in folder.iterdir()) == ["1", "2"]


def test_a_checkpoint_with_a_flipped_byte_is_refused_wherever_it_is(folder, tmp_path):
    """Or the byte does not matter: what is read is what was saved, or the one before."""
    flipped = refused = 0
    rng = np.random.default_rng(0)
    for path in sorted((folder / "2").rglob("*")):
        if not path.is_file() or not path.stat().st_size:
            continue
        copy = tmp_path / f"copy-{flipped}"
        shutil.copytree(folder, copy)
        target = copy / path.relative_to(folder)
        content = bytearray(path.read_bytes())
        at = rng.integers(len(content))
        content[at] ^= 1 << rng.integers(8)
        target.write_bytes(content)
        found = latest(copy)
        step = int(found.state.step)
        assert equal(found, checkpoint_of(step)), (path, at)
        flipped += 1
        refused += step == 1
    assert flipped >= 5 and refused >= 2


def test_a_value_that_changed_under_valid_files_is_refused(folder):
    """As a store would write it that was given other values: its own checksums are right."""
    other = folder.with_name("other")
    with Checkpoints(other) as checkpoints:
        changed = checkpoint_of(2)
        kernel = changed.state.params["conv_1"]["kernel"]
        changed.state.params["conv_1"]["kernel"] = kernel.at[0, 0].add(1e-6)
        checkpoints.save(changed)
    shutil.rmtree(folder / "2" / "state")
    shutil.copytree(other / "2" / "state", folder / "2" / "state")
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


def test_no_pickle_in_a_checkpoint(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            assert not path.read_bytes().startswith(b"\x80"), path
    json.loads((folder / "2" / "state" / "_METADATA").read_text())
