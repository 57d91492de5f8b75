"""NegCLIP's loss: negative captions are further wrong texts for every image of the batch (Yuksekgonul et al. 2023)."""

from __future__ import annotations

from torch import Tensor

from fgray.losses.base import Loss
from fgray.losses.clip import info_nce
from fgray.losses.features import Features


def clip_with_negative_texts(features: Features, masked: bool = True) -> Tensor:
    """Return CLIP's loss whose images also see the negative texts of the whole batch, a scalar [].

    Images to texts: softmax over the B captions and the B x K negative texts. Texts to images: captions only, over the B images;
    a negative text has no image. Half the sum of both.

    Provenance: code. Upstream's NegCLIP has 2B images (each pair brings a hard image with a caption of its own) and one negative
    text per caption; here those hard images are pairs of the batch as any other. CE-CLIP's L_itc(hn) is the same with K = 4.

    Args:
        features: with `negative_texts`.
        masked: negative texts that are not there stay out of the softmax; False: they stay in it, as in CE-CLIP's code.
    """
    mask = features.text_mask if masked else None
    forth = info_nce(features.image, features.text, features.scale, features.rows, features.negative_texts, mask)
    back = info_nce(features.text, features.image, features.scale, features.rows)
    return (forth + back) / 2


class NegClip(Loss):
    """NegCLIP: CLIP whose images also see the negative captions of the whole batch (Yuksekgonul et al. 2023)."""

    name = "negclip"

    @property
    def needs(self) -> frozenset[str]:
        """Return the negative texts."""
        return frozenset({"negative_texts"})

    def parts(self, features: Features) -> dict[str, Tensor]:
        """Return the one part."""
        return {self.name: clip_with_negative_texts(features)}
