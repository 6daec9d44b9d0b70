"""Arguments of the commands here, checked while they are parsed."""

import argparse
from collections.abc import Callable


def whole(least: int) -> Callable[[str], int]:
    """A type for `argparse`: a whole number, `least` or more."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return number


def spoken(text: str) -> str:
    """A type for `argparse`: a text that can be spoken."""
    if not any(letter.isalnum() for letter in text):
        raise argparse.ArgumentTypeError("there is nothing to say")
    return text
