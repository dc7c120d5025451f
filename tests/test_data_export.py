"""export.py: a task's data as a file that gives the same images."""

import pathlib

import numpy as np
import pytest

from configs import quickstart
from nullmark_jax import data
from nullmark_jax.data import export
from nullmark_jax.run import data_arguments

CONFIG = f"--config={pathlib.Path(__file__).parents[1]}/configs/quickstart.py"
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def test_the_file_gives_the_same_splits(capsys, tmp_path):
    path = tmp_path / "digits.npz"
    assert export.main(["export", CONFIG, f"--out={path}"]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: 1438 training and 359 test images; ")
    arguments = data_arguments(quickstart.get_config())
    ours = data.load(**arguments, seed=3)
    theirs = data.load(**(arguments | {"source": "npz", "path": str(path)}), seed=3)
    for name in ("train", "validation", "test"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert len(one.labels) > 0
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
    before = path.read_bytes()
    assert export.main(["export", CONFIG, f"--out={path}"]) == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out={folder}/none/x.npz"], "none/x.npz: cannot be written"),
        (["--out={folder}/x.npz", "--config.data.source=npz"], "config.data.path=''"),
        (["--out={folder}/x.npz", "--config.epochs=0"], "config.epochs: 0 is out of range"),
        ([], "flag --out=None"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, tmp_path, arguments, said):
    given = [each.format(folder=tmp_path) for each in arguments]
    assert export.main(["export", CONFIG, *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []
