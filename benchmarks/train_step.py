"""The whole three-term training step, ours and PyTorch's, in turn, in one run.

    pip install 'torch'            # an extra: pip install -e '.[benchmark]'
    python benchmarks/train_step.py [--json] [--tasks=digit,traffic] [--rounds=15] [--batch=128]

Each contestant is a process of its own that makes a few steps when it is its turn and is stopped
(SIGSTOP) while it is not, so that no thread pool disturbs another. Every contestant has the same net,
batch, loss, optimiser, number of threads, float32 throughout: `batch` clean images, and a null and a
true copy of half of them. "ratio" is PyTorch's median time over ours, PyTorch being the better of eager
and torch.compile, both channels_last; above 1 ours is faster. Ours keeps freed memory, as training
does (`nullmark_jax.process`); "memory_kept" holds the same ratio against a PyTorch that was
given that, too, which PyTorch by itself does not do. "ours, concatenated", without
incremental evaluation, shows what that part gives; "ours, null space" is ours with null-space
projection (`config.null_space`), which PyTorch's step has not.
"""

import functools
import os
import statistics
import subprocess
import sys
from typing import Any

from absl import app, flags

import contestant
from nullmark_jax import process

_JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
_TASKS = flags.DEFINE_list("tasks", ["digit", "traffic"], "Nets to time.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Turns of each contestant.", lower_bound=3)
_STEPS = flags.DEFINE_integer("steps", 3, "Steps a turn; a turn counts as their mean.")
_BATCH = flags.DEFINE_integer("batch", 128, "Clean images a step.", lower_bound=2)
_GPU = flags.DEFINE_bool("gpu", False, "Internal: PyTorch's step is on the GPU, as jax's is.")
_WORKER = flags.DEFINE_string("worker", None, "Internal: be this contestant.")

OURS, CONCATENATED, PROJECTED = "ours", "ours, concatenated", "ours, null space"
EAGER, COMPILED = "torch eager", "torch.compile"
KEPT = (f"{EAGER}, memory kept", f"{COMPILED}, memory kept")
CONTESTANTS = (OURS, CONCATENATED, PROJECTED, EAGER, COMPILED, *KEPT)
# The H200's float32 convolution peak without TF32, in FLOP/s; other cards: None.
_PEAKS = {"NVIDIA H200": 67e12, "NVIDIA H100 80GB HBM3": 67e12, "NVIDIA A100-SXM4-80GB": 19.5e12}


def serve(name: str, task: str, batch: int) -> None:
    """Be one of the contestants."""
    if name in (OURS, CONCATENATED, PROJECTED):
        process.prepare()
        make_step, peak_memory = _ours(name, task, batch)
    else:
        if name in KEPT:
            process.keep_freed_memory()
        make_step, peak_memory = _torchs(name, task, batch)
    contestant.serve(make_step, peak_memory)


def _ours(name: str, task: str, batch: int) -> tuple[Any, Any]:
    import our_step

    make_step = functools.partial(
        our_step.make_step, task, batch,
        incremental=name != CONCATENATED, null_space=name == PROJECTED,
    )  # fmt: skip
    return make_step, our_step.peak_memory


def _torchs(name: str, task: str, batch: int) -> tuple[Any, Any]:
    import jax
    import numpy as np
    import torch

    import our_step
    import torch_step

    jax.config.update("jax_platforms", "cpu")  # the GPU is PyTorch's alone
    cuda = _GPU.value
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    # TF32 off: float32 is float32 for both.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    images, labels, watermarks = our_step.inputs(task, batch)
    one = jax.tree.map(lambda field: np.asarray(field)[0], watermarks)
    make_step = functools.partial(
        torch_step.make_step, task, images, labels, one, batch // 2,
        compiled=name.startswith(COMPILED), device="cuda" if cuda else "cpu",
    )  # fmt: skip
    return make_step, torch.cuda.max_memory_allocated if cuda else contestant.resident_peak


def contest(task: str) -> dict[str, Any]:
    """Times a task's contestants in turn; returns the object that --json prints for it."""
    device = _device()
    given = [f"--tasks={task}", f"--batch={_BATCH.value}", f"--gpu={device != 'cpu'}"]
    started = [
        contestant.Contestant(name, [__file__, f"--worker={name}", *given]) for name in CONTESTANTS
    ]
    running = [each for each in started if each.alive]
    try:
        for _ in range(_ROUNDS.value):
            for each in running:
                each.turn(_STEPS.value)
    finally:
        for each in started:
            each.end()
    times = {each.name: each.times for each in running}
    if OURS not in times or EAGER not in times:
        missing = OURS if OURS not in times else "torch"
        sys.exit(f"{missing}: did not run; install the extra: pip install -e '.[benchmark]'")
    median = {name: statistics.median(each) for name, each in times.items()}
    best, kept = (
        min((name for name in median if name in those), key=median.__getitem__)
        for those in ((EAGER, COMPILED), KEPT)
    )
    images = _BATCH.value + 2 * (_BATCH.value // 2)
    return {
        **_ratio(times[OURS], times[best]),
        "memory_kept": {**_ratio(times[OURS], times[kept]), "reference": kept},
        "reference": best,
        "rounds": _ROUNDS.value,
        "milliseconds": {name: 1e3 * each for name, each in median.items()},
        "images_per_second": {name: images / each for name, each in median.items()},
        "first_step_seconds": {each.name: each.first_step for each in running},
        "peak_memory_bytes": {each.name: each.peak_memory for each in running},
        "peak_fraction": _peak_fraction(device, task, images / median[OURS]),
    }


def _ratio(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Returns the ratio of the medians, and the rounds' own ratios' median and quartiles."""
    rounds = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    return {
        "ratio": statistics.median(theirs) / statistics.median(ours),
        "ratio_of_rounds": {
            "low": rounds[len(rounds) // 4],
            "median": statistics.median(rounds),
            "high": rounds[-1 - len(rounds) // 4],
        },
    }


def _device() -> str:
    """Returns the kind of device that jax takes, "cpu" or a card's name, asked in another process."""
    asked = "import jax; print(jax.local_devices()[0].device_kind)"
    answer = subprocess.run([sys.executable, "-c", asked], stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        sys.exit("jax finds no device it can use; see above")
    return answer.stdout.strip()


def _peak_fraction(device: str, task: str, images_per_second: float) -> float | None:
    """Returns the fraction of the card's float32 peak; None on a CPU or an unknown card.

    The FLOPs are those of whole copies, counted from the net, some of which ours saves.
    """
    if device not in _PEAKS:
        return None
    # Multiply-adds of the forward pass an image; forward, input and kernel gradient: three times.
    products = {"digit": 4_267_008, "traffic": 46_832_512}[task]
    return 6 * products * images_per_second / _PEAKS[device]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"{argv[1]!r}: is not a flag; see --help")
    unknown = set(_TASKS.value) - {"digit", "traffic"}
    if unknown:
        sys.exit(f"--tasks: {sorted(unknown)[0]!r} is none; take digit, traffic")
    if _WORKER.value:
        serve(_WORKER.value, _TASKS.value[0], _BATCH.value)
        return
    results = {task: contest(task) for task in _TASKS.value}
    if _JSON.value:
        contestant.print_json(results)
        return
    for task, each in results.items():
        for measured in (each, each["memory_kept"]):
            other = measured["reference"]
            spread = measured["ratio_of_rounds"]
            print(
                f"{task}: ours is {measured['ratio']:.2f} times as fast as {other} (rounds' "
                f"quartiles {spread['low']:.2f} to {spread['high']:.2f}, {each['rounds']} rounds)"
            )
        for name, milliseconds in each["milliseconds"].items():
            print(
                f"  {name:26}{milliseconds:9.1f} ms a step"
                f"{each['images_per_second'][name]:9.0f} images/s"
                f"{each['first_step_seconds'][name]:8.1f} s to the first step"
                f"{each['peak_memory_bytes'][name] / 2**20:8.0f} MiB"
            )
        if each["peak_fraction"] is not None:
            print(f"  ours: {100 * each['peak_fraction']:.0f}% of the card's float32 peak")


if __name__ == "__main__":
    app.run(main)
