"""CUDA graphs: GPU work recorded once and replayed, so that thousands of small kernels become one launch.

Knows no model: work is a function of tensors of fixed shapes and whatever memory it holds, under a key. What it writes
besides its answer (the cache) it writes in every run, so nothing is ever run twice for one call.
"""

import logging
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

log = logging.getLogger(__name__)
Inputs = tuple[Tensor, ...]
Work = Callable[[Inputs], Tensor]
CAPTURE_ERRORS = range(900, 909)  # cudaErrorStreamCaptureUnsupported to cudaErrorStreamCaptureWrongThread
LIMIT = 32  # recordings; a rollout has about eight shapes, times the sizes of batches


class Graphs:
    """Runs work by key: the first time as it is, on the stream of the recording, which warms its libraries up; then it
    is recorded, and replayed from the second time on. What cannot be recorded runs as it is."""

    def __init__(self, device: torch.device, limit: int = LIMIT) -> None:
        self._limit = limit
        self._replays: dict[Hashable, tuple[Inputs, Callable[[], Tensor]] | None] = {}  # None: cannot be recorded
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __len__(self) -> int:
        return sum(replay is not None for replay in self._replays.values())

    def run(self, key: Hashable, work: Work, inputs: Inputs) -> Tensor:
        """The answer is the caller's to keep. ``inputs`` have the same shapes and types for the same key."""
        if key not in self._replays:
            if len(self._replays) >= self._limit:
                return work(inputs)
            return self._first_run(key, work, inputs)
        recorded = self._replays[key]
        if recorded is None:
            return work(inputs)
        own, replay = recorded
        for mine, given in zip(own, inputs, strict=True):
            mine.copy_(given)
        return replay().clone()

    def _first_run(self, key: Hashable, work: Work, inputs: Inputs) -> Tensor:
        own = tuple(given.clone() for given in inputs)
        answer = self.warm_up(work, own)
        try:
            self._replays[key] = (own, self.record(work, own))
        except RuntimeError as reason:
            if concerns_device(reason):
                raise
            log.warning("a pass runs without a CUDA graph: %s", reason)
            self._replays[key] = None
        return answer

    def warm_up(self, work: Work, own: Inputs) -> Tensor:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            answer = work(own)
        torch.cuda.current_stream().wait_stream(self._stream)
        return answer.clone()

    def record(self, work: Work, own: Inputs) -> Callable[[], Tensor]:
        """Nothing runs while it is recorded. One pool serves all recordings, as no two are replayed at once."""
        graph = torch.cuda.CUDAGraph()
        # The outer context brings the caller's stream back where a recording fails: torch's does not then.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream),
        ):
            answer = work(own)

        def replay() -> Tensor:
            graph.replay()
            return answer

        return replay


def concerns_device(error: RuntimeError) -> bool:
    """Whether the error means that the device is full or lost. A failed recording raises the same class, with other
    codes."""
    if is_out_of_memory(error):
        return True
    return isinstance(error, torch.AcceleratorError) and getattr(error, "error_code", None) not in CAPTURE_ERRORS


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the error, or the one behind it after a broken-off recording, is out of memory."""
    hidden = getattr(error, "__context__", None)
    return isinstance(error, torch.OutOfMemoryError) or isinstance(hidden, torch.OutOfMemoryError)
