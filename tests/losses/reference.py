"""The losses once more, as loops over plain numbers, written from the formulas; nothing of fgray is used here.

Vectors are lists of floats; `negatives[i][k]` is negative k of sample i and `mask[i][k]` says whether it is there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]
Vectors = Sequence[Vector]


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def log_sum(values: Sequence[float]) -> float:
    """log sum exp."""
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def contrast(anchors: Vectors, candidates: Vectors, scale: float, extra: Sequence[Vectors] | None = None) -> float:
    """Mean over anchors of -log of their own candidate's share; extra[i] are further wrong candidates of anchor i."""
    terms = []
    for i, anchor in enumerate(anchors):
        scores = [scale * dot(anchor, candidate) for candidate in candidates]
        right = scores[i]
        for wrong in extra[i] if extra is not None else []:
            scores.append(scale * dot(anchor, wrong))
        terms.append(log_sum(scores) - right)
    return mean(terms)


def there(negatives: Sequence[Vectors], mask: Sequence[Sequence[bool]]) -> list[list[Vector]]:
    return [[vector for vector, valid in zip(row, flags, strict=True) if valid] for row, flags in zip(negatives, mask, strict=True)]


def whole_batch(own: Sequence[Vectors]) -> list[list[Vector]]:
    everything = [vector for row in own for vector in row]
    return [everything for _ in own]


def clip(image: Vectors, text: Vectors, scale: float) -> float:
    return (contrast(image, text, scale) + contrast(text, image, scale)) / 2


def siglip(image: Vectors, text: Vectors, scale: float, bias: float) -> float:
    terms = []
    for i, picture in enumerate(image):
        for j, words in enumerate(text):
            z = 1 if i == j else -1
            terms.append(math.log(1 / (1 + math.exp(-z * (scale * dot(picture, words) + bias)))))
    return -math.fsum(terms) / len(image)


def negclip(image: Vectors, text: Vectors, scale: float, negatives: Sequence[Vectors], mask: Sequence[Sequence[bool]]) -> float:
    return (contrast(image, text, scale, whole_batch(there(negatives, mask))) + contrast(text, image, scale)) / 2


def hard(
    anchors: Vectors, candidates: Vectors, scale: float, negatives: Sequence[Vectors], mask: Sequence[Sequence[bool]], own: bool
) -> float:
    """SPEC's L_hn in one direction, as a mean."""
    valid = there(negatives, mask)
    return contrast(anchors, candidates, scale, valid if own else whole_batch(valid))


def imc(text: Vectors, scale: float, negatives: Sequence[Vectors], mask: Sequence[Sequence[bool]]) -> float:
    terms = []
    for caption, own in zip(text, there(negatives, mask), strict=True):
        terms.append(math.log(sum(math.exp(scale * dot(caption, negative)) for negative in own)) if own else 0.0)
    return mean(terms)


def cmr(
    image: Vectors, text: Vectors, scale: float, negatives: Sequence[Vectors], mask: Sequence[Sequence[bool]], thresholds: Vector
) -> float:
    total = 0.0
    for i, picture in enumerate(image):
        for k, threshold in enumerate(thresholds):
            if mask[i][k]:
                total += max(0.0, scale * dot(picture, negatives[i][k]) - scale * dot(picture, text[i]) + threshold)
    return total / len(image)


def thresholds(
    image: Vectors, text: Vectors, scale: float, negatives: Sequence[Vectors], mask: Sequence[Sequence[bool]], last: Vector, upper: float
) -> list[float]:
    found = []
    for k, before in enumerate(last):
        gaps = [scale * (dot(image[i], text[i]) - dot(image[i], negatives[i][k])) for i in range(len(image)) if mask[i][k]]
        found.append(min(max(mean(gaps), 0.0), upper) if gaps else before)
    return found


def distillation(roi: Vectors, crop: Vectors) -> float:
    return mean([1 - dot(p, v) for p, v in zip(roi, crop, strict=True)]) if roi else 0.0


def regions(roi: Vectors, captions: Vectors, scale: float, texts: Sequence[int] | None = None) -> float:
    """FineCLIP's L_RC; where `texts` are given, regions with equal ones are no wrong answers for each other."""
    if not roi:
        return 0.0
    total = 0.0
    for anchors, candidates in ((roi, captions), (captions, roi)):
        for j, anchor in enumerate(anchors):
            others = [k for k in range(len(roi)) if k == j or texts is None or texts[k] != texts[j]]
            total += log_sum([scale * dot(anchor, candidates[k]) for k in others]) - scale * dot(anchor, candidates[j])
    return total / (2 * len(roi))


def regions_with_zeros(roi: Vectors, captions: Vectors, scale: float, rows: int) -> float:
    """Upstream's L_RC on one process: zeros up to `rows`."""
    nothing = [0.0] * len(roi[0])
    fill = [nothing] * (rows - len(roi))
    return regions([*roi, *fill], [*captions, *fill], scale)
