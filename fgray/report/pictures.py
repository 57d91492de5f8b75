"""Thumbnails that travel inside the page, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fgray.data.decode import ImageError, decode_image
from fgray.errors import FgrayError
from fgray.report.region_pictures import draw_region

LoadImage = Callable[[str, str], bytes]
"""(benchmark, image key) -> the encoded image."""

MAX_PIXELS = 178_956_970
_QUALITY = 72


@dataclass(frozen=True)
class Picture:
    """One picture of a page: a data URI with its size in pixels, or the reason why there is none."""

    uri: str
    width: int
    height: int
    problem: str = ""


class Pictures:
    """Makes each thumbnail once and counts the bytes that the page will hold.

    Args:
        load_image: gives the encoded bytes of an image.
        budget: bytes of data URIs that the page may hold; `spent` may pass it by what was asked for last.
    """

    def __init__(self, load_image: LoadImage, budget: int) -> None:
        self._load, self._budget = load_image, budget
        self._made: dict[tuple[str, str, int], Picture] = {}
        self.spent = 0

    @property
    def full(self) -> bool:
        """Whether the budget is used up."""
        return self.spent >= self._budget

    def get(self, benchmark: str, key: str, side: int) -> Picture:
        """Return the thumbnail of an image, its longer side at most `side` pixels.

        An image that cannot be read or decoded gives a picture with a `problem`: a report with a gap says more than none.
        """
        return self._once((benchmark, key, side), lambda: _thumbnail(self._load(benchmark, key), side))

    def region(self, benchmark: str, region: Mapping[str, Any], side: int) -> Picture:
        """Return the thumbnail of an image with a region (a row of ``REGION_SCHEMA``) drawn on it; else as `get`."""
        return self._once((benchmark, "region " + region["region_id"], side), lambda: self._drawn(benchmark, region, side))

    def _once(self, asked: tuple[str, str, int], make: Callable[[], Picture]) -> Picture:
        if asked not in self._made:
            try:
                self._made[asked] = make()
            except (FgrayError, ImageError) as error:
                self._made[asked] = Picture("", asked[2], asked[2], problem=str(error))
        picture = self._made[asked]
        self.spent += len(picture.uri)  # each use repeats the data URI in the page
        return picture

    def _drawn(self, benchmark: str, region: Mapping[str, Any], side: int) -> Picture:
        return _encoded(draw_region(decode_image(self._load(benchmark, region["key"]), MAX_PIXELS), region, side))


def _thumbnail(data: bytes, side: int) -> Picture:
    image = decode_image(data, MAX_PIXELS)
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _encoded(image)


def _encoded(image: Image.Image) -> Picture:
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=_QUALITY, method=4)
    return Picture("data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode(), *image.size)
