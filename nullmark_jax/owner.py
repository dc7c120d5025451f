"""Who signs a run: the key, the name and the timestamp that its config names."""

import dataclasses
import pathlib
from collections.abc import Iterable

import ml_collections

from nullmark_jax import checks, models, signing, transform
from nullmark_jax.baselines import schemes
from nullmark_jax.embedding import Watermark
from nullmark_jax.errors import InputError
from nullmark_jax.folder import read_verifier, write_verifier
from nullmark_jax.marks import Marks


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who signs, and the verifier string's two parts."""

    key: signing.SigningKey
    name: str
    timestamp: str

    def signature(self) -> bytes:
        """Returns the signature of the verifier string, from which watermarks come; a claim holds it."""
        return signing.sign(self.key, owner=self.name, timestamp=self.timestamp)

    def secret(self, scheme: str) -> bytes:
        """Returns what an earlier scheme's triggers come from; no claim holds it."""
        return signing.secret(
            self.key, owner=self.name, timestamp=self.timestamp, purpose=f"triggers/{scheme}"
        )


def named_key(config: ml_collections.ConfigDict) -> signing.SigningKey | None:
    """Returns the key that config.owner names; None where the run folder makes its own.

    Raises:
      InputError: the key cannot be had, or the owner's name, timestamp or passphrase be used.
    """
    named = config.owner
    signing.verifier_string(owner=named.name, timestamp=named.timestamp or signing.utc_now())
    if named.latest_timestamp:
        signing.check_timestamp(named.latest_timestamp, field="config.owner.latest_timestamp")
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


def suits(config: ml_collections.ConfigDict, owner: Owner) -> bool:
    """Returns whether the owner's patterns lie where the config's recipe can embed them.

    Each must leave `config.owner.min_free` of the last block's features out of its reach
    (`models.free_share`).
    """
    signed = config.watermark.scheme in transform.SCHEMES
    if not (config.owner.min_free and config.watermark.num_watermarks and signed):
        return True
    model = models.create(config.model, config.data.num_classes, precision=config.precision)
    free = models.free_share(model, owner_watermarks(config, owner).pattern)
    return bool(free.min() >= config.owner.min_free)


def check_suits(config: ml_collections.ConfigDict, key: signing.SigningKey | None) -> None:
    """Raises InputError where key and timestamp are both given and their pattern does not suit."""
    named = config.owner
    if key is None or not named.timestamp or suits(config, Owner(key, named.name, named.timestamp)):
        return
    raise InputError(
        f"config.owner.timestamp: {checks.shown(named.timestamp)} gives a pattern, with this key, "
        f"that leaves less than {config.owner.min_free:.0%} of the last features free, too near to "
        'the middle for this recipe; give another, or "" to have one chosen, or '
        "config.owner.min_free=0 with config.null_space=True"
    )


# How many keys, or seconds back from now, are tried for a pattern that suits.
TRIES = 600


def find_owner(
    config: ml_collections.ConfigDict, folder: pathlib.Path, key: signing.SigningKey | None
) -> Owner:
    """Returns the owner, with a key made anew where neither config nor run folder has one.

    Nothing is written: `keep_owner` does, once all else is known to be usable. What a run folder keeps
    is taken from there. Where the config names no timestamp, the latest second whose pattern `suits` is
    signed, up to its latest_timestamp or now; where it does and the key is made here, the first key whose
    pattern does is taken.

    Args:
      config: as `nullmark_jax.config.default` describes it.
      folder: the run's.
      key: what `named_key` returned.

    Raises:
      InputError: a file of the folder cannot be used; of 600 seconds or keys none suits.
    """
    named = config.owner
    if key is None:
        path = folder / signing.PRIVATE_NAME
        key = signing.read_key(path, read_passphrase(config)) if path.exists() else _new_key(config)
    kept = read_verifier(folder)
    if kept:
        return Owner(key, *kept)
    last = named.latest_timestamp or signing.utc_now()
    timestamp = named.timestamp or latest_timestamp(config, key, last)
    return Owner(key, named.name, timestamp)


def keep_owner(config: ml_collections.ConfigDict, folder: pathlib.Path, owner: Owner) -> None:
    """Writes what the run folder lacks of its owner: owner.key and owner.pub, and verifier.json.

    The key only where the config names none.

    Raises:
      InputError: a file cannot be written.
    """
    named = config.owner
    made_here = named.experiment_key < 0 and not named.key_file
    if made_here and not (folder / signing.PRIVATE_NAME).exists():
        signing.write_key_files(folder, owner.key, read_passphrase(config))
    write_verifier(folder, owner=owner.name, timestamp=owner.timestamp)


def latest_timestamp(config: ml_collections.ConfigDict, key: signing.SigningKey, last: str) -> str:
    """Returns the latest timestamp, `last` or before it, at which the key gives patterns that suit.

    Raises:
      InputError: of the 600 seconds up to `last` none does.
    """
    times = (signing.seconds_before(last, ago) for ago in range(TRIES))
    return _first(config, (Owner(key, config.owner.name, time) for time in times)).timestamp


def _new_key(config: ml_collections.ConfigDict) -> signing.SigningKey:
    name, timestamp = config.owner.name, config.owner.timestamp
    if not timestamp:  # That is chosen for the key, then.
        return signing.generate_key()
    made = (Owner(signing.generate_key(), name, timestamp) for _ in range(TRIES))
    return _first(config, made).key


def _first(config: ml_collections.ConfigDict, owners: Iterable[Owner]) -> Owner:
    for owner in owners:
        if suits(config, owner):
            return owner
    raise InputError(
        f"config.owner.min_free: {config.owner.min_free} of the last features are to be free of "
        f"each pattern, and of {TRIES} signatures none gives such; give less, or fewer "
        "config.watermark.num_watermarks, or a smaller config.watermark.pattern_size"
    )


def owner_marks(config: ml_collections.ConfigDict, owner: Owner) -> Marks:
    """Returns the owner's marks of the config's scheme: `owner_watermarks`, or an earlier one's triggers.

    Where `num_watermarks` is 0 they are not embedded: a watermark-free model is measured against them, as
    the control.
    """
    if config.watermark.scheme in transform.SCHEMES:
        return owner_watermarks(config, owner)
    return schemes.make(
        config.watermark.scheme,
        owner.secret(config.watermark.scheme),
        shape=tuple(config.data.input_shape),
        num_classes=config.data.num_classes,
        images=config.watermark.trigger_images,
    )


def owner_watermarks(config: ml_collections.ConfigDict, owner: Owner) -> Watermark:
    """Returns the owner's watermarks 0..K-1 as a population; watermark 0 where K is 0."""
    signature = owner.signature()
    height, width, _ = config.data.input_shape
    return transform.stack(
        [
            transform.transform(
                signature,
                scheme=config.watermark.scheme,
                height=height,
                width=width,
                num_classes=config.data.num_classes,
                pattern_size=config.watermark.pattern_size,
                extreme_value=config.watermark.extreme_value,
                index=index,
            )
            for index in range(max(config.watermark.num_watermarks, 1))
        ]
    )
