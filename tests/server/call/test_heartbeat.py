"""Heartbeat on a fake clock: when a viewer counts as silent."""

from server.call.heartbeat import Heartbeat


def checked(heartbeat: Heartbeat, start: float, end: float, last_heard: float) -> list[float]:
    """Times of those checks from ``start`` to ``end`` that found the viewer silent."""
    count = round((end - start) / heartbeat.nap)
    times = [start + i * heartbeat.nap for i in range(1, count + 1)]
    return [now for now in times if heartbeat.silent(now, last_heard)]


def test_silence_is_too_long_after_the_limit_and_not_before() -> None:
    heartbeat = Heartbeat(6.0, 100.0)
    assert heartbeat.nap == 0.25
    assert checked(heartbeat, 100.0, 110.0, 101.0)[0] == 107.25


def test_a_short_limit_is_looked_at_often() -> None:
    heartbeat = Heartbeat(0.4, 0.0)
    assert heartbeat.nap == 0.1
    assert 0.4 < checked(heartbeat, 0.0, 2.0, 0.0)[0] <= 0.4 + 2 * heartbeat.nap


def test_our_own_sleep_is_not_the_viewers_silence() -> None:
    heartbeat = Heartbeat(6.0, 0.0)
    assert checked(heartbeat, 0.0, 5.0, 0.0) == []
    assert not heartbeat.silent(605.0, 0.0)
    assert checked(heartbeat, 605.0, 620.0, 0.0)[0] == 611.25
    assert not heartbeat.silent(620.0, 620.0)
