"""Calls through real worker processes: the model on random weights, and on the trained ones if they are installed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI

from engine.pool.local import LocalPool
from ground.config import EngineConfig
from server.settings import Settings
from tests.caller import Caller, beeps, calling, http, serving
from tests.server.call.test_call_media import descriptors, onset_times

WEIGHTS = Path(__file__).resolve().parents[3] / "models" / "weights" / "embedded" / "dit.safetensors"
SAMPLE = Path(__file__).resolve().parents[3] / "client_web" / "samples" / "portrait_1.jpg"

pytestmark = pytest.mark.slow


@pytest.fixture
async def app() -> AsyncIterator[FastAPI]:
    pool = LocalPool(EngineConfig(random_weights=True, slots=2, threads=1))
    async with serving(Settings(stamp_frames=True), pool) as app:
        yield app


def beep_offsets(caller: Caller, start_ms: float) -> list[float]:
    """Seconds from the arrival of the frame at each beep's media time to the arrival of the beep. start_ms: media time
    of the turn.
    """
    first_seen: dict[int, float] = {}
    for at, stamp, _ in caller.pictures:
        if stamp is not None:
            first_seen.setdefault(stamp, at)
    offsets = []
    for n, heard in enumerate(onset_times(caller)):
        frame = int((start_ms / 1000 + 0.5 + n) * 25)
        if frame in first_seen:
            offsets.append(heard - first_seen[frame])
    return offsets


async def test_fifty_distinct_engine_frames_and_sound(app: FastAPI) -> None:
    async with calling(app) as caller:
        await caller.say(beeps(4.0))
        await caller.until(lambda: len(caller.distinct) >= 50 and max(s[2] for s in caller.sounds) > 5000, 30)
        assert caller.distinct == sorted(caller.distinct)
        start = (await caller.state())["turns"][0]["start_ms"]
        assert abs(float(np.median(beep_offsets(caller, start)))) < 0.1


async def test_a_killed_worker_is_replaced_in_the_call_and_stays_in_sync(app: FastAPI) -> None:
    pool = app.state.services.pool
    async with calling(app) as caller:
        await caller.until(lambda: len(caller.distinct) > 25, 30)
        pid = pool._seats[0].client.pid
        os.kill(pid, signal.SIGKILL)
        await caller.until(lambda: any(m["state"] == "recovering" for m in caller.told("state")), 10)
        last = caller.distinct[-1]
        await caller.say(beeps(5.0))
        await caller.until(lambda: caller.distinct[-1] > last + 100, 90)
        assert pool._seats[0].client.pid != pid
        assert caller.distinct == sorted(caller.distinct)
        shown = await caller.state()
        assert shown["state"] == "live"
        offsets = beep_offsets(caller, shown["turns"][0]["start_ms"])
        assert len(offsets) >= 2 and abs(float(np.median(offsets))) < 0.1, offsets


async def test_closing_calls_leaves_no_descriptor_and_no_shared_memory(app: FastAPI) -> None:
    async def call_once() -> None:
        async with calling(app) as caller:
            await caller.until(lambda: len(caller.distinct) > 5, 30)

    await call_once()
    await asyncio.sleep(0.2)
    before, shared = len(descriptors()), os.listdir("/dev/shm")
    rings = sum("memfd" in target for target in descriptors())
    for _ in range(2):
        await call_once()
    await asyncio.sleep(0.2)
    assert len(descriptors()) == before and os.listdir("/dev/shm") == shared
    assert sum("memfd" in target for target in descriptors()) == rings == 0
    assert app.state.services.pool.stats().leased == 0


@pytest.mark.skipif(not WEIGHTS.exists(), reason="needs the trained weights")
async def test_a_step_of_twenty_degrees_turns_the_head() -> None:
    """The middle of the face moves to the side of the turn, and the picture differs from the one looking straight."""
    from server.portraits.process import PictureProcess

    pool = LocalPool(EngineConfig(slots=1, threads=1))
    async with serving(Settings(stamp_frames=True), pool, PictureProcess()) as app, http(app) as client:
        portrait = (await client.put("/v1/portraits", content=SAMPLE.read_bytes())).json()
        made = await client.post("/v1/sessions", json={"portrait_id": portrait["id"], "seed": 1})
        caller = Caller(client, keep_pictures=True, session=made.json())
        await caller.connect()
        try:
            shifts = {}
            for yaw in (0.0, 0.349, -0.349):
                until = len(caller.distinct) + 75
                while len(caller.distinct) < until:
                    caller.send("pose", yaw=yaw, pitch=0.0, roll=0.0)
                    await asyncio.sleep(0.05)
                shifts[yaw] = np.mean(caller.lumas[-5:], axis=0)[96:176, 64:192]
            still, left, right = shifts[0.0], shifts[0.349], shifts[-0.349]
            assert np.abs(left - still).mean() > 6 and np.abs(right - still).mean() > 6
            # Positive yaw turns to the avatar's own left, which is right in the picture.
            assert _shift(still, left) > 1 and _shift(still, right) < -1
        finally:
            await client.delete(caller.path, headers=caller.headers)
            await caller.close()


def _shift(before: np.ndarray, after: np.ndarray) -> int:
    """Pixels by which the middle of ``before`` lies further right in ``after``."""
    middle = before[:, 32:96]
    errors = {d: float(np.abs(after[:, 32 + d : 96 + d] - middle).mean()) for d in range(-30, 31)}
    return min(errors, key=lambda d: errors[d])
