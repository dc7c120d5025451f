"""The processes of one run on this machine."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from typing import ClassVar

import compiled_programs
import tiny_task

ROOT = pathlib.Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


class Processes:
    """The processes of one run, process I with the folder FOLDER/I."""

    started: ClassVar[list] = []

    def __init__(
        self,
        config_file,
        folder,
        compiled,
        *arguments,
        count=2,
        devices=2,
        own=None,
        variables=None,
    ):
        """`own` arguments by process, and `variables` of all."""
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = {
            **os.environ,
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
            **compiled_programs.shared(compiled),
            **(variables or {}),
        }
        joined = [
            "--distributed",
            f"--coordinator=localhost:{free_port()}",
            f"--num_processes={count}",
        ]
        self.each = []
        folder.mkdir(exist_ok=True)
        for i in range(count):
            command = [
                sys.executable,
                "-m",
                "nullmark_jax.main",
                f"--config={config_file}",
            ]
            command += [f"--workdir={folder}/{i}", *tiny_task.EXPERIMENT, *arguments]
            if count > 1:
                command += [*joined, f"--process_id={i}"]
            command += (own or {}).get(i, [])
            # To files: a pipe that nobody reads may fill.
            with open(folder / f"{i}.out", "w") as out, open(folder / f"{i}.err", "w") as err:
                self.each.append(
                    subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err)
                )
        self.folder = folder
        self.started += self.each

    def error(self, i):
        return (self.folder / f"{i}.err").read_text()

    def output(self, i):
        """What process i printed, without gloo's own lines."""
        lines = (self.folder / f"{i}.out").read_text().splitlines()
        # Its threads write at once: two lines may run together, and their ends follow.
        gloos = re.compile(r"\[Gloo\]|peer ranks|^$")
        return [line for line in lines if not gloos.search(line)]

    def wait_for(self, text):
        """Waits until the first process says a line that starts with `text`."""
        until = time.monotonic() + 300
        while not re.search(f"^{text}", self.error(0), re.MULTILINE):
            assert time.monotonic() < until and self.each[0].poll() is None, self.error(0)
            time.sleep(0.02)

    def end(self):
        """Returns the exit statuses."""
        return [process.wait(timeout=300) for process in self.each]

    @classmethod
    def kill_all(cls):
        """So that a test that fails leaves none behind."""
        while cls.started:
            process = cls.started.pop()
            if process.poll() is None:
                process.kill()
                process.wait()
