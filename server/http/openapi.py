"""The OpenAPI document: what FastAPI derives from the routes, completed by what the middleware may answer.

It is the same for every caller. Of the settings it shows only the path behind a proxy and whether a key is asked for;
so it is served without a key, as the page is.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from server.http.refusals import codes_of, content_of, refusal
from server.settings import Settings

DESCRIPTION = """A browser or a program uploads a portrait, creates a session for it, and calls it over WebRTC.

Every answer that is not a success has the shape `ErrorAnswer`; its `code` is stable. `HEAD` is answered wherever `GET`
is. A method that a path does not have is refused with 405 and `Allow`. The page at `/` and its files are not part of
this API.
"""
TAGS = [
    {"name": "portraits", "description": "Pictures of faces that may answer."},
    {"name": "sessions", "description": "Calls: one session, one offer, one call."},
    {"name": "server", "description": "Limits, health and figures."},
]
SECURITY_OF_KEYS = ("accessKey", "accessCookie")
_BODY_METHODS = ("post", "put", "patch")


def install_openapi(app: FastAPI, settings: Settings, key_required: bool) -> None:
    """Have ``app.openapi`` return the completed document, made once when it is first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, settings, key_required)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, settings: Settings, key_required: bool) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary="Real-time avatar server.",
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
        servers=[{"url": settings.root_path or "/"}],
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path in document["paths"].values():
        for method, operation in path.items():
            _complete(operation, method, key_required)
    if not key_required:
        for name in SECURITY_OF_KEYS:
            document["components"]["securitySchemes"].pop(name)
    return document


def _complete(operation: dict[str, Any], method: str, key_required: bool) -> None:
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):  # FastAPI's guess, where a route does not say itself
        del responses["422"]
    keyed = any(name in scheme for scheme in operation.get("security", ()) for name in SECURITY_OF_KEYS)
    if keyed and not key_required:
        del operation["security"]
        del responses["401"]
    common = {
        400: ("bad_request", "unknown_host"),
        413: ("body_too_large",),
        431: ("head_too_large",),
        500: ("internal_error",),
    }
    common[503] = ("too_many_connections",)
    if method != "get":
        common[403] = ("foreign_origin",)
    if method in _BODY_METHODS:
        common[408] = ("body_too_slow",)
    for status, codes in common.items():
        given = codes_of(responses.get(str(status), {"description": ""}))
        responses[str(status)] = refusal(status, tuple(dict.fromkeys(given + codes)))
    for status, response in responses.items():
        if int(status) >= 400:
            response["content"] = content_of(int(status), codes_of(response))
    operation["responses"] = dict(sorted(responses.items()))
