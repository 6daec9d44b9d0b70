"""Progress display of the preparation: a bar in a terminal with rich, else lines."""

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol


class SourceProgress(Protocol):
    """Told by several threads."""

    def begin(self, total: int, done: int) -> None:
        """So many sources, so many of them finished by an earlier run."""

    def frames(self, name: str, done: int, total: int) -> None:
        """How far a source is."""

    def finished(self, name: str, record: dict[str, Any]) -> None:
        """A source is done, and what came of it."""


def verdict(record: dict[str, Any]) -> str:
    reasons = Counter(refusal["reason"] for refusal in record["rejected"])
    refused = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"{len(record['clips'])} clips" + (f", refused: {refused}" if refused else "")


class Lines:
    """A line for each source."""

    def __init__(self) -> None:
        self._total = self._done = 0
        self._lock = threading.Lock()

    def begin(self, total: int, done: int) -> None:
        self._total, self._done = total, done
        print(f"{total} sources, {done} finished before", flush=True)

    def frames(self, name: str, done: int, total: int) -> None:
        pass

    def finished(self, name: str, record: dict[str, Any]) -> None:
        with self._lock:
            self._done += 1
            print(f"[{self._done}/{self._total}] {name}: {verdict(record)}", flush=True)


class Bars:
    """A bar for all sources and one for each that is being read."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._all = bars.add_task("sources", total=None)
        self._tasks: dict[str, Any] = {}
        self._lock = threading.Lock()

    def begin(self, total: int, done: int) -> None:
        self._bars.update(self._all, total=total, completed=done)

    def frames(self, name: str, done: int, total: int) -> None:
        with self._lock:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name[-40:], total=total)
            self._bars.update(self._tasks[name], completed=done, total=total)

    def finished(self, name: str, record: dict[str, Any]) -> None:
        with self._lock:
            if name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))
            self._bars.advance(self._all)
            if record["rejected"]:
                self._bars.console.print(f"{name}: {verdict(record)}", markup=False)


@contextlib.contextmanager
def progress() -> Iterator[SourceProgress]:
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield Lines()
        return
    if not sys.stdout.isatty():
        yield Lines()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bars:
        yield Bars(bars)
