"""Arithmetic of the live call benchmark: repeated frames, freezes, and the offset of beeps from their frames."""

import pytest

pytest.importorskip("playwright")

from benchmarks.live.call import ProbeRecording, av_offsets, picture_figures

FRAME_MS = 40.0


def pictures(first_at: float, count: int) -> list[tuple[float, int | None]]:
    return [(first_at + n * FRAME_MS, n) for n in range(count)]


def test_repeats_and_unnumbered_pictures_are_no_frames() -> None:
    shown = pictures(1000, 250)
    repeated = sorted([(500.0, None), *shown, *[(at + 20, number) for at, number in shown]], key=lambda item: item[0])
    figures = picture_figures(ProbeRecording(400.0, repeated, []))
    assert figures["distinct_frames"] == 250
    assert figures["distinct_fps"] == 25.0
    assert figures["first_picture_ms"] == 100
    assert figures["first_generated_ms"] == 600
    assert figures["first_sound_ms"] is None
    assert figures["out_of_order"] == 0


def test_a_freeze_counts_after_the_first_three_seconds_only() -> None:
    def with_gap(at_frame: int) -> list[tuple[float, int | None]]:
        return [(n * FRAME_MS + (400 if n >= at_frame else 0), n) for n in range(250)]

    assert picture_figures(ProbeRecording(0.0, with_gap(20), []))["longest_freeze_ms"] == FRAME_MS
    assert picture_figures(ProbeRecording(0.0, with_gap(200), []))["longest_freeze_ms"] == FRAME_MS + 400


def test_frames_out_of_order_are_counted() -> None:
    swapped = pictures(0, 10)
    swapped[4], swapped[5] = (swapped[4][0], 5), (swapped[5][0], 4)
    assert picture_figures(ProbeRecording(0.0, swapped, []))["out_of_order"] == 1


def test_offset_is_sound_minus_picture_of_the_same_media_time() -> None:
    late = 30.0
    beeps = [2.0, 3.1, 4.0]
    sound = [(at * 8 / 3, 0.0) for at in range(4000)]
    sound = [(at, 0.3 if any(0 <= at - (1000 + late + beep * 1000) < 60 for beep in beeps) else 0.0) for at, _ in sound]
    offsets = av_offsets(ProbeRecording(0.0, pictures(1000, 250), sound), beeps, 25.0)
    assert offsets == pytest.approx([late] * 3, abs=3)


def test_a_beep_that_was_not_heard_gives_no_offset() -> None:
    assert av_offsets(ProbeRecording(0.0, pictures(0, 250), []), [2.0], 25.0) == []
