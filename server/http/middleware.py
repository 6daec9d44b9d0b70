"""ASGI middleware: host allow-list, origin check, limits on a body's size and time, security headers, and the answer to
unexpected errors.

Pure ASGI, so that a body is counted while it arrives and refused before it is kept.
"""

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ground.errors import AvatarError, RequestError
from server.access.hosts import allowed_host_names, host_is_allowed, origin_is_allowed
from server.access.keys import access_cookie_header
from server.http.errors import error_response, unforeseen_response
from server.settings import Settings

_READING = frozenset({"GET", "HEAD"})
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob: mediastream:; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_API_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
BODY_S = 30.0


class Gate:
    """Host allow-list, Origin check, and the headers that every answer carries. The outermost layer. Pages of
    ``origins`` may read the answers and send a key: CORS is for them alone."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._settings, self._names = settings, allowed_host_names(settings)
        self._scheme = "https" if settings.tls != "off" else "http"
        self._origins = tuple(settings.allowed_origins)
        # Where a proxy stands in front, neither scheme nor host are those that the page was opened by.
        public = settings.public_origin
        self._own_origins = self._origins if public is None else (*self._origins, public)
        self._app: ASGIApp = _Foreseen(app)
        if self._origins:
            self._app = CORSMiddleware(
                self._app, self._origins, _METHODS, ("Authorization",), expose_headers=("Retry-After",)
            )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        root = self._settings.root_path
        if root and scope["path"] == root:  # the page's own addresses are relative to the folder
            await RedirectResponse(f"{root}/", 308)(scope, receive, send)
            return
        if root and scope["path"].startswith(f"{root}/"):  # a proxy may strip it or not
            scope = {**scope, "path": scope["path"].removeprefix(root)}
        refusal = self._refusal(scope)
        guarded = self._guarded(scope, send)
        if scope["method"] == "HEAD" and _is_api(scope["path"]):
            scope, guarded = {**scope, "method": "GET"}, _bodiless(guarded)
        if refusal is not None:
            await error_response(refusal)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> AvatarError | None:
        headers = Headers(scope=scope)
        if len(headers.getlist("host")) != 1 or not host_is_allowed(headers["host"], self._names):
            return RequestError(
                "unknown_host", "this server is not known by that name: see KNOTCAST_ALLOWED_HOSTS", status=400
            )
        if scope["method"] not in _READING and not origin_is_allowed(headers, self._scheme, self._own_origins):
            return RequestError("foreign_origin", "this page may not call this server", status=403)
        return None

    def _guarded(self, scope: Scope, send: Send) -> Send:
        state = scope.setdefault("state", {})  # request.state
        path = scope["path"]
        api = _is_api(path)
        # An <img> sends no Origin header; the key in the link is the right to see a preview.
        shared = Headers(scope=scope).get("origin") in self._origins or (self._origins and path.endswith("/preview"))
        resource_policy = "cross-origin" if api and shared else "same-origin"

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = resource_policy
                headers["Content-Security-Policy"] = _API_POLICY if api else _PAGE_POLICY
                if api:
                    headers.setdefault("Cache-Control", "no-store")
                else:
                    headers["Permissions-Policy"] = "microphone=(self), camera=(self), geolocation=()"
                    headers["Cache-Control"] = "no-cache"  # revalidated by ETag: a new version is seen at once
                if self._settings.tls == "self-signed":
                    headers["Strict-Transport-Security"] = "max-age=0"  # a self-signed name must never be pinned
                if (cookie := state.get("access_cookie")) is not None:
                    headers.append("Set-Cookie", access_cookie_header(cookie, self._settings))
            await send(message)

        return guarded


def _is_api(path: str) -> bool:
    return path.startswith("/v1/") or path in ("/health", "/ready", "/metrics", "/openapi.json")


def _bodiless(send: Send) -> Send:
    """The answer to HEAD: that to GET without its body (RFC 9110, 9.3.2)."""

    async def sent(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sent


class _Foreseen:
    """Catches unexpected exceptions of every route: they are logged and answered like any other error."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = False

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            return  # the client has gone
        except Exception as error:
            if answered:
                raise
            await unforeseen_response(scope["method"], scope["path"], error)(scope, receive, send)


class BodyLimit:
    """A body larger than its route may take is refused with 413, one that takes too long with 408.

    The route's read raises an exception. Whatever the route answers to that (a framework may say that it cannot parse
    the body), the refusal is sent in its place.
    """

    def __init__(
        self,
        app: ASGIApp,
        limit: Callable[[str], int],
        advice: Callable[[str], str] = lambda path: "send less",
        seconds: float = BODY_S,
    ) -> None:
        """limit: bytes for a path. advice: what the refusal says about making it smaller."""
        self._app, self._limit, self._advice, self._seconds = app, limit, advice, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, advice = self._limit(scope["path"]), self._advice(scope["path"])
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or len(declared) > 15 or int(declared) > limit:
            await error_response(_too_large(limit, advice))(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        seen, complete, answered = 0, False, False
        refusal: RequestError | None = None

        async def counted() -> Message:
            nonlocal seen, complete, refusal
            if refusal is not None:
                raise refusal
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                refusal = RequestError("body_too_slow", "the body took too long to arrive", status=408)
                raise refusal from None
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen > limit:
                refusal = _too_large(limit, advice)
                raise refusal
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            if refusal is None or answered:
                answered = True
                await send(message)

        try:
            await self._app(scope, counted, watched)
        except RequestError as error:
            if error is not refusal or answered:
                raise
        if refusal is not None and not answered:
            await error_response(refusal)(scope, receive, send)


def _too_large(limit: int, advice: str) -> RequestError:
    message = f"the body is larger than {limit / 2**20:.3g} MiB: {advice} (see /v1/limits)"
    return RequestError("body_too_large", message, status=413)
