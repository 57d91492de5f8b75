"""open_clip models: any architecture name or JSON config, with random weights, a published tag or a checkpoint."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.factory import get_model_config
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from fgray.errors import ModelError, did_you_mean
from fgray.models import checkpoints
from fgray.models.base import DualEncoder, ModelCard
from fgray.models.dense import cell_size, dense_tokens
from fgray.models.eva_layout import from_eva_layout, is_eva_layout
from fgray.models.fingerprint import digest_of, file_sha256
from fgray.models.hub import open_clip_weights
from fgray.models.open_clip_text import OpenClipText
from fgray.models.preprocess import Preprocess
from fgray.models.torch_encoder import TORCH_DTYPES, TorchEncoder
from fgray.storage import open_storage

if TYPE_CHECKING:
    from fgray.config.schema import OpenClipModel

TEXT_CONFIG = "config.json"  # of a text tower of Hugging Face's
_DEFAULT_IMAGE_SIZE = 224  # open_clip's own where a vision_cfg names none


class OpenClipSource:
    """A model of open_clip, not yet loaded.

    Args:
        config: its configuration section.

    Raises:
        ModelError: unknown architecture or tag; activation missing, or not the one that the weights were trained with.
    """

    def __init__(self, config: OpenClipModel) -> None:
        settings, preprocess_cfg = _architecture(config.arch)
        self._tag = get_pretrained_cfg(config.arch, config.weights) if config.weights else {}
        if config.weights and not self._tag and not _is_checkpoint(config.weights):
            tags = list_pretrained_tags_by_model(config.arch)
            raise ModelError(
                f"{config.arch} has no published weights called '{config.weights}'",
                where="model.weights",
                fix=did_you_mean(config.weights, tags),
            )
        settings["quick_gelu"] = activation = _quick_gelu(config, settings, self._tag)
        self._settings, self._weights, self._seed = settings, config.weights, config.seed
        overrides, note = (self._tag, None) if self._tag else _customary_preprocess(config.arch, config.weights)
        self.preprocess = _preprocess(settings, {**preprocess_cfg, **overrides})
        notes = [note] if note else []
        if self._tag and bool(self._tag.get("quick_gelu")) != activation:
            notes.append(f"Activation forced to {'quick_gelu' if activation else 'gelu'}; the weights were trained with the other one")
        if config.weights is None:
            notes.append("Random weights: its scores mean nothing")
        name = PurePosixPath(config.arch).stem if config.arch.endswith(".json") else config.arch
        weights = f"random, seed {config.seed}" if config.weights is None else PurePosixPath(config.weights).name
        self.card = ModelCard(
            name=f"{name} ({weights})",
            kind=config.kind,
            architecture=name,
            weights=weights,
            activation="quick_gelu" if activation else "gelu",
            dtype=config.dtype,
            image_size=self.preprocess.size,
            context_length=settings["text_cfg"].get("context_length", 77),
            preprocess=self.preprocess.describe(),
            notes=tuple(notes),
        )

    def fingerprint(self) -> str:
        """Return a digest of weights, architecture, activation, dtype, tokenizer and preprocessing.

        Raises:
            ModelError: published weights or a tokenizer cannot be downloaded.
            StorageError: the checkpoint cannot be read.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        weights: Any = self._checkpoint and checkpoints.checkpoint_sha256(self._checkpoint)
        if weights is None:
            weights = {"seed": self._seed, "torch": str(torch.__version__), "open_clip": open_clip.__version__}
        self._expected_sha256 = weights
        settings = deepcopy(self._settings)
        settings["text_cfg"].pop("hf_tokenizer_name", None)  # a place; the tokenizer's content counts below
        name = settings["text_cfg"].get("hf_model_name")
        if name and (own := Path(name) / TEXT_CONFIG).is_file():
            settings["text_cfg"]["hf_model_name"] = file_sha256(own)  # likewise
        return digest_of(
            {
                "kind": "open_clip",
                "weights": weights,
                "settings": settings,
                "dtype": self.card.dtype,
                "tokenizer": OpenClipText(self._settings["text_cfg"]).digest(),
                "preprocess": self.preprocess.describe(),
            }
        )

    @cached_property
    def _checkpoint(self) -> str | None:
        """Path or URI of the weights; downloads a published tag into the hub's cache."""
        if not self._tag:
            return self._weights
        return open_clip_weights(self._tag, f"the published checkpoint '{self._weights}' of {self.card.architecture}")

    @property
    def settings(self) -> dict[str, Any]:
        """A copy of the open_clip model configuration, with the activation that is really used."""
        return deepcopy(self._settings)

    def module(self) -> Any:
        """Return the open_clip model with its weights, fp32 on the CPU, in training mode.

        Raises:
            ModelError: the weights do not fit, are not safe to load, or have changed since the fingerprint was taken.
            StorageError: the weights cannot be read.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            model = build(self._settings)
        if self._checkpoint is not None:
            state, sha256 = checkpoints.read_state_dict(self._checkpoint)
            if sha256 != getattr(self, "_expected_sha256", sha256):
                raise ModelError("the checkpoint has changed since the run was planned", where=self._checkpoint, fix="start the run again")
            state = _in_open_clip_layout(model, state, self._checkpoint)
            checkpoints.fill(model, state, self.card.architecture, self._checkpoint)
        return model

    def load(self, device: str) -> DualEncoder:
        """Build the towers on a device in evaluation mode.

        Raises:
            ModelError: the weights do not fit, are not safe to load, or have changed since the fingerprint was taken.
            StorageError: the weights cannot be read.
        """
        model = self.module()
        model.eval().requires_grad_(False).to(device=device, dtype=TORCH_DTYPES[self.card.dtype])
        towers = (model.encode_image, model.encode_text, OpenClipText(self._settings["text_cfg"]), partial(dense_tokens, model))
        return TorchEncoder(self.card, device, self.preprocess.mean, self.preprocess.std, *towers)

    def cell_size(self) -> int:
        """Return the side in px of a cell of its dense features.

        Raises:
            ModelError: its image tower gives none.
        """
        return cell_size_of(self._settings)


def cell_size_of(settings: dict[str, Any]) -> int:
    """Return the side in px of a cell of the dense features of an open_clip model; no weights are drawn.

    Raises:
        ModelError: its image tower gives none, or see `build`.
    """
    with torch.device("meta"):
        return cell_size(build(settings))


def build(settings: dict[str, Any]) -> Any:
    """Return an open_clip model with random weights drawn from torch's generator; nothing is downloaded or registered.

    Args:
        settings: an open_clip model configuration: ``embed_dim``, ``vision_cfg``, ``text_cfg`` and so on.

    Raises:
        ModelError: the settings do not describe a model, or need files that are not here.
    """
    settings = deepcopy(settings)
    from_hub = "hf_model_name" in settings["text_cfg"]
    custom = settings.pop("custom_text", False) or from_hub
    if "timm_model_name" in settings["vision_cfg"]:
        settings["vision_cfg"]["timm_model_pretrained"] = False
    if from_hub:
        settings["text_cfg"]["hf_model_pretrained"] = False
    coca = custom and "multimodal_cfg" in settings
    kind = open_clip.CoCa if coca else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        return kind(**settings)
    except (TypeError, ValueError, OSError, RuntimeError, AssertionError) as error:
        raise ModelError(
            f"the architecture cannot be built ({' '.join(str(error).split())[:200]})", where="model.arch", fix="check its configuration"
        ) from error


def _architecture(arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model settings of a name or JSON file, and the preprocessing that the file states."""
    if not arch.endswith(".json"):
        settings = get_model_config(arch) if ":" not in arch else None
        if settings is None:
            raise ModelError(
                f"open_clip knows no architecture '{arch}'", where="model.arch", fix=did_you_mean(arch, open_clip.list_models())
            )
        return settings, {}
    parent, _, name = arch.rpartition("/")
    try:
        content = json.loads(open_storage(parent or ".").read_bytes(name))
    except ValueError as error:
        raise ModelError(f"the architecture file is no JSON ({error})", where=arch, fix="give an open_clip model configuration") from error
    settings = content.get("model_cfg", content)
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in settings]
    if missing:
        raise ModelError(f"the architecture file lacks '{missing[0]}'", where=arch, fix="give an open_clip model configuration")
    if "hf_model_name" in settings["text_cfg"] and (Path(parent) / TEXT_CONFIG).is_file():
        # As in open_clip, files of the text tower beside the architecture's count, wherever the folder has been moved to.
        settings["text_cfg"] |= {"hf_model_name": parent or ".", "hf_tokenizer_name": parent or "."}
    return settings, content.get("preprocess_cfg", {})


def _is_checkpoint(weights: str) -> bool:
    return "/" in weights or PurePosixPath(weights).suffix in checkpoints.SUFFIXES


def _quick_gelu(config: OpenClipModel, settings: dict[str, Any], tag: dict[str, Any]) -> bool:
    """Decide whether QuickGELU is used; never guess where the weights do not say or disagree with the architecture."""
    if config.activation is not None:
        return config.activation == "quick_gelu"
    built = bool(settings.get("quick_gelu", False))
    if config.weights is not None and not tag:
        fix = "set model.activation to quick_gelu (OpenAI's weights and their fine-tunes) or gelu (most others)"
        raise ModelError("a local checkpoint does not say which activation it was trained with", where="model.activation", fix=fix)
    if tag and bool(tag.get("quick_gelu", False)) != built:
        trained = "gelu" if built else "quick_gelu"
        other = config.arch.removesuffix("-quickgelu") if built else f"{config.arch}-quickgelu"
        fix = f"set model.activation: {trained}" + (f" or model.arch: {other}" if other in open_clip.list_models() else "")
        what = f"weights '{config.weights}' were trained with {trained}, but {config.arch} computes {'quick_gelu' if built else 'gelu'}"
        raise ModelError(what, where="model.weights", fix=fix)
    return built


def _customary_preprocess(arch: str, weights: str | None) -> tuple[dict[str, Any], str | None]:
    """Return the preprocessing on which all published weights of an architecture agree, for a checkpoint of that architecture.

    open_clip itself falls back to CLIP's mean, std and crop, which is wrong for SigLIP and CLIPA checkpoints.
    """
    if weights is None:
        return {}, None
    keys = ("mean", "std", "interpolation", "resize_mode")
    published = [get_pretrained_cfg(arch, tag) for tag in list_pretrained_tags_by_model(arch)]
    found = [{key: cfg[key] for key in keys if cfg.get(key) is not None} for cfg in published]
    if found and all(cfg == found[0] for cfg in found):
        return found[0], f"Preprocessing as with the published weights of {arch}; the checkpoint does not state its own"
    return {}, "Preprocessing is open_clip's default; the checkpoint does not state its own"


def _preprocess(settings: dict[str, Any], cfg: dict[str, Any]) -> Preprocess:
    size = settings["vision_cfg"].get("image_size", _DEFAULT_IMAGE_SIZE)
    height, width = (size, size) if isinstance(size, int) else size
    return Preprocess(
        size=(height, width),
        mean=tuple(cfg.get("mean") or OPENAI_DATASET_MEAN),
        std=tuple(cfg.get("std") or OPENAI_DATASET_STD),
        resize=cfg.get("resize_mode") or "shortest",
        interpolation=cfg.get("interpolation") or "bicubic",
    )


def _in_open_clip_layout(model: Any, state: dict[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Bring older and foreign layouts into the model's own, as far as open_clip itself does; shapes stay as they are."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    if is_eva_layout(state):
        state = from_eva_layout(model, state, where)
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    state.pop("text.transformer.embeddings.position_ids", None)  # a buffer that transformers no longer has
    own = model.state_dict()
    for name in ("logit_scale", "logit_bias"):  # scalars that some versions store as one-element vectors
        if name in state and name in own and state[name].numel() == 1:
            state[name] = state[name].reshape(own[name].shape)
    if "logit_bias" in own and "logit_bias" not in state:
        state["logit_bias"] = torch.zeros_like(own["logit_bias"])  # ranks do not depend on it
    return state
