"""owner.py: the key, name and timestamp of a run."""

import stat

import pytest
import tiny_task

from nullmark_jax import owner, signing
from nullmark_jax.errors import InputError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def find(config, folder):
    return owner.find_owner(config, folder, owner.named_key(config))


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
