"""The manifests of launch/gke_jobset.py: a JobSet that trains or sweeps, and a pod to copy files by."""

import argparse
from collections.abc import Sequence
from typing import Any

import yaml  # Of ml_collections.

RUNS = "/runs"
_GRACE_SECONDS = 60  # For the checkpoint after SIGTERM, which takes up to 30.
_NOT_FINISHED = 75
_TRIES = 4  # Of a point, and of the table, that are killed.
Manifest = dict[str, Any]

# What TPUs' drivers lock of a host's memory, in KiB: GKE asks for it of containers that are not privileged.
_LOCKED_MEMORY = 68719476736
_LOCK = f"ulimit -l {_LOCKED_MEMORY} || exit 2\n"

# The shell is the container's first process, which gets SIGTERM alone, maybe before it knows the child. A
# child that is no program yet has the shell's trap, and would lose the signal: it is told a second later.
_FOLLOW = """\
trap 'if [ -n "$child" ]; then told=1; sleep 1; kill -TERM "$child"; else early=1; fi' TERM
"$@" & child=$!
[ -z "$early" ] || { sleep 1; kill -TERM "$child"; }
wait "$child"; status=$?
[ -z "$told" ] || { wait "$child"; status=$?; }
"""
# A training that is told to stop ends with 0, a process whose peer died with 1, as does one that is trained
# and not verified. Kubernetes is to start the first two again: what tells them apart is the result, which
# process 0 writes.
TRAINING = f"""{_FOLLOW}\
first() {{ [ "$JOB_COMPLETION_INDEX" = 0 ]; }}
case "$status" in
  0) [ -e "$RESULT" ] || ! first || status={_NOT_FINISHED} ;;
  1) {{ [ -e "$RESULT" ] && first; }} || status={_NOT_FINISHED} ;;
esac
[ "$status" != {_NOT_FINISHED} ] || echo "not finished: started again, it goes on from the last checkpoint"
exit "$status"
"""
# A point without its devices is not one that died: 69 as the programs have it, and another pod tries again.
DEVICES = """\
python -c 'from nullmark_jax.parallel import check_platform; check_platform()' || exit 69
"""
# A point that died is left to the table's job, which tries it once more and names it. So is one whose pods
# were killed, shell and all, where memory was short say: a point that failed for good would fail the sweep,
# and leave it without a table.
LEFT = f"""\
[ "${{FAILURES:-0}}" -lt {_TRIES} ] || {{ echo "{_TRIES} pods failed: left to the table"; exit 0; }}
"""
POINT = f"""{_FOLLOW}\
[ "$status" != 1 ] || status=0
exit "$status"
"""
# First of what there is: what killed a point's pods may kill the table's.
TABLE = """\
trap 'exit 143' TERM
"$@" --collect &
wait "$!"
exec "$@"
"""


def jobset(options: argparse.Namespace) -> Manifest:
    """Returns the JobSet of a training or a sweep, for options as `gke_jobset.parse` returns them."""
    metadata: Manifest = {"name": options.name}
    if options.tpu and options.hosts > 1:
        # One slice for all pods: a node pool is a slice.
        key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
        metadata["annotations"] = {key: "cloud.google.com/gke-nodepool"}
    spec: Manifest
    if options.sweep:
        spec = {"replicatedJobs": _sweep_jobs(options)}
    else:
        ended = {"name": "ended", "action": "FailJobSet"}
        rules = [{**ended, "onJobFailureReasons": ["PodFailurePolicy"]}]
        policy = {"maxRestarts": options.max_restarts, "rules": rules}
        spec = {"failurePolicy": policy, "replicatedJobs": [_training_job(options)]}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": spec,
    }


def _training_job(options: argparse.Namespace) -> Manifest:
    distributed: list[str] = []
    if options.hosts > 1:
        distributed = ["--distributed"]
    if options.hosts > 1 and options.gpu:
        # Else jax would ask the cluster's API, for which it needs another package and a role.
        distributed += [
            f"--coordinator={options.name}-train-0-0.{options.name}:8476",
            f"--num_processes={options.hosts}",
            "--process_id=$(JOB_COMPLETION_INDEX)",
        ]
    program = ["python", "-m", "nullmark_jax.main", *distributed, *_escaped(options.arguments)]
    spec = {
        "completionMode": "Indexed",
        "completions": options.hosts,
        "parallelism": options.hosts,
        # No process goes on alone: where one ends early, all start again.
        "backoffLimit": 0,
        # Not verified, unusable input, diverged: it would end so again.
        "podFailurePolicy": {"rules": [_fail_on(1, 2, 3)]},
        "template": _template(options, TRAINING, program),
    }
    return {"name": "train", "replicas": 1, "template": {"spec": spec}}


def _sweep_jobs(options: argparse.Namespace) -> list[Manifest]:
    sweep = ["python", "-m", "nullmark_jax.sweep", *_escaped(options.arguments)]
    taken_away = {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    template = _template(
        options, f"{DEVICES}{LEFT}{POINT}", [*sweep, "--only=$(JOB_COMPLETION_INDEX)"]
    )
    failures = "metadata.annotations['batch.kubernetes.io/job-index-failure-count']"
    template["spec"]["containers"][0]["env"].append(
        {"name": "FAILURES", "valueFrom": {"fieldRef": {"fieldPath": failures}}}
    )
    points = {
        "completionMode": "Indexed",
        "completions": options.points,
        "parallelism": min(options.jobs, options.points),
        "backoffLimitPerIndex": _TRIES,  # One more pod, which ends at once with 0.
        "podFailurePolicy": {"rules": [_fail_on(2), taken_away]},
        "template": template,
    }
    table = {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": _TRIES - 1,
        "podFailurePolicy": {"rules": [_fail_on(1, 2), taken_away]},
        "template": _template(options, TABLE, sweep),
    }
    return [
        {"name": "points", "replicas": 1, "template": {"spec": points}},
        {
            "name": "table",
            "replicas": 1,
            "dependsOn": [{"name": "points", "status": "Complete"}],
            "template": {"spec": table},
        },
    ]


def _escaped(arguments: Sequence[str]) -> list[str]:
    """Returns arguments that Kubernetes, which puts in values for $(NAME), leaves as they were."""
    return [each.replace("$", "$$") for each in arguments]


def _fail_on(*statuses: int) -> Manifest:
    return {"action": "FailJob", "onExitCodes": {"operator": "In", "values": list(statuses)}}


def _template(options: argparse.Namespace, script: str, program: list[str]) -> Manifest:
    if options.tpu:
        resource = {"google.com/tpu": str(options.chips)}
        nodes = {
            "cloud.google.com/gke-tpu-accelerator": options.tpu,
            "cloud.google.com/gke-tpu-topology": options.topology,
        }
    else:
        resource = {"nvidia.com/gpu": str(options.gpus)}
        nodes = {"cloud.google.com/gke-accelerator": options.gpu}
    script = f"{_LOCK}{script}" if options.tpu else script
    spec = _pod_spec(options, ["/bin/sh", "-c", script, "sh"], program)
    container = spec["containers"][0]
    # Else jax goes on with the CPU where the devices cannot be had.
    platform = "tpu" if options.tpu else "cuda"
    container["env"] = [
        {"name": "RESULT", "value": f"{options.folder}/result.json"},
        {"name": "JAX_PLATFORMS", "value": platform},
    ]
    if options.tpu:
        # Which is of use to root alone.
        container["securityContext"]["capabilities"] = {"add": ["SYS_RESOURCE"]}
    elif options.gpus > 1:
        # NCCL goes by it where a GPU cannot reach another's memory: a container has 64 MB else, too little.
        container["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})
        spec["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    container["resources"] = {"requests": resource, "limits": dict(resource)}
    spec["nodeSelector"] = nodes
    spec["terminationGracePeriodSeconds"] = _GRACE_SECONDS
    if options.spot:
        nodes["cloud.google.com/gke-spot"] = "true"
        toleration = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"}
        spec["tolerations"] = [{**toleration, "effect": "NoSchedule"}]
    return {"spec": spec}


def _pod_spec(options: argparse.Namespace, command: list[str], arguments: list[str]) -> Manifest:
    security: Manifest = {"allowPrivilegeEscalation": False}
    if options.tpu:
        # Where the training's pods are root's, so is its owner.key, which nobody else can copy.
        security["runAsUser"] = 0
    container = {
        "name": "nullmark",
        "image": options.image,
        "command": command,
        "args": arguments,
        "securityContext": security,
        "volumeMounts": [{"name": "runs", "mountPath": RUNS}],
    }
    return {
        "restartPolicy": "Never",
        # The image's user, who writes to the claim. A new claim is given to the group, once: by default all
        # its files are at every mount, owner.key too, which a run then refuses.
        "securityContext": {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"},
        "containers": [container],
        "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": options.claim}}],
    }


def files_pod(options: argparse.Namespace) -> Manifest:
    """Returns a pod that does nothing: files are copied to and from the claim by it."""
    spec = _pod_spec(options, ["sleep"], ["86400"])
    spec["terminationGracePeriodSeconds"] = 0
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{options.name}-files"},
        "spec": spec,
    }


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(manifest: Manifest) -> str:
    """Returns a manifest's text, its fields in the order given."""
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=1000)
