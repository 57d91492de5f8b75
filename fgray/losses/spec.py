"""SPEC's loss: hard negative texts and images beside CLIP's (Peng et al., CVPR 2024)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from fgray.losses import base
from fgray.losses.clip import clip_loss, info_nce
from fgray.losses.features import Features


def spec_image_to_text(features: Features, own: bool = False) -> Tensor:
    """Return L_hn from images to texts, a scalar [].

    L = -log [ s(I_i, T_i) / (sum over captions T_j of the batch of s(I_i, T_j) + sum over negatives T_k in T_hn of s(I_i, T_k)) ]
    with s(I, T) = exp(scale * I . T), mean over rows i (see `Spec` for mean and sum).

    Args:
        features: with `negative_texts`; negatives that are not there add nothing to the denominator.
        own: T_hn holds row i's own negatives only, not those of the whole batch.
    """
    return info_nce(features.image, features.text, features.scale, features.rows, features.negative_texts, features.text_mask, own)


def spec_text_to_image(features: Features, own: bool = False) -> Tensor:
    """Return L_hn from texts to images, a scalar []: as `spec_image_to_text`, with captions as rows and negative images."""
    return info_nce(features.text, features.image, features.scale, features.rows, features.negative_images, features.image_mask, own)


class SpecOptions(base.Options):
    """Options of SPEC's loss."""

    mu: float = Field(1.0, ge=0, description="factor of both hard-negative terms; the paper's value is unverified")
    negatives: Literal["batch", "own"] = Field("batch", description="rows see the negatives of the whole batch, or only their own")
    texts: bool = Field(True, description="the term of hard negative texts")
    images: bool = Field(True, description="the term of hard negative images")

    @model_validator(mode="after")
    def _some(self) -> SpecOptions:
        if not (self.texts or self.images):
            raise ValueError("texts and images are both off; take the loss clip")
        return self


class Spec(base.Loss):
    """SPEC: CLIP + mu * (hard negative texts + hard negative images) (Peng et al. 2024).

    L = L_clip + mu * (L_hn^I2T + L_hn^T2I). Provenance: poster; the form s = exp(cos / tau) is [mem]; mu, and whether the negatives
    are the batch's or the sample's own, are unverified (the poster sums over a set T_hn, which reads as the batch's: the default).

    Mean and sum: the poster writes L_hn as a sum over the batch. Here every term is a mean over the batch, L_clip too, so a batch of
    another size has a loss of the same size; the sum is B times as large. L_clip is half the sum of its two directions; the two
    L_hn are added, not halved.
    """

    name = "spec"
    Options = SpecOptions

    @property
    def needs(self) -> frozenset[str]:
        """Return the negatives of the terms that are on."""
        return frozenset(name for name, on in (("negative_texts", self.options.texts), ("negative_images", self.options.images)) if on)

    @property
    def weights(self) -> dict[str, float]:
        """Return 1 for clip, mu for the hard-negative terms."""
        on = [name for name, on in (("i2t", self.options.texts), ("t2i", self.options.images)) if on]
        return {"clip": 1.0, **dict.fromkeys(on, self.options.mu)}

    def parts(self, features: Features) -> dict[str, Tensor]:
        """Return clip, i2t and t2i."""
        own = self.options.negatives == "own"
        parts = {"clip": clip_loss(features)}
        if self.options.texts:
            parts["i2t"] = spec_image_to_text(features, own)
        if self.options.images:
            parts["t2i"] = spec_text_to_image(features, own)
        return parts
