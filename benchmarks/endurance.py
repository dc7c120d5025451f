"""What a training survives: kill -9 at random moments, SIGTERM, and a thousand epochs in flat memory.

    python benchmarks/endurance.py --what=kills [--kills=50] [--json] -- --config=configs/quickstart.py ...
    python benchmarks/endurance.py --what=stops [--stops=10] [--json] -- --config=configs/traffic.py ...
    python benchmarks/endurance.py --what=memory [--json] [--figure=OUT.png] -- --config=FILE.py ...

What stands behind -- goes to `python -m nullmark_jax.main`, but for --workdir; name a key and a timestamp.
`kills` starts the run again and again, each time killed at a moment drawn uniformly from the time that a run
takes which nothing stops (imports, compilation and the files at its end included); one that ends before that
is followed by another one. Then it lets the last one end, and compares all of them with the one that nothing
stopped, byte for byte; exit status 1 where a file differs. `stops` starts runs with nothing compiled before,
tells each to stop (SIGTERM) at one of so many moments between its start and the middle of its second epoch,
and reads how long it takes to end. `memory` lets a run end and reads its resident memory from /proc about
once an epoch.
"""

import itertools
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import matplotlib
import numpy as np
from absl import app, flags

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import contestant

_WHAT = flags.DEFINE_enum("what", None, ["kills", "stops", "memory"], "Which.", required=True)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
_KILLS = flags.DEFINE_integer("kills", 50, "How often it is killed.", lower_bound=1)
_STOPS = flags.DEFINE_integer("stops", 10, "How many are told to stop.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
_FIGURE = flags.DEFINE_string("figure", None, "Draw the memory's curve here.")

# Of a run with a key and a timestamp in its config; the rest says when and how long, or is drawn.
FILES = ("model.safetensors", "claim.json", "config.json", "metrics.jsonl")


def start(arguments: list[str], workdir: pathlib.Path, **environ: str) -> subprocess.Popen:
    """Starts a run; what it says goes to a file beside its folder."""
    command = [sys.executable, "-m", "nullmark_jax.main", *arguments, f"--workdir={workdir}"]
    with open(workdir.with_suffix(".log"), "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environ)


def finish(arguments: list[str], workdir: pathlib.Path) -> list[float]:
    """Runs to the end; returns the seconds from the start to each epoch, and to the end."""
    began, process = time.monotonic(), start(arguments, workdir)
    at: list[float] = []
    while process.poll() is None:
        at += [time.monotonic() - began] * (epochs_done(workdir) - len(at))
        time.sleep(0.02)
    check_ended(process, workdir)
    return [*at, time.monotonic() - began]


def check_ended(process: subprocess.Popen, workdir: pathlib.Path) -> None:
    """Ends this program where the run neither verified nor did not."""
    if process.returncode not in (0, 1):
        sys.exit(last_line(workdir))


def last_line(workdir: pathlib.Path) -> str:
    """Returns the last that a run said."""
    return workdir.with_suffix(".log").read_text().splitlines()[-1]


def kills(arguments: list[str], folder: pathlib.Path) -> dict:
    """Returns what --json prints of `kills`."""
    whole = folder / "whole"
    *each_epoch, end = finish(arguments, whole)
    epochs = len(each_epoch)
    moments = random.Random(_SEED.value)
    # Where it was, by the epochs that it had done: as it started, now or before, and when it was killed.
    at = {"before an epoch of its own": 0, "between its epochs": 0, "after the last epoch": 0}
    names = (folder / f"run-{number}" for number in itertools.count(1))
    runs = [next(names)]
    while sum(at.values()) < _KILLS.value:
        before = epochs_done(runs[-1])
        process = start(arguments, runs[-1])
        try:
            process.wait(moments.uniform(0, end))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done = epochs_done(runs[-1])
            place = 2 if done == epochs else int(done > before)
            at[list(at)[place]] += 1
        else:
            check_ended(process, runs[-1])
            runs.append(next(names))
    finish(arguments, runs[-1])
    same = {
        name: all((whole / name).read_bytes() == (run / name).read_bytes() for run in runs)
        for name in FILES
    }
    left = [
        path.name
        for run in runs
        for path in run.rglob("*")
        if ".part" in path.name or "tmp" in path.name
    ]
    return {
        "kills": at,
        "runs": len(runs),
        "epochs": epochs,
        "seconds_unbroken": end,
        "same_bytes": same,
        "left_behind": left,
    }


def stops(arguments: list[str], folder: pathlib.Path) -> dict:
    """Returns what --json prints of `stops`: of each run when it was told, and what it did then."""
    whole = folder / "whole"
    began, process = time.monotonic(), start_uncompiled(arguments, whole)
    wait_for_first_epoch(process, whole)
    epoch = time.monotonic() - began
    process.kill()
    process.wait()
    found = []
    for number in range(_STOPS.value):
        after = 1.5 * epoch * (number + 0.5) / _STOPS.value
        workdir = folder / f"run-{number}"
        began, process = time.monotonic(), start_uncompiled(arguments, workdir)
        time.sleep(min(after, epoch))
        if after > epoch:  # Of this run, which may take longer to get there than the first one did.
            wait_for_first_epoch(process, workdir)
            time.sleep(after - epoch)
        process.terminate()
        told = time.monotonic()
        process.wait()
        found.append(
            {
                "after_seconds": told - began,
                "seconds": time.monotonic() - told,
                "status": process.returncode,
                "checkpoint": any(workdir.glob("checkpoints/[0-9]*")),
                "epochs_done": epochs_done(workdir),
            }
        )
    return {"stops": found, "seconds_to_the_first_epoch": epoch}


def start_uncompiled(arguments: list[str], workdir: pathlib.Path) -> subprocess.Popen:
    """Starts a run that finds nothing compiled."""
    return start(arguments, workdir, XDG_CACHE_HOME=str(workdir.with_suffix(".cache")))


def wait_for_first_epoch(process: subprocess.Popen, workdir: pathlib.Path) -> None:
    """Returns once a run has done an epoch; ends this program where the run ended before."""
    while epochs_done(workdir) < 1:
        if process.poll() is not None:
            sys.exit(last_line(workdir))
        time.sleep(0.02)


def epochs_done(workdir: pathlib.Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def resident(process: subprocess.Popen) -> int:
    """Returns a process's resident memory in bytes, 0 where it has ended."""
    try:
        text = pathlib.Path(f"/proc/{process.pid}/statm").read_text()
    except OSError:
        return 0
    return int(text.split()[1]) * 4096 if text.strip() else 0


def memory(arguments: list[str], folder: pathlib.Path) -> dict:
    """Returns what --json prints of `memory`: the resident bytes when each epoch was first seen done."""
    workdir = folder / "run"
    process, epochs, found = start(arguments, workdir), [], []
    while process.poll() is None:
        done = epochs_done(workdir)
        size = resident(process)
        if size and done > (epochs[-1] if epochs else 0):
            epochs.append(done)
            found.append(size)
        time.sleep(0.05)
    check_ended(process, workdir)
    if len(epochs) < 4:
        sys.exit(f"{len(epochs)} epochs: are too few to see a growth; give more")
    # Of the second half, in which nothing is compiled any more.
    half = len(epochs) // 2
    growth = float(np.polyfit(epochs[half:], found[half:], 1)[0])
    return {
        "epochs": epochs,
        "resident_bytes": found,
        "bytes_an_epoch_second_half": growth,
        "last_over_middle": found[-1] / found[half],
    }


def draw(found: dict, path: str) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot(found["epochs"], np.asarray(found["resident_bytes"]) / 2**20, color="#0072b2")
    axes.set(xlabel="epoch", ylabel="resident memory, MiB", ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        sys.exit("no run: give -- and its arguments, --config=configs/quickstart.py say")
    measure = {"kills": kills, "stops": stops, "memory": memory}[_WHAT.value]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(argv[1:], pathlib.Path(folder))
    if _WHAT.value == "memory" and _FIGURE.value:
        draw(found, _FIGURE.value)
    if _JSON.value:
        contestant.print_json(found)
    elif _WHAT.value == "memory":
        print(
            f"{found['epochs'][-1]} epochs: {found['resident_bytes'][-1] / 2**20:.0f} MiB at the end, "
            f"{found['last_over_middle']:.3f} times the middle's; in the second half "
            f"{found['bytes_an_epoch_second_half'] / 2**10:+.1f} KiB an epoch"
        )
    elif _WHAT.value == "stops":
        for each in found["stops"]:
            print(
                f"told after {each['after_seconds']:.0f} s, ended after {each['seconds']:.1f} s with "
                f"{each['status']}, {each['epochs_done']} epochs done, "
                f"{'with' if each['checkpoint'] else 'without'} a state"
            )
    else:
        print(
            f"{found['kills']}; the same bytes: {found['same_bytes']}; left: {found['left_behind']}"
        )
    if _WHAT.value == "kills" and not (
        all(found["same_bytes"].values()) and not found["left_behind"]
    ):
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
