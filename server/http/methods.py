"""Refusals of methods and paths that the API does not have: 405 with ``Allow`` (RFC 9110, 15.5.6), and 404."""

from collections.abc import Iterable

from fastapi import APIRouter
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from ground.errors import RequestError
from server.http.errors import error_response


class _NotAllowed:
    """Answers every request with 405. methods: those that the path has."""

    def __init__(self, methods: Iterable[str]) -> None:
        self._allow = ", ".join(sorted(methods))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = error_response(
            RequestError("method_not_allowed", f"this path has {self._allow} only", status=405)
        )  # fmt: skip
        answer.headers["Allow"] = self._allow
        await answer(scope, receive, send)


class _NotFound:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await error_response(RequestError("not_found", "there is no such path", status=404))(scope, receive, send)


def refusing_routes(routers: Iterable[APIRouter]) -> list[BaseRoute]:
    """Routes to stand behind those of ``routers``: they take what these leave of their own paths, and of /v1/."""
    methods: dict[str, set[str]] = {}
    for router in routers:
        for route in router.routes:
            assert isinstance(route, Route)
            methods.setdefault(route.path, set()).update(route.methods or ())
    for allowed in methods.values():
        if "GET" in allowed:
            allowed.add("HEAD")
    refusing: list[BaseRoute] = [Route(path, _NotAllowed(allowed)) for path, allowed in methods.items()]
    return [*refusing, Route("/v1/{rest:path}", _NotFound())]
