"""``SenderClock`` on simulated networks: spacing is kept, delay is bounded, clock drift and jumps are followed."""

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from server.call.sender_clock import EARLY_MS, FAR_MS, JUMP_MS, SenderClock

PERIOD = 40.0
BLOCK_MS = 20.0
Record = tuple[float, float]  # sender's time, media time at arrival; ms


def network(
    seconds: float, transit: Callable[[int], float], drift: float = 0.0, origin: float = 7_000_000.0
) -> Iterator[Record]:
    """Records 40 ms apart that arrive in order; media time moves in blocks. transit: ms on the way, by record. drift:
    fraction by which the sender's clock runs faster."""
    arrival = 0.0
    for n in range(round(seconds * 1000 / PERIOD)):
        true = n * PERIOD
        arrival = max(arrival, true + transit(n))
        yield origin + true * (1 + drift), arrival // BLOCK_MS * BLOCK_MS


def mapped(records: Iterator[Record], clock: SenderClock | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sender's times, media times at arrival, and mapped media times."""
    clock = clock or SenderClock()
    rows = [(sent, now, clock.media_ms(sent, now)) for sent, now in records]
    sent, now, media = np.array(rows).T
    assert (media <= now + EARLY_MS + 1e-6).all() and (media >= now - FAR_MS - 1e-6).all()
    return sent, now, media


@pytest.mark.parametrize("jitter", [0.0, 15.0, 60.0, 150.0])
@pytest.mark.parametrize("seed", range(3))
def test_records_keep_the_senders_spacing_however_they_bunch(jitter: float, seed: int) -> None:
    rng = random.Random(seed)
    sent, now, media = mapped(
        network(30, lambda n: 25 + rng.expovariate(1 / jitter) % (1.5 * jitter) if jitter else 25)
    )
    settled = 2000 // int(PERIOD)
    assert np.abs(np.diff(media) - PERIOD)[settled:].max() < 1.0
    if jitter > 50:
        assert np.abs(np.diff(now) - PERIOD).max() > 50  # they arrive in bunches


def test_records_that_come_with_the_first_ones_jitter_are_not_far_later_than_they_arrive() -> None:
    sent, now, media = mapped(network(20, lambda n: 180 if n == 0 else 30))
    assert media[0] == now[0]
    assert (media[1:] <= now[1:] + EARLY_MS).all()
    assert np.abs(media - now)[-100:].max() <= BLOCK_MS + 1


def test_a_stall_of_the_network_is_no_movement() -> None:
    """Five records wait up to 200 ms and arrive at once."""
    sent, now, media = mapped(network(20, lambda n: 30 + max(0, 200 - PERIOD * (n - 250)) if n >= 250 else 30))
    assert len(set(now[250:255])) < 3
    assert np.abs(np.diff(media) - PERIOD)[50:].max() < 1.0


def test_what_is_far_too_late_is_placed_at_its_arrival_and_moves_nothing_else() -> None:
    sent, now, media = mapped(network(20, lambda n: 30 + max(0, 600 - PERIOD * (n - 250)) if n >= 250 else 30))
    late = now - sent - (now - sent).min() > FAR_MS
    assert 5 < late.sum() < 12 and (media[late] == now[late]).all()
    rest = media[~late] - sent[~late]
    assert np.ptp(rest[50:]) < 1.0


@pytest.mark.parametrize("drift", [300e-6, -300e-6])
def test_drift_is_followed(drift: float) -> None:
    rng = random.Random(1)
    sent, now, media = mapped(network(600, lambda n: 25 + 30 * rng.random(), drift))
    assert abs(600_000 * drift) > 150
    settled = slice(500, None)
    assert np.abs(np.diff(media) - PERIOD)[settled].max() < 1.0
    assert -BLOCK_MS < np.mean(now[-500:] - media[-500:]) < 45


@pytest.mark.parametrize("jump", [3_600_000.0, -3_600_000.0, 500.0, -500.0])
def test_a_clock_that_jumps_is_followed_after_a_second(jump: float) -> None:
    clock = SenderClock()
    mapped(network(10, lambda n: 30), clock)
    later = ((sent + jump + 10_000, now + 10_000) for sent, now in network(10, lambda n: 30 + n % 3 * 10))
    sent, now, media = mapped(later, clock)
    again = int(JUMP_MS / PERIOD) + 2
    assert (media[: again - 4] == now[: again - 4]).all()
    assert np.abs(np.diff(media) - PERIOD)[again:].max() < 1.0


def test_media_time_that_stood_still_is_followed() -> None:
    """Media time waits for an engine while the sender's clock runs on."""
    clock = SenderClock()
    mapped(network(10, lambda n: 30), clock)
    later = ((sent + 13_000, now + 10_000) for sent, now in network(10, lambda n: 30))
    sent, now, media = mapped(later, clock)
    assert np.abs(np.diff(media) - PERIOD)[30:].max() < 1.0 and np.abs(media - now)[30:].max() <= BLOCK_MS + 1


def test_a_record_without_a_time_is_placed_at_its_arrival() -> None:
    clock = SenderClock()
    assert clock.media_ms(None, 500.0) == 500.0
    assert clock.media_ms(100.0, 540.0) == 540.0
    assert clock.media_ms(None, 600.0) == 600.0
    still = SenderClock()  # a client that always writes 0
    assert [still.media_ms(0.0, now) for now in (640.0, 700.0, 5000.0)] == [640.0, 700.0, 5000.0]


def test_records_that_are_late_now_and_then_are_no_jump_of_a_clock() -> None:
    """Late records are more than a second apart, and all records between them are in time."""
    clock = SenderClock()
    mapped(network(2, lambda n: 30), clock)
    for n in range(50, 400):
        sent, now = 7_000_000 + n * PERIOD, n * PERIOD + 20
        late = n % 30 == 0
        media = clock.media_ms(sent, now + 300 if late else now + 20 * (n % 2))
        assert media == pytest.approx(now + 300 if late else now, abs=1.0)


def test_one_wrong_time_does_not_move_the_others() -> None:
    clock = SenderClock()
    mapped(network(10, lambda n: 30), clock)
    assert clock.media_ms(1e15, 10_020.0) == 10_020.0
    sent, now, media = mapped(((s + 10_040, n + 10_040) for s, n in network(5, lambda n: 30)), clock)
    assert np.abs(np.diff(media) - PERIOD).max() < 1.0
