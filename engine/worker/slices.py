"""Time slicing of a torch computation: it runs on its own thread, but only while its owner waits for it.

It stops between two torch operations, so no codec has to know of it, one operation is the longest it can overrun a
slice, and the answer is the same to the bit. As the owner waits, it never competes for cores or for the device.
"""

from collections.abc import Callable, Sequence
from threading import Semaphore, Thread
from typing import Any, Generic, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from ground.clock import Clock

T = TypeVar("T")


class _Abandoned(BaseException):
    """Ends the thread of an abandoned computation."""


class Sliced(Generic[T]):
    """``advance`` until ``done``, then ``result``; or ``close`` at any time."""

    def __init__(self, work: Callable[[], T], device: torch.device) -> None:
        self._work, self._device = work, device
        self._threads = torch.get_num_threads()  # a new thread has a number of its own
        self._go, self._stopped = Semaphore(0), Semaphore(0)
        self._thread: Thread | None = None
        self._clock: Clock = float
        self._until = 0.0
        self._abandoned = False
        self._made: list[T] = []
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        return bool(self._made)

    @property
    def result(self) -> T:
        return self._made[0]

    def advance(self, seconds: float, clock: Clock) -> None:
        """Run for ``seconds`` and to the end of the operation that then runs. Raises what the computation raises."""
        self._clock, self._until = clock, clock() + seconds
        self._resume()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Abandon the computation. Twice is fine."""
        if self._thread is not None and self._thread.is_alive() and not self.done:
            self._abandoned = True
            self._resume()

    def _resume(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._run, name="sliced", daemon=True)
            self._thread.start()
        self._go.release()
        self._stopped.acquire()
        if self._made or self._error is not None or self._abandoned:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._go.acquire()
            torch.set_num_threads(self._threads)
            with _BetweenOperations(self._pause):
                made = self._work()
            self._wait_for_device()
            self._made.append(made)
        except _Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001 - the owner's to handle
            self._error = error
        finally:
            self._stopped.release()

    def _pause(self) -> None:
        self._wait_for_device()
        if self._clock() >= self._until:
            self._stopped.release()
            self._go.acquire()
            if self._abandoned:
                raise _Abandoned

    def _wait_for_device(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()


class _BetweenOperations(TorchFunctionMode):
    """Calls ``pause`` before every torch operation of this thread."""

    def __init__(self, pause: Callable[[], None]) -> None:
        super().__init__()
        self._pause = pause

    def __torch_function__(self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self._pause()
        return func(*args, **(kwargs or {}))
