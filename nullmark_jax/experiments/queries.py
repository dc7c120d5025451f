"""What a thief asks a victim about: images of its task, of something else, or random ones."""

import pathlib

import ml_collections
import numpy as np

from nullmark_jax import checks
from nullmark_jax.attacks import extraction
from nullmark_jax.data import unlabelled
from nullmark_jax.errors import InputError
from nullmark_jax.experiments.bench import Bench
from nullmark_jax.experiments.victim import Victim

# Sources of queries; an .npz file's name is another.
TASK, RANDOM = "task", "random"


def paths_of(text: str) -> dict[str, str]:
    """Returns a list of .npz files, with commas between, as paths by the name of the file.

    Raises:
      InputError: two files have one name, or one that another source has.
    """
    paths = [each.strip() for each in text.split(",") if each.strip()]
    named = {pathlib.PurePath(path).stem: path for path in paths}
    if len(named) < len(paths) or named.keys() & {TASK, RANDOM}:
        raise InputError(
            f"config.ood_path: {checks.shown(text)} needs files whose names differ and are neither "
            f"{TASK}.npz nor {RANDOM}.npz; rename one"
        )
    return named


def available(path: str, victim: Victim) -> int:
    """Returns how many images a file has; InputError where it will not do for the victim's task."""
    shape = tuple(victim.config.data.input_shape)
    return len(unlabelled.read(path, input_shape=shape, count=10**9, seed=0))


def counts(
    config: ml_collections.ConfigDict, training_images: int, most: dict[str, int]
) -> list[tuple[str, int]]:
    """Returns the sources and numbers of images asked about, each pair once.

    Args:
      config: with `task_fractions` and `other_fractions`.
      training_images: of the victim, what the fractions are of.
      most: how many images each file has.
    """
    wanted = [(TASK, fraction) for fraction in config.task_fractions]
    wanted += [
        (source, fraction) for source in (*most, RANDOM) for fraction in config.other_fractions
    ]
    pairs = [
        (source, min(max(1, round(fraction * training_images)), most.get(source, 10**9)))
        for source, fraction in wanted
    ]
    return list(dict.fromkeys(pairs))


def images(bench: Bench, source: str, *, path: str, count: int, seed: int) -> np.ndarray:
    """Returns the queries, uint8 [count, H, W, C].

    Args:
      bench: the victim's.
      source: `TASK` for its own training images, `RANDOM`, or a file's name.
      path: of that file.
      count: how many, at most as many as the source has.
      seed: of which.
    """
    shape = tuple(bench.victim.config.data.input_shape)
    if source == TASK:
        return bench.images(count, seed)[0]
    if source == RANDOM:
        return extraction.random_images(count, shape, seed)
    return unlabelled.read(path, input_shape=shape, count=count, seed=seed)
