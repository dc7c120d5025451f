"""A run's folder: whose run it holds, and the files by which an interrupted run goes on."""

import contextlib
import fcntl
import json
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_collections

from nullmark_jax import checks, files, signing
from nullmark_jax.errors import FolderBusy, InputError

_LARGEST = 2**30
_LOCK = ".lock"


def check_folder(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises InputError where the folder holds another config's run, or something else.

    Nothing is written; a folder that is not there yet will do.
    """
    path = folder / "config.json"
    with files.writing(folder):
        entries = list(folder.iterdir()) if folder.is_dir() else []
    found = {entry.name for entry in entries if not files.is_part(entry)} - {_LOCK}
    if path.name in found:
        if files.read_bounded(path, _LARGEST) != to_json(config.to_dict()):
            raise InputError(
                f"--workdir: {folder} holds the run of another config (config.json differs); "
                "give another folder or the same config"
            )
    elif found:
        raise InputError(f"--workdir: {folder} is not empty and holds no run; give another folder")


def make_folder(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Makes the folder with config.json, or finds this config's there; raises as `check_folder` does."""
    check_folder(folder, config)
    path = folder / "config.json"
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        files.write_whole(path, to_json(config.to_dict()))


@contextlib.contextmanager
def claim_folder(folder: pathlib.Path, config: ml_collections.ConfigDict) -> Iterator[None]:
    """Makes the run folder and writes config.json, or finds this config's run there; its own in the block.

    What a killed process was writing is removed. The system frees the folder when a process is killed.
    Where it cannot lock a file (not every network's file system can) a warning says that two runs in one
    folder would not be noticed; where its locks are each machine's own, nothing can tell.

    Raises:
      FolderBusy: another process is at work in it.
      InputError: the folder cannot be written, holds another config's run, or something else.
    """
    check_folder(folder, config)
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        # Again: another run may have made it meanwhile.
        make_folder(folder, config)
        for part in filter(files.is_part, folder.rglob("*")):
            part.unlink(missing_ok=True)
        yield


def is_busy(folder: pathlib.Path) -> bool:
    """Returns whether another process is at work in the folder; one that is not there is free."""
    if not (folder / _LOCK).exists():
        return False
    try:
        with _locked(folder):
            return False
    except FolderBusy:
        return True


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    with files.writing(folder):
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderBusy(
                f"--workdir: another process is at work in {folder}; wait for it, or give another "
                "folder"
            ) from error
        except OSError as error:
            logging.getLogger(__name__).warning(
                "%s: cannot be locked (%s); start no second run in it", folder, error.strerror
            )
        yield
    finally:
        os.close(descriptor)  # And frees the lock.


def write_verifier(folder: pathlib.Path, *, owner: str, timestamp: str) -> None:
    """Writes verifier.json: whom and when a resumed run signs again. One that is there stays."""
    path = folder / "verifier.json"
    if not path.exists():
        files.write_whole(path, to_json({"owner": owner, "timestamp": timestamp}))


def read_verifier(folder: pathlib.Path) -> tuple[str, str] | None:
    """Returns the owner and the timestamp of the run's first start; None where there was none.

    Raises:
      InputError: verifier.json cannot be read, or was damaged.
    """
    path = folder / "verifier.json"
    if not path.exists():
        return None
    try:
        verifier = checks.json_object(files.read_bounded(path, _LARGEST))
        owner = checks.text("owner", verifier.get("owner"))
        kept = checks.text("timestamp", verifier.get("timestamp"))
        signing.verifier_string(owner=owner, timestamp=kept)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return owner, kept


def keep_initial(folder: pathlib.Path, digest: str) -> None:
    """Writes initial.json: the SHA-256 of the model that the run began with. One that is there stays."""
    path = folder / "initial.json"
    if digest and not path.exists():
        files.write_whole(path, to_json({"sha256": digest}))


def check_initial(folder: pathlib.Path, digest: str) -> None:
    """Raises InputError where the run in the folder began with another model than that of this digest."""
    path = folder / "initial.json"
    if not path.exists():
        return
    kept = checks.json_object(files.read_bounded(path, _LARGEST)).get("sha256")
    if kept != digest:
        raise InputError(
            f"config.initial_model: is another model than the one that the run in {folder} began with "
            f"({path.name} has SHA-256 {checks.shown(kept)}); give that one, or another --workdir"
        )


def write_history(folder: pathlib.Path, records: list[dict[str, Any]]) -> None:
    """Writes metrics.jsonl: a line an epoch, oldest first."""
    lines = (json.dumps(record, allow_nan=False) + "\n" for record in records)
    files.write_whole(folder / "metrics.jsonl", "".join(lines).encode())


def read_history(folder: pathlib.Path, epochs: int) -> list[dict[str, Any]]:
    """Returns the records of the first `epochs` epochs.

    Lines after those are of an epoch whose checkpoint was not written: it is trained again.

    Raises:
      InputError: metrics.jsonl cannot be read, was damaged, or lacks one of these epochs.
    """
    if not epochs:
        return []
    path = folder / "metrics.jsonl"
    remedy = "restore it, or give another folder"
    lines = files.read_bounded(path, _LARGEST).splitlines()[:epochs]
    try:
        records = [checks.json_object(line) for line in lines]
    except InputError as error:
        raise InputError(f"{path}: was damaged; {remedy}") from error
    if [record.get("epoch") for record in records] != list(range(1, epochs + 1)):
        raise InputError(
            f"{path}: lacks some of the epochs 1 to {epochs} that are in the checkpoint; {remedy}"
        )
    return records


def write_seconds(folder: pathlib.Path, seconds: float) -> None:
    """Writes seconds.json: how long the training has taken so far, over all its starts."""
    files.write_whole(folder / "seconds.json", to_json({"seconds": round(seconds, 1)}))


def read_seconds(folder: pathlib.Path, epochs: int) -> float:
    """Returns the seconds that write_seconds wrote, 0 before the first epoch is done.

    Raises:
      InputError: seconds.json cannot be read, or was damaged.
    """
    if not epochs:
        return 0.0
    path = folder / "seconds.json"
    try:
        return checks.real(
            "seconds", checks.json_object(files.read_bounded(path, _LARGEST)).get("seconds")
        )
    except InputError as error:
        raise InputError(f"{path}: {error}; restore it, or give another folder") from error


def kept_steps(folder: pathlib.Path) -> set[int]:
    """Returns after how many steps the checkpoints in the run's folder are."""
    names = (entry.name for entry in (folder / "checkpoints").glob("*"))
    return {int(name) for name in names if name.isdigit()}


def to_json(value: Any) -> bytes:
    """Returns the text of a JSON file of the run."""
    return (json.dumps(value, indent=2, allow_nan=False, default=list) + "\n").encode()
