"""One call through the public API, as a program makes it: portrait, session, offer, a sentence, moving frames, hang up.

Knows the server only by its address; needs httpx, aiortc and numpy. Exit status 0 when the avatar spoke: at least
`--frames` pictures that differ from the one before, and sound.
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

SAMPLES = Path(__file__).resolve().parent.parent / "client_web" / "samples"
# A repeated picture changes by less than this after VP8 (mean of absolute luma steps, 0..255); a speaking face by more.
MOVED = 0.15


@dataclass
class Seen:
    """What the caller got so far. Times are seconds since the offer was sent."""

    began: float = field(default_factory=time.monotonic)
    frames: int = 0
    moved: int = 0
    first_frame: float | None = None
    loudest: int = 0
    generated: int = 0  # distinct pictures the engine made, by the server's count
    messages: dict[str, int] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)

    def elapsed(self) -> float:
        return time.monotonic() - self.began


async def watch_video(track: MediaStreamTrack, seen: Seen) -> None:
    previous: np.ndarray | None = None
    while True:
        frame = await track.recv()
        luma = frame.to_ndarray(format="gray").astype(np.int16)  # type: ignore[union-attr]
        seen.frames += 1
        seen.size = (luma.shape[1], luma.shape[0])
        if seen.first_frame is None:
            seen.first_frame = seen.elapsed()
        if previous is not None and np.abs(luma - previous).mean() > MOVED:
            seen.moved += 1
        previous = luma


async def hear_audio(track: MediaStreamTrack, seen: Seen) -> None:
    while True:
        frame = await track.recv()
        seen.loudest = max(seen.loudest, int(np.abs(frame.to_ndarray().astype(np.int32)).max()))  # type: ignore[union-attr]


async def call(options: argparse.Namespace) -> Seen:
    key = {"Authorization": f"Bearer {options.key}"} if options.key else {}
    async with httpx.AsyncClient(base_url=options.url, timeout=30) as http:
        with options.portrait.open("rb") as picture:
            portrait = ok(await http.post("/v1/portraits", files={"file": picture}, headers=key))
        session = ok(await http.post("/v1/sessions", json={"portrait_id": portrait["id"]}, headers=key))
        path, token = f"/v1/sessions/{session['id']}", {"Authorization": f"Bearer {session['token']}"}

        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connected = asyncio.Event()
        seen = Seen()
        tasks: list[asyncio.Task[None]] = []
        channel = peer.createDataChannel("knotcast")

        @peer.on("connectionstatechange")
        def on_state() -> None:
            if peer.connectionState == "connected":
                connected.set()

        @peer.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            watch = watch_video if track.kind == "video" else hear_audio
            tasks.append(asyncio.create_task(watch(track, seen)))

        @channel.on("message")
        def on_message(text: str) -> None:
            kind = json.loads(text).get("type", "?")
            seen.messages[kind] = seen.messages.get(kind, 0) + 1

        async def ping() -> None:
            for seq in range(1_000_000):
                if channel.readyState == "open":
                    channel.send(json.dumps({"v": 1, "type": "ping", "seq": seq, "t_ms": int(seen.elapsed() * 1000)}))
                await asyncio.sleep(1)

        try:
            peer.addTransceiver("audio", direction="recvonly")
            peer.addTransceiver("video", direction="recvonly")
            await peer.setLocalDescription(await peer.createOffer())
            offer = {"sdp": peer.localDescription.sdp, "type": peer.localDescription.type}
            answer = ok(await http.post(f"{path}/offer", json=offer, headers=token))
            await peer.setRemoteDescription(RTCSessionDescription(**answer))
            await asyncio.wait_for(connected.wait(), 15)
            tasks.append(asyncio.create_task(ping()))
            wav = options.audio.read_bytes()
            ok(await http.post(f"{path}/say", content=wav, headers={**token, "Content-Type": "audio/wav"}))
            while seen.elapsed() < options.seconds and not spoke(seen, options.frames):
                await asyncio.sleep(0.2)
                seen.generated = int(ok(await http.get(path, headers=token))["generated_frames"])
        finally:
            await http.delete(path, headers=token)
            await peer.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # a track that ended raises; its work is done
        return seen


def spoke(seen: Seen, frames: int) -> bool:
    return min(seen.moved, seen.generated) >= frames and seen.loudest > 1000


def ok(answer: httpx.Response) -> dict[str, str]:
    if answer.is_error:
        sys.exit(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:300]}")
    body: dict[str, str] = answer.json()
    return body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="", help="API key, where the server asks for one")
    parser.add_argument("--portrait", type=Path, default=SAMPLES / "portrait_1.jpg")
    parser.add_argument("--audio", type=Path, default=SAMPLES / "sentence.wav")
    parser.add_argument("--frames", type=int, default=25, help="moving pictures to wait for")
    parser.add_argument("--seconds", type=float, default=30, help="how long to wait for them")
    options = parser.parse_args()
    seen = asyncio.run(call(options))
    print(
        json.dumps(
            {
                "frames": seen.frames,
                "moving": seen.moved,
                "generated": seen.generated,
                "size": seen.size,
                "first_frame_s": round(seen.first_frame or 0, 2),
                "loudest": seen.loudest,
                "seconds": round(seen.elapsed(), 1),
                "messages": seen.messages,
            }
        )
    )
    sys.exit(0 if spoke(seen, options.frames) else 1)


if __name__ == "__main__":
    main()
