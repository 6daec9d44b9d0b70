"""Keys, links and guests: who calls, and until when."""

import pytest

from server.access import keys as access
from server.access.keys import AccessKeys, access_cookie_header, is_guest
from server.settings import Settings


def guest(keys: AccessKeys, now: float) -> tuple[str, str]:
    """Cookie and owner of one more browser."""
    cookie = keys.redeem(keys.new_link(), now)
    assert cookie is not None
    owner = keys.owner(None, cookie, now)
    assert owner is not None
    return cookie, owner


def test_every_link_makes_an_owner_of_its_own() -> None:
    keys = AccessKeys(Settings(host="0.0.0.0"))
    owners = {guest(keys, 0.0)[1] for _ in range(5)}
    assert len(owners) == 5 and all(is_guest(owner) for owner in owners)


def test_a_guest_expires_on_the_server() -> None:
    keys = AccessKeys(Settings(host="0.0.0.0", link_ttl_s=100))
    first, second = guest(keys, 0.0), guest(keys, 50.0)
    assert keys.owner(None, first[0], 99.9) == first[1]
    assert keys.owner(None, first[0], 100.0) is None  # before anything was swept
    assert keys.forget(99.9) == []
    assert keys.forget(100.0) == [first[1]] and keys.forget(100.0) == []
    assert keys.owner(None, second[0], 149.9) == second[1]


def test_the_number_of_guests_is_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_GUESTS", 3)
    keys = AccessKeys(Settings(host="0.0.0.0"))
    made = [guest(keys, float(now)) for now in range(5)]
    assert [keys.owner(None, cookie, 5.0) is not None for cookie, _ in made] == [False, False, True, True, True]
    assert keys.forget(5.0) == [owner for _, owner in made[:2]]


def test_a_configured_key_is_the_same_owner_for_ever() -> None:
    settings = Settings(api_keys=["one", "two"])
    one = AccessKeys(settings).owner("Bearer one", None, 0.0)
    assert one == AccessKeys(settings).owner("bearer one", None, 1e9)
    assert one is not None and not is_guest(one)
    assert one != AccessKeys(settings).owner("Bearer two", None, 0.0)
    assert AccessKeys(settings).owner("Bearer three", None, 0.0) is None


def test_behind_a_proxy_a_key_is_asked_for_on_loopback_too() -> None:
    assert not AccessKeys(Settings()).required
    assert AccessKeys(Settings(public_url="https://example.org")).uses_links


@pytest.mark.parametrize(
    ("settings", "path", "secure"),
    [
        (Settings(), "/", False),
        (Settings(tls="self-signed"), "/", True),
        (Settings(public_url="https://example.org"), "/", True),
        (Settings(public_url="http://example.org/a/b"), "/a/b/", False),
    ],
)
def test_the_cookie_lives_where_and_as_long_as_the_guest(settings: Settings, path: str, secure: bool) -> None:
    attributes = access_cookie_header("c", settings).split("; ")
    assert {f"Path={path}", "Max-Age=43200", "HttpOnly", "SameSite=strict"} <= set(attributes)
    assert ("Secure" in attributes) is secure
