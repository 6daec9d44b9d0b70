"""Cost model and choice of the next unit of work on the device: which pass, decoding or encoding, and which passes of
several calls as one batch.

Pure: costs are what the owner measured, the time is passed in, a call is a key. All times are seconds of one monotonic
clock. Knows no stream and no model.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, inf
from typing import Generic, Literal, TypeVar

K = TypeVar("K", bound=Hashable)

_MEMORY = 0.8  # weight of the past in a measured cost, once there are enough measurements for a mean
_RESERVE = 0.25  # share of a chunk's cost that is kept free before its deadline
_USEFUL = 0.9  # a batch saves time if it takes no more than this share of its members one after the other


@dataclass(frozen=True, slots=True)
class Kind:
    """Kind of a unit of work. Only passes of equal kind run as one batch. detail: a pass's shape key, the number of an
    encoding's slice."""

    work: Literal["encode", "pass", "decode"]
    detail: Hashable = None


class Costs:
    """Measured seconds of a unit of work by kind and batch size: a mean at first, an exponential average later."""

    def __init__(self, guess: float, growth: float) -> None:
        """guess: seconds of one unit before anything was measured. growth: what each further member of a batch adds,
        as a share of one pass, for sizes that were not measured: about 1 on a CPU, less on a GPU."""
        self._guess, self._growth = guess, growth
        self._known: dict[Kind, dict[int, tuple[float, int]]] = {}  # by size: seconds, number of measurements

    def measured(self, kind: Kind, size: int, seconds: float) -> None:
        """Note that a batch of ``size`` members took ``seconds``."""
        sizes = self._known.setdefault(kind, {})
        mean, count = sizes.get(size, (seconds, 0))
        weight = max(1 / (count + 1), 1 - _MEMORY)
        sizes[size] = mean + weight * (seconds - mean), count + 1

    def cost(self, kind: Kind, size: int) -> float:
        """Seconds that a batch of ``size`` >= 1 members takes; never less than a smaller one. A kind that was not
        measured costs as much as the most expensive one of the same work."""
        if (sizes := self._known.get(kind)) is not None:
            return self._of(sizes, size)
        alike = [self._of(sizes, size) for known, sizes in self._known.items() if known.work == kind.work]
        return max(alike, default=self._guess * self._factor(size))

    def _of(self, sizes: Mapping[int, tuple[float, int]], size: int) -> float:
        """The largest of the estimates up to this size, so that noise makes no batch cheaper than a smaller one."""
        return max(self._estimate(sizes, smaller) for smaller in range(1, size + 1))

    def _estimate(self, sizes: Mapping[int, tuple[float, int]], size: int) -> float:
        """Linear between two measured sizes, by ``growth`` beyond them."""
        below = max((known for known in sizes if known <= size), default=None)
        above = min((known for known in sizes if known >= size), default=None)
        if below is None or above is None:
            nearest = below or above
            assert nearest is not None
            return sizes[nearest][0] * self._factor(size) / self._factor(nearest)
        low, high = sizes[below][0], sizes[above][0]
        return low + (high - low) * (size - below) / max(1, above - below)

    def _factor(self, size: int) -> float:
        return 1 + self._growth * (size - 1)


@dataclass(frozen=True, slots=True)
class Promise:
    """A live call's next chunk. deadline: when its pictures must be there. left: seconds of work until then, alone.
    chunk: seconds of work of each later one."""

    deadline: float
    left: float
    chunk: float


@dataclass(frozen=True, slots=True)
class Candidate(Generic[K]):
    """A call's next unit of work. must: it is run whatever it makes late (a live chunk, or what has waited too long);
    else only in time that no promise needs."""

    key: K
    kind: Kind
    must: bool


@dataclass(frozen=True, slots=True)
class Outlook(Generic[K]):
    """The promises to live calls at one moment. period: seconds between two chunks of one call.

    A unit of work of u seconds that is run now delays every chunk by at most u. No chunk that would be in time becomes
    late by it if, for each deadline, u and all work that is due by then still fit before it (the processor demand
    bound of earliest-deadline-first scheduling); whether a chunk's drive has come yet does not matter for that.
    """

    now: float
    period: float
    promises: Mapping[K, Promise]

    def slack(self) -> float:
        """Seconds that other work may take now without making any chunk late; infinite without promises.

        A chunk that even alone would be late is no reason to leave the device idle.
        """
        in_time = [promise for promise in self._live if self.now + promise.left <= promise.deadline]
        return min((self._spare(promise) - self._demand(promise.deadline) for promise in in_time), default=inf)

    def allows(self, batch: Collection[K], joining: K, kind: Kind, costs: Costs) -> bool:
        """Whether one more call's pass may join the batch.

        Each promise must then be kept, or be kept no later than if it did not join. Where a chunk is late in any case,
        a live call may still join if that saves time (a file may not): so calls that have fallen behind catch up.
        """
        size, alone = len(batch), costs.cost(kind, 1)
        without, joined = costs.cost(kind, size), costs.cost(kind, size + 1)
        saves = joining in self.promises and joined <= _USEFUL * (without + alone)
        members = {*batch, joining}
        for promise in self._live:
            before = without + self._demand(promise.deadline, batch, alone)
            after = joined + self._demand(promise.deadline, members, alone)
            late_anyway = self.now + before > promise.deadline
            if after > max(before, self._spare(promise)) and not (late_anyway and saves):
                return False
        return True

    @property
    def _live(self) -> Collection[Promise]:
        return self.promises.values()

    def _spare(self, promise: Promise) -> float:
        return promise.deadline - _RESERVE * promise.chunk - self.now

    def _demand(self, until: float, running: Collection[K] = (), alone: float = 0.0) -> float:
        """Seconds of work with deadlines up to ``until``. running: calls whose present pass, of ``alone`` seconds, is
        counted elsewhere."""
        return sum(
            max(0.0, promise.left - (alone if key in running else 0.0))
            + promise.chunk * floor((until - promise.deadline) / self.period)
            for key, promise in self.promises.items()
            if promise.deadline <= until
        )


def choose(candidates: Sequence[Candidate[K]], outlook: Outlook[K], costs: Costs) -> list[K]:
    """The calls whose next unit of work is run now, as one batch; empty = leave the device idle.

    candidates: in order of urgency. What must run comes before what need not, and an encoding that must, first of all.
    The first is run, alone or with whoever may join it. If it has to wait, so does all that is less urgent: else a
    file's short passes would use up the time that a longer encoding waits for.
    """
    ordered = sorted(candidates, key=lambda each: (not each.must, each.must and each.kind.work != "encode"))
    if not ordered:
        return []
    first, *others = ordered
    if not first.must and costs.cost(first.kind, 1) > outlook.slack():
        return []
    batch = [first.key]
    for other in others:
        fits_in = other.kind == first.kind and first.kind.work == "pass"
        if fits_in and outlook.allows(batch, other.key, first.kind, costs):
            batch.append(other.key)
    return batch


def booked(seconds: float, kind: Kind, live: int, files: int, costs: Costs) -> tuple[float, float]:
    """What one live call and one file are charged for a batch that took ``seconds``: equal shares; but a live call pays
    what the batch costs without the files in it, so that its load is not taken for less than it is without them."""
    share = seconds / (live + files)
    if live and files:
        return max(share, min(seconds, costs.cost(kind, live)) / live), share
    return share, share
