"""Decoder of video files: upright pictures at a constant frame rate and 16 kHz mono sound, on one time line.

Time 0 is the first picture; everything stands where the container's own timestamps put it, so a variable frame rate, a
sound that starts late and gaps in it are honoured. Broken files end in MediaError. FFmpeg opens them here, which may
hang or crash: only ever call this in a process of its own (training.data.video.source). Knows no faces.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ground.errors import MediaError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Image = NDArray[np.uint8]
Sound = NDArray[np.float32]

SOUND_RATE = 16_000
FORMATS = "mov,matroska,avi,mpeg,mpegts"  # self-contained ones: a playlist may name other files and hosts
LONGEST_S = 2 * 3600.0  # of a source; its sound is held in memory
LONGEST_GAP_S = 10.0  # between two pictures
LARGEST_SIDE = 8192
SOUND_JUMP_S = 0.04  # timestamps that differ by less are rounding, not a gap


@dataclass(frozen=True, slots=True)
class Source:
    """A file that can be decoded. width, height: of its upright picture. start: time of its first picture on the
    container's clock, seconds. seconds: the length it claims, 0 if it claims none."""

    path: Path
    width: int
    height: int
    start: float
    seconds: float
    has_sound: bool


def import_av() -> Any:
    """PyAV, which is not needed to train, only to make and to read clips."""
    try:
        import av
    except ImportError as error:
        raise MediaError("no_av", "video is read with PyAV: pip install av") from error
    return av


def probe(path: Path) -> Source:
    """Open a file and decode its first picture. Raises MediaError ``unreadable``, ``no_picture``, ``too_long``."""
    with _opened(path) as container:
        if not container.streams.video:
            raise MediaError("no_picture", "the file holds no video")
        seconds = (container.duration or 0) / 1e6
        if seconds > LONGEST_S:
            raise MediaError("too_long", f"{seconds:.0f} s is longer than {LONGEST_S:.0f} s: cut it into parts")
        first = next(_decoded(container), None)
        if first is None or first.time is None:
            raise MediaError("unreadable", "no picture could be decoded")
        height, width = _upright(container, first, None).shape[:2]
        return Source(path, width, height, float(first.time), seconds, bool(container.streams.audio))


def frames(
    source: Source, fps: int, *, wanted: Callable[[int], bool] = lambda number: True, longest_side: int | None = None
) -> Iterator[tuple[int, Image]]:
    """Number n and picture uint8 [H, W, 3] of each wanted frame: the one whose time is nearest to n / fps.

    longest_side: larger pictures are shrunk to it. Raises MediaError ``unreadable``, ``broken_timestamps``,
    ``too_long``, ``too_large``, ``size_changes``.
    """
    with _opened(source.path) as container:
        number = 0
        for frame, until in _shown(container, source.start):
            picture: Image | None = None
            while number / fps <= until - 1e-6:
                if wanted(number):
                    picture = _upright(container, frame, longest_side) if picture is None else picture
                    yield number, picture
                number += 1


def sound(source: Source) -> Sound:
    """The whole sound, float32 [m] at 16 kHz: sample m stands at m / 16000 s after the first picture. Silence where
    there is none. Raises MediaError ``unreadable``."""
    parts = [(round(at * SOUND_RATE), samples) for at, samples in _sound_parts(source)]
    end = max((at + len(samples) for at, samples in parts), default=0)
    out = np.zeros(max(0, min(end, int(LONGEST_S * SOUND_RATE))), np.float32)
    for at, samples in parts:
        begin, samples = max(at, 0), samples[max(-at, 0) :]
        samples = samples[: max(0, len(out) - begin)]
        out[begin : begin + len(samples)] = samples
    return out


def _opened(path: Path) -> "InputContainer":
    av = import_av()
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        container: InputContainer = av.open(str(path), options=options)
    except (OSError, ValueError, av.FFmpegError) as error:
        raise MediaError("unreadable", f"not a video file that can be opened: {_why(error)}") from error
    for stream in container.streams.video:
        stream.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode"}  # broken data must not become grey blocks
    return container


def _why(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _video(container: "InputContainer") -> "VideoStream":
    """The film, not its cover picture."""
    return container.streams.best("video") or container.streams.video[0]  # type: ignore[return-value]


def _audio(container: "InputContainer") -> "AudioStream":
    return container.streams.best("audio") or container.streams.audio[0]  # type: ignore[return-value]


def _decoded(container: "InputContainer") -> "Iterator[VideoFrame]":
    size: tuple[int, int] | None = None
    try:
        for frame in container.decode(_video(container)):
            if max(frame.width, frame.height) > LARGEST_SIDE:
                raise MediaError("too_large", f"{frame.width}x{frame.height} is larger than {LARGEST_SIDE} pixels")
            size = size or (frame.width, frame.height)
            if (frame.width, frame.height) != size:
                raise MediaError(
                    "size_changes", f"the picture changes its size at {frame.time or 0:.1f} s: cut it there"
                )
            if frame.is_corrupt:
                raise MediaError("unreadable", f"the picture at {frame.time or 0:.1f} s is damaged")
            yield frame
    except (OSError, ValueError, import_av().FFmpegError) as error:
        raise MediaError("unreadable", f"decoding the picture failed: {_why(error)}") from error


def _shown(container: "InputContainer", start: float) -> "Iterator[tuple[VideoFrame, float]]":
    """Each picture and the time until which it is the nearest, seconds from the first."""
    last: VideoFrame | None = None
    at, step = 0.0, 0.04
    for frame in _decoded(container):
        if frame.time is None or (last is not None and frame.time - start <= at):
            continue
        now = float(frame.time) - start
        if last is not None:
            step = now - at
            if step > LONGEST_GAP_S:
                raise MediaError("broken_timestamps", f"no picture between {at:.1f} s and {now:.1f} s")
            if now > LONGEST_S:
                raise MediaError("too_long", f"longer than {LONGEST_S:.0f} s: cut it into parts")
            yield last, (at + now) / 2
        last, at = frame, now
    if last is not None:
        yield last, at + step / 2


def _upright(container: "InputContainer", frame: "VideoFrame", longest_side: int | None) -> Image:
    """The picture as a player shows it: square pixels, turned as the camera was held, perhaps smaller."""
    aspect = _video(container).sample_aspect_ratio
    width, height = frame.width * float(aspect or 1), float(frame.height)
    shrink = min(1.0, longest_side / max(width, height)) if longest_side else 1.0
    size = max(16, round(width * shrink)), max(16, round(height * shrink))
    pixels = frame.reformat(*size, format="rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)), np.uint8)


def _sound_parts(source: Source) -> Iterator[tuple[float, Sound]]:
    """Stretches of sound without a gap: start in seconds after the first picture, samples."""
    with _opened(source.path) as container:
        if not container.streams.audio:
            return
        stretch: _SoundStretch | None = None
        try:
            for frame in container.decode(_audio(container)):
                if stretch is None or not stretch.goes_on_with(frame):
                    if stretch is not None:
                        yield stretch.begun - source.start, stretch.samples()
                    stretch = _SoundStretch(frame, stretch.end if stretch is not None else 0.0)
                stretch.add(frame)
            if stretch is not None:
                yield stretch.begun - source.start, stretch.samples()
        except (OSError, ValueError, import_av().FFmpegError) as error:
            raise MediaError("unreadable", f"decoding the sound failed: {_why(error)}") from error


class _SoundStretch:
    """Sound of one format without a gap, resampled as it comes. begun, end: seconds on the container's clock."""

    def __init__(self, first: "AudioFrame", otherwise: float) -> None:
        """otherwise: when it begins if the container does not say."""
        self._resampler = import_av().AudioResampler(format="flt", layout="mono", rate=SOUND_RATE)
        self._format = _sound_format(first)
        self._blocks = list[Sound]()
        self.begun = self.end = otherwise if first.time is None else float(first.time)

    def goes_on_with(self, frame: "AudioFrame") -> bool:
        late = 0.0 if frame.time is None else abs(frame.time - self.end)
        return _sound_format(frame) == self._format and late <= SOUND_JUMP_S

    def add(self, frame: "AudioFrame") -> None:
        self.end += frame.samples / frame.sample_rate
        frame.pts = None
        self._blocks += [part.to_ndarray().ravel() for part in self._resampler.resample(frame)]

    def samples(self) -> Sound:
        """All of it; ends the stretch."""
        rest = [part.to_ndarray().ravel() for part in self._resampler.resample(None)]
        return np.concatenate([*self._blocks, *rest]).astype(np.float32)


def _sound_format(frame: "AudioFrame") -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate
