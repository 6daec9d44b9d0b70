"""Strangers' text against the two gates that read it: an offer, and a message over the data channel."""

import asyncio
import json
import os
from typing import Any

from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.sdp import SessionDescription
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.media.pose import Pose
from ground.errors import RequestError
from ground.motion import CHANNELS
from server.call.desk import MessageDesk
from server.rtc.ice import IcePolicy
from server.rtc.offer import MAX_CANDIDATES, clean_offer
from server.rtc.peer import Peer

POLICY = IcePolicy(("127.0.0.1",), True, None, None)


async def _offer() -> str:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.createDataChannel("knotcast")
    peer.addTransceiver("audio")
    peer.addTransceiver("video", direction="recvonly")
    await peer.setLocalDescription(await peer.createOffer())
    await peer.close()
    return str(peer.localDescription.sdp)


LINES = asyncio.run(_offer()).splitlines()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
SEPARATORS = st.sampled_from(["\r\n", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
FIELDS = st.sampled_from(["yaw", "pitch", "roll", "blendshapes", "seq", "t_ms", "v", "type"])


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.lists(st.sampled_from(LINES), max_size=80).map("\r\n".join))
def test_the_gate_lets_through_or_refuses(sdp: str) -> None:
    try:
        cleaned = clean_offer(sdp, POLICY)
    except RequestError as error:
        assert error.code == "invalid_offer" and error.status == 422
    else:
        assert cleaned.count("a=candidate") <= MAX_CANDIDATES and "end-of-candidates" not in cleaned


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(LINES) - 1), SEPARATORS, st.sampled_from(["10.0.0.9", "a.local", "224.0.0.1", "8.8.8.8"]))
def test_nothing_hides_behind_a_separator(at: int, separator: str, host: str) -> None:
    """Whatever aiortc takes for a line, the gate has looked at."""
    hidden = f"{LINES[at]}{separator}a=candidate:9 1 udp 2130706431 {host} 5000 typ host"
    try:
        cleaned = clean_offer("\r\n".join([*LINES[:at], hidden, *LINES[at + 1 :]]) + "\r\n", POLICY)
    except RequestError:
        return
    media = SessionDescription.parse(cleaned).media
    assert host not in {candidate.ip for section in media for candidate in section.ice_candidates}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_mutated_offer_is_answered_or_refused_and_leaves_nothing(data: Any) -> None:
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["drop", "repeat", "cut", "swap", "noise"])):
            case "drop":
                lines.pop(at)
            case "repeat":
                lines.insert(at, lines[at])
            case "cut":
                lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))]
            case "swap":
                other = data.draw(st.integers(0, len(lines) - 1))
                lines[at], lines[other] = lines[other], lines[at]
            case "noise":
                lines[at] = lines[at][:4] + data.draw(st.text(max_size=20))

    async def attempt() -> None:
        peer = Peer(POLICY, (256, 256))
        try:
            answer = await peer.accept("\r\n".join(lines) + "\r\n")
            assert answer.startswith("v=0")
        except RequestError as error:
            assert error.code == "invalid_offer"
        finally:
            await peer.close()
        for _ in range(50):
            if len(asyncio.all_tasks()) == 1:
                break
            await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == 1

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(attempt())
    assert len(os.listdir("/proc/self/fd")) == before


class FakeCall:
    """Notes what a message leads to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, object]]] = []
        self.poses: list[dict[str, float]] = []

    def send(self, kind: str, **fields: object) -> None:
        json.dumps(fields, allow_nan=False)
        self.sent.append((kind, fields))

    def push_pose(self, pose: Pose) -> None:
        self.poses.append(pose.controls)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=200) | JSON.map(json.dumps) | st.dictionaries(FIELDS, JSON, max_size=6).map(json.dumps))
def test_every_message_is_answered_used_or_refused(text: str) -> None:
    call: Any = FakeCall()
    MessageDesk(call, call.send).receive(text)
    assert len(call.sent) + len(call.poses) == 1
    for controls in call.poses:
        assert all(channel.low <= controls.get(channel.name, 0.0) <= channel.high for channel in CHANNELS)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(FIELDS, JSON, max_size=6))
def test_every_pose_is_used_or_refused(fields: dict[str, Any]) -> None:
    call: Any = FakeCall()
    MessageDesk(call, call.send).receive(json.dumps(fields | {"type": "pose", "v": 1}))
    assert len(call.sent) + len(call.poses) == 1
