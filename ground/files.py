"""Atomic file replacement, exclusive folder locks, and private folders."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ground.errors import RequestError


def reachable(path: Path) -> Path:
    """The path, whether something is there or not. Raises RequestError ``cannot_read`` where that cannot be told:
    `Path.is_file` ends in an error of the system there, or says no, as the version of Python is."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise RequestError("cannot_read", f"cannot read {path}: {error.strerror}") from error
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises RequestError ``cannot_write`` for what the system refuses inside, its disk being full for one."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rpartition(": ")[2]
        raise RequestError("cannot_write", f"cannot write {path}: {reason or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Make the folder if need be and yield an empty file in it to write to, which takes the place of `path` once the
    disk has it. After an error `path` is as it was.

    Raises RequestError ``cannot_write``.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        partial.touch()
        try:
            yield partial
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def held(folder: Path, work: str) -> Iterator[None]:
    """Make a folder if need be and hold it alone; who is killed lets go. work: what others are told is going on.

    Raises RequestError ``in_use``, ``cannot_write``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise RequestError("cannot_write", f"cannot write into {folder}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RequestError("in_use", f"another run is {work} {folder}: let it end") from error
        yield
