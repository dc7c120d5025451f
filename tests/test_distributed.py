"""Two processes of two devices each, joined by gloo on this machine, train one model as one would."""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import ClassVar

import kubernetes_pods
import numpy as np
import pytest
import tiny_task
from processes import ROOT, Processes, free_port

from nullmark_jax import claim, models

FILES = ("model.safetensors", "metrics.jsonl", "claim.json")
EPOCHS = "--config.epochs=20"
# ml_collections loads a config file by a method that Python will drop.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return tiny_task.write(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Where the processes share what they compile, which takes them the most time."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True)
def nothing_is_left():
    """A test that fails leaves no process behind."""
    yield
    Processes.kill_all()


@pytest.fixture(scope="module")
def unbroken(config_file, compiled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    processes = Processes(config_file, folder, compiled, EPOCHS)
    assert processes.end() == [0, 0], processes.error(0) + processes.error(1)
    return processes


def test_the_first_process_alone_writes_and_speaks(unbroken):
    assert unbroken.output(0)[-1] == f"verified; the run is in {unbroken.folder}/0"
    assert unbroken.output(1) == [] and "epoch" not in unbroken.error(1)
    assert not (unbroken.folder / "1").exists()
    where = json.loads((unbroken.folder / "0" / "result.json").read_text())["environment"]
    assert where["device"] == "4 x cpu" and where["processes"] == 2


def test_it_is_the_training_of_one_process_with_all_devices(
    unbroken, config_file, compiled, tmp_path
):
    one = Processes(config_file, tmp_path / "one", compiled, EPOCHS, count=1, devices=4)
    assert one.end() == [0], one.error(0)
    ours, theirs = (
        [json.loads(line) for line in (folder / "0" / "metrics.jsonl").read_text().splitlines()]
        for folder in (unbroken.folder, one.folder)
    )
    # Sums in another order, which a training then enlarges; a wrong share of a batch, or of the validation
    # images, changes the first digits at once.
    for first, second, tolerance in zip(ours, theirs, (1e-4, 1e-3, 1e-2), strict=False):
        assert list(first) == list(second)
        for name, value in second.items():
            assert first[name] == pytest.approx(value, rel=tolerance), name


@pytest.mark.parametrize(
    "recipe",
    [
        (),
        ("--config.optimizer.name=muon", "--config.weight_standardization=true"),
        ("--config.null_space=true",),
    ],
    ids=["plain", "muon, standardised", "null space"],
)
def test_its_model_is_that_of_one_device_up_to_the_order_of_sums(
    config_file, compiled, tmp_path, recipe
):
    """After two epochs, before a training has enlarged the difference."""
    shape = (tiny_task.SIDE, tiny_task.SIDE, 1)
    arguments = ("--config.epochs=2", *recipe)

    def model(count, devices):
        folder = tmp_path / f"of-{count}-{devices}"
        processes = Processes(
            config_file, folder, compiled, *arguments, count=count, devices=devices
        )
        assert set(processes.end()) <= {0, 1}, processes.error(0)
        return claim.read_model(
            folder / "0" / "model.safetensors",
            model="digit",
            input_shape=shape,
            num_classes=tiny_task.CLASSES,
            expected_shapes=models.parameter_shapes("digit", shape, tiny_task.CLASSES),
        )

    theirs = model(1, 1)
    others = [(2, 2)] if recipe else [(2, 2), (1, 4)]
    for ours in (model(*each) for each in others):
        for layer, tensors in theirs.items():
            for name, tensor in tensors.items():
                np.testing.assert_allclose(ours[layer][name], tensor, rtol=1e-3, atol=1e-5)


def assert_goes_on(config_file, compiled, folder, unbroken):
    again = Processes(config_file, folder, compiled, EPOCHS)
    assert again.end() == [0, 0], again.error(0) + again.error(1)
    for name in FILES:
        ours, theirs = (each / "0" / name for each in (folder, unbroken.folder))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_one_process_killed_ends_all_and_all_started_again_end_with_the_same_bytes(
    unbroken, config_file, compiled, tmp_path
):
    # The first, whose going the other sees at once; the other's going takes it a minute to see.
    processes = Processes(config_file, tmp_path / "run", compiled, EPOCHS)
    processes.wait_for("epoch 5:")
    processes.each[0].kill()
    assert processes.end() == [-signal.SIGKILL, -signal.SIGABRT]
    assert not (tmp_path / "run" / "0" / "result.json").exists()
    assert_goes_on(config_file, compiled, tmp_path / "run", unbroken)


def test_another_process_killed_ends_the_first_in_about_a_minute_and_both_go_on(
    unbroken, config_file, compiled, tmp_path
):
    # Few epochs are left, but the first cannot do them: it waits for the other's share of the next step.
    processes = Processes(config_file, tmp_path / "run", compiled, EPOCHS)
    processes.wait_for("epoch 5:")
    processes.each[1].kill()
    killed = time.monotonic()
    assert processes.end() == [-signal.SIGABRT, -signal.SIGKILL]
    assert time.monotonic() - killed < 90
    assert not (tmp_path / "run" / "0" / "result.json").exists()
    assert_goes_on(config_file, compiled, tmp_path / "run", unbroken)


def test_sigterm_to_one_process_stops_all_after_the_same_step(config_file, compiled, tmp_path):
    # Of six steps an epoch four in a dispatch, as accelerators take fifty; the service thinks in steps.
    arguments = ["--config.epochs=2000", "--config.steps_per_dispatch=4"]
    processes = Processes(config_file, tmp_path / "run", compiled, *arguments)
    processes.wait_for("epoch 5:")
    processes.each[1].send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert processes.end() == [0, 0], processes.error(0) + processes.error(1)
    assert time.monotonic() - asked < 30
    (line,) = (each for each in processes.error(0).splitlines() if each.startswith("terminated"))
    step, epoch = map(int, re.match(r".* step (\d) of 6 of epoch (\d+) is in", line).groups())
    kept = max(int(path.name) for path in (tmp_path / "run/0/checkpoints").iterdir())
    assert kept == 6 * (epoch - 1) + step and step in (4, 6)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({1: ["--config.seed=5"]}, "--config: is another in process 1 than in process 0; give all"),
        ({1: ["--config.data.path=nowhere.npz"]}, "process 1: cannot go on, and says why; mend"),
        ({0: ["--workdir=/proc/nowhere"]}, "/proc/nowhere: cannot be written"),
    ],
)
def test_what_one_process_cannot_use_ends_all_with_one_line(
    config_file, compiled, tmp_path, own, said
):
    processes = Processes(config_file, tmp_path / "run", compiled, own=own)
    assert processes.end() == [2, 2]
    for i in (0, 1):
        (line,) = (each for each in processes.error(i).splitlines() if each)
        if i in own and "cannot go on" in said:
            assert line.startswith("config.data.path='nowhere.npz': no such")
        else:
            assert line.removeprefix("process 0: ").startswith(said)
    assert list((tmp_path / "run").glob("*/*")) == []


def test_images_damaged_in_any_process_s_part_of_the_file_end_all_with_one_line(
    config_file, compiled, tmp_path
):
    (path,) = config_file.parent.glob("*.npz")
    content = bytearray(path.read_bytes())
    with np.load(path) as arrays:
        pixels = arrays["x_train"].tobytes()
    # In the second half, which the second process reads.
    content[content.index(pixels) + len(pixels) - 5] ^= 1
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(content)
    processes = Processes(config_file, tmp_path / "run", compiled, f"--config.data.path={damaged}")
    assert processes.end() == [2, 2]
    for i in (0, 1):
        (line,) = (each for each in processes.error(i).splitlines() if each)
        assert line.endswith("x_train cannot be read (Bad CRC-32); the file is damaged")
    assert list((tmp_path / "run").glob("*/*")) == []


# Started in each process: tells which rows of the images in the file are read.
_TELL = """
import os, sys
from nullmark_jax.data import mapped

read = mapped.MappedImages.__getitem__

def told(self, index):
    rows = self._rows[index]
    with open(os.environ["ROWS"] + str(os.getpid()), "a") as file:
        print(len(self), *rows.ravel().tolist(), file=file)
    return read(self, index)

mapped.MappedImages.__getitem__ = told
"""


def test_each_process_reads_its_own_share_of_the_images(
    config_file, compiled, tmp_path, monkeypatch
):
    (tmp_path / "sitecustomize.py").write_text(_TELL)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("ROWS", f"{tmp_path}/rows-of-")
    processes = Processes(config_file, tmp_path / "run", compiled, "--config.epochs=1")
    assert set(processes.end()) == {1}, processes.error(0)
    read = []
    for process in processes.each:
        lines = (tmp_path / f"rows-of-{process.pid}").read_text().splitlines()
        read.append([tuple(map(int, line.split())) for line in lines])
    for images, steps in ((108, 6), (12, 1)):
        # Eight of each batch of training images of sixteen; half of the validation images.
        shares = [[row for size, *rows in own if size == images for row in rows] for own in read]
        assert [len(share) for share in shares] == [min(8, images // 2) * steps] * 2
        assert len({*shares[0], *shares[1]}) == len(shares[0]) + len(shares[1])


class Metadata(http.server.BaseHTTPRequestHandler):
    """What the metadata server of one machine of a TPU pod says, of nothing else."""

    attributes: ClassVar[dict[str, str]] = {}

    def do_GET(self):
        name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
        found = name in self.attributes and self.headers["Metadata-Flavor"] == "Google"
        body = self.attributes[name].encode() if found else b"not found"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def metadata_servers():
    """Starts a metadata server of some attributes; returns its HOST:PORT."""
    started = []

    def start(attributes):
        handler = type("Machine", (Metadata,), {"attributes": attributes})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("where", ["a slice of GKE", "a pod of queued resources"])
def test_on_a_tpu_distributed_needs_no_arguments(
    config_file, compiled, tmp_path, metadata_servers, where
):
    """By the variables and metadata that the machines there give; the devices are CPUs."""
    told = {}
    for i in (0, 1):
        told[i] = {"JAX_FORCE_TPU_INIT": "1", "JAX_PLATFORMS": "cpu"}
        if where == "a slice of GKE":
            attributes = {}
            told[i] |= {"TPU_WORKER_HOSTNAMES": "localhost,localhost", "TPU_WORKER_ID": str(i)}
        else:
            attributes = {
                "agent-worker-number": str(i),
                "worker-network-endpoints": "unknown:unknown:127.0.0.1,unknown:unknown:127.0.0.1",
                "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nWORKER_ID: '0'\n",
            }
            told[i]["PYTHONPATH"] = str(_metadata_asked(tmp_path))
        told[i]["GCE_METADATA_IP"] = metadata_servers(attributes)
    processes = Processes(config_file, tmp_path / "run", compiled, "--config.epochs=1", told=told)
    assert_one_run_of_two(processes)


def _metadata_asked(folder):
    """Returns a folder for PYTHONPATH in whose processes jax asks for metadata, as where there are chips."""
    asked = folder / "asked"
    asked.mkdir(exist_ok=True)
    # Seeing none as it is imported, it says so to itself.
    lines = "import os\nimport jax\nos.environ.pop('TPU_SKIP_MDS_QUERY', None)\n"
    (asked / "sitecustomize.py").write_text(lines)
    return asked


def assert_one_run_of_two(processes):
    """Not two of one."""
    ended = processes.end()
    said = processes.error(0) + processes.error(1)
    # Unverified, after so few epochs.
    assert ended == [1, 1] and "Traceback" not in said, said
    assert not (processes.folder / "1").exists()
    result = json.loads((processes.folder / "0" / "result.json").read_text())
    assert result["environment"]["processes"] == 2


@pytest.fixture
def job(tmp_path):
    """Makes a job of Kubernetes."""
    if why := kubernetes_pods.missing():
        pytest.skip(why)
    started = []

    def make(**kind):
        started.append(kubernetes_pods.Job(tmp_path / "kubernetes", **kind))
        return started[-1]

    yield make
    for each in started:
        each.close()


def pods(job, config_file, folder, compiled, *, count=2, **variables):
    """Starts them, with nothing but --distributed, on a port of this machine that is free."""
    free = {"JAX_COORDINATOR_PORT": str(free_port())}
    told = {i: free | job.variables(i, **variables) for i in range(count)}
    return Processes(
        config_file,
        folder,
        compiled,
        "--config.epochs=1",
        count=count,
        told=told,
        inside=job.inside,
    )


@pytest.mark.parametrize("jobset", [False, True], ids=["a job", "a jobset"])
def test_on_kubernetes_distributed_needs_no_arguments(config_file, compiled, tmp_path, job, jobset):
    """By what its API says of the pods."""
    assert_one_run_of_two(
        pods(job(count=2, jobset=jobset), config_file, tmp_path / "run", compiled)
    )


@pytest.mark.parametrize(
    ("kind", "variables", "reason"),
    [
        ({}, {"indexed": False}, "jobs must be indexed"),
        ({"service": False}, {}, "Pods within a job need a headless service"),
        ({"may_read": False}, {}, "Kubernetes API Error: 403 - Forbidden"),
        ({"account": False}, {}, "Service token file does not exist"),
        ({"package": False}, {}, "coordinator_address should be defined"),
    ],
)
def test_a_pod_that_cannot_learn_of_the_others_says_what_it_wants(job, kind, variables, reason):
    alone = job(count=1, **kind)
    program = """
from nullmark_jax import errors, parallel
try:
    with parallel.joined():
        pass
except errors.InputError as error:
    print(error)
"""
    done = subprocess.run(
        [*alone.inside, sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | alone.variables(0, **variables),
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("--distributed: the processes cannot be joined (") and reason in line
    assert "let their service account get and list pods, services and jobs" in line
    assert done.stderr == ""


def test_a_pod_that_is_told_of_the_others_asks_nobody(config_file, compiled, tmp_path):
    nowhere = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    told = [f"--coordinator=localhost:{free_port()}", "--num_processes=1", "--process_id=0"]
    alone = Processes(
        config_file,
        tmp_path / "run",
        compiled,
        "--config.epochs=1",
        count=1,
        told={0: nowhere},
        own={0: told},
    )
    assert alone.end() == [1] and "ubernetes" not in alone.error(0), alone.error(0)
