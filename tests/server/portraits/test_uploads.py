"""Uploads through the real picture process: what is taken, what is refused and why, and what is kept."""

import asyncio
import io
import os
import struct
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, features

from ground.errors import RequestError
from server.portraits.limits import DEFAULT_PIXELS, FORMATS
from server.portraits.process import PictureProcess
from server.portraits.reader import decode_picture
from server.portraits.store import PortraitStore
from server.settings import Settings
from tests.caller import FakeFramer, http, serving
from tests.pictures import encoded

INPUTS = Path(__file__).resolve().parents[2] / "inputs"
SAMPLE = Path(__file__).resolve().parents[3] / "client_web" / "samples" / "portrait_1.jpg"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with serving(Settings(max_portrait_pixels=4_000_000), framer=PictureProcess()) as app, http(app) as client:
        yield client


def sample() -> Image.Image:
    return Image.open(SAMPLE).convert("RGB")


async def refused(client: httpx.AsyncClient, data: bytes) -> tuple[int, str]:
    answer = await client.put("/v1/portraits", content=data)
    assert set(answer.json()) == {"error"}, answer.text
    text = answer.json()["error"]["message"]
    assert "0x" not in text and "/" not in text
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_good_portrait_in_every_format_is_the_same_face(client: httpx.AsyncClient) -> None:
    crops = []
    for kind in ("JPEG", "PNG", "WEBP"):
        answer = await client.put("/v1/portraits", content=encoded(sample(), kind))
        assert answer.status_code == 201, answer.text
        body = answer.json()
        assert set(body) == {"id", "status", "width", "height", "face", "warnings", "preview_url"}
        assert (body["status"], body["width"], body["height"]) == ("ready", 512, 512)
        assert body["face"]["confidence"] > 0.5
        crops.append(np.array(body["face"]["crop"]))
    assert np.abs(crops[0] - crops[1])[:, 2].max() < 4 and np.abs(crops[0] - crops[2])[:, 2].max() < 4
    listed = (await client.get("/v1/portraits")).json()["portraits"]
    assert len(listed) == 3 and listed[0]["id"] != listed[1]["id"]


async def test_the_preview_is_ours_and_only_for_its_link(client: httpx.AsyncClient) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    data = encoded(sample(), "JPEG", exif=exif, comment=b"a secret comment") + b"<script>alert(1)</script>PK\x03\x04"
    body = (await client.put("/v1/portraits", content=data)).json()
    preview = await client.get(body["preview_url"])
    assert preview.headers["content-type"] == "image/jpeg" and preview.headers["x-content-type-options"] == "nosniff"
    assert b"secret" not in preview.content and b"script" not in preview.content
    assert Image.open(io.BytesIO(preview.content)).size == (512, 512)
    for key in ("", "wrong", "%00", "%C3%A9", "%ED%A0%80"):
        assert (await client.get(f"/v1/portraits/{body['id']}/preview?key={key}")).status_code == 404
    await client.delete(f"/v1/portraits/{body['id']}")
    assert (await client.get(body["preview_url"])).status_code == 404


async def test_orientation_is_applied_once(client: httpx.AsyncClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn right to see it so
    lying = sample().resize((512, 400)).transpose(Image.Transpose.ROTATE_90)
    turned = await client.put("/v1/portraits", content=encoded(lying, "JPEG", exif=exif))
    assert turned.status_code == 201
    assert (turned.json()["width"], turned.json()["height"]) == (512, 400)


async def test_what_is_no_portrait_is_refused_with_its_reason(client: httpx.AsyncClient) -> None:
    face = sample()
    pair = Image.new("RGB", (1024, 512), (90, 90, 90))
    pair.paste(face, (0, 0))
    pair.paste(Image.open(SAMPLE.with_name("portrait_2.jpg")).convert("RGB").resize((512, 512)), (512, 0))
    speck = Image.new("RGB", (512, 512), (120, 130, 120))
    speck.paste(face.resize((60, 60)), (220, 180))
    assert await refused(client, encoded(Image.new("RGB", (400, 400), (9, 99, 9)), "PNG")) == (422, "no_face")
    assert await refused(client, encoded(pair, "PNG")) == (422, "multiple_faces")
    assert (await refused(client, encoded(speck, "PNG")))[1] in ("face_too_small", "no_face")
    assert await refused(client, encoded(Image.new("RGB", (2, 2)), "PNG")) == (422, "picture_too_small")
    assert await refused(client, b"") == (422, "empty_file")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM", "PDF", "ICO"])
async def test_other_formats_are_never_decoded(kind: str, client: httpx.AsyncClient) -> None:
    try:
        data = encoded(sample().resize((128, 128)), kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {kind}")
    assert await refused(client, data) == (415, "unsupported_picture")


async def test_phones_pictures_are_taken_within_the_limit_on_memory() -> None:
    """AVIF, HEIC and a progressive JPEG of 108 megapixels, through the real process."""
    pictures = {"JPEG": encoded(sample().resize((12000, 9000)), "JPEG", quality=50, progressive=True)}
    if features.check("avif"):
        pictures["AVIF"] = encoded(sample().resize((1600, 1200)), "AVIF", quality=60)
    if "HEIF" in FORMATS:
        pictures["HEIC"] = (INPUTS / "turned.heic").read_bytes()
    process = PictureProcess(frame_s=90)
    try:
        for kind, data in pictures.items():
            reply = await process.frame(data, DEFAULT_PIXELS)
            assert reply.confidence > 0.7 and reply.width == {"JPEG": 12000, "AVIF": 1600, "HEIC": 256}[kind]
    finally:
        await process.close()


async def test_text_and_noise_are_no_pictures(client: httpx.AsyncClient) -> None:
    for data in (b"<html><script>x</script>", b"%!PS-Adobe", b"GIF89a", b"\x00" * 5000, os.urandom(5000), b"<svg/>"):
        assert await refused(client, data) == (415, "unsupported_picture")


async def test_damaged_pictures_cost_nothing_but_themselves(client: httpx.AsyncClient) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(sample(), kind)
        for part in (1 / 64, 1 / 4, 1 / 2, 63 / 64):
            status, code = await refused_or_taken(client, data[: int(len(data) * part)])
            assert status in (201, 415, 422), code
    assert (await client.put("/v1/portraits", content=encoded(sample(), "PNG"))).status_code == 201


async def refused_or_taken(client: httpx.AsyncClient, data: bytes) -> tuple[int, str]:
    answer = await client.put("/v1/portraits", content=data)
    return answer.status_code, answer.json().get("error", {}).get("code", "")


async def test_a_bomb_is_refused_by_its_header(client: httpx.AsyncClient) -> None:
    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\x00" * 10_000_000, 9)
    bomb = b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", rows) + block(b"IEND", b"")
    assert await refused(client, bomb) == (422, "picture_too_large")


async def test_a_file_that_is_too_large_is_told_the_limit_and_what_to_do() -> None:
    async with serving(Settings(max_portrait_bytes=200_000), framer=FakeFramer()) as app, http(app) as client:
        error = (await client.put("/v1/portraits", content=bytes(200_001))).json()["error"]
        assert (
            error["code"] == "picture_too_large"
            and "larger than 0.191 MiB: send the picture smaller" in error["message"]
        )
        error = (await client.put("/v1/portraits", content=bytes(2**20))).json()["error"]
        assert error["code"] == "body_too_large" and "send a smaller picture" in error["message"]
        told = (await client.get("/v1/limits")).json()["portrait"]
        assert told["max_bytes"] == 200_000 and told["max_jpeg_pixels"] == 6 * told["max_pixels"]
        assert {"image/jpeg", "image/png", "image/webp", "image/avif"} <= set(told["types"])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1", "YCbCr"])
def test_every_kind_of_pixel_becomes_rgb_or_is_refused(mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(sample().convert("L")).astype(np.uint16) * 257)
    else:
        picture = sample().convert(mode)
    data = encoded(picture, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG")
    decoded = decode_picture(data).image
    assert decoded.mode == "RGB" and decoded.size == (512, 512)
    assert abs(float(np.asarray(decoded.convert("L")).mean()) - float(np.asarray(sample().convert("L")).mean())) < 12


def test_only_the_first_picture_of_an_animation_is_looked_at() -> None:
    frames = [Image.new("RGB", (128, 128), (i * 20, 0, 0)) for i in range(10)]
    for kind in ("WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.asarray(decode_picture(data).image).max() <= 1, "the first is black"


async def test_the_process_may_die_or_hang_and_the_next_picture_finds_a_new_one() -> None:
    async def frame(command: tuple[str, ...]) -> str:
        pictures = PictureProcess(command, frame_s=0.5)
        pictures._fresh = False
        try:
            await pictures.warm()
            pictures._fresh = False
            with pytest.raises(RequestError) as caught:
                await pictures.frame(b"x", 1000)
            return caught.value.code
        finally:
            await pictures.close()

    for script in ("import os; os._exit(9)", "import time; time.sleep(9)", "print('nonsense' * 99)"):
        assert await frame((sys.executable, "-c", script)) == "broken_picture"
    pictures = PictureProcess()
    assert (await pictures.frame(SAMPLE.read_bytes(), 10**7)).framed_width == 512
    assert pictures._process is not None
    pictures._process.kill()
    await asyncio.sleep(0.1)
    assert (await pictures.frame(SAMPLE.read_bytes(), 10**7)).framed_width == 512
    await pictures.close()


async def test_the_store_is_bounded_and_finds_its_portraits_again(tmp_path: Path) -> None:
    store = PortraitStore(FakeFramer(), tmp_path, limit=2, max_pixels=10**6)
    first = await store.put(b"one", "me")
    assert await store.put(b"one", "me") is first
    assert (await store.put(b"one", "you")).id != first.id
    await store.put(b"two", "me")
    with pytest.raises(RequestError) as caught:
        await store.put(b"three", "me")
    assert caught.value.code == "too_many_portraits"
    assert (await store.framed(first)).rgb.shape == (256, 256, 3)
    again = PortraitStore(FakeFramer(), tmp_path, limit=2, max_pixels=10**6)
    assert again.get(first.id, "me") == first
    await again.delete(first.id, "me")
    assert not (tmp_path / first.id).exists()
    await store.close()
    assert tmp_path.exists()


async def test_a_link_in_the_store_is_not_followed(tmp_path: Path) -> None:
    store = PortraitStore(FakeFramer(), tmp_path / "store", limit=2, max_pixels=10**6)
    portrait = await store.put(b"one", "me")
    path = tmp_path / "store" / portrait.id / "preview.jpg"
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(RequestError):
        await store.preview(portrait.id, portrait.preview_key)


async def test_a_full_disk_leaves_no_half_portrait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PortraitStore(FakeFramer(), tmp_path, limit=2, max_pixels=10**6)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Exception, match="could not be stored") as caught:
        await store.put(b"one", "me")
    assert getattr(caught.value, "status", None) == 507
    assert list(tmp_path.iterdir()) == [] and store.list("me") == []


async def test_a_temporary_store_goes_with_the_server() -> None:
    store = PortraitStore(FakeFramer(), None, limit=2, max_pixels=10**6)
    await store.put(b"one", "me")
    folder = store._folder
    assert folder.stat().st_mode & 0o077 == 0
    await store.close()
    assert not folder.exists()
