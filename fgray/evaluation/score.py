"""One image against a few texts, for a quick look at a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fgray.config.schema import DataConfig, ModelConfig
from fgray.data.decode import ImageError, decode_image
from fgray.errors import DataError
from fgray.models import open_model
from fgray.storage import open_storage

LOGIT_SCALE = 100.0
"""Cosines are multiplied by it before the softmax: where CLIP's learned scale ends (Radford et al. 2021, §2.5)."""


class TextScore(NamedTuple):
    """How one text fits the image."""

    text: str
    cosine: float
    probability: float


def score_image(model: ModelConfig, image: str, texts: Sequence[str]) -> list[TextScore]:
    """Return, for every text in order, its cosine and its share of a softmax over the given texts.

    Args:
        model: any model but precomputed scores.
        image: path or s3:// address of a picture.
        texts: at least one.

    Raises:
        DataError: no texts, or the file is no readable picture.
        StorageError: the file cannot be read.
        ModelError: the model cannot be loaded.
    """
    if not texts:
        raise DataError("no texts to compare the image with", fix="give at least one text after the image")
    source = open_model(model)
    folder, _, name = image.rpartition("/")
    storage = open_storage(folder or ("/" if image.startswith("/") else "."))
    try:
        picture = decode_image(storage.read_bytes(name), DataConfig().max_pixels)
    except ImageError as error:
        raise DataError(f"cannot decode the image ({error})", where=image, fix="give a JPEG, PNG or WebP file") from error
    encoder = source.load("cpu")
    image_vector = encoder.embed_images(source.preprocess(picture)[None])[0].astype(np.float64)
    cosines = encoder.embed_texts(list(texts)).values.astype(np.float64) @ image_vector
    logits = LOGIT_SCALE * cosines
    weights = np.exp(logits - logits.max())
    return [TextScore(*row) for row in zip(texts, cosines.tolist(), (weights / weights.sum()).tolist(), strict=True)]
