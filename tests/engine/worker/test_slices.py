"""Time slices of a computation: stops where it is told, the same answer, errors and ends reach their owner."""

import threading

import pytest
import torch

from engine.worker.slices import Sliced
from models.codecs.base import Portrait
from models.registry import load_model
from tests.engine.worker.timed_worker import Clock
from tests.faces import drawn_face


def convolved() -> torch.Tensor:
    layer = torch.nn.Conv2d(3, 8, 3)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    with torch.inference_mode():
        x = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
        for _ in range(5):
            x = torch.nn.functional.silu(layer(x))[:, :3]
        return x


def sliced(work: object) -> Sliced[torch.Tensor]:
    return Sliced(work, torch.device("cpu"))  # type: ignore[arg-type]


def test_the_answer_is_the_same_to_the_bit_however_often_it_stops() -> None:
    def ticking() -> float:
        clock.now += 1.0
        return clock.now

    clock, made, advances = Clock(), sliced(convolved), 0
    while not made.done:
        made.advance(0.5, ticking)
        advances += 1
    assert advances > 10 and torch.equal(made.result, convolved())


def test_a_video_codecs_portrait_is_the_same_in_slices() -> None:
    codec = load_model("wan-tiny-test", device="cpu", random_weights=True).codec
    assert codec is not None
    portrait = Portrait(drawn_face(64), {})
    with torch.inference_mode():
        whole = codec.encode_reference(portrait).latent
        made = Sliced(lambda: torch.inference_mode()(codec.encode_reference)(portrait), torch.device("cpu"))
        slices = 0
        while not made.done:
            made.advance(0.0, Clock())
            slices += 1
    assert slices > 50 and torch.equal(made.result.latent, whole)


def test_it_stops_after_the_operation_in_which_its_time_ends() -> None:
    def work() -> torch.Tensor:
        for _ in range(10):
            clock.now += 0.4
            torch.zeros(1)
        return torch.ones(1)

    clock, made, stops = Clock(), sliced(work), []
    while not made.done:
        made.advance(1.0, clock)
        stops.append(round(clock.now - 100, 6))
    assert stops == [1.2, 2.4, 3.6, 4.0]


def test_between_slices_nothing_runs() -> None:
    steps: list[int] = []

    def work() -> torch.Tensor:
        for step in range(3):
            steps.append(step)
            torch.zeros(1)
        return torch.ones(1)

    made = sliced(work)
    made.advance(0.0, Clock())
    before = list(steps)
    threading.Event().wait(0.05)
    assert steps == before == [0]
    made.close()
    assert steps == [0] and not made.done


def test_an_error_is_the_owners() -> None:
    def work() -> torch.Tensor:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        sliced(work).advance(1.0, Clock())


def test_its_thread_ends_with_it() -> None:
    before = threading.active_count()
    for seconds in (0.0, 9.0):
        made = sliced(convolved)
        made.advance(seconds, Clock())
        made.close()
        made.close()
    sliced(convolved).close()
    assert threading.active_count() == before


def test_it_computes_on_as_many_threads_as_its_owner() -> None:
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = sliced(torch.get_num_threads)
        made.advance(1.0, Clock())
        assert made.result == 1
    finally:
        torch.set_num_threads(count)
