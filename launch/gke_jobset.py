#!/usr/bin/env python
"""A training on the hosts of a TPU slice or on GPU nodes, or a sweep, as a JobSet of a cluster of GKE.

    launch/gke_jobset.py --name=digit --image=IMAGE --claim=CLAIM --tpu=tpu-v5-lite-podslice \\
        --topology=4x4 -- --config=configs/digit.py --workdir=/runs/digit
    launch/gke_jobset.py --sweep --jobs=4 --name=lambda --image=IMAGE --claim=CLAIM --gpu=nvidia-l4 -- \\
        --config=configs/sweeps/extreme_value.py:digit --workdir=/runs/lambda

Everything after -- goes to `python -m nullmark_jax.main`, or `nullmark_jax.sweep`, in the image; its
--workdir is below /runs, where the claim is. --dry_run prints the commands and the manifests that they take,
as a shell script, and does nothing; what depends on what is found, its comments say. The same command again
follows a JobSet that is at work and replaces one that has ended: the run folder is on the claim, so the
training goes on.

Exit status: 0 done, 1 not, 2 unusable input, 130 interrupted (the JobSet goes on).
"""

import argparse
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from manifests import RUNS, Manifest, files_pod, jobset, to_yaml


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _refuse(f"{message}; see --help")


def _refuse(line: str) -> NoReturn:
    print(f"launch/gke_jobset.py: {line}", file=sys.stderr)
    sys.exit(2)


def _say(line: str) -> None:
    print(f"launch/gke_jobset.py: {line}", file=sys.stderr, flush=True)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Returns the options, or ends the program with one line where they are unusable.

    Beside those of the command line: `arguments`, what stands after --; `folder`, their --workdir; `hosts`,
    of a slice too; `points`, of a sweep, else 0.
    """
    own, arguments = list(argv), []
    if "--" in own:
        at = own.index("--")
        own, arguments = own[:at], own[at + 1 :]
    parser = _Parser(
        "launch/gke_jobset.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name", default="", help="of the JobSet")
    add("--image", default="", help="with the package, as launch/Dockerfile makes it")
    add(
        "--claim",
        default="",
        help="a persistent volume claim, ReadWriteMany where there are several hosts",
    )
    add("--namespace", default="default")
    add("--tpu", default="", help="GKE's name of the accelerator, tpu-v5-lite-podslice say")
    add("--topology", default="", help="of the slice, 4x4 say")
    add("--chips", type=int, default=4, help="on a host")
    add("--gpu", default="", help="GKE's name of the accelerator, nvidia-l4 say")
    add("--gpus", type=int, default=1, help="on a host")
    add("--hosts", type=int, default=1, help="of GPUs")
    add("--spot", action="store_true", help="nodes that may be taken away at any time")
    add("--max_restarts", type=int, default=20, help="of a training")
    add("--sweep", action="store_true", help="a pod for each point, then one for the table")
    add("--jobs", type=int, default=1, help="points trained at a time")
    add(
        "--data",
        action="append",
        default=[],
        metavar="FILE",
        help="copied to the top of the claim before",
    )
    add(
        "--fetch", default="", metavar="FOLDER", help="where the run folder is copied to at the end"
    )
    add(
        "--keep",
        action="store_true",
        help="leave the JobSet of a training that is done, and its logs",
    )
    add("--dry_run", action="store_true")
    options = parser.parse_args(own)
    _check(options, arguments)
    return options


def _check(options: argparse.Namespace, arguments: list[str]) -> None:
    if not arguments:
        _refuse(
            f"no training: give -- and its arguments, --config=configs/NAME.py --workdir={RUNS}/NAME say"
        )
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", options.name):
        remedy = "give up to 40 small letters, digits and hyphens, a letter first"
        _refuse(f"--name: {options.name!r} is no name; {remedy}")
    for name, example in (
        ("image", "REGION-docker.pkg.dev/PROJECT/REPOSITORY/nullmark"),
        ("claim", "runs"),
    ):
        if not getattr(options, name):
            _refuse(f"--{name}: '' is none; give one, {example} say")
    if bool(options.tpu) == bool(options.gpu):
        _refuse(f"--tpu: {options.tpu!r} with --gpu={options.gpu!r}; give one of the two")
    for name in ("chips", "gpus", "hosts", "jobs"):
        if getattr(options, name) < 1:
            _refuse(f"--{name}: {getattr(options, name)} must be at least 1; give 1")
    if options.max_restarts < 0:
        _refuse(f"--max_restarts: {options.max_restarts} must not be negative; give 0")
    if options.tpu:
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", options.topology):
            _refuse(
                f"--topology: {options.topology!r} is none; give the chips along each axis, 4x4 say"
            )
        chips = math.prod(map(int, options.topology.split("x")))
        if chips % options.chips:
            remedy = f"give what divides the {chips} of {options.topology}, as the node's machine type has"
            _refuse(f"--chips: {options.chips} on a host do not make up the slice; {remedy}")
        options.hosts = chips // options.chips
    if options.sweep and options.hosts > 1:
        _refuse(
            f"--sweep: a point has one host, not {options.hosts}; give a smaller --topology, or --hosts=1"
        )
    for path in options.data:
        if not os.path.isfile(path):
            _refuse(f"--data: {path!r} is no file; give one")
    if options.fetch and os.path.exists(options.fetch):
        _refuse(f"--fetch: {options.fetch!r} is there already; give a new folder")
    for each in arguments:
        if re.fullmatch(r"--?(only|collect|dry_run)(=.*)?", each):
            remedy = "give it before --" if "dry_run" in each else "leave it away behind --"
            _refuse(f"{each}: is not for the jobs; {remedy}")
    options.arguments, options.folder = arguments, _workdir(arguments)
    if not options.folder.startswith(f"{RUNS}/") or ".." in options.folder.split("/"):
        remedy = f"give a folder below {RUNS}, {RUNS}/{options.name} say"
        _refuse(f"--workdir: {options.folder!r} is not on the claim; {remedy}")
    options.points = _points(arguments) if options.sweep else 0
    if not options.dry_run and shutil.which("kubectl") is None:
        _refuse("kubectl: is not on the PATH; install it, or give --dry_run")


def _workdir(arguments: Sequence[str]) -> str:
    found, previous = "", ""
    for each in arguments:
        name, equals, value = each.partition("=")
        if equals and name in ("--workdir", "-workdir"):
            found = value
        elif previous in ("--workdir", "-workdir"):
            found = each
        previous = each
    return found.rstrip("/")


def _points(arguments: Sequence[str]) -> int:
    command = [sys.executable, "-m", "nullmark_jax.sweep", *arguments, "--dry_run"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(2)
    return len(done.stdout.splitlines())


class Cluster:
    """Runs kubectl, or prints what it would run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._kubectl = ["kubectl", f"--namespace={options.namespace}"]

    def shown(self, *arguments: str) -> str:
        return shlex.join([*self._kubectl, *arguments])

    def run(self, *arguments: str, manifest: Manifest | None = None) -> str:
        """Returns what kubectl prints, "" in a dry run; raises CalledProcessError."""
        text = None if manifest is None else to_yaml(manifest)
        if self._options.dry_run:
            print(self.shown(*arguments) + ("" if text is None else f" <<'EOF'\n{text}EOF"))
            return ""
        command = [*self._kubectl, *arguments]
        done = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    def note(self, line: str) -> None:
        """Prints a comment in a dry run."""
        if self._options.dry_run:
            print(f"# {line}")

    def state(self) -> tuple[str, str]:
        """Returns the JobSet's state, "" where there is none, and how often it was started again."""
        fields = '{.metadata.name}{"/"}{.status.terminalState}{"/"}{.status.restarts}'
        name = self._options.name
        found = self.run("get", "jobset", name, "--ignore-not-found", f"--output=jsonpath={fields}")
        if not found:
            return "", ""
        _, state, restarts = found.split("/")
        return state or "at work", restarts or "0"

    def copy(self, *pairs: tuple[str, str]) -> None:
        """Copies files by a pod; a path there is CLAIM:PATH."""
        pod = f"{self._options.name}-files"
        self.run("apply", "--filename=-", manifest=files_pod(self._options))
        try:
            self.run("wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=600s")
            for source, target in pairs:
                self.run(
                    "cp", source.replace("CLAIM:", f"{pod}:"), target.replace("CLAIM:", f"{pod}:")
                )
        finally:
            self.run("delete", "pod", pod, "--ignore-not-found")

    def wait(self) -> str:
        """Returns the state in which the JobSet ended, "" where it was deleted."""
        last: tuple[str, str] | None = None
        seconds = float(os.environ.get("POLL_SECONDS", "20"))
        self.note(f"Every {seconds:g} seconds, until it has ended:")
        while True:
            now = self.state()
            if self._options.dry_run:
                return "Completed"
            if now != last:
                state, restarts = now
                _say(
                    f"{self._options.name}: {state or 'is gone'}, restarts: {restarts or 'unknown'}"
                )
            if now[0] != "at work":
                return now[0]
            last = now
            time.sleep(seconds)


def main(argv: Sequence[str]) -> int:
    """Runs the program on the arguments; returns the exit status."""
    options = parse(argv)
    cluster = Cluster(options)
    try:
        return _main(options, cluster)
    except subprocess.CalledProcessError as error:
        _say(f"{shlex.join(error.cmd)}: ended with status {error.returncode}; see above")
        _say("give the same command again")
        return 1
    except KeyboardInterrupt:
        _say("the JobSet goes on; the same command again follows it")
        return 130


def _main(options: argparse.Namespace, cluster: Cluster) -> int:
    # Its pods have gone when the new ones start: none writes to the run folder still.
    delete = ("delete", "jobset", options.name, "--cascade=foreground", "--ignore-not-found")
    state, _ = cluster.state()
    cluster.note(f"Where it has ended, before it is made again: {cluster.shown(*delete)}")
    if state in ("Completed", "Failed"):
        cluster.run(*delete)
    if state != "at work":
        cluster.note("Where it is not at work:")
        if options.data:
            cluster.copy(
                *((path, f"CLAIM:{RUNS}/{os.path.basename(path)}") for path in options.data)
            )
        cluster.run("apply", "--filename=-", manifest=jobset(options))
    selector = f"jobset.sigs.k8s.io/jobset-name={options.name}"
    if not options.sweep:
        selector += ",batch.kubernetes.io/job-completion-index=0"
    logs = ("logs", f"--selector={selector}")
    # Of more than 5 pods kubectl follows none, unless it is told of more.
    follow = (*logs, "--follow", *(["--max-log-requests=10000"] if options.sweep else []))
    cluster.note(f"To see what it prints: {cluster.shown(*follow)}")
    if not options.dry_run:
        _say(f"see what it prints: {cluster.shown(*follow)}")
    ended = cluster.wait()
    try:
        print(cluster.run(*logs, "--tail=20"), end="")
    except subprocess.CalledProcessError:  # Its nodes have gone, and the logs with them.
        _say("its logs are gone")
    if options.fetch:
        # kubectl gives files no mode of their own: owner.key is nobody else's here, either.
        os.umask(0o077)
        if options.dry_run:
            print("umask 077")
        cluster.copy((f"CLAIM:{options.folder}", options.fetch))
    if not options.keep:
        cluster.note("Where it is done:")
    if ended == "Completed" and not options.keep:
        cluster.run(*delete)
    if options.dry_run:
        return 0
    fetched = f", and in {options.fetch}" if options.fetch else ""
    _say(f"the run is in {options.folder} of the claim {options.claim}{fetched}")
    if ended == "Completed":
        return 0
    _say(f"not finished; see why: {cluster.shown('describe', 'jobset', options.name)}")
    _say("what is put right, goes on with the same command again")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
