"""Earliest deadline first, on a clock that is only a number."""

from math import inf

from engine.worker.scheduler import DeadlineScheduler, Pulse


def scheduler(cost: float = 0.1, period: float = 0.48) -> DeadlineScheduler[str]:
    queue = DeadlineScheduler[str](period=period, cost=cost, limit=0.9, margin=1.25)
    for name in ("a", "b", "c"):
        queue.join(name)
    return queue


def chunk_made(queue: DeadlineScheduler[str], name: str, cost: float) -> None:
    queue.withdraw(name)
    queue.spent(name, cost)


def test_the_earliest_deadline_comes_first_and_files_last() -> None:
    queue = scheduler()
    queue.offer("a", 0.0, 3.0, complete=True)
    queue.offer("b", 0.0, inf, complete=True)
    queue.offer("c", 0.0, 2.0, complete=True)
    assert queue.order(0.0) == ["c", "a", "b"]
    chunk_made(queue, "c", 0.1)
    assert queue.order(0.0) == ["a", "b"]
    queue.withdraw("a")
    assert queue.order(0.0) == ["b"]


def test_among_files_who_waited_longest_comes_first() -> None:
    queue = scheduler()
    for now, name in enumerate("bac"):
        queue.offer(name, float(now), inf, complete=True)
    queue.offer("b", 5.0, inf, complete=True)  # offered again, still waiting since 0
    assert queue.order(6.0) == ["b", "a", "c"]
    chunk_made(queue, "b", 0.1)
    queue.offer("b", 6.0, inf, complete=True)
    assert queue.order(6.0) == ["a", "c", "b"]


def test_without_its_voice_a_chunk_waits_as_long_as_time_allows() -> None:
    queue = scheduler(cost=0.1)
    queue.offer("a", 0.0, 1.0, complete=False)
    assert queue.wake_at() == 0.875
    assert queue.order(0.874) == [] and queue.order(0.875) == ["a"]


def test_a_slow_machine_is_no_reason_to_take_silence_early() -> None:
    queue = scheduler(cost=0.1)
    for _ in range(60):
        queue.offer("a", 0.0, 1.0, complete=True)
        chunk_made(queue, "a", 0.6)
    queue.offer("a", 0.0, 1.0, complete=False)
    assert queue.wake_at() == 0.875


def test_a_file_never_goes_without_its_voice() -> None:
    queue = scheduler()
    queue.offer("a", 0.0, inf, complete=False)
    assert queue.order(1e9) == [] and queue.wake_at() == inf


def test_cost_is_measured_and_remembered() -> None:
    queue = scheduler(cost=0.1)
    for _ in range(60):
        queue.offer("a", 0.0, 1.0, complete=True)
        chunk_made(queue, "a", 0.2)
    assert abs(queue.load * queue.period - (0.2 + 0.1 + 0.1)) < 1e-3


def test_one_call_too_many_is_refused_before_it_overloads() -> None:
    queue = DeadlineScheduler[int](period=0.48, cost=0.1, limit=0.9)
    admitted = 0
    while queue.admit():
        queue.join(admitted)
        admitted += 1
    assert admitted == 4 and queue.load <= 0.9  # a fifth would promise 1.04 of the time
    queue.leave(0)
    assert queue.admit() and not queue.admit(cost=0.3)


def test_a_file_is_no_load_and_the_first_call_always_fits() -> None:
    queue = DeadlineScheduler[str](period=0.48, cost=2.0)
    assert queue.admit()
    queue.join("file")
    assert not queue.admit()  # it may still turn out to be a live call
    queue.offer("file", 0.0, inf, complete=True)
    assert queue.load == 0.0 and queue.admit()
    queue.join("call")
    assert not queue.admit()


def simulate(costs: dict[str, float], period: float, chunks: int, delay: float) -> float:
    """Calls whose chunk n is ready at n * period and due ``delay`` later, on one device. The worst lateness."""
    queue = DeadlineScheduler[str](period, cost=max(costs.values()), limit=1.0)
    made = dict.fromkeys(costs, 0)
    for name in costs:
        queue.join(name)
    now, worst = 0.0, -inf
    while min(made.values()) < chunks:
        for name, done in made.items():
            if now >= done * period:
                queue.offer(name, now, done * period + delay, complete=True)
            else:
                queue.withdraw(name)
        order = queue.order(now)
        if not order:
            now = min(done * period for done in made.values())
            continue
        name_now = order[0]
        due = made[name_now] * period + delay
        now += costs[name_now]
        made[name_now] += 1
        worst = max(worst, now - due)
        chunk_made(queue, name_now, costs[name_now])
    return worst


def test_what_fits_is_never_late() -> None:
    assert simulate({"a": 0.2, "b": 0.2, "c": 0.05}, period=0.48, chunks=200, delay=0.48) <= 1e-9
    assert simulate({"a": 0.3, "b": 0.3}, period=0.48, chunks=200, delay=0.48) > 1.0  # what does not fit is


def test_what_chunks_cost_of_late_is_expected_of_the_next_call() -> None:
    queue = DeadlineScheduler[str](period=0.48, cost=0.4)  # the machine was busy during warm-up
    queue.join("a")
    assert not queue.admit()
    for _ in range(20):
        queue.offer("a", 0.0, 1.0, complete=True)
        chunk_made(queue, "a", 0.1)
    assert queue.admit()


def test_a_gateway_that_stopped_for_a_while_is_given_time_to_catch_up() -> None:
    pulse = Pulse()
    for step in range(6):
        pulse.beat(100 + step * 0.02)
    assert pulse.grace(100.1) == 0.0 and pulse.grace(100.19) == 0.0
    assert pulse.grace(100.25) == 0.5  # nothing for 150 ms
    pulse.beat(101.0)
    assert pulse.grace(101.0) == 0.5 and pulse.grace(101.06) == 0.0
