"""The pool: slots are counted, lost workers come back, calls go on in the next one, and nothing is left behind."""

import asyncio
import errno
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from engine.pool.local import LocalPool, PoolStats
from ground.config import EngineConfig
from ground.errors import CapacityError, EngineError, RequestError
from tests.engine.pool.test_client import FAKE, QUICK, nothing_leaks, spec, voice

__all__ = ["nothing_leaks"]  # a fixture


def make_pool(
    workers: int = 1, spares: int = 0, slots: int = 2, model: str = "fake", patience: float = 10.0
) -> LocalPool:
    config = EngineConfig(model=model, slots=slots)
    return LocalPool(config, workers, spares, command=FAKE, limits=QUICK, patience=patience)


@pytest.fixture
async def pool() -> AsyncIterator[LocalPool]:
    pool = make_pool()
    await pool.start()
    yield pool
    await pool.close()


def kill(pool: LocalPool, seat: int = 0) -> None:
    pid = pool._seats[seat].client.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def test_slots_are_counted_and_given_back(pool: LocalPool) -> None:
    assert pool.stats() == PoolStats(workers=1, alive=1, slots=2, leased=0, free=2, restarts=0)
    one, two = await pool.acquire(spec("one")), await pool.acquire(spec("two"))
    assert pool.stats().free == 0
    with pytest.raises(CapacityError) as full:
        await pool.acquire(spec("three"))
    assert (full.value.code, full.value.status, full.value.retryable) == ("no_slot", 429, True)
    await one.release()
    await one.release()
    assert pool.stats().free == 1
    three = await pool.acquire(spec("three"))
    await asyncio.gather(two.release(), three.release())
    assert pool.stats().leased == 0


async def test_a_slot_is_given_back_when_the_worker_refuses(pool: LocalPool) -> None:
    with pytest.raises(EngineError):
        lease = await pool.acquire(spec("bad", seed=666))
        lease.stream.push_voice(voice(1), 0)
        try:
            await lease.stream.next_chunk()
        finally:
            await lease.release()
    assert pool.stats().leased == 0


async def test_a_call_goes_on_after_its_worker_was_killed(pool: LocalPool) -> None:
    lease = await pool.acquire(spec("call"))
    lease.stream.push_voice(voice(21), 0)
    assert [(await lease.stream.next_chunk()).first_frame for _ in range(2)] == [0, 9]
    kill(pool)
    began = time.monotonic()
    with pytest.raises(EngineError) as lost:
        await lease.stream.next_chunk()
    assert lost.value.code == "worker_lost" and time.monotonic() - began < 1.0
    stream = await lease.reopen(30)
    stream.push_voice(voice(20), 30 * 640)
    chunk = await stream.next_chunk()
    assert (chunk.epoch, chunk.index, chunk.first_frame) == (1, 0, 30)
    assert lease.stream is stream
    assert pool.stats().restarts == 1 and pool.stats().leased == 1
    await lease.release()


async def test_a_call_moves_to_a_spare_at_once() -> None:
    pool = make_pool(spares=1, slots=1)
    await pool.start()
    assert pool.stats().slots == 1 and pool.stats().alive == 2
    lease = await pool.acquire(spec("call"))
    with pytest.raises(CapacityError):
        await pool.acquire(spec("a spare is not for sale"))
    assert [seat.leased for seat in pool._seats] == [1, 0]
    kill(pool)
    with pytest.raises(EngineError):
        await lease.stream.next_chunk()
    began = time.monotonic()
    await lease.reopen(10)
    assert time.monotonic() - began < 0.2  # no process had to start
    assert [seat.leased for seat in pool._seats] == [0, 1]
    await lease.release()
    assert [seat.leased for seat in pool._seats] == [0, 0]
    await pool.close()


async def test_a_spare_stays_free_while_the_workers_have_room() -> None:
    pool = make_pool(workers=2, spares=1, slots=2)
    await pool.start()
    leases = [await pool.acquire(spec(f"call {number}")) for number in range(4)]
    assert sorted(seat.leased for seat in pool._seats) == [0, 2, 2]
    for lease in leases:
        await lease.release()
    await pool.close()


async def test_a_lease_can_be_given_up_while_no_worker_is_there(pool: LocalPool) -> None:
    lease = await pool.acquire(spec("call"))
    kill(pool)
    await pool._seats[0].client.died.wait()
    await lease.release()
    assert pool.stats().leased == 0


async def test_while_no_worker_is_there_calls_are_told_to_come_again(pool: LocalPool) -> None:
    kill(pool)
    await pool._seats[0].client.died.wait()
    assert pool.stats().alive == 0 and pool.stats().free == 0
    with pytest.raises(CapacityError) as none:
        await pool.acquire(spec("call"))
    assert none.value.code == "no_worker"
    async with asyncio.timeout(5):
        while not pool.stats().alive:
            await asyncio.sleep(0.01)
    lease = await pool.acquire(spec("call"))
    await lease.release()


async def test_kill_after_kill_leaves_nothing_behind(pool: LocalPool) -> None:
    lease = await pool.acquire(spec("call"))
    for _ in range(3):
        kill(pool)
        with pytest.raises(EngineError):
            await lease.stream.next_chunk()
        await lease.reopen(0)
    await lease.release()


async def test_reopen_gives_up_in_time_and_may_be_tried_again() -> None:
    pool = make_pool(patience=0.05)
    await pool.start()
    lease = await pool.acquire(spec("call"))
    kill(pool)
    with pytest.raises(EngineError):
        await lease.stream.next_chunk()
    with pytest.raises(EngineError) as late:
        await lease.reopen(0)
    assert late.value.retryable
    async with asyncio.timeout(5):
        while not pool.stats().alive:
            await asyncio.sleep(0.01)
    assert (await lease.reopen(5)).epoch == 2
    await lease.release()
    await pool.close()


@pytest.mark.parametrize("call", ["socket.socketpair", "subprocess.Popen"])
async def test_a_seat_outlives_a_process_that_could_not_be_made(
    pool: LocalPool, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    module, _, name = call.partition(".")
    made, failures = getattr(sys.modules[module], name), iter([errno.EAGAIN])

    def flaky(*args: Any, **options: Any) -> Any:
        for code in failures:
            raise OSError(code, os.strerror(code))
        return made(*args, **options)

    monkeypatch.setattr(f"engine.pool.client.{call}", flaky)
    kill(pool)
    await pool._seats[0].client.died.wait()
    async with asyncio.timeout(5):
        while not pool.stats().alive:
            await asyncio.sleep(0.01)
    assert pool.stats().restarts == 2 and next(failures, None) is None
    lease = await pool.acquire(spec("call"))
    await lease.release()


async def test_a_lost_worker_is_no_busy_loop() -> None:
    pool = make_pool(model="fake")
    await pool.start()
    pool._seats[0]._config = EngineConfig(model="crash")
    kill(pool)
    await asyncio.sleep(1.5)
    assert 2 <= pool.stats().restarts <= 5
    assert pool.stats().alive == 0
    await pool.close()


@pytest.mark.parametrize(("model", "kind"), [("refuse", RequestError), ("crash", EngineError)])
async def test_a_pool_that_cannot_start_says_why_and_leaves_nothing(model: str, kind: type[Exception]) -> None:
    pool = make_pool(workers=2, model=model)
    with pytest.raises(kind):
        await pool.start()


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    pool = make_pool(workers=2)
    starting = asyncio.create_task(pool.start())
    await asyncio.sleep(0.02)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_a_reader_that_is_cancelled_can_read_on(pool: LocalPool) -> None:
    lease = await pool.acquire(spec("call"))
    reading = asyncio.create_task(lease.stream.next_chunk())
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    lease.stream.push_voice(np.zeros(9 * 640, np.int16), 0)
    assert (await lease.stream.next_chunk()).index == 0
    await lease.release()


async def test_a_whole_file_may_be_pushed_at_once(pool: LocalPool) -> None:
    lease = await pool.acquire(spec("file"))
    lease.stream.push_voice(voice(25 * 120), 0)
    frames = 0
    while frames < 25 * 119:
        chunk = await lease.stream.next_chunk()
        assert chunk.first_frame == frames
        frames += len(chunk.frames)
    await lease.release()
