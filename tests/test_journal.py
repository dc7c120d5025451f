"""An experiment's measurements: each made once, in order, whatever interrupts."""

import json

import pytest

from nullmark_jax.errors import InputError
from nullmark_jax.experiments.journal import Journal


def measurements(made, count=3, fail=None):
    """Measurements that note their own making; one of them may fail."""

    def measure(name, value):
        def run():
            if name == fail:
                raise KeyboardInterrupt
            made.append(name)
            return {"value": value, "each": (value, 2 * value)}

        return run

    return {f"m/{i}": measure(f"m/{i}", i / 4) for i in range(count)}


def lines(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def test_each_is_made_in_order_and_written_down(tmp_path, capsys):
    made = []
    found = list(Journal(tmp_path).run(measurements(made)))
    assert made == ["m/0", "m/1", "m/2"]
    # As JSON has them, whether measured now or read: tuples are lists.
    assert found == [(f"m/{i}", {"value": i / 4, "each": [i / 4, i / 2]}) for i in range(3)]
    written = lines(tmp_path)
    assert [(line["name"], line["record"]) for line in written] == found
    assert all(line["seconds"] >= 0 for line in written)
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split(":")[0] for line in said.err.splitlines()] == made


def test_a_record_is_on_the_disk_before_the_next_is_made(tmp_path):
    made = []
    for number, (name, _) in enumerate(Journal(tmp_path).run(measurements(made)), start=1):
        assert [line["name"] for line in lines(tmp_path)] == made
        assert len(made) == number and made[-1] == name


def test_an_interrupted_one_goes_on_with_the_next(tmp_path):
    made = []
    with pytest.raises(KeyboardInterrupt):
        list(Journal(tmp_path).run(measurements(made, fail="m/1")))
    assert made == ["m/0"] and len(lines(tmp_path)) == 1
    found = list(Journal(tmp_path).run(measurements(made)))
    assert made == ["m/0", "m/1", "m/2"]
    assert [name for name, _ in found] == made
    before = (tmp_path / "records.jsonl").read_bytes()
    assert list(Journal(tmp_path).run(measurements(made))) == found
    assert made == ["m/0", "m/1", "m/2"]
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_the_order_is_that_asked_for_not_that_of_the_file(tmp_path):
    made = []
    list(Journal(tmp_path).run(measurements(made)))
    turned = dict(reversed(measurements(made, count=4).items()))
    names = [name for name, _ in Journal(tmp_path).run(turned)]
    assert names == ["m/3", "m/2", "m/1", "m/0"]
    assert made == ["m/0", "m/1", "m/2", "m/3"]


def test_several_runs_share_a_journal(tmp_path):
    made = []
    journal = Journal(tmp_path)
    list(journal.run(measurements(made, count=1)))
    list(journal.run(measurements(made, count=2)))
    assert made == ["m/0", "m/1"]
    assert [line["name"] for line in lines(tmp_path)] == made


def test_the_seconds_are_of_all_starts(tmp_path):
    rest = {"seconds": 10.5, "commit": "", "processor": ""}
    entries = [{"name": f"m/{i}", **rest, "record": {"value": i}} for i in range(2)]
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (tmp_path / "records.jsonl").write_text(text)
    journal = Journal(tmp_path)
    assert list(journal.run({})) == []
    assert journal.seconds == 21.0
    list(journal.run(measurements([])))
    assert 21.0 <= journal.seconds < 22.0
    again = Journal(tmp_path)
    list(again.run({}))
    assert again.seconds == journal.seconds


def test_the_commits_and_processors_are_of_all_starts(tmp_path):
    list(Journal(tmp_path, commit="old", processor="a").run(measurements([], count=2)))
    journal = Journal(tmp_path, commit="new", processor="b")
    list(journal.run(measurements([], count=4)))
    assert journal.commits == ["old", "new"] and journal.processors == ["a", "b"]
    assert [line["commit"] for line in lines(tmp_path)] == ["old", "old", "new", "new"]


def test_a_new_folder_has_none(tmp_path):
    assert Journal(tmp_path).seconds == 0
    assert Journal(tmp_path).commits == []
    assert list(Journal(tmp_path).run({})) == []
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_begun_once_and_only_to_measure(tmp_path):
    begun = []
    journal = Journal(tmp_path, begin=lambda: begun.append(1))
    assert begun == []
    list(journal.run(measurements([])))
    list(journal.run(measurements([], count=4)))
    assert begun == [1]


GOOD = b'{"name": "m/0", "seconds": 1.0, "commit": "c", "processor": "p", "record": {"value": 0}}'


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        GOOD[:-9],
        b"[]",
        b"",
        b"\xff",
        b'{"commit": "c", "processor": "p", "name": "m/1", "seconds": 1.0}',
        b'{"processor": "p", "name": "m/1", "seconds": 1.0, "record": {}}',
        b'{"commit": "c", "name": "m/1", "seconds": 1.0, "record": {}}',
        b'{"commit": 1, "processor": "p", "name": "m/1", "seconds": 1.0, "record": {}}',
        b'{"commit": "c", "processor": "p", "name": "m/1", "record": {}}',
        b'{"commit": "c", "processor": "p", "seconds": 1.0, "record": {}}',
        b'{"commit": "c", "processor": "p", "name": 1, "seconds": 1.0, "record": {}}',
        b'{"commit": "c", "processor": "p", "name": "m/1", "seconds": "1", "record": {}}',
        b'{"commit": "c", "processor": "p", "name": "m/1", "seconds": 1.0, "record": [1]}',
        b'{"commit": "c", "processor": "p", "name": "m/1", "seconds": 1.0, "record": {"value": NaN}}',
        b'{"commit": "c", "processor": "p", "name": "m/1", "name": "m/2", "seconds": 1.0, "record": {}}',
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, line):
    path = tmp_path / "records.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n")
    with pytest.raises(InputError) as error:
        list(Journal(tmp_path).run({}))
    assert (
        str(error.value)
        == f"{path}: was damaged or is of another version; delete it to measure all again"
    )
    assert path.read_bytes() == GOOD + b"\n" + line + b"\n"


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "records.jsonl").mkdir()
    with pytest.raises(InputError, match=r"records\.jsonl: cannot be read \(Is a dir") as error:
        list(Journal(tmp_path).run({}))
    assert "\n" not in str(error.value)
