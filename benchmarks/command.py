"""The command line of a benchmark: its parser, and where it may write.

What cannot be written is told before the work begins: an hour's figures must not end at a missing folder.
"""

import argparse
import os
import tempfile
from pathlib import Path


def make_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The command line of `benchmarks.name`, described by the module's text; --json is in it."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, prog=f"benchmarks.{name}"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    return parser


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
