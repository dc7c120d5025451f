"""parallel.py, and what runs on several devices, against one device on the whole batch."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nullmark_jax import parallel
from nullmark_jax.errors import InputError

PROGRAM = pathlib.Path(__file__).with_name("device_program.py")
# Float32 sums in another order; what a wrong collective changes is a thousand times more.
TOLERANCE = {"rtol": 2e-4, "atol": 2e-6}


@pytest.fixture(
    scope="module",
    params=[pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(8, marks=pytest.mark.slow)],
)
def results(request, tmp_path_factory):
    """What device_program.py computes on 1, 2 and 8 virtual devices."""
    out = tmp_path_factory.mktemp("devices") / "out.npz"
    flags = f"--xla_force_host_platform_device_count={request.param}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, PROGRAM, out], env=environment, check=True)
    with np.load(out) as arrays:
        found = dict(arrays)
    assert found["devices"] == request.param
    return found


@pytest.mark.parametrize("way", ["resident", "host_fed", "scanned", "scanned_host_fed"])
def test_training_agrees_with_one_device_on_the_whole_batch(results, way):
    for part in ("state", "loss"):
        expected = results[f"one_device/{part}"]
        np.testing.assert_allclose(results[f"{way}/{part}"], expected, **TOLERANCE)
    assert results[f"{way}/state"][0] == 12  # steps


def test_resident_and_host_fed_data_give_the_same_bytes(results):
    for part in ("state", "loss"):
        assert results[f"resident/{part}"].tobytes() == results[f"host_fed/{part}"].tobytes()
        scanned = results[f"scanned/{part}"].tobytes()
        assert scanned == results[f"scanned_host_fed/{part}"].tobytes()


@pytest.mark.parametrize("mistake", ["no_average", "gradient_of_average"])
def test_a_wrong_collective_would_be_found(results, mistake):
    expected, found = results["one_device/state"], results[f"{mistake}/state"]
    if results["devices"] == 1:
        np.testing.assert_allclose(found, expected, **TOLERANCE)  # Nothing to average.
        return
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found, expected, **TOLERANCE)
    assert np.abs(found - expected).max() > 1000 * TOLERANCE["atol"]


def test_a_population_trains_as_its_members_alone_on_any_devices(results):
    """Three members, which two or eight devices cannot share equally."""
    for part in ("state", "loss"):
        found, expected = results[f"population/{part}"], results[f"population_alone/{part}"]
        assert found.shape[0] == 3
        np.testing.assert_allclose(found, expected, **TOLERANCE)
    # Members differ, so that a mix-up would be seen.
    assert np.abs(np.diff(results["population/loss"], axis=0)).max(1).min() > 1e-3


def test_members_are_dealt_in_runs_and_gathered_in_their_order():
    devices = parallel.device_count()
    members = {"x": np.arange(3 * 2).reshape(3, 2)}
    dealt = parallel.deal_members(members)["x"]
    assert dealt.shape[0] == devices
    np.testing.assert_array_equal(parallel.gather_members({"x": dealt}, 3)["x"], members["x"])
    steps = np.arange(4 * 3).reshape(4, 3)
    assert parallel.deal_members(steps, axis=1).reshape(devices, 4, -1).shape[2] >= 3 / devices
    np.testing.assert_array_equal(
        np.moveaxis(parallel.deal_members(steps, axis=1), 0, 1).reshape(4, -1)[:, :3], steps
    )


def test_evaluation_counts_each_image_once_on_any_devices(results):
    assert results["counts"][0].tolist() == [29, 29]  # images of each watermark
    assert results["counts"].tolist() == results["counts_one_device"].tolist()


def test_share_deals_rows_like_cards():
    rows = np.arange(6)
    assert parallel.share(rows, 2).tolist() == [[0, 2, 4], [1, 3, 5]]
    steps = np.arange(8).reshape(2, 4)
    assert parallel.share(steps, 2, axis=1).tolist() == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
    pictures = np.arange(12).reshape(4, 3)
    assert parallel.share({"x": pictures}, 4)["x"].tolist() == [
        [[0, 1, 2]],
        [[3, 4, 5]],
        [[6, 7, 8]],
        [[9, 10, 11]],
    ]


def test_the_first_rows_are_the_first_of_each_share():
    marked = parallel.share(np.arange(32), 8)[:, : 16 // 8]
    assert sorted(marked.ravel().tolist()) == list(range(16))


def test_share_keeps_empty_arrays():
    assert parallel.share(np.zeros((5, 0), np.int32), 4, axis=1).shape == (4, 5, 0)


@pytest.mark.parametrize(("value", "devices"), [(10, 4), (1, 2), (7, 8)])
def test_what_devices_cannot_share_equally_is_one_line(value, devices):
    with pytest.raises(InputError, match=rf"^batch_size: {value} .* multiple of {devices}$"):
        parallel.check_divisible("batch_size", value, devices)
    with pytest.raises(InputError, match=rf"{value} cannot be shared by {devices} devices"):
        parallel.share(np.arange(value), devices)


def test_zero_rows_and_multiples_can_be_shared():
    parallel.check_divisible("marked", 0, 8)
    parallel.check_divisible("marked", 24, 8)


def test_pmap_cuts_and_replicates_by_specification():
    devices = parallel.device_count()

    def function(state, rows):
        return parallel.average(rows.mean() + state), parallel.total(rows.sum())

    run = parallel.pmap_shares(function, cut=(False, True))
    rows = np.arange(4 * devices, dtype=np.float32)
    mean, total = run(jnp.float32(10), parallel.share(rows, devices))
    assert mean.shape == total.shape == ()
    np.testing.assert_allclose(mean, 10 + rows.mean())
    np.testing.assert_allclose(total, rows.sum())


def test_replicated_arrays_are_taken_by_pmap_without_a_copy():
    devices = parallel.device_count()
    run = parallel.pmap_shares(lambda x, rows: parallel.average(x + rows.sum()), cut=(False, True))
    ours = parallel.replicate({"x": np.arange(3, dtype=np.float32)})["x"]
    theirs = run(ours, np.zeros((devices, 1), np.float32))
    assert ours.sharding.is_equivalent_to(theirs.sharding, ours.ndim)
    assert ours.sharding.device_set == set(jax.local_devices())
    assert ours.is_fully_replicated
