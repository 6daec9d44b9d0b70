"""A call with FlashHead's shape on any machine: its transformer, wav2vec2, its chunks and their colours.

Random weights, a real worker process, a real peer. Nothing of the embedded model takes part.
"""

from collections.abc import AsyncIterator

import numpy as np
import pytest
from fastapi import FastAPI

from engine.pool.local import LocalPool
from ground.config import EngineConfig
from server.settings import Settings
from tests.caller import serving
from tests.models.test_wan_call import likeness, made_pictures, shown, talked_to
from tests.server.call.test_call_media import onset_times
from tests.tiny_models import TINY_WORKER

FPS, NEW = 25, 28
CONFIG = EngineConfig(
    model="flashhead-pro-tiny-test", device="cpu", dtype="float32", random_weights=True, slots=1, threads=1
)

pytestmark = pytest.mark.slow


@pytest.fixture
async def app() -> AsyncIterator[FastAPI]:
    async with serving(Settings(stamp_frames=True), LocalPool(CONFIG, command=TINY_WORKER)) as app:
        yield app


async def test_a_peer_sees_the_models_pictures_at_their_own_pace_and_hears_the_voice_with_them(app: FastAPI) -> None:
    pool = app.state.services.pool
    assert (pool.info.first_chunk_frames, pool.info.chunk_frames, pool.info.fps) == (NEW, NEW, FPS)
    alone = await made_pictures(pool, [(0, NEW)])
    again = await made_pictures(pool, [(0, NEW)])
    assert all(np.array_equal(a, b) for a, b in zip(alone, again, strict=True)), "no call is left in the next"
    caller, state = await talked_to(app, pictures=90, seconds=90)
    seen = shown(caller)
    # Before the first word the drive is silence: frame n is what the worker makes of it, and no other picture.
    first = [number for number in sorted(seen) if number < NEW]
    assert len(first) >= 5
    nearest = [int(np.argmax([likeness(seen[number][1], picture) for picture in alone])) for number in first]
    assert np.median(np.abs(np.array(nearest) - first)) <= 1, (first, nearest)
    start, offsets = state["turns"][0]["start_ms"] / 1000, []
    for n, heard in enumerate(onset_times(caller)):
        if (frame := int((start + 0.5 + n) * FPS)) in seen:
            offsets.append(heard - seen[frame][0])
    assert len(offsets) >= 2 and abs(float(np.median(offsets))) < 0.1, offsets
