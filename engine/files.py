"""Files that a kill must not tear. Knows not what is in them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import RequestError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Make the folder if need be and yield an empty file in it to write to, which then takes the place of `path`. After
    an error `path` is as it was.

    Raises RequestError ``cannot_write``.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        partial.touch()
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise RequestError("cannot_write", f"cannot write {path}: {error.strerror or error}") from error
