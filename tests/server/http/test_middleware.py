"""What stands around every route: a link's cookie, mistakes of ours, pages of friends, bodies that are too much."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from server.http.errors import install_error_handlers
from server.http.middleware import BodyLimit, Gate
from server.settings import Settings
from tests.caller import http, serving

PORTRAIT = {"content": b"a picture"}
FRIEND = "https://friend.example"


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def broken(owner: str) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/portraits", 415),
        ("GET", "/metrics", 200),
        ("POST", "/v1/sessions", 422),
        ("GET", "/v1/portraits/none", 404),
        ("GET", "/v1/portraits", 500),
    ],
)
@pytest.mark.parametrize("tls", ["off", "self-signed"])
async def test_a_link_is_not_lost_with_the_request_it_came_with(method: str, path: str, status: int, tls: Any) -> None:
    scheme = "http" if tls == "off" else "https"
    settings = Settings(host="0.0.0.0", tls=tls)
    async with serving(settings) as app, http(app, base_url=f"{scheme}://127.0.0.1:8000") as client:
        if status == 500:
            app.state.services.portraits.list = broken
        link = app.state.services.keys.new_link()
        first = await client.request(method, path, headers=bearer(link))
        assert first.status_code == status
        attributes = first.headers["set-cookie"].lower().split("; ")
        assert {"httponly", "samesite=strict", "path=/"} <= set(attributes)
        assert ("secure" in attributes) is (tls != "off")
        again = await client.get("/metrics")  # by its cookie
        assert again.status_code == 200 and "set-cookie" not in again.headers


@pytest.mark.parametrize("origins", [[], [FRIEND]])
async def test_a_mistake_of_ours_has_the_guards_of_every_answer(origins: list[str]) -> None:
    async with serving(Settings(allowed_origins=origins)) as app, http(app) as client:
        app.state.services.portraits.list = broken
        answer = await client.get("/v1/portraits", headers={"Origin": FRIEND})
        assert answer.status_code == 500 and code(answer) == "internal_error"
        assert "ZeroDivision" not in answer.text and "Traceback" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers.get("access-control-allow-origin") == (FRIEND if origins else None)


async def test_a_mistake_in_the_middle_of_an_answer_is_told_to_the_listener() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    async def receive() -> dict[str, Any]:
        raise AssertionError

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/", "method": "GET", "headers": [(b"host", b"a")], "query_string": b""}
    with pytest.raises(ZeroDivisionError):  # so that it cuts the connection: half an answer must not look whole
        await Gate(app, Settings(allowed_hosts=["a"]))(scope, receive, send)
    assert [message["status"] for message in sent] == [200]


# Pages of friends


def preflight(origin: str, method: str, headers: str) -> dict[str, str]:
    return {
        "Origin": origin, "Sec-Fetch-Site": "cross-site",
        "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers,
    }  # fmt: skip


async def test_a_page_of_a_friend_may_call_as_a_browser_does_it() -> None:
    async with serving(Settings(allowed_origins=[FRIEND], api_keys=["k"])) as app, http(app) as client:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            asked = await client.options(
                "/v1/sessions", headers=preflight(FRIEND, method, "authorization,content-type")
            )
            assert asked.status_code == 200
            assert asked.headers["access-control-allow-origin"] == FRIEND
            assert method in asked.headers["access-control-allow-methods"]
            allowed = asked.headers["access-control-allow-headers"].lower()
            assert "authorization" in allowed and "content-type" in allowed
        made = await client.put(
            "/v1/portraits",
            content=b"a picture",
            headers=bearer("k") | {"Origin": FRIEND, "Sec-Fetch-Site": "cross-site"},
        )
        refused = await client.get("/v1/portraits", headers={"Origin": FRIEND})
        assert (made.status_code, refused.status_code) == (201, 401)
        for answer in (made, refused):
            assert answer.headers["access-control-allow-origin"] == FRIEND and "Origin" in answer.headers["vary"]
            assert "access-control-allow-credentials" not in answer.headers
            assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        # As an <img> loads it: without an origin.
        preview = await client.get(made.json()["preview_url"], headers={"Sec-Fetch-Site": "cross-site"})
        assert preview.status_code == 200 and preview.headers["cross-origin-resource-policy"] == "cross-origin"
        assert (await client.get("/")).headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("origins", [[], [FRIEND]])
async def test_nobody_else_gets_leave(origins: list[str]) -> None:
    async with serving(Settings(allowed_origins=origins)) as app, http(app) as client:
        for origin in ("https://evil.example", "null", f"{FRIEND}.evil.example"):
            asked = await client.options("/v1/sessions", headers=preflight(origin, "POST", "authorization"))
            assert asked.status_code == 403 and code(asked) == "foreign_origin"
            read = await client.get("/v1/portraits", headers={"Origin": origin})
            for answer in (asked, read):
                assert "access-control-allow-origin" not in answer.headers
                assert answer.headers["cross-origin-resource-policy"] == "same-origin"


# Bodies


async def test_a_body_is_counted_while_it_arrives() -> None:
    async def endless() -> Any:
        for _ in range(10_000):
            yield b"x" * 10_000

    async with serving(Settings(max_portrait_bytes=200_000)) as app, http(app) as client:
        declared = await client.put("/v1/portraits", content=b"", headers={"Content-Length": "99999999"})
        assert declared.status_code == 413
        answer = await client.put("/v1/portraits", content=endless())
        assert answer.status_code == 413 and code(answer) == "body_too_large"
        small = await client.post("/v1/sessions", content=b" " * 300_000, headers={"Content-Type": "application/json"})
        assert small.status_code == 413


async def test_a_body_that_drips_is_given_up() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    async def drip() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b".", "more_body": True}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/", "method": "PUT", "headers": [], "query_string": b""}
    await BodyLimit(app, lambda path: 1000, seconds=0.3)(scope, drip, send)
    assert sent[0]["status"] == 408


async def test_refused_before_the_body_is_read() -> None:
    read = False

    async def body() -> Any:
        nonlocal read
        read = True
        yield b"a picture"

    async with serving(Settings(api_keys=["k"])) as app, http(app) as client:
        assert (await client.put("/v1/portraits", content=body())).status_code == 401
        assert not read


@pytest.mark.parametrize(
    ("kind", "content", "status", "reason"),
    [
        ("application/x-www-form-urlencoded", b"file=x", 415, "unsupported_body"),
        ("text/plain", b"x", 415, "unsupported_body"),
        ("multipart/form-data", b"x", 400, "invalid_form"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n", 400, "invalid_form"),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 422, "missing_file"),
    ],
)
async def test_forms_that_are_none(kind: str, content: bytes, status: int, reason: str) -> None:
    async with serving() as app, http(app) as client:
        answer = await client.post("/v1/portraits", headers={"Content-Type": kind}, content=content)
        assert answer.status_code == status and code(answer) == reason


async def test_a_form_with_a_file_is_the_same_as_the_file() -> None:
    async with serving() as app, http(app) as client:
        by_form = await client.post("/v1/portraits", files={"file": ("../../x.php", b"a picture", "text/html")})
        assert by_form.status_code == 201
        assert by_form.json()["id"] == (await client.put("/v1/portraits", **PORTRAIT)).json()["id"]


async def test_a_body_that_does_not_say_its_length_is_counted_too() -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b" " * 10_000

    async with serving() as app, http(app) as client:
        answer = await client.post("/v1/sessions", content=chunks(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413 and code(answer) == "body_too_large"


async def test_a_slow_body_is_given_up_in_its_own_words() -> None:
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(BodyLimit, limit=lambda path: 1000, seconds=0.2)

    @app.post("/")
    async def take(body: dict[str, int]) -> None:
        pass

    async def drip() -> Any:
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    # httpx hands a body over whole unless it is asked for, so the drip is played by hand.
    parts, sent = drip(), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(parts), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"",
        "root_path": "", "headers": [(b"content-type", b"application/json")], "server": ("a", 1), "client": ("b", 2),
        "scheme": "http",
    }  # fmt: skip
    await app(scope, receive, send)
    await parts.aclose()
    assert [message["status"] for message in sent if "status" in message] == [408]
    assert b"body_too_slow" in sent[1]["body"]
