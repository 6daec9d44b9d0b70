"""Error hierarchy: one base, four families, stable codes that travel over HTTP, the data channel and the worker's
socket.

A message is written for the person who can act on it: it says what is wrong and what to do. Messages to callers never
contain a path, a repr or a traceback. Lateness is not an error; it is counted as a degradation.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class AvatarError(Exception):
    """Base of every error the product reports.

    code: stable machine-readable name, e.g. ``no_face``. message: text for a person. status: HTTP status of the
    response. retryable: True if the same request may succeed later. param: the invalid field of the request, if there
    is one.
    """

    family = "internal_error"
    default_status = 500

    def __init__(
        self, code: str, message: str, *, status: int | None = None, retryable: bool = False, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status if status is not None else self.default_status
        self.retryable = retryable
        self.param = param

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code!r}, {self.message!r})"


class RequestError(AvatarError):
    """The request is invalid: a bad portrait, a bad offer, an unknown id, missing authorisation."""

    family = "request_error"
    default_status = 422


class CapacityError(AvatarError):
    """Every slot is taken, or the machine is too slow for another call; a later retry may succeed (429 or 503)."""

    family = "capacity_error"
    default_status = 503

    def __init__(self, code: str, message: str, *, status: int | None = None, param: str | None = None) -> None:
        super().__init__(code, message, status=status, retryable=True, param=param)


class EngineError(AvatarError):
    """The worker failed, timed out or ran out of memory, or a checkpoint does not fit."""

    family = "engine_error"


class MediaError(AvatarError):
    """Sound or picture that cannot be read or written."""

    family = "media_error"
    default_status = 422


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Print an AvatarError as one line on standard error and exit with code 2. For the entry point of a command."""
    try:
        yield
    except AvatarError as error:
        print(f"{program}: {error.message}", file=sys.stderr)
        sys.exit(2)
