"""Pool of worker processes on this machine: supervision, restarts, and the leases that calls hold.

A lease is a promise of one slot. It outlives the worker it began on: ``reopen`` continues the call in whichever
worker is alive. Knows nothing of portraits, media or HTTP, and never imports torch.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from engine.pool.client import WORKER_COMMAND, WorkerClient, WorkerLimits
from engine.pool.stream import EngineStream, StreamSpec
from engine.wire.messages import ModelInfo
from ground.config import EngineConfig
from ground.errors import AvatarError, CapacityError, EngineError

log = logging.getLogger(__name__)

FIRST_BACK_OFF = 0.25  # seconds of waiting after the second failed start in a row; doubles each time
LAST_BACK_OFF = 30.0
STEADY_AFTER = 10.0  # seconds of life after which a worker's end does not count as a failed start


@dataclass(frozen=True, slots=True)
class PoolStats:
    """workers, alive: spares counted. slots: what may be leased, spares not counted. free: leases that could be given
    now."""

    workers: int
    alive: int
    slots: int
    leased: int
    free: int
    restarts: int


class Lease(Protocol):
    """One call's hold on an engine."""

    @property
    def stream(self) -> EngineStream: ...

    async def reopen(self, first_frame: int) -> EngineStream:
        """Replace a lost stream: open it again at ``first_frame`` of media time, in the next epoch.

        Waits for a worker to come back. Raises AvatarError when none does in time; may be called again.
        """
        ...

    async def release(self) -> None:
        """Close the stream and give the slot back. Bounded; twice is fine."""
        ...


class WorkerPool(Protocol):
    """Interface of a pool that grants leases."""

    @property
    def info(self) -> ModelInfo: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def acquire(self, spec: StreamSpec) -> Lease:
        """Open a stream. Raises CapacityError when no slot is free, or what the worker answers."""
        ...

    def stats(self) -> PoolStats: ...


class _Seat:
    """Place of one worker process, filled again whenever the process dies."""

    def __init__(self, config: EngineConfig, command: Sequence[str], limits: WorkerLimits) -> None:
        self._config, self._command, self._limits = config, command, limits
        self._keeper: asyncio.Task[None] | None = None
        self.client = WorkerClient(command, limits)
        self.up = asyncio.Event()
        self.restarts = 0
        self.leased = 0

    @property
    def usable(self) -> bool:
        return self.up.is_set() and self.client.alive

    async def start(self) -> None:
        while True:
            try:
                await self.client.start(self._config)
                break
            except AvatarError:
                if not self._lower():
                    raise
                self.client = WorkerClient(self._command, self._limits)
        self.up.set()
        self._keeper = asyncio.create_task(self._keep(), name="worker-seat")

    def _lower(self) -> bool:
        """After a worker ran out of memory: let the next one run one preset lower, if there is one."""
        lower = self._config.lower
        if self.client.reason != "out_of_memory" or lower is None:
            return False
        log.warning("worker ran out of memory: the next one runs the preset %s", lower.preset)
        self._config = lower
        return True

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        self.up.clear()
        await self.client.close()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        began, failures = loop.time(), 0
        while True:
            await self.client.died.wait()
            self.up.clear()
            failures = 0 if loop.time() - began > STEADY_AFTER else failures + 1
            if failures > 1:
                await asyncio.sleep(min(FIRST_BACK_OFF * 2.0 ** (failures - 2), LAST_BACK_OFF))
            self._lower()
            self.restarts += 1
            began = loop.time()
            self.client = WorkerClient(self._command, self._limits)
            try:
                await self.client.start(self._config)
            except AvatarError as error:
                log.error("worker start failed code=%s restarts=%d", error.code, self.restarts)
            else:
                self.up.set()


class LocalPool:
    """``workers`` processes whose slots may be leased, and ``spares`` more that stand by, warm, for when one is
    lost: new calls go to no more than ``workers`` of them.
    """

    def __init__(
        self,
        config: EngineConfig,
        workers: int = 1,
        spares: int = 0,
        *,
        command: Sequence[str] = WORKER_COMMAND,
        limits: WorkerLimits | None = None,
        patience: float = 60.0,
    ) -> None:
        """patience: seconds that a call waits for a worker to come back."""
        assert workers > 0 and spares >= 0
        self._workers, self._patience = workers, patience
        self._seats = [_Seat(config, command, limits or WorkerLimits()) for _ in range(workers + spares)]
        self._info: ModelInfo | None = None

    @property
    def info(self) -> ModelInfo:
        """Model of the first living worker. All are alike, but for their picture size after one ran out of memory."""
        assert self._info is not None, "the pool has not been started"
        self._info = next((seat.client.info for seat in self._seats if seat.usable), self._info)
        return self._info

    async def start(self) -> None:
        """Start every worker. Raises the error of the first that fails; then nothing is left running."""
        try:
            async with asyncio.TaskGroup() as group:
                for seat in self._seats:
                    group.create_task(seat.start())
        except BaseExceptionGroup as errors:
            await self.close()
            raise errors.exceptions[0] from None
        except asyncio.CancelledError:
            await self.close()
            raise
        self._info = self._seats[0].client.info

    async def close(self) -> None:
        await asyncio.gather(*(seat.close() for seat in self._seats))

    async def acquire(self, spec: StreamSpec) -> "LocalLease":
        stats = self.stats()
        if stats.leased >= stats.slots:
            raise CapacityError("no_slot", "every slot is taken: try again later", status=429)
        seat = self._for_new_call()
        if seat is None:
            raise CapacityError("no_worker", "the engine is starting again: try again in a moment")
        lease = LocalLease(self, seat, spec)
        try:
            await lease.begin()
        except BaseException:
            await lease.release()
            raise
        return lease

    def stats(self) -> PoolStats:
        alive = sum(seat.usable for seat in self._seats)
        slots = self._workers * self.info.slots
        leased = sum(seat.leased for seat in self._seats)
        free = max(0, min(slots, alive * self.info.slots) - leased)
        return PoolStats(len(self._seats), alive, slots, leased, free, sum(seat.restarts for seat in self._seats))

    def _for_new_call(self) -> _Seat | None:
        """Workers that may take a new call: at most ``workers`` of them have calls."""
        busy = [seat for seat in self._seats if seat.usable and seat.leased]
        return self._freest(busy if len(busy) >= self._workers else self._seats)

    def _freest(self, seats: list[_Seat]) -> _Seat | None:
        """The living worker with the most free slots, None if all are full."""
        living = [seat for seat in seats if seat.usable and seat.leased < self.info.slots]
        return min(living, key=lambda seat: seat.leased, default=None)

    async def settle(self, seat: _Seat) -> _Seat:
        """A living worker for a lease whose worker is gone: its own seat's next one, or another with a free slot if
        that is sooner."""
        async with asyncio.timeout(self._patience):
            while True:
                if seat.usable:
                    return seat
                if (other := self._freest(self._seats)) is not None:
                    return other
                await asyncio.sleep(0.02)  # polled: a slot may also become free when a call ends


class LocalLease:
    """A slot in one of a ``LocalPool``'s workers."""

    def __init__(self, pool: LocalPool, seat: _Seat, spec: StreamSpec) -> None:
        """Takes the slot at once, so that two callers cannot be promised the same one."""
        self._pool, self._seat, self._spec = pool, seat, spec
        self._stream: EngineStream | None = None
        self._released = False
        seat.leased += 1

    @property
    def stream(self) -> EngineStream:
        assert self._stream is not None, "the lease has no stream: open it again"
        return self._stream

    async def begin(self) -> None:
        self._stream = await self._seat.client.open(self._spec)

    async def reopen(self, first_frame: int) -> EngineStream:
        assert not self._released, "the lease was released"
        await self._leave()
        self._spec = replace(self._spec, first_frame=first_frame, epoch=self._spec.epoch + 1)
        try:
            seat = await self._pool.settle(self._seat)
        except TimeoutError:
            raise EngineError("worker_lost", "no worker came back in time", retryable=True) from None
        self._seat.leased -= 1
        seat.leased += 1
        self._seat = seat
        await self.begin()
        return self.stream

    async def release(self) -> None:
        if self._released:
            return
        self._released = True
        try:
            await self._leave()
        finally:
            self._seat.leased -= 1

    async def _leave(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(EngineError):
                await stream.close()
