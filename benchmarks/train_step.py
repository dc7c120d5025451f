"""The whole three-term training step, ours and PyTorch's, in turn, in one run.

    pip install 'torch'            # an extra: pip install -e '.[benchmark]'
    python benchmarks/train_step.py [--json] [--tasks=digit,traffic] [--rounds=15] [--batch=128]

Each contestant is a process of its own that makes a few steps when it is its turn and is stopped
(SIGSTOP) while it is not, so that no thread pool disturbs another. Every contestant has the same net,
batch, loss, optimiser, number of threads, float32 throughout: `batch` clean images, and a null and a
true copy of half of them. "ratio" is PyTorch's median time over ours, PyTorch being the better of eager
and torch.compile, both channels_last; above 1 ours is faster. Ours keeps freed memory, as training
does (`nullmark_jax.process`); "memory_kept" holds the same ratio against an eager PyTorch that was
given that, too, which PyTorch by itself does not do. "ours, concatenated", without
incremental evaluation, shows what that part gives; "ours, null space" is ours with the null-space
projection of the recipes, which PyTorch's step has not.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from absl import app, flags

from nullmark_jax import process

_JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
_TASKS = flags.DEFINE_list("tasks", ["digit", "traffic"], "Nets to time.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Turns of each contestant.", lower_bound=3)
_STEPS = flags.DEFINE_integer("steps", 3, "Steps a turn; a turn counts as their mean.")
_BATCH = flags.DEFINE_integer("batch", 128, "Clean images a step.", lower_bound=2)
_WORKER = flags.DEFINE_string("worker", None, "Internal: be this contestant.")

_SHAPES = {"digit": ((28, 28, 1), 10), "traffic": ((48, 48, 3), 43)}
OURS, CONCATENATED, PROJECTED = "ours", "ours, concatenated", "ours, null space"
EAGER, COMPILED, KEPT = "torch eager", "torch.compile", "torch eager, memory kept"
CONTESTANTS = (OURS, CONCATENATED, PROJECTED, EAGER, COMPILED, KEPT)
# The H200's float32 convolution peak without TF32, in FLOP/s; other cards: None.
_PEAKS = {"NVIDIA H200": 67e12, "NVIDIA H100 80GB HBM3": 67e12, "NVIDIA A100-SXM4-80GB": 19.5e12}


def inputs(task: str, batch: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Returns random images, labels and one watermark, the same for every contestant."""
    from nullmark_jax import transform

    shape, classes = _SHAPES[task]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, *shape), dtype=np.uint8)
    labels = rng.integers(0, classes, batch).astype(np.int32)
    watermarks = transform.random_watermarks(
        0, 1, height=shape[0], width=shape[1], num_classes=classes, pattern_size=6,
        extreme_value=2000.0,
    )  # fmt: skip
    return images, labels, watermarks


def our_step(task: str, batch: int, *, incremental: bool, null_space: bool = False) -> Any:
    """Returns a function that makes one of our steps, as `training.fit` runs it."""
    import jax

    from nullmark_jax import incremental as inc
    from nullmark_jax import losses, models, nullspace, optimizers, parallel, training
    from nullmark_jax.batches import Batch

    shape, classes = _SHAPES[task]
    images, labels, watermarks = inputs(task, batch)
    model = models.create(task, classes, precision="highest")
    optimizer = optimizers.optimizer(optimizers.Recipe("adam", 1e-3, clip_norm=1.0), 1000)
    more = {"project": nullspace.for_network(model)} if null_space else {}
    step = training.make_train_step(
        **more,
        marked_logits=inc.for_network(model, pattern_size=6)
        if incremental
        else training.concatenated_logits(models.apply_fn(model)),
        optimizer=optimizer,
        cross_entropy=losses.logits_cross_entropy,
        true_weight=1.0,
        null_weight=1.0,
        average=parallel.average,
    )
    run = parallel.pmap_shares(step, cut=(False, False, False, True, False), donate=(0,))
    state = training.init_state(models.init_params(model, jax.random.key(0), shape), optimizer)
    fixed = parallel.replicate((images, labels))
    marks = parallel.replicate(watermarks)
    choice = parallel.share(
        Batch(
            np.arange(batch, dtype=np.int32),
            np.zeros(batch // 2, np.int32),
            np.zeros((batch, 2), np.int32),
            np.zeros(batch, bool),
        ),
        parallel.device_count(),
    )
    state = parallel.replicate(state)

    def advance() -> float:
        nonlocal state
        state, metrics = run(state, *fixed, choice, marks)
        return float(metrics.loss)

    return advance


def serve(contestant: str, task: str, batch: int) -> None:
    """Makes as many steps as each line of stdin says; prints their mean time in seconds."""
    started = time.perf_counter()
    if contestant in (OURS, CONCATENATED, PROJECTED):
        process.prepare()
    elif contestant == KEPT:
        process.keep_freed_memory()
    if contestant in (OURS, CONCATENATED, PROJECTED):
        step = our_step(
            task,
            batch,
            incremental=contestant != CONCATENATED,
            null_space=contestant == PROJECTED,
        )
    else:
        import jax
        import torch

        from benchmarks import torch_step

        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        # TF32 off: float32 is float32 for both.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        images, labels, watermarks = inputs(task, batch)
        one = jax.tree.map(lambda field: np.asarray(field)[0], watermarks)
        step = torch_step.make_step(
            task, images, labels, one, batch // 2, compiled=contestant == COMPILED, device=device
        )
    step()
    print(json.dumps({"first_step_s": time.perf_counter() - started}), flush=True)
    for _ in range(2):
        step()
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(json.dumps((time.perf_counter() - begun) / int(line)), flush=True)


class Contestant:
    """A contestant's process, stopped but for its turns."""

    def __init__(self, name: str, task: str) -> None:
        command = [sys.executable, __file__, f"--worker={name}", f"--tasks={task}"]
        self.name = name
        self._process = subprocess.Popen(
            [*command, f"--batch={_BATCH.value}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(__file__))},
        )  # fmt: skip
        answer = self._process.stdout.readline()
        self.alive = bool(answer)
        self.first_step = json.loads(answer)["first_step_s"] if answer else None
        if self.alive:
            self._process.send_signal(signal.SIGSTOP)

    def turn(self) -> float:
        """Returns the mean seconds of a few steps."""
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(f"{_STEPS.value}\n")
        self._process.stdin.flush()
        seconds = json.loads(self._process.stdout.readline())
        self._process.send_signal(signal.SIGSTOP)
        return seconds

    def end(self) -> int:
        """Ends the process; returns its peak memory in bytes, 0 where the system does not say."""
        peak = 0
        if self.alive:
            with open(f"/proc/{self._process.pid}/status") as status:
                for line in status:
                    if line.startswith("VmHWM"):
                        peak = int(line.split()[1]) * 1024
        self._process.kill()
        self._process.wait()
        return peak


def contest(task: str) -> dict[str, Any]:
    """Times a task's contestants in turn; returns the object that --json prints for it."""
    contestants = [Contestant(name, task) for name in CONTESTANTS]
    running = [each for each in contestants if each.alive]
    times: dict[str, list[float]] = {each.name: [] for each in running}
    for _ in range(_ROUNDS.value):
        for each in running:
            times[each.name].append(each.turn())
    memory = {each.name: each.end() for each in contestants}
    if OURS not in times or EAGER not in times:
        missing = OURS if OURS not in times else "torch"
        sys.exit(f"{missing}: did not run; install the extra: pip install -e '.[benchmark]'")
    median = {name: statistics.median(each) for name, each in times.items()}
    best = min((name for name in median if name in (EAGER, COMPILED)), key=median.__getitem__)
    images = _BATCH.value + 2 * (_BATCH.value // 2)
    return {
        **_ratio(times[OURS], times[best]),
        "memory_kept": _ratio(times[OURS], times[KEPT]),
        "reference": best,
        "rounds": _ROUNDS.value,
        "milliseconds": {name: 1e3 * each for name, each in median.items()},
        "images_per_second": {name: images / each for name, each in median.items()},
        "first_step_seconds": {each.name: each.first_step for each in running},
        "peak_memory_bytes": memory,
        "peak_fraction": _peak_fraction(task, images / median[OURS]),
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


def _peak_fraction(task: str, images_per_second: float) -> float | None:
    """Returns the fraction of the GPU's float32 peak, from the net's counted FLOPs; None on a CPU."""
    try:
        name = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()[0]  # fmt: skip
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None
    if name not in _PEAKS:
        return None
    # Multiply-adds of the forward pass an image; forward, input and kernel gradient: three times.
    products = {"digit": 4_267_008, "traffic": 46_832_512}[task]
    return 6 * products * images_per_second / _PEAKS[name]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"{argv[1]!r}: is not a flag; see --help")
    unknown = set(_TASKS.value) - set(_SHAPES)
    if unknown:
        sys.exit(f"--tasks: {sorted(unknown)[0]!r} is none; take digit, traffic")
    if _WORKER.value:
        serve(_WORKER.value, _TASKS.value[0], _BATCH.value)
        return
    results = {task: contest(task) for task in _TASKS.value}
    if _JSON.value:
        print(json.dumps(results))
        return
    for task, each in results.items():
        for measured, other in ((each, each["reference"]), (each["memory_kept"], KEPT)):
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
