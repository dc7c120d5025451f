"""From a program's start to its first training step's end, compiled anew and out of the compilation cache.

    python benchmarks/compilation_cache.py [--json] [--tasks=digit,traffic] [--rounds=5]

Each round starts the program twice on a cache folder of its own that is empty at first: it compiles and
keeps, then it loads. The main program's imports are in both times.
"""

import statistics
import sys
import tempfile

from absl import app, flags

import contestant

_JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
_TASKS = flags.DEFINE_list("tasks", ["digit", "traffic"], "Nets to time.")
_BATCH = flags.DEFINE_integer("batch", 128, "Clean images a step.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Pairs of starts.", lower_bound=1)
_WORKER = flags.DEFINE_string("worker", None, "Internal: make this net's step.")


def serve(task: str) -> None:
    """Be the program: with all that the main one imports."""
    import nullmark_jax.main  # noqa: F401
    from nullmark_jax import process

    process.prepare()
    import our_step

    contestant.serve(lambda: our_step.make_step(task, _BATCH.value), our_step.peak_memory)


def seconds(task: str, home: str) -> float:
    """Starts the program with a cache home; returns the seconds to its first step's end."""
    arguments = [__file__, f"--worker={task}", f"--batch={_BATCH.value}"]
    environ = {"XDG_CACHE_HOME": home, "JAX_ENABLE_COMPILATION_CACHE": "true"}
    program = contestant.Contestant(task, arguments, environ)
    program.end()
    if not program.alive:
        sys.exit(f"{task}: did not run: {' '.join(arguments)} says why")
    return program.first_step


def compare(task: str) -> dict[str, float | list[float]]:
    """Returns what --json prints for a task."""
    pairs = []
    for _ in range(_ROUNDS.value):
        with tempfile.TemporaryDirectory() as home:
            pairs.append((seconds(task, home), seconds(task, home)))
    ratios = sorted(first / second for first, second in pairs)
    return {
        "compiled_seconds": statistics.median(first for first, _ in pairs),
        "loaded_seconds": statistics.median(second for _, second in pairs),
        "times_as_fast": statistics.median(ratios),
        "lowest_and_highest": [ratios[0], ratios[-1]],
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"{argv[1]!r}: is not a flag; see --help")
    if _WORKER.value:
        serve(_WORKER.value)
        return
    results = {task: compare(task) for task in _TASKS.value}
    if _JSON.value:
        contestant.print_json(results)
        return
    for task, found in results.items():
        low, high = found["lowest_and_highest"]
        print(
            f"{task:8} compiled {found['compiled_seconds']:.1f} s, loaded {found['loaded_seconds']:.1f} s: "
            f"{found['times_as_fast']:.1f} times as fast ({low:.1f} to {high:.1f})"
        )


if __name__ == "__main__":
    app.run(main)
