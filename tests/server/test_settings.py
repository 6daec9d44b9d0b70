"""Settings: read once, frozen, and turned into what the engine takes by one function."""

import asyncio
import math
from typing import Any

import pytest
from pydantic import ValidationError

from engine.pool.local import LocalPool
from server.http.app import create_app
from server.settings import Settings, engine_config
from tests.caller import serving


def test_defaults_serve_one_person_on_their_own_machine() -> None:
    settings = Settings()
    assert settings.loopback and settings.port == 8000 and settings.tls == "off" and settings.api_keys == []
    with pytest.raises(ValidationError):
        settings.port = 1


@pytest.mark.parametrize(("host", "loopback"), [
    ("localhost", True), ("127.0.0.9", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("my.host", False),
])  # fmt: skip
def test_what_counts_as_loopback(host: str, loopback: bool) -> None:
    assert Settings(host=host).loopback is loopback


@pytest.mark.parametrize("value", ['["one", "two"]', "one,two", " one , two ,"])
def test_lists_come_as_json_or_with_commas(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOTCAST_API_KEYS", value)
    monkeypatch.setenv("KNOTCAST_ALLOWED_HOSTS", value)
    settings = Settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]
    assert settings.allowed_hosts == ["one", "two"]
    assert "one" not in repr(settings.api_keys)


def test_origins_are_kept_as_browsers_write_them() -> None:
    origins = ["https://Friend.example/", "http://localhost:3000", "http://[::1]:3000"]
    assert Settings(allowed_origins=origins).allowed_origins == [
        "https://friend.example", "http://localhost:3000", "http://[::1]:3000",
    ]  # fmt: skip


def test_servers_for_ice_come_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOTCAST_ICE_SERVERS", '[{"urls": ["turn:t.example"], "username": "u", "credential": "c"}]')
    assert Settings().ice_servers[0].urls == ["turn:t.example"]


@pytest.mark.parametrize("bad", [
    {"port": 70_000}, {"udp_port_min": 5000, "udp_port_max": 4000}, {"advertised_address": "my.host"},
    {"heartbeat_s": 0}, {"tls": "on"}, {"allowed_origins": ["*"]}, {"allowed_origins": ["https://a.example/page"]},
    {"allowed_origins": ["null"]}, {"udp_port_max": 5000}, {"max_video_kbps": 149}, {"max_call_s": -1},
    {"max_call_s": "inf"}, {"max_say_seconds": "inf"}, {"session_ttl_s": "inf"}, {"session_ttl_s": 1e12},
    {"worker_start_s": 0}, {"worker_start_s": "nan"}, {"media_threads": -1},
])  # fmt: skip
def test_what_makes_no_sense_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**bad)


def test_zero_sets_no_limit_to_a_call_and_chooses_the_threads() -> None:
    assert Settings(max_call_s=0).longest_call_s == math.inf
    assert Settings(max_call_s=0.5).longest_call_s == 0.5
    assert 4 <= Settings().encoding_threads <= 32
    assert Settings(media_threads=2).encoding_threads == 2


async def test_the_media_threads_are_those_that_were_set() -> None:
    async with serving(Settings(media_threads=3)):
        executor: Any = asyncio.get_running_loop()._default_executor  # type: ignore[attr-defined]
        assert executor._max_workers == 3


def test_a_worker_has_the_time_to_start_that_was_set() -> None:
    pool: Any = create_app(Settings(worker_start_s=900)).state.services.pool
    assert [seat._limits.start for seat in pool._seats] == [900]


def test_the_engine_gets_its_part() -> None:
    config = engine_config(Settings(model="embedded", slots=3, threads=1, random_weights=True, dtype="float32"))
    assert (config.model, config.slots, config.threads, config.random_weights, config.dtype) == (
        "embedded", 3, 1, True, "float32",
    )  # fmt: skip


def test_spares_are_workers_beside_those_that_take_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOTCAST_WORKERS", "2")
    monkeypatch.setenv("KNOTCAST_SPARES", "1")
    pool = create_app(Settings()).state.services.pool
    assert isinstance(pool, LocalPool) and (pool._workers, len(pool._seats)) == (2, 3)


@pytest.mark.parametrize(
    ("url", "kept", "origin", "path"),
    [
        ("https://Example.org/", "https://example.org", "https://example.org", ""),
        ("http://localhost:9000/a/B", "http://localhost:9000/a/B", "http://localhost:9000", "/a/B"),
        ("https://[::1]:1/x/", "https://[::1]:1/x", "https://[::1]:1", "/x"),
    ],
)
def test_a_public_address_has_an_origin_and_a_path(url: str, kept: str, origin: str, path: str) -> None:
    settings = Settings(public_url=url)
    assert (settings.public_url, settings.public_origin, settings.root_path) == (kept, origin, path)
    assert settings.secure is url.startswith("https")


@pytest.mark.parametrize(
    "url",
    ["", "example.org", "ftp://a", "https://a/?x", "https://a/..", "https://a//b", "https://a/%2e", "https://a/b#c"],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Settings(public_url=url)
