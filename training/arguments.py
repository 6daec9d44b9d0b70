"""Argument types of command lines, checked while they are parsed.

What cannot be written is told so before the work begins: an hour's figures must not end at a missing folder.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Number = TypeVar("Number", int, float)


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


def spoken(text: str) -> str:
    """An argument's type: a text that can be spoken."""
    if not any(letter.isalnum() for letter in text):
        raise argparse.ArgumentTypeError("there is nothing to say")
    return text


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
