"""Keys, key files and signatures, against RFC 8032 and against files made by hand."""

import copy
import datetime
import hashlib
import os
import pickle
import re
import resource

import nacl.bindings
import nacl.pwhash.argon2id
import nacl.secret
import pytest
from absl.testing import parameterized

from nullmark_jax import signing
from nullmark_jax.errors import InputError

OWNER, TIMESTAMP = "Ada Lovelace", "2026-11-21T17:00:00Z"
# RFC 8032, section 7.1, test 2: the message is the one byte 0x72.
RFC_SEED = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
RFC_PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
RFC_SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
PLAIN = f"nullmark-key/1 plain {RFC_PUBLIC} {RFC_SEED}\n"


@pytest.fixture
def key():
    return signing.SigningKey(bytes.fromhex(RFC_SEED))


def write_private(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return path


def sealed_line(passphrase=b"open sesame", operations=1, memory=8192, public=RFC_PUBLIC, **claimed):
    """A sealed key, made by docs/protocol.md with the least work that argon2id takes."""
    salt, nonce = bytes(range(16)), bytes(range(24))
    secret = nacl.pwhash.argon2id.kdf(32, passphrase, salt, operations, memory)
    box = nonce + nacl.bindings.crypto_secretbox(bytes.fromhex(RFC_SEED), nonce, secret)
    operations = claimed.get("claimed_operations", operations)
    memory = claimed.get("claimed_memory", memory)
    return f"nullmark-key/1 argon2id {public} {operations} {memory} {salt.hex()} {box.hex()}\n"


def error_of(function, *arguments, **keywords):
    """Returns the one line that a call ends with."""
    with pytest.raises(InputError) as caught:
        function(*arguments, **keywords)
    line = str(caught.value)
    assert "\n" not in line
    assert RFC_SEED not in line and "open sesame" not in line
    return line


def test_keys_and_signatures_are_those_of_rfc_8032(key):
    assert key.public_key.hex() == RFC_PUBLIC
    assert key.sign(b"\x72").hex() == RFC_SIGNATURE


def test_keys_show_their_public_half_only(key):
    for shown in (repr(key), str(key), f"{key}", repr([key]), repr({"key": key})):
        assert RFC_PUBLIC in shown
        assert RFC_SEED not in shown
        assert repr(bytes.fromhex(RFC_SEED))[2:-1] not in shown
    for dump in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled"):
            dump(key)


def test_generated_keys_differ():
    assert signing.generate_key().public_key != signing.generate_key().public_key


def test_experiment_keys_are_their_numbers():
    seed = hashlib.sha256(b"nullmark/1/experiment-key/12").digest()
    assert signing.experiment_key(12).public_key == signing.SigningKey(seed).public_key
    assert signing.experiment_key(13).public_key != signing.experiment_key(12).public_key
    assert "seed: -1" in error_of(signing.experiment_key, -1)


def test_verifier_string_is_owner_line_feed_timestamp():
    assert signing.verifier_string(OWNER, TIMESTAMP) == b"Ada Lovelace\n2026-11-21T17:00:00Z"
    assert signing.verifier_string("Zoë", TIMESTAMP) == b"Zo\xc3\xab\n2026-11-21T17:00:00Z"


def test_utc_now_is_a_timestamp_of_now():
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    text = signing.utc_now()
    after = datetime.datetime.now(datetime.UTC)
    signing.check_timestamp(text)
    assert before <= datetime.datetime.fromisoformat(text) <= after


def test_seconds_before_a_timestamp():
    assert signing.seconds_before("2026-11-21T17:00:00Z", 0) == "2026-11-21T17:00:00Z"
    assert signing.seconds_before("2024-03-01T00:00:01Z", 2) == "2024-02-29T23:59:59Z"


class VerifierStringTest(parameterized.TestCase):
    @parameterized.parameters(
        "a", "Ada & Co., Ltd.", "Zoë", "日本", "علی‌رضا", "👩‍🔬", "x" * 256, "é" * 128, " "
    )
    def test_owners(self, owner):
        signing.check_owner(owner)

    @parameterized.parameters(
        "", "a\nb", "a\r", "tab\t", "\x00", "\x1b[31mred", "\x7f", "\x85", "\u2028", "\u202eevil",
        "\u2066x", "\ud800", "x" * 257, "é" * 129, None, b"Ada", 7,
    )  # fmt: skip
    def test_no_owners(self, owner):
        with self.assertRaisesRegex(InputError, "^owner: "):
            signing.check_owner(owner)

    @parameterized.parameters(
        "2026-11-21T17:00:00Z", "0001-01-01T00:00:00Z", "2024-02-29T23:59:59Z"
    )
    def test_timestamps(self, timestamp):
        signing.check_timestamp(timestamp)

    @parameterized.parameters(
        "", "2026-11-21", "2026-11-21T17:00:00", "2026-11-21T17:00:00z", "2026-11-21 17:00:00Z",
        "2026-11-21T17:00:00+00:00", "2026-11-21T17:00:00.0Z", "2026-11-21T17:00:00Z\n",
        " 2026-11-21T17:00:00Z", "2025-02-29T00:00:00Z", "2026-13-01T00:00:00Z",
        "2026-11-21T24:00:00Z", "2026-06-30T23:59:60Z", "0000-01-01T00:00:00Z",
        "２026-11-21T17:00:00Z", "+026-11-21T17:00:00Z", None, 20261121, b"2026-11-21T17:00:00Z",
    )  # fmt: skip
    def test_no_timestamps(self, timestamp):
        with self.assertRaisesRegex(InputError, "^timestamp: "):
            signing.check_timestamp(timestamp)


def test_signatures_check(key):
    signature = signing.sign(key, owner=OWNER, timestamp=TIMESTAMP)
    assert len(signature) == 64
    assert signature == signing.sign(key, owner=OWNER, timestamp=TIMESTAMP)
    assert signing.check(key.public_key, signature, owner=OWNER, timestamp=TIMESTAMP)

    other = signing.experiment_key(0).public_key
    changed = bytes([signature[0] ^ 1]) + signature[1:]
    assert not signing.check(other, signature, owner=OWNER, timestamp=TIMESTAMP)
    assert not signing.check(key.public_key, changed, owner=OWNER, timestamp=TIMESTAMP)
    assert not signing.check(key.public_key, signature, owner="Ada", timestamp=TIMESTAMP)
    later = "2026-11-21T17:00:01Z"
    assert not signing.check(key.public_key, signature, owner=OWNER, timestamp=later)


def test_second_scalar_of_a_signature_does_not_check(key):
    """S + L satisfies the same equation; RFC 8032 refuses it, so a signature has one form."""
    signature = signing.sign(key, owner=OWNER, timestamp=TIMESTAMP)
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(signature[32:], "little") + order
    malleable = signature[:32] + scalar.to_bytes(32, "little")
    assert not signing.check(key.public_key, malleable, owner=OWNER, timestamp=TIMESTAMP)


def test_another_nonce_gives_another_signature_that_checks(key):
    """So `check` cannot tell how many signatures, and watermarks, a claimant has tried."""
    order = 2**252 + 27742317777372353535851937790883648493
    expanded = bytearray(hashlib.sha512(bytes.fromhex(RFC_SEED)).digest()[:32])
    expanded[0] &= 248
    expanded[31] = expanded[31] & 127 | 64
    nonce = (12345).to_bytes(32, "little")
    point = nacl.bindings.crypto_scalarmult_ed25519_base_noclamp(nonce)
    message = signing.verifier_string(OWNER, TIMESTAMP)
    challenge = hashlib.sha512(point + key.public_key + message).digest()
    challenge, secret = (int.from_bytes(part, "little") for part in (challenge, expanded))
    other = point + ((12345 + challenge * secret) % order).to_bytes(32, "little")
    assert other != signing.sign(key, owner=OWNER, timestamp=TIMESTAMP)
    assert signing.check(key.public_key, other, owner=OWNER, timestamp=TIMESTAMP)


@pytest.mark.parametrize("point", ["01" + "00" * 31, "00" * 32, "ec" + "ff" * 30 + "7f"])
def test_keys_of_small_order_sign_nothing(point):
    """With A of small order, R = A and S = 0 satisfy the equation for many messages."""
    public = bytes.fromhex(point)
    for forged in (public + bytes(32), bytes.fromhex("01" + "00" * 63)):
        assert not signing.check(public, forged, owner=OWNER, timestamp=TIMESTAMP)


def test_check_refuses_wrong_lengths(key):
    signature = signing.sign(key, owner=OWNER, timestamp=TIMESTAMP)
    arguments = {"owner": OWNER, "timestamp": TIMESTAMP}
    assert "public_key: not 32" in error_of(signing.check, bytes(31), signature, **arguments)
    assert "signature: not 64" in error_of(signing.check, key.public_key, bytes(65), **arguments)
    assert "owner: " in error_of(signing.sign, key, owner="a\nb", timestamp=TIMESTAMP)


def test_plain_key_files(tmp_path, key):
    folder = tmp_path / "new" / "keys"
    private, public = signing.write_key_files(folder, key)
    assert private == folder / "owner.key" and public == folder / "owner.pub"
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.read_text() == PLAIN
    assert public.read_text() == f"nullmark-public-key/1 {RFC_PUBLIC}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["owner.key", "owner.pub"]
    assert signing.read_key(private).sign(b"\x72").hex() == RFC_SIGNATURE
    assert signing.read_public_key(public).hex() == RFC_PUBLIC


def test_sealed_key_files(tmp_path, key):
    private, _ = signing.write_key_files(tmp_path, key, b"open sesame")
    text = private.read_text()
    pattern = (
        rf"nullmark-key/1 argon2id {RFC_PUBLIC} (\d+) (\d+) ([0-9a-f]{{32}}) ([0-9a-f]{{144}})\n"
    )
    operations, memory, salt, box = re.fullmatch(pattern, text).groups()
    assert RFC_SEED not in text
    secret = nacl.pwhash.argon2id.kdf(
        32, b"open sesame", bytes.fromhex(salt), int(operations), int(memory)
    )
    assert nacl.secret.SecretBox(secret).decrypt(bytes.fromhex(box)).hex() == RFC_SEED
    assert signing.read_key(private, b"open sesame").public_key == key.public_key


def test_sealed_keys_of_another_writer_open(tmp_path):
    path = write_private(tmp_path / "owner.key", sealed_line())
    assert signing.read_key(path, b"open sesame").public_key.hex() == RFC_PUBLIC


def test_wrong_missing_and_needless_passphrases(tmp_path):
    sealed = write_private(tmp_path / "sealed.key", sealed_line())
    assert "passphrase is wrong" in error_of(signing.read_key, sealed, b"open sesam")
    assert "is encrypted" in error_of(signing.read_key, sealed)
    assert "give 1 to 4096 bytes" in error_of(signing.read_key, sealed, b"")
    plain = write_private(tmp_path / "plain.key", PLAIN)
    assert "is not encrypted" in error_of(signing.read_key, plain, b"open sesame")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601, 0o777])
def test_keys_that_others_can_use_are_refused(tmp_path, mode):
    path = write_private(tmp_path / "owner.key", PLAIN)
    path.chmod(mode)
    line = error_of(signing.read_key, path)
    assert f"mode {mode:04o}" in line and f"chmod 600 {path}" in line
    path.chmod(0o400)
    assert signing.read_key(path).public_key.hex() == RFC_PUBLIC


def test_any_truncation_of_a_key_is_refused(tmp_path):
    path = tmp_path / "owner.key"
    for text, passphrase in ((PLAIN, None), (sealed_line(), b"open sesame")):
        for length in range(len(text)):
            write_private(path, text[:length])
            assert "is not a whole nullmark-key/1" in error_of(signing.read_key, path, passphrase)


def test_any_edited_character_of_a_key_is_refused(tmp_path):
    path = tmp_path / "owner.key"
    for position, character in enumerate(PLAIN):
        other = {"0": "1", "\n": " "}.get(character, "0")
        write_private(path, PLAIN[:position] + other + PLAIN[position + 1 :])
        assert re.search("was edited|is not a whole", error_of(signing.read_key, path))


def test_any_edited_byte_of_a_sealed_key_is_refused(tmp_path):
    path, line = tmp_path / "owner.key", sealed_line()
    for position in range(len("nullmark-key/1 argon2id "), len(line) - 1, 7):
        other = "1" if line[position] in " 0" else "0"
        write_private(path, line[:position] + other + line[position + 1 :])
        message = error_of(signing.read_key, path, b"open sesame")
        assert re.search("was edited|is not a whole|asks for", message)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        RFC_SEED + "\n",
        PLAIN.replace("key/1", "key/2"),
        PLAIN.upper(),
        PLAIN + "\n",
        " " + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN * 10**4,
        b"\x80\x04\x95" + bytes(100),
        sealed_line().replace(" 1 8192 ", " 01 8192 "),
        sealed_line().replace(" 1 8192 ", " -1 8192 "),
    ],
)
def test_other_files_are_no_keys(tmp_path, text):
    path = write_private(tmp_path / "owner.key", text)
    assert "is not a whole nullmark-key/1 file" in error_of(signing.read_key, path, b"p")


@pytest.mark.parametrize(
    ("operations", "memory"), [(17, 8192), (2**32 - 1, 8192), (1, 2**30 + 1), (1, 2**42), (1, 8191)]
)
def test_files_cannot_ask_for_any_amount_of_work(tmp_path, operations, memory):
    line = sealed_line(claimed_operations=operations, claimed_memory=memory)
    path = write_private(tmp_path / "owner.key", line)
    message = error_of(signing.read_key, path, b"open sesame")
    assert f"asks for {operations} passes over {memory} bytes" in message


def test_sealed_key_of_another_public_key_is_refused(tmp_path):
    path = write_private(tmp_path / "owner.key", sealed_line(public="00" * 32))
    assert "halves differ" in error_of(signing.read_key, path, b"open sesame")


def test_no_file_a_folder_and_a_pipe_are_refused(tmp_path):
    assert "No such file" in error_of(signing.read_key, tmp_path / "owner.key")
    assert "not an ordinary file" in error_of(signing.read_key, tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "not an ordinary file" in error_of(signing.read_key, tmp_path / "pipe")


@pytest.mark.parametrize("present", ["owner.key", "owner.pub"])
def test_keys_are_never_overwritten(tmp_path, key, present):
    (tmp_path / present).write_text("precious")
    assert "never overwritten" in error_of(signing.write_key_files, tmp_path, key)
    assert [path.name for path in tmp_path.iterdir()] == [present]
    assert (tmp_path / present).read_text() == "precious"


def test_dangling_link_is_not_written_through(tmp_path, key):
    (tmp_path / "owner.key").symlink_to(tmp_path / "elsewhere")
    assert "never overwritten" in error_of(signing.write_key_files, tmp_path, key)
    assert not (tmp_path / "elsewhere").exists()


def test_nothing_is_left_where_keys_cannot_be_written(tmp_path, key):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error_of(signing.write_key_files, tmp_path / "file", key)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # as on a full disk
    try:
        message = error_of(signing.write_key_files, tmp_path / "full", key)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written" in message
    assert list((tmp_path / "full").iterdir()) == []


def test_public_key_files_are_checked(tmp_path):
    path = tmp_path / "owner.pub"
    good = f"nullmark-public-key/1 {RFC_PUBLIC}\n"
    path.write_text(good)
    assert signing.read_public_key(path).hex() == RFC_PUBLIC
    for text in ("", good[:-1], good[:-2] + "\n", good.upper(), PLAIN, good + "x"):
        path.write_text(text)
        assert "nullmark-public-key/1" in error_of(signing.read_public_key, path)
    path.write_bytes(bytes(10**6))
    assert "longer than" in error_of(signing.read_public_key, path)


@pytest.mark.parametrize(
    ("held", "passphrase"),
    [
        (b"open sesame\n", b"open sesame"),
        (b"open sesame", b"open sesame"),
        (b"two\n\n", b"two\n"),
        (b" \r\n", b" \r"),
        (b"\xff\x00\n", b"\xff\x00"),
        (b"x" * 4096 + b"\n", b"x" * 4096),
    ],
)
def test_passphrase_files_lose_one_line_feed(tmp_path, held, passphrase):
    (tmp_path / "passphrase").write_bytes(held)
    assert signing.read_passphrase(tmp_path / "passphrase") == passphrase


def test_passphrase_files_that_hold_none(tmp_path, key):
    path = tmp_path / "passphrase"
    for held in (b"", b"\n", b"x" * 4097):
        path.write_bytes(held)
        assert "give 1 to 4096 bytes" in error_of(signing.read_passphrase, path)
    path.write_bytes(bytes(10**5))
    assert "longer than" in error_of(signing.read_passphrase, path)
    assert "No such file" in error_of(signing.read_passphrase, tmp_path / "none")
    assert "give 1 to 4096" in error_of(signing.write_key_files, tmp_path / "keys", key, b"")
    assert not (tmp_path / "keys").exists()
