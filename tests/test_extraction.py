"""Model extraction: the soft cross entropy by hand, queries, and a substitute that learns its victim."""

import json
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import tiny_task
import tiny_victim
from PIL import Image

from nullmark_jax import losses, models
from nullmark_jax.attacks import extraction
from nullmark_jax.attacks.extraction import Thief
from nullmark_jax.data import unlabelled
from nullmark_jax.errors import InputError
from nullmark_jax.experiments import experiment, queries
from nullmark_jax.experiments import extraction as extraction_experiment
from nullmark_jax.optimizers import Recipe

ROOT = pathlib.Path(__file__).parents[1]
SHAPE = (tiny_task.SIDE, tiny_task.SIDE, 1)


def linear(params, images):
    return images.reshape(images.shape[0], -1) @ params


class TestSoftCrossEntropy:
    def test_by_hand(self):
        logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
        targets = jnp.array([[0.2, 0.8, 0.0]])
        by_hand = -(0.2 * np.log(0.5) + 0.8 * np.log(0.25))
        np.testing.assert_allclose(
            extraction.soft_cross_entropy(logits, targets), [by_hand], rtol=1e-6
        )

    def test_of_one_hot_targets_is_that_of_labels(self):
        logits = jnp.asarray(np.random.default_rng(0).normal(0, 3, (5, 4)), jnp.float32)
        labels = jnp.array([0, 3, 1, 1, 2])
        np.testing.assert_allclose(
            extraction.soft_cross_entropy(logits, jax.nn.one_hot(labels, 4)),
            losses.logits_cross_entropy(logits, labels),
            rtol=1e-6,
        )

    def test_is_least_where_the_answers_are_the_targets(self):
        logits = jnp.array([[1.0, -0.5, 0.25]])
        gradient = jax.grad(
            lambda each: extraction.soft_cross_entropy(each, jax.nn.softmax(logits)).sum()
        )(logits)
        np.testing.assert_allclose(gradient, 0, atol=1e-6)


class TestOracle:
    params = jnp.asarray(np.random.default_rng(1).normal(0, 1, (4, 3)), jnp.float32)
    images = np.random.default_rng(2).integers(0, 256, (601, 2, 2, 1), dtype=np.uint8)

    def test_labels(self):
        answers = extraction.make_oracle(linear, "label")(self.params, self.images)
        assert answers.dtype == np.int32
        logits = self.images.reshape(601, 4) / 255 @ np.asarray(self.params)
        np.testing.assert_array_equal(answers, logits.argmax(-1))

    def test_probabilities(self):
        answers = extraction.make_oracle(linear, "soft")(self.params, self.images)
        assert (answers.dtype, answers.shape) == (np.float32, (601, 3))
        raised = np.exp(self.images.reshape(601, 4) / 255 @ np.asarray(self.params))
        np.testing.assert_allclose(answers, raised / raised.sum(-1, keepdims=True), rtol=1e-4)

    def test_another_kind_is_refused(self):
        with pytest.raises(InputError, match=r"kind: 'hard' is none; take one of label, soft"):
            extraction.make_oracle(linear, "hard")


class TestRandomImages:
    def test_fewer_are_the_first_of_more(self):
        many = extraction.random_images(20, (5, 4, 3), 7)
        assert (many.dtype, many.shape) == (np.uint8, (20, 5, 4, 3))
        np.testing.assert_array_equal(extraction.random_images(8, (5, 4, 3), 7), many[:8])
        assert abs(float(extraction.random_images(200, (8, 8, 1), 1).mean()) - 127.5) < 3


class TestMakeExtraction:
    @pytest.mark.parametrize("kind", ["label", pytest.param("soft", marks=pytest.mark.slow)])
    def test_a_substitute_learns_what_it_is_told(self, kind):
        model = models.create("digit", tiny_task.CLASSES)
        images, labels = tiny_task.images_and_labels(60, 0)
        # A victim that calls each kind of bar by the next one's name.
        told = (labels + 1) % tiny_task.CLASSES
        answers = np.eye(tiny_task.CLASSES, dtype=np.float32)[told] if kind == "soft" else told
        thief = Thief(
            Recipe("adam", 1e-3, clip_norm=1.0), steps=40, batch_size=16, standardized=True
        )
        extract = extraction.make_extraction(model, thief, kind, input_shape=SHAPE)
        params = extract(images, answers, 0)
        assert jax.tree.map(np.shape, params) == jax.tree.map(
            np.shape, models.init_params(model, jax.random.key(0), SHAPE)
        )
        ask = extraction.make_oracle(models.apply_fn(model), "label")
        unseen, truth = tiny_task.images_and_labels(45, 1)
        assert np.mean(ask(params, unseen) == (truth + 1) % tiny_task.CLASSES) > 0.9
        jax.tree.map(np.testing.assert_array_equal, params, extract(images, answers, 0))

    def test_without_steps_is_refused(self):
        thief = Thief(Recipe("adam", 1e-3), steps=0)
        with pytest.raises(InputError, match="steps: 0 must be at least 1"):
            extraction.make_extraction(models.create("digit", 3), thief, "label", input_shape=SHAPE)


class TestUnlabelled:
    def write(self, folder, **arrays) -> str:
        np.savez(folder / "other.npz", **arrays)
        return str(folder / "other.npz")

    def read(self, path, shape=(4, 6, 3), count=10**9):
        return unlabelled.read(path, input_shape=shape, count=count, seed=0)

    @pytest.mark.parametrize("given", [(5, 8, 8), (5, 8, 8, 1), (5, 9, 7, 3)])
    @pytest.mark.parametrize("shape", [(4, 6, 3), (4, 6, 1)])
    def test_converts_and_resizes(self, tmp_path, given, shape):
        level = np.arange(5, dtype=np.uint8).reshape(5, *[1] * (len(given) - 1)) * 50
        made = self.read(self.write(tmp_path, x_train=np.broadcast_to(level, given)), shape)
        assert (made.dtype, made.shape) == (np.uint8, (5, *shape))
        # Images of one level each stay so, in the order drawn.
        assert sorted(each.flat[0] for each in made) == [0, 50, 100, 150, 200]
        assert all(len(np.unique(each)) == 1 for each in made)

    def test_a_folder_of_pictures(self, tmp_path):
        for name, level in (("b.png", 200), ("a.PNG", 100), ("notes.txt", 0)):
            if name.endswith("txt"):
                (tmp_path / name).write_text("no picture")
            else:
                Image.new("RGB", (9, 7), (level, level, level)).save(tmp_path / name)
        made = self.read(str(tmp_path))
        assert made.shape == (2, 4, 6, 3)
        assert sorted(int(each.flat[0]) for each in made) == [100, 200]
        (tmp_path / "c.jpg").write_bytes(b"no picture")
        with pytest.raises(InputError, match=r"c\.jpg: is no picture that can be read \(Unident"):
            self.read(str(tmp_path))

    def test_a_folder_without_pictures(self, tmp_path):
        with pytest.raises(InputError, match="holds no pictures; give a folder with"):
            self.read(str(tmp_path))

    def test_leaves_what_fits(self, tmp_path):
        images = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3), dtype=np.uint8)
        made = self.read(self.write(tmp_path, x=images))
        assert {each.tobytes() for each in made} == {each.tobytes() for each in images}
        np.testing.assert_array_equal(self.read(self.write(tmp_path, x=images), count=3), made[:3])

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"y": np.zeros(3)}, "has neither of the arrays x_train, x"),
            ({"x": np.zeros((2, 3, 3, 3))}, "x is float64, not uint8"),
            ({"x_train": np.zeros((2, 3, 3, 2), np.uint8)}, r"shape \(2, 3, 3, 2\)"),
            ({"x_train": np.zeros((0, 3, 3), np.uint8)}, r"shape \(0, 3, 3\)"),
            ({"x_train": np.array([{}, {}])}, "not such a file"),
        ],
    )
    def test_refuses_other_arrays_in_one_line(self, tmp_path, arrays, message):
        with pytest.raises(InputError, match=message) as error:
            self.read(self.write(tmp_path, **arrays))
        assert "\n" not in str(error.value)

    def test_refuses_other_files(self, tmp_path):
        (tmp_path / "text.npz").write_text("no archive")
        np.save(tmp_path / "single.npy", np.zeros((2, 3, 3), np.uint8))
        for name in ("text.npz", "single.npy", "missing.npz"):
            with pytest.raises(InputError, match=r"give an \.npz made by numpy\.savez") as error:
                self.read(str(tmp_path / name))
            assert "\n" not in str(error.value)

    def test_refuses_other_channels(self, tmp_path):
        path = self.write(tmp_path, x=np.zeros((2, 3, 3), np.uint8))
        with pytest.raises(InputError, match="converted to 2 channels"):
            self.read(path, (4, 4, 2))


class TestQueries:
    def test_paths_by_name(self):
        assert queries.paths_of("") == {}
        assert queries.paths_of("a/faces.npz, b/other.npz") == {
            "faces": "a/faces.npz",
            "other": "b/other.npz",
        }
        for text in ("a/x.npz,b/x.npz", "random.npz"):
            with pytest.raises(InputError, match="rename one"):
                queries.paths_of(text)

    def test_counts(self):
        config = ml_collections.ConfigDict(
            {"task_fractions": (0.1, 1.0), "other_fractions": (0.5, 2.0, 3.0)}
        )
        assert queries.counts(config, 200, {"faces": 150}) == [
            ("task", 20),
            ("task", 200),
            ("faces", 100),
            ("faces", 150),
            ("random", 100),
            ("random", 400),
            ("random", 600),
        ]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections
def test_victims_of_different_steps_are_one_line(tmp_path_factory, tmp_path, capsys):
    first = tiny_victim.folder(tmp_path_factory)
    other = tiny_victim.other(first, tmp_path / "other")
    batch = json.loads((first / "config.json").read_text())["batch_size"]
    tiny_victim.change_json(other / "config.json", batch_size=batch // 2)
    argv = [f"--config={ROOT}/configs/attacks/extraction.py:digit", f"--workdir={tmp_path}/out"]
    argv += [f"--victim={first}", f"--victim={other}"]
    assert experiment.main(extraction_experiment.EXPERIMENT, ["extraction", *argv]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.endswith(
        "--victim: they trained for different numbers of steps; give them one by one"
    )
    assert not (tmp_path / "out").exists()
