"""Voice time line, microphone buffer and decimator: continuous, bounded, and exact in media time."""

from pathlib import Path

import numpy as np
import pytest

from engine.media.decimate import Decimator, decimate
from engine.media.sound import read_sound
from ground.errors import CapacityError
from ground.units import BLOCK, drive_start, frame_start
from server.call.voice import MAX_QUEUED_S, MAX_TURNS, MicrophoneBuffer, Turn, VoiceLine

INPUTS = Path(__file__).parents[2] / "inputs"


def tone(n: int, hertz: float = 440.0, rate: int = 48_000) -> np.ndarray:
    return (10_000 * np.sin(2 * np.pi * hertz * np.arange(n) / rate)).astype(np.int16)


def turn(name: str, blocks: float) -> Turn:
    return Turn(name, np.full(int(blocks * BLOCK), 500, np.int16))


@pytest.mark.parametrize("size", [1, 7, 160, 960, 4801])
def test_decimated_in_pieces_equals_decimated_whole(size: int) -> None:
    pcm = np.random.default_rng(0).integers(-9000, 9000, 20_000).astype(np.int16)
    decimator = Decimator()
    parts = [decimator.push(pcm[i : i + size]) for i in range(0, len(pcm), size)]
    whole = decimate(pcm).astype(int)
    assert np.abs(np.concatenate([*parts, decimator.flush()])[: len(whole)] - whole).max() <= 1


def test_the_decimator_has_no_delay_and_folds_nothing() -> None:
    low, high = tone(48_000, 1000), tone(48_000, 9000)
    assert np.abs(decimate(low).astype(int) - tone(16_000, 1000, 16_000))[100:-100].max() <= 2
    assert np.abs(decimate(high))[100:-100].max() < 20
    click = np.zeros(9600, np.int16)
    click[4800] = 30_000
    assert int(np.abs(decimate(click)).argmax()) == 1600


def test_the_line_is_continuous_and_both_rates_share_one_time() -> None:
    line = VoiceLine(4.0)
    line.say(Turn("a", tone(48_000)))
    blocks = [line.next_block() for _ in range(100)]
    assert [block.at for block in blocks] == [i * BLOCK for i in range(100)]
    ends = [block.drive_at + len(block.drive) for block in blocks]
    assert [block.drive_at for block in blocks[1:]] == ends[:-1]
    assert line.head == 100 * BLOCK and line.head // 3 - ends[-1] == 32  # 2 ms
    drive = np.concatenate([block.drive for block in blocks])
    whole = decimate(np.concatenate([block.pcm for block in blocks])).astype(int)
    assert np.abs(drive[:15_900] - whole[:15_900]).max() <= 1


def test_what_is_said_comes_before_what_is_heard_before_silence() -> None:
    line = VoiceLine(4.0)
    assert not line.next_block().pcm.any()
    line.microphone.push(np.full(BLOCK * 6, 70, np.int16))
    line.say(turn("a", 1.5))
    said, last = line.next_block(), line.next_block()
    assert (said.pcm == 500).all() and (last.pcm[: BLOCK // 2] == 500).all() and not last.pcm[BLOCK // 2 :].any()
    assert 60 < line.next_block().pcm[-1] <= 70
    assert [(t.start, t.end, t.duration_ms, t.pcm.size) for t in line.turns] == [(BLOCK, 5 * BLOCK // 2, 30, 0)]


def test_what_is_heard_while_something_is_said_is_not_kept_for_later() -> None:
    line = VoiceLine(4.0)
    line.say(turn("a", 20))
    for i in range(20):
        line.microphone.push(np.full(BLOCK, 1000 + i, np.int16))
        assert (line.next_block().pcm == 500).all()
    assert line.microphone.cut_samples == 0 and line.next_block().pcm[-1] >= 1017


def said(line: VoiceLine, blocks: int) -> np.ndarray:
    return np.concatenate([line.next_block().pcm for _ in range(blocks)])


def test_parts_that_wait_follow_each_other_without_a_hole() -> None:
    whole = tone(48_000)
    line = VoiceLine(4.0)
    line.next_block()
    cuts = [0, 6_240, 12_480, 12_500, 12_501, 13_440, 30_000, len(whole)]
    for i, (start, end) in enumerate(zip(cuts, cuts[1:], strict=False)):
        line.say(Turn(str(i), whole[start:end].copy()))
    assert np.array_equal(said(line, 50), whole)
    assert [(t.start, t.end) for t in line.turns] == [
        (BLOCK + a, BLOCK + b) for a, b in zip(cuts, cuts[1:], strict=False)
    ]
    assert not line.next_block().pcm.any()


def test_recordings_cut_in_two_and_sent_as_parts_are_one_unbroken_tone() -> None:
    line = VoiceLine(4.0)
    for number in (1, 2):
        line.say(Turn(str(number), read_sound(INPUTS / f"say_part{number}_130ms.wav").pcm))
    heard = said(line, 13).astype(np.float64)
    assert line.turns[1].end == len(heard)
    # A pure tone of w radians a sample obeys x[n + 1] + x[n - 1] = 2 cos(w) x[n].
    middle = heard[1:-1]
    twice_cos = (heard[2:] + heard[:-2]) @ middle / (middle @ middle)
    assert np.abs(heard[2:] + heard[:-2] - twice_cos * middle)[1000:-1000].max() < 0.02 * np.abs(heard).max()


def test_a_part_that_comes_while_the_last_one_is_spoken_follows_it_too() -> None:
    whole = tone(3 * 6_240)
    line = VoiceLine(4.0)
    heard = []
    for i in range(3):
        line.say(Turn(str(i), whole[i * 6_240 : (i + 1) * 6_240].copy()))
        heard.append(said(line, 6))
    heard.append(said(line, 2))
    assert np.array_equal(np.concatenate(heard)[: len(whole)], whole)


def test_ten_short_turns_fit_in_one_block_and_each_is_told() -> None:
    line = VoiceLine(4.0)
    for i in range(10):
        line.say(Turn(str(i), np.full(50, i + 1, np.int16)))
    block = line.next_block().pcm
    assert block[:500].tolist() == np.repeat(np.arange(1, 11), 50).tolist() and not block[500:].any()
    line.heard(0)
    assert {t.state for t in line.turns} == {"queued"}
    line.heard(BLOCK)
    assert [t.state for t in line.turns] == ["finished"] * 10
    assert line.interrupt() == []


def test_a_part_after_the_end_begins_with_a_new_block() -> None:
    line = VoiceLine(4.0)
    line.say(turn("a", 0.5))
    line.next_block()
    line.say(turn("b", 0.5))
    line.next_block()
    assert [(t.start, t.end) for t in line.turns] == [(0, BLOCK // 2), (BLOCK, 3 * BLOCK // 2)]


def test_a_turn_that_ends_inside_a_block_is_told_by_the_sample() -> None:
    line = VoiceLine(4.0)
    line.say(turn("a", 1.5))
    line.say(turn("b", 1.0))
    for _ in range(3):
        line.next_block()
    told = []
    for position in (BLOCK, 3 * BLOCK // 2, 2 * BLOCK, 5 * BLOCK // 2):
        line.heard(position)
        told.append([t.state[0] for t in line.turns])
    assert told == [list("sq"), list("fq"), list("fs"), list("ff")]


def test_an_interrupt_inside_a_block_stops_what_follows_in_it() -> None:
    line = VoiceLine(4.0)
    for name, blocks in (("a", 0.5), ("b", 1.0), ("c", 1.0)):
        line.say(turn(name, blocks))
    line.next_block()
    line.heard(BLOCK // 2)
    assert line.interrupt() == ["b", "c"]
    assert not line.next_block().pcm.any()
    assert [(t.state, t.pcm.size) for t in line.turns] == [("finished", 0), ("interrupted", 0), ("interrupted", 0)]


def test_turns_wait_in_line_but_not_without_end() -> None:
    line = VoiceLine(4.0)
    for i in range(MAX_TURNS):
        line.say(turn(str(i), 0.25))
    with pytest.raises(CapacityError) as caught:
        line.say(turn("too many", 1))
    assert caught.value.status == 429
    line.next_block()  # on the time line, but not yet heard
    with pytest.raises(CapacityError):
        line.require_room()
    line.heard(line.head)
    line.say(turn("room", 1))
    assert len(line.interrupt()) == MAX_TURNS - 3
    assert not line.next_block().pcm.any() and line.interrupt() == []
    for i in range(100):
        line.say(turn(str(i), 1))
        line.next_block()
        line.heard(line.head - 3 * BLOCK)
    assert [t.state for t in line.turns] == ["finished"] * 5 + ["queued"] * 3


def test_what_waits_is_bounded_by_its_seconds() -> None:
    line = VoiceLine(4.0)
    half = round(MAX_QUEUED_S * 25)
    line.say(turn("a", half))
    line.say(turn("b", half))
    with pytest.raises(CapacityError):
        line.require_room()
    line.next_block()
    line.require_room()


def test_a_turn_is_over_when_it_was_heard_and_can_be_stopped_until_then() -> None:
    line = VoiceLine(4.0)
    for name in ("first", "second", "third"):
        line.say(turn(name, 2))
    for _ in range(10):  # every turn is on the time line, one delay ahead of the sound that is heard
        line.next_block()
    told = []
    for position in range(5):
        line.heard(position * BLOCK)
        told.append([t.state[0] for t in line.turns])
    assert told == [list("qqq"), list("sqq"), list("fqq"), list("fsq"), list("ffq")]
    line.heard(5 * BLOCK)
    assert line.interrupt() == ["third"]
    line.heard(10 * BLOCK)
    assert [t.state for t in line.turns] == ["finished", "finished", "interrupted"]


def test_no_turn_that_may_still_be_stopped_is_forgotten() -> None:
    line = VoiceLine(4.0)
    for i in range(40):
        line.say(turn(str(i), 1))
        line.next_block()
    assert line.interrupt() == [str(i) for i in range(40)]
    line.say(turn("last", 1))
    assert [t.id for t in line.turns] == [*(str(i) for i in range(33, 40)), "last"]


def test_a_call_that_is_over_keeps_no_sound() -> None:
    line = VoiceLine(4.0)
    for i in range(3):
        line.say(turn(str(i), 5))
    line.next_block()
    line.microphone.push(np.ones(BLOCK, np.int16))
    line.clear()
    assert line.drive_since(0)[0].size == line.microphone.level == 0
    assert all(t.pcm.size == 0 and t.state == "interrupted" for t in line.turns)


def test_the_past_is_kept_for_a_new_engine_and_no_longer() -> None:
    line = VoiceLine(history_s=2.0)
    line.say(Turn("a", tone(48_000 * 5)))
    drive = np.concatenate([line.next_block().drive for _ in range(250)])
    past, at = line.drive_since(70_000)
    assert at <= 70_000 and np.array_equal(past, drive[at:])
    past, at = line.drive_since(0)
    assert len(past) == pytest.approx(32_000, abs=320)
    assert line.drive_since(10**9)[0].size == 0


def test_what_is_taken_back_is_silent_for_a_new_engine_too() -> None:
    line = VoiceLine(4.0)
    line.say(turn("a", 100))
    drive = np.concatenate([line.next_block().drive for _ in range(50)])
    silence, at = line.take_back(30 * BLOCK + 7)
    assert at == 10 * BLOCK + 2 and at + len(silence) == len(drive) and not silence.any()
    past, first = line.drive_since(0)
    assert first == 0 and np.array_equal(past[:at], drive[:at]) and drive[at - 1] and drive[-1]
    assert not past[at:].any()


@pytest.mark.parametrize("skew", [0.0, 0.003, -0.003, 0.01, -0.01])
def test_a_microphone_with_its_own_clock_stays_near_and_whole(skew: float) -> None:
    """Over three minutes the level is bounded, nothing is cut, and a tone stays a tone."""
    microphone = MicrophoneBuffer()
    rng = np.random.default_rng(1)
    sent, due, gaps, levels = 0, 0.0, 0, []
    heard = []
    for tick in range(10_000):
        due += 960 * (1 + skew)
        arrived = due - rng.integers(0, 480)  # network jitter
        while sent + 960 <= arrived:
            microphone.push(_piece(sent))
            sent += 960
        block = microphone.pull()
        gaps += block is None and tick > 10
        levels.append(microphone.level)
        if block is not None and 2000 < tick < 2050:
            heard.append(block)
    assert microphone.cut_samples == 0
    assert max(levels) < 6 * BLOCK
    assert gaps <= 2
    spectrum = np.abs(np.fft.rfft(np.concatenate(heard).astype(np.float32)))
    peak = int(spectrum[5:].argmax()) + 5
    assert spectrum[peak - 3 : peak + 4].max() ** 2 > 0.8 * (spectrum[5:] ** 2).sum() / 2


def _piece(start: int) -> np.ndarray:
    return (10_000 * np.sin(2 * np.pi * 500 * (start + np.arange(960)) / 48_000)).astype(np.int16)


def test_a_burst_is_cut_to_the_newest() -> None:
    microphone = MicrophoneBuffer()
    microphone.push(np.arange(30 * BLOCK, dtype=np.int32).astype(np.int16))
    assert microphone.level == MicrophoneBuffer.TARGET
    assert microphone.cut_samples == 30 * BLOCK - MicrophoneBuffer.TARGET
    assert microphone.pull() is not None


def test_a_microphone_that_pauses_fills_up_again_before_it_is_heard() -> None:
    microphone = MicrophoneBuffer()
    for _ in range(2):
        microphone.push(np.full(BLOCK, 9, np.int16))
        assert microphone.pull() is None
    microphone.push(np.full(BLOCK, 9, np.int16))
    first = microphone.pull()
    assert first is not None and first[0] == 0 and first[-1] == 9  # faded in
    assert [microphone.pull() is None for _ in range(3)] == [False, True, True]


def test_frames_begin_where_their_rate_says() -> None:
    for frame in (0, 1, 7, 90_000):
        assert (frame_start(frame, 25), drive_start(frame, 25)) == (1920 * frame, 640 * frame)
        assert (frame_start(frame, 16), drive_start(frame, 16)) == (3000 * frame, 1000 * frame)


# Open turns


def test_an_open_turn_that_comes_in_time_is_one_sound() -> None:
    line, whole = VoiceLine(4.0), tone(20 * BLOCK)
    open_turn = Turn("a", whole[:3000], open=True)
    line.say(open_turn)
    line.say(turn("b", 1))
    got = [said(line, 2)]
    for at in range(3000, len(whole), 1777):
        line.extend(open_turn, whole[at : at + 1777])
        got.append(said(line, 1))
    open_turn.close()
    got.append(said(line, 12))
    heard = np.concatenate(got)
    assert np.array_equal(heard[: len(whole)], whole)
    assert (open_turn.start, open_turn.end, open_turn.duration_ms) == (0, len(whole), 400)
    assert (heard[len(whole) : len(whole) + BLOCK] == 500).all() and line.turns[1].start == len(whole)


def test_an_open_turn_that_does_not_come_is_silence_and_holds_the_line() -> None:
    line = VoiceLine(4.0)
    open_turn = Turn("a", np.zeros(0, np.int16), open=True)
    line.say(open_turn)
    line.say(turn("b", 1))
    line.microphone.push(tone(5 * BLOCK))
    assert not said(line, 3).any() and open_turn.start == -1
    line.extend(open_turn, np.full(BLOCK, 900, np.int16))
    assert (said(line, 1) == 900).all() and open_turn.start == 3 * BLOCK
    assert not said(line, 2).any() and open_turn.end == -1
    open_turn.close()
    assert (said(line, 1) == 500).all() and open_turn.end == line.turns[1].start == 6 * BLOCK
    line.heard(line.head)
    assert [t.state for t in line.turns] == ["finished", "finished"]


def test_an_interrupted_open_turn_takes_no_more() -> None:
    line = VoiceLine(4.0)
    open_turn = Turn("a", tone(2 * BLOCK), open=True)
    line.say(open_turn)
    said(line, 1)
    assert line.interrupt() == ["a"]
    line.extend(open_turn, tone(BLOCK))
    open_turn.close()
    assert not said(line, 2).any() and len(open_turn.pcm) == 0


def test_an_open_turn_has_no_more_room_than_others() -> None:
    line = VoiceLine(4.0)
    open_turn = Turn("a", np.zeros(0, np.int16), open=True)
    line.say(open_turn)
    second = np.zeros(48_000, np.int16)
    for _ in range(int(MAX_QUEUED_S)):
        line.extend(open_turn, second)
    with pytest.raises(CapacityError, match="too much"):
        line.extend(open_turn, second)
    said(line, 50)
    line.extend(open_turn, second)
