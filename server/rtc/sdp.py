"""Session descriptions as data: sections, attributes, codecs and bundle groups (RFC 8866, 8829, 9143).

Reads any text that has the shape of SDP. Attributes that are not known here are kept and have no effect.
"""

import re
from dataclasses import dataclass

_MEDIA = re.compile(r"m=(\S+) (\d{1,5})(?:/\d+)? (\S+) (\S.*)")
_RTPMAP = re.compile(r"(\d{1,3}) ([!-.0-~]{1,64})/(\d{1,9})(?:/(\d{1,2}))?")
DIRECTIONS = ("sendrecv", "recvonly", "sendonly", "inactive")


@dataclass(frozen=True, slots=True)
class PayloadType:
    """One payload type of a section, from its ``rtpmap``. rate: clock rate in Hz. channels: 1 if the text has none."""

    payload_type: int
    name: str
    rate: int
    channels: int

    @property
    def same(self) -> tuple[str, int, int]:
        """Name, clock rate and channels, on which both sides must agree."""
        return self.name.lower(), self.rate, self.channels


@dataclass(frozen=True, slots=True)
class Section:
    """A media section, or the session-level lines before the first one (kind ``session``)."""

    kind: str
    port: int
    profile: str
    formats: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...]

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]

    def value(self, name: str) -> str | None:
        """The attribute's last value, which aiortc uses too; None if there is none."""
        return next(iter(reversed(self.values(name))), None)

    def has(self, name: str) -> bool:
        return self.value(name) is not None

    @property
    def direction(self) -> str | None:
        return next((key for key, _ in reversed(self.attributes) if key in DIRECTIONS), None)

    @property
    def codecs(self) -> list[PayloadType]:
        """Payload types that the ``m=`` line lists and an ``rtpmap`` describes, in the order of the ``m=`` line."""
        described = {}
        for value in self.values("rtpmap"):
            if match := _RTPMAP.fullmatch(value):
                number, name, rate, channels = match.groups()
                described[int(number)] = PayloadType(int(number), name, int(rate), int(channels or 1))
        listed = dict.fromkeys(int(text) for text in self.formats if text.isdecimal() and len(text) < 4)
        return [described[number] for number in listed if number in described]


@dataclass(frozen=True, slots=True)
class Sdp:
    session: Section
    sections: tuple[Section, ...]

    @property
    def bundles(self) -> list[list[str]]:
        """The mids of each BUNDLE group."""
        groups = [value.split() for value in self.session.values("group")]
        return [group[1:] for group in groups if group and group[0] == "BUNDLE"]

    def direction(self, section: Section) -> str:
        """The section's direction, else the session's, else ``sendrecv``."""
        return section.direction or self.session.direction or "sendrecv"


def read_sdp(text: str) -> Sdp:
    """Parse SDP text. Raises ValueError if an ``m=`` line cannot be read."""
    parts: list[list[str]] = [[]]
    # str.splitlines splits at more than line feeds, and so does aiortc: both must see the same lines.
    for line in (line.rstrip() for line in text.splitlines()):
        if line.startswith("m="):
            parts.append([])
        parts[-1].append(line)
    session = Section("session", 0, "", (), _attributes(parts[0]))
    return Sdp(session, tuple(_section(lines) for lines in parts[1:]))


def _section(lines: list[str]) -> Section:
    match = _MEDIA.fullmatch(lines[0])
    if match is None:
        raise ValueError("an m= line cannot be read")
    kind, port, profile, formats = match.groups()
    return Section(kind, int(port), profile, tuple(formats.split()), _attributes(lines[1:]))


def _attributes(lines: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = (line[2:].partition(":") for line in lines if line.startswith("a="))
    return tuple((name, value.strip()) for name, _, value in pairs)
