"""SDP offers of browsers and other WebRTC stacks: answered within what they allow, or refused with the remedy."""

import asyncio
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from aiortc.sdp import SessionDescription
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.errors import RequestError
from server.rtc.answer import faults, fitted_answer
from server.rtc.ice import IcePolicy
from server.rtc.offer import candidate_is_usable, clean_offer
from server.rtc.peer import Peer
from server.rtc.sdp import read_sdp
from server.settings import Settings

INPUTS = Path(__file__).parents[2] / "inputs"
POLICY = IcePolicy.from_settings(Settings())
GOOD = {name: (INPUTS / f"{name}.sdp").read_text() for name in (
    "chrome", "firefox", "safari", "gst_webrtcbin_max_bundle", "pion", "pt35_vp8",
)}  # fmt: skip


async def answered(sdp: str) -> str:
    peer = Peer(POLICY, (256, 256))
    try:
        return await peer.accept(sdp)
    finally:
        await peer.close()


def refusal(sdp: str) -> str:
    with pytest.raises(RequestError) as refused:
        clean_offer(sdp, POLICY)
    assert refused.value.code == "invalid_offer" and refused.value.status == 422
    return refused.value.message


@pytest.mark.parametrize("name", GOOD)
async def test_offers_of_other_stacks_are_answered_with_what_they_allow(name: str) -> None:
    offer = read_sdp(GOOD[name])
    answer = read_sdp(await answered(GOOD[name]))
    assert faults(await answered(GOOD[name]), GOOD[name]) == []
    assert answer.bundles == offer.bundles
    for ours, theirs in zip(answer.sections, offer.sections, strict=True):
        assert ours.value("mid") == theirs.value("mid") and ours.port > 0 and ours.has("candidate")
        if ours.kind == "audio":
            assert [codec.name.lower() for codec in ours.codecs] == ["opus"]
        if ours.kind == "video":
            assert answer.direction(ours) == "sendonly"
            assert {codec.name for codec in ours.codecs} <= {"VP8", "H264", "rtx"}


async def test_the_answer_keeps_the_offered_number_of_vp8() -> None:
    video = read_sdp(await answered(GOOD["pt35_vp8"])).sections[1]
    assert video.formats == ("35", "36")
    assert [(codec.payload_type, codec.name) for codec in video.codecs] == [(35, "VP8"), (36, "rtx")]


async def test_media_is_sent_with_the_offered_number() -> None:
    """VP8 with payload type 35: in the RTP packets, and decoded by the viewer."""
    viewer, peer = RTCPeerConnection(RTCConfiguration(iceServers=[])), Peer(POLICY, (256, 256))
    viewer.addTrack(AudioStreamTrack())
    viewer.addTransceiver("video", direction="recvonly")
    await viewer.setLocalDescription(await viewer.createOffer())
    offer = viewer.localDescription.sdp
    for old, new in (("97", "35"), ("98", "36")):
        offer = re.sub(rf"(a=(?:rtpmap|fmtp|rtcp-fb):){old} ", rf"\g<1>{new} ", offer)
    offer = offer.replace("apt=97", "apt=35")
    offer = re.sub(r"(m=video \d+ \S+) 97 98", r"\1 35 36", offer)
    answer = await peer.accept(offer)
    transport: Any = next(t for t in peer._pc.getTransceivers() if t.kind == "video").sender.transport
    numbers: set[int] = set()
    send = transport._send_rtp

    async def send_rtp(data: bytes) -> None:
        if len(data) > 200:  # video; audio packets are shorter
            numbers.add(data[1] & 0x7F)
        await send(data)

    transport._send_rtp = send_rtp
    await viewer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    track = next(t for t in viewer.getTransceivers() if t.kind == "video").receiver.track
    try:
        async with asyncio.timeout(20):
            await peer.connected.wait()
            seen = asyncio.ensure_future(track.recv())
            tick = 0
            while not seen.done():
                tick += 1
                peer._video.put(np.random.default_rng(tick).integers(0, 255, (384, 256), np.uint8), tick * 4)
                await asyncio.sleep(0.04)
        assert (await seen).width == 256
        assert numbers == {35}
    finally:
        await peer.close()
        await viewer.close()


async def test_a_bundle_named_after_a_later_section_uses_that_ones_transport() -> None:
    offer = GOOD["chrome"].replace("a=group:BUNDLE 0 1 2", "a=group:BUNDLE 1 2 0")
    audio, video = offer.index("m=audio"), offer.index("m=video")
    offer = offer[:audio] + offer[audio:video].replace("Kx9J", "other") + offer[video:]
    assert set(re.findall(r"a=ice-ufrag:(\S+)", clean_offer(offer, POLICY))) == {"Kx9J"}
    answer = await answered(offer)
    assert "a=group:BUNDLE 1 2 0\r\n" in answer and answer.count("a=candidate") > 0


def test_what_cannot_work_is_refused_with_the_remedy() -> None:
    unbundled = refusal((INPUTS / "gst_webrtcbin_unbundled.sdp").read_text())
    assert "BUNDLE" in unbundled and "max-bundle" in unbundled
    codecs = refusal((INPUTS / "chrome_vp9_av1_only.sdp").read_text())
    assert all(name in codecs for name in ("VP9", "AV1", "VP8", "H264"))
    chrome = GOOD["chrome"]
    part = refusal(chrome.replace("BUNDLE 0 1 2", "BUNDLE 0 1"))
    assert "BUNDLE" in part
    assert "Opus" in refusal(chrome.replace("opus/48000/2", "speex/16000"))
    assert "rtcp-mux" in refusal(chrome.replace("a=rtcp-mux\n", ""))
    assert "recvonly" in refusal(chrome.replace("a=recvonly", "a=sendonly"))
    assert "fingerprint" in refusal(chrome.replace("a=fingerprint:sha-256", "a=fingerprint:sha-1"))
    assert "ice-pwd" in refusal(chrome.replace("a=ice-pwd:", "a=ice-nothing:"))
    assert "mid" in refusal(chrome.replace("a=mid:2", "a=mid:1"))
    assert "ice-ufrag" in refusal(chrome.replace("Kx9J", "x" * 257))
    assert "setup" in refusal(chrome.replace("a=setup:actpass", "a=setup:holdconn"))
    assert "both audio and video" in refusal(chrome.replace("96 97", "111 97").replace(":96 ", ":111 "))
    h264 = refusal(
        re.sub("VP8|packetization-mode=1", lambda m: {"VP8": "VP9"}.get(m[0], "packetization-mode=0"), chrome)
    )
    assert "packetization-mode=1" in h264


# Legal lines that change nothing, for any place after "v=0"
ANYWHERE = [
    "a=extmap-allow-mixed", "a=x-unknown", "a=x-unknown:with value", "a=ice-options:trickle renomination ice2",
    "b=AS:500", "b=TIAS:500000", "b=X-YZ:128", "i=a description", "k=prompt", "a=tool:libavformat 60.3", "z=0 0",
    "a=rtcp-rsize", "a=rtcp-fb:* x-new nothing known", "a=fmtp:77 some=thing", "a=fmtp:0 annexb=no",
    "a=fmtp:webrtc-datachannel max-message-size=100000", "a=ssrc:99 x-flag", "a=ssrc:99 x-attr:y z",
    "a=ssrc-group:SIM 1 2 3", "a=ssrc-group:FEC-FR x", "a=rid:hi send pt=96;max-width=1280",
    "a=simulcast:send hi;mid;~lo recv x", "a=extmap:9/sendonly urn:x:y attribute=1 other", "a=extmap:4906 urn:x:z",
    "a=rtcp:9 IN IP6 ::", "a=rtcp:9", "a=maxptime:60", "a=ptime:20", "a=imageattr:96 send * recv *", "c=IN IP4 x.test",
    "a=fingerprint:sha-1 AA:BB", "a=group:LS 0 1", "a=identity:abc", "a=msid-semantic:WMS*", "a=msid-semantic:",
    "a=rtpmap:77 nobody/90000", "a=rtpmap:nonsense", "a=framerate:29.97", "a=label:1", "a=content:main", "",
    "a=candidate:nonsense", "a=tls-id:abc3de65cddef001be82", "a=end-of-candidates", "a=bundle-only",
]  # fmt: skip
UNKNOWN = st.from_regex(r"a=[a-z]{3,12}-[a-z]{2,8}(:.{0,40})?", fullmatch=True)
ENDINGS = st.sampled_from(["\r\n", "\n", "\r", " \r\n", "\t\n"])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.lists(st.tuples(st.sampled_from(ANYWHERE), st.integers(1, 400))), ENDINGS)
def test_unknown_lines_and_line_endings_change_nothing(name: str, extra: list[tuple[str, int]], ending: str) -> None:
    lines = GOOD[name].splitlines()
    for line, at in extra:
        lines.insert(min(at, len(lines)), line)
    # The header extension with an attribute is kept, because it can be read.
    cleaned = clean_offer(ending.join(lines) + ending, POLICY).replace("a=extmap:9 urn:x:y\r\n", "")
    plain = re.sub(r"a=rtcp-fb:\* x-new nothing known\r\n", "", cleaned)
    assert plain == clean_offer(GOOD[name], POLICY)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(GOOD)),
    st.integers(1, 400),
    st.from_regex(r"a=[a-z]{3,12}-[a-z]{2,8}(:.{0,40})?", fullmatch=True),
)
def test_any_attribute_of_an_unknown_name_changes_nothing(name: str, at: int, line: str) -> None:
    known = ("a=ice-", "a=sctp-port", "a=rtcp-mux", "a=rtcp-fb", "a=max-message", "a=bundle-only", "a=end-of", "a=msid")
    if line.startswith(known) or len(line.splitlines()) != 1:
        return
    lines = GOOD[name].splitlines()
    lines.insert(min(at, len(lines)), line)
    assert clean_offer("\r\n".join(lines) + "\r\n", POLICY) == clean_offer(GOOD[name], POLICY)


@pytest.mark.parametrize("at", [1, 3, 5, 11])
@pytest.mark.parametrize("number", ["9" * 5000, "x"])
def test_a_candidate_that_cannot_be_read_is_left_out(at: int, number: str) -> None:
    words = [
        "candidate:1", "1", "udp", "2122260223", "127.0.0.1", "54321",
        "typ", "srflx", "raddr", "127.0.0.1", "rport", "9",
    ]  # fmt: skip
    assert candidate_is_usable(" ".join(words), POLICY)
    words[at] = number
    assert not candidate_is_usable(" ".join(words), POLICY)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_odd_numbers_are_refused_or_written_so_that_they_can_be_read(data: Any) -> None:
    lines = GOOD[data.draw(st.sampled_from(sorted(GOOD)))].splitlines()
    at = data.draw(st.sampled_from([at for at, line in enumerate(lines) if re.search(r"\d", line)]))
    numbers = list(re.finditer(r"\d+", lines[at]))
    old = data.draw(st.sampled_from(numbers))
    new = data.draw(
        st.sampled_from(["9" * 5000, "000008000" + "0" * 50, "65536", "-1", "", "0", "٣", "256", "72", "1e3"])
    )
    lines[at] = lines[at][: old.start()] + new + lines[at][old.end() :]
    try:
        cleaned = clean_offer("\r\n".join(lines) + "\r\n", POLICY)
    except RequestError as error:
        assert error.code == "invalid_offer"
        return
    for section in SessionDescription.parse(cleaned).media:
        assert section.sctp_port is None or 0 < section.sctp_port < 65_536
        assert all(0 <= codec.payloadType < 128 for codec in section.rtp.codecs)
        assert all(0 < extension.id < 256 for extension in section.rtp.headerExtensions)


def test_a_direction_for_the_session_holds_where_a_section_names_none() -> None:
    offer = re.sub(r"a=(sendrecv|recvonly)\n", "", GOOD["chrome"])
    assert clean_offer(offer, POLICY).count("a=sendrecv") == 2
    assert clean_offer(offer.replace("t=0 0\n", "t=0 0\na=recvonly\n"), POLICY).count("a=recvonly") == 2


def test_payload_types_that_the_section_does_not_list_are_none() -> None:
    offer = GOOD["chrome"].replace(" 96 97 ", " ")
    assert "VP8" not in clean_offer(offer, POLICY) and "H264" in clean_offer(offer, POLICY)


# Faults, in answers that are wrong in one thing


WRONG = {
    "UDP/TLS/RTP/SAVPF 111": ("UDP/TLS/RTP/SAVPF 111 97", "without a codec"),
    "a=rtpmap:96 VP8/90000": ("a=rtpmap:96 H264/90000", "not offered as H264"),
    "a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96": ("a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=42", "type 42"),
    "a=group:BUNDLE 0 1 2": ("a=group:BUNDLE 0 1 2 3", "BUNDLE"),
    "a=mid:1": ("a=mid:9", "mid"),
    "a=sendonly": ("a=sendrecv", "receives what"),
    "a=rtcp-mux": ("a=x", "rtcp-mux"),
    "a=setup:active": ("a=setup:actpass", "role"),
    "UDP/TLS/RTP/SAVPF": ("RTP/SAVPF", "profile"),
}  # fmt: skip


async def test_each_wrong_thing_in_an_answer_is_found() -> None:
    good = await answered(GOOD["chrome"])
    assert faults(good, GOOD["chrome"]) == []
    for old, (new, said) in WRONG.items():
        assert old in good, old
        assert any(said in fault for fault in faults(good.replace(old, new), GOOD["chrome"])), old
    assert faults(good.split("m=application")[0], GOOD["chrome"])
    unbundled = GOOD["chrome"].replace("a=group:BUNDLE 0 1 2\n", "")
    assert any("BUNDLE" in fault for fault in faults(good, unbundled))
    twice = good.replace("a=rtpmap:96 VP8", "a=rtpmap:111 VP8").replace("SAVPF 96", "SAVPF 111")
    assert any("twice" in fault for fault in faults(twice, GOOD["chrome"]))
    mute = GOOD["chrome"].replace("a=recvonly", "a=inactive")
    assert any("does not receive" in fault for fault in faults(good, mute))
    assert any("extension" in fault for fault in faults(re.sub("extmap:2 ", "extmap:7 ", good), GOOD["chrome"]))


def test_the_answer_takes_over_the_offers_profile_and_order() -> None:
    offer = "v=0\na=group:BUNDLE b a\nm=audio 9 RTP/SAVPF 0\na=mid:a\nm=video 9 UDP/TLS/RTP/SAVPF 1\na=mid:b\n"
    answer = "v=0\r\na=group:BUNDLE a b\r\nm=audio 7 UDP/TLS/RTP/SAVPF 0\r\nm=video 7 UDP/TLS/RTP/SAVPF 1\r\n"
    assert fitted_answer(answer, offer).splitlines()[1:] == [
        "a=group:BUNDLE b a", "m=audio 7 RTP/SAVPF 0", "m=video 7 UDP/TLS/RTP/SAVPF 1",
    ]  # fmt: skip
