"""Makes an owner's key: `python -m nullmark_jax.keygen --out=DIR [--passphrase_file=F]`.

Writes DIR/owner.key (secret, mode 0600) and DIR/owner.pub; never overwrites either. The passphrase
is the file's bytes less one line feed at the end; without it owner.key is not encrypted.
"""

import sys

from absl import flags

from nullmark_jax import program, signing


def main(argv: list[str]) -> int:
    """Runs the program.

    Args:
      argv: the command line, the program's name first.

    Returns:
      The exit status: 0, or 2 for input that cannot be used.
    """
    flag_values = flags.FlagValues()
    flags.DEFINE_string("out", None, "Folder for the two files.", flag_values=flag_values)
    flags.DEFINE_string(
        "passphrase_file", None, "File with the passphrase.", flag_values=flag_values
    )
    flags.mark_flag_as_required("out", flag_values)
    return program.run(_keygen, flag_values, argv, __doc__ or "")


def _keygen(flag_values: flags.FlagValues) -> int:
    passphrase = None
    if flag_values.passphrase_file is not None:
        passphrase = signing.read_passphrase(flag_values.passphrase_file)
    key = signing.generate_key()
    private, public = signing.write_key_files(flag_values.out, key, passphrase)
    print(f"{private}: the private key; keep it secret and keep a copy")
    print(f"{public}: the public key, {key.public_key.hex()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
