"""The cost model and the choice of a batch, in closed form."""

from math import inf

import pytest

from engine.worker.batching import Candidate, Costs, Kind, Outlook, Promise, booked, choose

STEP, OTHER, ENCODE = Kind("pass", "step"), Kind("pass", "other"), Kind("encode", 0)


def costs(one: float = 1.0, two: float | None = None, growth: float = 1.0) -> Costs:
    made = Costs(guess=9.0, growth=growth)
    for kind in (STEP, OTHER):
        made.measured(kind, 1, one)
        if two is not None:
            made.measured(kind, 2, two)
    return made


def test_a_mean_at_first_and_what_was_of_late_afterwards() -> None:
    made = Costs(guess=9.0, growth=1.0)
    for seconds in (3.0, 1.0):
        made.measured(STEP, 1, seconds)
    assert made.cost(STEP, 1) == 2.0
    for _ in range(60):
        made.measured(STEP, 1, 5.0)
    assert made.cost(STEP, 1) == pytest.approx(5.0, abs=1e-3)


def test_sizes_that_were_not_measured() -> None:
    made = Costs(guess=4.0, growth=0.5)
    assert (made.cost(STEP, 1), made.cost(STEP, 3)) == (4.0, 8.0), "nothing is known"
    made.measured(STEP, 2, 3.0)
    assert [made.cost(STEP, size) for size in (1, 2, 4)] == pytest.approx([2.0, 3.0, 5.0])
    made.measured(STEP, 4, 4.0)
    assert made.cost(STEP, 3) == pytest.approx(3.5), "between two that were"
    assert made.cost(OTHER, 2) == 3.0, "an unknown pass costs as much as the dearest known one"
    assert made.cost(ENCODE, 1) == 4.0, "other work is no measure of it"


def test_no_batch_is_cheaper_than_a_smaller_one() -> None:
    made = Costs(guess=4.0, growth=0.0)
    for size, seconds in ((1, 3.0), (2, 2.5), (3, 2.0), (5, 6.0)):
        made.measured(STEP, size, seconds)
    estimates = [made.cost(STEP, size) for size in range(1, 8)]
    assert estimates == sorted(estimates) and estimates[:3] == [3.0, 3.0, 3.0]


def live(deadline: float, left: float = 1.0, chunk: float = 1.0) -> Promise:
    return Promise(deadline, left, chunk)


def test_slack_is_what_all_work_due_by_each_deadline_leaves() -> None:
    assert Outlook(0.0, 10.0, {}).slack() == inf
    outlook = Outlook(100.0, 10.0, {"a": live(104.0, left=1.0, chunk=2.0), "b": live(105.0, left=3.0, chunk=2.0)})
    assert outlook.slack() == pytest.approx(5.0 - 0.5 - 4.0), "b's reserve is a quarter of its chunk"
    outlook = Outlook(0.0, 1.0, {"a": live(1.0, left=0.5, chunk=0.5), "b": live(3.5, left=0.5, chunk=0.4)})
    assert outlook.slack() == pytest.approx(min(1.0 - 0.125 - 0.5, 3.5 - 0.1 - 0.5 - 3 * 0.5)), "and its later chunks"


def test_a_chunk_that_is_late_even_alone_keeps_nothing_idle() -> None:
    promises = {"late": live(2.0, left=3.0), "in time": live(9.0, left=1.0)}
    assert Outlook(0.0, 10.0, promises).slack() == pytest.approx(9.0 - 0.25 - 4.0)
    assert Outlook(0.0, 10.0, {"late": live(2.0, left=3.0)}).slack() == inf


def candidates(*names: str, kind: Kind = STEP, files: str = "") -> list[Candidate[str]]:
    return [Candidate(name, kind, name not in files) for name in names]


def test_a_live_chunk_is_never_kept_waiting() -> None:
    outlook = Outlook(10.0, 10.0, {"a": live(1.0)})
    assert choose(candidates("a"), outlook, costs()) == ["a"]
    assert choose([], outlook, costs()) == []


def test_what_need_not_run_waits_for_slack_and_keeps_its_turn() -> None:
    outlook = Outlook(0.0, 10.0, {"a": live(2.0, left=1.0, chunk=1.0)})  # 0.75 to spare
    made = costs(0.5)
    made.measured(ENCODE, 1, 0.8)
    opening = Candidate("new", ENCODE, False)
    assert choose(candidates("file", files="file"), outlook, made) == ["file"]
    assert choose([opening, *candidates("file", files="file")], outlook, made) == [], "nor does a file go before it"
    assert choose([Candidate("new", ENCODE, True), *candidates("file", files="file")], outlook, made) == ["new"]
    assert choose([opening, *candidates("a")], outlook, made) == ["a"], "a live chunk is not held up by it"


def test_a_file_rides_along_only_in_time_that_nobody_needs() -> None:
    for deadline, expected in ((4.3, ["a", "f"]), (4.2, ["a"]), (1.0, ["a"])):  # 2 + 2 of the rest, and the reserve
        outlook = Outlook(0.0, 10.0, {"a": live(deadline, left=3.0)})
        assert choose(candidates("a", "f", files="f"), outlook, costs(1.0, 2.0)) == expected
    outlook = Outlook(0.0, 10.0, {"a": live(4.3, left=3.0), "soon": live(2.5, left=1.0)})
    assert choose(candidates("a", "f", files="f"), outlook, costs(1.0, 2.0)) == ["a"], "nor whom it does not run beside"


def test_live_calls_are_one_batch_where_both_are_in_time() -> None:
    promises = {"a": live(5.0, left=3.0), "b": live(6.0, left=3.0)}
    assert choose(candidates("a", "b"), Outlook(0.0, 10.0, promises), costs(1.0, 1.1)) == ["a", "b"]
    tight = promises | {"a": live(3.3, left=3.0)}
    assert choose(candidates("a", "b"), Outlook(0.0, 10.0, tight), costs(1.0, 2.0)) == ["a"]
    other = [Candidate("a", STEP, True), Candidate("b", OTHER, True)]
    assert choose(other, Outlook(0.0, 10.0, promises), costs(1.0, 1.1)) == ["a"], "another shape"


def test_calls_that_are_late_anyway_join_if_that_saves_time() -> None:
    promises = {"a": live(1.0, left=3.0), "b": live(1.5, left=3.0)}
    outlook = Outlook(5.0, 10.0, promises)
    assert choose(candidates("a", "b"), outlook, costs(1.0, 1.1)) == ["a", "b"]
    assert choose(candidates("a", "b"), outlook, costs(1.0, 2.0)) == ["a"]
    assert choose(candidates("a", "f", files="f"), outlook, costs(1.0, 1.1)) == ["a"], "a file never"


def test_as_many_join_as_fit() -> None:
    outlook = Outlook(0.0, 10.0, {"a": live(5.3, left=3.0)})  # 3 s of a batch, 2 s of the rest
    names = candidates("a", "f", "g", "h", files="fgh")
    assert choose(names, outlook, costs(1.0)) == ["a", "f", "g"]
    assert choose(candidates("f", "g", "h", files="fgh"), Outlook(0.0, 1.0, {}), costs(1.0)) == ["f", "g", "h"]


def test_decodings_and_slices_run_alone() -> None:
    for kind in (Kind("decode"), ENCODE):
        assert choose(candidates("a", "b", kind=kind), Outlook(0.0, 1.0, {}), costs()) == ["a"]


def test_a_live_call_pays_what_it_costs_without_the_files() -> None:
    made = costs(1.0, 1.2)
    assert booked(1.2, STEP, 2, 0, made) == (0.6, 0.6)
    assert booked(1.2, STEP, 1, 1, made) == (1.0, 0.6)
    assert booked(0.9, STEP, 1, 1, made) == (0.9, 0.45), "never more than was measured"
    assert booked(2.0, STEP, 0, 4, made)[1] == 0.5
