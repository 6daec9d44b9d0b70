"""The HTTP edge: names, origins, keys, tokens, and the one shape of every refusal."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from ground.errors import EngineError
from server.settings import Settings
from tests.caller import Caller, http, serving
from tests.fake_pool import FakePool

PORTRAIT = {"content": b"a picture"}


def code(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    assert set(error) == {"type", "code", "message", "param"}
    return str(error["code"])


async def session(client: httpx.AsyncClient, **headers: str) -> dict[str, Any]:
    portrait = await client.put("/v1/portraits", headers=headers, **PORTRAIT)
    made = await client.post("/v1/sessions", json={"portrait_id": portrait.json()["id"]}, headers=headers)
    assert made.status_code == 201, made.text
    return dict(made.json())


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# Names and origins


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "a/?x=", "@evil", ""])
async def test_a_name_that_is_not_ours_is_refused(host: str) -> None:
    async with serving() as app, http(app) as client:
        for path in ("/", "/health", "/metrics", "/v1/portraits"):
            answer = await client.get(path, headers={"Host": host})
            assert answer.status_code == 400 and code(answer) == "unknown_host"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:8000", "[::1]:8000"])
async def test_our_names_are_ours_on_any_port(host: str) -> None:
    async with serving() as app, http(app) as client:
        assert (await client.get("/health", headers={"Host": host})).status_code == 200


async def test_foreign_pages_may_not_change_anything() -> None:
    settings = Settings(allowed_origins=["https://friend.example"])
    async with serving(settings) as app, http(app) as client:
        foreign: list[dict[str, str]] = [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:8001"},
            {"Origin": "https://127.0.0.1:8000"},
            {"Origin": "https://friend.example.evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ]
        for headers in foreign:
            answer = await client.put("/v1/portraits", headers=headers, **PORTRAIT)
            assert answer.status_code == 403 and code(answer) == "foreign_origin"
        for headers in ({"Origin": "http://127.0.0.1:8000"}, {"Origin": "https://friend.example"}, {}):
            assert (await client.put("/v1/portraits", headers=headers, **PORTRAIT)).status_code == 201
        assert "access-control-allow-origin" not in answer.headers


async def test_every_answer_carries_its_guards() -> None:
    async with serving() as app, http(app) as client:
        page = await client.get("/")
        assert page.status_code == 200 and "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-cache" and page.headers["x-content-type-options"] == "nosniff"
        api = await client.get("/v1/portraits")
        assert api.headers["cache-control"] == "no-store" and "sandbox" in api.headers["content-security-policy"]
        for path in ("/docs", "/redoc", "/../pyproject.toml", "/%2e%2e/pyproject.toml"):
            assert (await client.get(path)).status_code == 404


# Keys


async def test_a_configured_key_is_demanded() -> None:
    async with serving(Settings(api_keys=["s3cret-key"])) as app, http(app) as client:
        for path in ("/v1/portraits", "/metrics"):
            answer = await client.get(path)
            assert answer.status_code == 401 and code(answer) == "missing_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await client.put("/v1/portraits", headers=bearer("wrong"), **PORTRAIT)).status_code == 401
        assert (await client.get("/v1/portraits", headers=bearer("s3cret-key"))).status_code == 200
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/")).status_code == 200  # the page itself holds no secret
        made = await session(client, **bearer("s3cret-key"))
        # Under a session its own token counts, and the key does not.
        path = f"/v1/sessions/{made['id']}"
        assert (await client.get(path, headers=bearer(made["token"]))).status_code == 200
        assert (await client.get(path, headers=bearer("s3cret-key"))).status_code == 401


async def test_bound_wider_a_link_works_once() -> None:
    async with serving(Settings(host="0.0.0.0")) as app:
        keys = app.state.services.keys
        assert keys.required and keys.uses_links
        link = keys.new_link()
        async with http(app) as first:
            assert (await first.get("/v1/portraits")).status_code == 401
            assert (await first.get("/v1/portraits", headers=bearer(link))).status_code == 200
            assert keys.link_used.is_set()
            assert (await first.get("/v1/portraits")).status_code == 200  # by its cookie
            cookie = next(iter(first.cookies.jar))
            assert cookie.has_nonstandard_attr("HttpOnly")
        async with http(app) as second:
            assert (await second.get("/v1/portraits", headers=bearer(link))).status_code == 401
            assert (await second.get("/v1/portraits", headers=bearer(keys.new_link()))).status_code == 200


async def test_owners_do_not_see_each_other() -> None:
    async with serving(Settings(api_keys=["one", "two"])) as app, http(app) as client:
        made = (await client.put("/v1/portraits", headers=bearer("one"), **PORTRAIT)).json()
        path = f"/v1/portraits/{made['id']}"
        unknown = await client.get("/v1/portraits/" + "0" * 32, headers=bearer("two"))
        for method in ("GET", "DELETE"):
            other = await client.request(method, path, headers=bearer("two"))
            assert other.status_code == 404 and other.json() == unknown.json()
        used = await client.post("/v1/sessions", json={"portrait_id": made["id"]}, headers=bearer("two"))
        assert used.status_code == 404 and code(used) == "portrait_not_found"
        assert (await client.get("/v1/portraits", headers=bearer("two"))).json() == {"portraits": []}
        assert (await client.delete(path, headers=bearer("one"))).status_code == 204
        assert (await client.get(path, headers=bearer("one"))).status_code == 404


# Sessions


async def test_a_session_answers_to_its_own_token_only() -> None:
    async with serving() as app, http(app) as client:
        one, two = await session(client), await session(client)
        path = f"/v1/sessions/{one['id']}"
        for method, suffix in (("GET", ""), ("DELETE", ""), ("POST", "/interrupt"), ("POST", "/say")):
            assert (await client.request(method, path + suffix)).status_code == 401
            wrong = await client.request(method, path + suffix, headers=bearer("nonsense"))
            assert wrong.status_code == 401 and code(wrong) == "invalid_token"
            other = await client.request(method, path + suffix, headers=bearer(two["token"]))
            assert other.status_code == 403 and code(other) == "wrong_token"
        assert (await client.get("/v1/sessions/" + "0" * 32, headers=bearer(one["token"]))).status_code == 404
        shown = (await client.get(path, headers=bearer(one["token"]))).json()
        assert shown["state"] == "created" and shown["reason"] is None and "token" not in shown
        assert (await client.delete(path, headers=bearer(one["token"]))).status_code == 204
        ended = (await client.get(path, headers=bearer(one["token"]))).json()
        assert (ended["state"], ended["reason"]) == ("ended", "hang_up")
        offer = {"sdp": "v=0", "type": "offer"}
        late = await client.post(path + "/offer", json=offer, headers=bearer(one["token"]))
        assert late.status_code == 409 and code(late) == "session_ended"


@pytest.mark.parametrize(
    ("body", "status", "reason", "param"),
    [
        ({}, 422, "invalid_request", "portrait_id"),
        ({"portrait_id": 7}, 422, "invalid_request", "portrait_id"),
        ({"portrait_id": "../../etc/passwd"}, 404, "portrait_not_found", "portrait_id"),
        ({"portrait_id": "x", "seed": -1}, 422, "invalid_request", "seed"),
        ({"portrait_id": "x", "color": 1}, 422, "invalid_request", "color"),
        ({"portrait_id": "ok", "model": "gpt"}, 422, "unknown_model", "model"),
        ({"portrait_id": "ok", "rollout": "backwards"}, 422, "unknown_rollout", "rollout"),
        ({"portrait_id": "ok", "rollout": {"running_ahead": "sideways"}}, 422, "unknown_rollout", "rollout"),
    ],
)
async def test_a_session_that_cannot_be(body: dict[str, Any], status: int, reason: str, param: str) -> None:
    async with serving() as app, http(app) as client:
        if body.get("portrait_id") == "ok":
            body = body | {"portrait_id": (await client.put("/v1/portraits", **PORTRAIT)).json()["id"]}
        answer = await client.post("/v1/sessions", json=body)
        assert answer.status_code == status and code(answer) == reason
        assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("seed", "status"), [(7, 201), (7.0, 201), (2**53 - 1, 201), (2**53, 422), (7.5, 422), ("7", 422), (True, 422)]
)
async def test_a_seed_is_a_whole_number_that_every_client_holds(seed: object, status: int) -> None:
    async with serving() as app, http(app) as client:
        portrait = (await client.put("/v1/portraits", **PORTRAIT)).json()["id"]
        made = await client.post("/v1/sessions", json={"portrait_id": portrait, "seed": seed})
        assert made.status_code == status
        if status == 201:
            path = f"/v1/sessions/{made.json()['id']}"
            shown = await client.get(path, headers=bearer(made.json()["token"]))
            assert shown.json()["seed"] == seed


async def test_the_rollouts_are_those_that_the_worker_names() -> None:
    async with serving() as app, http(app) as client:
        pool = app.state.services.pool
        pool.info = msgspec.structs.replace(pool.info, rollouts=["knot_forcing", "new_forcing"])
        assert (await client.get("/v1/limits")).json()["rollouts"] == ["knot_forcing", "new_forcing"]
        body = {"portrait_id": (await client.put("/v1/portraits", **PORTRAIT)).json()["id"], "rollout": "new_forcing"}
        assert (await client.post("/v1/sessions", json=body)).status_code == 201
        refused = await client.post("/v1/sessions", json=body | {"rollout": "self_forcing"})
        assert refused.status_code == 422 and code(refused) == "unknown_rollout"
        assert "choose one of knot_forcing, new_forcing" in refused.json()["error"]["message"]


async def test_sessions_are_bounded_and_expire() -> None:
    async with serving(Settings(max_sessions=2, session_ttl_s=0.3)) as app, http(app) as client:
        first = await session(client)
        portrait = (await client.put("/v1/portraits", **PORTRAIT)).json()["id"]
        assert (await client.post("/v1/sessions", json={"portrait_id": portrait})).status_code == 201
        full = await client.post("/v1/sessions", json={"portrait_id": portrait})
        assert full.status_code == 503 and code(full) == "too_many_sessions" and full.headers["retry-after"]
        await asyncio.sleep(1.0)
        shown = (await client.get(f"/v1/sessions/{first['id']}", headers=bearer(first["token"]))).json()
        assert (shown["state"], shown["reason"]) == ("ended", "expired")
        assert (await client.post("/v1/sessions", json={"portrait_id": portrait})).status_code == 201


async def test_ready_says_when() -> None:
    class Broken(FakePool):
        async def start(self) -> None:
            raise EngineError("checkpoint_mismatch", "the weights do not fit")

    async with serving() as app, http(app) as client:
        assert (await client.get("/ready")).json()["status"] == "ready"
        app.state.services.ready = False
        starting = await client.get("/ready")
        assert starting.status_code == 503 and code(starting) == "starting" and starting.headers["retry-after"]
        portrait = (await client.put("/v1/portraits", **PORTRAIT)).json()["id"]
        early = await client.post("/v1/sessions", json={"portrait_id": portrait})
        assert early.status_code == 503 and code(early) == "starting" and early.headers["retry-after"]
        app.state.services.engine_error = EngineError("checkpoint_mismatch", "the weights do not fit")
        failed = await client.get("/ready")
        assert failed.status_code == 503 and code(failed) == "engine_failed" and "retry-after" not in failed.headers
    with pytest.raises(AssertionError, match="the weights do not fit"):
        async with serving(pool=Broken()):
            pass


async def test_ready_is_not_while_every_worker_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = FakePool()
    async with serving(pool=pool) as app, http(app) as client:
        dead = dataclasses.replace(pool.stats(), alive=0)
        monkeypatch.setattr(pool, "stats", lambda: dead)
        lost = await client.get("/ready")
        assert lost.status_code == 503 and code(lost) == "recovering" and lost.headers["retry-after"]


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
async def test_probes_may_ask_for_the_head_only(path: str) -> None:
    async with serving() as app, http(app) as client:
        assert (await client.head(path)).status_code == 200


async def test_sessions_that_never_were_calls_are_counted_once() -> None:
    async with serving(Settings(session_ttl_s=0.3)) as app, http(app) as client:
        await session(client)
        for _ in range(2):
            made = await session(client)
            for _ in range(2):
                await client.delete(f"/v1/sessions/{made['id']}", headers=bearer(made["token"]))
        await asyncio.sleep(1.0)
        page = (await client.get("/metrics")).text
        assert 'knotcast_calls_ended_total{reason="expired"} 1.0' in page
        assert 'knotcast_calls_ended_total{reason="hang_up"} 2.0' in page
        assert "knotcast_calls_live 0.0" in page


async def test_metrics_have_a_fixed_number_of_series() -> None:
    async with serving() as app, http(app) as client:
        await session(client)
        one = (await client.get("/metrics")).text.count("\n")
        for _ in range(5):
            made = await session(client)
            await client.delete(f"/v1/sessions/{made['id']}", headers=bearer(made["token"]))
        assert (await client.get("/metrics")).text.count("\n") == one


async def test_say_and_interrupt_need_a_call() -> None:
    async with serving() as app, http(app) as client:
        caller = Caller(client)
        await caller.open()
        for _ in ("never called", "ended"):
            for verb in ("say", "interrupt"):
                answer = await client.post(f"{caller.path}/{verb}", content=b"RIFF", headers=caller.headers)
                assert answer.status_code == 409 and code(answer) == "not_live"
            await client.delete(caller.path, headers=caller.headers)


# Limits


async def test_the_limits_are_those_that_hold() -> None:
    settings = Settings(
        api_keys=["k"], max_portrait_bytes=2048, max_say_seconds=1.0, max_sessions=1, max_call_s=0, heartbeat_s=3.5
    )
    async with serving(settings) as app, http(app) as client:
        limits = (await client.get("/v1/limits")).json()  # without a key
        assert limits["call"]["max_s"] is None and limits["call"]["heartbeat_s"] == 3.5
        largest = limits["portrait"]["max_bytes"]
        for size, status in ((largest, 201), (largest + 1, 413)):
            sent = await client.put("/v1/portraits", headers=bearer("k"), content=b"x" * size)
            assert sent.status_code == status
        made = await session(client, **bearer("k"))
        assert limits["call"]["max_sessions"] == 1
        body = {"portrait_id": "x", "model": limits["model"]}
        assert code(await client.post("/v1/sessions", json=body, headers=bearer("k"))) == "portrait_not_found"
        path = f"/v1/sessions/{made['id']}/say"
        for size, status in ((limits["say"]["max_bytes"], 409), (limits["say"]["max_bytes"] + 256 * 1024 + 1, 413)):
            sent = await client.post(path, headers=bearer(made["token"]), content=b"x" * size)
            assert sent.status_code == status


async def test_the_limits_can_be_read_while_the_engine_starts() -> None:
    async with serving(Settings(model="embedded")) as app, http(app) as client:
        assert (await client.get("/v1/limits")).json()["model"] == app.state.services.pool.info.name
        app.state.services.ready = False
        assert (await client.get("/v1/limits")).json()["model"] == "embedded"


# Guests


async def test_guests_do_not_see_each_other_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.http.app.GUEST_SWEEP_S", 0.01)
    now = [1000.0]
    for module in ("server.http.services", "server.http.app"):
        monkeypatch.setattr(f"{module}.monotonic", lambda: now[0])
    async with serving(Settings(host="0.0.0.0", link_ttl_s=60)) as app, http(app) as one, http(app) as two:
        keys, portraits = app.state.services.keys, app.state.services.portraits
        made = (await one.put("/v1/portraits", headers=bearer(keys.new_link()), **PORTRAIT)).json()
        now[0] += 30
        kept = (await two.put("/v1/portraits", headers=bearer(keys.new_link()), **PORTRAIT)).json()
        assert kept["id"] != made["id"]
        assert (await two.get(f"/v1/portraits/{made['id']}")).status_code == 404
        assert (await two.delete(f"/v1/portraits/{made['id']}")).status_code == 404
        assert [shown["id"] for shown in (await one.get("/v1/portraits")).json()["portraits"]] == [made["id"]]
        now[0] += 30
        late = await one.get("/v1/portraits")
        assert late.status_code == 401 and code(late) == "missing_key"
        async with asyncio.timeout(5):
            while made["id"] in portraits._portraits:
                await asyncio.sleep(0.01)
        assert (await one.get(made["preview_url"])).status_code == 404
        assert (await two.get(kept["preview_url"])).status_code == 200


async def test_portraits_of_guests_do_not_outlive_the_server(tmp_path: Path) -> None:
    settings = Settings(host="0.0.0.0", api_keys=["k"], data_dir=tmp_path)
    async with serving(settings) as app, http(app) as client:
        keys = app.state.services.keys
        await client.put("/v1/portraits", headers=bearer("k"), **PORTRAIT)
        await client.put("/v1/portraits", headers=bearer(keys.new_link()), **PORTRAIT)
        assert len(list(tmp_path.iterdir())) == 2
    async with serving(settings) as app, http(app) as client:
        assert len(list(tmp_path.iterdir())) == 1
        assert len((await client.get("/v1/portraits", headers=bearer("k"))).json()["portraits"]) == 1
