"""Mapping of a sender's timestamps to media time, without the network's jitter.

The clock offset is taken from the record with the smallest transit time in a sliding window. The applied offset follows
it so slowly that the spacing of records stays within 1 %, yet faster than clocks drift. Pure: time is an argument.
"""

from math import inf

WINDOW_MS = 10_000.0  # window for the smallest transit time; kept in two halves, so it covers 5 to 10 s
SLEW = 0.01  # largest change of the offset, as a fraction of the time between two records
EARLY_MS = 40.0  # most that a record is placed after its arrival, while the smallest transit time is being learnt
FAR_MS = 250.0  # a record farther from the mapping than this is placed at its arrival
JUMP_MS = 1000.0  # after so long with every record that far off, a clock has jumped, and the mapping restarts


class SenderClock:
    """Offset between one sender's clock and media time. Call ``media_ms`` for each record, in order of arrival."""

    def __init__(self) -> None:
        self._offset: float | None = None  # media time minus sender's time, as applied
        self._sent_ms: float | None = None
        self._least = self._least_before = inf  # offsets in this half of the window and in the one before
        self._half_began = 0.0
        self._far_since: float | None = None

    def media_ms(self, sent_ms: float | None, now_ms: float) -> float:
        """Media time of a record in ms, between ``FAR_MS`` before its arrival and ``EARLY_MS`` after it.

        sent_ms: the sender's time, from any origin. If it is None or unchanged, the record is placed at its arrival.
        now_ms: media time at arrival.
        """
        before, self._sent_ms = self._sent_ms, sent_ms
        if sent_ms is None or sent_ms == before:
            return now_ms
        offset = now_ms - sent_ms
        if self._offset is None:
            return self._anchor(sent_ms, now_ms)
        if abs(offset - self._offset) > FAR_MS:
            if self._far_since is None:
                self._far_since = now_ms
            return self._anchor(sent_ms, now_ms) if now_ms - self._far_since >= JUMP_MS else now_ms
        self._far_since = None
        self._notice(offset, now_ms)
        most = SLEW * max(0.0, sent_ms - before) if before is not None else 0.0
        wanted = min(self._least, self._least_before) - self._offset
        self._offset = min(self._offset + min(max(wanted, -most), most), offset + EARLY_MS)
        return sent_ms + self._offset

    def _anchor(self, sent_ms: float, now_ms: float) -> float:
        self._offset = self._least = now_ms - sent_ms
        self._least_before, self._half_began, self._far_since = inf, now_ms, None
        return now_ms

    def _notice(self, offset: float, now_ms: float) -> None:
        passed = now_ms - self._half_began
        if passed >= WINDOW_MS / 2:
            self._least_before = self._least if passed < WINDOW_MS else inf
            self._least, self._half_began = inf, now_ms
        self._least = min(self._least, offset)
