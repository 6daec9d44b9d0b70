"""Arguments of the commands here, checked while they are parsed."""

import argparse
from collections.abc import Callable
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
