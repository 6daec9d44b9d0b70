"""Detection of a silent viewer, by the time since anything was heard. Pure: time is an argument."""

OWN_SLEEP_S = 0.5  # after four naps without a check this process was stopped; the viewer was not silent


class Heartbeat:
    """``silent(now, last_heard)``, asked every ``nap`` seconds."""

    def __init__(self, limit_s: float, now: float) -> None:
        """limit_s: silence that is too long, in seconds."""
        self.nap = min(1.0, limit_s) / 4
        self._limit = limit_s
        self._asked = self._excused = now

    def silent(self, now: float, last_heard: float) -> bool:
        """Whether the viewer has been silent for too long. Time in which this process slept does not count."""
        if now - self._asked > 4 * self.nap + OWN_SLEEP_S:
            self._excused = now
        self._asked = now
        return now - max(last_heard, self._excused) > self._limit
