"""A real aiortc viewer against the whole gateway; the engine behind it is a fake that makes frames from the voice."""

import asyncio
import os
from pathlib import Path

import numpy as np

from server.settings import Settings
from tests.caller import Caller, Microphone, beeps, calling, http, serving
from tests.fake_pool import FakePool


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
    """Beep and flash: the box is white in just those frames whose own voice is loud."""
    async with serving() as app, calling(app) as caller:
        await caller.say(beeps(6.0))
        await caller.until(lambda: onset_count(caller) >= 5)
        offsets = av_offsets(caller)
        assert len(offsets) >= 4
        assert abs(float(np.median(offsets))) < 0.06, offsets


async def test_the_callers_own_voice_comes_back_with_its_picture() -> None:
    """Puppet mode: what is said into the microphone is heard a constant delay later, and seen at the same moment."""
    pcm = (beeps(8.0) * 32767).astype(np.int16)
    microphone = Microphone(pcm)
    async with serving() as app, calling(app, microphone=microphone) as caller:
        await caller.until(lambda: onset_count(caller) >= 4, 15)
        assert abs(float(np.median(av_offsets(caller)))) < 0.06
        spoken = [
            at for at, before in zip(microphone.loud_at, [0.0, *microphone.loud_at], strict=False) if at - before > 0.3
        ]
        # A beep said while the engine was still opening is not heard at all.
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
    pool = FakePool(restart_s=0.5)
    async with serving(pool=pool) as app, calling(app) as caller:
        await caller.say(beeps(8.0))
        await caller.until(lambda: len(caller.distinct) > 30)
        pool.leases[0].stream.lose()
        await asyncio.sleep(0.3)
        last = caller.distinct[-1]
        await caller.until(lambda: caller.distinct[-1] > last + 60)
        assert caller.distinct == sorted(caller.distinct)
        assert [m["state"] for m in caller.told("state") if "turn" not in m][-2:] == ["recovering", "live"]
        gaps = np.diff([t for t, _, _ in caller.pictures])
        assert gaps.max() < 0.4  # a held picture keeps coming
        assert abs(float(np.median(av_offsets(caller)[-3:]))) < 0.06


async def test_media_time_does_not_run_on_without_an_engine() -> None:
    """What was to be said while the engine was away is said after it came back; the delay is what it was."""
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


async def test_an_interrupt_is_heard_at_once() -> None:
    async with serving() as app, calling(app) as caller:
        t = np.arange(48_000 * 5) / 48_000
        await caller.say((0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32))
        await caller.until(lambda: caller.sounds and caller.sounds[-1][2] > 5000)
        answer = await caller.client.post(f"{caller.path}/interrupt", headers=caller.headers)
        assert answer.status_code == 202 and len(answer.json()["interrupted"]) == 1
        await asyncio.sleep(0.4)
        assert max(peak for _, _, peak in caller.sounds[-5:]) < 200
        assert (await caller.state())["turns"][-1]["state"] == "interrupted"
        await asyncio.sleep(0.5)  # frames that were made stay; none are made of what was taken back
        assert caller.pictures[-1][2] < 140


async def test_settings_of_the_delay() -> None:
    async with serving(Settings(stamp_frames=True, delay_ms=1400)) as app, calling(app) as caller:
        await caller.until(lambda: len(caller.distinct) > 20)
        assert 1300 < (await caller.state())["delay_ms"] < 1550


def onset_times(caller: Caller, loud: int = 3000) -> list[float]:
    """When beeps were first heard."""
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
    """Seconds by which the sound of a beep came after its flash."""
    flashes = []
    for (_, _, before), (at, _, now) in zip(caller.pictures, caller.pictures[1:], strict=False):
        if before < 140 < now:
            flashes.append(at)
    return [min((heard - seen for seen in flashes), key=abs) for heard in onset_times(caller) if flashes]
