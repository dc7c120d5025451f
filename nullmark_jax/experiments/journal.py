"""An experiment's measurements, each made once: an interrupted experiment goes on with the next.

records.jsonl holds a line for each measurement that is done. A measurement depends on the config,
the victims and its own name alone, so that a resumed experiment's results equal an unbroken one's.
"""

import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from nullmark_jax import checks, files, process
from nullmark_jax.errors import InputError
from nullmark_jax.progress import Progress

_LARGEST = 2**30
# Seconds: memory is given back after longer measurements.
_WORTH_GIVING_BACK = 1.0


class Journal:
    """The measurements of one experiment's folder.

    Attributes:
      folder: where records.jsonl is, or will be.

    Args:
      folder: likewise.
      begin: called before the first measurement, when all that was given has been checked: makes the
        folder.
      commit: of the code that measures, kept with each measurement.
      processor: on which it does, likewise.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        begin: Callable[[], None] = lambda: None,
        commit: str = "",
        processor: str = "",
    ) -> None:
        self.folder = folder
        self._commit, self._processor = commit, processor
        self._path = folder / "records.jsonl"
        self._lines: dict[str, dict[str, Any]] = {}
        self._begin: Callable[[], None] | None = begin

    def _open(self) -> None:
        if self._begin is None:
            return
        self._begin()
        self._begin = None
        if self._path.exists():
            for line in files.read_bounded(self._path, _LARGEST).splitlines():
                self._add(line)

    def _add(self, line: bytes) -> None:
        try:
            entry = checks.json_object(line)
            name, seconds = checks.text("name", entry["name"]), checks.real("s", entry["seconds"])
            commit = checks.text("commit", entry["commit"])
            processor = checks.text("processor", entry["processor"])
            if not isinstance(entry["record"], dict):
                raise InputError("holds no record")
        except (InputError, KeyError) as error:
            raise InputError(
                f"{self._path}: was damaged or is of another version; delete it to measure all again"
            ) from error
        self._lines[name] = {
            "name": name,
            "seconds": seconds,
            "commit": commit,
            "processor": processor,
            "record": entry["record"],
        }

    @property
    def seconds(self) -> float:
        """What all measurements took, over all starts."""
        return sum(line["seconds"] for line in self._lines.values())

    @property
    def commits(self) -> list[str]:
        """Those of all measurements, over all starts, in their order."""
        return list(dict.fromkeys(line["commit"] for line in self._lines.values()))

    @property
    def processors(self) -> list[str]:
        """The processors of all measurements, likewise."""
        return list(dict.fromkeys(line["processor"] for line in self._lines.values()))

    def run(
        self, measurements: dict[str, Callable[[], dict[str, Any]]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields each measurement's name and record, in order, measured now where there is none yet.

        Args:
          measurements: by name, functions that return a record: what JSON can hold, floats finite.

        Raises:
          InputError: the folder cannot be used; records.jsonl cannot be read, or was damaged.
        """
        self._open()
        done = sum(name in self._lines for name in measurements)
        with Progress(total=len(measurements), done=done, unit="measurement") as progress:
            for name, measure in measurements.items():
                if name not in self._lines:
                    started = time.monotonic()
                    record = measure()
                    seconds = round(time.monotonic() - started, 2)
                    line = {
                        "name": name,
                        "seconds": seconds,
                        "commit": self._commit,
                        "processor": self._processor,
                        "record": record,
                    }
                    self._add(json.dumps(line, allow_nan=False).encode())
                    self._write()
                    progress.advance(1)
                    progress.say(f"{name}: {seconds:.1f} s")
                    if seconds >= _WORTH_GIVING_BACK:
                        process.give_back_freed_memory()
                yield name, self._lines[name]["record"]

    def _write(self) -> None:
        text = "".join(json.dumps(line) + "\n" for line in self._lines.values())
        files.write_whole(self._path, text.encode())
