"""What a connection may cost before it asks for something: ten seconds, and never the place of one that does.

Knows nothing of paths: uvicorn's HTTP/1.1 protocol, with a deadline and a bound on the number. A socket that sends no
whole request head in time is closed, and when all places are taken the one that has been silent longest makes room, so
that half-open sockets cannot keep anybody out.
"""

import asyncio
from typing import cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.h11_impl import H11Protocol

from engine.errors import CapacityError
from server.errors import error_response

HEAD_S = 10.0
CONNECTIONS = 256
SPARE = 32  # beyond CONNECTIONS, to be told so


class PromptProtocol(H11Protocol):
    """One connection. silent_since: loop time since when no request of it is being answered."""

    silent_since: float = 0.0
    refused = False
    _deadline: asyncio.TimerHandle | None = None

    @property
    def silent(self) -> bool:
        """No request is being answered: its head is still to come, or the answer has gone."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.silent_since = self.loop.time()
        self._watch()
        if len(self.connections) > CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        self.silent_since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watch()

    def _watch(self) -> None:
        """The deadline runs from the first byte of a head to its last, and is not put off by bytes between."""
        if not self.silent:
            self._stop_watch()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEAD_S, self._give_up)

    def _stop_watch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.silent:
            self.transport.close()

    def _make_room(self) -> None:
        others = [one for one in self.connections if isinstance(one, PromptProtocol) and one is not self]
        idle = [one for one in others if one.silent and not one.refused and not one.transport.is_closing()]
        if idle:
            min(idle, key=lambda one: one.silent_since).transport.abort()
        elif len(self.connections) > CONNECTIONS + SPARE:
            self.transport.abort()
        else:
            self.refused = True
            self.app = _busy()


def _busy() -> ASGI3Application:
    answer = error_response(CapacityError("too_many_connections", "too many connections are open: try again later"))
    answer.headers["Connection"] = "close"
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return cast(ASGI3Application, answer)
