"""Models: from a configuration section to something that embeds images and texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fgray.errors import ConfigError
from fgray.models.base import DualEncoder, Embeddings, ImagePreprocess, ModelCard, ModelSource, Pixels, TextEmbeddings
from fgray.models.preprocess import Preprocess
from fgray.registry import Registry

if TYPE_CHECKING:
    from fgray.config.schema import ModelConfig

__all__ = [
    "ENCODERS",
    "MODELS",
    "DualEncoder",
    "Embeddings",
    "ImagePreprocess",
    "ModelCard",
    "ModelSource",
    "Pixels",
    "Preprocess",
    "TextEmbeddings",
    "open_model",
]

MODELS: Registry[Callable[[Any], ModelSource]] = Registry(
    "model kind",
    {
        "open_clip": "fgray.models.open_clip:OpenClipSource",
        "hugging_face": "fgray.models.hugging_face:HuggingFaceSource",
        "trained": "fgray.models.trained:TrainedSource",
        "lite0-minilm": "fgray.models.lite0_minilm:Lite0MiniLmSource",
        "lite0-minilm-clip": "fgray.models.lite0_minilm_clip:Lite0MiniLmClipSource",
        "tiny": "fgray.models.tiny:TinySource",
        "python": "fgray.models.python_model:PythonSource",
    },
)

# Encoder classes that plug-ins register by name, for `kind: python` with `path: NAME` in place of a Python path.
ENCODERS: Registry[type] = Registry("encoder")


def open_model(config: ModelConfig) -> ModelSource:
    """Return the model that a configuration section names, described but not yet loaded.

    Raises:
        ConfigError: the kind is unknown, or has no encoder (precomputed scores).
        ModelError: the section contradicts itself or what the architecture and weights are known to need.
    """
    if config.kind == "precomputed":
        raise ConfigError("precomputed scores cannot embed anything new", where=config.name, fix="use an encoder here")
    return MODELS.get(config.kind)(config)
