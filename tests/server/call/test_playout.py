"""Playout on a fake clock: exact times, media time that never goes backwards, bounded delay."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from engine.pool.stream import MediaChunk
from ground.units import BLOCK, BLOCK_S
from server.call.playout import MAX_BURST, Playout, Release

FPS = 25
DELAY = 48 * BLOCK  # 0.96 s
LIMIT = DELAY + 50 * BLOCK
STILL = np.full((24, 16), 7, np.uint8)


def chunk(first: int, count: int, epoch: int = 0, missing: tuple[tuple[int, int], ...] = ()) -> MediaChunk:
    frames = np.stack([np.full((24, 16), (first + i) % 200 + 20, np.uint8) for i in range(count)])
    return MediaChunk(epoch, 0, first, frames, 1.0, 1.0, missing)


def voice(sample: int, loud: bool = True) -> np.ndarray:
    """A block whose samples hold its own number, so that the sound tells its media time."""
    return np.full(BLOCK, 1000 + sample // BLOCK % 20_000 if loud else 0, np.int16)


@dataclass
class Desk:
    """A small gateway: voice on its own clock, and an engine that makes each chunk ``cost`` seconds after its drive is
    complete.
    """

    fps: int = FPS
    skew: float = 0.0  # fraction by which the voice's clock runs faster
    cost: float = 0.1
    loud: bool = False
    delay: int = DELAY
    playout: Playout = field(init=False)
    out: list[Release] = field(default_factory=list)
    now: float = 100.0

    def __post_init__(self) -> None:
        self.playout = Playout(STILL, self.fps, self.delay, self.delay + 50 * BLOCK)
        self.voiced = 0.0
        self.next_frame = 0
        self.ready: list[tuple[float, int, int]] = []

    def prime(self) -> None:
        while self.playout.head < self.delay:
            self.say()

    def say(self) -> None:
        self.playout.push_voice(voice(self.playout.head, self.loud), self.playout.head)

    def run(self, seconds: float, *, speak: bool = True, engine: bool = True) -> None:
        for _ in range(round(seconds / BLOCK_S)):
            self.voiced += (1 + self.skew) if speak else 0
            while self.voiced >= 1:
                self.voiced -= 1
                self.say()
            if engine:
                self.make()
            for done, first, count in [made for made in self.ready if made[0] <= self.now]:
                self.ready.remove((done, first, count))
                self.playout.push_chunk(chunk(first, count, self.playout.epoch))
            self.out += self.playout.due(self.now)
            self.now += BLOCK_S

    def make(self) -> None:
        count = 12 if self.next_frame else 9
        needs = (self.next_frame + count + 4) * 48_000 // self.fps + 2640
        if self.playout.head >= needs:
            self.ready.append((self.now + self.cost, self.next_frame, count))
            self.next_frame += count

    @property
    def samples(self) -> list[int]:
        return [release.sample for release in self.out if release.sample >= 0]

    @property
    def frames(self) -> list[int]:
        return [release.frame for release in self.out if release.fresh]

    def check(self) -> None:
        """Assert that media time never goes back, and that picture and sound have one media time, within one frame."""
        assert self.samples == sorted(set(self.samples))
        assert self.frames == sorted(set(self.frames))
        for release in self.out:
            if release.fresh:  # the picture is that of the frame
                assert release.picture is not None and release.picture[0, 0] == release.frame % 200 + 20
            if release.sample >= 0:
                assert 0 <= release.sample / 48_000 - release.frame / self.fps < 1 / self.fps + 1e-9


@pytest.mark.parametrize("fps", [25, 16])
def test_a_steady_call_shows_every_frame_once_with_its_own_sound(fps: int) -> None:
    desk = Desk(fps=fps, loud=True, delay=70 * BLOCK if fps == 16 else DELAY)
    desk.prime()
    desk.run(20)
    desk.check()
    assert desk.frames == list(range(len(desk.frames))) and len(desk.frames) > 18 * fps
    assert desk.playout.underruns == desk.playout.skipped == 0
    spoken = [release for release in desk.out if release.sample >= 0]
    assert all(release.audio[-1] == voice(release.sample)[0] for release in spoken)


def test_the_still_is_sent_at_once_and_again_while_nothing_comes() -> None:
    desk = Desk()
    desk.run(1, speak=False)
    pictures = [release.tick for release in desk.out if release.picture is not None]
    assert pictures[0] == 0 and max(np.diff(pictures)) == 4
    assert all(release.sample < 0 and not release.audio.any() and not release.fresh for release in desk.out)
    assert desk.playout.underruns == 0


def test_a_late_chunk_holds_picture_and_sound_alike_and_the_delay_comes_back_in_silence() -> None:
    desk = Desk()
    desk.prime()
    desk.run(5)
    desk.cost = 0.6
    desk.run(0.5)
    desk.cost = 0.1
    desk.run(3)
    desk.check()
    held = [release for release in desk.out[50:] if release.sample < 0]
    assert held and desk.playout.underruns >= 1
    assert desk.playout.skipped > 0
    assert desk.playout.lag <= DELAY + 4 * BLOCK


def test_an_engine_that_stays_slow_is_given_more_time_and_less_again_later() -> None:
    desk = Desk()
    desk.prime()
    desk.cost = 0.33  # a little more than the delay allows for
    desk.run(60)
    settled = desk.playout.underruns
    desk.run(60)
    assert desk.playout.underruns - settled <= 4  # not one after each reduction of the delay
    desk.check()
    desk.cost = 0.5
    desk.run(60)
    assert desk.playout._target > DELAY + 4 * BLOCK
    desk.cost = 0.05
    desk.run(30 * (desk.playout._target - DELAY) / BLOCK + 60)
    assert desk.playout._target == DELAY and desk.playout.lag <= DELAY + 4 * BLOCK
    desk.check()


def primed(frames: int, ahead: int = 0, loud: bool = True) -> Playout:
    """Playout with a call's first ``frames`` pictures, and voice ``ahead`` blocks longer than the delay."""
    playout = Playout(STILL, FPS, DELAY, LIMIT)
    playout.push_chunk(chunk(0, frames))
    while playout.head < DELAY + ahead * BLOCK:
        playout.push_voice(voice(playout.head, loud), playout.head)
    return playout


def ticks(playout: Playout, first: int, count: int) -> list[Release]:
    return [release for tick in range(first, first + count) for release in playout.due(100 + tick * BLOCK_S)]


def test_sound_is_faded_where_it_is_held_and_where_it_goes_on() -> None:
    playout = primed(frames=2)
    before = ticks(playout, 0, 4)[-1]
    held, silent = ticks(playout, 4, 2)
    playout.push_chunk(chunk(2, 2))
    after, next_one = ticks(playout, 6, 2)
    assert (before.sample, held.sample, silent.sample, after.sample) == (3 * BLOCK, -1, -1, 4 * BLOCK)
    coming = voice(4 * BLOCK)[0]  # the sound faded out is the next sound, which is played in full later
    assert held.audio[0] == coming and (np.diff(held.audio) <= 0).all() and not held.audio[240:].any()
    assert not silent.audio.any()
    assert after.audio[0] == 0 and (np.diff(after.audio) >= 0).all() and (after.audio[240:] == coming).all()
    assert (next_one.audio == voice(5 * BLOCK)).all()


def test_speech_that_is_cut_fades_into_what_follows() -> None:
    playout = primed(frames=60, ahead=60)
    out = ticks(playout, 0, 11)
    assert playout.skipped == 1
    cut = next(i for i in range(1, len(out)) if out[i].sample != out[i - 1].sample + BLOCK)
    sample = out[cut].sample
    assert sample == out[cut - 1].sample + 3 * BLOCK
    assert out[cut].audio[0] == voice(sample - 2 * BLOCK)[0] and out[cut].audio[-1] == voice(sample)[0]
    assert (np.diff(out[cut].audio) >= 0).all() and (out[cut + 1].audio == voice(sample + BLOCK)).all()


@pytest.mark.parametrize(("frames", "skipped"), [(6, 0), (7, 1)])
def test_no_frame_is_given_back_when_none_would_be_left(frames: int, skipped: int) -> None:
    playout = primed(frames, ahead=20, loud=False)
    out = ticks(playout, 0, 12)  # the first skip may come at the tenth tick, in the fifth frame
    assert playout.skipped == skipped and all(release.sample >= 0 for release in out)


def test_pictures_that_come_too_late_are_not_kept() -> None:
    playout = primed(frames=9)
    ticks(playout, 0, 11)
    playout.push_chunk(chunk(0, 9))
    assert playout.frame == 5 and sorted(playout._frames) == [6, 7, 8]


def test_delay_is_kept_while_someone_speaks_and_given_back_when_they_pause() -> None:
    desk = Desk(loud=True)
    desk.prime()
    desk.run(3)
    desk.cost = 0.7
    desk.run(0.5)
    desk.cost = 0.1
    desk.run(3)
    assert desk.playout.skipped == 0 and desk.playout.lag > DELAY + 6 * BLOCK
    desk.loud = False
    desk.run(8)
    assert desk.playout.lag <= DELAY + 4 * BLOCK
    desk.check()


@pytest.mark.parametrize("skew", [0.005, -0.005, 0.02])
@pytest.mark.parametrize("loud", [True, False])
def test_delay_stays_bounded_on_a_skewed_clock(skew: float, loud: bool) -> None:
    desk = Desk(skew=skew, loud=loud)
    desk.prime()
    lags = []
    for _ in range(120):
        desk.run(1)
        lags.append(desk.playout.lag)
    desk.check()
    assert max(lags) <= LIMIT + 12 * BLOCK
    assert len(desk.frames) > 115 * FPS * (1 - abs(skew)) * 0.97
    if not loud and skew > 0:
        assert max(lags) <= DELAY + 6 * BLOCK
    # Nothing accumulates, whichever clock is faster.
    assert len(desk.playout._voice) < 150 and len(desk.playout._frames) < 2 * LIMIT * FPS / 48_000


def test_a_stopped_loop_moves_the_clock_and_bursts_nothing() -> None:
    desk = Desk()
    desk.prime()
    desk.run(3)
    desk.now += 4 * BLOCK_S
    assert len(desk.playout.due(desk.now)) == MAX_BURST
    desk.now += 3.0
    assert len(desk.playout.due(desk.now)) == 1
    assert desk.playout.stalls == 1
    assert desk.playout.next_due() == pytest.approx(desk.now + BLOCK_S)
    assert desk.playout.due(desk.now + BLOCK_S / 2) == []


def test_a_new_epoch_goes_on_where_the_old_one_broke_off() -> None:
    desk = Desk()
    desk.prime()
    desk.run(5)
    playout = desk.playout
    first = playout.await_engine()
    assert first == playout.awaited == max(desk.frames) + 1 + len(playout._frames)
    desk.ready.clear()
    desk.run(2, speak=False, engine=False)  # media time waits: no voice either
    assert playout.frame == first - 1 and playout.underruns == 0
    playout.begin_epoch(1)
    playout.push_chunk(chunk(first, 12, epoch=0))  # from the lost engine
    desk.run(0.1, speak=False, engine=False)
    assert playout.frame == first - 1
    playout.push_chunk(chunk(first, 9, epoch=1))
    desk.next_frame = first + 9
    desk.run(5)
    desk.check()
    assert desk.frames == list(range(len(desk.frames)))
    assert playout.lag <= DELAY + 4 * BLOCK


def test_sound_is_silent_where_the_engine_took_silence() -> None:
    desk = Desk(loud=True)
    desk.prime()
    desk.playout.push_chunk(chunk(0, 9, missing=((640, 1280),)))
    out = [desk.playout.due(100 + tick * BLOCK_S)[0] for tick in range(10)]
    assert [bool(release.audio[-1]) for release in out] == [True, True, False, False, *[True] * 6]


def test_voice_for_which_silence_was_taken_is_silent_when_it_comes() -> None:
    playout = primed(frames=9)
    start, end = playout.head // 3, (playout.head + 2 * BLOCK) // 3 + 100
    playout.push_chunk(chunk(9, 12, missing=((start - 320, end),)))
    for _ in range(4):
        playout.push_voice(voice(playout.head), playout.head)
    heard = np.concatenate([playout._voice[at] for at in range(DELAY - 2 * BLOCK, DELAY + 4 * BLOCK, BLOCK)])
    silent = np.flatnonzero(heard == 0)
    assert np.array_equal(silent, np.arange(BLOCK, 4 * BLOCK + 300))
    assert voice(DELAY)[0] and (playout._voice[DELAY + 3 * BLOCK] == voice(DELAY + 3 * BLOCK)).all()


def test_what_a_lost_engine_has_not_made_is_heard_with_its_successor() -> None:
    playout = primed(frames=9)
    playout.push_chunk(chunk(9, 20, missing=((DELAY // 3, (DELAY + 40 * BLOCK) // 3),)))
    assert playout.await_engine() == 29
    for _ in range(40):
        playout.push_voice(voice(playout.head), playout.head)
    loud = [at for at in range(DELAY, playout.head, BLOCK) if playout._voice[at].any()]
    assert loud == list(range(58 * BLOCK, playout.head, BLOCK))  # frame 29 begins at block 58


def test_an_interrupt_fades_within_one_block() -> None:
    desk = Desk(loud=True)
    desk.prime()
    desk.run(3)
    start = len(desk.out)
    silent_from = desk.playout.fade_out()
    desk.run(0.5)
    after = desk.out[start:]
    fading = after[0].audio
    assert fading[0] > 900 and fading[-1] == 0 and (np.diff(fading) <= 0).all()
    assert not any(release.audio.any() for release in after if release.sample >= 0 and release.sample >= silent_from and
                   release.sample < silent_from + DELAY - 2 * BLOCK)  # fmt: skip


def test_pictures_are_held_by_reference_and_never_pile_up() -> None:
    playout = Playout(STILL, FPS, DELAY, LIMIT)
    for first in range(0, 1200, 12):
        playout.push_chunk(chunk(first, 12))
    assert len(playout._frames) <= 2 * LIMIT * FPS / 48_000
    playout.clear()
    assert not playout._frames and playout._picture.size == 0


def test_a_long_delay_keeps_as_many_pictures_as_it_lasts() -> None:
    desk = Desk(loud=True, delay=300 * BLOCK)  # 6 s
    desk.prime()
    desk.run(20)
    desk.check()
    assert desk.frames == list(range(len(desk.frames))) and len(desk.frames) > 13 * FPS
    assert desk.playout.underruns == desk.playout.skipped == 0
