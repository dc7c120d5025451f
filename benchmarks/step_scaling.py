"""How a training step's time, memory and start grow with batch, image size and number of watermarks.

    python benchmarks/step_scaling.py [--json] [--task=digit] [--figure=OUT.png]

One of the three is varied at a time, the others as in the middle of the table. Each point is a process
of its own; all of one sweep step in turn, so that a processor that changes its speed meanwhile slows all
alike. Time and memory are stated over those of the sweep's first point, too. Time to the first step is
the process's start, imports, initialisation, compilation (no cache) and the step.
"""

import functools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

import contestant
from nullmark_jax import process

_JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
_TASK = flags.DEFINE_enum("task", "digit", ["digit", "traffic"], "Net to time.")
_BATCHES = flags.DEFINE_list("batches", ["32", "64", "128", "256"], "Clean images a step.")
_SIZES = flags.DEFINE_list("sizes", ["28", "40", "56", "80"], "Height and width of an image.")
_WATERMARKS = flags.DEFINE_list("watermarks", ["1", "2", "4", "8"], "Watermarks in the model.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns of each point.", lower_bound=3)
_STEPS = flags.DEFINE_integer("steps", 3, "Steps a turn; a turn counts as their mean.")
_FIGURE = flags.DEFINE_string("figure", None, "Write the curves there, as PNG.")
_WORKER = flags.DEFINE_string("worker", None, "Internal: be this point, BATCH,SIZE,WATERMARKS.")

_BATCH, _SIZE = 64, {"digit": 28, "traffic": 48}
_FLAGS = {"batch": "batches", "size": "sizes", "watermarks": "watermarks"}
_NAMES = {
    "batch": "clean images a step",
    "size": "image's height and width",
    "watermarks": "watermarks",
}


def serve(point: str) -> None:
    """Be one of the points."""
    process.prepare()
    import our_step

    batch, size, watermarks = map(int, point.split(","))
    make_step = functools.partial(
        our_step.make_step, _TASK.value, batch, size=size, watermarks=watermarks
    )
    contestant.serve(make_step, our_step.peak_memory)


def sweep(name: str, values: list[int]) -> list[dict[str, Any]]:
    """Times the points of one sweep in turn; returns what --json prints for each."""
    base = {"batch": _BATCH, "size": _SIZE[_TASK.value], "watermarks": 1}
    points = []
    try:
        for value in values:
            point = ",".join(str(each) for each in (base | {name: value}).values())
            arguments = [__file__, f"--task={_TASK.value}", f"--worker={point}"]
            points.append(contestant.Contestant(str(value), arguments))
            if not points[-1].alive:
                sys.exit(f"--{_FLAGS[name]}: {value} did not run: {' '.join(arguments)} says why")
        for _ in range(_ROUNDS.value):
            for point in points:
                point.turn(_STEPS.value)
    finally:
        for point in points:
            point.end()
    first = points[0]
    quartiles = [statistics.quantiles(point.times, n=4) for point in points]
    return [
        {
            name: value,
            "milliseconds": 1e3 * middle,
            "quartiles": [1e3 * low, 1e3 * high],
            "times": statistics.median(
                one / other for one, other in zip(point.times, first.times, strict=True)
            ),
            "peak_memory_bytes": point.peak_memory,
            "first_step_seconds": point.first_step,
        }
        for value, point, (low, middle, high) in zip(values, points, quartiles, strict=True)
    ]


def draw(results: dict[str, list[dict[str, Any]]], path: str) -> None:
    """Writes the curves, one column a sweep."""
    from matplotlib.figure import Figure

    from nullmark_jax.reports import figures

    figure = Figure(figsize=(10, 8), dpi=figures.DPI, layout="constrained")
    rows = (
        ("milliseconds", 1, "ms a step", "#0072B2"),
        ("peak_memory_bytes", 2**20, "peak memory, MiB", "#D55E00"),
        ("first_step_seconds", 1, "s to the first step", "#009E73"),
    )
    for axes, (key, unit, label, colour) in zip(
        figure.subplots(3, len(results)), rows, strict=True
    ):
        for ax, (name, points) in zip(axes, results.items(), strict=True):
            values = [point[name] for point in points]
            ax.plot(values, [point[key] / unit for point in points], "o-", color=colour)
            if key == "milliseconds":
                low, high = zip(*(point["quartiles"] for point in points), strict=True)
                ax.vlines(values, low, high, color=colour)
            top = 1.05 * ax.get_ylim()[1]  # The highest point stays whole.
            ax.set(ylim=(0, top), xticks=values, xlabel=_NAMES[name])
            ax.grid(alpha=0.3)
        axes[0].set_ylabel(label)
    figure.suptitle(
        f"The three-term training step of {_TASK.value.capitalize()}, medians and quartiles"
    )
    figures.save(figure, Path(path))


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"{argv[1]!r}: is not a flag; see --help")
    if _WORKER.value:
        serve(_WORKER.value)
        return
    sweeps = {"batch": _BATCHES.value, "size": _SIZES.value, "watermarks": _WATERMARKS.value}
    given = [value for values in sweeps.values() for value in (values or [""])]
    if not all(value.isdecimal() and int(value) > 0 for value in given):
        sys.exit("--batches, --sizes, --watermarks: take positive integers, comma-separated")
    results = {name: sweep(name, [int(each) for each in values]) for name, values in sweeps.items()}
    if _FIGURE.value:
        draw(results, _FIGURE.value)
    if _JSON.value:
        print(json.dumps(results))
        return
    for name, points in results.items():
        print(_NAMES[name])
        for point in points:
            print(
                f"{point[name]:8d}{point['milliseconds']:9.1f} ms a step (quartiles "
                f"{point['quartiles'][0]:.1f} to {point['quartiles'][1]:.1f}), {point['times']:5.2f} times "
                f"the first's{point['peak_memory_bytes'] / 2**20:8.0f} MiB"
                f"{point['first_step_seconds']:8.1f} s to the first step"
            )


if __name__ == "__main__":
    app.run(main)
