"""Image preprocessing: a decoded picture to the uint8 pixels that a model takes, without weights and without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgray.errors import ModelError

Triple = tuple[float, float, float]
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and (inside the model) normalisation. Picklable; equal settings give equal pixels.

    Resampling is Pillow's on uint8, as in open_clip's evaluation transform and the Pillow image processors of Hugging
    Face; their float steps start from these pixels, so stopping at uint8 loses nothing.

    Attributes:
        size: height and width of the result, pixels.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divides after the mean is subtracted.
        resize: ``shortest`` brings the short side to `short_side` and crops the centre; ``squash`` ignores the aspect ratio.
        interpolation: ``bicubic`` or ``bilinear``.
        short_side: length of the short side before the crop (``shortest`` only); None: the width of `size`.
        crop_rounding: where an odd number of surplus pixels goes: ``half_even`` as torchvision's centre crop has it,
            ``floor`` as Hugging Face's has it. They differ by one pixel.
    """

    size: tuple[int, int]
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)
    resize: Literal["shortest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    short_side: int | None = None
    crop_rounding: Literal["half_even", "floor"] = "half_even"

    def __post_init__(self) -> None:
        if self.interpolation not in _FILTERS:
            raise ModelError(f"interpolation '{self.interpolation}' is not supported", fix="use bicubic or bilinear")
        if self.resize not in ("shortest", "squash"):
            raise ModelError(f"resize mode '{self.resize}' is not supported", fix="use shortest or squash")
        if self.resize == "shortest" and (self.short_side or self.size[1]) < max(self.size):
            raise ModelError(f"a short side of {self.short_side or self.size[1]} px leaves no crop of {self.size}", fix="raise short_side")

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Return uint8 pixels [H, W, 3] of `size` for an RGB picture."""
        height, width = self.size
        if image.mode != "RGB":
            image = image.convert("RGB")
        if self.resize == "squash":
            return np.array(_resized(image, width, height, self.interpolation))
        short = self.short_side or width
        if image.width <= image.height:
            image = _resized(image, short, int(short * image.height / image.width), self.interpolation)
        else:
            image = _resized(image, int(short * image.width / image.height), short, self.interpolation)
        left, top = self._offset(image.width - width), self._offset(image.height - height)
        return np.array(image.crop((left, top, left + width, top + height)))

    def _offset(self, surplus: int) -> int:
        return surplus // 2 if self.crop_rounding == "floor" else round(surplus / 2)

    def describe(self) -> dict[str, Any]:
        """Return plain values for the model card and the fingerprint."""
        values = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _resized(image: Image.Image, width: int, height: int, interpolation: str) -> Image.Image:
    if image.size == (width, height):
        return image
    return image.resize((width, height), _FILTERS[interpolation])
