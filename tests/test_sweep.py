"""Sweeps: their points, their commands, the runner with real trainings, and what readers get."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

import compiled_programs
import pytest
import tiny_task

from nullmark_jax import config as configs
from nullmark_jax import folder, owner, sweep, sweep_points, sweep_population, sweep_processes
from nullmark_jax.errors import InputError

FOLDER = pathlib.Path(__file__).parents[1] / "configs" / "sweeps"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
# ml_collections loads a config file by a method that Python will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

SWEEP = """

def sweep(add):
    for seed in (0, 1):
        for value in (20.0, 5.0):
            add({"watermark.extreme_value": value, "seed": seed, "owner.experiment_key": seed})
    add({"watermark.extreme_value": 7.0, "data.path": "nowhere.npz", "seed": 3})
"""


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory):
    """The tiny task, four points of it and one that cannot be trained."""
    path = tiny_task.write(tmp_path_factory.mktemp("sweep"))
    path.write_text(path.read_text() + SWEEP)
    return path


def answer(capsys, *arguments):
    status = sweep.main(["sweep", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err.splitlines()


@pytest.mark.parametrize("task", configs.TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_every_sweep_is_one_of_every_task_that_it_fits(name, task):
    path = FOLDER / f"{name}.py"
    config = sweep.task_config(str(path), task)
    points = sweep.points_of(path, config)
    axis, groups = sweep.axes_of(points)
    assert axis.endswith(name) and groups == (
        ["watermark.scheme"] if name == "extreme_value" else []
    )
    assert len({point.values["seed"] for point in points}) == 3


# About 2, 4, 6, 8 and 10% of the input's pixels.
@pytest.mark.parametrize(
    ("task", "shape", "covering"),
    [
        ("quickstart", (28, 28), {4: 2.04, 6: 4.59, 7: 6.25, 8: 8.16, 9: 10.33}),
        ("digit", (28, 28), {4: 2.04, 6: 4.59, 7: 6.25, 8: 8.16, 9: 10.33}),
        ("traffic", (48, 48), {7: 2.13, 10: 4.34, 12: 6.25, 14: 8.51, 15: 9.77}),
        ("face", (55, 47), {7: 1.90, 10: 3.87, 12: 5.57, 14: 7.58, 16: 9.90}),
        ("object", (32, 32), {5: 2.44, 6: 3.52, 8: 6.25, 9: 7.91, 10: 9.77}),
    ],
)
def test_pattern_sizes_reach_a_tenth_of_the_task_s_input(task, shape, covering):
    path = FOLDER / "pattern_size.py"
    config = sweep.task_config(str(path), task)
    assert config.data.input_shape[:2] == shape
    for size, percent in covering.items():
        assert 100 * size**2 / (shape[0] * shape[1]) == pytest.approx(percent, abs=0.005)
    points = sweep.points_of(path, config)
    sizes = [3, 4, 5, 6, 7, 8, 9, 10, *(size for size in covering if size > 10)]
    assert [point.config.watermark.pattern_size for point in points] == 3 * sizes
    assert [point.config.seed for point in points] == [seed for seed in range(3) for _ in sizes]


def test_the_pattern_sizes_of_the_committed_sweep_are_those_of_its_command():
    committed = FOLDER.parents[1] / "results/sweeps/quickstart/watermark.pattern_size/result.json"
    result = json.loads(committed.read_text())
    assert "--config=configs/sweeps/pattern_size.py:quickstart " in result["environment"]["command"]
    path = FOLDER / "pattern_size.py"
    points = sweep.points_of(path, sweep.task_config(str(path), "quickstart"))
    assert [each["name"] for each in result["metrics"]["points"]] == [each.name for each in points]


def test_points_follow_the_config_as_the_command_line_has_it(capsys, tmp_path):
    given = [f"--config={FOLDER / 'pattern_size.py'}:digit", f"--workdir={tmp_path / 'run'}"]
    larger = "--config.data.input_shape=(48,48,1)"
    for arguments, last, count in ((given, 10, 24), ([*given, larger], 15, 33)):
        status, out, _ = answer(capsys, *arguments, "--dry_run")
        assert status == 0 and len(out.splitlines()) == count
        assert f"--config.watermark.pattern_size={last} " in out.splitlines()[-1]
    status, _, (line,) = answer(capsys, *given, larger, "--only=33")
    assert status == 2 and line == "--only: 33 is no point; give 0 to 32"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "has", "has_not"),
    [("digit", 10, 0), ("object", 10, 0), ("face", 16, 0), ("traffic", 10, 12)],
)
def test_which_sizes_have_a_place(task, has, has_not):
    path = FOLDER / "pattern_size.py"
    points = sweep.points_of(path, sweep.task_config(str(path), task))
    of_size = {each.config.watermark.pattern_size: each.config for each in reversed(points)}
    assert set(of_size) >= {has, has_not} - {0}

    def latest(config):
        assert config.owner.min_free > 0
        return owner.latest_timestamp(
            config, owner.named_key(config), config.owner.latest_timestamp
        )

    assert latest(of_size[has]) <= "2026-11-21T00:00:00Z"
    if has_not:
        with pytest.raises(InputError, match="of 600 signatures none gives such"):
            latest(of_size[has_not])


@pytest.mark.slow
def test_a_size_without_a_place_is_a_dead_point(capsys, tmp_path):
    workdir = tmp_path / "run"
    given = [f"--config={FOLDER / 'pattern_size.py'}:quickstart", f"--workdir={workdir}"]
    status, _, lines = answer(capsys, *given, "--config.owner.min_free=0.9", "--only=7")
    assert status == 1
    assert lines[-1].startswith(
        "pattern_size=10,seed=0: is not trained: exit status 2: config.owner.min_free: 0.9 of the last"
        " features are to be free of each pattern, and of 600 signatures none gives such; give less"
    )
    assert not (workdir / "points" / "pattern_size=10,seed=0").exists()


@pytest.mark.parametrize("name", NAMES)
def test_no_pattern_is_of_the_moment_that_a_point_starts(name, tmp_path):
    path = FOLDER / f"{name}.py"
    found = {}
    for point in sweep.points_of(path, sweep.task_config(str(path), "digit")):
        signer = owner.find_owner(point.config, tmp_path, owner.named_key(point.config))
        assert "2026-11-20T23:50:00Z" < signer.timestamp <= "2026-11-21T00:00:00Z"
        found.setdefault((point.values["seed"], point.config.watermark.scheme), set()).add(
            signer.timestamp
        )
    if name in ("precision", "inject_ratio", "extreme_value"):  # What is swept moves no pattern.
        assert {len(each) for each in found.values()} == {1}


def test_a_task_s_recipe_follows_a_comma():
    path = str(FOLDER / "precision.py")
    paper = sweep.task_config(path, "digit,paper")
    assert paper.epochs == 300 != sweep.task_config(path, "digit").epochs
    with pytest.raises(InputError, match=r"^--config: 'chess' is no task; take FILE.py:TASK"):
        sweep.task_config(path, "chess")


def test_the_commands_are_the_main_program_s(capsys, sweep_file, tmp_path):
    given = ["--config.epochs=3", "--config.batch_size=8"]
    status, out, _ = answer(
        capsys, f"--config={sweep_file}", *given, f"--workdir={tmp_path / 'run'}", "--dry_run"
    )
    assert status == 0 and not (tmp_path / "run").exists()
    first, *_, last = (shlex.split(line) for line in out.splitlines())
    assert first == [
        "python", "-m", "nullmark_jax.main", f"--config={sweep_file}", *given,
        "--config.watermark.extreme_value=20.0", "--config.seed=0", "--config.owner.experiment_key=0",
        f"--workdir={tmp_path}/run/points/extreme_value=20.0,seed=0",
    ]  # fmt: skip
    assert "--config.data.path=nowhere.npz" in last
    assert last[-1] == f"--workdir={tmp_path}/run/points/extreme_value=7.0,path=nowhere.npz,seed=3"


def test_a_flag_may_have_its_value_behind_it(capsys, sweep_file, tmp_path):
    together = [f"--config={sweep_file}", "--config.epochs=3", f"--workdir={tmp_path / 'run'}"]
    apart = ["--config", sweep_file, "--config.epochs", "3", "--workdir", tmp_path / "run"]
    assert answer(capsys, *together, "--dry_run") == answer(capsys, *apart, "--dry_run")


def test_points_may_differ_in_the_owner_s_key_alone_and_values_are_the_field_s(tmp_path):
    path = tmp_path / "sweep.py"
    path.write_text(
        "def sweep(add):\n for key in (0, 1):\n  for value in (20, 20.5):\n"
        "   add({'watermark.extreme_value': value, 'owner.experiment_key': key})\n"
    )
    config = sweep.task_config(str(FOLDER / "precision.py"), "digit")
    points = sweep.points_of(path, config)
    assert points[0].name == "extreme_value=20.0,experiment_key=0"
    assert isinstance(points[0].values["watermark.extreme_value"], float)
    assert points[3].config.owner.experiment_key == 1 != config.owner.experiment_key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no sweep(add)"),
        ("def sweep(add): pass", "adds no point"),
        ("def sweep(add): add({'epoch': 1})", "the point epoch=1:"),
        ("def sweep(add): add({'epochs': 0})", "the point epochs=0: config.epochs"),
        ("def sweep(add):\n add({'seed': 1})\n add({'seed': 1})", "adds seed=1 twice"),
        ("def sweep(add):\n add({'seed': 1})\n add({'seed': 2})", "varies nothing but seeds"),
        ("def sweep(add): nothing", "sweep(add) ended in NameError"),
        ("def sweep(add, config): config.nothing", "sweep(add) ended in AttributeError"),
        ("def sweep(add, task): pass", "sweep(add) ended in TypeError"),
    ],
)
def test_a_sweep_that_is_none_is_one_line_and_leaves_nothing(capsys, tmp_path, text, message):
    path = tiny_task.write(tmp_path)
    path.write_text(f"{path.read_text()}\n{text}\n")
    status, _, lines = answer(capsys, f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert status == 2 and len(lines) == 1
    assert lines[0].startswith("--config: ") and message in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--jobs=0", "--jobs: 0 must be at least 1"),
        ("--only=5", "--only: 5 is no point; give 0 to 4"),
    ],
)
def test_flags_out_of_range_are_one_line(capsys, sweep_file, tmp_path, flag, message):
    status, _, lines = answer(
        capsys, f"--config={sweep_file}", f"--workdir={tmp_path / 'run'}", flag
    )
    assert status == 2 and lines[0].startswith(message) and len(lines) == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def swept(sweep_file, tmp_path_factory):
    """The sweep, run to its end as a user does, told to stop once while it trains, and killed once."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-m", "nullmark_jax.sweep", f"--config={sweep_file}", "--jobs=2"]
    command.append(f"--workdir={workdir}")
    environ = os.environ | compiled_programs.shared(tmp_path_factory.mktemp("compiled"))
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as killed:
        until = time.monotonic() + 120
        while not list(workdir.glob("points/*/checkpoints")) and time.monotonic() < until:
            time.sleep(0.05)
        killed.send_signal(signal.SIGTERM)
        assert killed.wait() == 143
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as killed:
        until = time.monotonic() + 120
        while not list(workdir.glob("points/*/result.json")):
            assert time.monotonic() < until and killed.poll() is None
            time.sleep(0.01)
        killed.kill()  # The points' processes go on, and are waited for.
        assert killed.wait() == -signal.SIGKILL
    assert not (workdir / "result.json").exists()
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    return workdir, command, done


@pytest.mark.slow
def test_a_dead_point_is_reported_and_the_others_are_trained(swept):
    workdir, _, done = swept
    assert done.returncode == 1, done.stderr
    result = json.loads((workdir / "result.json").read_text())
    (name,) = result["metrics"]["dead"]
    assert name == "extreme_value=7.0,path=nowhere.npz,seed=3"
    assert "nowhere.npz" in result["metrics"]["dead"][name]
    assert f"{name}: is not trained: exit status 2: " in done.stderr
    assert len(result["metrics"]["points"]) == 4
    for point in result["metrics"]["points"]:
        own = json.loads((workdir / "points" / point["name"] / "result.json").read_text())
        assert own["metrics"] == point["metrics"]
    # The field that the dead one alone sets is the config's in the others.
    stated = json.loads((workdir / "config.json").read_text())
    assert len(stated["sweep"]) == 5
    usual = stated["data"]["path"]
    assert {point["values"]["data.path"] for point in result["metrics"]["points"]} == {usual}
    (figure,) = (workdir / "figures").glob("*.png")
    assert figure.name.startswith("sweep-") and figure.name.endswith("tiny.npz.png")
    assert "Not trained" in (workdir / "report.html").read_text()


@pytest.mark.slow
def test_a_finished_sweep_trains_nothing_again(swept):
    workdir, command, _ = swept
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("points/*/result.json")}
    only = subprocess.run([*command, "--only=1"], capture_output=True, text=True)
    assert only.returncode == 0 and not only.stdout
    collected = subprocess.run([*command, "--collect"], capture_output=True, text=True)
    assert collected.returncode == 1
    result = json.loads((workdir / "result.json").read_text())["metrics"]
    # The cause is known from the table before.
    (why,) = result["dead"].values()
    assert "nowhere.npz" in why and len(result["points"]) == 4
    environment = json.loads((workdir / "result.json").read_text())["environment"]
    assert "--collect" not in environment["command"]
    (workdir / "result.json").unlink()
    subprocess.run([*command, "--collect"], capture_output=True)
    result = json.loads((workdir / "result.json").read_text())["metrics"]
    assert list(result["dead"].values()) == ["not trained yet"]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1  # The dead one is tried again.
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_table_of_no_points_is_refused(capsys, sweep_file, tmp_path):
    given = [f"--config={sweep_file}", f"--workdir={tmp_path / 'run'}", "--collect"]
    assert sweep.main(["sweep", *given]) == 2
    assert capsys.readouterr().err == (
        f"--collect: no point in {tmp_path / 'run'} is trained yet; train some first\n"
    )
    assert sweep.main(["sweep", *given, "--only=1"]) == 2
    assert capsys.readouterr().err.startswith("--collect: trains nothing, not --only=1 either")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_another_sweep_s_folder_is_refused(swept, sweep_file):
    workdir, command, _ = swept
    other = subprocess.run([*command, "--config.epochs=9"], capture_output=True, text=True)
    assert other.returncode == 2
    assert other.stderr.startswith(f"--workdir: {workdir} holds the run of another config")
    # Of the same names: another key.
    text = sweep_file.read_text()
    sweep_file.write_text(text.replace('"owner.experiment_key": seed', '"epochs": 2'))
    other = subprocess.run(command, capture_output=True, text=True)
    sweep_file.write_text(text)
    assert other.returncode == 2 and "holds the run of another config" in other.stderr


@pytest.mark.slow
def test_a_point_s_folder_of_another_config_is_not_taken_for_it(swept):
    workdir, command, _ = swept
    config = next(workdir.glob("points/extreme_value=5.0*/config.json"))
    text = config.read_text()
    config.write_text(text.replace('"epochs": 2', '"epochs": 3'))
    other = subprocess.run(command, capture_output=True, text=True)
    config.write_text(text)
    assert other.returncode == 2
    assert other.stderr.startswith(f"--workdir: {config.parent} holds the run of another config")


@pytest.mark.parametrize(
    ("name", "groups", "size"),
    [
        ("extreme_value", 1, 42),
        ("inject_ratio", 5, 3),
        ("num_watermarks", 4, 3),
        ("pattern_size", 8, 3),
        ("precision", 3, 3),
    ],
)
def test_points_of_one_program_are_a_group(name, groups, size):
    path = FOLDER / f"{name}.py"
    points = sweep.points_of(path, sweep.task_config(str(path), "digit"))
    found = sweep.groups_of(points)
    assert [len(group) for group in found] == [size] * groups
    assert sorted(i for group in found for i in group) == list(range(len(points)))
    assert sweep.groups_of(points[:1]) == []


def changed_value(value):
    """Another value of a field's type; none need be a valid one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    return (*value, 1) if isinstance(value, tuple) else value + 1


def test_members_differ_in_nothing_that_the_program_holds():
    config = sweep.task_config(str(FOLDER / "precision.py"), "digit")
    config.paper = {}
    usual = configs.training_program(config)
    alike = set()
    leaves = [(name, value) for name, value in config.items() if not hasattr(value, "items")]
    leaves += [
        (f"{name}.{field}", value)
        for name, fields in config.items()
        if hasattr(fields, "items")
        for field, value in fields.items()
    ]
    assert len(leaves) > 40
    for name, value in leaves:
        changed = config.copy_and_resolve_references().unlock()
        changed.update_from_flattened_dict({name: changed_value(value)})
        if configs.training_program(changed) == usual:
            alike.add(name)
    owner = {f"owner.{field}" for field in config.owner}
    marks = {"watermark.scheme", "watermark.extreme_value", "watermark.threshold"}
    assert alike == owner | marks | {"seed", "initial_model"}


@pytest.mark.parametrize(
    "change", [{"watermark.scheme": "adi"}, {"steps_per_dispatch": 4, "seed": 3}]
)
def test_what_a_population_does_not_take_is_alone(change):
    config = sweep.task_config(str(FOLDER / "precision.py"), "digit")
    config.update_from_flattened_dict(change)
    assert configs.training_program(config) is None


def test_a_sweep_claims_no_device_before_its_points_do(sweep_file, tmp_path):
    """There is no platform of that name, so that jax would fail if it were asked for a device."""
    command = [sys.executable, "-m", "nullmark_jax.sweep", f"--config={sweep_file}", "--dry_run"]
    environ = {**os.environ, "JAX_PLATFORMS": "nowhere"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5


def test_what_a_population_leaves_is_trained_alone(capfd, tmp_path):
    """By processes that only pretend: of the group one is done, one diverges, one is left."""
    config = tiny_task.config(tmp_path)
    points = [
        sweep_points.Point(f"seed={seed}", {"seed": seed}, config.copy_and_resolve_references())
        for seed in range(5)
    ]
    folders = [sweep_points.folder_of(tmp_path, point) for point in points]
    for made in folders:
        folder.make_folder(made, config)
    (folders[4] / "checkpoints" / "6").mkdir(parents=True)
    (folders[0] / "result.json").touch()
    log = sweep_points.log_path(tmp_path, points[2])
    at_once = [
        sys.executable,
        "-c",
        f"open({str(folders[1])!r} + '/result.json', 'w'); open({str(log)!r}, 'w').write('inf'); exit(7)",
    ]
    alone = [
        [sys.executable, "-c", f"open({str(each)!r} + '/result.json', 'w')"] for each in folders
    ]
    asked = []
    dead = sweep_processes.run_points(
        points, alone, tmp_path, 2, together=lambda group: asked.append(list(group)) or at_once
    )
    assert asked == [[1, 2, 3]]
    assert dead == {"seed=2": "inf"}
    said = capfd.readouterr().err
    assert "seed=3: is trained alone (exit status 7: printed nothing)" in said
    assert all(f"seed={seed}: done" in said for seed in (1, 3, 4))


def alike_points(tmp_path, count):
    config = tiny_task.config(tmp_path)
    return [
        sweep_points.Point(f"seed={seed}", {"seed": seed}, config.copy_and_resolve_references())
        for seed in range(count)
    ]


def test_points_that_have_one_state_go_on_at_once(tmp_path):
    points = alike_points(tmp_path, 9)
    kept = [(6, 12), (12,), (12, 18), (), (), (30,), (42, 48), (36, 42), (99,)]
    for point, steps in zip(points, kept, strict=True):
        made = sweep_points.folder_of(tmp_path, point)
        folder.make_folder(made, point.config)
        for step in steps:
            (made / "checkpoints" / str(step)).mkdir(parents=True)
    # Those after 30 and 99 have nobody beside them.
    assert sweep_processes._groups(points, tmp_path) == [[3, 4], [0, 1, 2], [6, 7]]
    sweep_points.result_path(tmp_path, points[1]).touch()
    with folder._locked(sweep_points.folder_of(tmp_path, points[3])):
        assert sweep_processes._groups(points, tmp_path) == [[0, 2], [6, 7]]


def test_a_group_that_alone_was_told_to_stop_is_started_again(capfd, tmp_path):
    """By processes that only pretend: the first ends with 0 and one result, the second does the rest."""
    points = alike_points(tmp_path, 3)
    folders = [sweep_points.folder_of(tmp_path, point) for point in points]
    for made, point in zip(folders, points, strict=True):
        folder.make_folder(made, point.config)
    asked = []

    def together(group):
        asked.append(list(group))
        wanted = [str(folders[i] / "result.json") for i in (group if len(asked) > 1 else group[:1])]
        return [sys.executable, "-c", f"for each in {wanted!r}: open(each, 'w')"]

    alone = [[sys.executable, "-c", "exit(9)"]] * 3
    assert sweep_processes.run_points(points, alone, tmp_path, 1, together=together) == {}
    assert asked == [[0, 1, 2], [1, 2]]
    assert "is trained alone" not in capfd.readouterr().err


_TRAINS = """
import sys, time
from nullmark_jax import folder, program
from nullmark_jax.errors import FolderBusy
where, seconds = __import__("pathlib").Path(sys.argv[1]), float(sys.argv[2])
try:
    with folder._locked(where):
        print("trains", flush=True)
        time.sleep(seconds)
        (where / "result.json").write_text(sys.argv[2])
except FolderBusy:
    sys.exit(program.BUSY)
"""


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_point_that_a_killed_sweep_s_process_still_trains_is_waited_for(capfd, tmp_path, jobs):
    """By processes that hold the folders' locks: one lives on, one dies without a result."""
    config = tiny_task.config(tmp_path)
    points = [
        sweep_points.Point(f"seed={seed}", {"seed": seed}, config.copy_and_resolve_references())
        for seed in range(3)
    ]
    folders = [sweep_points.folder_of(tmp_path, point) for point in points]
    commands = [[sys.executable, "-c", _TRAINS, str(each), "0.01"] for each in folders]
    for made in folders:
        folder.make_folder(made, config)
    orphans = [
        subprocess.Popen([*command[:-1], "6"], stdout=subprocess.PIPE) for command in commands[:2]
    ]
    with orphans[0], orphans[1]:
        assert all(orphan.stdout.readline() for orphan in orphans)
        assert [folder.is_busy(each) for each in folders] == [True, True, False]
        killed = threading.Timer(1.0, orphans[1].kill)
        killed.start()
        dead = sweep_processes.run_points(points, commands, tmp_path, jobs)
        killed.join()
    assert dead == {}
    seconds = [(each / "result.json").read_text() for each in folders]
    assert seconds == ["6", "0.01", "0.01"]  # The first was not trained a second time.
    said = capfd.readouterr().err
    assert said.count("another process trains it, and is waited for") == 1
    assert all(f"seed={seed}: done" in said for seed in range(3))
    assert not any(folder.is_busy(each) for each in folders)


@pytest.mark.parametrize("points", ["0,5", "0,0", "one", "-1"])
def test_points_that_are_none_are_one_line(capsys, sweep_file, tmp_path, points):
    status = sweep_population.main(
        ["x", f"--config={sweep_file}", f"--workdir={tmp_path}", f"--points={points}"]
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2
    assert line == f"--points: {points} are no points; give some of 0 to 4, each once"
