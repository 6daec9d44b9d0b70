"""Deadline scheduler: order of the calls' chunks (earliest deadline first) and admission of calls, by measured cost.
Pure: the clock is passed in, and cost is what the owner measured. All times are seconds of one monotonic clock. Knows
no chunk, no stream and no drive; a call is a key.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_MEMORY = 0.8  # weight of the past in a call's measured cost
_PAUSE = 0.1  # seconds without a message after which the gateway counts as stopped
_GRACE = 0.05  # seconds that it then gets to send what has accumulated
_PATIENCE = 0.5  # seconds by which a stopped gateway may postpone a deadline


@dataclass(slots=True)
class _Call:
    """cost: seconds of work a chunk takes. since: when its present work was first offered."""

    cost: float
    live: bool
    offered: bool = False
    complete: bool = False
    deadline: float = inf
    since: float = 0.0


class DeadlineScheduler(Generic[K]):
    """``period``: seconds between two chunks of one live call. ``cost``: what a chunk took at warm-up, the first guess
    for a call; then the cost of recent chunks.

    A call that has no deadline (a file) takes what time the live ones leave and is no load.
    """

    def __init__(self, period: float, cost: float, limit: float = 0.9, margin: float = 1.25) -> None:
        """limit: the share of the time that may be promised. margin: how much longer than at warm-up a chunk may
        take.
        """
        self.period, self.cost = period, cost
        self._limit, self._head_start = limit, margin * cost
        self._calls: dict[K, _Call] = {}

    @property
    def load(self) -> float:
        """Promised share of the time, 0..1."""
        return sum(call.cost for call in self._calls.values() if call.live) / self.period

    def admit(self, cost: float | None = None) -> bool:
        """Whether one more live call of that cost fits beside the present ones. The first always does, however slow the
        machine."""
        live = any(call.live for call in self._calls.values())
        return not live or self.load + (self.cost if cost is None else cost) / self.period <= self._limit

    def join(self, key: K, live: bool = True) -> None:
        """Add an admitted call. live: it has deadlines, until it is offered without one."""
        self._calls[key] = _Call(self.cost, live)

    def leave(self, key: K) -> None:
        del self._calls[key]

    def offer(self, key: K, now: float, deadline: float, complete: bool) -> None:
        """The call's next chunk can be made now. ``deadline``: when it must be there, infinite for a file.

        complete: its drive is all there. If not, it is made for silence, but only once its time would not suffice
        any more. Offer again whenever something changed.
        """
        call = self._calls[key]
        call.since = call.since if call.offered else now
        call.offered, call.complete, call.deadline = True, complete, deadline
        call.live = deadline < inf

    def withdraw(self, key: K) -> None:
        """The offered chunk is made, or cannot be made: the call has no work until it is offered again."""
        self._calls[key].offered = False

    def spent(self, key: K, cost: float) -> None:
        """A chunk of the call took ``cost`` seconds of work."""
        call = self._calls[key]
        call.cost = _MEMORY * call.cost + (1 - _MEMORY) * cost
        self.cost = _MEMORY * self.cost + (1 - _MEMORY) * cost

    def order(self, now: float) -> list[K]:
        """Calls with work that should be done now, the most urgent first."""
        due = [
            (call.deadline, call.since, key)
            for key, call in self._calls.items()
            if call.offered and (call.complete or now >= self._latest_start(call))
        ]
        return [key for _, _, key in sorted(due, key=lambda item: item[:2])]

    def wake_at(self) -> float:
        """Time at which ``order`` may change without a new offer; infinite = never."""
        starts = [self._latest_start(call) for call in self._calls.values() if call.offered and not call.complete]
        return min(starts, default=inf)

    def _latest_start(self, call: _Call) -> float:
        """From the cost at warm-up, which the playout's delay allows for, and not from the present one: on a machine
        that has become slow a late picture, which playout waits for, is better than silence in place of a voice that
        comes.
        """
        return call.deadline - self._head_start


class Pulse:
    """Detection of a stopped gateway. It speaks every 20 ms during a live call; while it is stopped (a busy
    machine, a suspended one) it plays nothing out either, so its deadlines are no reason to take silence for its
    voice.
    """

    def __init__(self) -> None:
        self._heard = self._steady_from = 0.0

    def beat(self, now: float) -> None:
        """A message came."""
        if now - self._heard > _PAUSE:
            self._steady_from = now + _GRACE
        self._heard = now

    def grace(self, now: float) -> float:
        """Seconds to add to the deadline of a chunk whose voice is missing."""
        return 0.0 if self._steady_from <= now <= self._heard + _PAUSE else _PATIENCE
