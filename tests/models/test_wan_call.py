"""A call with Wan2.1's shape on any machine: its transformer's inputs and text, its autoencoder, 16 frames a second.

Random weights, a real worker process, a real peer. Nothing of the embedded model takes part.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi import FastAPI

from engine.pool.local import LocalPool
from engine.pool.stream import StreamSpec
from engine.portrait.portrait import Portrait
from ground.config import EngineConfig
from server.settings import Settings
from tests.caller import Caller, beeps, http, serving
from tests.faces import LANDMARKS, drawn_face
from tests.server.call.test_call_media import onset_times
from tests.tiny_models import TINY_WORKER

FPS, SEED = 16, 7
SPANS = ((0, 9), (9, 12), (21, 12))
CONFIG = EngineConfig(model="wan-tiny-test", device="cpu", dtype="float32", random_weights=True, slots=1, threads=1)

pytestmark = pytest.mark.slow


@pytest.fixture
async def app() -> AsyncIterator[FastAPI]:
    async with serving(Settings(stamp_frames=True), LocalPool(CONFIG, command=TINY_WORKER)) as app:
        yield app


async def made_pictures(pool: LocalPool, spans: Sequence[tuple[int, int]] = SPANS) -> list[np.ndarray]:
    """I420 pictures that the worker makes of a drawn face and silence, in chunks of (first frame, frames)."""
    lease = await pool.acquire(StreamSpec("asked", Portrait(drawn_face(256), LANDMARKS), seed=SEED, live=False))
    lease.stream.push_voice(np.zeros(16_000 * 4, np.int16), 0)
    async with asyncio.timeout(60):
        made = [await lease.stream.next_chunk() for _ in spans]
    await lease.release()
    assert [(chunk.first_frame, len(chunk.frames)) for chunk in made] == list(spans)
    return [frame for chunk in made for frame in chunk.frames]


async def test_the_worker_says_what_it_makes_and_makes_it(app: FastAPI) -> None:
    pool = app.state.services.pool
    info = pool.info
    assert (info.name, info.width, info.height, info.fps) == ("wan-tiny-test", 128, 128, FPS)
    assert (info.first_chunk_frames, info.chunk_frames, info.drive_ahead_frames) == (9, 12, 4)
    assert info.lookahead_ms == 32.5  # a token reaches 95 ms from its frame's start, a frame lasts 62.5
    pictures = await made_pictures(pool)
    assert pictures[0].shape == (192, 128)
    assert len({picture.tobytes() for picture in pictures}) == 33, "every picture differs"
    again = await made_pictures(pool, SPANS[:1])
    assert all(np.array_equal(a, b) for a, b in zip(pictures, again, strict=False)), "no call is left in the next"


def shown(caller: Caller) -> dict[int, tuple[float, np.ndarray]]:
    """By frame number: when it was first seen, and its luma above the stamp."""
    found: dict[int, tuple[float, np.ndarray]] = {}
    for (at, stamp, _), luma in zip(caller.pictures, caller.lumas, strict=False):
        if stamp is not None:
            found.setdefault(stamp, (at, luma[:112]))
    return found


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two pictures' luma, after what compression may have done to it is averaged away."""
    small = [cv2.resize(luma[:112, :128], (32, 28), interpolation=cv2.INTER_AREA).ravel() for luma in (one, other)]
    return float(np.corrcoef(*small)[0, 1])


async def talked_to(app: FastAPI, *, pictures: int, seconds: float) -> tuple[Caller, dict[str, Any]]:
    """A peer after a call in which it heard three beeps and saw so many pictures, all in order, and the session."""
    async with http(app) as client:
        caller = Caller(client, keep_pictures=True)
        await caller.open(seed=SEED)
        await caller.connect()
        try:
            await caller.say(beeps(5.0))
            await caller.until(lambda: len(caller.distinct) >= pictures and len(onset_times(caller)) >= 3, seconds)
            state = await caller.state()
        finally:
            await client.delete(caller.path, headers=caller.headers)
            await caller.close()
    assert state["state"] == "live" and caller.distinct == sorted(caller.distinct)
    return caller, state


async def test_a_peer_sees_the_models_pictures_at_their_own_pace_and_hears_the_voice_with_them(app: FastAPI) -> None:
    alone = await made_pictures(app.state.services.pool, SPANS[:1])
    caller, state = await talked_to(app, pictures=60, seconds=60)
    seen = shown(caller)
    numbers = sorted(seen)
    # At content speed; a chunk that is late holds picture and sound, so the median says it.
    steps = [(seen[b][0] - seen[a][0]) / (b - a) for a, b in zip(numbers, numbers[8:], strict=False)]
    assert 1 / np.median(steps) == pytest.approx(FPS, rel=0.1)
    start, offsets = state["turns"][0]["start_ms"] / 1000, []
    for n, heard in enumerate(onset_times(caller)):
        if (frame := int((start + 0.5 + n) * FPS)) in seen:
            offsets.append(heard - seen[frame][0])
    assert len(offsets) >= 2 and abs(float(np.median(offsets))) < 0.1, offsets
    # Before the first word the drive is silence: frame n is what the worker makes of it, and no other picture.
    first = [number for number in numbers if number < 9]
    assert len(first) >= 5
    for number in first:
        like = [likeness(seen[number][1], picture) for picture in alone]
        assert int(np.argmax(like)) == number and like[number] > 0.8, (number, like)
    assert all(likeness(seen[number][1], portrait()) < 0.5 for number in first)


def portrait() -> np.ndarray:
    return cv2.cvtColor(cv2.resize(drawn_face(256), (128, 128)), cv2.COLOR_RGB2GRAY)
