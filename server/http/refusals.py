"""Descriptions of refusals for the OpenAPI document: one error shape, its statuses and codes by route."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

Responses = dict[int | str, dict[str, Any]]


class ErrorDetail(BaseModel):
    type: Literal["request_error", "capacity_error", "engine_error", "media_error", "internal_error"]
    code: str = Field(description="Stable name of the reason.", examples=["no_face"])
    message: str = Field(description="What is wrong and what to do, for a person.")
    param: str | None = Field(description="The field of the request at fault, if one is.", examples=["file"])


class ErrorAnswer(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait before the next try.", "schema": {"type": "integer"}}}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "`Bearer`", "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}


def refused(codes: Mapping[int, tuple[str, ...]]) -> Responses:
    """Responses of a route: the codes of each status."""
    return {status: {"model": ErrorAnswer, **refusal(status, names)} for status, names in codes.items()}


def refusal(status: int, codes: tuple[str, ...]) -> dict[str, Any]:
    """OpenAPI description of one refusal, without its content."""
    headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
    return {"description": " or ".join(f"`{code}`" for code in codes), **headers}


def codes_of(response: Mapping[str, Any]) -> tuple[str, ...]:
    """Codes of a description that ``refusal`` made."""
    return tuple(re.findall(r"`(\w+)`", response["description"]))


def content_of(status: int, codes: tuple[str, ...]) -> dict[str, Any]:
    """Content of a refusal with an example for each code."""
    examples = {code: {"value": _example(status, code)} for code in codes}
    schema = {"$ref": f"#/components/schemas/{ErrorAnswer.__name__}"}
    return {"application/json": {"schema": schema, "examples": examples}}


def _example(status: int, code: str) -> dict[str, Any]:
    if code == "engine_failed":
        family = "engine_error"
    elif "audio" in code:
        family = "media_error"
    elif status in (429, 503):
        family = "capacity_error"
    else:
        family = "internal_error" if status >= 500 else "request_error"
    return {"error": {"type": family, "code": code, "message": "what is wrong, and what to do", "param": None}}


KEY = {401: ("missing_key",)}
SESSION = {
    401: ("missing_token", "invalid_token"),
    403: ("wrong_token", "foreign_origin"),
    404: ("session_not_found",),
}
FORM = {400: ("invalid_form", "unknown_host")}
INVALID = {422: ("invalid_request",)}
ENGINE_NOT_READY = ("starting", "engine_failed")
