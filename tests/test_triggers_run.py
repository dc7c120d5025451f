"""The main program with the earlier schemes: triggers trained in, claimed, verified, drawn."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny_task
from PIL import Image

from nullmark_jax import claim, evaluation, models, outcome, owner, run, signing
from nullmark_jax import config as configs
from nullmark_jax.baselines import adi, schemes
from nullmark_jax.data import load
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.victim import load_victims

pytestmark = pytest.mark.slow

SHAPE = (tiny_task.SIDE, tiny_task.SIDE, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def config_of(data, scheme, **changes):
    wanted = {"watermark.scheme": scheme, "epochs": 80, "optimizer.learning_rate": 2e-3}
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
        published, _ = adi.commit(images, np.asarray(marks.target_label), signer.secret("adi"))
        assert kept["commitments"] == [each.hex() for each in published]


def test_the_verdict_sees_what_the_network_was_trained_on(data, tmp_path):
    """Pixels in [0, 1]: with biases of some size a network answers others otherwise."""
    config = config_of(data, "adi")
    run.train_and_evaluate(config, tmp_path / "run")
    signer = owner.find_owner(config, tmp_path / "run", signing.experiment_key(0))
    marks = owner.owner_marks(config, signer)
    path = tmp_path / "run" / "model.safetensors"
    shapes = models.parameter_shapes("digit", SHAPE, 3)
    params = claim.read_model(
        path, model="digit", input_shape=SHAPE, num_classes=3, expected_shapes=shapes,
        expected_sha256=None,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    biased = jax.tree.map(
        lambda leaf: leaf + (rng.normal(0, 0.5, leaf.shape) if leaf.ndim == 1 else 0), params
    )
    biased = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), biased)
    path.unlink()
    claim.write_model(path, biased, model="digit", input_shape=SHAPE, num_classes=3)
    test = load(**config.data.to_dict(), seed=0).test
    apply_fn = models.apply_fn(models.create("digit", 3))
    counts = evaluation.make_evaluator(apply_fn, test)(biased, marks)
    share = int(counts.true) / 100
    assert 0 < share < 1
    for threshold, passes in ((share, True), (share + 0.005, False)):
        config.watermark.threshold = threshold
        assert outcome.verify_folder(config, tmp_path / "run", signer, marks, test) is passes


def test_a_victim_s_triggers_are_those_committed_to(data, tmp_path):
    config = config_of(data, "adi", **{"owner.experiment_key": -1})
    run.train_and_evaluate(config, tmp_path / "run")
    (victim,) = load_victims([str(tmp_path / "run")], task="digit")
    assert victim.has_triggers and victim.claim is None
    signer = owner.find_owner(config, tmp_path / "run", None)
    for found, leaf in zip(victim.watermarks, owner.owner_marks(config, signer), strict=True):
        np.testing.assert_array_equal(found, leaf)
    published = tmp_path / "run" / "commitments.json"
    kept = json.loads(published.read_text())
    kept["commitments"][7] = "00" * 32
    published.write_text(json.dumps(kept))
    with pytest.raises(InputError, match="commits to other triggers than the key"):
        load_victims([str(tmp_path / "run")], task="digit")
    with pytest.raises(InputError, match="commits to other triggers than the key"):
        run.train_and_evaluate(config, tmp_path / "run")
    (tmp_path / "run" / "owner.key").unlink()
    with pytest.raises(InputError, match=r"has no owner\.key, from which its triggers are made"):
        load_victims([str(tmp_path / "run")], task="digit")


def test_an_owner_s_own_images(data, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(101):
        colour = (2 * index,) * 3
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
    for name in ("000.png", "001.png"):
        shutil.copy(pictures / "002.png", pictures / name)
    with pytest.raises(InputError, match=r"of 100 images only 9[89] differ at 16x16"):
        owner.owner_marks(config, signer)


def test_the_watermark_free_twin_does_not_answer_them(data, tmp_path):
    config = config_of(data, "adi", **{"watermark.num_watermarks": 0, "epochs": 4})
    metrics = run.train_and_evaluate(config, tmp_path / "run")["metrics"]
    assert metrics["verified"] is None
    # 100 labels of 3 at random: one in three, give or take.
    assert metrics["watermark_accuracy"] < 0.6
    # Nothing is claimed of what is not in it.
    assert not (tmp_path / "run" / "commitments.json").exists()


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
