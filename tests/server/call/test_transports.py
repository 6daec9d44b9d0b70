"""A call and its transports, without a network: connecting, replacing and losing them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from engine.pool.stream import StreamSpec
from engine.portrait.portrait import Portrait
from ground.clock import monotonic
from ground.errors import RequestError
from ground.units import BLOCK
from server.call.call import Call, CallParts
from server.call.stamp import read_stamp
from server.call.voice import Turn
from server.metrics import Metrics
from server.settings import Settings
from tests.fake_pool import SIZE, FakePool
from tests.fake_transport import FakeTransport

TONE = (16_000 * np.sin(2 * np.pi * 440 * np.arange(48_000 * 20) / 48_000)).astype(np.int16)


class Outliving(Call):
    """A call that goes on without a transport."""

    def _outlives(self, reason: str) -> bool:
        return True


@contextlib.asynccontextmanager
async def calling(
    kind: type[Call] = Call, pool: FakePool | None = None, **settings: object
) -> AsyncIterator[tuple[Call, list[tuple[str, str | None]], FakePool]]:
    pool = pool or FakePool()
    states: list[tuple[str, str | None]] = []
    spec = StreamSpec(stream="s", portrait=Portrait(np.zeros((SIZE, SIZE, 3), np.uint8), {}))
    parts = CallParts(Settings(stamp_frames=True, **settings), pool, Metrics())
    call = kind(parts, spec, lambda state, reason: states.append((state, reason)))
    try:
        yield call, states, pool
    finally:
        await call.close("hang_up")
        assert not pool.leases


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def frames(transport: FakeTransport) -> list[int]:
    """Numbers of the generated frames that were sent, each once."""
    stamps = [read_stamp(picture[:SIZE]) for _, picture in transport.pictures]
    return list(dict.fromkeys(stamp for stamp in stamps if stamp is not None))


def peak(transport: FakeTransport) -> int:
    return int(np.abs(transport.sounds[-1][1].astype(int)).max()) if transport.sounds else 0


async def test_pictures_sound_and_messages_go_out_and_voice_and_poses_come_in() -> None:
    async with calling() as (call, states, pool):
        transport = FakeTransport()
        call.attach(transport, monotonic())
        await until(lambda: len(frames(transport)) > 5)
        assert states == [("connecting", None), ("live", None)]
        assert [message["state"] for message in transport.told("state")] == ["connecting", "live"]
        transport.say("pose", yaw=0.2)
        transport.say("ping", seq=3)
        await until(lambda: pool.leases[0].stream.poses)
        assert pool.leases[0].stream.poses[0][1] == {"yaw": 0.2} and transport.told("pong")[0]["ping_seq"] == 3
        began = len(transport.sounds)
        for at in range(0, 100 * BLOCK, BLOCK):
            transport.speak(TONE[at : at + BLOCK])
            await asyncio.sleep(0.01)
        await until(lambda: any(np.abs(s.astype(int)).max() > 8000 for _, s in transport.sounds[began:]))
        transport.speak(None)  # the track ends, the call goes on
        seen = len(frames(transport))
        await until(lambda: len(frames(transport)) > seen + 10)
        ticks = [tick for tick, _ in transport.sounds]
        assert ticks == list(range(len(ticks)))


async def test_no_engine_is_taken_before_a_transport_has_connected() -> None:
    async with calling() as (call, states, pool):
        transport = FakeTransport(connected=False)
        call.attach(transport, monotonic())
        await asyncio.sleep(0.1)
        assert pool.acquired == 0 and not transport.sounds
        transport.connected.set()
        await until(lambda: pool.acquired == 1)


@pytest.mark.parametrize("reason", ["remote", "ice_failed", "flood"])
async def test_a_call_ends_with_its_transport_and_says_why(reason: str) -> None:
    async with calling() as (call, states, pool):
        transport = FakeTransport()
        call.attach(transport, monotonic())
        await until(lambda: frames(transport))
        transport.lose(reason)
        await until(lambda: states[-1] == ("ended", reason))
        await until(lambda: transport.closed)
        assert call.reason == reason and call.why


async def test_a_silent_transport_is_told_of_the_end() -> None:
    """The network may have failed in one direction only."""
    async with calling(heartbeat_s=0.4) as (call, states, pool):
        transport = FakeTransport()
        call.attach(transport, monotonic())
        await until(lambda: frames(transport))
        transport.silent_since = monotonic()
        await until(lambda: transport.closed)
        ended = transport.told("state")[-1]
        assert (ended["state"], ended["reason"]) == ("ended", "heartbeat_lost") and ended["message"]
        assert states[-1] == ("ended", "heartbeat_lost")


async def test_another_transport_takes_a_live_call_over() -> None:
    """Media time, ticks, engine, turns and counters go on."""
    async with calling() as (call, states, pool):
        first, second = FakeTransport(), FakeTransport(connected=False)
        call.attach(first, monotonic())
        call.say(Turn("tone", TONE))
        await until(lambda: peak(first) > 8000)
        call.attach(second, monotonic())
        await asyncio.sleep(0.1)
        assert not second.sounds and not first.closed  # the first carries the call until then
        before = call.stream.figures()
        second.connected.set()
        await until(lambda: len(frames(second)) > 10 and peak(second) > 8000)
        assert first.closed == 1 and states == [("connecting", None), ("live", None)]
        assert second.sounds[0][0] == first.sounds[-1][0] + 1
        assert frames(second)[0] - frames(first)[-1] in (0, 1)
        assert pool.leases[0].stream.epoch == 0 and pool.acquired == 1
        assert call.stream.figures().shown > before.shown and call.stream.position > before.position
        assert [turn.state for turn in call.stream.turns] == ["speaking"]
        assert second.told("state")[0]["state"] == "live"
        assert second.told("state")[0]["t_ms"] >= first.told("state")[-1]["t_ms"]
        await asyncio.sleep(0.4)  # the loss of the first transport ends nothing
        assert call.state == "live"


async def test_a_transport_that_does_not_connect_leaves_the_call_to_the_one_before() -> None:
    async with calling(setup_deadline_s=0.3) as (call, states, pool):
        first, second = FakeTransport(), FakeTransport(connected=False)
        call.attach(first, monotonic())
        await until(lambda: frames(first))
        call.attach(second, monotonic())
        await until(lambda: second.closed)
        seen = len(frames(first))
        await until(lambda: len(frames(first)) > seen + 10)
        assert call.state == "live" and not first.closed


async def test_the_media_need_no_transport() -> None:
    """With ``_outlives`` returning True, the call goes on without a transport until another one is attached."""
    async with calling(Outliving) as (call, states, pool):
        first, second = FakeTransport(), FakeTransport()
        call.attach(first, monotonic())
        call.say(Turn("tone", TONE))
        await until(lambda: peak(first) > 8000)
        first.lose("ice_failed")
        await until(lambda: first.closed)
        alone = call.stream.figures()
        await asyncio.sleep(0.6)
        assert call.state == "live" and call.stream.figures().shown > alone.shown + 5
        call.attach(second, monotonic())
        await until(lambda: len(frames(second)) > 5 and peak(second) > 8000)
        assert frames(second)[0] > frames(first)[-1] + 5 and pool.leases[0].stream.epoch == 0
        assert [turn.state for turn in call.stream.turns] == ["speaking"]


async def test_an_ended_call_takes_no_transport() -> None:
    async with calling() as (call, states, pool):
        await call.close("hang_up")
        with pytest.raises(RequestError) as caught:
            call.attach(FakeTransport(), monotonic())
        assert (caught.value.code, caught.value.status) == ("session_ended", 409)


async def test_every_transport_is_closed_with_the_call() -> None:
    async with calling() as (call, states, pool):
        transports = [FakeTransport(), FakeTransport(connected=False)]
        for transport in transports:
            call.attach(transport, monotonic())
        await until(lambda: frames(transports[0]))
        await call.close("server_shutdown")
        assert [transport.closed for transport in transports] == [1, 1]
        assert transports[0].told("state")[-1]["reason"] == "server_shutdown"
