"""Encoded image bytes to RGB pixels, with a reason when that is not possible."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

# Only these: other Pillow formats (EPS, PSD, …) are no photographs, and some start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")
IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jp2", "avif"})

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # what undoes each value of the EXIF orientation tag (EXIF 2.32, tag 274)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(Exception):
    """These bytes give no picture; the text is the reason, as the quarantine shows it."""


def decode_image(data: bytes, max_pixels: int) -> Image.Image:
    """Decode one image.

    Transparency is dropped, as ``convert("RGB")`` does in the published evaluation code: the colour stored under a
    transparent pixel shows. Of 16-bit samples the high byte is kept. Animations give their first frame. CMYK is
    converted without colour profiles.

    Args:
        data: the encoded file, one of `FORMATS`.
        max_pixels: largest allowed width x height, checked before anything is decoded.

    Returns:
        The picture in mode RGB, upright after its EXIF orientation.

    Raises:
        ImageError: empty, not an image, larger than `max_pixels`, cut off, damaged, or without a defined 8-bit range.
    """
    if not data:
        raise ImageError("zero bytes")
    # Pillow's own limit would refuse what the configuration allows.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(f"decompression bomb: {width} x {height} pixels, more than max_pixels = {max_pixels}")
            image.load()
            return _upright(_to_rgb(image), image)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image that can be read (JPEG, PNG, WebP, GIF, BMP, TIFF, …), or cut off in its header") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"decompression bomb: {error}") from error
    except Exception as error:  # Pillow's decoders raise nearly every built-in error on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{'cut off' if 'truncated' in reason.lower() else 'damaged'}: {reason}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # convert() would clip at 255. The high byte is what Pillow takes of 16-bit colour, so grey and colour agree.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError(f"samples of mode {image.mode} (32-bit) have no defined brightness range")
    if image.mode == "P":
        return image.convert("RGBA").convert("RGB")  # directly, Pillow warns about palettes with transparency
    return image.convert("RGB")


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF does not make the picture unreadable; viewers ignore it, too
        orientation = 1
    transpose = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return pixels if transpose is None else pixels.transpose(transpose)
