"""Prometheus metrics of the server: one registry for each app, every label from a fixed set."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

END_REASONS = frozenset(
    {
        "hang_up", "remote", "expired", "setup_timeout", "heartbeat_lost", "ice_failed", "call_too_long", "flood",
        "server_shutdown", "internal_error", "no_slot", "no_worker", "machine_busy", "engine_silent", "worker_lost",
        "worker_timeout", "worker_stalled", "out_of_memory", "bad_frame_ring", "invalid_portrait", "invalid_rollout",
        "invalid_voice", "no_drive", "voice_overflow",
    }
)  # fmt: skip


class Metrics:
    """One method for each event. Nothing else touches the counters."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._live = Gauge("knotcast_calls_live", "Calls with a slot", registry=registry)
        self._ended = Counter("knotcast_calls_ended", "Calls that ended", ["reason"], registry=registry)
        for reason in (*END_REASONS, "other"):
            self._ended.labels(reason)  # every series exists from the start
        self._frames = Counter("knotcast_frames_shown", "Generated frames released", registry=registry)
        self._underruns = Counter("knotcast_underruns", "Times a picture was waited for", registry=registry)
        self._skipped = Counter("knotcast_frames_skipped", "Frames given up to win delay back", registry=registry)
        self._stalls = Counter("knotcast_clock_stalls", "Times the call's clock stood still", registry=registry)
        self._lost = Counter("knotcast_workers_lost", "Times a call lost its worker", registry=registry)
        self._recovery = Histogram(
            "knotcast_recovery_seconds", "From a lost worker to its successor's first chunk",
            buckets=(0.5, 1, 2, 4, 8, 15, 30, 60), registry=registry,
        )  # fmt: skip
        self._chunk = Histogram(
            "knotcast_chunk_seconds", "Denoise and decode of one chunk",
            buckets=(0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2), registry=registry,
        )  # fmt: skip
        self._first_frame = Histogram(
            "knotcast_first_frame_seconds", "From the offer to the first generated frame",
            buckets=(0.25, 0.5, 1, 1.5, 2, 3, 5, 10), registry=registry,
        )  # fmt: skip
        self._portraits = Counter("knotcast_portraits", "Uploads by outcome", ["outcome"], registry=registry)
        for outcome in ("accepted", "refused"):
            self._portraits.labels(outcome)

    def call_live(self) -> None:
        self._live.inc()

    def call_ended(self, reason: str, was_live: bool) -> None:
        self._ended.labels(reason if reason in END_REASONS else "other").inc()
        if was_live:
            self._live.dec()

    def playout(self, frames: int, underruns: int, skipped: int, stalls: int) -> None:
        """Counts since the last report."""
        self._frames.inc(frames)
        self._underruns.inc(underruns)
        self._skipped.inc(skipped)
        self._stalls.inc(stalls)

    def chunk(self, seconds: float) -> None:
        self._chunk.observe(seconds)

    def first_frame(self, seconds: float) -> None:
        self._first_frame.observe(seconds)

    def worker_lost(self) -> None:
        self._lost.inc()

    def recovered(self, seconds: float) -> None:
        self._recovery.observe(seconds)

    def portrait(self, accepted: bool) -> None:
        self._portraits.labels("accepted" if accepted else "refused").inc()

    def page(self) -> bytes:
        return generate_latest(self._registry)
