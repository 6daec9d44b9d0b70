"""Pictures as people have them: broken metadata, other colour spaces, files cut short, every way up."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, features

from engine.portrait.framing import frame_portrait
from ground.errors import RequestError
from server.portraits.container import open_container, orientation
from server.portraits.limits import FORMATS
from server.portraits.reader import decode_picture, frame_picture, read_portrait
from tests.pictures import colour_difference, encoded

INPUTS = Path(__file__).resolve().parents[2] / "inputs"
SAMPLE = Path(__file__).resolve().parents[3] / "client_web" / "samples" / "portrait_1.jpg"
FACE = (slice(150, 390), slice(150, 370))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def sample() -> Image.Image:
    return Image.open(SAMPLE).convert("RGB")


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode_picture(data).image)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(*chunks: bytes) -> bytes:
    """The sample as PNG with chunks behind its header."""
    data = encoded(sample(), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def with_segments(*segments: tuple[int, bytes], length: int = 0) -> bytes:
    """The sample with segments behind its start. length: what each says of itself beyond its true length."""
    data = SAMPLE.read_bytes()
    written = [bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2 + length) + body for marker, body in segments]
    return data[:2] + b"".join(written) + data[2:]


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Tag, type, count and the four bytes of each entry, little-endian."""
    fields = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + bytes(4)


TURNED = (0x0112, 3, 1, b"\x06\0\0\0")
BROKEN_EXIF = {
    "text for a number": exif((0x011A, 2, 4, b"72\0\0"), TURNED),
    "an offset outside": exif((0x011A, 5, 1, b"\xff\xff\xff\x7f"), TURNED),
    "a huge count": exif((0x010F, 2, 0xFFFFFFFF, b"\x10\0\0\0"), TURNED),
    "an unknown type": exif((0x0132, 77, 9, b"abcd"), TURNED),
    "a folder that is itself": exif((0x8769, 4, 1, b"\x08\0\0\0"), TURNED),
    "more entries promised": exif(TURNED)[:14] + b"\xff\xff" + exif(TURNED)[16:],
}


@pytest.mark.parametrize("broken", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
def test_broken_exif_costs_nothing_and_its_orientation_still_counts(broken: bytes) -> None:
    upright = np.asarray(sample())
    assert np.array_equal(pixels(with_segments((0xE1, broken))), np.rot90(upright, -1))
    assert np.array_equal(pixels(with_chunks(chunk(b"eXIf", broken[6:]))), np.rot90(upright, -1))
    webp = decode_picture(encoded(sample(), "WEBP", exif=broken, lossless=True)).image
    assert np.array_equal(np.asarray(webp), np.rot90(upright, -1))


@pytest.mark.parametrize(
    "data", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"Exif\0\0", b"\0" * 40, exif((0x0112, 2, 1, b"6\0\0\0"))]
)
def test_exif_that_cannot_be_read_turns_nothing(data: bytes) -> None:
    assert orientation(data) == 1


@pytest.mark.parametrize("value", range(10))
def test_all_eight_orientations_are_obeyed(value: int) -> None:
    tag = exif((0x0112, 3, 1, bytes((value, 0, 0, 0))))
    lying = sample().resize((200, 120))
    data = encoded(lying, "PNG")
    seen = pixels(data[:33] + chunk(b"eXIf", tag[6:]) + data[33:])
    ways = {
        2: np.fliplr, 3: lambda p: np.rot90(p, 2), 4: np.flipud, 5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1), 7: lambda p: np.rot90(p, 2).swapaxes(0, 1), 8: np.rot90,
    }  # fmt: skip
    assert np.array_equal(seen, ways.get(value, lambda p: p)(np.asarray(lying)))


@pytest.mark.parametrize("name", ["exif6_xres_ascii.jpg", "exif6_xres_negative.jpg"])
def test_resolutions_that_are_no_numbers(name: str) -> None:
    assert read_portrait((INPUTS / name).read_bytes()).confidence > 0.9


METADATA = {
    "density 0": with_segments((0xE0, b"JFIF\0\x01\x02\x01\0\0\0\0\0\0")),
    "a broken index of pictures": with_segments((0xE2, b"MPF\0MM\0*\0\0\0\x08\xff\xff")),
    "no XMP": with_segments((0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta \xff\xfe tiff:Orientation='6'")),
    "a broken Photoshop block": with_segments((0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x01a")),
    "a short Adobe block": with_segments((0xEE, b"Adobe")),
    "a segment longer than the file": with_segments((0xE5, b"beyond"), length=65_000),
    "half a profile": with_segments((0xE2, b"ICC_PROFILE\0\x01\x02" + SRGB[:300])),
    "behind its end": SAMPLE.read_bytes() + b"\xff\xe1\x00\x08Exif\0\0" + bytes(5000),
    "a text bomb": with_chunks(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))),
    "many text bombs": with_chunks(*[chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(10**6)))] * 99),
    "a profile of 200 MB": with_chunks(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))),
    "a profile of 1.1 MB": with_chunks(chunk(b"iCCP", b"a\0\0" + zlib.compress(SRGB + bytes(1_100_000)))),
    "a profile that is none": with_chunks(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(9000)))),
    "an unpacked profile": with_chunks(chunk(b"iCCP", b"a\0\7" + SRGB)),
    "an empty profile": with_chunks(chunk(b"iCCP", b"")),
    "a key colour of the wrong length": with_chunks(chunk(b"tRNS", b"\0")),
    "a wrong checksum": with_chunks(chunk(b"tEXt", b"a\0b")[:-4] + b"abcd"),
    "an empty resolution": with_chunks(chunk(b"pHYs", b""), chunk(b"gAMA", b"\0"), chunk(b"cHRM", b"abc")),
    "a chunk without a name": with_chunks(chunk(b"\0\1\2\3", b"abc")),
}  # fmt: skip


@pytest.mark.parametrize("data", METADATA.values(), ids=METADATA)
def test_metadata_that_nobody_needs_changes_no_pixel(data: bytes) -> None:
    assert np.abs(pixels(data).astype(int) - np.asarray(sample())).max() <= 1


def test_a_palette_profile_and_transparency_together() -> None:
    clear = sample().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    for kind in ("PNG", "WEBP"):
        seen = pixels(encoded(clear, kind, lossless=True))
        assert np.abs(seen[0].astype(int) - 128).max() <= 1, "mid grey where nothing is"
        assert np.abs(seen[-1].astype(int) - np.asarray(sample())[-1]).max() <= 1
    palette = sample().quantize(64)
    palette.info["transparency"] = 0
    assert pixels(encoded(palette, "PNG", transparency=0)).shape == (512, 512, 3)
    grey = sample().convert("LA")
    assert np.ptp(pixels(encoded(grey, "PNG")).astype(int), axis=2).max() == 0


def test_sixteen_bits_are_scaled_and_not_cut() -> None:
    grey = np.asarray(sample().convert("L")).astype(np.uint16) * 257
    assert np.abs(pixels(encoded(Image.fromarray(grey), "PNG"))[..., 0].astype(int) - grey // 257).max() <= 1


def test_a_profile_of_display_p3_is_converted() -> None:
    seen = pixels((INPUTS / "icc_p3.jpg").read_bytes())
    assert colour_difference(seen[FACE], np.asarray(sample())[FACE]) < 1.0


def test_a_profile_with_red_and_blue_exchanged_is_converted() -> None:
    names = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    table, count = bytearray(SRGB), struct.unpack_from(">I", SRGB, 128)[0]
    for at in range(132, 132 + 12 * count, 12):
        table[at : at + 4] = names.get(SRGB[at : at + 4], SRGB[at : at + 4])
    exchanged = Image.fromarray(np.asarray(sample())[..., ::-1].copy())
    best = {"PNG": {}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    for kind in ("PNG", "WEBP", *(["AVIF"] if features.check("avif") else [])):
        seen = pixels(encoded(exchanged, kind, icc_profile=bytes(table), **best[kind]))
        assert colour_difference(seen[FACE], np.asarray(sample())[FACE]) < 1.0, kind


def test_a_profile_of_another_colour_space_is_ignored() -> None:
    grey = sample().convert("L")
    assert np.array_equal(pixels(encoded(grey, "PNG", icc_profile=SRGB))[..., 1], np.asarray(grey))


def test_inks_are_shown_as_colours() -> None:
    inks = sample().convert("CMYK")
    seen = pixels(encoded(inks, "JPEG", quality=95, icc_profile=SRGB))
    assert colour_difference(seen[FACE], np.asarray(inks.convert("RGB"))[FACE]) < 2.0


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_taken_while_nearly_all_its_rows_are_there(progressive: bool) -> None:
    data = encoded(sample(), "JPEG", quality=90, progressive=progressive)
    assert np.array_equal(pixels(data[:-2]), pixels(data))
    assert read_portrait(data[: int(0.97 * len(data))]).confidence > 0.9
    with pytest.raises(RequestError, match=r"[3-7]\d % of its rows are missing") as refused:
        decode_picture(encoded(sample(), "JPEG", quality=90)[: len(SAMPLE.read_bytes()) // 2])
    assert refused.value.code == "broken_picture"


def test_a_grey_lower_half_is_no_damage_in_a_whole_file() -> None:
    half = Image.new("RGB", (512, 800), (128, 128, 128))
    half.paste(sample(), (0, 0))
    assert decode_picture(encoded(half, "JPEG")).height == 800


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_is_taken_while_nearly_all_its_rows_are_there(interlaced: bool) -> None:
    data = interlace(sample()) if interlaced else encoded(sample(), "PNG")
    whole = pixels(data)
    assert np.array_equal(pixels(data[:-12]), whole)
    short = pixels(data[: int(0.97 * len(data))])
    assert np.array_equal(short[:400:2], whole[:400:2]) and np.abs(short[-1].astype(int) - 0).mean() > 10
    with pytest.raises(RequestError, match="rows are missing"):
        decode_picture(data[: len(data) // 2])


def interlace(picture: Image.Image) -> bytes:
    rgb = np.asarray(picture)
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in rgb[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", *picture.size, 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_png_whose_pixels_are_damaged_early_is_refused() -> None:
    data = bytearray(encoded(sample(), "PNG"))
    data[5000:5100] = bytes(100)
    with pytest.raises(RequestError) as refused:
        decode_picture(bytes(data))
    assert refused.value.code == "broken_picture"


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_photograph_on_its_side_or_head_is_put_upright(quarters: int) -> None:
    upright = read_portrait(encoded(sample(), "PNG"))
    tall = np.ascontiguousarray(np.rot90(np.asarray(sample())[:, :460], quarters))
    picture = decode_picture(encoded(Image.fromarray(tall), "PNG"))
    framed = frame_picture(picture)
    assert framed.confidence > 0.9 and framed.warnings == ()
    assert framed.landmarks["my"] == pytest.approx(upright.landmarks["my"], abs=0.02)
    assert np.abs(framed.rgb.astype(int) - upright.rgb)[100:400, 100:400].mean() < 5
    assert (picture.width, picture.height) == tall.shape[1::-1], "the file's own size"
    eye = np.linalg.inv(framed.crop[:, :2]) @ (np.array([201.5, 232.3]) - framed.crop[:, 2])
    assert ((eye > 0) & (eye < (picture.width, picture.height))).all(), "the crop is in the file's own pixels"


def test_a_face_cut_off_above_its_brows_is_found() -> None:
    assert read_portrait((INPUTS / "face_cropped_above_brows.png").read_bytes()).confidence > 0.9
    for number, brows in ((1, 190), (2, 180)):
        whole = np.asarray(Image.open(SAMPLE.with_name(f"portrait_{number}.jpg")).convert("RGB"))
        assert frame_portrait(np.ascontiguousarray(whole[brows:450, 120:400])).confidence > 0.9


def test_a_large_jpeg_is_decoded_at_a_reduced_size() -> None:
    large = encoded(sample().resize((8000, 6000), Image.Resampling.BILINEAR), "JPEG", quality=50)
    picture = decode_picture(large)
    assert (picture.width, picture.height) == (8000, 6000) and picture.image.size == (1280, 960)
    with pytest.raises(RequestError, match="more than 6 megapixels: send it smaller") as refused:
        decode_picture(large, max_pixels=1_000_000)
    assert refused.value.code == "picture_too_large"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read_upright() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    lying = sample().transpose(Image.Transpose.ROTATE_90)
    seen = pixels(encoded(lying, "AVIF", exif=turned, quality=90))
    assert colour_difference(seen[FACE], np.asarray(sample())[FACE]) < 2.5


@pytest.mark.skipif("HEIF" not in FORMATS, reason="pillow-heif is not installed")
def test_heic_is_read_upright() -> None:
    seen = pixels((INPUTS / "turned.heic").read_bytes())
    assert np.abs(seen.astype(int) - np.asarray(sample().resize((256, 256)))).mean() < 4


def test_a_heic_picture_without_its_decoder_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FORMATS, "HEIF", raising=False)
    with pytest.raises(RequestError, match="send a JPEG, PNG, WebP or AVIF picture") as refused:
        decode_picture((INPUTS / "turned.heic").read_bytes())
    assert (refused.value.code, refused.value.status) == ("unsupported_picture", 415)


def test_nothing_but_pixels_reaches_the_decoder() -> None:
    secret = encoded(sample(), "JPEG", comment=b"a secret", exif=exif(TURNED)) + b"a secret"
    assert b"secret" not in open_container(secret).data[: secret.index(b"\xff\xda")]
