"""CE-CLIP's loss: negative texts in CLIP's softmax, intra-modal contrast, cross-modal ranking (Zhang et al., CVPR 2024).

Formulas are the paper's as far as it could be read ([mem] where said); the authors' code does other things in every version, and
the option `upstream` brings its behaviour back by name. "Code" below means their repository, Enhance-FineGrained.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fgray.losses import base
from fgray.losses.clip import ABSENT, clip_loss
from fgray.losses.features import Features, Inputs
from fgray.losses.negclip import clip_with_negative_texts

Version = Literal["head", "mid", "b8a5244"]
Threshold = Literal["mean", "max", "fixed"]
MAX_DIVISOR = 5  # of the threshold type "max" (code)


def pair_scores(features: Features) -> Tensor:
    """Return S(I_i, T_i) = scale * image_i . text_i, [B]."""
    return features.scale * (features.image * features.text).sum(-1)


def negative_scores(features: Features) -> Tensor:
    """Return S(I_i, T_ik) = scale * image_i . negative_ik of every image with its own negative texts, [B, K]."""
    assert features.negative_texts is not None
    return features.scale * torch.einsum("bd,bkd->bk", features.image, features.negative_texts)


def text_mask(features: Features) -> Tensor:
    """Return which negative texts are there, bool [B, K]."""
    assert features.negative_texts is not None
    if features.text_mask is not None:
        return features.text_mask
    return torch.ones(features.negative_texts.shape[:2], dtype=torch.bool, device=features.image.device)


def imc_loss(features: Features) -> Tensor:
    """Return the intra-modal contrastive loss, a scalar []: the mean over rows i of log sum_k exp(S(T_i, T_ik)).

    k runs over caption i's own valid negatives; S(T_i, T_ik) = scale * text_i . negative_ik. There is no positive: the caption is
    only pushed away from its negatives, and the loss may be negative. A row without a valid negative adds 0 (and counts in the
    mean: it is a mean over rows, where the paper has a sum).

    Provenance: paper, Eq. 3 [mem; agrees with the authors' issue 15].
    """
    assert features.negative_texts is not None
    rows = features.rows
    scores = features.scale * torch.einsum("bd,bkd->bk", features.text[rows], features.negative_texts[rows])
    mask = text_mask(features)[rows]
    some = mask.any(dim=1)
    # Rows without negatives keep their scores until the product with 0: a logarithm of 0 would have no gradient.
    pushed = scores.masked_fill(~mask & some[:, None], ABSENT).logsumexp(dim=1)
    return (pushed * some).mean()


def imc_loss_upstream(features: Features, version: Version) -> Tensor:
    """Return the intra-modal loss as a version of the code computes it, a scalar [].

    Cross-entropy, mean over captions i, of the row [S(I_i, T_i) where the version has it, S(T_i, T_jk) for all negatives of the
    batch]; negatives that are flagged invalid are not left out.

    - head (77ac78f): no S(I_i, T_i); label 0, so every caption is drawn to negative 0 of sample 0.
    - mid (2d07821): with S(I_i, T_i), label 0: the caption's own pair.
    - b8a5244 (and, after the facts, the first release): with S(I_i, T_i), label 1: again negative 0 of sample 0.

    Provenance: code.
    """
    assert features.negative_texts is not None
    logits = features.scale * features.text[features.rows] @ features.negative_texts.flatten(0, 1).T
    if version != "head":
        logits = torch.cat([pair_scores(features)[features.rows, None], logits], dim=1)
    label = 1 if version == "b8a5244" else 0
    return F.cross_entropy(logits, torch.full((len(logits),), label, device=logits.device))


def cmr_loss(features: Features, thresholds: Tensor, per_entry: bool = False) -> Tensor:
    """Return the cross-modal ranking loss, a scalar []: the mean over rows i of sum_k max(0, S(I_i, T_ik) - S(I_i, T_i) + Th_k).

    k runs over the sample's own valid negatives.

    Provenance: paper (as restated in FG-CLIP 2); the code takes the mean over all B x K entries, invalid ones included, which is
    1/K of this where all are valid.

    Args:
        features: with `negative_texts`.
        thresholds: [K], in logits, one per type of negative.
        per_entry: divide by B x K as the code does, not by B.
    """
    rows = features.rows
    mask = text_mask(features)[rows]
    short = F.relu(negative_scores(features)[rows] - pair_scores(features)[rows, None] + thresholds) * mask
    return short.mean() if per_entry else short.sum(dim=1).mean()


def next_thresholds(features: Features, last: Tensor, kind: Threshold, upper: float, upstream: bool) -> Tensor:
    """Return the thresholds of the next step, [K], clipped to [0, upper].

    mean: Th_k = mean over the batch of S(I, T) - S(I, T_k), over the samples that have a valid negative of type k (paper). The code
    takes the mean of S(I, T) over all samples (`upstream`).
    max: Th_k = max over the batch of the same difference, / 5 (code; not in the paper).
    fixed: `last`.

    A type without a valid negative in the batch keeps its threshold. The code gives 0 for max (`upstream`) and NaN for mean.

    Args:
        features: of the whole batch; `rows` is not read.
        last: [K], the thresholds until now.
        kind: see above.
        upper: the paper's u, in logits.
        upstream: as the code has it.
    """
    if kind == "fixed":
        return last
    mask = text_mask(features)
    some = mask.any(dim=0)
    pair, negative = pair_scores(features)[:, None], negative_scores(features)
    if kind == "mean":
        count = mask.sum(dim=0).clamp(min=1)
        positive = pair.mean(dim=0) if upstream else (pair * mask).sum(dim=0) / count
        found = positive - (negative * mask).sum(dim=0) / count
    else:
        found = ((pair - negative) * mask).amax(dim=0) / MAX_DIVISOR  # a 0 among them changes nothing: the result is clipped at 0
        if upstream:
            some = torch.ones_like(some)
    return torch.where(some, found.to(last.dtype).clamp(0, upper), last)


class CeClipOptions(base.Options):
    """Options of CE-CLIP's loss."""

    hard_negatives: bool = Field(True, description="negative texts in the softmax of the first term; false: CLIP's own loss there")
    imc: float = Field(0.2, ge=0, description="factor of the intra-modal term; 0: without it")
    cmr: float = Field(0.2, ge=0, description="factor of the ranking term; 0: without it")
    threshold: Threshold = Field("mean", description="thresholds of the ranking term: adaptive mean or max of the last step, or fixed")
    fixed_threshold: float = Field(10.0, description="the threshold of every type, in logits, where threshold is fixed")
    upper_bound: float = Field(10.0, gt=0, description="largest adaptive threshold, in logits")
    upstream: Version | None = Field(None, description="compute as this version of the authors' code does; null: the paper's formulas")


class CeClip(base.Loss):
    """CE-CLIP: negative captions in the softmax + imc * intra-modal contrast + cmr * ranking (Zhang et al. 2024).

    L = L_itc(hn) + imc * L_imc + cmr * L_cmr. The defaults 0.2 and 0.2 are the code's; its last script has 0.3 and 0.2. The code's
    factor of CMR belongs to a mean over all B x K entries, while the paper's CMR, the default here, is a sum over K: the same number
    weighs K times as much (four times at K = 4). For the code's weight with the paper's formula divide `cmr` by K.

    Default (paper): invalid negatives are left out everywhere; IMC over a caption's own negatives without a positive; CMR summed
    over a sample's negatives; one threshold per type of negative (column of `negatives.text_types`), the mean of the last step over
    the samples that have that type, 0 at the first step, kept across epochs.

    With `upstream` (code): invalid negatives stay in the softmax of L_itc and in IMC, IMC as in `imc_loss_upstream`, CMR is a mean
    over all B x K entries, thresholds as in `next_thresholds`. Three things of the code are not brought back: it starts thresholds
    from 0 in every epoch; where a batch has no negative of some type its thresholds become NaN; and on a single process mid and
    b8a5244 read `hard_negatives` the wrong way round (say the opposite to get theirs). Upstream's invalid negatives are texts that
    say '###'; a batch of this project has zeros in their place.
    """

    name = "ce_clip"
    Options = CeClipOptions
    thresholds: Tensor

    def __init__(self, inputs: Inputs = Inputs(), **options: object) -> None:  # noqa: B008 (frozen)
        super().__init__(inputs, **options)
        start = self.options.fixed_threshold if self.options.threshold == "fixed" else 0.0
        self.register_buffer("thresholds", torch.full((inputs.texts,), start, dtype=torch.float64))

    @property
    def needs(self) -> frozenset[str]:
        """Return the negative texts."""
        return frozenset({"negative_texts"})

    @property
    def weights(self) -> dict[str, float]:
        """Return the factors of itc, imc and cmr; a term of factor 0 is not computed."""
        factors = {"itc": 1.0, "imc": self.options.imc, "cmr": self.options.cmr}
        return {name: factor for name, factor in factors.items() if factor}

    def parts(self, features: Features) -> dict[str, Tensor]:
        """Return the terms that have a factor."""
        version = self.options.upstream
        hard = self.options.hard_negatives
        parts = {"itc": clip_with_negative_texts(features, masked=version is None) if hard else clip_loss(features)}
        if self.options.imc:
            parts["imc"] = imc_loss(features) if version is None else imc_loss_upstream(features, version)
        if self.options.cmr:
            thresholds = self.thresholds.to(features.image.dtype)
            parts["cmr"] = cmr_loss(features, thresholds, per_entry=version is not None)
        return parts

    @torch.no_grad()
    def update(self, features: Features) -> None:
        """Take the thresholds of the next step from the features of this one.

        Args:
            features: of the whole batch, gathered; every rank gets the same thresholds from them, those of one process.
        """
        with base.full_precision(features) as features:
            upstream = self.options.upstream is not None
            found = next_thresholds(features, self.thresholds, self.options.threshold, self.options.upper_bound, upstream)
        self.thresholds.copy_(found)
