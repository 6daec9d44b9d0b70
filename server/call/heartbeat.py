"""Heartbeat: detection of a silent viewer by the time since anything was received. Pure: time is an argument."""

OWN_SLEEP_S = 0.5  # if a check comes later than four naps plus this, this process was stopped, not the viewer silent


class Heartbeat:
    """Call ``silent`` every ``nap`` seconds. All times are seconds on one clock."""

    def __init__(self, limit_s: float, now: float) -> None:
        """limit_s: longest permitted silence, in seconds."""
        self.nap = min(1.0, limit_s) / 4
        self._limit = limit_s
        self._asked = self._excused = now

    def silent(self, now: float, last_heard: float) -> bool:
        """Whether the viewer has been silent for too long. Time in which this process was stopped does not count."""
        if now - self._asked > 4 * self.nap + OWN_SLEEP_S:
            self._excused = now
        self._asked = now
        return now - max(last_heard, self._excused) > self._limit
