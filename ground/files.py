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
    """Return the path if the system can tell whether it exists, and raise RequestError ``cannot_read`` otherwise.

    Without this check `Path.is_file` raises an OSError or returns False there, depending on the version of Python.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise RequestError("cannot_read", f"cannot read {path}: {error.strerror}") from error
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError or SafetensorError of the body, such as a full disk, into RequestError ``cannot_write``."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rpartition(": ")[2]
        raise RequestError("cannot_write", f"cannot write {path}: {reason or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file atomically. Yields an empty temporary file in the same folder, which is created if necessary;
    after the body the temporary file is synced to disk and renamed to `path`. An error leaves `path` unchanged.

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
    """Lock a folder exclusively, and create it if necessary. The lock ends with the process, even if it is killed.

    work: description of the work, for the message that other processes get. Raises RequestError ``in_use``,
    ``cannot_write``.
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
            raise RequestError("in_use", f"another run is {work} {folder}: wait until it ends") from error
        yield
