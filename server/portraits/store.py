"""Store of uploaded portraits: re-encoded, owned by their senders, bounded in number, deletable.

Only our own re-encoded bytes are kept, under random ids in one folder. The same picture sent twice by one owner is one
portrait. Files and digests are read and written in a thread, so that the event loop that paces media never waits.
"""

import asyncio
import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from engine.portrait.portrait import Portrait
from ground.errors import AvatarError, RequestError
from ground.files import writing
from server.portraits.jobs import FrameReply
from server.portraits.process import Framer

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredPortrait:
    """width, height: of the upload, upright. crop: affine 2x3, upload pixels to the framed picture's. preview_key:
    secret that gives access to the preview."""

    id: str
    owner: str
    content: str
    created: float
    width: int
    height: int
    framed_width: int
    framed_height: int
    landmarks: dict[str, float]
    confidence: float
    warnings: list[str]
    crop: list[list[float]]
    preview_key: str
    outlines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # empty in those of older versions

    @property
    def preview_url(self) -> str:
        return f"/v1/portraits/{self.id}/preview?key={self.preview_key}"


class PortraitStore:
    """Metadata in memory, pixels on disk; the pixels of a portrait are about 1 MiB."""

    def __init__(self, framer: Framer, folder: Path | None, limit: int, max_pixels: int) -> None:
        """folder: None for a temporary one that ``close`` removes. Raises RequestError ``cannot_write``."""
        self._framer, self._limit, self._max_pixels = framer, limit, max_pixels
        self._temporary = folder is None
        with writing(folder or Path(tempfile.gettempdir())):
            self._folder = Path(tempfile.mkdtemp(prefix="knotcast-portraits-")) if folder is None else folder
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            tempfile.TemporaryFile(dir=self._folder).close()  # an error here must not wait for the first upload
        self._portraits: dict[str, StoredPortrait] = {}
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="portraits")
        self._load()

    async def put(self, data: bytes, owner: str) -> StoredPortrait:
        """Check, frame and keep a picture. Raises RequestError with the reason it cannot be used."""
        if not data:
            raise RequestError("empty_file", "no picture was sent", param="file")
        content = await self._in_thread(lambda: hashlib.sha256(data).hexdigest())
        for portrait in self._portraits.values():
            if portrait.content == content and portrait.owner == owner:
                return portrait
        if len(self.list(owner)) >= self._limit or len(self._portraits) >= 4 * self._limit:
            raise RequestError("too_many_portraits", "too many portraits are kept: delete one first", status=409)
        reply = await self._framer.frame(data, self._max_pixels)
        portrait = _record(reply, content, owner)
        await self._in_thread(partial(self._write, portrait, reply))
        self._portraits[portrait.id] = portrait
        return portrait

    def list(self, owner: str) -> list[StoredPortrait]:
        return [portrait for portrait in self._portraits.values() if portrait.owner == owner]

    def get(self, portrait_id: str, owner: str) -> StoredPortrait:
        """Raises RequestError 404, also for another owner's portrait."""
        portrait = self._portraits.get(portrait_id)
        if portrait is None or portrait.owner != owner:
            raise RequestError(
                "portrait_not_found", "there is no such portrait: upload it again", status=404, param="portrait_id"
            )
        return portrait

    async def delete(self, portrait_id: str, owner: str) -> None:
        portrait = self.get(portrait_id, owner)
        del self._portraits[portrait.id]
        await self._in_thread(lambda: shutil.rmtree(self._folder / portrait.id, ignore_errors=True))

    async def delete_of(self, gone: Callable[[str], bool]) -> None:
        """Delete the portraits of every owner of whom ``gone`` is true."""
        for portrait in [portrait for portrait in self._portraits.values() if gone(portrait.owner)]:
            await self.delete(portrait.id, portrait.owner)

    async def preview(self, portrait_id: str, key: str) -> bytes:
        """JPEG of the crop. The key must be the portrait's own."""
        portrait = self._portraits.get(portrait_id)
        if portrait is None or not secrets.compare_digest(portrait.preview_key.encode(), key.encode()):
            raise RequestError("portrait_not_found", "there is no such portrait", status=404)
        return await self._in_thread(lambda: self._read(portrait, "preview.jpg"))

    async def framed(self, portrait: StoredPortrait) -> Portrait:
        """The framed picture with its landmarks, as a worker takes it."""
        shape = (portrait.framed_height, portrait.framed_width, 3)
        pixels = await self._in_thread(lambda: self._read(portrait, "framed.rgb"))
        rgb = np.frombuffer(pixels, np.uint8).reshape(shape)
        return Portrait(rgb, portrait.landmarks, portrait.confidence)

    async def warm(self) -> None:
        """Have the framer ready, so that the first upload does not wait for it."""
        await self._framer.warm()

    async def close(self) -> None:
        await self._framer.close()
        self._disk.shutdown()
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    def _write(self, portrait: StoredPortrait, reply: FrameReply) -> None:
        """Write a portrait's folder atomically: a disk that fills up leaves no half portrait."""
        draft = self._folder / f".{portrait.id}"
        try:
            draft.mkdir(mode=0o700)
            (draft / "framed.rgb").write_bytes(reply.framed)
            (draft / "source.jpg").write_bytes(reply.source)
            (draft / "preview.jpg").write_bytes(reply.preview)
            (draft / "portrait.json").write_text(json.dumps(asdict(portrait)))
            draft.rename(self._folder / portrait.id)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise AvatarError("storage_full", "the portrait could not be stored", status=507) from error

    def _read(self, portrait: StoredPortrait, name: str) -> bytes:
        try:
            fd = os.open(self._folder / portrait.id / name, os.O_RDONLY | os.O_NOFOLLOW)
            with open(fd, "rb") as file:
                return file.read()
        except OSError as error:
            raise RequestError("portrait_not_found", "the portrait is gone: upload it again", status=404) from error

    def _load(self) -> None:
        """Load the portraits that an earlier run left in a kept folder."""
        for path in sorted(self._folder.glob("*/portrait.json")):
            try:
                portrait = StoredPortrait(**json.loads(path.read_text()))
            except (OSError, ValueError, TypeError):
                logger.warning("a stored portrait cannot be read and is left out")
                continue
            if portrait.id == path.parent.name:
                self._portraits[portrait.id] = portrait


def _record(reply: FrameReply, content: str, owner: str) -> StoredPortrait:
    return StoredPortrait(
        id=secrets.token_hex(16),
        owner=owner,
        content=content,
        created=time.time(),
        width=reply.width,
        height=reply.height,
        framed_width=reply.framed_width,
        framed_height=reply.framed_height,
        landmarks=reply.landmarks,
        confidence=reply.confidence,
        warnings=reply.warnings,
        crop=reply.crop,
        preview_key=secrets.token_urlsafe(16),
        outlines=reply.outlines,
    )
