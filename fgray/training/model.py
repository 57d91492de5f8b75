"""The model that is trained: one module whose single forward pass gives the features of a batch.

All of a step goes through this forward pass, and so through the DeepSpeed engine around it: an encoder called past the engine would
not take part in ZeRO's gathering of weights and reduction of gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from fgray.config.schema import Dtype, ModelConfig
from fgray.config.train import RegionsConfig
from fgray.errors import ConfigError, did_you_mean
from fgray.models import open_model
from fgray.models.base import ModelCard
from fgray.models.dense import cell_size, image_and_tokens
from fgray.models.open_clip import OpenClipSource
from fgray.models.open_clip_text import OpenClipText
from fgray.models.preprocess import Preprocess
from fgray.models.region_pooling import roi_pool
from fgray.models.tiny import TinySource
from fgray.models.torch_encoder import TORCH_DTYPES
from fgray.training import short_texts
from fgray.training.frozen import Memo, Part, memo_of_texts, split
from fgray.training.model_parts import Capped, plain_attention, scalars_to_vectors, scatter
from fgray.training.teacher import Teacher, TeacherKind
from fgray.training.tensors import RegionTensors

_PREFIX = "towers."


class ContrastiveModel(nn.Module):
    """An open_clip model whose forward pass embeds a batch with its hard negatives.

    Weights are fp32 whatever the precision of the arithmetic. Batch norms always compute with their running statistics: a batch's own
    would make a sample's features depend on how the batch is cut into workers and micro-batches.

    Args:
        towers: an open_clip model in fp32.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        precision: arithmetic of the towers; features and everything after them are fp32.
        dropout: keep the architecture's dropout.
        teacher: who embeds crops of regions, see `fgray.training.teacher`.

    Attributes:
        shapes: of the parameters by open_clip's names, as open_clip has them; here scalars are vectors of one element.
        short_texts: the text tower takes tokens without the columns that no feature depends on.
        teacher_kind: who embeds crops of regions.
        teacher: the image tower that does, where it is not the one that is trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        towers: Any,
        mean: Sequence[float],
        std: Sequence[float],
        precision: Dtype = "fp32",
        dropout: bool = False,
        teacher: TeacherKind = "live",
    ) -> None:
        super().__init__()
        self.teacher_kind = teacher
        self.teacher = Teacher(towers) if teacher in ("ema", "frozen") else None
        self.towers = towers
        self.shapes = {name: parameter.shape for name, parameter in towers.named_parameters()}
        scalars_to_vectors(towers)
        self._precision, self._dropout = TORCH_DTYPES[precision], dropout
        self.short_texts = short_texts.is_causal(towers)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self._kept_images: tuple[Memo, Part] | None = None
        self._kept_texts: tuple[Memo, Part] | None = None
        self.train()

    def train(self, mode: bool = True) -> ContrastiveModel:
        """Switch dropout on, where it is wanted; gradients do not depend on the mode."""
        super().train(mode and self._dropout)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(
        self,
        pixels: Tensor,
        tokens: Tensor,
        size: int,
        text_index: Tensor,
        image_index: Tensor,
        regions: RegionTensors | None = None,
    ) -> dict[str, Tensor]:
        """Return the features of B pairs, of their negatives, and of the regions of their images.

        Args:
            pixels: uint8 [N, H, W, 3], the B images, then the negative images.
            tokens: int64 [M, L], ids of the B captions, then of the negative texts.
            size: B.
            text_index: int64 [B, K], row in `tokens` of each negative text; -1: none.
            image_index: int64 [B, J], row in `pixels` of each negative image; -1: none.
            regions: of the B images; None: the run has none.

        Returns:
            The tensors of `fgray.losses.features.Features` under the names of its fields, masks excepted: fp32, unit length;
            ``negative_texts`` only where K > 0, ``negative_images`` only where J > 0, ``bias`` only where the model has one; ``roi``
            with `regions`, and ``crop`` and ``region_text`` where these bring them. A plain
            dict, because ZeRO-3 finds the tensors in no other container.
        """
        with plain_attention(), torch.autocast(pixels.device.type, dtype=self._precision, enabled=self._precision != torch.float32):
            text_rows = self._embed_texts(tokens)
            if regions is None:
                image_rows, cells, crops = self._embed_images(pixels), None, None
            else:
                image_rows, cells = self._embed_dense(pixels, regions)
                crops = None if regions.crops is None else self._embed_crops(regions.crops)
        image_rows = nn.functional.normalize(image_rows.float(), dim=-1)
        text_rows = nn.functional.normalize(text_rows.float(), dim=-1)
        scale = Capped.apply(self.towers.logit_scale.float().reshape(())).exp()
        output = {"image": image_rows[:size], "text": text_rows[:size], "scale": scale}
        if (bias := getattr(self.towers, "logit_bias", None)) is not None:
            output["bias"] = bias.float().reshape(())
        if text_index.shape[1]:
            output["negative_texts"] = scatter(text_rows, text_index)
        if image_index.shape[1]:
            output["negative_images"] = scatter(image_rows, image_index)
        if regions is not None and cells is not None:
            output["roi"] = roi_pool(cells.float(), regions.boxes, torch.searchsorted(regions.pictures, regions.image_of))
            if crops is not None:
                output["crop"] = nn.functional.normalize(crops.float(), dim=-1)
            if regions.text_rows is not None:
                output["region_text"] = text_rows[regions.text_rows]
        return output

    def _embed_dense(self, pixels: Tensor, regions: RegionTensors) -> tuple[Tensor, Tensor]:
        """Return the features of all pictures [N, D] and the unit features of the cells of those with regions [K, h, w, D]."""
        return image_and_tokens(self.towers, self._normalise(pixels), regions.pictures)

    def _embed_crops(self, crops: Tensor) -> Tensor:
        # Without crops a blank one is embedded and left out: ranks that share cut weights run all modules equally often.
        pixels = self._normalise(crops if len(crops) else crops.new_zeros((1, *crops.shape[1:])))
        if self.teacher is not None:
            return self.teacher(pixels)[: len(crops)]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.teacher_kind == "live"):
            rows: Tensor = self.towers.encode_image(pixels)
            return rows[: len(crops)]

    def _embed_images(self, pixels: Tensor) -> Tensor:
        if self._kept_images is None:
            rows: Tensor = self.towers.encode_image(self._normalise(pixels))
            return rows
        trunk, head = self._kept_images
        return head(trunk(pixels))

    def _embed_texts(self, tokens: Tensor) -> Tensor:
        if self._kept_texts is None:
            rows: Tensor = short_texts.embed(self.towers, tokens) if self.short_texts else self.towers.encode_text(tokens)
            return rows
        trunk, head = self._kept_texts
        return head(trunk(tokens))

    def _normalise(self, pixels: Tensor) -> Tensor:
        # The same four steps in the same order as in evaluation.
        return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(self.mean).div_(self.std)

    def keep_frozen(self) -> None:
        """Compute what lies before the heads of frozen towers once per picture and text, and keep it in memory.

        Raises:
            ConfigError: no tower is frozen up to its head.
        """
        visual, text = split(self.towers.visual), split(self.towers.text) if hasattr(self.towers, "text") else None
        if visual is not None:
            trunk, head = visual
            self._kept_images = Memo(lambda pixels: trunk(self._normalise(pixels))), head
        if text is not None:
            self._kept_texts = memo_of_texts(text[0]), text[1]
        if visual is None and text is None:
            fix = "freeze a tower but for its head, e.g. visual.trunk.* and text.transformer.*, or drop keep_frozen"
            raise ConfigError("no tower is frozen up to its head", where="freeze", fix=fix)

    def named_weights(self) -> dict[str, nn.Parameter]:
        """Return all parameters under open_clip's own names."""
        return {plain_name(name): parameter for name, parameter in self.named_parameters()}


def plain_name(name: str) -> str:
    """Return open_clip's name of a parameter or buffer of `ContrastiveModel`."""
    return name.removeprefix(_PREFIX)


@dataclass(frozen=True)
class Trainable:
    """A model that can be fine-tuned.

    Attributes:
        module: the model, fp32 on the CPU.
        preprocess: picture -> uint8 pixels, as in evaluation.
        text: texts -> token ids, as in evaluation.
        card: of the model that the training starts from.
        fingerprint: of that model.
        settings: open_clip's model configuration.
    """

    module: ContrastiveModel
    preprocess: Preprocess
    text: OpenClipText
    card: ModelCard
    fingerprint: str
    settings: dict[str, Any]

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Return token ids int64 [N, L] of texts, cut to the context length as in evaluation, without columns that no feature reads."""
        tokens = self.text.ids(texts)
        return short_texts.cut(self.module.towers, tokens) if self.module.short_texts else tokens


def open_trainable_source(config: ModelConfig) -> OpenClipSource | TinySource:
    """Return a model that can be trained, described but not yet loaded.

    Raises:
        ConfigError: the model is of another kind.
        ModelError: what `fgray.models.open_model` raises.
    """
    source = open_model(config)
    if not isinstance(source, OpenClipSource | TinySource):
        raise ConfigError(f"a model of kind '{config.kind}' cannot be trained", where="model.kind", fix="take an open_clip model")
    return source


def build_trainable(
    config: ModelConfig,
    *,
    precision: Dtype = "fp32",
    freeze: Sequence[str] = (),
    dropout: bool = False,
    activation_checkpointing: bool = False,
    keep_frozen: bool = False,
    regions: RegionsConfig | None = None,
) -> Trainable:
    """Load a model for training.

    Args:
        config: an open_clip or tiny model.
        precision: arithmetic of the forward and backward pass.
        freeze: patterns (``visual.*``) of the names of parameters that stay as they are.
        dropout: keep the architecture's dropout.
        activation_checkpointing: keep the inputs of the layers only, and compute the layers again in the backward pass.
        keep_frozen: compute what lies before the heads of frozen towers once per picture and text.
        regions: how regions of images are seen; None: the run has none.

    Raises:
        ConfigError: the model cannot be trained, pictures with regions do not fit its patches, a pattern matches no parameter, nothing is
            left to train, or nothing can be kept.
        ModelError: the weights cannot be read, do not fit, or are not safe to load; the image tower gives no features of regions.
    """
    source = open_trainable_source(config)
    fingerprint = source.fingerprint()
    towers = source.module()
    if regions is not None and (regions.image_size or source.preprocess.size[0]) % (cell := cell_size(towers)):
        what = f"pictures of {regions.image_size or source.preprocess.size[0]} px do not divide into cells of {cell} px"
        raise ConfigError(what, where="regions.image_size", fix=f"choose a multiple of {cell}")
    if activation_checkpointing:
        _checkpoint_layers(towers)
    teacher = "live" if regions is None else regions.teacher
    module = ContrastiveModel(towers, source.preprocess.mean, source.preprocess.std, precision, dropout, teacher)
    _freeze(module, freeze)
    if keep_frozen:
        module.keep_frozen()
    text = OpenClipText(source.settings["text_cfg"])
    return Trainable(module, source.preprocess, text, source.card, fingerprint, source.settings)


def _freeze(module: ContrastiveModel, patterns: Sequence[str]) -> None:
    weights = module.named_weights()
    for pattern in patterns:
        matched = [name for name in weights if fnmatchcase(name, pattern)]
        if not matched:
            parents = {".".join(name.split(".")[:depth]) + ".*" for name in weights for depth in (1, 2) if name.count(".") >= depth}
            scalars = {name for name in weights if "." not in name}
            raise ConfigError(
                f"pattern '{pattern}' matches no parameter of the model", where="freeze", fix=did_you_mean(pattern, parents | scalars)
            )
        for name in matched:
            weights[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in weights.values()):
        raise ConfigError("all parameters are frozen, so nothing is left to train", where="freeze", fix="remove a pattern")


def _checkpoint_layers(towers: Any) -> None:
    """Recompute transformer layers in the backward pass, never re-entrantly: that would drop gradients of what lies before them."""
    hugging_face = [module for module in towers.modules() if _is_hugging_face_layer(module)]
    if not hugging_face:
        towers.set_grad_checkpointing(True)
        return
    towers.visual.set_grad_checkpointing(True)
    for layer in hugging_face:  # their own switch works in training mode alone, which is off without dropout
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def _is_hugging_face_layer(module: nn.Module) -> bool:
    return any(kind.__name__ == "GradientCheckpointingLayer" for kind in type(module).__mro__)
