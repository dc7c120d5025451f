"""How a training step's and an evaluation's seconds and memory grow, one quantity varied at a time.

    python benchmarks/scaling.py --task=digit --json=OUT.json --figures=FOLDER      # every axis
    python benchmarks/scaling.py --axis=batch --values=16,64,256
    python benchmarks/scaling.py --quick

| axis | what is varied |
|---|---|
| batch | clean images a step |
| size | height and width of an image |
| images | of the training set, which lies on the device; and of an evaluation |
| pattern | side of the pattern, given as the percentage of the input's pixels that it covers |
| watermarks | in a training step; and in an evaluation |
| devices | virtual devices of this CPU: with as many images each (weak), and with as many in all (strong) |
| population | models trained at once by vmap (`nullmark_jax.populations`), and in a loop |

Each point is a process of its own; all of an axis step in turn, so that a processor that changes its
speed meanwhile slows all alike. Compilation is not in the seconds, but in those to the first step, with
the process's start, imports and initialisation. Ratios are those of the rounds to the first point,
their medians and quartiles; the ideal is what they would be if time grew as the work does.

Virtual devices share the cores that one device uses alone, so that equal work can at best take equal
time: what lies above it is the cost of sharing. No number of cores or cards can be read off them.
"""

import functools
import itertools
import json
import os
import pathlib
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import flags
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

import contestant
from nullmark_jax import environment, files, process, program
from nullmark_jax.errors import InputError
from nullmark_jax.reports import curves, figures

# H, W of each net's images; `our_step` has them, too, and takes a second to import.
_SIDES = {"digit": (28, 28), "face": (55, 47), "traffic": (48, 48), "object": (32, 32)}
# What is not varied. The training set is larger than all batches, whose rows lie anywhere in it.
_BATCH, _IMAGES, _EVALUATED, _STRONG, _WEAK = 64, 2048, 1000, 128, 32
_PIRATES_STEPS = 4


class Line(NamedTuple):
    """What is timed at each value of an axis.

    Attributes:
      work: value -> what a contestant does, the arguments of `our_step.make_step` or
        `our_step.make_evaluation`, or those of populations.py.
      ideal: value -> the work, in any unit; None where there is no such thing.
      steps: in a turn; None for --steps.
    """

    work: Callable[[int], dict[str, Any]]
    ideal: Callable[[float], float] | None
    steps: int | None = None


class Axis(NamedTuple):
    """An axis: its label, default values and lines.

    Attributes:
      shown: value -> what stands on the axis.
      common: whether the other lines' ratios are to the first line's first point, too.
    """

    label: str
    values: tuple[int, ...]
    lines: dict[str, Line]
    shown: Callable[[int], float] = float
    common: bool = False


def axes_of(task: str) -> dict[str, Axis]:
    """Returns all axes of a task by name."""
    height, width = _SIDES[task]
    pixels = height * width

    def step(**more: Any) -> dict[str, Any]:
        return {"kind": "step", "batch": _BATCH, "images": _IMAGES, **more}

    def evaluation(**more: Any) -> dict[str, Any]:
        return {"kind": "evaluation", "images": _EVALUATED, **more}

    def devices(count: int, batch: int) -> dict[str, Any]:
        return step(batch=batch, devices=count)

    def pirates(members: int, way: str) -> dict[str, Any]:
        return {"kind": "population", "members": members, "batch": _BATCH, "way": way}

    def side(percent: int) -> int:
        return round((percent / 100 * pixels) ** 0.5)

    same = lambda value: 1.0  # noqa: E731
    proportional = float
    return {
        "batch": Axis(
            "clean images a step",
            (16, 32, 64, 128, 256),
            {"training step": Line(lambda n: step(batch=n), proportional)},
        ),
        "size": Axis(
            "image's height and width",
            tuple(round(height * 2 ** (k / 2)) for k in range(4)),
            {"training step": Line(lambda n: step(size=n), lambda n: n**2)},
        ),
        "images": Axis(
            "images",
            (2500, 5000, 10_000, 20_000),
            {
                "training step, so many on the device": Line(lambda n: step(images=n), same),
                "evaluation over so many": Line(lambda n: evaluation(images=n), proportional, 1),
            },
        ),
        "pattern": Axis(
            "pattern, % of the input's pixels",
            (2, 4, 6, 8, 10),
            {"training step": Line(lambda n: step(pattern_size=side(n)), None)},
            shown=lambda n: 100 * side(n) ** 2 / pixels,
        ),
        "watermarks": Axis(
            "watermarks in the model",
            (1, 2, 4, 8),
            {
                "training step": Line(lambda n: step(watermarks=n), same),
                # Each image passes once as it is, and twice for each watermark.
                "evaluation": Line(lambda n: evaluation(watermarks=n), lambda n: 1 + 2 * n, 1),
            },
        ),
        "devices": Axis(
            "virtual devices of one CPU",
            (1, 2, 4, 8),
            {
                f"weak: {_WEAK} images each": Line(
                    lambda n: devices(n, _WEAK * n), proportional
                ),
                f"strong: {_STRONG} images in all": Line(lambda n: devices(n, _STRONG), same),
            },
        ),
        "population": Axis(
            "models",
            (1, 2, 4, 8),
            {
                "loop": Line(lambda n: pirates(n, "loop"), proportional, 1),
                "population": Line(lambda n: pirates(n, "vmap"), proportional, 1),
            },
            common=True,
        ),
    }  # fmt: skip


def serve(task: str, work: dict[str, Any]) -> None:
    """Be one of the points."""
    process.prepare()
    import our_step

    kind = work.pop("kind")
    work.pop("devices", None)  # XLA's flags have said so.
    make = {"step": our_step.make_step, "evaluation": our_step.make_evaluation}[kind]
    contestant.serve(functools.partial(make, task, **work), our_step.peak_memory)


def start(task: str, name: str, work: dict[str, Any]) -> contestant.Contestant:
    """Starts the process of one point."""
    if work["kind"] == "population":
        given = {"members": work["members"], "batch": work["batch"], "steps": _PIRATES_STEPS}
        beside = pathlib.Path(__file__).with_name("populations.py")
        arguments = [str(beside), *(f"--{flag}={value}" for flag, value in given.items())]
        arguments.append(f"--worker=pirates/{work['way']}")
    else:
        arguments = [__file__, f"--worker={json.dumps(work)}"]
    environ = {}
    if "devices" in work:
        count = f"--xla_force_host_platform_device_count={work['devices']}"
        environ = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}".strip(),
        }
    started = contestant.Contestant(name, [*arguments, f"--task={task}"], environ)
    if not started.alive:
        raise InputError(
            f"--values: {name} did not run; {shlex.join(['python', *started.arguments])} says why; "
            "take another"
        )
    return started


def measure(task: str, axis: Axis, values: list[int], rounds: int, steps: int) -> dict[str, Any]:
    """Times all points of one axis in turn; returns what the JSON holds of it."""
    running: dict[str, list[contestant.Contestant]] = {name: [] for name in axis.lines}
    try:
        for value, (name, line) in itertools.product(values, axis.lines.items()):
            running[name].append(start(task, f"{value} ({name})", line.work(value)))
        for _ in range(rounds):
            for at, (name, line) in itertools.product(range(len(values)), axis.lines.items()):
                running[name][at].turn(line.steps or steps)
        programs = {
            name: [point.program_memory() for point in points] for name, points in running.items()
        }
    finally:
        for point in itertools.chain(*running.values()):
            point.end()
    first = next(iter(running.values()))[0]
    found = {}
    for name, line in axis.lines.items():
        points = running[name]
        reference = (first if axis.common else points[0]).times
        ideal = line.ideal and [
            line.ideal(axis.shown(value)) / line.ideal(axis.shown(values[0])) for value in values
        ]
        found[name] = {
            "ideal": ideal,
            "points": [
                {
                    "value": axis.shown(value),
                    "work": line.work(value),
                    **_spread("seconds", point.times),
                    **_spread(
                        "times",
                        [own / other for own, other in zip(point.times, reference, strict=True)],
                    ),
                    "peak_memory_bytes": point.peak_memory,
                    "program_memory_bytes": memory,
                    "first_step_seconds": point.first_step,
                }
                for value, point, memory in zip(values, points, programs[name], strict=True)
            ],
        }
    return found


def _spread(name: str, rounds: list[float]) -> dict[str, Any]:
    low, middle, high = statistics.quantiles(rounds, n=4)
    return {name: middle, f"{name}_quartiles": [low, high]}


@style.context(figures.STYLE)
def draw(task: str, axis: Axis, found: dict[str, Any]) -> Figure:
    """Draws an axis: on the left time, on the right memory, both over the first point's, which is named."""
    figure = Figure(figsize=(10, 5), dpi=figures.DPI)
    time, memory = figure.subplots(1, 2)
    handles = []
    for (name, line), (colour, marker, _) in zip(found.items(), curves.LOOKS, strict=False):
        points = line["points"]
        at = [point["value"] for point in points]
        low, high = zip(*(point["times_quartiles"] for point in points), strict=True)
        times = [point["times"] for point in points]
        first = points[0]
        label = f"{name}, {_at_first(first)}"
        handles += time.plot(at, times, color=colour, marker=marker, linewidth=2, label=label)
        time.vlines(at, low, high, color=colour, linewidth=4, alpha=0.4)
        if line["ideal"]:
            time.plot(at, line["ideal"], color=colour, linestyle=":", linewidth=1.5)
        for key, dash in (("peak_memory_bytes", "-"), ("program_memory_bytes", "--")):
            held = [point[key] for point in points]
            if all(held):
                one = next(iter(found.values()))["points"][0][key] if axis.common else held[0]
                over = [each / one for each in held]
                memory.plot(at, over, color=colour, marker=marker, linestyle=dash, linewidth=2)
    in_black = functools.partial(Line2D, [], [], color="black")
    lines = found.values()
    if any(line["ideal"] for line in lines):
        handles.append(in_black(linestyle=":", label="time, if it grew as the work"))
    handles.append(in_black(linestyle="-", label="memory: the process's peak"))
    if any(point["program_memory_bytes"] for line in lines for point in line["points"]):
        handles.append(in_black(linestyle="--", label="memory: the compiled step's own"))
    for panel, label in ((time, "time"), (memory, "memory")):
        panel.set_xscale("log")
        panel.set_xticks(at, [f"{value:.3g}" if value < 1000 else f"{value:g}" for value in at])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel(axis.label)
        _scale(panel)
        panel.set_title(f"{label}, times the first point's")
        panel.grid(color="#DDDDDD")
    longest = max(len(str(handle.get_label())) for handle in handles)
    # Long names side by side are wider than the figure.
    columns = 2 if longest <= 64 else 1
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    figure.suptitle(f"{task.capitalize()}: medians and quartiles of the rounds")
    return figure


def _at_first(point: dict[str, Any]) -> str:
    """Returns what stands behind a line's ratios: its first point's seconds and memory."""
    peak = point["peak_memory_bytes"] / 2**20
    found = f"at {point['value']:g}: {1e3 * point['seconds']:.3g} ms, {peak:.0f} MiB"
    own = point["program_memory_bytes"]
    return found + (f", the step {own / 2**20:.3g} MiB" if own else "")


def _scale(panel: Any) -> None:
    """Makes the axis of ratios logarithmic where they differ by 3 or more, else linear from 0."""
    low, high = panel.dataLim.intervaly
    if high < 3 * low:
        panel.set_ylim(0, 1.1 * high)
        return
    panel.set_yscale("log")
    marks = [base * 10**power for power in range(-3, 5) for base in (1, 2, 5)]
    inside = [mark for mark in marks if low / 1.3 <= mark <= 1.3 * high]
    panel.set_yticks(inside, [f"{mark:g}" for mark in inside])
    panel.yaxis.set_minor_locator(NullLocator())


def rows(name: str, axis: Axis, found: dict[str, Any]) -> Iterator[str]:
    """Yields what is printed of an axis."""
    yield f"{name}: {axis.label}"
    for line, of_line in found.items():
        yield f"  {line}"
        for at, point in enumerate(of_line["points"]):
            low, high = point["times_quartiles"]
            ideal = f" (ideal {of_line['ideal'][at]:.2f})" if of_line["ideal"] else ""
            own = point["program_memory_bytes"]
            yield (
                f"  {point['value']:8.5g}{1e3 * point['seconds']:10.1f} ms, {point['times']:6.2f} times the "
                f"first's (quartiles {low:.2f} to {high:.2f}){ideal}"
                f"{point['peak_memory_bytes'] / 2**20:7.0f} MiB"
                f"{f', the step {own / 2**20:.0f}' if own else ''}"
                f"{point['first_step_seconds']:7.1f} s to the first step"
            )


def _processor() -> str:
    """Returns the processor's name, "" where the system does not say."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "")


def _values(axes: dict[str, Axis], values: flags.FlagValues) -> dict[str, list[int]]:
    """Returns the values of each axis asked for.

    Raises:
      InputError: there is no such axis, or its values are none.
    """
    names = values.axis or list(axes)
    for name in names:
        if name not in axes:
            raise InputError(f"--axis: {name!r} is none; take some of {', '.join(axes)}")
    if values.values is None:
        return {name: list(axes[name].values[: 2 if values.quick else None]) for name in names}
    if len(names) != 1:
        raise InputError(f"--values: are of one axis, and {len(names)} are asked for; give --axis")
    for text in values.values or [""]:
        if not text.isdecimal() or not int(text):
            raise InputError(f"--values: {text!r} is no positive integer; give some, as 16,64")
    numbers = [int(text) for text in values.values]
    if numbers != sorted(set(numbers)):
        raise InputError(f"--values: {','.join(values.values)} must ascend; sort them")
    (name,) = names
    shown = [axes[name].shown(number) for number in numbers]
    if len(set(shown)) < len(shown):
        raise InputError(
            f"--values: {','.join(values.values)} give the same pattern twice; take fewer"
        )
    if name == "devices":
        for number in numbers:
            if _STRONG // 2 % number:
                raise InputError(
                    f"--values: {number} devices cannot share a batch's {_STRONG // 2} marked images; "
                    f"take a divisor of {_STRONG // 2}"
                )
    return {name: numbers}


def main(argv: list[str]) -> int:
    given = flags.FlagValues()
    flags.DEFINE_enum("task", "digit", list(_SIDES), "Net to time.", flag_values=given)
    flags.DEFINE_list("axis", None, "What to vary; all by default.", flag_values=given)
    flags.DEFINE_list("values", None, "Of the one axis, integers.", flag_values=given)
    flags.DEFINE_integer("rounds", 7, "Turns of each point.", lower_bound=3, flag_values=given)
    flags.DEFINE_integer(
        "steps", 3, "Training steps a turn, which counts as their mean.", lower_bound=1,
        flag_values=given,
    )  # fmt: skip
    flags.DEFINE_bool(
        "quick", False, "See that it runs: two points an axis, 3 rounds, a step a turn.",
        flag_values=given,
    )  # fmt: skip
    flags.DEFINE_string("json", None, "Write the results there.", flag_values=given)
    flags.DEFINE_string("figures", None, "Write the figures to that folder.", flag_values=given)
    flags.DEFINE_string("worker", None, "Internal: be this point.", flag_values=given)
    command = shlex.join(["python", *argv])
    return program.run(lambda values: _main(values, command), given, argv, __doc__ or "")


def _main(values: flags.FlagValues, command: str) -> int:
    if values.worker:
        serve(values.task, json.loads(values.worker))
        return 0
    axes = axes_of(values.task)
    asked = _values(axes, values)
    if values.json and not pathlib.Path(values.json).parent.is_dir():
        raise InputError(f"--json: {values.json} is in no folder; make it, or give another file")
    rounds, steps = (3, 1) if values.quick else (values.rounds, values.steps)
    # Asking for the device starts jax here, which must leave a GPU's memory to the points.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    result = {
        "task": values.task,
        "environment": {**environment.describe(command), "processor": _processor()},
        "rounds": rounds,
        "steps": steps,
        "axes": {},
    }
    for name, numbers in asked.items():
        axis = axes[name]
        found = measure(values.task, axis, numbers, rounds, steps)
        result["axes"][name] = found
        print("\n".join(rows(name, axis, found)), flush=True)
        # As they come: a long run that is stopped leaves what it has measured.
        if values.json:
            files.write_whole(values.json, (json.dumps(result) + "\n").encode())
        if values.figures:
            path = pathlib.Path(values.figures) / f"scaling-{values.task}-{name}.png"
            figures.save(draw(values.task, axis, found), path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
