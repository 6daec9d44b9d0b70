"""Output folder of the preparation: one folder a source, complete or absent, and two manifests.

    prepare.json                    folder of sources, size, rate and limits: the same for everything in it
    sources/NAME-KEY/source.json    what came of a source, with its path, size and time of change
    sources/NAME-KEY/0000.*         its clips: mp4, flac, safetensors
    manifest.jsonl rejected.jsonl   made anew from every source.json

A source is finished when its folder stands here, so a run that is killed leaves nothing half done.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ground.errors import RequestError
from ground.files import held, replacing
from training.data.video.clips import MANIFEST
from training.data.video.source import RECORD, ClipFormat

REJECTED = "rejected.jsonl"
TRIED_AGAIN = {"timed_out", "crashed"}  # refusals that may be the machine's fault
_SETTINGS = "prepare.json"


class PreparedFolder:
    """Only one run at a time; see ``opened``."""

    def __init__(self, root: Path, clips: Path) -> None:
        self.root, self.clips = root, clips
        self._sources = root / "sources"
        self._unfinished = root / ".unfinished"

    def is_finished(self, source: Path) -> bool:
        record = self._read(self._place(source) / RECORD)
        if record is None or TRIED_AGAIN & {refusal["reason"] for refusal in record["rejected"]}:
            return False
        return stamp(source) == {name: record.get(name) for name in ("bytes", "changed_ns")}

    def begin(self, source: Path) -> Path:
        """An empty folder for one source's clips."""
        made = self._unfinished / f"{self._place(source).name}.{os.getpid()}"  # a killed run's reader may live a moment
        made.mkdir()
        return made

    def finish(self, source: Path, made: Path, record: dict[str, Any], stamp: dict[str, int]) -> None:
        """Take over what was made. stamp: of the source before it was read."""
        record = {"source": str(source.relative_to(self.clips)), **stamp, **record}
        (made / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        place = self._place(source)
        if place.exists():  # the source has changed since
            shutil.rmtree(place)
        os.replace(made, place)

    def write_manifests(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Write both from all that is finished, and return their entries."""
        accepted, rejected = list[dict[str, Any]](), list[dict[str, Any]]()
        for path in sorted(self._sources.glob(f"*/{RECORD}")):
            record = self._read(path)
            if record is None:
                continue
            where = f"sources/{path.parent.name}/"
            for clip in record["clips"]:
                files = {name: where + clip[name] for name in ("clip", "sound", "faces")}
                accepted.append({**clip, **files, "source": record["source"]})
            rejected += [{"source": record["source"], **refusal} for refusal in record["rejected"]]
        for name, entries in ((MANIFEST, accepted), (REJECTED, rejected)):
            with replacing(self.root / name) as partial:
                partial.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return accepted, rejected

    def _place(self, source: Path) -> Path:
        """Named by the path inside the folder of clips, readable and unique."""
        name = str(source.relative_to(self.clips))
        key = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:10]
        return self._sources / f"{re.sub(r'[^A-Za-z0-9_-]+', '_', source.stem)[:40]}-{key}"

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        return record


def stamp(source: Path) -> dict[str, int]:
    """Size and time of a file, by which a change is noticed."""
    status = source.stat()
    return {"bytes": status.st_size, "changed_ns": status.st_mtime_ns}


@contextmanager
def opened(root: Path, clips: Path, form: ClipFormat) -> Iterator[PreparedFolder]:
    """Make or open a folder, alone. Raises RequestError ``in_use``, ``other_settings``, ``cannot_write``."""
    folder = PreparedFolder(root, clips)
    with held(root, "preparing clips into"):
        for part in (root / "sources", root / ".unfinished"):
            part.mkdir(exist_ok=True)
        hold_settings(root / _SETTINGS, {"clips": str(clips.resolve()), **asdict(form)})
        for left in (root / ".unfinished").iterdir():  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield folder


def hold_settings(path: Path, ours: dict[str, Any]) -> None:
    """Hold a folder to one set of settings and one folder of sources, because sources are named by their paths in it.
    path: file that records them. Raises RequestError ``other_settings``."""
    if not path.exists():
        with replacing(path) as partial:
            partial.write_text(json.dumps(ours, indent=1) + "\n")
    theirs = json.loads(path.read_text())
    if theirs != ours:
        changed = [name for name in ours if theirs.get(name) != ours[name]]
        raise RequestError(
            "other_settings", f"{path.parent} was prepared with another {' and '.join(changed)}: name another folder"
        )
