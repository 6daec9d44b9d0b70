"""Checks of the server's SDP answer against the offer (RFC 8829, 9143); a faulty answer is never sent.

A browser rejects a faulty answer with an exception, or plays nothing.
"""

import re
from collections.abc import Iterator

from server.rtc.sdp import Sdp, Section, read_sdp

_SETUP = {"actpass": ("active", "passive"), "active": ("passive",), "passive": ("active",)}


def fitted_answer(answer: str, offer: str) -> str:
    """The answer with the offer's bundle order and profiles, which aiortc does not keep."""
    offered = read_sdp(offer)
    profiles = iter(section.profile for section in offered.sections)
    lines = []
    for line in answer.splitlines():
        if line.startswith("a=group:BUNDLE "):
            bundled = line.split()[1:]
            group = next((group for group in offered.bundles if set(bundled) <= set(group)), bundled)
            line = " ".join(["a=group:BUNDLE", *(mid for mid in dict.fromkeys(group) if mid in bundled)])
        elif line.startswith("m="):
            line = re.sub(r"^(m=\S+ \d+) \S+", rf"\g<1> {next(profiles, '')}", line)
        lines.append(line)
    return "\r\n".join(lines) + "\r\n"


def faults(answer: str, offer: str) -> list[str]:
    """Violations of the offer by the answer, one line each; empty if the answer may be sent."""
    ours, theirs = read_sdp(answer), read_sdp(offer)
    if [section.kind for section in ours.sections] != [section.kind for section in theirs.sections]:
        return ["sections differ from the offer's"]
    found = list(_bundle_faults(ours, theirs))
    for mine, offered in zip(ours.sections, theirs.sections, strict=True):
        found += [f"{mine.kind}: {fault}" for fault in _section_faults(mine, offered, ours, theirs)]
        if mine.kind != "application":
            found += [f"{mine.kind}: {fault}" for fault in _codec_faults(mine, offered)]
    return found


def _bundle_faults(ours: Sdp, theirs: Sdp) -> Iterator[str]:
    for group in ours.bundles:
        if not any(set(group) <= set(offered) for offered in theirs.bundles):
            yield "a BUNDLE group that was not offered"
    bundled = {mid for group in ours.bundles for mid in group}
    sections = [section for section in ours.sections if section.value("mid") in bundled]
    numbers = [codec.payload_type for section in sections for codec in section.codecs]
    for number in sorted({number for number in numbers if numbers.count(number) > 1}):
        yield f"payload type {number} is used twice in one bundle"


def _section_faults(mine: Section, offered: Section, ours: Sdp, theirs: Sdp) -> Iterator[str]:
    if mine.value("mid") != offered.value("mid"):
        yield "mid differs from the offer's"
    if mine.profile != offered.profile:
        yield "profile differs from the offer's"
    setup = offered.value("setup") or theirs.session.value("setup") or ""
    if mine.value("setup") not in _SETUP.get(setup, ()):
        yield "DTLS role (a=setup) conflicts with the offer's"
    if mine.kind == "application":
        return
    if not (mine.has("rtcp-mux") and offered.has("rtcp-mux")):
        yield "rtcp-mux is missing in offer or answer"
    direction, wanted = ours.direction(mine), theirs.direction(offered)
    if direction in ("sendrecv", "sendonly") and wanted not in ("sendrecv", "recvonly"):
        yield "sends what the offer does not receive"
    if direction in ("sendrecv", "recvonly") and wanted not in ("sendrecv", "sendonly"):
        yield "receives what the offer does not send"


def _codec_faults(mine: Section, offered: Section) -> Iterator[str]:
    theirs = {codec.payload_type: codec for codec in offered.codecs}
    numbers = [codec.payload_type for codec in mine.codecs]
    if not numbers or [str(number) for number in numbers] != list(mine.formats):
        yield "payload types without a codec"
    for codec in mine.codecs:
        if codec.payload_type not in theirs or theirs[codec.payload_type].same != codec.same:
            yield f"payload type {codec.payload_type} was not offered as {codec.name}"
    for value in mine.values("fmtp"):
        if (match := re.search(r"\bapt=(\d+)", value)) and int(match[1]) not in numbers:
            yield f"retransmission (rtx) of payload type {match[1]}, which the answer lacks"
    extensions = {tuple(value.split()[:2]) for value in offered.values("extmap")}
    plain = {(number.partition("/")[0], uri) for number, uri in (pair for pair in extensions if len(pair) == 2)}
    for value in mine.values("extmap"):
        if tuple(value.split()[:2]) not in plain:
            yield "a header extension that was not offered"
