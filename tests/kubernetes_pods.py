"""A Kubernetes API on this machine, and processes that are to it the pods of one job.

Each process has the files that a pod has of its service account, and names for the pods, in a mount
namespace of its own: jax and the package `kubernetes` look for them where pods have them, nowhere else.
"""

import http.server
import json
import pathlib
import shutil
import ssl
import subprocess
import threading
import urllib.parse

import trustme

NAMESPACE, SUBDOMAIN, _TOKEN = "research", "digit", "the-pods-own"
_SECRETS = "/run/secrets/kubernetes.io/serviceaccount"
# Pods' addresses, by index: all of them this machine.
_ADDRESS = "127.0.0.{}"
_APART = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]


def missing() -> str:
    """Returns why there can be no pods here; "" where there can."""
    if not shutil.which("unshare"):
        return "no unshare"
    tried = subprocess.run(
        [*_APART, "mount -t tmpfs none /run"], capture_output=True, text=True, check=False
    )
    return f"no mount namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def pod(job: str, index: int, subdomain: str | None) -> dict:
    """Returns what the API says of a pod of an indexed job."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": "1", "controller": True}
    return {
        "metadata": {
            "name": f"{job}-{index}-x7k2p",
            "namespace": NAMESPACE,
            "labels": {"job-name": job, "batch.kubernetes.io/job-completion-index": str(index)},
            "ownerReferences": [owner],
        },
        "spec": {
            "containers": [{"name": "worker"}],
            "hostname": f"{job}-{index}",
            "subdomain": subdomain,
        },
        "status": {"podIP": _ADDRESS.format(index + 1)},
    }


class _Api(http.server.BaseHTTPRequestHandler):
    """What pods ask of it: the pod of an address, its job, the services."""

    job: dict
    pods: list[dict]
    may_read: bool

    def do_GET(self):
        path, _, query = self.path.partition("?")
        name = self.job["metadata"]["name"]
        # The scheme's case is the client's choice.
        if self.headers["Authorization"].casefold() != f"bearer {_TOKEN}":
            self._answer(401, {"kind": "Status", "reason": "Unauthorized"})
        elif not self.may_read:
            self._answer(403, {"kind": "Status", "reason": "Forbidden"})
        elif path == f"/api/v1/namespaces/{NAMESPACE}/pods":
            (selector,) = urllib.parse.parse_qs(query)["fieldSelector"]
            found = [
                each for each in self.pods if selector == f"status.podIP={each['status']['podIP']}"
            ]
            self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": found})
        elif path == f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{name}":
            self._answer(200, self.job)
        elif path == f"/api/v1/namespaces/{NAMESPACE}/services":
            self._answer(200, {"kind": "ServiceList", "apiVersion": "v1", "items": []})
        else:
            self._answer(404, {"kind": "Status", "reason": "NotFound"})

    def _answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Job:
    """An indexed job of `count` pods, by itself with a headless service, or a JobSet's."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        count: int,
        jobset=False,
        service=True,
        may_read=True,
        account=True,
        package=True,
    ):
        """Without a `service`, a role (`may_read`), a service `account` or the `package` that asks."""
        folder.mkdir()
        self.name = f"{SUBDOMAIN}-workers-0" if jobset else "train"
        labels = {"jobset.sigs.k8s.io/jobset-name": SUBDOMAIN} if jobset else {}
        template = {"spec": {"containers": [{"name": "worker"}], "restartPolicy": "Never"}}
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name, "namespace": NAMESPACE, "labels": labels},
            "spec": {
                "completionMode": "Indexed",
                "completions": count,
                "parallelism": count,
                "template": template,
            },
        }
        pods = [pod(self.name, i, SUBDOMAIN if service else None) for i in range(count)]
        handler = type("Api", (_Api,), {"job": job, "pods": pods, "may_read": may_read})
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        secrets = folder / "serviceaccount"
        secrets.mkdir()
        if account:
            (secrets / "token").write_text(_TOKEN)
        (secrets / "namespace").write_text(NAMESPACE)
        authority.cert_pem.write_to_path(secrets / "ca.crt")
        names = [f"{_ADDRESS.format(i + 1)} {self.name}-{i}" for i in range(count)]
        names += [f"{_ADDRESS.format(1)} {self.name}-0.{SUBDOMAIN}"] if service else []
        hosts = folder / "hosts"
        hosts.write_text("\n".join([pathlib.Path("/etc/hosts").read_text(), *names, ""]))
        become = (
            f'mount --bind "{hosts}" /etc/hosts; mount -t tmpfs none /run; mkdir -p "{_SECRETS}"'
        )
        become += f'; mount --bind "{secrets}" "{_SECRETS}"; exec "$@"'
        self._python_path = {}
        if not package:
            hidden = folder / "hidden"
            hidden.mkdir()
            (hidden / "kubernetes.py").write_text("raise ImportError\n")
            self._python_path = {"PYTHONPATH": str(hidden)}
        # What begins the command of each process.
        self.inside = [*_APART, become, "pod"]

    def variables(self, index: int, *, indexed=True) -> dict[str, str]:
        """Returns what the environment of a pod says, of its job and of the API."""
        port = str(self._server.server_port)
        api = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
        mine = {
            "HOSTNAME": f"{self.name}-{index}",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        mine |= self._python_path
        return api | mine | ({"JOB_COMPLETION_INDEX": str(index)} if indexed else {})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
