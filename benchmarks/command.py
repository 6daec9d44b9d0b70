"""The command line of a benchmark: its parser, what its arguments may be, and errors in one line.

An argument that cannot be used is told before the work begins: an hour's figures must not end at a missing folder.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from engine.errors import AvatarError

Number = TypeVar("Number", int, float)


def make_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The command line of `benchmarks.name`, described by the module's text; --json is in it."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, prog=f"benchmarks.{name}"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    return parser


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """What a user can mend ends the program with a message."""
    try:
        yield
    except AvatarError as error:
        print(f"{program}: {error.message}", file=sys.stderr)
        sys.exit(2)


def at_least(least: Number) -> Callable[[str], Number]:
    """An argument's type: a number no less than `least`, and whole if that is an int."""
    kind = "a whole number" if isinstance(least, int) else "a number"

    def read(text: str) -> Number:
        try:
            value = type(least)(text)
        except ValueError:
            value = None
        if value is None or not least <= value < float("inf"):  # so nan is none
            raise argparse.ArgumentTypeError(f"give {kind} of at least {least:g}, not {text!r}")
        return value

    return read


def new_file(text: str) -> Path:
    """An argument's type: a file that can be written, in a folder that is there."""
    path = Path(text)
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{path} is a folder: name a file")
    _try_writing(path.parent)
    return path


def new_folder(text: str) -> Path:
    """An argument's type: a folder that can be written, or made."""
    path = Path(text)
    _try_writing(next(each for each in (path, *path.parents) if os.path.lexists(each)))
    return path


def _try_writing(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write into {folder}: {error.strerror}") from error
