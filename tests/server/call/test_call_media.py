"""A real aiortc viewer against the whole gateway, with a fake engine that makes frames from the voice."""

import asyncio
import gc
import os
import time
from collections import Counter
from pathlib import Path
from types import FunctionType, ModuleType

import numpy as np
import pytest

from engine.pool.stream import StreamSpec
from ground.errors import CapacityError
from server.metrics import Metrics
from server.rtc.peer import Peer
from server.settings import Settings
from tests.caller import Caller, Microphone, beeps, calling, http, serving
from tests.fake_pool import FakeLease, FakePool

EVERY = 0.77  # seconds from beep to beep: no multiple of a frame or a chunk


def descriptors() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except OSError:
            continue
    return found


async def test_fifty_distinct_engine_frames_and_sound() -> None:
    async with serving() as app, calling(app) as caller:
        await caller.say(beeps(4.0))
        await caller.until(lambda: len(caller.distinct) >= 50 and max(s[2] for s in caller.sounds) > 5000)
        assert caller.distinct == sorted(caller.distinct)
        assert caller.told("stats") and caller.told("state")


async def test_the_portrait_is_seen_at_once_and_frames_soon_after() -> None:
    async with serving() as app, calling(app) as caller:
        await caller.until(lambda: caller.pictures, 1.0)
        began = caller.pictures[0][0]
        await caller.until(lambda: caller.distinct, 2.0)
        first = next(t for t, stamp, _ in caller.pictures if stamp is not None)
        assert first - began < 0.5
        assert caller.distinct[0] <= 2


async def test_sound_and_picture_of_one_media_time_arrive_together() -> None:
    """Beep and flash: the box is white in exactly those frames whose own voice is loud."""
    async with serving() as app, calling(app) as caller:
        await caller.say(beeps(6.0, EVERY))
        await caller.until(lambda: onset_count(caller) >= 7)
        await asyncio.sleep(0.3)
        offsets = av_offsets(caller)
        assert len(offsets) >= 7
        assert abs(float(np.median(offsets))) < 0.06 and max(map(abs, offsets)) < 0.1, offsets


async def test_the_callers_own_voice_comes_back_with_its_picture() -> None:
    """Puppet mode: microphone sound is heard after a constant delay, and seen at the same moment."""
    pcm = (beeps(8.0, 1.31) * 32767).astype(np.int16)
    microphone = Microphone(pcm)
    async with serving() as app, calling(app, microphone=microphone) as caller:
        await caller.until(lambda: onset_count(caller) >= 4, 15)
        await asyncio.sleep(0.3)
        assert abs(float(np.median(av_offsets(caller)))) < 0.06
        spoken = [
            at for at, before in zip(microphone.loud_at, [0.0, *microphone.loud_at], strict=False) if at - before > 0.3
        ]
        # A beep sent while the engine was still opening is not heard at all.
        delays = [min(heard - said for said in spoken if said < heard) for heard in onset_times(caller)]
        assert min(delays) > 0.7 and max(delays) < 1.5 and max(delays) - min(delays) < 0.12, delays


async def test_closing_a_call_leaves_nothing() -> None:
    pool = FakePool()
    async with serving(pool=pool) as app:
        async with calling(app) as caller:
            await caller.until(lambda: len(caller.distinct) > 3)
        await asyncio.sleep(0.1)
        tasks, open_files = len(asyncio.all_tasks()), sorted(descriptors())
        for _ in range(3):
            async with calling(app) as caller:
                await caller.until(lambda caller=caller: len(caller.distinct) > 3)
                assert len(pool.leases) == 1
            assert not pool.leases
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) == tasks
        assert len(descriptors()) == len(open_files), set(descriptors()) - set(open_files)


async def test_a_lost_engine_is_replaced_within_the_call() -> None:
    pool = FakePool(restart_s=3.0)  # longer than the frames already made last
    async with serving(pool=pool) as app, calling(app) as caller:
        await caller.say(beeps(8.0, EVERY))
        await caller.until(lambda: len(caller.distinct) > 30)
        pool.leases[0].stream.lose()
        await asyncio.sleep(0.3)
        last = caller.distinct[-1]
        await caller.until(lambda: caller.distinct[-1] > last + 60)
        assert caller.distinct == sorted(caller.distinct)
        assert [m["state"] for m in caller.told("state") if "turn" not in m][-2:] == ["recovering", "live"]
        gaps = np.diff([t for t, _, _ in caller.pictures])
        # In seconds. A busy machine stalls for tenths; without a held picture the gap would be over one second.
        assert gaps.max() < 0.8
        shown = Counter(stamp for _, stamp, _ in caller.pictures if stamp is not None)
        assert max(shown.values()) > 10  # the held picture
        assert max(map(abs, av_offsets(caller)[-3:])) < 0.1


async def test_media_time_does_not_run_on_without_an_engine() -> None:
    """Speech queued while the engine is away is spoken after its return, and the delay is as before."""
    pool = FakePool(restart_s=1.0)
    async with serving(pool=pool) as app, calling(app) as caller:
        await caller.until(lambda: len(caller.distinct) > 20)
        before = (await caller.state())["delay_ms"]
        pool.leases[0].stream.lose()
        await asyncio.sleep(0.1)
        await caller.say(beeps(3.0))
        await caller.until(lambda: onset_count(caller) >= 2)
        assert abs((await caller.state())["delay_ms"] - before) < 200


async def test_a_second_call_has_its_own_frames() -> None:
    async with serving() as app, calling(app) as one, calling(app) as two:
        await asyncio.gather(*(c.until(lambda c=c: len(c.distinct) > 25) for c in (one, two)))


async def test_hang_up_by_either_side() -> None:
    pool = FakePool()
    async with serving(pool=pool) as app, http(app) as client:
        first = Caller(client)
        await first.connect()
        await first.until(lambda: first.distinct)
        assert (await client.delete(first.path, headers=first.headers)).status_code == 204
        assert (await first.state())["reason"] == "hang_up"
        assert not pool.leases
        await first.until(lambda: any(m.get("state") == "ended" for m in first.told("state")))
        await first.close()
        second = Caller(client)
        await second.connect()
        await second.until(lambda: second.distinct)
        await second.close()
        await second.until(lambda: not pool.leases, 5.0)
        assert (await second.state())["reason"] == "remote"
        page = (await client.get("/metrics")).text
        assert 'knotcast_calls_ended_total{reason="hang_up"} 1.0' in page
        assert 'knotcast_calls_ended_total{reason="remote"} 1.0' in page
        assert "knotcast_calls_live 0.0" in page


async def test_a_calls_figures_begin_with_its_offer() -> None:
    """They do not begin with its session, which a page may create long before."""
    async with serving() as app, http(app) as client:
        caller = Caller(client)
        await caller.open()
        await asyncio.sleep(2.0)
        began = time.monotonic()
        await caller.connect()
        await caller.until(lambda: caller.told("stats"))
        stats, took = caller.told("stats")[0], time.monotonic() - began
        assert max(message["t_ms"] for message in caller.messages) <= took * 1000 + 1
        assert stats["generated_frames"] > 0 and stats["distinct_fps"] > 0.5 * stats["generated_frames"]
        page = (await client.get("/metrics")).text.splitlines()
        (first,) = [float(line.split()[1]) for line in page if line.startswith("knotcast_first_frame_seconds_sum")]
        assert 0 < first < took
        await client.delete(caller.path, headers=caller.headers)
        await caller.close()


async def test_an_interrupt_is_heard_at_once() -> None:
    pool = FakePool()
    async with serving(pool=pool) as app, calling(app) as caller:
        t = np.arange(48_000 * 5) / 48_000
        await caller.say((0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32))
        await caller.until(lambda: caller.sounds and caller.sounds[-1][2] > 5000)
        answer = await caller.client.post(f"{caller.path}/interrupt", headers=caller.headers)
        made = pool.leases[0].stream.made
        assert answer.status_code == 202 and len(answer.json()["interrupted"]) == 1
        await asyncio.sleep(0.4)
        assert max(peak for _, _, peak in caller.sounds[-5:]) < 200
        assert (await caller.state())["turns"][-1]["state"] == "interrupted"
        await caller.until(lambda: caller.distinct[-1] > made + 12)
        # Frames already made stay; none is made from the voice that was taken back.
        after = [luma for _, stamp, luma in caller.pictures if stamp is not None and stamp >= made]
        assert len(after) > 10 and max(after) < 140


async def test_the_end_of_a_sentence_can_be_stopped() -> None:
    """The interrupt comes when the whole turn has been sent to the engine, but its last second not to the viewer."""
    async with serving(Settings(stamp_frames=True, delay_ms=1500)) as app, calling(app) as caller:
        t = np.arange(48_000 * 2) / 48_000
        turn = await caller.say((0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32))
        await caller.until(lambda: any(s[2] > 5000 for s in caller.sounds))
        began = next(at for at, _, peak in caller.sounds if peak > 5000)
        await asyncio.sleep(began + 1.0 - time.monotonic())
        assert [m["turn"]["state"] for m in caller.told("state") if "turn" in m] == ["speaking"]
        answer = await caller.client.post(f"{caller.path}/interrupt", headers=caller.headers)
        stopped = time.monotonic()
        assert answer.json()["interrupted"] == [turn["turn_id"]]
        await asyncio.sleep(1.0)
        assert max(peak for at, _, peak in caller.sounds if at > stopped + 0.3) < 200
        assert caller.told("state")[-1]["turn"]["state"] == "interrupted"
        again = await caller.client.post(f"{caller.path}/interrupt", headers=caller.headers)
        assert again.json()["interrupted"] == []


async def test_a_turn_has_ended_when_its_end_was_heard() -> None:
    async with serving() as app, calling(app) as caller:
        await caller.say(0.5 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000))
        ended_at = None
        while ended_at is None:
            await asyncio.sleep(0.02)
            if any(m["turn"]["state"] == "finished" for m in caller.told("state") if "turn" in m):
                ended_at = time.monotonic()
        await asyncio.sleep(0.3)
        last = max(at for at, _, peak in caller.sounds if peak > 5000)
        assert -0.15 < ended_at - last < 0.6


@pytest.mark.parametrize(("asked", "least", "most"), [(1400, 1300, 1550), (5000, 4850, 5150), (20, 650, 1100)])
async def test_settings_of_the_delay(asked: int, least: int, most: int) -> None:
    """The longest delay that may be configured is kept. One below what the model needs is raised."""
    async with serving(Settings(stamp_frames=True, delay_ms=asked)) as app, calling(app) as caller:
        await caller.say(beeps(4.0, EVERY))
        await caller.until(lambda: onset_count(caller) >= 3, 15)
        assert least < (await caller.state())["delay_ms"] < most
        assert max(map(abs, av_offsets(caller))) < 0.1


async def test_a_long_delay_outlives_its_engine() -> None:
    pool = FakePool()
    async with serving(Settings(stamp_frames=True, delay_ms=5000), pool) as app, calling(app) as caller:
        await caller.until(lambda: len(caller.distinct) > 10, 15)
        pool.leases[0].stream.lose()
        last = caller.distinct[-1]
        await caller.until(lambda: caller.distinct[-1] > last + 150, 20)


async def test_a_call_refused_at_once_says_why() -> None:
    """The first ``ended`` message carries the reason, because a page reads no later one."""

    class Full(FakePool):
        async def acquire(self, spec: StreamSpec) -> FakeLease:
            raise CapacityError("no_slot", "every slot is taken: try again later", status=429)

    async with serving(pool=Full()) as app, calling(app) as caller:
        await caller.until(lambda: any(m["state"] == "ended" for m in caller.told("state")))
        ended = [m for m in caller.told("state") if m["state"] == "ended"]
        assert [m.get("reason") for m in ended] == ["no_slot"]


async def test_an_engine_that_gives_nothing_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.call.engine_link.PATIENCE_STEPS", 20)
    pool = FakePool(chunk_s=60.0)
    async with serving(pool=pool) as app, calling(app) as caller:
        await caller.until(lambda: any(m["state"] == "ended" for m in caller.told("state")))
        assert (await caller.state())["reason"] == "engine_silent"
    assert not pool.leases


async def test_an_ended_session_keeps_no_pictures() -> None:
    async with serving() as app, calling(app) as called:
        await called.until(lambda: called.distinct)
        unused = Caller(called.client)
        await unused.open()
        sessions = list(app.state.services.sessions._sessions.values())
        assert all(held(session) > 200_000 for session in sessions)
        for caller in (called, unused):
            await caller.client.delete(caller.path, headers=caller.headers)
            assert (await caller.state())["reason"] == "hang_up"
        await called.close()
        assert [session.state for session in sessions] == ["ended", "ended"]
        assert all(held(session) < 20_000 for session in sessions)


def held(root: object) -> int:
    """Bytes of all arrays that can be reached from ``root`` without going through the app."""
    seen: set[int] = set()
    total, waiting = 0, [root]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, type | ModuleType | FunctionType | FakePool | Metrics):
            continue
        seen.add(id(found))
        if isinstance(found, np.ndarray):
            total += found.nbytes
        waiting += gc.get_referents(found)
    return total


async def test_the_longest_ended_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.sessions.MAX_REMEMBERED", 3)
    async with serving(Settings(max_sessions=2)) as app, http(app) as client:
        made = []
        for _ in range(6):
            caller = Caller(client)
            await caller.open()
            made.append(caller)
            if len(made) != 2:  # the second session stays open
                await client.delete(caller.path, headers=caller.headers)
        found = [(await client.get(c.path, headers=c.headers)).status_code for c in made]
        assert found == [404, 200, 404, 404, 200, 200]


async def test_a_hang_up_while_the_offer_is_being_answered_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, answering, hung_up = FakePool(), asyncio.Event(), asyncio.Event()
    accept = Peer.accept

    async def slow(peer: Peer, sdp: str) -> str:
        answer = await accept(peer, sdp)
        answering.set()
        await hung_up.wait()
        return answer

    monkeypatch.setattr(Peer, "accept", slow)
    async with serving(pool=pool) as app, http(app) as client:
        caller = Caller(client)
        await caller.open()
        offer = await caller.offer()
        asked = asyncio.create_task(client.post(f"{caller.path}/offer", json=offer, headers=caller.headers))
        await answering.wait()
        assert (await client.delete(caller.path, headers=caller.headers)).status_code == 204
        hung_up.set()
        answer = await asked
        assert answer.status_code == 409 and answer.json()["error"]["code"] == "session_ended"
        assert (await caller.state())["state"] == "ended" and pool.acquired == 0
        await caller.close()


async def test_a_session_does_not_expire_while_its_offer_is_being_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    accept = Peer.accept

    async def slow(peer: Peer, sdp: str) -> str:
        await asyncio.sleep(1.5)
        return await accept(peer, sdp)

    monkeypatch.setattr(Peer, "accept", slow)
    async with serving(Settings(session_ttl_s=0.5)) as app, calling(app) as caller:
        assert (await caller.state())["state"] in ("connecting", "live")


async def test_candidates_before_the_offer_are_refused_and_not_lost() -> None:
    async with serving() as app, http(app) as client:
        caller = Caller(client)
        await caller.open()
        item = {"candidate": "candidate:1 1 udp 2122260223 127.0.0.1 50000 typ host", "sdpMid": "0"}
        early = await client.patch(f"{caller.path}/candidates", json={"candidates": [item]}, headers=caller.headers)
        assert early.status_code == 409 and early.json()["error"]["code"] == "no_offer"
        await caller.connect()
        again = await client.patch(f"{caller.path}/candidates", json={"candidates": [item]}, headers=caller.headers)
        assert again.status_code == 204
        await client.delete(caller.path, headers=caller.headers)
        await caller.close()


def onset_times(caller: Caller, loud: int = 3000) -> list[float]:
    """Arrival times of the beeps' beginnings."""
    found, quiet_since = [], 0.0
    for at, _, peak in caller.sounds:
        if peak > loud:
            if at - quiet_since > 0.2 and (not found or at - found[-1] > 0.5):
                found.append(at)
            quiet_since = at
    return found


def onset_count(caller: Caller) -> int:
    return len(onset_times(caller))


def av_offsets(caller: Caller) -> list[float]:
    """Seconds from each flash to its beep. The first beep belongs to the first flash."""
    flashes = []
    for (_, _, before), (at, _, now) in zip(caller.pictures, caller.pictures[1:], strict=False):
        if before < 140 < now:
            flashes.append(at)
    return [heard - seen for heard, seen in zip(onset_times(caller), flashes, strict=False)]
