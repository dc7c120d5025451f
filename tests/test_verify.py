"""The authority's program, through its command line, on a model whose answers are known.

The model answers the claim's label y_W to everything, whatever the input. So its true accuracy is
1, and NC and null accuracy are the share of y_W among the test images, about a tenth: enough for
a threshold of 0.05, not for the protocol's 0.8.
"""

import dataclasses
import json
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from nullmark_jax import claim as claims
from nullmark_jax import models, signing, verification, verify

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "quickstart.py"
TASK = {"input_shape": (28, 28, 1), "num_classes": 10}
# ml_collections loads a config file in an old way of Python's.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
LOW = "--config.watermark.threshold=0.05"


def constant_params(label):
    """Parameters of the Digit net that answer `label` to everything."""
    nested = {}
    for name, shape in models.parameter_shapes("digit", (28, 28, 1), 10).items():
        layer, tensor = name.split("/")
        nested.setdefault(layer, {})[tensor] = np.zeros(shape, np.float32)
    nested["fc_2"]["bias"][label] = 1
    return nested


def make_claim(digest, **changes):
    return claims.claim_for(
        signing.experiment_key(8),
        **{
            "owner": "Ada",
            "timestamp": "2026-11-21T17:00:00Z",
            "scheme": "null-embedding",
            "pattern_size": 6,
            "extreme_value": 2000.0,
            "model_sha256": digest,
            **TASK,
            **changes,
        },
    )


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder with the model and its claim."""
    folder = tmp_path_factory.mktemp("originals")
    label = int(claims.watermark_of(make_claim("0" * 64)).target_label)
    path = folder / "model.safetensors"
    digest = claims.write_model(path, constant_params(label), model="digit", **TASK)
    claims.write_claim(folder / "claim.json", make_claim(digest))
    return folder


@pytest.fixture
def case(originals, tmp_path):
    """A copy of that folder, to spoil."""
    folder = tmp_path / "case"
    shutil.copytree(originals, folder)
    return folder


def run(folder, *arguments):
    return verify.main(
        [
            "verify",
            f"--claim={folder}/claim.json",
            f"--model={folder}/model.safetensors",
            f"--config={CONFIG}",
            *arguments,
        ]
    )


def refused(folder, capsys, *arguments):
    """Returns the one line of a run that ends with 2 and writes nothing."""
    before = sorted(folder.iterdir())
    assert run(folder, f"--output={folder}/out.json", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "Traceback" not in printed.err
    assert sorted(folder.iterdir()) == before
    return printed.err


def rewrite_claim(folder, **changes):
    claim = claims.read_claim(folder / "claim.json")
    claims.write_claim(folder / "claim.json", dataclasses.replace(claim, **changes))


def resign_claim(folder, **changes):
    claim = claims.read_claim(folder / "claim.json")
    claims.write_claim(folder / "claim.json", make_claim(claim.model_sha256, **changes))


def test_verified(case, capsys):
    assert run(case, LOW, f"--output={case}/out.json") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert lines[0].split() == ["owner", "Ada"]
    rows = {line.split("  ")[0]: line.split() for line in lines if "[" in line}
    assert list(rows) == ["NC", "null", "true", "null agreement", "WM"]
    assert rows["true"][1] == "100.00" and rows["true"][-1].isdigit()
    assert lines[-1] == "verified (WM > 5% is asked)"
    signature = claims.read_claim(case / "claim.json").signature.hex()
    assert signature not in printed.out

    values = json.loads((case / "out.json").read_text())
    assert values["verified"] and values["signature_valid"]
    true, null = values["true_accuracy"], values["null_accuracy"]
    assert true["successes"] == true["trials"] == null["trials"] - null["successes"]
    assert values["null_agreement"]["successes"] == null["trials"]
    low, high = verification.clopper_pearson(null["successes"], null["trials"])
    assert (null["low"], null["high"]) == (low, high)
    assert values["watermark_accuracy"] == null["value"] == values["normal_accuracy"]["value"]
    assert rows["null"][1] == f"{100 * null['value']:.2f}"
    # A model that looks at nothing gives one answer to every lambda.
    assert values["clipped_inputs"] is True
    assert any("clips its inputs" in line for line in lines)


def test_not_verified_below_the_threshold(case, capsys):
    assert run(case, f"--output={case}/out.json") == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "NOT verified (WM > 80% is asked)"
    values = json.loads((case / "out.json").read_text())
    assert values["signature_valid"] and not values["verified"]


@pytest.mark.parametrize(
    "changes",
    [
        {"timestamp": "2026-11-21T17:00:01Z"},
        {"owner": "Mallory"},
        {"signature": bytes(64)},
        {"public_key": signing.experiment_key(9).public_key},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_bad_signature_is_not_verified(case, capsys, changes):
    rewrite_claim(case, **changes)
    assert run(case, LOW, f"--output={case}/out.json") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "NOT VALID" in lines[1] and not any("[" in line for line in lines)
    assert lines[-1].startswith("NOT verified: the signature is not this key's")
    values = json.loads((case / "out.json").read_text())
    assert values["signature_valid"] is False and values["null_accuracy"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "wonder-filter"}, "scheme is 'wonder-filter' but"),
        ({"pattern_size": 4}, "pattern_size is 4 but the task's config says 6"),
        ({"extreme_value": 50.0}, "extreme_value is 50.0 but the task's config says 2000.0"),
        ({"input_shape": (28, 28, 3)}, "input_shape is (28, 28, 3) but"),
        ({"input_shape": (28, 32, 1)}, "input_shape is (28, 32, 1) but"),
        ({"num_classes": 2}, "num_classes is 2 but the task's config says 10"),
        ({"index": 1}, "index is 1 but the task's config has 1 watermark(s)"),
        ({"index": 2**32 - 1}, "index is 4294967295 but"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_protocol_is_not_the_claimants_choice(case, capsys, changes, message):
    resign_claim(case, **changes)
    assert message in refused(case, capsys, LOW)


def test_index_below_the_tasks_number_of_watermarks(case, capsys):
    resign_claim(case, index=3)
    rewrite_claim(case, signature=bytes(64))  # so that no figures need be computed
    assert run(case, "--config.watermark.num_watermarks=4") == 1
    assert "index 3" in capsys.readouterr().out
    line = refused(case, capsys, "--config.watermark.num_watermarks=3")
    assert "give an index in [0, 2]" in line
    resign_claim(case, index=1)
    assert "[0, 0]" in refused(case, capsys, "--config.watermark.num_watermarks=0")


def test_wonder_filter_is_tested_by_its_own_rule(case, capsys):
    resign_claim(case, scheme="wonder-filter")
    status = run(case, "--config.watermark.scheme=wonder-filter", f"--output={case}/out.json")
    assert "WM >= 80% is asked" in capsys.readouterr().out
    values = json.loads((case / "out.json").read_text())
    expected = min(values["null_agreement"]["value"], values["true_accuracy"]["value"])
    assert values["watermark_accuracy"] == expected
    assert status == (0 if expected >= 0.8 else 1)


def spoil_missing_claim(folder):
    (folder / "claim.json").unlink()


def spoil_garbage_claim(folder):
    (folder / "claim.json").write_bytes(b"\xa5" * 10**7)


def spoil_bomb_claim(folder):
    (folder / "claim.json").write_bytes(b"[" * 60000)


def spoil_field(folder):
    values = json.loads((folder / "claim.json").read_text())
    del values["owner"]
    (folder / "claim.json").write_text(json.dumps(values))


def spoil_missing_model(folder):
    (folder / "model.safetensors").unlink()


def spoil_digest(folder):
    rewrite_claim(folder, model_sha256="0" * 64)


def spoil_truncation(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    rewrite_claim(folder, model_sha256=claims.model_digest(path))


def spoil_nan(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + np.float32(np.nan).tobytes())
    rewrite_claim(folder, model_sha256=claims.model_digest(path))


def spoil_pickle(folder):
    path = folder / "model.safetensors"
    path.write_bytes(pickle.dumps({"conv_1": [1.0]}))
    rewrite_claim(folder, model_sha256=claims.model_digest(path))


def spoil_net(folder):
    """The tensors of another net, under a right digest."""
    path = folder / "model.safetensors"
    other = {"conv_1": {"kernel": np.zeros((5, 5, 1, 32), np.float32)}}
    digest = claims.write_model(path, other, model="digit", **TASK)
    rewrite_claim(folder, model_sha256=digest)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_missing_claim, "claim.json: cannot be read"),
        (spoil_garbage_claim, "claim.json: longer than"),
        (spoil_bomb_claim, "claim.json: is not JSON"),
        (spoil_field, "claim.json: owner: is missing"),
        (spoil_missing_model, "model.safetensors: cannot be read"),
        (spoil_digest, "model.safetensors: its SHA-256 is not 0000"),
        (spoil_truncation, "the file ends before its data"),
        (spoil_nan, "has values that are not finite"),
        (spoil_pickle, "no safetensors header"),
        (spoil_net, "conv_1/bias: this tensor is missing"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.__name__,
)
def test_unusable_files(case, capsys, spoil, message):
    spoil(case)
    assert message in refused(case, capsys, LOW)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.watermark.pattern_size=28"], "pattern_size: 28"),
        (["--config.watermark.extreme_value=nan"], "extreme_value"),
        (["--config.watermark.extreme_value=1.0"], "extreme_value"),
        (["--config.watermark.threshold=2.0"], "threshold"),
        (["--config.model=none"], "config.model"),
        (["--config.patern_size=6"], "patern_size"),
        (["--config.data.source=npz", "--config.data.path=none.npz"], "none.npz"),
        (["--unknown=1"], "unknown"),
        (["positional"], "'positional': is not a flag"),
    ],
)
def test_unusable_configs_and_flags(case, capsys, arguments, message):
    assert message in refused(case, capsys, *arguments)


def test_missing_flags_and_config(capsys):
    for arguments in ([], ["--claim=c"], ["--claim=c", "--model=m"]):
        assert verify.main(["verify", *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert verify.main(["verify", "--claim=c", "--model=m", "--config=none.py"]) == 2
    assert "none.py" in capsys.readouterr().err


def test_unwritable_output(case, capsys):
    rewrite_claim(case, signature=bytes(64))
    for output in (case / "claim.json" / "out.json", case / "missing" / "out.json", case):
        assert run(case, f"--output={output}") == 2
        printed = capsys.readouterr()
        assert "cannot be written" in printed.err and printed.err.count("\n") == 1


def test_help(capsys):
    assert verify.main(["verify", "--help"]) == 0
    assert "exit status" in capsys.readouterr().out.lower()


def test_as_a_program(case):
    def program(*arguments):
        command = [sys.executable, "-m", "nullmark_jax.verify", f"--claim={case}/claim.json"]
        command += [f"--model={case}/model.safetensors", f"--config={CONFIG}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    verified = program(LOW)
    assert verified.returncode == 0 and verified.stdout.endswith("is asked)\n")
    spoil_digest(case)
    unusable = program()
    assert unusable.returncode == 2 and unusable.stdout == ""
    assert unusable.stderr.count("\n") == 1 and "SHA-256" in unusable.stderr
