"""Error hierarchy: one base, four families, stable codes that travel over HTTP, the data channel and the worker's
socket.

A message is written for the person who can act on it: it names what is wrong and what to do. What a caller is told
never holds a path, a repr or a traceback. Being late is not an error but a counted degradation.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class AvatarError(Exception):
    """Base of every error the product reports.

    code: stable machine-readable name, e.g. ``no_face``. status: the HTTP status a route answers with.
    retryable: the same request may succeed later. param: the request field at fault, if one is.
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
    """The caller sent something we cannot use: a bad portrait, a bad offer, an unknown id, no authorisation."""

    family = "request_error"
    default_status = 422


class CapacityError(AvatarError):
    """Every slot is taken or the machine is too slow for one more call: come back later (429 or 503)."""

    family = "capacity_error"
    default_status = 503

    def __init__(self, code: str, message: str, *, status: int | None = None, param: str | None = None) -> None:
        super().__init__(code, message, status=status, retryable=True, param=param)


class EngineError(AvatarError):
    """The worker was lost, timed out, ran out of memory, or a checkpoint does not match."""

    family = "engine_error"


class MediaError(AvatarError):
    """Sound or picture that cannot be read or written."""

    family = "media_error"
    default_status = 422


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """The edge of a command: an error meant for a person becomes one line on standard error and exit code 2."""
    try:
        yield
    except AvatarError as error:
        print(f"{program}: {error.message}", file=sys.stderr)
        sys.exit(2)
