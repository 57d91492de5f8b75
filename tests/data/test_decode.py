"""Every kind of picture decodes to pixels known beforehand, and everything else gives a reason."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fgray.data.decode import ImageError, decode_image

LIMIT = 10_000_000
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (13, 21, 3), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(96)[:, None] * 2, np.arange(128)[None] * 1.5, 90), -1).astype(np.uint8)
GREY = COLOUR[..., 0]


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes, max_pixels: int = LIMIT) -> np.ndarray:
    image = decode_image(data, max_pixels)
    assert image.mode == "RGB"
    return np.asarray(image)


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG written by hand (https://www.w3.org/TR/png/)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    extra = b"".join(chunk(item[:4], item[4:]) for item in chunks)
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("BMP", {}), ("TIFF", {})])
def test_lossless_colour(format: str, options: dict[str, Any]) -> None:
    assert np.array_equal(pixels(encode(Image.fromarray(COLOUR), format, **options)), COLOUR)


@pytest.mark.parametrize(("format", "options"), [("JPEG", {"quality": 95}), ("JPEG", {"progressive": True}), ("WEBP", {"quality": 95})])
def test_lossy_colour(format: str, options: dict[str, Any]) -> None:
    found = pixels(encode(Image.fromarray(SMOOTH), format, **options)).astype(int)
    assert np.abs(found - SMOOTH).mean() < 3


def test_greyscale() -> None:
    expected = np.repeat(GREY[..., None], 3, axis=2)
    assert np.array_equal(pixels(encode(Image.fromarray(GREY), "PNG")), expected)
    alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(COLOUR[..., 1])])
    assert np.array_equal(pixels(encode(alpha, "PNG")), expected)
    grey = SMOOTH[..., 0]
    found = pixels(encode(Image.fromarray(grey), "JPEG", quality=95))
    assert np.abs(found.astype(int) - grey[..., None]).max() < 12
    bits = np.asarray(Image.fromarray(GREY).convert("1"))
    assert np.array_equal(pixels(encode(Image.fromarray(bits), "PNG")), np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 255, 256, 4096, 32768, 65280, 65535]], dtype=">u2")
    expected = [0, 0, 1, 16, 128, 255, 255]
    by_hand = png(7, 1, 16, 0, b"\0" + values.tobytes())
    assert pixels(by_hand)[0, :, 1].tolist() == expected
    for byte_order in ("<u2", ">u2"):
        tiff = encode(Image.fromarray(values.astype(byte_order)), "TIFF")
        assert pixels(tiff)[0, :, 0].tolist() == expected


def test_sixteen_bit_colour_agrees_with_grey() -> None:
    values = RNG.integers(0, 65536, (5, 4), dtype=np.uint16)
    rows = values.astype(">u2")
    grey = png(4, 5, 16, 0, b"".join(b"\0" + row.tobytes() for row in rows))
    colour = png(4, 5, 16, 2, b"".join(b"\0" + np.repeat(row, 3).tobytes() for row in rows))
    with_alpha = png(4, 5, 16, 6, b"".join(b"\0" + np.stack([row, row, row, ~row], 1).astype(">u2").tobytes() for row in rows))
    assert np.array_equal(pixels(grey), pixels(colour)) and np.array_equal(pixels(grey), pixels(with_alpha))
    assert np.array_equal(pixels(grey)[..., 2], (values // 256).astype(np.uint8))


PALETTE = b"PLTE" + bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("chunks", [[PALETTE], [PALETTE, b"tRNS" + bytes([255, 128, 0])]])
def test_palettes_with_and_without_transparency(chunks: list[bytes]) -> None:
    data = png(4, 1, 8, 3, b"\0" + bytes([0, 1, 2, 3]), *chunks)
    assert pixels(data)[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]]


def test_transparency_is_dropped_as_the_published_evaluators_do() -> None:
    rgba = np.dstack([COLOUR, GREY])
    assert np.array_equal(pixels(encode(Image.fromarray(rgba), "PNG")), COLOUR)
    keyed = png(2, 1, 8, 2, b"\0" + bytes([1, 2, 3, 4, 5, 6]), b"tRNS" + struct.pack(">HHH", 1, 2, 3))
    assert pixels(keyed)[0].tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(("format", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_animations_give_their_first_frame(format: str, options: dict[str, Any]) -> None:
    colours = [(250, 10, 20), (10, 250, 20), (10, 20, 250)]
    frames = [Image.new("RGB", (8, 6), colour) for colour in colours]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as check:
        assert check.n_frames == 3
    assert np.array_equal(pixels(data), np.full((6, 8, 3), colours[0], np.uint8))


# What a viewer must do with the stored rows for each orientation (EXIF 2.32, tag 0112: where row 0 and column 0 belong).
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", [*UPRIGHT, 0, 9])
@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("JPEG", {"quality": 95})])
def test_exif_orientation(format: str, options: dict[str, Any], orientation: int) -> None:
    stored = COLOUR if format != "JPEG" else SMOOTH
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(encode(Image.fromarray(stored), format, exif=exif, **options))
    expected = UPRIGHT.get(orientation, UPRIGHT[1])(stored)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < (3 if format == "JPEG" else 1e-9)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_hide_the_picture() -> None:
    plain = encode(Image.fromarray(SMOOTH), "JPEG")
    broken = encode(Image.fromarray(SMOOTH), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert np.array_equal(pixels(broken), pixels(plain))


def test_cmyk() -> None:
    """White, cyan, magenta, yellow, black, mid grey in ink amounts; R = 255 (1 - C)(1 - K)."""
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 128)]
    expected = np.array([[255 - min(255, ink + ks[3]) for ink in ks[:3]] for ks in inks])
    patches = np.repeat(np.array(inks, np.uint8)[None], 16, axis=0).repeat(16, axis=1)
    image = Image.frombytes("CMYK", (96, 16), patches.tobytes())
    adobe = encode(image, "JPEG", quality=95)
    assert b"Adobe" in adobe  # its samples are stored inverted
    for data in (adobe, encode(image, "TIFF")):
        found = pixels(data)[8, 8::16].astype(int)
        assert np.abs(found - expected).max() <= 6, found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_another_decoder_agrees(data_root: Path) -> None:
    """torchvision's JPEG decoder on real photographs, and on a CMYK version of one."""
    torch = pytest.importorskip("torch")
    from torchvision.io import ImageReadMode, decode_jpeg

    files = sorted((data_root / "coco128").rglob("*.jpg"))[:8]
    contents = [file.read_bytes() for file in files]
    contents.append(encode(Image.open(files[0]).convert("CMYK"), "JPEG", quality=90))
    for content in contents:
        theirs = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
        difference = np.abs(pixels(content).astype(int) - theirs.permute(1, 2, 0).numpy())
        assert difference.mean() < 1


# --- what is no picture -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"hello, this is text", "not an image"),
        (b"<!doctype html><title>404</title>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (pickle.dumps([1, 2]), "not an image"),
        (b"\xff\xd8\xff\xe0", "not an image|cut off|damaged"),
        (bytes(1000), "not an image"),
    ],
)
def test_no_image(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(data, LIMIT)


def test_bombs_are_refused_by_their_header() -> None:
    with pytest.raises(ImageError, match=r"decompression bomb: 60000 x 60000 pixels, more than max_pixels = 178956970|bomb"):
        decode_image(png(60_000, 60_000, 8, 2, b""), 178_956_970)
    small = encode(Image.fromarray(COLOUR), "PNG")
    assert pixels(small, max_pixels=13 * 21).shape == (13, 21, 3)
    with pytest.raises(ImageError, match="decompression bomb: 21 x 13 pixels, more than max_pixels = 272"):
        decode_image(small, 13 * 21 - 1)


def test_a_raised_limit_is_honoured() -> None:
    rows = (b"\0" + bytes(2_500)) * 20_000  # 400 million one-bit pixels
    assert decode_image(png(20_000, 20_000, 1, 0, rows), 400_000_000).size == (20_000, 20_000)


def test_float_and_32_bit_samples_have_no_defined_range() -> None:
    for image in (Image.new("F", (4, 4), 0.5), Image.new("I", (4, 4), 70_000)):
        with pytest.raises(ImageError, match="no defined brightness range"):
            decode_image(encode(image, "TIFF"), LIMIT)


SAMPLES = {
    "jpeg": encode(Image.fromarray(SMOOTH), "JPEG"),
    "progressive": encode(Image.fromarray(SMOOTH), "JPEG", progressive=True),
    "png": encode(Image.fromarray(COLOUR), "PNG"),
    "webp": encode(Image.fromarray(SMOOTH), "WEBP"),
    "webp_lossless": encode(Image.fromarray(COLOUR), "WEBP", lossless=True),
    "gif": encode(Image.fromarray(COLOUR).convert("P"), "GIF"),
    "bmp": encode(Image.fromarray(COLOUR), "BMP"),
    "tiff": encode(Image.fromarray(COLOUR), "TIFF"),
}


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_off_file_never_gives_other_pixels(name: str, share: float) -> None:
    """Cut anywhere: a reason, or (where only a trailer is gone) exactly the same picture; never a half-grey one."""
    whole = SAMPLES[name]
    try:
        found = pixels(whole[: int(len(whole) * share)])
    except ImageError as error:
        assert str(error)
        return
    assert np.array_equal(found, pixels(whole))


@pytest.mark.parametrize("name", SAMPLES)
def test_half_a_file_is_refused(name: str) -> None:
    whole = SAMPLES[name]
    with pytest.raises(ImageError, match="cut off|damaged|not an image"):
        decode_image(whole[: len(whole) // 2], LIMIT)


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damage_gives_a_picture_or_a_reason_and_nothing_else(name: str, data: st.DataObject) -> None:
    damaged = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert pixels(bytes(damaged)).dtype == np.uint8
    except ImageError as error:
        assert str(error) and "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_no_image(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode_image(data, LIMIT)
