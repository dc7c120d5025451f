"""owner.py: the key, name and timestamp of a run."""

import datetime
import stat

import pytest
import tiny_task

from configs import digit, face, traffic
from configs import object as object_
from configs.attacks import functionality
from nullmark_jax import owner, signing
from nullmark_jax.errors import InputError

TASKS = {"digit": digit, "traffic": traffic, "object": object_, "face": face}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def find(config, folder):
    """The owner, kept as a run keeps it."""
    found = owner.find_owner(config, folder, owner.named_key(config))
    owner.keep_owner(config, folder, found)
    return found


def test_a_run_makes_its_own_key_once(data, tmp_path):
    config = tiny_task.config(data, **{"owner.experiment_key": -1, "owner.timestamp": ""})
    assert owner.named_key(config) is None
    first = find(config, tmp_path)
    assert stat.S_IMODE((tmp_path / "owner.key").stat().st_mode) == 0o600
    assert signing.read_public_key(tmp_path / "owner.pub") == first.key.public_key
    again = find(config, tmp_path)
    assert again.key.public_key == first.key.public_key
    assert (again.name, again.timestamp) == (first.name, first.timestamp)
    assert first.key.public_key.hex() in repr(first)


def test_finding_an_owner_writes_nothing(data, tmp_path):
    config = tiny_task.config(data, **{"owner.experiment_key": -1, "owner.timestamp": ""})
    one, other = (owner.find_owner(config, tmp_path / "run", None) for _ in range(2))
    assert not (tmp_path / "run").exists()
    assert one.key.public_key != other.key.public_key


def test_a_key_that_the_config_names_is_not_copied(data, tmp_path):
    find(tiny_task.config(data, **{"owner.experiment_key": 3}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["verifier.json"]


def test_a_key_file_that_the_config_names(data, tmp_path):
    key = signing.generate_key()
    signing.write_key_files(tmp_path / "keys", key, b"open sesame")
    (tmp_path / "passphrase").write_bytes(b"open sesame\n")
    (tmp_path / "wrong").write_bytes(b"shut")
    named = {
        "owner.experiment_key": -1,
        "owner.key_file": str(tmp_path / "keys" / "owner.key"),
        "owner.passphrase_file": str(tmp_path / "passphrase"),
    }
    assert owner.named_key(tiny_task.config(data, **named)).public_key == key.public_key
    with pytest.raises(InputError, match="does not open"):
        owner.named_key(
            tiny_task.config(data, **named | {"owner.passphrase_file": str(tmp_path / "wrong")})
        )


def test_a_key_file_and_an_experiment_key_together_are_one_line(data, tmp_path):
    both = {"owner.experiment_key": 0, "owner.key_file": str(tmp_path / "owner.key")}
    with pytest.raises(InputError, match=r"^config\.owner\.experiment_key: 0 and .* both set"):
        owner.named_key(tiny_task.config(data, **both))


# Of the Digit net's 4x4 last features experiment key 60's pattern, at [11, 11], leaves none free, and that
# of key 0, at [21, 1], 12.
TIME = "2026-11-21T00:00:00Z"


def off_the_middle(**changed):
    config = digit.get_config()
    assert 0.25 <= config.owner.min_free <= 0.5
    config.update_from_flattened_dict(changed)
    return config


def test_a_pattern_that_leaves_too_little_free_is_refused():
    unlucky = off_the_middle(**{"owner.experiment_key": 60, "owner.timestamp": TIME})
    key = owner.named_key(unlucky)
    with pytest.raises(
        InputError, match=r"^config\.owner\.timestamp: '2026-11-21T00:00:00Z' gives"
    ):
        owner.check_suits(unlucky, key)
    lucky = off_the_middle(**{"owner.experiment_key": 0, "owner.timestamp": TIME})
    owner.check_suits(lucky, owner.named_key(lucky))
    for changed in ({"owner.min_free": 0.0}, {"watermark.num_watermarks": 0}):
        owner.check_suits(off_the_middle(**unlucky_fields() | changed), key)


def unlucky_fields():
    return {"owner.experiment_key": 60, "owner.timestamp": TIME}


def test_the_latest_second_that_suits_is_signed(tmp_path):
    # Of four patterns some lies too near to the middle for nine of ten seconds.
    config = off_the_middle(**{"owner.experiment_key": 60, "watermark.num_watermarks": 4})
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    found = find(config, tmp_path)
    assert owner.suits(config, found)
    signed = datetime.datetime.fromisoformat(found.timestamp)
    for ago in range(int((before - signed).total_seconds())):
        later = (before - datetime.timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert not owner.suits(config, owner.Owner(found.key, found.name, later))
    # The folder's own is kept from then on.
    assert find(config, tmp_path).timestamp == found.timestamp


@pytest.mark.parametrize("watermarks", [1, 4])
def test_a_latest_timestamp_stands_for_now(tmp_path, watermarks):
    changed = {"owner.experiment_key": 60, "owner.latest_timestamp": TIME}
    config = off_the_middle(**changed, **{"watermark.num_watermarks": watermarks})
    key = owner.named_key(config)
    found = owner.find_owner(config, tmp_path, key)
    assert found.timestamp == owner.latest_timestamp(config, key, TIME) < TIME
    config.owner.timestamp = "2026-11-22T00:00:00Z"  # Which is what counts, then.
    assert owner.find_owner(config, tmp_path, key).timestamp == "2026-11-22T00:00:00Z"


def test_a_latest_timestamp_that_is_none_is_refused():
    config = off_the_middle(**{"owner.latest_timestamp": "yesterday"})
    with pytest.raises(InputError, match=r"^config.owner.latest_timestamp: 'yesterday' is no UTC"):
        owner.named_key(config)


# Of some sizes the key's own pattern at TIME is refused.
@pytest.mark.parametrize(("size", "suits"), [(6, True), (8, False), (12, False)])
def test_an_experiment_key_s_latest_timestamp_before_a_given_one(size, suits):
    config = off_the_middle(**{"owner.experiment_key": 0, "watermark.pattern_size": size})
    key = owner.named_key(config)
    assert owner.suits(config, owner.Owner(key, config.owner.name, TIME)) is suits
    found = owner.latest_timestamp(config, key, TIME)
    assert (found == TIME) is suits and found <= TIME
    assert owner.suits(config, owner.Owner(key, config.owner.name, found))


@pytest.mark.parametrize(
    "task",
    [
        "digit",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("traffic", "object", "face")),
    ],
)
def test_of_every_size_that_functionality_sweeps_there_are_patterns_that_suit(task):
    config = TASKS[task].get_config(*(["lfw"] if task == "face" else []))
    for size in functionality.get_config(task).pattern_sizes:
        config.watermark.pattern_size = size
        owner.latest_timestamp(config, signing.experiment_key(0), TIME)


def test_of_keys_made_for_a_given_timestamp_one_that_suits_is_kept(tmp_path):
    config = off_the_middle(**{"owner.timestamp": TIME, "watermark.num_watermarks": 6})
    found = find(config, tmp_path)
    assert owner.suits(config, found) and found.timestamp == TIME


def test_where_no_signature_suits_it_is_one_line(tmp_path):
    config = off_the_middle(**{"owner.experiment_key": 0, "watermark.pattern_size": 24})
    with pytest.raises(InputError, match=r"^config\.owner\.min_free: 0\.\d+ of .* 600 signatures"):
        find(config, tmp_path)
    assert not (tmp_path / "verifier.json").exists()
