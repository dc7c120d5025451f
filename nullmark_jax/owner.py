"""Who signs a run: the key, the name and the timestamp that its config names."""

import dataclasses
import pathlib

import ml_collections

from nullmark_jax import signing
from nullmark_jax.errors import InputError
from nullmark_jax.folder import keep_verifier


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who signs, and the verifier string's two parts."""

    key: signing.SigningKey
    name: str
    timestamp: str


def named_key(config: ml_collections.ConfigDict) -> signing.SigningKey | None:
    """Returns the key that config.owner names; None where the run folder makes its own.

    Raises:
      InputError: the key cannot be had, or the owner's name, timestamp or passphrase be used.
    """
    named = config.owner
    signing.verifier_string(owner=named.name, timestamp=named.timestamp or signing.utc_now())
    passphrase = read_passphrase(config)
    if named.experiment_key >= 0 and named.key_file:
        raise InputError(
            f"config.owner.experiment_key: {named.experiment_key} and config.owner.key_file are both "
            "set; give one of the two"
        )
    if named.experiment_key >= 0:
        return signing.experiment_key(named.experiment_key)
    return signing.read_key(named.key_file, passphrase) if named.key_file else None


def read_passphrase(config: ml_collections.ConfigDict) -> bytes | None:
    """Returns the passphrase in the file that config.owner names; None where it names none."""
    path = config.owner.passphrase_file
    return signing.read_passphrase(path) if path else None


def find_owner(
    config: ml_collections.ConfigDict, folder: pathlib.Path, key: signing.SigningKey | None
) -> Owner:
    """Returns the owner; makes owner.key in the run folder where there is no key yet."""
    if key is None:
        passphrase = read_passphrase(config)
        if not (folder / signing.PRIVATE_NAME).exists():
            signing.write_key_files(folder, signing.generate_key(), passphrase)
        key = signing.read_key(folder / signing.PRIVATE_NAME, passphrase)
    named = config.owner
    timestamp = named.timestamp or signing.utc_now()
    return Owner(key, *keep_verifier(folder, owner=named.name, timestamp=timestamp))
