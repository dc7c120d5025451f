"""launch/gke_jobset.py: its manifests against Kubernetes' schemas, its containers' shells, its commands.

kubectl is fake_cloud.py, which records its calls.
"""

import contextlib
import importlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import sysconfig
import time

import jax
import jsonschema
import kubernetes_validate
import pytest
import tiny_task
import yaml

ROOT = pathlib.Path(__file__).parents[1]
SCHEMA = ROOT / "tests" / "vectors" / "jobset.schema.json"
# backoffLimitPerIndex is no alpha from 1.29 on.
KUBERNETES = ("1.29", "1.33", "1.36")
COMMON = ("--name=digit", "--image=registry/nullmark", "--claim=runs")
SLICE = (*COMMON, "--tpu=tpu-v5-lite-podslice", "--topology=4x4")
GPUS = (*COMMON, "--gpu=nvidia-l4")
ARGUMENTS = ("--", "--config=configs/digit.py", "--workdir=/runs/digit")


@pytest.fixture
def cloud(tmp_path):
    folder = tmp_path / "cloud"
    (folder / "bin").mkdir(parents=True)
    kubectl = folder / "bin" / "kubectl"
    source = (ROOT / "tests" / "fake_cloud.py").read_text()
    kubectl.write_text(f"#!{sys.executable} -IS\n{source}")
    kubectl.chmod(0o755)
    (folder / "created.json").write_text('["digit//", "digit//0", "digit//1", "digit/Completed/1"]')
    return folder


def launch(cloud, *arguments, **environ):
    changes = {
        "PATH": f"{cloud}/bin:{os.environ['PATH']}",
        "FAKE_CLOUD": str(cloud),
        "POLL_SECONDS": "0.01",
    }
    return subprocess.run(
        [sys.executable, ROOT / "launch" / "gke_jobset.py", *map(str, arguments)],
        env={**os.environ, **changes, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def dry_run(cloud, *arguments):
    """Returns the commands and the manifests, by kind, that a dry run prints; no comments."""
    at = arguments.index("--")
    done = launch(cloud, *arguments[:at], "--dry_run", *arguments[at:])
    assert done.returncode == 0 and not done.stderr, done.stderr
    commands, manifests, text = [], {}, None
    for line in done.stdout.splitlines():
        if line == "EOF":
            manifest = yaml.safe_load("\n".join(text))
            manifests[manifest["kind"]] = manifest
            text = None
        elif text is not None:
            text.append(line)
        elif not line.startswith("# "):
            if line.endswith("<<'EOF'"):
                line, text = line.removesuffix(" <<'EOF'"), []
            commands.append(shlex.split(line))
    assert not (cloud / "calls.jsonl").exists()
    return commands, manifests


def calls(cloud):
    """Returns kubectl's calls, looks left out, its own name and the namespace too."""
    path = cloud / "calls.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [call[2:] for call in found if call[2] != "get"]


def jobs_of(manifest):
    return {job["name"]: job["template"]["spec"] for job in manifest["spec"]["replicatedJobs"]}


def container_of(job):
    (container,) = job["template"]["spec"]["containers"]
    return container


# The manifests.


@pytest.fixture
def sweep(tmp_path):
    path = tiny_task.write(tmp_path)
    points = 'add({"watermark.extreme_value": value})'
    path.write_text(
        f"{path.read_text()}\n\ndef sweep(add):\n    for value in (20.0, 10.0, 5.0):\n        {points}\n"
    )
    return ("--sweep", "--jobs=2"), ("--", f"--config={path}", "--workdir=/runs/sweep")


@pytest.mark.parametrize(
    "options",
    [SLICE, (*SLICE, "--spot"), GPUS, (*GPUS, "--hosts=2", "--gpus=8", "--spot"), "sweep"],
    ids=["slice", "spot", "gpu", "gpus", "sweep"],
)
def test_the_manifests_are_what_kubernetes_takes(cloud, sweep, options):
    given = (*GPUS, *sweep[0], *sweep[1]) if options == "sweep" else (*options, *ARGUMENTS)
    at = given.index("--")
    _, manifests = dry_run(cloud, *given[:at], f"--fetch={cloud}/new", *given[at:])
    jsonschema.validate(manifests["JobSet"], json.loads(SCHEMA.read_text()))
    for version in KUBERNETES:
        kubernetes_validate.validate(manifests["Pod"], version, strict=True)
        for name, spec in jobs_of(manifests["JobSet"]).items():
            job = {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": name},
                "spec": spec,
            }
            kubernetes_validate.validate(job, version, strict=True)


def test_the_schemas_refuse_what_is_none(cloud):
    """The checks above can fail: on a field that is none, in the JobSet or in a pod."""
    _, manifests = dry_run(cloud, *SLICE, f"--fetch={cloud}/new", *ARGUMENTS)
    manifests["JobSet"]["spec"]["replicatedJobs"][0]["completions"] = 4
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifests["JobSet"], json.loads(SCHEMA.read_text()))
    manifests["Pod"]["spec"]["containers"][0]["argument"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifests["Pod"], KUBERNETES[0], strict=True)


def test_a_slice_has_a_pod_on_each_host(cloud):
    _, manifests = dry_run(cloud, *SLICE, *ARGUMENTS)
    jobset = manifests["JobSet"]
    job = jobs_of(jobset)["train"]
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (4, 4, "Indexed")
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    container = container_of(job)
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["resources"]["limits"] == {"google.com/tpu": "4"}
    program = ["python", "-m", "nullmark_jax.main", "--distributed", *ARGUMENTS[1:]]
    assert container["args"] == program
    assert container["volumeMounts"] == [{"name": "runs", "mountPath": "/runs"}]
    assert pod["volumes"] == [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}]
    assert jobset["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }


def test_a_claim_s_files_are_given_to_the_image_s_group_once(cloud, sweep):
    """A new claim's: at every mount, as by default, owner.key would come to be the group's as well."""
    once = {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"}
    for given in ((*SLICE, *ARGUMENTS), (*GPUS, *ARGUMENTS), (*GPUS, *sweep[0], *sweep[1])):
        at = given.index("--")
        _, manifests = dry_run(cloud, *given[:at], f"--fetch={cloud}/new", *given[at:])
        jobs = jobs_of(manifests["JobSet"]).values()
        specs = [job["template"]["spec"] for job in jobs] + [manifests["Pod"]["spec"]]
        assert [spec["securityContext"] for spec in specs] == [once] * len(specs)


def test_the_pod_that_copies_is_who_wrote_the_key(cloud):
    for options, user in ((SLICE, 0), (GPUS, None)):
        _, manifests = dry_run(cloud, *options, f"--fetch={cloud}/new", *ARGUMENTS)
        (copies,) = manifests["Pod"]["spec"]["containers"]
        trains = container_of(jobs_of(manifests["JobSet"])["train"])
        for container in (copies, trains):
            assert container["securityContext"].get("runAsUser") == user
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_a_pod_of_several_gpus_has_memory_to_share(cloud):
    mount = {"name": "shm", "mountPath": "/dev/shm"}
    volume = {"name": "shm", "emptyDir": {"medium": "Memory"}}
    for options, shares in (((*GPUS, "--gpus=2"), True), (GPUS, False), (SLICE, False)):
        _, manifests = dry_run(cloud, *options, *ARGUMENTS)
        job = jobs_of(manifests["JobSet"])["train"]
        assert (mount in container_of(job)["volumeMounts"]) == shares
        assert (volume in job["template"]["spec"]["volumes"]) == shares


@pytest.mark.parametrize(("options", "platform"), [(SLICE, "tpu"), (GPUS, "cuda")])
def test_a_pod_without_its_devices_fails(cloud, sweep, options, platform):
    wanted = {"name": "JAX_PLATFORMS", "value": platform}
    _, manifests = dry_run(cloud, *options, *ARGUMENTS)
    assert wanted in container_of(jobs_of(manifests["JobSet"])["train"])["env"]
    one = (*COMMON, "--tpu=tpu", "--topology=2x2") if options is SLICE else options
    _, manifests = dry_run(cloud, *one, *sweep[0], *sweep[1])
    for job in jobs_of(manifests["JobSet"]).values():
        assert wanted in container_of(job)["env"]


def test_a_tpu_s_container_may_lock_the_memory_that_the_driver_wants(cloud, sweep):
    one = (*COMMON, "--tpu=tpu", "--topology=2x2", *sweep[0], *sweep[1])
    _, manifests = dry_run(cloud, *one)
    for job in jobs_of(manifests["JobSet"]).values():
        container = container_of(job)
        assert container["command"][2].startswith("ulimit -l 68719476736 || exit 2\n")
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "runAsUser": 0,
            "capabilities": {"add": ["SYS_RESOURCE"]},
        }
    _, manifests = dry_run(cloud, *GPUS, *ARGUMENTS)
    container = container_of(jobs_of(manifests["JobSet"])["train"])
    assert "ulimit" not in container["command"][2]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False}


def test_a_training_that_was_taken_away_starts_again_and_one_that_ended_does_not(cloud):
    _, manifests = dry_run(cloud, *SLICE, "--max_restarts=7", *ARGUMENTS)
    policy = manifests["JobSet"]["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    job = jobs_of(manifests["JobSet"])["train"]
    assert job["backoffLimit"] == 0
    (ended,) = job["podFailurePolicy"]["rules"]
    assert ended == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2, 3]}}
    pod = job["template"]["spec"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 60)


@pytest.mark.parametrize(
    ("shape", "hosts"),
    [(("--topology=2x2",), 1), (("--topology=2x4", "--chips=8"), 1), (("--topology=2x2x4",), 4)],
)
def test_the_hosts_of_a_topology(cloud, shape, hosts):
    _, manifests = dry_run(cloud, *COMMON, "--tpu=tpu", *shape, *ARGUMENTS)
    job = jobs_of(manifests["JobSet"])["train"]
    assert job["completions"] == hosts
    assert ("--distributed" in container_of(job)["args"]) == (hosts > 1)
    assert ("annotations" in manifests["JobSet"]["metadata"]) == (hosts > 1)


def test_gpu_hosts_are_told_where_the_first_is(cloud):
    _, manifests = dry_run(cloud, *GPUS, "--hosts=2", "--gpus=8", "--spot", *ARGUMENTS)
    job = jobs_of(manifests["JobSet"])["train"]
    container = container_of(job)
    assert container["args"][3:7] == [
        "--distributed",
        "--coordinator=digit-train-0-0.digit:8476",
        "--num_processes=2",
        "--process_id=$(JOB_COMPLETION_INDEX)",
    ]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    pod = job["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-l4"
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["tolerations"][0]["key"] == "cloud.google.com/gke-spot"


def test_a_dollar_of_the_arguments_stays_one(cloud):
    # Kubernetes puts values in for $(NAME), and $ for $$.
    _, manifests = dry_run(cloud, *GPUS, *ARGUMENTS, "--config.note=$(HOME) $x")
    args = container_of(jobs_of(manifests["JobSet"])["train"])["args"]
    assert args[-1] == "--config.note=$$(HOME) $$x"


def test_a_sweep_has_a_pod_for_each_point_and_then_the_table(cloud, sweep):
    options, arguments = sweep
    _, manifests = dry_run(cloud, *GPUS, *options, *arguments)
    last = manifests["JobSet"]["spec"]["replicatedJobs"][1]
    assert last["dependsOn"] == [{"name": "points", "status": "Complete"}]
    jobs = jobs_of(manifests["JobSet"])
    spec = jobs["points"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 2, "Indexed")
    program = ["python", "-m", "nullmark_jax.sweep", *arguments[1:]]
    assert container_of(spec)["args"] == [*program, "--only=$(JOB_COMPLETION_INDEX)"]
    table = container_of(jobs["table"])
    assert table["command"] == ["/bin/sh", "-c", manifests_module().TABLE, "sh"]
    assert table["args"] == program
    assert "failurePolicy" not in manifests["JobSet"]["spec"]


def test_a_point_s_last_pod_leaves_it_to_the_table(cloud, sweep, tmp_path):
    """An index that failed for good would fail its job, and the table wait for it in vain."""
    options, arguments = sweep
    _, manifests = dry_run(cloud, *GPUS, *options, *arguments)
    job = jobs_of(manifests["JobSet"])["points"]
    container = container_of(job)
    (field,) = [each for each in container["env"] if each["name"] == "FAILURES"]
    counted = "metadata.annotations['batch.kubernetes.io/job-index-failure-count']"
    assert field["valueFrom"] == {"fieldRef": {"fieldPath": counted}}
    assert "maxFailedIndexes" not in job
    # An index has failed where a pod fails before which as many did.
    limit = job["backoffLimitPerIndex"]
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    # As where memory is short: the shell is killed, too.
    command = [*container["command"], "sh", "-c", "echo begun >>trained; kill -KILL $PPID"]
    for failures in range(limit + 1):
        environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAILURES": str(failures)}
        ended = subprocess.run(
            command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=20
        )
        assert ended.returncode == (0 if failures == limit else -signal.SIGKILL)
    assert ended.stdout == f"{limit} pods failed: left to the table\n"
    assert (tmp_path / "trained").read_text() == "begun\n" * limit == "begun\n" * 4


def test_the_table_is_made_first_of_what_there_is(tmp_path):
    """And then tried again: what kills the second leaves the first."""
    for collected in (0, 2):
        log = tmp_path / f"log.{collected}"
        # As one that is killed in the second.
        command = (
            f'echo "$@" >>{log}; case "$*" in *--collect) exit {collected} ;; esac; kill -KILL $$'
        )
        script = manifests_module().TABLE
        program = ["sh", "-c", command, "sh", "--workdir=/runs/x"]
        ended = subprocess.run(["/bin/sh", "-c", script, "sh", *program], timeout=20)
        assert ended.returncode == -signal.SIGKILL
        assert log.read_text() == "--workdir=/runs/x --collect\n--workdir=/runs/x\n"


def test_a_point_s_pod_without_its_devices_is_not_done(cloud, sweep, tmp_path):
    options, arguments = sweep
    _, manifests = dry_run(cloud, *GPUS, *options, *arguments)
    container = container_of(jobs_of(manifests["JobSet"])["points"])
    _, flag, script, name = container["command"]
    # The image's Python.
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for platform, status in (("tpu", 69), ("cpu", 7)):
        if platform == "tpu" and jax.default_backend() == "tpu":
            continue
        ended = subprocess.run(
            ["/bin/sh", flag, script, name, "sh", "-c", "exit 7"],
            env={**os.environ, **environ, "JAX_PLATFORMS": platform},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == status, ended.stderr


# The shells of the containers.


def manifests_module():
    sys.path.insert(0, str(ROOT / "launch"))
    try:
        return importlib.import_module("manifests")
    finally:
        sys.path.remove(str(ROOT / "launch"))


def start(script, command, tmp_path, index="0"):
    """Starts a shell's script around a command, in a group of their own."""
    environ = {**os.environ, "RESULT": str(tmp_path / "result.json"), "JOB_COMPLETION_INDEX": index}
    program = ["/bin/sh", "-c", script, "sh", "sh", "-c", command]
    return subprocess.Popen(
        program,
        env=environ,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def shell(kind, command, tmp_path, index="0"):
    return start(getattr(manifests_module(), kind), command, tmp_path, index)


@pytest.mark.parametrize("kind", ["TRAINING", "LEFT", "DEVICES", "POINT", "TABLE"])
def test_shellcheck_finds_nothing(kind):
    text = getattr(manifests_module(), kind)
    program = pathlib.Path(sysconfig.get_path("scripts")) / "shellcheck"
    command = [program, "--shell=sh", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("status", "result", "index", "expected"),
    [
        (0, True, "0", 0),  # Verified.
        (0, False, "0", 75),  # Told to stop.
        (0, False, "1", 0),  # Another process, which writes no result: the first decides.
        (1, True, "0", 1),  # Not verified.
        (1, False, "0", 75),  # Died, with a peer say.
        (1, True, "1", 75),
        (2, False, "0", 2),  # Unusable input.
        (3, False, "0", 3),  # Diverged.
        (137, False, "0", 137),
    ],
)
def test_what_a_training_ends_with_in_its_pod(tmp_path, status, result, index, expected):
    if result:
        (tmp_path / "result.json").touch()
    process = shell("TRAINING", f"exit {status}", tmp_path, index)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == expected
    assert ("goes on from the last checkpoint" in printed) == (expected == 75)


@pytest.mark.parametrize(("kind", "expected"), [("TRAINING", 75), ("POINT", 143)])
def test_sigterm_reaches_the_training_which_ends_by_itself(tmp_path, kind, expected):
    end = 0 if kind == "TRAINING" else 143
    command = (
        f"trap 'sleep 0.5; : >written; exit {end}' TERM; : >began; while :; do sleep 0.1; done"
    )
    process = shell(kind, command, tmp_path)
    until = time.monotonic() + 20
    while not (tmp_path / "began").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert (tmp_path / "written").exists()
    assert process.returncode == expected


@pytest.mark.parametrize(("kind", "expected"), [("TRAINING", 75), ("POINT", 143)])
@pytest.mark.parametrize(
    "before", ['"$@" &', "child=$!", '[ -z "$early" ]', 'wait "$child"; status=$?\n[ -z "$told" ]']
)
def test_sigterm_that_comes_as_the_training_begins(tmp_path, before, kind, expected):
    """As if it came there: the shell sends it to itself."""
    end = 0 if kind == "TRAINING" else 143
    command = f"trap ': >written; exit {end}' TERM; while :; do sleep 0.1; done"
    script = getattr(manifests_module(), kind)
    assert script.count(before) == 1
    script = script.replace(before, f"kill -TERM $$\n{before}")
    with start(script, command, tmp_path) as process:
        try:
            assert process.wait(timeout=20) == expected
            assert (tmp_path / "written").exists()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 0), (2, 2), (143, 143)])
def test_a_point_that_died_is_left_to_the_table(tmp_path, status, expected):
    process = shell("POINT", f"exit {status}", tmp_path)
    process.communicate(timeout=20)
    assert process.returncode == expected


# The commands.


def test_a_dry_run_prints_every_command(cloud, tmp_path):
    data = tmp_path / "mnist.npz"
    data.touch()
    options = ("--namespace=n", f"--data={data}", f"--fetch={tmp_path}/new")
    commands, manifests = dry_run(cloud, *SLICE, *options, *ARGUMENTS)
    # Else kubectl makes the key's copy readable for all.
    at = commands.index(["umask", "077"])
    assert commands[at + 3][2] == "cp"
    del commands[at]
    assert {tuple(command[:2]) for command in commands} == {("kubectl", "--namespace=n")}
    fields = '--output=jsonpath={.metadata.name}{"/"}{.status.terminalState}{"/"}{.status.restarts}'
    look = ["get", "jobset", "digit", "--ignore-not-found", fields]
    apply = ["apply", "--filename=-"]
    ready = ["wait", "--for=condition=Ready", "pod/digit-files", "--timeout=600s"]
    gone = ["delete", "pod", "digit-files", "--ignore-not-found"]
    first = "jobset.sigs.k8s.io/jobset-name=digit,batch.kubernetes.io/job-completion-index=0"
    assert [command[2:] for command in commands] == [
        look,
        *[apply, ready, ["cp", str(data), "digit-files:/runs/mnist.npz"], gone],
        apply,
        look,
        ["logs", f"--selector={first}", "--tail=20"],
        *[apply, ready, ["cp", "digit-files:/runs/digit", f"{tmp_path}/new"], gone],
        ["delete", "jobset", "digit", "--cascade=foreground", "--ignore-not-found"],
    ]
    assert set(manifests) == {"Pod", "JobSet"}


def test_a_dry_run_s_comments_say_what_depends_on_what_is_found(cloud):
    def comments(*options):
        done = launch(cloud, *SLICE, *options, "--dry_run", *ARGUMENTS)
        return [line for line in done.stdout.splitlines() if line.startswith("# ")]

    shown = "kubectl --namespace=default"
    delete = f"{shown} delete jobset digit --cascade=foreground --ignore-not-found"
    selector = "jobset.sigs.k8s.io/jobset-name=digit,batch.kubernetes.io/job-completion-index=0"
    said = [
        f"# Where it has ended, before it is made again: {delete}",
        "# Where it is not at work:",
        f"# To see what it prints: {shown} logs --selector={selector} --follow",
        "# Every 0.01 seconds, until it has ended:",
        "# Where it is done:",
    ]
    assert comments() == said
    assert comments("--keep") == said[:-1]


def test_more_than_five_pods_are_followed(cloud, sweep):
    """kubectl follows five at most, unless it is told of more, and follows none where there are more."""
    options, arguments = sweep
    follow = (
        "logs --selector=jobset.sigs.k8s.io/jobset-name=digit --follow --max-log-requests=10000"
    )
    done = launch(cloud, *GPUS, *options, *arguments)
    assert done.returncode == 0 and follow in done.stderr
    done = launch(cloud, *GPUS, *options, "--dry_run", *arguments)
    assert follow in done.stdout


def test_a_fetched_key_is_its_owner_s_alone(cloud):
    """kubectl gives files no mode of their own, but what the umask leaves; a run refuses such a key."""
    assert launch(cloud, *GPUS, f"--fetch={cloud}/new", *ARGUMENTS).returncode == 0
    assert (cloud / "new" / "owner.key").stat().st_mode & 0o777 == 0o600


def test_a_jobset_is_made_followed_and_deleted(cloud):
    done = launch(cloud, *SLICE, *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    assert [call[:2] for call in calls(cloud)] == [
        ["apply", "--filename=-"],
        ["logs", calls(cloud)[1][1]],
        ["delete", "jobset"],
    ]
    assert "verified" in done.stdout
    said = [line.removeprefix("launch/gke_jobset.py: ") for line in done.stderr.splitlines()]
    assert said[0].startswith("see what it prints: kubectl --namespace=default logs --selector=")
    assert said[1:] == [
        "digit: at work, restarts: 0",
        "digit: at work, restarts: 1",
        "digit: Completed, restarts: 1",
        "the run is in /runs/digit of the claim runs",
    ]
    applied = yaml.safe_load((cloud / "applied.yaml").read_text())
    jsonschema.validate(applied, json.loads(SCHEMA.read_text()))


def test_one_that_is_at_work_is_followed(cloud):
    (cloud / "jobset.json").write_text('["digit//3", "digit/Completed/3"]')
    assert launch(cloud, *SLICE, "--keep", *ARGUMENTS).returncode == 0
    assert [call[0] for call in calls(cloud)] == ["logs"]


@pytest.mark.parametrize("state", ["Completed", "Failed"])
def test_one_that_has_ended_is_replaced(cloud, state):
    (cloud / "jobset.json").write_text(f'["digit/{state}/0"]')
    assert launch(cloud, *SLICE, "--keep", *ARGUMENTS).returncode == 0
    assert [call[0] for call in calls(cloud)] == ["delete", "apply", "logs"]


def test_one_that_fails_is_left_and_its_folder_fetched(cloud):
    (cloud / "created.json").write_text('["digit//", "digit/Failed/20"]')
    done = launch(cloud, *SLICE, f"--fetch={cloud}/new", *ARGUMENTS)
    assert done.returncode == 1
    verbs = [call[0] for call in calls(cloud)]
    assert verbs == ["apply", "logs", "apply", "wait", "cp", "delete"]
    assert calls(cloud)[-1][:3] == ["delete", "pod", "digit-files"]
    assert "describe jobset digit" in done.stderr


def test_one_that_somebody_deletes_is_not_done(cloud):
    (cloud / "created.json").write_text('["digit//", null]')
    done = launch(cloud, *SLICE, *ARGUMENTS)
    assert done.returncode == 1
    assert "digit: is gone" in done.stderr


def test_without_access_it_says_so(cloud):
    (cloud / "no_access").touch()
    done = launch(cloud, *SLICE, *ARGUMENTS)
    assert done.returncode == 1
    first, *rest = done.stderr.splitlines()
    assert first == "error: You must be logged in to the server"
    assert "ended with status 1; see above" in rest[0]
    assert not calls(cloud)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (SLICE, "no training: give --"),
        (("--dryrun", *ARGUMENTS), "unrecognized arguments: --dryrun"),
        (ARGUMENTS, "--name: '' is no name"),
        (("--name=A", *ARGUMENTS), "--name: 'A' is no name"),
        (("--name=a", *ARGUMENTS), "--image: '' is none"),
        (("--name=a", "--image=i", *ARGUMENTS), "--claim: '' is none"),
        ((*COMMON, *ARGUMENTS), "--tpu: '' with --gpu=''; give one of the two"),
        ((*GPUS, *ARGUMENTS, "--dry_run"), "--dry_run: is not for the jobs; give it before --"),
        ((*GPUS, "--sweep", *ARGUMENTS, "--only=1"), "--only=1: is not for the jobs; leave it"),
        ((*SLICE, "--gpu=nvidia-l4", *ARGUMENTS), "--tpu: "),
        ((*SLICE, "--topology=4", *ARGUMENTS), "--topology: '4' is none"),
        ((*SLICE, "--chips=3", *ARGUMENTS), "--chips: 3 on a host"),
        ((*SLICE, "--chips=none", *ARGUMENTS), "argument --chips: invalid int value"),
        ((*GPUS, "--hosts=0", *ARGUMENTS), "--hosts: 0 must be at least 1"),
        ((*SLICE, "--max_restarts=-1", *ARGUMENTS), "--max_restarts: -1 must not be negative"),
        ((*SLICE, "--sweep", *ARGUMENTS), "--sweep: a point has one host, not 4"),
        ((*SLICE, "--data=none", *ARGUMENTS), "--data: 'none' is no file"),
        ((*SLICE, "--fetch=/tmp", *ARGUMENTS), "--fetch: '/tmp' is there already"),
        ((*SLICE, "--", "--config=x"), "--workdir: '' is not on the claim"),
        ((*SLICE, "--", "--workdir", "runs/x"), "--workdir: 'runs/x' is not on the claim"),
        ((*SLICE, "--", "--workdir=/runs/../x"), "--workdir: '/runs/../x' is not on the claim"),
    ],
)
def test_bad_input_is_one_line_and_status_2(cloud, arguments, message):
    done = launch(cloud, *arguments)
    assert done.returncode == 2 and not done.stdout and not calls(cloud)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"launch/gke_jobset.py: {message}")


def test_without_kubectl_it_says_so(cloud):
    done = launch(cloud, *SLICE, *ARGUMENTS, PATH="/nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("launch/gke_jobset.py: kubectl: is not on the PATH")
