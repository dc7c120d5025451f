"""Victims: what a run folder must hold before anybody attacks it."""

import shutil

import jax
import numpy as np
import pytest
import tiny_task
import tiny_victim

from nullmark_jax import claim, models, owner
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.victim import load_victims, min_free_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, which no test changes."""
    return tiny_victim.folder(tmp_path_factory)


@pytest.fixture
def copy(trained, tmp_path):
    """A run folder of the test's own."""
    return shutil.copytree(trained, tmp_path / "copy")


def refused(folders, said, *, task="digit", **options):
    with pytest.raises(InputError, match=said) as error:
        load_victims([str(each) for each in folders], task=task, **options)
    assert "\n" not in str(error.value)


def test_a_victim_is_the_run_s_model_data_and_watermarks(trained, tmp_path):
    (victim,) = load_victims([str(trained)], task="digit")
    assert victim.name == trained.name
    assert victim.sha256 == claim.model_digest(trained / "model.safetensors")
    assert (victim.scheme, victim.pattern_size) == ("null-embedding", 4)
    expected = tiny_victim.params_of(trained)
    assert jax.tree.structure(victim.params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, victim.params, expected)
    mark = claim.watermark_of(claim.read_claim(trained / "claim.json"))
    assert victim.watermarks.pattern.shape == (1, 16, 16)
    for found, leaf in zip(victim.watermarks, mark, strict=True):
        np.testing.assert_array_equal(found[0], leaf)
    images, labels = tiny_task.images_and_labels(tiny_task.TEST, 1)
    np.testing.assert_array_equal(victim.splits.test.images, images)
    np.testing.assert_array_equal(victim.splits.test.labels, labels)
    # 120 images, of which a tenth were kept for validation.
    assert (len(victim.splits.train), len(victim.splits.validation)) == (108, 12)
    # The network that was trained answers as it did: all images of the tiny task are easy.
    predict = models.predictor("digit", victim.params, 3)
    np.testing.assert_array_equal(predict(images / np.float32(255)), labels)


def test_watermarks_of_somebody_else(trained):
    (victim,) = load_victims([str(trained)], task="digit")
    few, many = victim.foreign(7, 2), victim.foreign(7, 5)
    assert many.pattern.shape == (5, 16, 16) and many.target_label.shape == (5,)
    for one, other in zip(few, many, strict=True):
        np.testing.assert_array_equal(one, other[:2])
    assert (np.abs(many.pattern).sum((1, 2)) == 16).all()
    assert (many.extreme_value == 20).all()
    assert set(many.target_label) <= {0, 1, 2}
    assert not np.array_equal(victim.foreign(8, 5).pattern, many.pattern)
    assert not any(np.array_equal(each, victim.watermarks.pattern[0]) for each in many.pattern)


def test_all_the_owner_s_watermarks(copy):
    """A run of several embeds those of its signature's first indices."""
    tiny_victim.change_json(copy / "config.json", num_watermarks=3)
    (victim,) = load_victims([str(copy)], task="digit")
    config = tiny_task.config(copy.parent, **{"watermark.num_watermarks": 3})
    made = owner.find_owner(config, copy, owner.named_key(config))
    for found, leaf in zip(victim.watermarks, owner.owner_watermarks(config, made), strict=True):
        np.testing.assert_array_equal(found, leaf)


def test_several_victims_in_the_order_given(trained, tmp_path):
    other = tiny_victim.other(trained, tmp_path / "other")
    free = tiny_victim.free(trained, tmp_path / "free")
    found = load_victims([str(other), str(free), str(trained)], task="digit", free=True)
    assert [each.name for each in found] == ["other", "free", trained.name]
    assert len({each.sha256 for each in found}) == 3
    # One data set in memory for all of them.
    assert found[0].splits is found[1].splits is found[2].splits


def test_a_watermark_free_model_where_it_will_do_and_where_not(trained, tmp_path):
    free = tiny_victim.free(trained, tmp_path / "free")
    (victim,) = load_victims([str(free)], task="digit", free=True)
    assert victim.watermarks is None
    refused([free], r"^--victim: .*/free holds a watermark-free model; give one with a watermark$")


def test_data_that_were_moved(copy, tmp_path):
    (victim,) = load_victims([str(copy)], task="digit")
    moved = tmp_path / "moved.npz"
    shutil.copy(victim.config.data.path, moved)
    tiny_victim.change_json(copy / "config.json", path=str(tmp_path / "gone.npz"))
    refused([copy], r"gone\.npz.*: no such file")
    (again,) = load_victims([str(copy)], task="digit", data_path=str(moved))
    np.testing.assert_array_equal(again.splits.train.images, victim.splits.train.images)
    np.testing.assert_array_equal(again.splits.test.labels, victim.splits.test.labels)


# What cannot be attacked.


def test_none_is_given():
    refused([], r"^--victim: none is given; give the run folder of a finished training$")


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_a_run(tmp_path, name):
    (tmp_path / "empty").mkdir()
    refused(
        [tmp_path / name], rf"^--victim: .*/{name}/config\.json.* cannot be read \(No such file"
    )


def test_a_file_in_place_of_a_folder(trained):
    refused([trained / "config.json"], r"^--victim: .* cannot be read \(Not a directory\)")


def test_a_run_of_another_task(trained):
    refused(
        [trained],
        r"^--victim: .* is a run of the task 'digit', the attack's config is for traffic; give",
        task="traffic",
    )


def test_victims_that_another_threshold_judges(trained, tmp_path):
    other = tiny_victim.other(trained, tmp_path / "other")
    tiny_victim.change_json(other / "config.json", threshold=0.9)
    refused(
        [trained, other],
        r"^--victim: other has config\.watermark\.threshold 0\.9, .* 0\.8; attack them one by one$",
    )


def test_a_model_that_was_not_verified(copy):
    tiny_victim.change_json(copy / "result.json", verified=False)
    for free in (False, True):
        refused([copy], r"^--victim: .* own watermark was not verified.*; train it", free=free)


def test_a_training_that_has_not_ended(copy):
    (copy / "result.json").unlink()
    refused(
        [copy], r"^--victim: .*/copy holds no result\.json, so its training has not ended; give"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.safetensors", r"model\.safetensors: cannot be read \(No such file"),
        ("claim.json", r"claim\.json: cannot be read \(No such file"),
        ("config.json", r"config\.json: cannot be read \(No such file"),
    ],
)
def test_a_file_is_missing(copy, name, said):
    (copy / name).unlink()
    refused([copy], said)


@pytest.mark.parametrize("name", ["model.safetensors", "claim.json", "config.json", "result.json"])
@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"{}", b"\xff\xfe"])
def test_a_file_was_damaged(copy, name, data):
    (copy / name).write_bytes(data)
    refused([copy], name.replace(".", r"\."))


@pytest.mark.parametrize("verdict", ["yes", 1, []])
def test_a_verdict_that_is_none(copy, verdict):
    tiny_victim.change_json(copy / "result.json", verified=verdict)
    refused([copy], r"^--victim: .*result\.json is no training's result; give a run of the main")


def test_an_attack_s_own_folder(copy):
    """Its result has no verdict."""
    (copy / "result.json").write_text('{"metrics": {"victims": []}}')
    refused([copy], r"^--victim: .*result\.json is no training's result")


def test_a_config_out_of_range(copy):
    tiny_victim.change_json(copy / "config.json", batch_size=0)
    refused([copy], r"^--victim: .*config\.json: config\.batch_size: 0 is out of range")


def test_a_model_that_the_claim_is_not_of(copy):
    tiny_victim.write_params(copy, tiny_victim.nudged(tiny_victim.params_of(copy)))
    refused([copy], r"model\.safetensors: its SHA-256 is not [0-9a-f]{64}, as the claim says")


def test_the_same_model_twice(trained, copy):
    refused([trained, copy], r"^--victim: .*, .*: two hold the same model; give each once$")


def test_two_folders_of_one_name(trained, tmp_path):
    (tmp_path / "runs").mkdir()
    other = tiny_victim.other(trained, tmp_path / "runs" / trained.name)
    refused([trained, other], r"^--victim: .*, .*: two folders have one name, .*; rename one$")


def test_a_free_model_of_a_scheme_of_triggers_is_no_victim_of_null_embedding_s_attacks(
    trained, tmp_path
):
    free = tiny_victim.free(trained, tmp_path / "free")
    tiny_victim.change_json(free / "config.json", scheme="adi", null_space=False)
    refused(
        [free], r"^--victim: free is of a scheme of triggers \(adi\), ", free=True, triggers=False
    )
    (victim,) = load_victims([str(free)], task="digit", free=True)
    assert victim.has_triggers and victim.watermarks is None


def test_pirates_who_choose_are_of_victims_of_one_recipe(trained, tmp_path):
    other = tiny_victim.other(trained, tmp_path / "other")
    tiny_victim.change_json(other / "config.json", min_free=0.125)
    victims = load_victims([str(trained), str(other)], task="digit")
    assert min_free_of(victims[:1]) == 0 and min_free_of(victims[1:]) == 0.125
    said = f"--victim: other has config.owner.min_free 0.125, {trained.name} 0.0; attack them one by one"
    with pytest.raises(InputError, match=f"^{said}$"):
        min_free_of(victims)
