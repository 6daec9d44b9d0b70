"""The frame ring: torn and overwritten pictures are noticed, a dying peer harms nobody, nothing stays behind."""

import fcntl
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.wire.frame_ring import FrameRing
from ground.errors import EngineError


def picture(value: int, width: int = 64, height: int = 48) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.full((height * 3 // 2, width), value, np.uint8)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before
    assert "knotcast-frames" not in Path("/proc/self/maps").read_text()


def test_what_one_side_writes_the_other_reads() -> None:
    with FrameRing.create(4, 64, 48) as ours, FrameRing.attach(os.dup(ours.descriptor)) as theirs:
        assert (theirs.capacity, theirs.width, theirs.height) == (4, 64, 48)
        assert ours.read(0) is None
        for frame in range(10):
            theirs.write(frame, picture(frame))
            read = ours.read(frame)
            assert read is not None and (read == frame).all()
        assert ours.read(5) is None, "overwritten by 9"
        assert ours.read(6) is not None


def test_a_copy_is_a_copy() -> None:
    with FrameRing.create(1, 64, 48) as ring:
        ring.write(0, picture(1))
        read = ring.read(0)
        ring.write(1, picture(2))
        assert read is not None and (read == 1).all()


def test_a_picture_that_is_being_written_is_not_read() -> None:
    with FrameRing.create(2, 64, 48) as ring:
        ring.write(0, picture(1))
        ring._sequence[0] += 1  # a writer has begun, or died
        assert ring.read(0) is None
        ring.write(2, picture(3))  # its successor writes whole again
        read = ring.read(2)
        assert read is not None and (read == 3).all() and ring._sequence[0] % 2 == 0


def test_a_picture_overwritten_during_the_copy_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with FrameRing.create(2, 64, 48) as ring:
        ring.write(0, picture(1))
        copy = np.copyto

        def overtaken(out: object, source: object) -> None:
            ring.write(2, picture(9))
            copy(out, source)  # type: ignore[call-overload]

        monkeypatch.setattr(np, "copyto", overtaken)
        assert ring.read(0) is None


def test_it_cannot_be_resized_and_closes_twice() -> None:
    ring = FrameRing.create(2, 64, 48)
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(ring.descriptor, size)
    ring.close()
    ring.close()


def test_only_a_frame_ring_is_attached() -> None:
    def descriptors() -> Iterator[int]:
        yield os.open("/dev/null", os.O_RDWR)
        unsealed = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.ftruncate(unsealed, 1 << 16)
        yield unsealed
        for header in (b"", b"\xff" * 64, b"knotring" + (10**6).to_bytes(4, "little") * 3):
            sealed = os.memfd_create("x", os.MFD_ALLOW_SEALING)
            os.truncate(sealed, mmap.PAGESIZE)
            os.pwrite(sealed, header, 0)
            fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            yield sealed

    for descriptor in descriptors():
        with pytest.raises(EngineError) as refused:
            FrameRing.attach(descriptor)
        assert refused.value.code == "bad_frame_ring"


_WRITER = """
import sys, os, signal, numpy as np
from engine.wire.frame_ring import FrameRing
ring = FrameRing.attach(int(sys.argv[1]))
for frame in range(3):
    ring.write(frame, np.full((72, 64), frame, np.uint8))
ring._sequence[3] += 1
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_that_dies_leaves_what_it_finished() -> None:
    with FrameRing.create(4, 64, 48) as ring:
        done = subprocess.run([sys.executable, "-c", _WRITER, str(ring.descriptor)], pass_fds=(ring.descriptor,))
        assert done.returncode == -signal.SIGKILL
        for frame in range(3):
            read = ring.read(frame)
            assert read is not None and (read == frame).all()
        assert ring.read(3) is None


def test_a_reader_that_goes_leaves_the_writer_alone() -> None:
    ours = FrameRing.create(4, 64, 48)
    with FrameRing.attach(os.dup(ours.descriptor)) as theirs:
        ours.close()
        theirs.write(0, picture(1))
        assert theirs.read(0) is not None
