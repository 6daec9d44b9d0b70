"""Folders that two runs must not share. Knows not what is in them."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import RequestError


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
