"""Ed25519 keys, the verifier string and signatures (later paper, section 6.1). Host, by PyNaCl.

The papers sign with RSA and AES; any sound signature serves Transform, and Ed25519's is short.
`sign` is deterministic, but `check` cannot tell: the holder of a key can make many signatures of
one verifier string that all check, and so try many watermarks.
"""

import datetime
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import NoReturn

import nacl.exceptions
import nacl.pwhash.argon2id
import nacl.secret
import nacl.signing
import nacl.utils

from nullmark_jax import checks, files
from nullmark_jax.errors import InputError

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
MAX_OWNER_BYTES = 256
MAX_PASSPHRASE_BYTES = 4096
PRIVATE_NAME = "owner.key"
PUBLIC_NAME = "owner.pub"

_TIMESTAMP_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_TIMESTAMP = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z")
# Line breaks would make the verifier string ambiguous; terminal controls, text direction and lone
# surrogates would let a name show as another.
_NOT_IN_OWNER = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")

_PLAIN = re.compile(rb"nullmark-key/1 plain ([0-9a-f]{64}) ([0-9a-f]{64})\n")
_SEALED = re.compile(
    rb"nullmark-key/1 argon2id ([0-9a-f]{64}) ([1-9][0-9]{0,9}) ([1-9][0-9]{0,12}) "
    rb"([0-9a-f]{32}) ([0-9a-f]{144})\n"
)
_PUBLIC = re.compile(rb"nullmark-public-key/1 ([0-9a-f]{64})\n")
_MAX_KEY_FILE = 512

_OPERATIONS = nacl.pwhash.argon2id.OPSLIMIT_MODERATE
_MEMORY = nacl.pwhash.argon2id.MEMLIMIT_MODERATE
# A file from elsewhere may ask for no more work than this to be opened.
_MAX_OPERATIONS = 16
_MIN_MEMORY = nacl.pwhash.argon2id.MEMLIMIT_MIN
_MAX_MEMORY = 2**30


class SigningKey:
    """An owner's Ed25519 private key. It prints as its public half and cannot be pickled."""

    __slots__ = ("_key",)

    def __init__(self, seed: bytes) -> None:
        """Makes the key of a 32-byte Ed25519 seed."""
        self._key = nacl.signing.SigningKey(seed)

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that anyone may know."""
        return bytes(self._key.verify_key)

    def sign(self, message: bytes) -> bytes:
        """Returns the 64-byte detached signature of `message`."""
        return self._key.sign(message).signature

    def __repr__(self) -> str:
        return f"SigningKey(public_key={self.public_key.hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SigningKey is never pickled; write it with write_key_files")


def generate_key() -> SigningKey:
    """Returns a fresh key from the system's randomness."""
    return SigningKey(nacl.utils.random(32))


def experiment_key(seed: int) -> SigningKey:
    """Returns the key that reproducible experiments share; everyone knows it, so it proves nothing.

    Its Ed25519 seed is SHA-256("nullmark/1/experiment-key/" + seed in decimal); `seed` >= 0.
    """
    seed = checks.integer("seed", seed, 0, 2**63 - 1)
    return SigningKey(hashlib.sha256(f"nullmark/1/experiment-key/{seed}".encode()).digest())


def utc_now() -> str:
    """Returns the time now as a verifier string wants it, 2026-11-21T17:00:00Z."""
    return datetime.datetime.now(datetime.UTC).strftime(_TIMESTAMP_FORMAT)


def seconds_before(timestamp: str, seconds: int) -> str:
    """Returns the timestamp so many seconds before another."""
    then = datetime.datetime.strptime(timestamp, _TIMESTAMP_FORMAT)
    return (then - datetime.timedelta(seconds=seconds)).strftime(_TIMESTAMP_FORMAT)


def check_owner(owner: str) -> None:
    """Raises InputError unless `owner` is a name a verifier string can hold.

    That is 1 to 256 bytes of UTF-8 without U+0000-001F, U+007F-009F (controls, line breaks),
    U+2028-202E, U+2066-2069 (separators, text direction) and lone surrogates.
    """
    checks.text("owner", owner)
    if _NOT_IN_OWNER.search(owner):
        raise InputError(
            f"owner: {checks.shown(owner)} has a line break, control or text direction character; "
            "give a plain name"
        )
    size = len(owner.encode())
    if not 1 <= size <= MAX_OWNER_BYTES:
        raise InputError(
            f"owner: {checks.shown(owner)} has {size} bytes in UTF-8; give 1 to {MAX_OWNER_BYTES}"
        )


def check_timestamp(timestamp: str, *, field: str = "timestamp") -> None:
    """Raises InputError, which names `field`, unless it is a real UTC time like 2026-11-21T17:00:00Z."""
    checks.text(field, timestamp)
    match = _TIMESTAMP.fullmatch(timestamp)
    try:
        datetime.datetime(*map(int, match.groups() if match else ()))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InputError(
            f"{field}: {checks.shown(timestamp)} is no UTC time to the second; give one like "
            "2026-11-21T17:00:00Z"
        ) from None


def verifier_string(owner: str, timestamp: str) -> bytes:
    """Returns v, the bytes that an owner signs: OWNER, a line feed, TIMESTAMP, in UTF-8.

    Raises:
      InputError: see `check_owner` and `check_timestamp`.
    """
    check_owner(owner)
    check_timestamp(timestamp)
    return f"{owner}\n{timestamp}".encode()


def sign(key: SigningKey, *, owner: str, timestamp: str) -> bytes:
    """Returns sig = Sign(O_pri, v), 64 bytes, always the same for the same arguments (Algorithm 1).

    Raises:
      InputError: see `verifier_string`.
    """
    return key.sign(verifier_string(owner, timestamp))


def secret(key: SigningKey, *, owner: str, timestamp: str, purpose: str) -> bytes:
    """Returns 64 bytes that only the key's owner can make, always the same for the same arguments.

    A signature of v, a line feed and the purpose, of which no claim is made: it has one line more than
    any verifier string, and handing in a claim tells nothing of it.

    Raises:
      InputError: see `verifier_string`.
    """
    return key.sign(verifier_string(owner, timestamp) + b"\n" + purpose.encode())


def check(public_key: bytes, signature: bytes, *, owner: str, timestamp: str) -> bool:
    """Returns whether sig is the signature of v under O_pub (Algorithm 3, line 1).

    Public keys of small order, under which anyone can sign anything, are never valid (libsodium's
    rules, given in docs/protocol.md).

    Args:
      public_key: 32 bytes.
      signature: 64 bytes.
      owner: as in `verifier_string`.
      timestamp: as in `verifier_string`.

    Raises:
      InputError: see `verifier_string`, or a key or signature of another length.
    """
    message = verifier_string(owner, timestamp)
    check_bytes("public_key", public_key, PUBLIC_KEY_BYTES)
    check_bytes("signature", signature, SIGNATURE_BYTES)
    try:
        nacl.signing.VerifyKey(public_key).verify(message, signature)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


def check_bytes(name: str, value: bytes, size: int) -> None:
    """Raises InputError unless `value` is bytes of this size."""
    if not isinstance(value, bytes) or len(value) != size:
        raise InputError(f"{name}: not {size} bytes; give bytes of that length")


def write_key_files(
    directory: files.PathLike, key: SigningKey, passphrase: bytes | None = None
) -> tuple[Path, Path]:
    """Writes owner.key (mode 0600) and owner.pub; the folder is made where it is missing.

    Args:
      directory: where.
      key: what to write.
      passphrase: 1 to 4,096 bytes that seal owner.key; None leaves it readable to whoever can read
        the file.

    Returns:
      The two paths.

    Raises:
      InputError: one of the files is there already (it is left alone), the folder cannot be
        written, or the passphrase is empty or too long.
    """
    if passphrase is not None:
        _check_passphrase(passphrase)
    private, public = Path(directory, PRIVATE_NAME), Path(directory, PUBLIC_NAME)
    with files.writing(private):
        private.parent.mkdir(parents=True, exist_ok=True)
        for path in (private, public):
            if os.path.lexists(path):
                raise InputError(
                    f"{path}: exists, and keys are never overwritten; give another folder"
                )
        line = f"nullmark-public-key/1 {key.public_key.hex()}\n".encode()
        with (
            files.aside(private, _key_line(key, passphrase), 0o600) as private_part,
            files.aside(public, line) as public_part,
        ):
            # A link, unlike a rename, cannot replace a file made since the look above.
            os.link(private_part, private)
            try:
                os.link(public_part, public)
            except OSError:
                private.unlink()
                raise
    return private, public


def read_key(path: files.PathLike, passphrase: bytes | None = None) -> SigningKey:
    """Reads an owner.key.

    Args:
      path: the file, which only its owner may read.
      passphrase: for a sealed key, what it was sealed under; None for a plain one.

    Raises:
      InputError: the file cannot be read, others can read it, it is no whole key of version 1, was
        edited, asks for too much work, or the passphrase is wrong, missing or not needed.
    """
    data = _read_private(path)
    plain, sealed = _PLAIN.fullmatch(data), _SEALED.fullmatch(data)
    if plain:
        if passphrase is not None:
            raise InputError(f"{path}: is not encrypted; leave the passphrase out")
        public, seed = (bytes.fromhex(part.decode()) for part in plain.groups())
    elif sealed:
        if passphrase is None:
            raise InputError(f"{path}: is encrypted; give its passphrase file")
        _check_passphrase(passphrase)
        public, salt, box = (bytes.fromhex(sealed[i].decode()) for i in (1, 4, 5))
        seed = _open(path, passphrase, int(sealed[2]), int(sealed[3]), salt, box)
    else:
        raise InputError(
            f"{path}: is not a whole nullmark-key/1 file; give the owner.key of keygen"
        )
    key = SigningKey(seed)
    if key.public_key != public:
        raise InputError(f"{path}: was edited, its two halves differ; restore it from a copy")
    return key


def read_public_key(path: files.PathLike) -> bytes:
    """Reads an owner.pub.

    Returns:
      The public key, 32 bytes.

    Raises:
      InputError: the file cannot be read or is no whole public key of version 1.
    """
    match = _PUBLIC.fullmatch(files.read_bounded(path, _MAX_KEY_FILE))
    if not match:
        raise InputError(
            f"{path}: is not a whole nullmark-public-key/1 file; give the owner.pub of keygen"
        )
    return bytes.fromhex(match[1].decode())


def read_passphrase(path: files.PathLike) -> bytes:
    """Reads a passphrase: a file's bytes, less one line feed at the end.

    Raises:
      InputError: the file cannot be read, or leaves no passphrase, or one above 4,096 bytes.
    """
    passphrase = files.read_bounded(path, MAX_PASSPHRASE_BYTES + 1).removesuffix(b"\n")
    _check_passphrase(passphrase)
    return passphrase


def _check_passphrase(passphrase: bytes) -> None:
    if not isinstance(passphrase, bytes) or not 1 <= len(passphrase) <= MAX_PASSPHRASE_BYTES:
        raise InputError(
            f"passphrase: give 1 to {MAX_PASSPHRASE_BYTES} bytes (its value is not shown)"
        )


def _key_line(key: SigningKey, passphrase: bytes | None) -> bytes:
    """Returns what owner.key holds."""
    seed = bytes(key._key)
    public = key.public_key.hex()
    if passphrase is None:
        return f"nullmark-key/1 plain {public} {seed.hex()}\n".encode()
    salt = nacl.utils.random(nacl.pwhash.argon2id.SALTBYTES)
    box = nacl.secret.SecretBox(_stretch(passphrase, _OPERATIONS, _MEMORY, salt)).encrypt(seed)
    numbers = f"{_OPERATIONS} {_MEMORY}"
    return f"nullmark-key/1 argon2id {public} {numbers} {salt.hex()} {bytes(box).hex()}\n".encode()


def _open(
    path: files.PathLike, passphrase: bytes, operations: int, memory: int, salt: bytes, box: bytes
) -> bytes:
    """Returns the seed in a sealed key."""
    if operations > _MAX_OPERATIONS or not _MIN_MEMORY <= memory <= _MAX_MEMORY:
        raise InputError(
            f"{path}: asks for {operations} passes over {memory} bytes to be opened, beyond "
            f"{_MAX_OPERATIONS} and [{_MIN_MEMORY}, {_MAX_MEMORY}]; restore it from a copy"
        )
    try:
        return nacl.secret.SecretBox(_stretch(passphrase, operations, memory, salt)).decrypt(box)
    except nacl.exceptions.CryptoError:
        raise InputError(
            f"{path}: does not open; the passphrase is wrong, or the file was edited"
        ) from None


def _stretch(passphrase: bytes, operations: int, memory: int, salt: bytes) -> bytes:
    """Returns the secretbox key that argon2id makes of a passphrase."""
    try:
        return nacl.pwhash.argon2id.kdf(
            nacl.secret.SecretBox.KEY_SIZE, passphrase, salt, opslimit=operations, memlimit=memory
        )
    except nacl.exceptions.RuntimeError as error:
        raise InputError(
            f"passphrase: argon2id needs {memory} bytes of memory; free some and try again"
        ) from error


def _read_private(path: files.PathLike) -> bytes:
    """Returns a key file's bytes, refusing one that others can read, before reading it."""
    with files.reading(path):
        # Without O_NONBLOCK a named pipe would hold the program here.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise InputError(f"{path}: is not an ordinary file; give the owner.key of keygen")
            if mode & 0o077:
                raise InputError(
                    f"{path}: others can use it (mode {stat.S_IMODE(mode):04o}); "
                    f"run `chmod 600 {path}`"
                )
            return os.read(descriptor, _MAX_KEY_FILE + 1)
        finally:
            os.close(descriptor)
