"""A population of small models, of watermarks on one model, or of whole runs: vmap, or a loop?

    python benchmarks/populations.py [--json] [--task=digit] [--members=8]
    python benchmarks/populations.py --populations=runs [--epochs=4]

Pirates: the training of each from one victim, as the piracy experiment has it, a watermark and an order
of images its own; "vmap" is `retraining.make_population_retraining`. Watermarks: null
and true matches of each on one model, whose answers and features of the images themselves are found once;
"unrolled" is `evaluation.make_evaluator`, made for a few watermarks of any network, which goes through whole
copies. Runs: those of the quickstart that a sweep over seeds trains, from configs to verified run folders, as
`python -m nullmark_jax.sweep` does, one after another and at once (`run_population`), on one device and on
two: virtual ones, which share the cores, where there is a CPU alone; each way keeps what it compiles in a
folder of its own, as users' processes do in theirs. Each way of going through the population is a process of
its own, and all have their turns in one run. Times are of the whole population.
"""

import functools
import itertools
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import app, flags

import contestant
from nullmark_jax import process

_JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
_TASK = flags.DEFINE_enum("task", "digit", ["digit", "face", "traffic", "object"], "Net to time.")
_MEMBERS = flags.DEFINE_integer("members", 8, "Models, or watermarks.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 64, "Clean images a step.", lower_bound=2)
_STEPS = flags.DEFINE_integer("steps", 4, "Training steps of each pirate.", lower_bound=1)
_IMAGES = flags.DEFINE_integer("images", 500, "Images a watermark is tried on.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns of each way.", lower_bound=2)
_EPOCHS = flags.DEFINE_integer("epochs", 4, "Of each run.", lower_bound=1)
_POPULATIONS = flags.DEFINE_list("populations", ["pirates", "watermarks"], "Which to time.")
_WORKER = flags.DEFINE_string("worker", None, "Internal: be this way, POPULATION/WAY.")

# The first is what the others' ratio is of: what the experiments do on one CPU device.
_WAYS = {
    "pirates": ("loop", "vmap"),
    "watermarks": ("loop", "vmap", "unrolled"),
    "runs": ("loop", "at once", "at once on 2 devices"),
}


def pirates(way: str) -> Callable[[], float]:
    """Returns a function that trains each pirate for some steps, from one victim's params."""
    import our_step
    from nullmark_jax import models, optimizers
    from nullmark_jax.attacks import retraining

    batch, members, steps = _BATCH.value, _MEMBERS.value, _STEPS.value
    images, labels, marks = our_step.inputs(_TASK.value, 4 * batch, watermarks=members)
    model = models.create(_TASK.value, our_step.SHAPES[_TASK.value][1], precision="highest")
    recipe = optimizers.Recipe("adam", 1e-4, clip_norm=1.0)
    adversary = retraining.Adversary(recipe, steps, batch_size=batch)
    params = models.init_params(model, jax.random.key(0), images.shape[1:])
    # Of each pirate a population of one.
    each = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], marks) for i in range(members)]
    if way == "vmap":
        together = retraining.make_population_retraining(
            model, adversary, pattern_size=our_step.PATTERN_SIZE
        )
        rows = np.arange(len(labels))
        them = [retraining.Member(mark, rows, seed) for seed, mark in enumerate(each)]

        def at_once() -> float:
            (reached,) = together(params, images, labels, them, (steps,))
            return sum(member.loss for member in reached)

        return at_once
    alone = retraining.make_retraining(model, adversary, pattern_size=our_step.PATTERN_SIZE)

    def one_by_one() -> float:
        ends = [
            alone(params, images, labels, mark, seed, (steps,)) for seed, mark in enumerate(each)
        ]
        return sum(reached.loss for (reached,) in ends)

    return one_by_one


def watermarks(way: str) -> Callable[[], float]:
    """Returns a function that finds each watermark's null and true matches on the images."""
    import our_step
    from nullmark_jax import evaluation, incremental, models
    from nullmark_jax.attacks import grinding
    from nullmark_jax.data import Dataset
    from nullmark_jax.embedding import Watermark, scale_pixels

    members, size = _MEMBERS.value, our_step.PATTERN_SIZE
    images, labels, marks = our_step.inputs(_TASK.value, _IMAGES.value, watermarks=members)
    classes = our_step.SHAPES[_TASK.value][1]
    model = models.create(_TASK.value, classes, precision="highest")
    params = models.init_params(model, jax.random.key(0), images.shape[1:])
    if way == "unrolled":
        dataset = Dataset(images, labels, tuple(map(str, range(classes))))
        evaluate = evaluation.make_evaluator(models.apply_fn(model), dataset)
        return lambda: float(np.sum(evaluate(params, marks).null))
    if way == "loop":
        score = grinding.make_score(model, params, images, labels, pattern_size=size)
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], marks) for i in range(members)]
        return lambda: float(sum(int(score(mark).null) for mark in each))
    copies = incremental.copies_of_network(model, pattern_size=size)
    seen = scale_pixels(jnp.asarray(images))
    features = jax.jit(copies.features)(params, seen)

    def matches(params: models.Params, mark: Watermark) -> tuple[jax.Array, jax.Array]:
        population = jax.tree.map(lambda leaf: leaf[None], mark)
        which = jnp.zeros(len(labels), jnp.int32)
        null, true = copies.logits(params, seen, features, population, which)
        wrong = mark.target_label != labels
        return (
            (null.argmax(-1) == labels).sum(),
            ((true.argmax(-1) == mark.target_label) & wrong).sum(),
        )

    together = jax.jit(jax.vmap(matches, in_axes=(None, 0)))
    return lambda: float(together(params, marks)[0].sum())


def runs(way: str) -> Callable[[], float]:
    """Returns a function that trains the runs, each from a seed of its own, into new folders."""
    from nullmark_jax import program, run, run_population

    path = pathlib.Path(__file__).parents[1] / "configs" / "quickstart.py"
    folder = tempfile.TemporaryDirectory()
    turns = itertools.count()

    def config(seed: int) -> ml_collections.ConfigDict:
        made = program.load_config_file(path).get_config()
        made.seed, made.epochs = seed, _EPOCHS.value
        made.owner.experiment_key, made.owner.timestamp = 3, "2026-11-21T00:00:00Z"
        return made

    def train() -> float:
        turn = pathlib.Path(folder.name) / str(next(turns))
        seeds = range(_MEMBERS.value)
        if way == "loop":
            for seed in seeds:
                run.train_and_evaluate(config(seed), turn / str(seed))
        else:
            members = [
                run_population.Run(str(seed), config(seed), turn / str(seed), "") for seed in seeds
            ]
            # As many as they are: at once takes more than one a device on accelerators alone.
            dead = run_population.train_and_evaluate(members, at_once=len(members))
            if dead:
                sys.exit(f"runs: {dead}")
        return float(sum(1 for _ in turn.glob("*/result.json")))

    return train


def serve(point: str) -> None:
    """Be one of the ways."""
    population, way = point.split("/")
    if way.endswith("2 devices"):  # Before jax asks for its devices; of no effect on GPUs and TPUs.
        two = "--xla_force_host_platform_device_count=2"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {two}"
    process.prepare()
    import our_step

    make = {"pirates": pirates, "watermarks": watermarks, "runs": runs}[population]
    # A run's first turn compiles; there is nothing else to warm up.
    warm_up = 0 if population == "runs" else 2
    contestant.serve(functools.partial(make, way), our_step.peak_memory, warm_up=warm_up)


def compare(population: str) -> dict[str, dict[str, float]]:
    """Times the ways of one population in turn; returns what --json prints for each."""
    ways = []
    kept = tempfile.TemporaryDirectory()
    shared = [
        f"--{flag.name}={flag.value}"
        for flag in (_TASK, _MEMBERS, _BATCH, _STEPS, _IMAGES, _EPOCHS)
    ]
    try:
        for way in _WAYS[population]:
            arguments = [__file__, *shared, f"--worker={population}/{way}"]
            environ = {}
            if population == "runs":
                environ = {
                    "JAX_ENABLE_COMPILATION_CACHE": "true",
                    "JAX_COMPILATION_CACHE_DIR": f"{kept.name}/{len(ways)}",
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
                }
            ways.append(contestant.Contestant(way, arguments, environ))
            if not ways[-1].alive:
                sys.exit(f"{population}, {way}: did not run: {' '.join(arguments)} says why")
        for _ in range(_ROUNDS.value):
            for way in ways:
                way.turn(1)
    finally:
        for way in ways:
            way.end()
    found = {}
    for way in ways:
        ratios = [own / first for own, first in zip(way.times, ways[0].times, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        found[way.name] = {
            "milliseconds": 1e3 * statistics.median(way.times),
            "times_the_loop": middle,
            "low": low,
            "high": high,
            "peak_memory_bytes": way.peak_memory,
        }
    return found


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"{argv[1]!r}: is not a flag; see --help")
    if _WORKER.value:
        serve(_WORKER.value)
        return
    results = {population: compare(population) for population in _POPULATIONS.value}
    if _JSON.value:
        contestant.print_json(results)
        return
    print(f"{_TASK.value} (runs: quickstart), {_MEMBERS.value} of each")
    for population, ways in results.items():
        for way, point in ways.items():
            print(
                f"{population:12}{way:22}{point['milliseconds']:10.1f} ms, {point['times_the_loop']:.2f} "
                f"times the loop's (quartiles {point['low']:.2f} to {point['high']:.2f})"
                f"{point['peak_memory_bytes'] / 2**20:7.0f} MiB"
            )


if __name__ == "__main__":
    app.run(main)
