"""Stream of batches. A batch is a function of its number, so only the next number is kept, and other processes may
prepare batches ahead with the same result.
"""

from collections.abc import Iterator
from itertools import count

from torch.utils.data import DataLoader, Dataset

from training.clips import ClipBatch, Clips

AHEAD = 2  # batches that each worker makes ahead


class _Batches(Dataset[ClipBatch]):
    def __init__(self, clips: Clips, size: int, share: slice) -> None:
        self.clips, self.size, self.share = clips, size, share

    def __getitem__(self, number: int) -> ClipBatch:
        return self.clips.batch(number, self.size, self.share)


class ClipStream:
    """number: of the next batch; it may be set before the first is drawn. workers: processes that make batches ahead
    (tensors come through /dev/shm), 0 = each is made when it is asked for."""

    def __init__(self, clips: Clips, size: int, share: slice = slice(None), workers: int = 0) -> None:
        self.clips, self.workers, self.number = clips, workers, 0
        self._batches = _Batches(clips, size, share)
        self._coming: Iterator[ClipBatch] | None = None

    def next(self) -> ClipBatch:
        if self._coming is None:
            self._coming = self._from(self.number)
        batch = next(self._coming)
        self.number += 1
        return batch

    def _from(self, number: int) -> Iterator[ClipBatch]:
        if not self.workers:
            return map(self._batches.__getitem__, count(number))
        # Forked, so that the clips are not copied; torch's workers end with the process that started them.
        return iter(
            DataLoader(
                self._batches, batch_size=None, sampler=count(number), num_workers=self.workers,
                prefetch_factor=AHEAD, multiprocessing_context="fork",
            )
        )  # fmt: skip
