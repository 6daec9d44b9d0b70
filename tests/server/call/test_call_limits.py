"""Limits of a call: second offers, deadlines, slots, candidates, hostile data channel messages, and uploaded speech."""

import asyncio
import dataclasses
import json
import time
from typing import Any

import numpy as np
import pytest

from engine.pool.stream import StreamSpec
from ground.errors import CapacityError
from server.settings import Settings
from tests.caller import Caller, beeps, caller_connections, calling, http, serving, wav_bytes
from tests.fake_pool import FakeLease, FakePool


def code(answer: Any) -> str:
    return str(answer.json()["error"]["code"])


async def test_a_second_offer_is_refused_and_the_first_call_goes_on() -> None:
    async with serving() as app, calling(app) as caller:
        await caller.until(lambda: caller.distinct)
        offer = {"sdp": caller.peer.localDescription.sdp, "type": "offer"}
        again = await caller.client.post(f"{caller.path}/offer", json=offer, headers=caller.headers)
        assert again.status_code == 409 and code(again) == "offer_exists"
        seen = len(caller.distinct)
        await caller.until(lambda: len(caller.distinct) > seen + 10)


async def test_two_offers_at_once_make_one_call() -> None:
    async with serving() as app, http(app) as client:
        caller = Caller(client)
        await caller.open()
        offer = await caller.offer()
        answers = await asyncio.gather(
            *(client.post(f"{caller.path}/offer", json=offer, headers=caller.headers) for _ in range(3))
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
        await client.delete(caller.path, headers=caller.headers)
        await caller.close()


async def test_a_peer_that_never_comes_is_given_up_and_takes_no_slot() -> None:
    pool = FakePool()
    async with serving(Settings(setup_deadline_s=0.4), pool) as app, http(app) as client:
        caller = Caller(client)
        await caller.open()
        sdp = "\r\n".join(
            line for line in (await caller.offer())["sdp"].splitlines() if not line.startswith("a=candidate")
        )
        answer = await client.post(
            f"{caller.path}/offer", json={"sdp": sdp + "\r\n", "type": "offer"}, headers=caller.headers
        )
        assert answer.status_code == 200 and (await caller.state())["state"] == "connecting"
        await asyncio.sleep(0.8)
        shown = await caller.state()
        assert (shown["state"], shown["reason"]) == ("ended", "setup_timeout")
        assert pool.acquired == 0
        await caller.close()


async def test_a_viewer_that_vanishes_is_missed() -> None:
    pool = FakePool()
    async with serving(Settings(heartbeat_s=0.6, stamp_frames=True), pool) as app, http(app) as client:
        caller = Caller(client)
        await caller.connect()
        await caller.until(lambda: len(caller.distinct) > 5)
        caller.send("ping")
        fall_silent(caller)
        await caller.until(lambda: not pool.leases, 3.0)
        shown = await caller.state()
        assert (shown["state"], shown["reason"]) == ("ended", "heartbeat_lost")
        assert "nothing was heard" in shown["message"]
        await caller.close()


def fall_silent(caller: Caller) -> None:
    """Stop all sending without a goodbye, as if the caller's machine had lost power."""
    transports = {id(t.sender.transport): t.sender.transport for t in caller.peer.getTransceivers()}
    for transport in (*transports.values(), caller.peer.sctp.transport):
        transport.transport._connection.sendto = transport.transport._send = nowhere


async def nowhere(*_: object) -> None:
    pass


async def test_a_viewer_is_not_missed_because_we_slept() -> None:
    async with serving(Settings(heartbeat_s=2.0, stamp_frames=True)) as app, http(app) as client:
        caller = Caller(client)
        await caller.connect()
        fall_silent(caller)
        await asyncio.sleep(0.2)  # until everything sent before has arrived
        time.sleep(2.8)
        await asyncio.sleep(0.6)
        assert (await caller.state())["state"] == "live"
        await caller.until(lambda: any(session.state == "ended" for session in sessions_of(app)), 6.0)
        assert (await caller.state())["reason"] == "heartbeat_lost"
        await caller.close()


def sessions_of(app: Any) -> list[Any]:
    return list(app.state.services.sessions._sessions.values())


async def test_a_quiet_viewer_is_not_missed() -> None:
    """RTCP receiver reports count as signs of life, so a page whose timers are throttled stays in the call."""
    async with serving(Settings(heartbeat_s=2.0, stamp_frames=True)) as app, calling(app) as caller:
        await asyncio.sleep(3.5)
        assert (await caller.state())["state"] == "live"


async def test_a_call_has_a_longest_time() -> None:
    async with serving(Settings(max_call_s=0.5)) as app, calling(app) as caller:
        await asyncio.sleep(1.2)
        assert (await caller.state())["reason"] == "call_too_long"


async def test_a_call_may_have_no_longest_time() -> None:
    async with serving(Settings(max_call_s=0)) as app, calling(app) as caller:
        await asyncio.sleep(1.2)
        assert (await caller.state())["state"] == "live"


async def test_slots_are_refused_before_and_after_the_connection() -> None:
    class Late(FakePool):
        """A pool that reports a free slot and then has none."""

        async def acquire(self, spec: StreamSpec) -> FakeLease:
            raise CapacityError("no_slot", "every slot is taken: try again later", status=429)

    async with serving(pool=FakePool(slots=1)) as app, calling(app) as caller:
        await caller.until(lambda: caller.distinct)
        second = Caller(caller.client)
        await second.open()
        answer = await caller.client.post(f"{second.path}/offer", json=await second.offer(), headers=second.headers)
        assert answer.status_code == 503 and code(answer) == "no_slot" and answer.headers["retry-after"]
        await second.close()
    async with serving(pool=Late()) as app, calling(app) as caller:
        await caller.until(lambda: any(m.get("reason") == "no_slot" for m in caller.told("state")))
        assert (await caller.state())["reason"] == "no_slot"


async def test_an_offer_while_the_engine_starts_again_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = FakePool()
    async with serving(pool=pool) as app, http(app) as client:
        caller = Caller(client)
        await caller.open()
        dead = dataclasses.replace(pool.stats(), alive=0, free=0)
        monkeypatch.setattr(pool, "stats", lambda: dead)
        answer = await client.post(f"{caller.path}/offer", json=await caller.offer(), headers=caller.headers)
        assert answer.status_code == 503 and code(answer) == "no_worker" and answer.headers["retry-after"]
        await caller.close()


async def test_shutting_down_ends_every_call() -> None:
    pool = FakePool()
    async with serving(pool=pool) as app, http(app) as client:
        callers = [Caller(client), Caller(client)]
        for caller in callers:
            await caller.connect()
        await callers[0].until(lambda: all(caller.distinct for caller in callers))
    assert not pool.leases
    for caller in callers:
        await caller.until(
            lambda caller=caller: any(m.get("reason") == "server_shutdown" for m in caller.told("state"))
        )
        await caller.close()


# Candidates


async def test_every_way_of_ending_trickling_is_taken() -> None:
    ends: list[Any] = [
        {"candidate": None}, {"candidate": ""}, {"candidate": "", "sdpMid": "0"}, {"candidate": "end-of-candidates"},
        {"candidate": "a=end-of-candidates", "sdpMLineIndex": 0}, {"candidate": None, "sdpMid": None},
    ]  # fmt: skip
    bodies = [{"candidates": []}, *({"candidates": [end]} for end in [None, {}, *ends]), *ends]
    async with serving() as app, calling(app) as caller:
        for body in bodies:
            answer = await caller.client.patch(f"{caller.path}/candidates", json=body, headers=caller.headers)
            assert answer.status_code == 204, body
        for body in [{}, None, [], {"candidates": None}, {"candidate": 3}, {"candidates": ["x"]}]:
            answer = await caller.client.patch(f"{caller.path}/candidates", json=body, headers=caller.headers)
            assert answer.status_code == 422, body
        assert (await caller.state())["state"] == "live"


async def test_one_candidate_may_be_the_whole_body() -> None:
    one = {"candidate": "candidate:1 1 udp 2122260223 127.0.0.1 40404 typ host", "sdpMid": "0"}
    async with serving() as app, calling(app) as caller:
        answer = await caller.client.patch(f"{caller.path}/candidates", json=one, headers=caller.headers)
        assert answer.status_code == 204
        ports = {c.port for connection in caller_connections(app) for c in connection.remote_candidates}
        assert 40404 in ports


async def test_candidates_are_limited_and_looked_at() -> None:
    async with serving() as app, calling(app) as caller:

        async def patch(texts: list[str], **extra: Any) -> Any:
            items = [{"candidate": text, "sdpMid": "0", "sdpMLineIndex": 0} | extra for text in texts]
            return await caller.client.patch(
                f"{caller.path}/candidates", json={"candidates": items}, headers=caller.headers
            )

        def candidate(host: str, port: int = 50_000) -> str:
            return f"candidate:1 1 udp 2122260223 {host} {port} typ host"

        refused = [
            "169.254.169.254",
            "10.0.0.1",
            "8.8.8.8",
            "224.0.0.1",
            "0.0.0.0",
            "a.local",
            "::ffff:10.0.0.1",
            "x" * 300,
        ]
        assert (await patch([candidate(host) for host in refused])).status_code == 204
        assert (
            await patch([candidate("127.0.0.1", 22), "candidate:", "nonsense", "candidate:1 1 tcp 1 1 1 typ host"])
        ).status_code == 204
        connections = caller_connections(app)
        hosts = {c.host for connection in connections for c in connection.remote_candidates}
        assert not hosts & set(refused)
        assert (await patch([candidate("127.0.0.1")], sdpMid=None, sdpMLineIndex=None)).status_code == 422
        assert (await patch([candidate("127.0.0.1", 40_000 + i) for i in range(49)])).status_code == 422
        assert (await patch([candidate("127.0.0.1")] * 51)).status_code == 422
        assert (await caller.state())["state"] == "live"


# The data channel


async def test_ping_is_answered_with_its_number() -> None:
    async with serving() as app, calling(app) as caller:
        await caller.until(lambda: caller.channel.readyState == "open")
        caller.send("ping", seq=41)
        await caller.until(lambda: caller.told("pong"))
        pong = caller.told("pong")[0]
        assert pong["v"] == 1 and pong["ping_seq"] == 41 and pong["t_ms"] >= 0


async def test_a_pose_reaches_the_engine_at_the_media_time_of_the_voice() -> None:
    pool = FakePool()
    async with serving(pool=pool) as app, calling(app) as caller:
        await caller.until(lambda: len(caller.distinct) > 5)
        caller.send("pose", yaw=0.2, pitch=9, blendshapes={"jawOpen": 0.5, "unknown": 1})
        stream = pool.leases[0].stream
        await caller.until(lambda: stream.poses)
        at, controls = stream.poses[0]
        assert controls == {"yaw": 0.2, "pitch": 0.35, "jaw": 0.5}
        shown = caller.distinct[-1]
        assert 15 < at - shown < 40  # the delay of the voice, in frames


async def test_nothing_a_peer_sends_ends_the_call() -> None:
    nested = "[" * 8000
    bad: list[str | bytes] = [
        "", "x", "null", "7", "[]", "{}", '{"type": "pose"', nested, "NaN", '{"type": "pose", "yaw": NaN}',
        '{"type": "pose", "yaw": 1e999}', '{"type": "pose", "blendshapes": 7}', '{"v": 2, "type": "ping"}',
        '{"type": "ping", "seq": {"a": 1}}', '{"type": "ping", "seq": 1e400}', '{"type": ["ping"]}', "x" * 20_000,
        b"\xff\xfe\x00", b"", b"\x00" * 20_000, '{"type": "pose", "type": "ping"}', '{"type": "pose", "yaw": "\ud7ff"}',
    ]  # fmt: skip
    async with serving() as app, calling(app) as caller:
        await caller.until(lambda: caller.channel.readyState == "open")
        for message in bad:
            caller.channel.send(message)
            await asyncio.sleep(0.02)
        await caller.until(lambda: len(caller.told("error")) >= 12)
        assert {m["code"] for m in caller.told("error")} == {"invalid_message", "invalid_pose", "unknown_message"}
        seen = len(caller.distinct)
        await caller.until(lambda: len(caller.distinct) > seen + 10)
        assert (await caller.state())["state"] == "live"


async def test_text_that_is_not_utf8_and_a_channel_opened_twice_are_survived() -> None:
    async with serving() as app, calling(app) as caller:
        await caller.until(lambda: caller.channel.readyState == "open")
        sctp = caller.peer.sctp
        await sctp._send(caller.channel.id, 51, b"\xff\xff\xff")  # 51: text
        await sctp._send(caller.channel.id, 50, b"\x03" + b"\x00" * 11)  # 50: control; 3: open
        await sctp._send(caller.channel.id, 50, b"\x03")
        await sctp._send(77, 53, b"no such stream")
        caller.send("ping", seq=9)
        await caller.until(lambda: any(m["ping_seq"] == 9 for m in caller.told("pong")))


async def test_a_flood_of_messages_is_thinned_and_a_flood_of_channels_ends_the_call() -> None:
    pool = FakePool()
    async with serving(pool=pool) as app, calling(app) as caller:
        await caller.until(lambda: caller.distinct and caller.channel.readyState == "open")
        for seq in range(1500):
            caller.channel.send(json.dumps({"type": "pose", "yaw": seq % 3 / 10}))
        await caller.until(lambda: len(pool.leases[0].stream.poses) > 50)
        await asyncio.sleep(0.5)
        assert len(pool.leases[0].stream.poses) < 400
        for i in range(30):
            caller.peer.createDataChannel(f"more-{i}")
        await caller.until(lambda: not pool.leases, 5.0)
        assert (await caller.state())["reason"] == "flood"


async def test_say_has_its_limits_in_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.call.voice.MAX_QUEUED_S", 8.0)
    async with serving(Settings(max_say_seconds=3)) as app, calling(app) as caller:
        post = caller.client.post

        async def say(content: bytes) -> Any:
            return await post(f"{caller.path}/say", content=content, headers=caller.headers)

        assert code(await say(wav_bytes(beeps(4.0)))) == "audio_too_long"
        assert code(await say(b"nonsense")) == "unsupported_audio"
        assert code(await say(wav_bytes(beeps(0.4)))) == "silent_audio"
        ok = await post(f"{caller.path}/say", files={"file": wav_bytes(beeps(2.0))}, headers=caller.headers)
        assert ok.status_code == 202 and ok.json()["duration_ms"] == 2000
        answers = [await say(wav_bytes(beeps(2.9))) for _ in range(5)]
        assert answers[-1].status_code == 429 and code(answers[-1]) == "say_queue_full"


async def test_say_goes_by_the_bytes_whatever_their_type_is_said_to_be() -> None:
    sounds = [wav_bytes(beeps(1.0), 48_000, *kind) for kind in (
        ("PCM_16", "WAV"), ("MPEG_LAYER_III", "MP3"), ("OPUS", "OGG"), ("VORBIS", "OGG"), ("PCM_16", "FLAC"),
    )]  # fmt: skip
    types = ["audio/wav", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json"]
    async with serving() as app, calling(app) as caller:
        for sound, said_type in zip(sounds, types, strict=True):
            headers = caller.headers | {"content-type": said_type}
            raw = await caller.client.post(f"{caller.path}/say", content=sound, headers=headers)
            form = {"file": ("voice.txt", sound, said_type)}
            sent = await caller.client.post(f"{caller.path}/say", files=form, headers=caller.headers)
            assert [(a.status_code, a.json()["duration_ms"]) for a in (raw, sent)] == [(202, 1000)] * 2, said_type


async def test_a_recording_too_large_to_send_is_refused_with_the_limit_and_a_way_out() -> None:
    async with serving(Settings(max_say_seconds=1)) as app, calling(app) as caller:
        surround = np.stack([beeps(0.9, rate=96_000)] * 6, axis=1)
        data = wav_bytes(surround, 96_000, "DOUBLE")
        answer = await caller.client.post(f"{caller.path}/say", content=data, headers=caller.headers)
        message = answer.json()["error"]["message"]
        assert answer.status_code == 413 and "MiB" in message and "MP3" in message and "16 bit mono" in message
        short = wav_bytes(surround[: 96_000 // 4], 96_000, "DOUBLE")
        answer = await caller.client.post(f"{caller.path}/say", content=short, headers=caller.headers)
        assert answer.status_code == 422 and code(answer) == "silent_audio"  # decoded: it ends before a beep


async def test_one_thing_to_say_is_taken_in_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.call.voice.MAX_TURNS", 4)
    wave = wav_bytes(beeps(2.0))
    begun, finish, read = asyncio.Event(), asyncio.Event(), []

    async def slow() -> Any:
        yield wave[:1000]
        begun.set()
        await finish.wait()
        yield wave[1000:]

    async def watched() -> Any:
        read.append(True)
        yield wave

    async with serving() as app, calling(app) as caller:

        async def say(content: Any) -> Any:
            return await caller.client.post(f"{caller.path}/say", content=content, headers=caller.headers)

        first = asyncio.create_task(say(slow()))
        await begun.wait()
        busy = await say(watched())
        assert busy.status_code == 429 and code(busy) == "say_busy" and busy.headers["retry-after"]
        finish.set()
        assert (await first).status_code == 202
        assert code(await say(b"nonsense")) == "unsupported_audio"
        for _ in range(3):
            assert (await say(wave)).status_code == 202
        full = await say(watched())
        assert full.status_code == 429 and code(full) == "say_queue_full"
        assert not read
