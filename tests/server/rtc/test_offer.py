"""SDP offers over HTTP: which are answered, which are refused, and that every line is checked before aiortc sees it."""

import re
from typing import Any

import pytest

from server.rtc.ice import IcePolicy
from tests.caller import Caller, caller_connections, http, serving


def code(answer: Any) -> str:
    return str(answer.json()["error"]["code"])


def without(sdp: str, start: str) -> str:
    """The offer without the section that begins with ``start``."""
    return "".join(part for part in re.split(r"(?m)^(?=m=)", sdp) if not part.startswith(start))


def edited(sdp: str, old: str, new: str, count: int = -1) -> str:
    assert old in sdp
    return sdp.replace(old, new, count)


async def test_offers_that_cannot_be_answered_leave_the_session_as_it_was() -> None:
    async with serving() as app, http(app) as client:
        caller = Caller(client)
        await caller.open()
        good = (await caller.offer())["sdp"]
        candidate = next(line for line in good.splitlines() if line.startswith("a=candidate"))
        fingerprints = "\r\n".join(line for line in good.splitlines() if not line.startswith("a=fingerprint"))
        bad = [
            "", "v=0", "\x00\x01", "v=0\r\n" * 2000, "v=0\r\nm=audio", good[: len(good) // 2],
            good + "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n", edited(good, "m=audio", "m=text"),
            fingerprints, edited(good, "a=ice-ufrag:", "a=nothing:"), edited(good, "a=rtcp-mux\r\n", ""),
            edited(good, candidate, "\r\n".join([candidate] * 51), 1), good.replace("sha-", "md5-"),
        ]  # fmt: skip
        # Such a call would have no sound or no picture.
        mute = [
            edited(good, "opus/48000/2", "none/48000/2"), edited(good, "a=recvonly", "a=inactive"),
            edited(good, "a=recvonly", "a=sendonly", 1), without(good, "m=audio"), without(good, "m=video"),
            re.sub(r"m=video \d+", "m=video 0", good),
        ]  # fmt: skip
        for sdp in mute:
            answer = await client.post(
                f"{caller.path}/offer", json={"sdp": sdp, "type": "offer"}, headers=caller.headers
            )
            assert answer.status_code == 422 and code(answer) == "invalid_offer", sdp
        for sdp in bad:
            offer = {"sdp": sdp, "type": "offer"}
            answer = await client.post(f"{caller.path}/offer", json=offer, headers=caller.headers)
            if answer.status_code == 200:  # half an offer may still be valid
                await client.delete(caller.path, headers=caller.headers)
                await caller.open()
                continue
            assert answer.status_code == 422 and code(answer) == "invalid_offer", sdp[:80]
        big = {"sdp": "v=0" + "x" * 70_000, "type": "offer"}
        assert (await client.post(f"{caller.path}/offer", json=big, headers=caller.headers)).status_code == 422
        kind = {"sdp": good, "type": "answer"}
        assert (await client.post(f"{caller.path}/offer", json=kind, headers=caller.headers)).status_code == 422
        assert (await caller.state())["state"] == "created"
        await caller.close()


@pytest.mark.parametrize("separator", ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
async def test_a_candidate_hides_behind_no_separator(separator: str) -> None:
    """aiortc splits lines at more than line feeds, so the checks must do the same."""
    hidden = [f"a=candidate:9 1 udp 2130706431 {host} 5000 typ host" for host in ("10.0.0.1", "8.8.8.8", "a.local")]
    async with serving() as app, http(app) as client:
        caller = Caller(client)
        await caller.open()
        good = (await caller.offer())["sdp"]
        line = next(line for line in good.splitlines() if line.startswith("a=setup:"))

        async def post(extra: list[str]) -> Any:
            sdp = edited(good, line, separator.join([line, *extra]))
            return await client.post(f"{caller.path}/offer", json={"sdp": sdp, "type": "offer"}, headers=caller.headers)

        many = await post(hidden * 20)
        assert many.status_code == 422 and "candidates" in many.json()["error"]["message"]
        section = await post(["m=text 9 UDP/TLS/RTP/SAVPF 96"])
        assert section.status_code == 422 and "section" in section.json()["error"]["message"]
        assert (await post(hidden)).status_code == 200
        hosts = {c.host for connection in caller_connections(app) for c in connection.remote_candidates}
        assert not hosts & {"10.0.0.1", "8.8.8.8", "a.local"}
        await client.delete(caller.path, headers=caller.headers)
        await caller.close()


@pytest.mark.parametrize(
    ("local", "advertised", "public"),
    [
        (("93.184.216.34", "10.0.0.2"), None, True),
        (("10.0.0.2", "2606:2800:220::1"), None, True),
        (("10.0.0.2",), "93.184.216.34", True),
        (("10.0.0.2", "fd00::2"), None, False),
        (("10.0.0.2",), "192.168.7.7", False),
    ],
)
def test_an_offer_points_no_public_server_at_the_networks_behind_it(
    local: tuple[str, ...], advertised: str | None, public: bool
) -> None:
    policy = IcePolicy(local, False, advertised, None)
    for host in ("10.1.2.3", "192.168.1.1", "100.64.0.1", "fd00::7"):
        assert policy.accepts(host, 50_000) is not public
    assert policy.accepts("8.8.8.8", 50_000)
