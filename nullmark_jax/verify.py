"""The authority's program: is the claimed watermark in the model?

    python -m nullmark_jax.verify --claim=claim.json --model=model.safetensors \\
        --config=configs/quickstart.py [--output=verification.json]

The task's config gives H, W, C, Y, n, lambda, scheme, threshold, net and test images; the claim and
the model file are the claimant's. Exit status:

  0  verified: Algorithm 3 passes.
  1  not verified: the inputs are usable, and either the signature is not the key's over owner and
     timestamp, or the watermark's accuracy does not pass the threshold.
  2  unusable input, one line on stderr says which: a claim, model file or config that cannot be
     read, a model without the claim's digest, a claim that names other protocol numbers than the
     config or an index that the config has no watermark for, test images that cannot be had.
  69 the devices that the environment asks for (JAX_PLATFORMS) are not there: neither.
"""

import sys

from absl import flags
from ml_collections import ConfigDict

from nullmark_jax import checks, data, files, models, parallel, program, verification
from nullmark_jax import claim as claims
from nullmark_jax import config as configs
from nullmark_jax.errors import InputError

VERIFIED, NOT_VERIFIED = 0, 1


def main(argv: list[str]) -> int:
    """Runs the program.

    Args:
      argv: the command line, the program's name first.

    Returns:
      The exit status, as above.
    """
    flag_values = flags.FlagValues()
    for name, help_text in (
        ("claim", "The owner's claim.json."),
        ("model", "The model.safetensors that the claim is about."),
    ):
        flags.DEFINE_string(name, None, help_text, flag_values=flag_values)
        flags.mark_flag_as_required(name, flag_values)
    flags.DEFINE_string(
        "output", None, "Where to write the result as JSON.", flag_values=flag_values
    )
    program.define_config(flag_values, argv, "The task's config, FILE.py or FILE.py:ARGUMENT.")
    return program.run(_verify, flag_values, argv, __doc__ or "")


def _verify(flag_values: flags.FlagValues) -> int:
    config = flag_values.config
    configs.check(config)
    parallel.check_platform()
    claim = claims.read_claim(flag_values.claim)
    check_protocol(claim, config)
    result = verify_files(claim, flag_values.model, config)
    if flag_values.output is not None:
        files.write_whole(flag_values.output, result.to_json().encode())
    print(table(result))
    return VERIFIED if result.verified else NOT_VERIFIED


def check_protocol(claim: claims.Claim, config: ConfigDict) -> None:
    """Raises InputError where a claim names other numbers than its task's protocol.

    H, W, C, Y, n, lambda and the scheme are the protocol's: a claimant free to choose them could
    choose ones under which some model passes by accident. For the same reason the index must be
    that of one of the task's watermarks.
    """
    for name, ours in (
        ("scheme", config.watermark.scheme),
        ("input_shape", tuple(config.data.input_shape)),
        ("num_classes", config.data.num_classes),
        ("pattern_size", config.watermark.pattern_size),
        ("extreme_value", config.watermark.extreme_value),
    ):
        theirs = getattr(claim, name)
        if theirs != ours:
            raise InputError(
                f"claim: {name} is {checks.shown(theirs)} but the task's config says "
                f"{checks.shown(ours)}; a claim cannot choose it"
            )
    count = max(1, config.watermark.num_watermarks)
    if claim.index >= count:
        raise InputError(
            f"claim: index is {claim.index} but the task's config has {count} watermark(s); "
            f"give an index in [0, {count - 1}]"
        )


def verify_files(
    claim: claims.Claim, model_path: files.PathLike, config: ConfigDict
) -> verification.Verification:
    """Runs Algorithm 3 on a model file and the task's own test images.

    Args:
      claim: one that `check_protocol` lets pass.
      model_path: the model.safetensors it is about.
      config: the task's.

    Raises:
      InputError: the model file is not the claim's or not the task's, or there are no test images.
    """
    shape, num_classes = claim.input_shape, claim.num_classes
    params = claims.read_model(
        model_path,
        model=config.model,
        input_shape=shape,
        num_classes=num_classes,
        expected_shapes=models.parameter_shapes(config.model, shape, num_classes),
        expected_sha256=claim.model_sha256,
    )
    test = data.load_test(**config.data.to_dict())
    return verification.verify(
        models.predictor(config.model, params, num_classes, precision=config.precision),
        claim,
        test.images,
        test.labels,
        threshold=config.watermark.threshold,
    )


def table(result: verification.Verification) -> str:
    """Returns a result as a few lines for people."""
    lines = [
        f"owner      {result.owner}",
        f"signed     {result.timestamp}, {'valid' if result.signature_valid else 'NOT VALID'}",
        f"key        {result.public_key}",
        f"watermark  {result.scheme}, index {result.index}",
    ]
    if result.signature_valid:
        lines += ["", f"{'':16}{'%':>7}  {f'{100 * result.confidence:g}% interval':>16}  images"]
        for name, part in (
            ("NC", result.normal_accuracy),
            ("null", result.null_accuracy),
            ("true", result.true_accuracy),
            ("null agreement", result.null_agreement),
        ):
            if part is not None:
                lines.append(_row(name, part.value, part.low, part.high, str(part.trials)))
        low, high = result.watermark_low, result.watermark_high
        if result.watermark_accuracy is not None and low is not None and high is not None:
            lines.append(_row("WM", result.watermark_accuracy, low, high, ""))
        lines.append("")
    if result.clipped_inputs:
        lines.append(
            f"{100 * (result.clipping_agreement or 0):.1f}% of the answers to lambda are those to "
            "1: the model looks as if it clips its inputs to the pixel range."
        )
    verdict = "verified" if result.verified else "NOT verified"
    if result.signature_valid:
        relation = ">=" if result.scheme == "wonder-filter" else ">"
        lines.append(f"{verdict} (WM {relation} {100 * result.threshold:g}% is asked)")
    else:
        lines.append(f"{verdict}: the signature is not this key's over owner and timestamp")
    return "\n".join(lines)


def _row(name: str, value: float, low: float, high: float, images: str) -> str:
    interval = f"[{100 * low:6.2f}, {100 * high:6.2f}]"
    return f"{name:16}{100 * value:7.2f}  {interval:>16}  {images}".rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
