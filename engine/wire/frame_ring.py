"""Frame ring: I420 pictures in anonymous shared memory (memfd), written by one process and read by another.

Frame n lies in slot n % capacity. Each slot has a sequence number that is odd while it is written (a seqlock), so a
reader notices a picture that is torn, overwritten, or left half done by a writer that died. The memory has no name in
the file system, so it cannot outlive both processes. It is sealed, so neither side can shrink it under the other. Knows
nothing of messages: who may write when is the stream's credit (``FramesRead``).
"""

import fcntl
import mmap
import os
import struct
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ground.errors import EngineError

_HEADER = struct.Struct("<8sIII")  # magic, capacity, width, height
_MAGIC = b"knotring"
_HEADER_BYTES = 64
_SLOT_BYTES = 64  # sequence u64, frame i64, and room to keep slots on cache lines of their own
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MAX_BYTES = 1 << 30


def _pixels_offset(capacity: int) -> int:
    return -(-(_HEADER_BYTES + capacity * _SLOT_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE


def _ring_bytes(capacity: int, width: int, height: int) -> int:
    return _pixels_offset(capacity) + capacity * (width * height * 3 // 2)


class FrameRing:
    """``create`` in the gateway, ``attach`` in the worker; each side closes its own."""

    def __init__(self, descriptor: int, capacity: int, width: int, height: int) -> None:
        """Private: takes over ``descriptor``."""
        self.capacity, self.width, self.height = capacity, width, height
        self._fd: int | None = descriptor
        self._map = mmap.mmap(descriptor, _ring_bytes(capacity, width, height))
        slots = np.frombuffer(self._map, np.int64, capacity * _SLOT_BYTES // 8, _HEADER_BYTES).reshape(capacity, -1)
        self._sequence: NDArray[np.int64] = slots[:, 0]
        self._frame: NDArray[np.int64] = slots[:, 1]
        offset, rows = _pixels_offset(capacity), height * 3 // 2
        self._pixels: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8, capacity * rows * width, offset).reshape(
            capacity, rows, width
        )

    @classmethod
    def create(cls, frames: int, width: int, height: int) -> Self:
        """A fresh ring with room for ``frames`` pictures. Width and height must be even."""
        assert frames > 0 and width > 0 and height > 0 and width % 2 == 0 and height % 2 == 0
        size = _ring_bytes(frames, width, height)
        assert size <= _MAX_BYTES, f"a frame ring of {size} bytes"
        fd = os.memfd_create("knotcast-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            os.pwrite(fd, _HEADER.pack(_MAGIC, frames, width, height), 0)
            ring = cls(fd, frames, width, height)
        except BaseException:
            os.close(fd)
            raise
        ring._frame[:] = -1
        return ring

    @classmethod
    def attach(cls, descriptor: int) -> Self:
        """Map a ring that came over the socket; takes over ``descriptor`` even when it raises."""
        try:
            if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise EngineError("bad_frame_ring", "the frame ring is not sealed")
            header = os.pread(descriptor, _HEADER.size, 0)
            if len(header) != _HEADER.size:
                raise EngineError("bad_frame_ring", "the frame ring is too short")
            magic, capacity, width, height = _HEADER.unpack(header)
            fits = (
                magic == _MAGIC
                and capacity > 0
                and os.fstat(descriptor).st_size == _ring_bytes(capacity, width, height)
            )
            if not fits or width % 2 or height % 2:
                raise EngineError("bad_frame_ring", "the frame ring's header does not match its size")
            return cls(descriptor, capacity, width, height)
        except OSError as error:
            os.close(descriptor)
            raise EngineError("bad_frame_ring", "the descriptor is not a frame ring") from error
        except EngineError:
            os.close(descriptor)
            raise

    @property
    def descriptor(self) -> int:
        """File descriptor for the other process; valid until ``close``."""
        assert self._fd is not None, "the ring is closed"
        return self._fd

    def write(self, frame: int, i420: NDArray[np.uint8]) -> None:
        """Write picture number ``frame``, [H*3/2, W], into its slot."""
        slot = frame % self.capacity
        begun = (int(self._sequence[slot]) + 1) | 1  # odd also after a writer that died half way
        self._sequence[slot] = begun
        self._frame[slot] = frame
        self._pixels[slot] = i420
        self._sequence[slot] = begun + 1

    def read_into(self, frame: int, out: NDArray[np.uint8]) -> bool:
        """Copy picture ``frame`` to ``out`` [H*3/2, W]; False if it is not there, overwritten, or torn."""
        slot = frame % self.capacity
        before = int(self._sequence[slot])
        if before % 2 or int(self._frame[slot]) != frame:
            return False
        np.copyto(out, self._pixels[slot])
        return int(self._sequence[slot]) == before

    def read(self, frame: int) -> NDArray[np.uint8] | None:
        """A copy of picture ``frame``, [H*3/2, W], or None as ``read_into`` says."""
        out = np.empty((self.height * 3 // 2, self.width), np.uint8)
        return out if self.read_into(frame, out) else None

    def close(self) -> None:
        """Unmap and close at once, not at garbage collection. Twice is fine."""
        if self._fd is None:
            return
        del self._sequence, self._frame, self._pixels  # a map with views on it cannot be closed
        self._map.close()
        os.close(self._fd)
        self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
