"""The main program with the earlier schemes: triggers trained in, claimed, verified, drawn."""

import json

import numpy as np
import pytest
import tiny_task
from PIL import Image

from nullmark_jax import config as configs
from nullmark_jax import owner, run, signing
from nullmark_jax.baselines import adi, schemes
from nullmark_jax.errors import InputError

pytestmark = pytest.mark.slow

SHAPE = (tiny_task.SIDE, tiny_task.SIDE, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def config_of(data, scheme, **changes):
    wanted = {"watermark.scheme": scheme, "epochs": 40, "optimizer.learning_rate": 2e-3}
    return tiny_task.config(data, **wanted | changes)


@pytest.mark.parametrize("scheme", ["adi", "zhang-noise"])
def test_a_model_learns_its_owner_s_triggers(data, tmp_path, scheme):
    config = config_of(data, scheme)
    result = run.train_and_evaluate(config, tmp_path / "run")
    metrics = result["metrics"]
    assert metrics["verified"] is True and metrics["watermark_accuracy"] >= 0.8
    assert metrics["normal_accuracy"] > 0.8 and metrics["null_accuracy"] is None
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert ("commitments.json" in found) is (scheme == "adi")
    assert "claim.json" not in found
    drawn = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert drawn == {"curves.png", "triggers.png"}
    if scheme == "adi":
        assert metrics["triggers_shown"] == 100
        kept = json.loads((tmp_path / "run" / "commitments.json").read_text())
        # As the owner makes them again, from the key alone.
        signer = owner.find_owner(config, tmp_path / "run", signing.experiment_key(0))
        marks = owner.owner_marks(config, signer)
        images = np.rint(np.asarray(marks.add) * 255).astype(np.uint8)
        published, _ = adi.commit(images, np.asarray(marks.target_label), signer.signature())
        assert kept["commitments"] == [each.hex() for each in published]


def test_an_owner_s_own_images(data, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(101):
        colour = (index, 255 - index, 2 * index)
        Image.new("RGB", (20, 20), colour).save(pictures / f"{index:03}.png")
    config = config_of(data, "adi", **{"watermark.trigger_images": str(pictures)})
    signer = owner.Owner(signing.experiment_key(0), "owner", "2026-11-21T17:00:00Z")
    marks = owner.owner_marks(config, signer)
    assert marks.add.shape == (100, *SHAPE)
    assert np.ptp(np.asarray(marks.add), axis=(1, 2, 3)).max() == 0  # Each of one grey.
    (pictures / "000.png").unlink()
    (pictures / "001.png").unlink()
    with pytest.raises(InputError, match="has 99 images; give 100 or more"):
        owner.owner_marks(config, signer)


def test_the_watermark_free_twin_does_not_answer_them(data, tmp_path):
    config = config_of(data, "adi", **{"watermark.num_watermarks": 0, "epochs": 4})
    metrics = run.train_and_evaluate(config, tmp_path / "run")["metrics"]
    assert metrics["verified"] is None
    # 100 labels of 3 at random: one in three, give or take.
    assert metrics["watermark_accuracy"] < 0.6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"watermark.num_watermarks": 2}, "config.watermark.num_watermarks: 2 is too many for adi"),
        ({"null_space": True}, "config.null_space: True is nothing for adi; give False"),
        ({"watermark.scheme": "adi2"}, "config.watermark.scheme: 'adi2' is none; take one of"),
    ],
)
def test_what_does_not_go_together_is_one_line(data, changes, message):
    with pytest.raises(InputError) as caught:
        configs.check(config_of(data, "adi", **changes))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("scheme", schemes.SCHEMES)
def test_triggers_are_a_function_of_the_signature(data, scheme):
    config = config_of(data, scheme)
    if scheme == "zhang-content":  # 16 pixels are too few for a text.
        config.data.input_shape = (28, 28, 1)
    one, again, other = (
        owner.owner_marks(
            config, owner.Owner(signing.experiment_key(key), "owner", "2026-11-21T17:00:00Z")
        )
        for key in (0, 0, 1)
    )
    for left, right in zip(one, again, strict=True):
        np.testing.assert_array_equal(left, right)
    same = all(np.array_equal(left, right) for left, right in zip(one, other, strict=True))
    # Theirs has one text for all owners; only the label differs, if that.
    assert not same or scheme == "zhang-content"
