"""Exception handlers: every unsuccessful answer has one shape and one stable code.

``{"error": {"type", "code", "message", "param"}}``. An unexpected exception is logged and answered with a bare 500: no
repr, path or traceback ever leaves.
"""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ground.errors import AvatarError, CapacityError

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
_HTTP_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def error_response(error: AvatarError) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, CapacityError) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = {"type": error.family, "code": error.code, "message": error.message, "param": error.param}
    return JSONResponse({"error": body}, error.status, headers)


def install_error_handlers(app: FastAPI) -> None:
    """Register one handler for each family of exceptions."""
    app.add_exception_handler(AvatarError, _on_avatar_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_avatar_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AvatarError)
    return error_response(error)


async def _on_validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0] if error.errors() else {}
    where = [str(part) for part in first.get("loc", ()) if part not in ("body", "query", "path", "header")]
    body = {
        "type": "request_error",
        "code": "invalid_request",
        "message": str(first.get("msg", "the request is not valid"))[:200],
        "param": ".".join(where)[:100] or None,
    }
    return JSONResponse({"error": body}, 422)


async def _on_http_exception(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, "http_error")
    body = {"type": "request_error", "code": code, "message": str(error.detail)[:200], "param": None}
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers.setdefault("Allow", "GET, HEAD")  # the page's files; paths of the API have a refusal of their own
    return JSONResponse({"error": body}, error.status_code, headers)


def unforeseen_response(method: str, path: str, error: Exception) -> JSONResponse:
    """Answer to an unexpected exception; only the log has its details."""
    logger.error("unforeseen error in %s %s", method, path, exc_info=error)
    return error_response(AvatarError("internal_error", "an internal error: the server's log has the details"))
