"""The OpenAPI document against the server that it describes."""

import json
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from server.http.app import ROUTERS
from server.settings import Settings
from tests.api_run import run
from tests.caller import Caller, http, serving


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/openapi.json")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    return dict(answer.json())


async def test_every_route_is_described_once_and_in_full() -> None:
    async with serving() as app, http(app) as client:
        described = operations(await document(client))
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    assert set(described) == {(method, route.path) for route in routes for method in route.methods}
    names = [operation["operationId"] for operation in described.values()]
    assert len(names) == len(set(names))
    for operation in described.values():
        assert operation["summary"] and operation["tags"]
        for status, response in operation["responses"].items():
            assert "HTTPValidationError" not in json.dumps(response)
            if status >= "400":
                content = response["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"} and content["examples"]
                assert all(set(one["value"]["error"]) == {"type", "code", "message", "param"}
                           for one in content["examples"].values())  # fmt: skip
            elif status != "204":
                assert all(content["schema"] for content in response["content"].values())


async def test_the_document_says_who_is_asked_for_a_key_and_holds_none() -> None:
    settings = Settings(api_keys=["s3cret"], data_dir=None, public_url="https://a.example/b")
    async with serving(settings) as app, http(app) as client:
        guarded = await document(client)  # without a key
    assert "s3cret" not in json.dumps(guarded) and guarded["servers"] == [{"url": "/b"}]
    assert operations(guarded)["GET", "/v1/portraits"]["security"] == [{"accessKey": []}, {"accessCookie": []}]
    assert set(guarded["components"]["securitySchemes"]) == {"accessKey", "accessCookie", "sessionToken"}
    async with serving() as app, http(app) as client:
        free = await document(client)
    portraits = operations(free)["GET", "/v1/portraits"]
    assert "security" not in portraits and "401" not in portraits["responses"]
    assert set(free["components"]["securitySchemes"]) == {"sessionToken"}


async def test_answers_to_mistakes_are_those_described() -> None:
    async with serving(Settings(api_keys=["k"])) as app, http(app) as client:
        described = operations(await document(client))
        caller = Caller(client)
        client.headers.update(bearer("k"))
        await caller.open()
        other = Caller(client)
        await other.open()
        session = "/v1/sessions/{session_id}"
        own = {"headers": caller.headers}
        tried = [
            ("GET", "/v1/portraits", {"headers": bearer("wrong")}, "missing_key"),
            ("GET", "/v1/portraits", {"headers": {"Host": "evil.example"}}, "unknown_host"),
            ("PUT", "/v1/portraits", {"headers": {"Origin": "https://evil.example"}}, "foreign_origin"),
            ("PUT", "/v1/portraits", {"content": b""}, "empty_file"),
            ("POST", "/v1/portraits", {"content": b"x"}, "unsupported_body"),
            ("POST", "/v1/sessions", {"json": {}}, "invalid_request"),
            ("POST", "/v1/sessions", {"content": b"x" * 300_000}, "body_too_large"),
            ("GET", session, {"headers": {"Authorization": ""}}, "missing_token"),
            ("GET", session, {"headers": bearer("wrong")}, "invalid_token"),
            ("GET", session, {"headers": other.headers}, "wrong_token"),
            ("POST", f"{session}/offer", {"json": {"sdp": "v=0", "type": "offer"}, **own}, "invalid_offer"),
            ("POST", f"{session}/offer", {"json": {"sdp": "v=0", "type": "answer"}, **own}, "invalid_offer"),
            ("PATCH", f"{session}/candidates", {"json": {"candidates": []}, **own}, "no_offer"),
            ("POST", f"{session}/say", {"content": b"x", "headers": caller.headers}, "not_live"),
        ]
        for method, path, arguments, code in tried:
            answer = await client.request(method, path.format(session_id=caller.session["id"]), **arguments)
            assert answer.json()["error"]["code"] == code, answer.text
            response = described[method, path]["responses"][str(answer.status_code)]
            assert code in response["content"]["application/json"]["examples"]


ALLOWED = {
    "/v1/portraits": "GET, HEAD, POST, PUT",
    "/v1/portraits/x": "DELETE, GET, HEAD",
    "/v1/sessions/x/offer": "POST",
    "/v1/limits": "GET, HEAD",
    "/openapi.json": "GET, HEAD",
    "/index.html": "GET, HEAD",
}


@pytest.mark.parametrize(("path", "allowed"), ALLOWED.items())
async def test_a_method_that_a_path_lacks_is_refused_with_those_it_has(path: str, allowed: str) -> None:
    async with serving() as app, http(app) as client:
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE"} - set(allowed.split(", ")):
            answer = await client.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
            assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/portraits/x/y", "/nothing.html"])
async def test_a_path_that_is_not_there(path: str) -> None:
    async with serving() as app, http(app) as client:
        answer = await client.get(path)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", ["/v1/portraits", "/v1/limits", "/health", "/openapi.json", "/v1/portraits/x"])
async def test_head_is_get_without_its_body(path: str) -> None:
    async with serving() as app, http(app) as client:
        get, head = await client.get(path), await client.head(path)
        assert head.content == b"" and head.status_code == get.status_code
        assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_schemathesis_finds_nothing() -> None:
    for name, (code, output) in (await run(examples=3)).items():
        assert code == 0, f"{name}\n{output}"
