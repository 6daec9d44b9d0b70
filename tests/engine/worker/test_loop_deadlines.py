"""Laws of a worker that serves live calls, files and new callers at once, on a device whose costs are stated."""

import pytest

from engine.worker import loop
from engine.worker.stream import OPENING_SECONDS
from tests.engine.worker.timed_worker import PERIOD, Clock, Device, Timeline


def timeline(one: float, more: float, decoding: float, slots: int = 8, **changes: float) -> Timeline:
    return Timeline(Device(Clock(), one, more, decoding, **changes), slots)  # type: ignore[arg-type]


def worst(times: Timeline, *names: str) -> float:
    """Seconds by which a chunk of these calls was late, at worst; negative if none was."""
    assert all(len(times.late[name]) > 5 for name in names), "chunks were made"
    return max(lateness for name in names for lateness in times.late[name])


@pytest.mark.parametrize("encoding", [0.1, 2.0])
@pytest.mark.parametrize("at", [2.0, 2.1, 2.2, 2.3, 2.4])
def test_a_slow_encoding_makes_no_live_chunk_late(encoding: float, at: float) -> None:
    times = timeline(0.03, 0.03, 0.03, encoding=encoding)  # 0.15 s of each 0.48
    times.live("call")
    times.live("caller", at)
    times.run(2 * encoding + 7.0)
    assert worst(times, "call", "caller") <= 0
    assert times.opened["caller"] < 1.6 * encoding + PERIOD, "it had what time the call leaves"


def test_in_one_piece_the_same_encoding_makes_chunks_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SLICE_SECONDS", 60.0)
    times = timeline(0.03, 0.03, 0.03, encoding=2.0)
    times.live("call")
    times.live("caller", 3.0)
    times.run(12.0)
    assert worst(times, "call") > 0
    assert times.opened["caller"] < OPENING_SECONDS + 2.0 + PERIOD, "and it is let in nevertheless"


def test_a_caller_is_let_in_beside_full_load_and_nobody_is_late() -> None:
    times = timeline(0.045, 0.045, 0.03, encoding=0.25)  # two calls take 0.42 s of each 0.48
    for name, at in (("one", 0.0), ("two", 1.0)):
        times.live(name, at, delay=0.5)
    times.file("caller", 4.0)
    times.run(12.0)
    assert worst(times, "one", "two") <= 0 and times.opened["caller"] < OPENING_SECONDS


def test_on_a_machine_without_slack_a_caller_waits_no_longer_than_is_stated() -> None:
    """The machine has become too slow for the one call it has, whose chunks are late whoever comes."""
    times = timeline(0.05, 0.05, 0.05, encoding=0.5)
    times.worker._scheduler._limit = 9.0
    times.live("call")
    times.device.one = 0.15
    times.live("caller", 4.0)
    times.file("file", 4.0)
    times.run(14.0)
    assert worst(times, "call") > 1.0
    assert OPENING_SECONDS < times.opened["caller"] < OPENING_SECONDS + 0.5 + PERIOD
    assert "file" not in times.opened, "it gets what time is left, and none is"


def test_idle_time_beside_a_call_that_is_late_in_any_case_is_used() -> None:
    times = timeline(0.03, 0.03, 0.03)
    times.live("call")
    times.device.one = 0.09  # 0.39 s of each 0.48, within 0.3
    times.file("file", 4.0)
    times.run(14.0)
    assert worst(times, "call") > 0 and times.made["file"] >= 2


def test_openings_are_admitted_and_counted() -> None:
    times = timeline(0.04, 0.04, 0.04, slots=3, encoding=0.3)
    for name in ("one", "two", "three"):  # 0.2 s of work each 0.48: two of them
        times.live(name)
    times.file("file", 0.1)
    times.file("more", 0.2)
    times.run(6.0)
    assert times.failed == {"three": "machine_busy", "more": "no_slot"}
    assert set(times.opened) == {"one", "two", "file"}


def test_an_opening_can_be_closed_and_its_slot_is_free_again() -> None:
    times = timeline(0.04, 0.04, 0.04, slots=1, encoding=5.0)
    times.live("gone")
    times.hang_up("gone", 1.0)
    times.live("next", 1.1)
    times.run(12.0)
    assert "gone" not in times.opened and times.opened["next"] < 5.1 and not times.failed


def test_an_error_of_an_encoding_ends_its_stream_alone() -> None:
    times = timeline(0.04, 0.04, 0.04)
    times.live("call")
    times.run(3.0)
    times = timeline(0.04, 0.04, 0.04)
    times.device.broken = True
    times.live("broken")
    times.run(0.5)
    assert times.failed == {"broken": "internal_error"} and times.worker._free == list(range(8))


@pytest.mark.parametrize("more", [0.0, 0.02, 0.06], ids=["free", "cheap", "as dear as alone"])
@pytest.mark.parametrize("at", [1.0, 1.17, 1.33])
def test_files_make_no_live_chunk_late(more: float, at: float) -> None:
    times = timeline(0.06, more, 0.04)
    times.live("call", delay=0.38)  # for 0.28 s of work
    for name in ("a", "b", "c"):
        times.file(name, at)
    times.run(8.0)
    assert worst(times, "call") <= 0
    assert min(times.made[name] for name in "abc") >= 2, "files go on"
    together = any(7 in batch and len(batch) > 1 for batch in times.device.batches)  # 7: the call's slot
    assert together == (more < 0.06), "who costs little rides along"


def test_a_file_with_dear_pictures_waits_for_slack() -> None:
    times = timeline(0.02, 0.02, 0.2)
    times.live("call", delay=0.4)  # for 0.28 s of work
    times.file("file", 1.0)
    times.run(8.0)
    assert worst(times, "call") <= 0 and times.made["file"] >= 2


def test_two_live_calls_run_as_one_batch_where_only_that_keeps_both_in_time() -> None:
    times = timeline(0.06, 0.006, 0.02, encoding=0.0)  # 0.26 s each of 0.48; as one 0.304
    times.live("one")
    times.live("two")
    times.worker._scheduler._limit = 1.2
    times.run(10.0)
    assert set(times.opened) == {"one", "two"} and worst(times, "one", "two") <= 0
    pairs = sum(len(batch) == 2 for batch in times.device.batches)
    assert pairs > len(times.device.batches) / 2


def test_a_live_call_does_not_join_where_that_makes_the_more_urgent_one_late() -> None:
    times = timeline(0.05, 0.05, 0.02)  # 0.22 s of work each, 0.44 of 0.48
    times.live("tight", delay=0.29)
    times.live("easy", delay=0.6)
    times.worker._scheduler._limit = 1.2
    times.run(8.0)
    assert worst(times, "tight", "easy") <= 0


def test_calls_that_fell_behind_catch_up_as_one_batch() -> None:
    """After a stop of the device, at a load that only batches can carry."""
    times = timeline(0.06, 0.006, 0.02, encoding=0.0)
    times.live("one")
    times.live("two")
    times.worker._scheduler._limit = 1.2
    run, stopped = times.device.run, False

    def run_with_a_stop(passes):  # type: ignore[no-untyped-def]
        nonlocal stopped
        if not stopped and times.clock.now > times.began + 4:
            stopped = True
            times.clock.now += 0.8
        return run(passes)

    times.device.run = run_with_a_stop  # type: ignore[method-assign]
    times.run(16.0)
    for name in ("one", "two"):
        assert max(times.late[name]) > 0 and max(times.late[name][-4:]) <= 0


def test_load_is_measured_without_the_files_that_ride_along() -> None:
    times = timeline(0.06, 0.0, 0.04)
    times.live("call")
    times.file("file", 1.0)
    times.run(8.0)
    assert any(len(batch) == 2 for batch in times.device.batches)
    assert times.worker._scheduler.load * PERIOD == pytest.approx(times.device.chunk_seconds, rel=0.02)
