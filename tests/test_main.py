"""main.py and program.py, called: exit statuses, and one line for bad input."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import pytest
import tiny_task
from absl import flags

from nullmark_jax import main as program
from nullmark_jax import program as programs
from nullmark_jax.errors import FolderBusy, InputError, TrainingDiverged
from nullmark_jax.stopping import Preempted

ROOT = pathlib.Path(__file__).parent.parent
QUICKSTART = ROOT / "configs" / "quickstart.py"
JOINED = ("{task}", "--distributed", "--num_processes=2", "--process_id=0")
# ml_collections loads a config file by a method that Python will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return tiny_task.write(tmp_path_factory.mktemp("task"))


def answer(capsys, *arguments):
    """Runs the program here; returns the exit status and stderr's lines."""
    status = program.main(["main", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.err.splitlines()


# Bad input.


def test_help(capsys):
    assert program.main(["main", "--help"]) == 0
    printed = capsys.readouterr()
    assert "--workdir" in printed.out and "--config" in printed.out and not printed.err


def test_no_config(capsys, tmp_path):
    status, lines = answer(capsys, f"--workdir={tmp_path / 'run'}")
    assert status == 2 and len(lines) == 1
    assert "--config" in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(argument=None):\n    raise RuntimeError('one\\ntwo')", "--config: two"),
        ("def get_config(argument=None):\n    return 1 / 0", "--config: division by zero"),
        ("def get_config(:", "--config: invalid syntax (task.py, line 1)"),
        ("import nowhere_to_be_found", "--config: No module named 'nowhere_to_be_found'"),
        ("def get_config(argument=None):\n    return 3", "--config: 'int' object"),
        (
            "import ml_collections\n\n\ndef get_config(argument=None):\n"
            "    return ml_collections.ConfigDict()",
            "is missing; start from nullmark_jax.config.default()",
        ),
        (
            "from nullmark_jax.config import default\n\n\ndef get_config(argument=None):\n"
            "    config = default()\n    config.foo = 1\n    return config",
            "config.foo: is no field",
        ),
    ],
)
def test_a_config_file_that_cannot_be_used(capsys, tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.py").write_text(text)
    status, lines = answer(capsys, "--config=task.py")
    assert status == 2 and len(lines) == 1
    assert said in lines[0]
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "__pycache__"] == [
        "task.py"
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=nowhere.py"], "--config: [Errno 2] No such file or directory: 'nowhere.py'"),
        ([f"--config={QUICKSTART}:nope"], "--config: 'nope' is no recipe of this task"),
        (["{task}", "--config.foo=1"], "--config: there is no field 'foo'"),
        (["{task}", "--config.data.foo=1"], "--config: there is no field 'foo'"),
        (["{task}", "--config.epochs=many"], "flag --config.epochs=many: invalid literal"),
        (["{task}", "--config.watermark=3"], "config.watermark"),  # ml_collections' own words
        (["{task}", "--config.task=chess"], "config.task: 'chess' is none; take one of"),
        (["{task}", "--foo=1"], "Unknown command line flag 'foo'"),
        (["{task}", "more"], "'more': is not a flag"),
        (["{task}", "--config.loss.inject_ratio=1.5"], "config.loss.inject_ratio: 1.5 is out of"),
        (["{task}", "--config.watermark.extreme_value=0.0"], "config.watermark.extreme_value: 0.0"),
        (["{task}", "--config.watermark.pattern_size=16"], "config.watermark.pattern_size: 16 "),
        (["{task}", "--config.data.path=nowhere.npz"], "config.data.path='nowhere.npz': no such"),
        (["{task}", "--config.owner.key_file=nowhere.key"], "nowhere.key: cannot be read"),
        (["{task}", "--config.batch_size=1000"], "config.batch_size: 1000 does not fit"),
        (["{task}", "--workdir=/proc/nowhere"], "/proc/nowhere: cannot be written"),
        (["{task}", "--workdir=/dev/null"], "/dev/null: cannot be written (File exists)"),
        (["{task}", "--process_id=1"], "--coordinator, --num_processes, --process_id: are of"),
        (["{task}", "--distributed", "--process_id=0"], "--num_processes, --process_id: say"),
        (["{task}", "--distributed", "--coordinator=h:1"], "--process_id: -1 of --num_processes=0"),
        ([*JOINED, "--coordinator=localhost"], "--coordinator: 'localhost' is not HOST:PORT"),
        ([*JOINED, "--coordinator=:8476"], "--coordinator: ':8476' is not HOST:PORT"),
        ([*JOINED, "--coordinator=localhost:port"], "--coordinator: 'localhost:port' is not HOST"),
        ([*JOINED, "--coordinator=localhost:99999"], "--coordinator: 'localhost:99999' is not HO"),
    ],
)
def test_an_unusable_command_line_leaves_nothing_behind(
    capsys, tmp_path, monkeypatch, config_file, arguments, said
):
    monkeypatch.chdir(tmp_path)
    given = [argument.format(task=f"--config={config_file}") for argument in arguments]
    status, lines = answer(capsys, *given)
    assert status == 2 and len(lines) == 1
    assert lines[0].startswith(said) or said in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_the_first_process_s_port_is_another_s(capsys, tmp_path, config_file):
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        given = [each.format(task=f"--config={config_file}") for each in JOINED]
        given += [f"--coordinator=localhost:{port}", f"--workdir={tmp_path / 'run'}"]
        status, lines = answer(capsys, *given)
    assert (status, lines) == (
        2,
        [
            f"--coordinator: port {port} of this machine cannot be had (Address already in use); another "
            "run may have it: give another"
        ],
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "platform"), [("main", "tpu"), ("main", "cuda"), ("verify", "tpu")]
)
def test_devices_that_the_environment_asks_for_in_vain(tmp_path, config_file, program, platform):
    """Status 69, which is no verdict."""
    if jax.default_backend() != "cpu":
        pytest.skip("there are devices, here")
    given = ["--claim=claim.json", "--model=model.safetensors"] if program == "verify" else []
    ended = subprocess.run(
        [sys.executable, "-m", f"nullmark_jax.{program}", f"--config={config_file}", *given],
        env={**os.environ, "JAX_PLATFORMS": platform, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = [each for each in ended.stderr.splitlines() if each.startswith("JAX_PLATFORMS")]
    assert ended.returncode == 69 and ended.stderr.splitlines()[-1] == line
    assert line.startswith(f"JAX_PLATFORMS: '{platform}' cannot be had (")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_checks_the_config_and_prints_the_command(capsys, tmp_path, config_file):
    given = [f"--config={config_file}", "--distributed", f"--workdir={tmp_path / 'run'}"]
    assert program.main(["main", "--dry_run", *given]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"python -m nullmark_jax.main {' '.join(given)}\n" and not printed.err
    status, lines = answer(capsys, *given, "--dry_run", "--config.epochs=0")
    assert status == 2 and lines[0].startswith("config.epochs: 0 is out of range")
    assert list(tmp_path.iterdir()) == []


def test_another_config_s_folder(capsys, tmp_path, config_file):
    (tmp_path / "config.json").write_text("{}")
    status, lines = answer(capsys, f"--config={config_file}", f"--workdir={tmp_path}")
    assert status == 2 and len(lines) == 1
    assert "holds the run of another config" in lines[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(capsys, tmp_path, config_file):
    tmp_path.chmod(0o500)
    status, lines = answer(capsys, f"--config={config_file}", f"--workdir={tmp_path / 'run'}")
    assert status == 2 and len(lines) == 1
    assert "cannot be written (Permission denied)" in lines[0]


# Exit statuses.


def run_body(body):
    return programs.run(body, flags.FlagValues(), ["program"], "")


def raises(error):
    def body(flag_values):
        raise error

    return body


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        (lambda flag_values: 0, 0, ""),
        (lambda flag_values: 1, 1, ""),
        (raises(InputError("claim: bad\nvery\x1b[31m bad; mend it")), 2, None),
        (raises(FolderBusy("--workdir: busy")), 75, "--workdir: busy"),
        (raises(Preempted("terminated; the state")), 0, "terminated; the state"),
        (raises(Preempted("")), 0, ""),
        (raises(OSError(28, "No space left on device")), 2, None),
        (raises(TrainingDiverged("the loss became nan")), 3, "the loss became nan"),
        (lambda flag_values: signal.raise_signal(signal.SIGINT), 130, None),
        (lambda flag_values: signal.raise_signal(signal.SIGTERM), 143, None),
    ],
)
def test_exit_statuses(capsys, body, status, line):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run_body(body) == status
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    printed = capsys.readouterr().err
    assert printed.count("\n") == (0 if line == "" else 1)
    assert printed.isascii() and "\x1b" not in printed
    if line:
        assert printed.strip() == line


def test_a_fault_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_body(lambda flag_values: 1 // 0)
