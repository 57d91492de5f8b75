"""CLIP and SigLIP in Hugging Face layout: a folder with config.json, weights, tokenizer and preprocessor settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from fgray.errors import ModelError
from fgray.models.base import DualEncoder, ModelCard
from fgray.models.checkpoints import read_state_dict
from fgray.models.fingerprint import digest_of, file_sha256
from fgray.models.hub import snapshot
from fgray.models.open_clip_text import tokenizer_digest
from fgray.models.preprocess import Preprocess
from fgray.models.torch_encoder import TORCH_DTYPES, Tokens, TorchEncoder
from fgray.models.transformers_folder import check_fit, quiet, read_part, stated, weight_files

if TYPE_CHECKING:
    from fgray.config.schema import HuggingFaceModel

_MODEL_TYPES = ("clip", "siglip")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # the first kind that is there, as transformers prefers them
_INTERPOLATIONS = {Image.Resampling.BICUBIC: "bicubic", Image.Resampling.BILINEAR: "bilinear"}


class HuggingFaceSource:
    """A CLIP or SigLIP folder, not yet loaded. Code that the folder may bring is never run.

    Args:
        config: its configuration section.

    Raises:
        ModelError: no such folder or hub name, another kind of model, or settings that fgray does not reproduce.
    """

    def __init__(self, config: HuggingFaceModel) -> None:
        self._path = config.path
        self._folder = Path(config.path) if Path(config.path).is_dir() else snapshot(config.path)
        self._config = _read(AutoConfig, self._folder, "config.json")
        if self._config.model_type not in _MODEL_TYPES:
            fix = "give a CLIP or SigLIP folder, or wrap the model in a class of your own (kind: python)"
            raise ModelError(f"model type '{self._config.model_type}' is not supported", where=str(self._folder), fix=fix)
        self.preprocess = _preprocess(_read(AutoImageProcessor, self._folder, "preprocessor_config.json", backend="pil"), self._folder)
        side = self._config.vision_config.image_size
        if self.preprocess.size != (side, side):
            what = f"the preprocessor makes {self.preprocess.size} px, but the model takes {side} px"
            raise ModelError(what, where=str(self._folder), fix="copy the preprocessor_config.json that belongs to these weights")
        name = self._folder.resolve().name if Path(config.path).is_dir() else config.path
        layers = (tower.num_hidden_layers for tower in (self._config.vision_config, self._config.text_config))
        self.card = ModelCard(
            name=name,
            kind=config.kind,
            architecture=f"{self._config.model_type}, {' + '.join(map(str, layers))} layers",
            weights=name,
            activation=self._config.text_config.hidden_act,
            dtype=config.dtype,
            image_size=self.preprocess.size,
            context_length=self._config.text_config.max_position_embeddings,
            preprocess=self.preprocess.describe(),
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._folder.is_dir():  # a worker on another node
            self._folder = snapshot(self._path)

    def fingerprint(self) -> str:
        """Return a digest of weight files, configuration, dtype, tokenizer and preprocessing."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return digest_of(
            {
                "kind": "hugging_face",
                "weights": self._weights_sha256,
                "config": stated(self._config.to_dict()),
                "dtype": self.card.dtype,
                "tokenizer": tokenizer_digest(_read(AutoTokenizer, self._folder, "tokenizer.json")),
                "preprocess": self.preprocess.describe(),
            }
        )

    def _weight_files(self) -> list[Path]:
        return weight_files(self._folder, _WEIGHTS)

    @cached_property
    def _weights_sha256(self) -> list[str]:
        return [file_sha256(file) for file in self._weight_files()]

    def load(self, device: str) -> DualEncoder:
        """Build both towers on a device in evaluation mode.

        Raises:
            ModelError: the weights cannot be read, do not fit the configuration, are not safe to load, or have changed
                since the fingerprint was taken.
        """
        if self._weights_sha256 != [file_sha256(file) for file in self._weight_files()]:
            raise ModelError("the weights have changed since the run was planned", where=str(self._folder), fix="start the run again")
        for file in self._weight_files():
            if file.suffix != ".safetensors":
                read_state_dict(str(file))  # refuses foreign globals by name, before transformers looks at the file
        with quiet(), torch.random.fork_rng(devices=[]):
            model, report = _read(
                AutoModel, self._folder, "weights", output_loading_info=True, ignore_mismatched_sizes=True, dtype=torch.float32
            )
        check_fit(report, self._folder)
        model.eval().requires_grad_(False).to(device=device, dtype=TORCH_DTYPES[self.card.dtype])
        tokenizer, limit = _read(AutoTokenizer, self._folder, "tokenizer.json"), int(self._config.text_config.max_position_embeddings)

        def tokenise(texts: Sequence[str]) -> Tokens:
            rows = tokenizer(list(texts), padding="max_length", truncation=True, max_length=limit).input_ids
            whole = tokenizer(list(texts), truncation=False, verbose=False).input_ids
            return Tokens(rows, np.array([len(ids) > limit for ids in whole], dtype=bool))

        # No attention mask: CLIP is causal and pools at the end token, SigLIP was trained on its padding.
        return TorchEncoder(
            self.card,
            device,
            self.preprocess.mean,
            self.preprocess.std,
            lambda images: model.get_image_features(pixel_values=images).pooler_output,
            lambda ids: model.get_text_features(input_ids=ids).pooler_output,
            tokenise,
        )


def _read(kind: Any, folder: Path, part: str, **options: Any) -> Any:
    return read_part(kind, folder, part, "give a complete CLIP or SigLIP folder", **options)


def _preprocess(processor: Any, folder: Path) -> Preprocess:
    """Translate an image processor's settings; what fgray would do differently is an error.

    Raises:
        ModelError: a setting that `Preprocess` does not cover.
    """

    def refuse(what: str) -> ModelError:
        return ModelError(
            f"the image processor's {what} is not supported", where=str(folder), fix="wrap the model in a class of your own (kind: python)"
        )

    if not (processor.do_resize and processor.do_rescale and processor.do_normalize):
        raise refuse("do_resize, do_rescale or do_normalize: false")
    if not math.isclose(processor.rescale_factor, 1 / 255, rel_tol=1e-6):
        raise refuse(f"rescale_factor {processor.rescale_factor}")
    if processor.resample not in _INTERPOLATIONS:
        raise refuse(f"resample {processor.resample}")
    size, crops = processor.size, bool(getattr(processor, "do_center_crop", False))
    common: dict[str, Any] = {"mean": tuple(processor.image_mean), "std": tuple(processor.image_std)}
    common["interpolation"] = _INTERPOLATIONS[processor.resample]
    if getattr(size, "shortest_edge", None) and crops:
        crop = (processor.crop_size["height"], processor.crop_size["width"])
        return Preprocess(crop, resize="shortest", short_side=size["shortest_edge"], crop_rounding="floor", **common)
    if getattr(size, "height", None) and getattr(size, "width", None) and not crops:
        return Preprocess((size["height"], size["width"]), resize="squash", **common)
    raise refuse(f"size {size} with do_center_crop: {crops}")
