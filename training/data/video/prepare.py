"""Command that cuts training clips from videos: `python -m training.data.video.prepare CLIPS --out DIR`.

Every source is read by a process of its own (training.data.video.source): one that hangs, crashes or is no video is
refused with the reason and the job goes on. Run it again after an interruption: what is finished is skipped.
"""

import argparse
import contextlib
import json
import math
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from ground.errors import MediaError, RequestError, one_line_errors
from training.data.synthetic.sound import import_soundfile
from training.data.video.decode import SOUND_RATE, import_av
from training.data.video.folder import PreparedFolder, opened, stamp
from training.data.video.progress import SourceProgress, progress
from training.data.video.quality import QualityLimits
from training.data.video.source import CANNOT_WRITE, RECORD, ClipFormat, Tell

SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"}
MANIFESTS_EVERY_S = 30.0
COMMAND = (sys.executable, "-m", "training.data.video.source")


@dataclass(frozen=True, slots=True)
class Preparation:
    """stalled_s: a source is given up when nothing of it was read for so long."""

    clips: Path
    out: Path
    form: ClipFormat = ClipFormat()
    workers: int = 1
    stalled_s: float = 120.0
    command: tuple[str, ...] = COMMAND


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all that lies in the folder when the job has ended."""

    accepted: list[dict[str, Any]]
    rejected: list[dict[str, Any]]


def prepare(job: Preparation, tell: SourceProgress) -> Totals:
    """Process every source that is not finished. Raises AvatarError for what ends the whole job."""
    import_av()  # what is missing is said once here, not once for every source
    import_soundfile()
    if job.out.resolve().is_relative_to(job.clips.resolve()):
        raise RequestError("out_in_clips", "--out lies in the folder of videos: its clips would be read as sources")
    sources = find_sources(job.clips)
    with opened(job.out, job.clips, job.form) as folder:
        todo = [source for source in sources if not folder.is_finished(source)]
        tell.begin(len(sources), len(sources) - len(todo))
        stop = threading.Event()
        with ThreadPoolExecutor(job.workers) as pool:
            running = {pool.submit(_one, job, folder, source, tell, stop) for source in todo}
            try:
                _follow(running, folder)
            except BaseException:
                stop.set()
                for future in running:
                    future.cancel()
                raise
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                totals = Totals(*folder.write_manifests())
        return totals


def _follow(running: set[Future[None]], folder: PreparedFolder) -> None:
    """Wait until all are done; the first error ends it. The manifests are renewed now and then."""
    written = time.monotonic()
    while running:
        done, running = wait(running, timeout=MANIFESTS_EVERY_S, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        if time.monotonic() - written > MANIFESTS_EVERY_S:
            folder.write_manifests()
            written = time.monotonic()


def find_sources(clips: Path) -> list[Path]:
    """Every video file below a folder, in order. Raises RequestError ``no_sources``."""
    if not clips.is_dir():
        raise RequestError("no_sources", f"there is no folder {str(clips)!r}")
    found = sorted(path for path in clips.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise RequestError("no_sources", f"no video in {str(clips)!r}: {', '.join(sorted(SUFFIXES))} are read")
    return found


def _one(job: Preparation, folder: PreparedFolder, source: Path, tell: SourceProgress, stop: threading.Event) -> None:
    """Process one source."""
    if stop.is_set():
        return
    try:
        seen = stamp(source)
    except OSError:
        return  # the source was removed
    made = folder.begin(source)
    name = str(source.relative_to(job.clips))
    record = run_source(job, source, made, lambda done, total: tell.frames(name, done, total), stop)
    if stop.is_set():
        return
    folder.finish(source, made, record, seen)
    tell.finished(name, record)


def run_source(job: Preparation, source: Path, made: Path, tell: Tell, stop: threading.Event) -> dict[str, Any]:
    """Run the process that reads one source, and return its record; the process's end is also one. Raises MediaError
    ``cannot_write`` where not the source is to blame."""
    order = {
        "path": str(source.absolute()), "out": str(made.absolute()), "fps": job.form.fps, "size": job.form.size,
        "limits": asdict(job.form.limits),
    }  # fmt: skip
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            job.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, start_new_session=True
        )  # a session of its own: an interrupt of this process must not look like a crash of that one
        assert child.stdin and child.stdout
        with child:
            try:
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write((json.dumps(order) + "\n").encode())
                    child.stdin.flush()
                stalled = not _listen(child.stdout, tell, job.stalled_s, stop)
                if stalled:
                    child.kill()
                status = child.wait()
            finally:
                child.kill()
        complaints.seek(0)
        last_line = (complaints.read()[-2000:].decode(errors="replace").strip().splitlines() or [""])[-1]
    if status == CANNOT_WRITE:
        raise MediaError("cannot_write", last_line)
    if status == 0:
        record: dict[str, Any] = json.loads((made / RECORD).read_text())
        return record
    for file in made.iterdir():
        file.unlink()
    reason, message = ("timed_out", f"nothing read for {job.stalled_s:g} s") if stalled else ("crashed", last_line)
    return {"seconds": 0.0, "clips": [], "rejected": [{"reason": reason, "message": message}]}


def _listen(stream: IO[bytes], tell: Tell, stalled_s: float, stop: threading.Event) -> bool:
    """Pass on what a process says: True when it closed its end, False when it fell silent for too long."""
    heard, rest = time.monotonic(), b""
    while not stop.is_set() and time.monotonic() - heard < stalled_s:
        if not select.select([stream], [], [], 0.5)[0]:
            continue
        data = os.read(stream.fileno(), 65536)
        if not data:
            return True
        heard = time.monotonic()
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            tell(*json.loads(lines[-1]))
    return False


def summary(totals: Totals) -> list[str]:
    """A table of what there is and what was refused, by reason."""
    seconds = sum(clip["frames"] / clip["fps"] for clip in totals.accepted)
    frames, count = Counter[str](), Counter[str]()
    for refusal in totals.rejected:
        count[refusal["reason"]] += 1
        frames[refusal["reason"]] += refusal.get("frames", 0)
    fps = totals.accepted[0]["fps"] if totals.accepted else 25
    rows = [("accepted", len(totals.accepted), seconds)]
    rows += [(reason, number, frames[reason] / fps) for reason, number in count.most_common()]
    return [f"{name:<26}{number:>7} clips{spent / 60:>9.1f} min" for name, number, spent in rows]


def parsed(arguments: list[str] | None = None) -> Preparation:
    parser = argparse.ArgumentParser(
        prog="python -m training.data.video.prepare", description="Training clips from a folder of talking heads."
    )
    form = ClipFormat()
    parser.add_argument("clips", type=Path, help="folder of videos, searched through and through")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips and manifests")
    parser.add_argument("--size", type=int, default=form.size, help="side of the square crops, pixels (256)")
    parser.add_argument("--fps", type=int, default=form.fps, help="frames a second (25)")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="NAME=VALUE",
        help="change a limit: shortest_s=2 takes clips from 2 s on; all stand in training/data/video/quality.py",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, help="sources read at the same time")
    args = parser.parse_args(arguments)
    if args.size % 2 or not 64 <= args.size <= 1024:
        parser.error("--size must be even and from 64 to 1024")
    if args.fps < 10 or SOUND_RATE % args.fps:
        parser.error("--fps must divide 16000, so that a frame has a whole number of samples: 16, 20, 25, 32 or 50")
    if args.workers < 1:
        parser.error("--workers must be positive")
    try:
        limits = _limits(args.limit)
    except ValueError as error:
        parser.error(str(error))
    return Preparation(args.clips, args.out, ClipFormat(args.fps, args.size, limits), args.workers)


def _limits(changes: list[str]) -> QualityLimits:
    """Parse ``--limit`` options. Raises ValueError for an invalid one."""
    known, given = asdict(QualityLimits()), dict[str, float]()
    for change in changes:
        name, _, value = change.partition("=")
        if name not in known:
            raise ValueError(f"--limit {change}: NAME=VALUE, NAME one of {', '.join(known)}")
        try:
            given[name] = float(value)
        except ValueError:
            given[name] = math.nan
        if not math.isfinite(given[name]):
            raise ValueError(f"--limit {change}: {value!r} is no number")
    limits = replace(QualityLimits(), **given)
    if not 0.5 <= limits.shortest_s <= limits.longest_s:
        raise ValueError("--limit: shortest_s must be at least 0.5 and at most longest_s")
    return limits


def main() -> None:
    job = parsed()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # files may be named in any way
    with one_line_errors("training.data.video.prepare"):
        try:
            with progress() as tell:
                totals = prepare(job, tell)
        except OSError as error:
            said = (error.strerror or str(error)).lower()
            raise MediaError("cannot_write", f"cannot write into {job.out}: {said}") from error
        except KeyboardInterrupt:
            sys.exit("training.data.video.prepare: stopped; run it again to go on")
    print("\n".join(summary(totals)))


if __name__ == "__main__":
    main()
