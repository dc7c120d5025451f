"""Stands for gcloud, and for kubectl, in tests of launch/: put on the PATH under their names.

Each call is a line of calls.jsonl in the folder that FAKE_CLOUD names. gcloud's one queued resource is in
states.json there, a list of states: each look takes the first away, until one is left. Its two workers are
the folders 0 and 1 of machines/, where commands truly run. kubectl's one JobSet is in jobset.json, a list of
what looks find. Either begins as created.json says.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

FOLDER = pathlib.Path(os.environ["FAKE_CLOUD"])
STATES, MACHINES, JOBSET = FOLDER / "states.json", FOLDER / "machines", FOLDER / "jobset.json"


def _look(path: pathlib.Path):
    """Returns the present state, None where there is nothing."""
    states = json.loads(path.read_text()) if path.exists() else [None]
    if len(states) > 1:
        path.write_text(json.dumps(states[1:]))
    return states[0]


def _option(arguments, name, default=""):
    found = [each.partition("=")[2] for each in arguments if each.startswith(f"--{name}=")]
    return found[0] if found else default


def _workers(arguments):
    worker = _option(arguments, "worker", "0")
    return [MACHINES / each for each in (("0", "1") if worker == "all" else (worker,))]


def _reachable():
    return STATES.exists() and json.loads(STATES.read_text())[0] == "ACTIVE"


def gcloud(arguments) -> int:
    verb = arguments[3]
    if verb == "list":
        if (FOLDER / "no_access").exists():
            print("ERROR: (gcloud) you are not logged in", file=sys.stderr)
            return 1
        print("another\tACTIVE")
        state = _look(STATES)
        if state:
            print(f"pod\t{state}")
    elif verb == "create":
        if STATES.exists():
            return 1
        STATES.write_text((FOLDER / "created.json").read_text())
        for each in ("0", "1"):
            (MACHINES / each).mkdir(parents=True)
    elif verb == "delete":
        STATES.unlink()
        shutil.rmtree(MACHINES, ignore_errors=True)
    elif not _reachable():
        return 255
    elif verb == "ssh":
        command = ["bash", "-c", _option(arguments, "command")]
        path = f"{FOLDER}/worker_bin:{os.environ['PATH']}"
        running = [
            subprocess.Popen(command, cwd=home, env={**os.environ, "HOME": str(home), "PATH": path})
            for home in _workers(arguments)
        ]
        statuses = [each.wait() for each in running]
        if (FOLDER / "lost").exists() and " run " in command[-1]:
            return 255
        return next(filter(None, statuses), 0) if _reachable() else 255
    elif verb == "scp":
        *sources, target = [each for each in arguments[4:] if not each.startswith("--")]
        for home in _workers(arguments):
            for source in sources:
                here, there = (
                    home / each.removeprefix("pod:") if each.startswith("pod:") else each
                    for each in (source, target)
                )
                shutil.copy(here, there)
    return 0


def kubectl(arguments) -> int:
    verb = arguments[1]
    if verb == "get":
        if (FOLDER / "no_access").exists():
            print("error: You must be logged in to the server", file=sys.stderr)
            return 1
        state = _look(JOBSET)
        if state is not None:
            print(state, end="")
    elif verb == "apply":
        text = sys.stdin.read()
        with open(FOLDER / "applied.yaml", "a") as file:
            file.write(f"---\n{text}")
        if "kind: JobSet" in text:
            shutil.copy(FOLDER / "created.json", JOBSET)
    elif verb == "delete" and arguments[2] == "jobset":
        JOBSET.unlink(missing_ok=True)
    elif verb == "cp" and ":" in arguments[2]:
        folder = pathlib.Path(arguments[3])
        folder.mkdir()
        (folder / "owner.key").touch()
    elif verb == "logs":
        print("verified; the run is in /runs/digit")
    return 0


if __name__ == "__main__":
    name = pathlib.Path(sys.argv[0]).name
    with open(FOLDER / "calls.jsonl", "a") as calls:
        calls.write(json.dumps([name, *sys.argv[1:]]) + "\n")
    sys.exit({"gcloud": gcloud, "kubectl": kubectl}[name](sys.argv[1:]))
