"""The gate in front of a stranger's SDP: size, sections, fingerprints and candidates, before anything parses it."""

import re
from collections.abc import Iterable

from ground.errors import RequestError
from server.rtc.ice import IcePolicy

MAX_BYTES = 64 * 1024
MAX_LINES = 1200  # Chromium's offer with every video codec has about 250
MAX_CANDIDATES = 50
_SECTION = re.compile(r"m=(audio|video|application) ")
_DIRECTIONS = ("a=sendrecv", "a=recvonly", "a=sendonly", "a=inactive")
_OPUS = re.compile(r"a=rtpmap:\d+ opus/48000", re.IGNORECASE)
_FINGERPRINT = re.compile(r"a=fingerprint:sha-(256|384|512) ", re.IGNORECASE)


def clean_offer(sdp: str, policy: IcePolicy) -> str:
    """The offer without the candidates we would not use. Raises RequestError ``invalid_offer``."""
    if len(sdp.encode("utf-8", "replace")) > MAX_BYTES:
        raise _invalid(f"the SDP is larger than {MAX_BYTES // 1024} KiB")
    # Exactly as aiortc splits it, which is at more than line feeds; joined again there is nothing left to disagree on.
    lines = sdp.splitlines()
    if len(lines) > MAX_LINES or not sdp.startswith("v=0"):
        raise _invalid("this is not an SDP offer")
    sections = [line for line in lines if line.startswith("m=")]
    kinds = [match[1] for line in sections if (match := _SECTION.match(line))]
    if len(kinds) != len(sections) or not kinds or len(set(kinds)) != len(kinds):
        raise _invalid("an offer has at most one audio, one video and one data section")
    if not _can_show(lines):
        raise _invalid("an offer receives one audio section, with Opus, and one video section")
    if not any(_FINGERPRINT.match(line) for line in lines):
        raise _invalid("the offer needs a SHA-256 fingerprint")
    candidates = [line for line in lines if line.startswith("a=candidate:")]
    if len(candidates) > MAX_CANDIDATES:
        raise _invalid(f"more than {MAX_CANDIDATES} candidates")
    refused = {line for line in candidates if not candidate_is_usable(line.removeprefix("a="), policy)}
    # Without end-of-candidates: after stripping none may be left, and the browser is then found by its own checks.
    kept = [line for line in lines if line not in refused and line.strip() != "a=end-of-candidates"]
    return "\r\n".join(kept).rstrip("\r\n") + "\r\n"


def _can_show(lines: list[str]) -> bool:
    """Would whoever offers this see and hear the avatar? A call that nobody can follow is not given a slot."""
    starts = [at for at, line in enumerate(lines) if line.startswith("m=")]
    shown = set()
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        section = lines[start:end]
        kind, port = section[0].removeprefix("m=").split(" ")[:2]
        directions = [line for line in section if line in _DIRECTIONS]
        rejected = port == "0" and "a=bundle-only" not in section
        receives = not directions or directions[-1] in ("a=sendrecv", "a=recvonly")
        if receives and not rejected and (kind != "audio" or any(_OPUS.match(line) for line in section)):
            shown.add(kind)
    return {"audio", "video"} <= shown


def candidate_is_usable(candidate: str, policy: IcePolicy) -> bool:
    """``candidate:foundation component transport priority address port typ ...`` over UDP, at an address we may try."""
    parts = candidate.removeprefix("candidate:").split()
    if len(parts) < 8 or parts[2].lower() != "udp" or not parts[5].isdecimal() or len(parts[5]) > 5:
        return False
    return policy.accepts(parts[4], int(parts[5]))


def usable_candidates(candidates: Iterable[str], policy: IcePolicy) -> list[str]:
    """Those of a trickled batch that we would try; an empty one (end of candidates) is left out."""
    return [
        text.removeprefix("a=") for text in candidates if text and candidate_is_usable(text.removeprefix("a="), policy)
    ]


def _invalid(message: str) -> RequestError:
    return RequestError("invalid_offer", message, param="sdp")
