"""Limits on idle and slow HTTP connections: closed after ten seconds, evicted first.

A subclass of uvicorn's HTTP/1.1 protocol with a deadline for the request head and a bound on the number of connections,
TLS handshakes included. When all places are taken, the connection that has been silent longest, or has left its answer
unread for ten seconds, is closed for a new one. Heads that cannot be read are refused in the shape of every error.
"""

import asyncio
import ssl
import sys
from asyncio.sslproto import SSLProtocol
from typing import Any, cast

import h11
from starlette.responses import Response
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.h11_impl import H11Protocol

from ground.errors import AvatarError, CapacityError, RequestError
from server.http.errors import error_response

HEAD_S = 10.0
CONNECTIONS = 256
SPARE = 32  # beyond CONNECTIONS, to be told so


class PromptProtocol(H11Protocol):
    """One connection. silent_since: loop time since when no request of it is being answered. unread_since: loop time
    since when the write buffer has been full, because the client does not read; None while it is not.
    """

    silent_since: float = 0.0
    unread_since: float | None = None
    refused = False
    dropped = False
    _deadline: asyncio.TimerHandle | None = None

    @property
    def silent(self) -> bool:
        """No request is being answered: its head is still to come, or the answer has been handed over."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def idle_since(self) -> float | None:
        """Loop time since when it may be evicted, being silent or unread; None while it may not."""
        if self.silent:
            return self.silent_since
        if self.unread_since is not None and self.loop.time() - self.unread_since >= HEAD_S:
            return self.unread_since
        return None

    def accepted(self, transport: asyncio.Transport) -> None:
        """Count the connection from now on. Called by ``connection_made``, or earlier by the TLS handshake."""
        self.transport = transport
        self.connections.add(self)
        self.silent_since = self.loop.time()
        self._watch()
        if len(self.connections) > CONNECTIONS:
            self._make_room()

    def left(self) -> None:
        """The opposite of ``accepted``. Twice is fine."""
        self.connections.discard(self)
        self._stop_watch()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self not in self.connections:
            self.accepted(transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        self.unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.unread_since = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        self.silent_since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.left()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request head that cannot be read, in the shape of every error, and close. 431 for one too large."""
        error = sys.exception()
        too_large = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = _closing(
                RequestError("head_too_large", "the request's head is larger than 64 KiB", status=431)
                if too_large
                else RequestError("bad_request", "this is not a valid HTTP request", status=400)
            )
            for event in (
                h11.Response(status_code=answer.status_code, headers=answer.raw_headers),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        """The deadline runs from the first byte of a head to its last, and is not put off by bytes between."""
        if not self.silent:
            self._stop_watch()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEAD_S, self._drop)

    def _stop_watch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _drop(self) -> None:
        """Abort at once. `close` would wait until everything written has been read."""
        self.dropped = True
        self.transport.abort()

    def _make_room(self) -> None:
        others = [one for one in self.connections if isinstance(one, PromptProtocol) and one is not self]
        idle = {
            one: since for one in others if not (one.refused or one.dropped) and (since := one.idle_since) is not None
        }
        if idle:
            min(idle, key=idle.__getitem__)._drop()
        elif len(self.connections) > CONNECTIONS + SPARE:
            self._drop()
        else:
            self.refused = True
            self.app = _busy()


class PromptTLS(SSLProtocol):
    """TLS protocol whose connection is counted, and has a deadline, from before the handshake."""

    def __init__(self, context: ssl.SSLContext, **arguments: Any) -> None:
        """arguments: those of ``PromptProtocol``."""
        self._inner = PromptProtocol(**arguments)
        super().__init__(self._inner.loop, self._inner, context, None, server_side=True)  # type: ignore[arg-type]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._inner.accepted(transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)  # asyncio tells the connection only after the handshake
        self._inner.left()


def _busy() -> ASGI3Application:
    busy = CapacityError("too_many_connections", "too many connections are open: try again later")
    return cast(ASGI3Application, _closing(busy))


def _closing(error: AvatarError) -> Response:
    """A response that also closes its connection."""
    answer = error_response(error)
    answer.headers["Connection"] = "close"
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer
