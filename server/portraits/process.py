"""Client of the picture process: one picture at a time, in bounded time.

Pillow and OpenCV are not imported here, and no event loop or media thread ever waits for them.
"""

import asyncio
import contextlib
import logging
import struct
import sys
from typing import Protocol

import msgspec

from ground.errors import CapacityError, RequestError
from server.portraits.jobs import FrameReply, FrameRequest

logger = logging.getLogger(__name__)

_LENGTH = struct.Struct("<I")
COMMAND = ("env", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", sys.executable, "-m", "server.portraits.worker")
FRAME_S = 15.0
START_S = 30.0  # the first picture also waits for the imports
MAX_WAITING = 8
MAX_REPLY = 32 * 2**20


class Framer(Protocol):
    """Interface that the portrait store needs."""

    async def frame(self, picture: bytes, max_pixels: int) -> FrameReply: ...

    async def warm(self) -> None: ...

    async def close(self) -> None: ...


class PictureProcess:
    """Starts the process at the first use or by ``warm``, and keeps it."""

    def __init__(self, command: tuple[str, ...] = COMMAND, frame_s: float = FRAME_S) -> None:
        self._command, self._frame_s = command, frame_s
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._fresh = True

    async def warm(self) -> None:
        """Start the process, so that the first upload does not wait for it."""
        async with self._turn:
            await self._running()

    async def frame(self, picture: bytes, max_pixels: int) -> FrameReply:
        """Raises RequestError for a picture that cannot be used, CapacityError when too many wait."""
        if self._waiting >= MAX_WAITING:
            raise CapacityError("busy", "too many pictures are being checked: try again in a moment", status=429)
        self._waiting += 1
        try:
            async with self._turn:
                reply = await self._ask(FrameRequest(picture, max_pixels))
        finally:
            self._waiting -= 1
        if reply.code:
            raise RequestError(reply.code, reply.message, status=reply.status, param="file")
        return reply

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        # asyncio closes the pipes of a killed child only when its transport is closed.
        process._transport.close()  # type: ignore[attr-defined]

    async def _ask(self, request: FrameRequest) -> FrameReply:
        process = await self._running()
        assert process.stdin is not None and process.stdout is not None
        body = msgspec.msgpack.encode(request)
        limit = START_S if self._fresh else self._frame_s
        try:
            async with asyncio.timeout(limit):
                process.stdin.write(_LENGTH.pack(len(body)) + body)
                await process.stdin.drain()
                (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
                if length > MAX_REPLY:
                    raise ValueError
                reply = msgspec.msgpack.decode(await process.stdout.readexactly(length), type=FrameReply)
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError, msgspec.MsgspecError) as error:
            logger.warning("the picture process was lost over a picture kind=%s", type(error).__name__)
            await self.close()
            raise RequestError("broken_picture", "the picture cannot be read", param="file") from error
        except BaseException:
            await self.close()  # cancelled half way: its answer would be taken for that of the next picture
            raise
        self._fresh = False
        return reply

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            await self.close()
            self._fresh = True
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                process_group=0,  # an interrupt typed at the terminal is the server's to handle
            )
        return self._process
