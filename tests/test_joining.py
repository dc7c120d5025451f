"""How the processes of a run find each other without arguments: by what TPU pods and Kubernetes say."""

import ast
import http.server
import os
import re
import subprocess
import sys
import threading
from typing import ClassVar

import kubernetes_pods
import pytest
from processes import ROOT, free_port

pytestmark = pytest.mark.slow

# Joins the others, and says which it is and what all of them say.
PROGRAM = """
import sys
import jax, numpy
from nullmark_jax import errors, parallel

named = [parse(value) for parse, value in zip((str, int, int), sys.argv[1:])]
try:
    with parallel.joined(*named):
        said = parallel.gather(numpy.int32(10 + parallel.process_index())).tolist()
        print([parallel.process_index(), parallel.process_count(), said])
except errors.InputError as error:
    print(error)
"""


def run(variables, *, inside=(), named=()):
    """Runs the program in processes with `variables` each; returns what each printed, and its errors."""
    started = [
        subprocess.Popen(
            [*inside, sys.executable, "-c", PROGRAM, *named],
            cwd=ROOT,
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in variables
    ]
    try:
        said = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    # Without gloo's own lines.
    ours = [re.findall(r"^(?:\[\d|--).*", out, re.MULTILINE) for out, _ in said]
    return ["\n".join(lines) for lines in ours], [errors for _, errors in said]


def assert_joined(variables, **options):
    """They are two of one run, each with its own number, and hear each other."""
    said, errors = run(variables, **options)
    assert [ast.literal_eval(line) for line in said] == [[0, 2, [10, 11]], [1, 2, [10, 11]]], errors


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
def test_on_a_tpu_it_needs_no_arguments(tmp_path, metadata_servers, where):
    """By the variables and metadata that the machines there give; the devices are CPUs."""
    told = []
    for i in (0, 1):
        own = {"JAX_FORCE_TPU_INIT": "1", "JAX_PLATFORMS": "cpu"}
        if where == "a slice of GKE":
            attributes = {}
            own |= {"TPU_WORKER_HOSTNAMES": "localhost,localhost", "TPU_WORKER_ID": str(i)}
        else:
            attributes = {
                "agent-worker-number": str(i),
                "worker-network-endpoints": "unknown:unknown:127.0.0.1,unknown:unknown:127.0.0.1",
                "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nWORKER_ID: '0'\n",
            }
            own["PYTHONPATH"] = str(_metadata_asked(tmp_path))
        told.append(own | {"GCE_METADATA_IP": metadata_servers(attributes)})
    assert_joined(told)


def _metadata_asked(folder):
    """Returns a folder for PYTHONPATH in whose processes jax asks for metadata, as where there are chips."""
    asked = folder / "asked"
    asked.mkdir(exist_ok=True)
    # Seeing none as it is imported, it says so to itself.
    lines = "import os\nimport jax\nos.environ.pop('TPU_SKIP_MDS_QUERY', None)\n"
    (asked / "sitecustomize.py").write_text(lines)
    return asked


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


@pytest.mark.parametrize("jobset", [False, True], ids=["a job", "a jobset"])
def test_on_kubernetes_it_needs_no_arguments(job, jobset):
    """By what its API says of the pods."""
    pods = job(count=2, jobset=jobset)
    port = {"JAX_COORDINATOR_PORT": str(free_port())}
    assert_joined([port | pods.variables(i) for i in (0, 1)], inside=pods.inside)


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
    (line,), errors = run([alone.variables(0, **variables)], inside=alone.inside)
    assert line.startswith("--distributed: the processes cannot be joined (") and reason in line
    assert "let their service account get and list pods, services and jobs" in line
    assert errors == [""]


def test_a_pod_that_is_told_of_the_others_asks_nobody():
    nowhere = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    named = [f"localhost:{free_port()}", "1", "0"]
    said, errors = run([nowhere], named=named)
    assert said == ["[0, 1, [10]]"] and "ubernetes" not in errors[0]
