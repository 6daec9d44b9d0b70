"""Validation and rewriting of an untrusted SDP offer before aiortc parses it.

Size, sections, bundling, directions, codecs and candidates are checked. A valid offer is then rewritten from the
attributes that aiortc acts on, each in the form that aiortc reads. So no unknown or oddly written attribute makes an
offer fail.
"""

import re
from collections.abc import Iterable

from aiortc.codecs import CODECS
from aiortc.rtcpeerconnection import find_common_codecs
from aiortc.sdp import FMTP_INT_PARAMETERS, SessionDescription, candidate_from_sdp

from ground.errors import RequestError
from server.rtc.ice import IcePolicy
from server.rtc.sdp import PayloadType, Sdp, Section, read_sdp

MAX_BYTES = 64 * 1024
MAX_LINES = 1200  # Chromium's offer with every video codec has about 250
MAX_CANDIDATES = 50
MAX_MID = 48  # characters; it travels in every RTP packet
MAX_ICE = 256  # characters of a user name fragment or password (RFC 8839)
KINDS = ("audio", "video", "application")
OURS = {"audio": "Opus (opus/48000/2)", "video": "VP8, or H264 with packetization-mode=1 in (constrained) baseline"}
_FINGERPRINT = re.compile(r"(sha-256|sha-384|sha-512) +([0-9a-f]{2}(?::[0-9a-f]{2})+)", re.IGNORECASE)
_PROFILES = re.compile(r"(?:(?:UDP|TCP)/)?(?:TLS/)?RTP/S?AVPF?")
_DATA_PROFILES = re.compile(r"(?:(?:UDP|TCP)/)?DTLS/SCTP")
_EXTENSION = re.compile(r"(\d{1,3})(?:/\w+)? (\S+)(?: .*)?")
_FEEDBACK = re.compile(r"(\*|\d{1,3}) (\S+)(?: (\S.*))?")
_NUMBERS = (*range(64), *range(96, 128))  # payload types; 64 to 95 collide with RTCP (RFC 5761)
_SHOWN = 12  # codec names in a message


def clean_offer(sdp: str, policy: IcePolicy) -> str:
    """The offer in the form that aiortc gets, without unusable candidates. Raises RequestError ``invalid_offer``."""
    if len(sdp.encode("utf-8", "replace")) > MAX_BYTES:
        raise _invalid(f"the SDP is larger than {MAX_BYTES // 1024} KiB")
    if len(sdp.splitlines()) > MAX_LINES or not sdp.startswith("v=0"):
        raise _invalid("this is not an SDP offer; send localDescription.sdp as it is")
    try:
        offer = read_sdp(sdp)
    except ValueError as error:
        raise _invalid(f"{error}; send localDescription.sdp as it is") from error
    candidates = [line for section in offer.sections for line in section.values("candidate")]
    if len(candidates) > MAX_CANDIDATES:
        raise _invalid(f"more than {MAX_CANDIDATES} candidates; leave out those of unused interfaces")
    _check_sections(offer)
    _check_codecs(offer)
    tagged = _tagged(offer)
    # The group is in the order of the sections: for any other, aiortc stops the transport that the bundle uses.
    mids = " ".join(section.value("mid") or "" for section in offer.sections)
    lines = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0", f"a=group:BUNDLE {mids}"]
    lines += ["a=msid-semantic:WMS *"] + (["a=ice-lite"] if offer.session.has("ice-lite") else [])
    transport = _transport(offer, tagged, policy)
    for section in offer.sections:
        lines += [*(_data(section) if section.kind == "application" else _media(section, offer)), *transport]
    return "\r\n".join(lines) + "\r\n"


def _check_sections(offer: Sdp) -> None:
    kinds = [section.kind for section in offer.sections]
    if not kinds or set(kinds) - set(KINDS) or len(set(kinds)) != len(kinds):
        raise _invalid("an offer has at most one audio, one video and one data section; leave out the others")
    if not {"audio", "video"} <= set(kinds):
        raise _invalid("the offer needs an audio and a video section: add a transceiver of each kind")
    for section in offer.sections:
        media = section.kind != "application"
        if not (_PROFILES if media else _DATA_PROFILES).fullmatch(section.profile):
            raise _invalid(f"the {section.kind} section needs DTLS: UDP/TLS/RTP/SAVPF, or UDP/DTLS/SCTP for data")
        if section.port == 0 and not section.has("bundle-only"):
            raise _invalid(f"the {section.kind} section is rejected (port 0); leave it out or offer it")
        if media and offer.direction(section) not in ("sendrecv", "recvonly"):
            raise _invalid(f"the {section.kind} section must receive: offer it as recvonly or sendrecv")
        if media and not section.has("rtcp-mux"):
            raise _invalid(f"the {section.kind} section needs a=rtcp-mux: set rtcpMuxPolicy to require")


def _check_codecs(offer: Sdp) -> None:
    """Raises RequestError if audio or video has no codec in common with the server, or both share a payload type."""
    owner: dict[int, str] = {}
    for section in offer.sections:
        if section.kind == "application":
            continue
        text = "\r\n".join(["v=0", *_media(section, offer)])
        common = find_common_codecs(CODECS[section.kind], SessionDescription.parse(text).media[0].rtp.codecs)
        if not common:
            names = dict.fromkeys(codec.name for codec in section.codecs)
            offered = ", ".join(list(names)[:_SHOWN]) or "none with an a=rtpmap line"
            raise _invalid(f"no {section.kind} codec in common: offered {offered}; offer {OURS[section.kind]}")
        for codec in common:
            assert codec.payloadType is not None
            if owner.setdefault(codec.payloadType, section.kind) != section.kind:
                raise _invalid(f"payload type {codec.payloadType} is both audio and video; give each codec its own")


def _tagged(offer: Sdp) -> Section:
    """The tagged section (RFC 9143), whose transport all sections use: the first one of the BUNDLE group that holds
    every section."""
    mids = [section.value("mid") or "" for section in offer.sections]
    if len(set(mids)) != len(mids) or not all(0 < len(mid) <= MAX_MID and " " not in mid for mid in mids):
        raise _invalid(f"each section needs an a=mid of its own, of at most {MAX_MID} characters")
    for group in offer.bundles:
        if set(mids) <= set(group):
            return offer.sections[mids.index(next(mid for mid in group if mid in mids))]
    raise _invalid("all sections must be in one BUNDLE group: offer with bundlePolicy max-bundle")


def _transport(offer: Sdp, tagged: Section, policy: IcePolicy) -> list[str]:
    """ICE and DTLS attributes that hold for the whole bundle."""
    prints = [match for text in tagged.values("fingerprint") if (match := _FINGERPRINT.fullmatch(text))]
    prints += [match for text in offer.session.values("fingerprint") if (match := _FINGERPRINT.fullmatch(text))]
    if not prints:
        raise _invalid("the offer needs a DTLS fingerprint: SHA-256, SHA-384 or SHA-512")
    lines = [f"a=fingerprint:{match[1].lower()} {match[2].upper()}" for match in prints]
    for name in ("ice-ufrag", "ice-pwd", "setup"):
        value = tagged.value(name) or offer.session.value(name)
        if (
            not value
            or " " in value
            or len(value) > MAX_ICE
            or (name == "setup" and value not in ("actpass", "active", "passive"))
        ):
            raise _invalid(f"the offer needs a usable a={name}; send localDescription.sdp as it is")
        lines.append(f"a={name}:{value}")
    # a=end-of-candidates is left out: if no candidate is usable, ICE then waits for the browser's own checks.
    return lines + [f"a=candidate:{text}" for text in tagged.values("candidate") if candidate_is_usable(text, policy)]


def _media(section: Section, offer: Sdp) -> list[str]:
    codecs = [
        codec for codec in section.codecs
        if codec.payload_type in _NUMBERS and (section.kind != "audio" or codec.same == ("opus", 48_000, 2))
    ]  # fmt: skip
    numbers = {str(codec.payload_type) for codec in codecs}
    lines = [
        f"m={section.kind} 9 UDP/TLS/RTP/SAVPF {' '.join(sorted(numbers, key=int)) or 0}",
        f"a=mid:{section.value('mid') or ''}",
        f"a={offer.direction(section)}",
        "a=rtcp-mux",
    ]
    if msid := section.value("msid"):
        lines.append(f"a=msid:{msid}")
    for extension in section.values("extmap"):
        if (match := _EXTENSION.fullmatch(extension)) and 0 < int(match[1]) < 256:
            lines.append(f"a=extmap:{match[1]} {match[2]}")
    for codec in codecs:
        lines += _codec(codec, section)
    for feedback in section.values("rtcp-fb"):
        if (match := _FEEDBACK.fullmatch(feedback)) and (match[1] == "*" or match[1] in numbers):
            lines.append(f"a=rtcp-fb:{feedback}")
    return lines


def _codec(codec: PayloadType, section: Section) -> list[str]:
    channels = f"/{codec.channels}" if section.kind == "audio" else ""
    lines = [f"a=rtpmap:{codec.payload_type} {codec.name}/{codec.rate}{channels}"]
    for value in section.values("fmtp"):
        number, _, text = value.partition(" ")
        pairs = [(name.strip(), value.strip()) for name, _, value in (part.partition("=") for part in text.split(";"))]
        known = [
            f"{name}={value}" for name, value in pairs
            if name and value and (name not in FMTP_INT_PARAMETERS or (value.isdecimal() and len(value) < 10))
        ]  # fmt: skip
        if number == str(codec.payload_type) and known:
            lines.append(f"a=fmtp:{number} {';'.join(known)}")
    return lines


def _data(section: Section) -> list[str]:
    mid, most = section.value("mid"), section.value("max-message-size")
    if section.profile == "DTLS/SCTP":  # before 2018
        port = _sctp_port(section.formats[0])
        return [f"m=application 9 DTLS/SCTP {port}", f"a=mid:{mid}", f"a=sctpmap:{port} webrtc-datachannel 1024"]
    port = _sctp_port(section.value("sctp-port") or "5000")
    lines = ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", f"a=mid:{mid}", f"a=sctp-port:{port}"]
    return lines + ([f"a=max-message-size:{most}"] if most and most.isdecimal() and len(most) < 12 else [])


def _sctp_port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or not 0 < int(text) < 65_536:
        raise _invalid("the data section has no valid SCTP port; send localDescription.sdp as it is")
    return int(text)


def candidate_is_usable(candidate: str, policy: IcePolicy) -> bool:
    """Whether a candidate (``candidate:foundation component transport priority address port typ ...``) is readable,
    over UDP, and at an address that the policy accepts."""
    try:
        read = candidate_from_sdp(candidate.removeprefix("candidate:"))
    except (AssertionError, ValueError):
        return False
    numbered = 0 < read.component <= 256 and 0 < read.priority < 2**31  # RFC 8839, section 5.1
    return numbered and read.protocol.lower() == "udp" and policy.accepts(read.ip, read.port)


def usable_candidates(candidates: Iterable[str], policy: IcePolicy) -> list[str]:
    """The usable candidates of a trickled batch; an empty one (end of candidates) is left out."""
    return [
        text.removeprefix("a=") for text in candidates if text and candidate_is_usable(text.removeprefix("a="), policy)
    ]


def _invalid(message: str) -> RequestError:
    return RequestError("invalid_offer", message, param="sdp")
