"""Checkpoints in the layouts of other code bases, as one ``.pt`` file with a plain state dict.

- ``eva-clip``: an EVA-02 CLIP under EVA-CLIP's own names, as F-ViT, the detector of CLIPSelf's code, takes it for its backbone's
  ``pretrained`` (wusize/CLIPSelf, F-ViT/models/evaclip_vit.py), and FineCLIP and CLIPSelf themselves.
- ``openai-clip``: a ViT under OpenAI's names with the three numbers that its archives hold besides. The builders of OpenAI's code and of
  CAT-Seg (cvlab-kaist/CAT-Seg, cat_seg/third_party/model_vpt.py, ``build_model``) take the sizes from the shapes, heads of 64 channels,
  an MLP four times as wide and QuickGELU for granted, so nothing else is written. CAT-Seg's ``clip.load`` takes only OpenAI's own files:
  there the file's content replaces ``model.state_dict()`` in the call of ``build_model``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, TextTransformer, VisionTransformer
from torch import Tensor, nn

from fgray.errors import ConfigError, ModelError, did_you_mean
from fgray.models.eva_layout import to_eva_layout
from fgray.storage import open_storage

_HEAD_WIDTH = 64  # of every published CLIP of OpenAI's


def check_layout(path: str, layout: str) -> None:
    """Refuse an unknown layout, and a path that is no new ``.pt`` file.

    Raises:
        ConfigError: says what is wrong.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"no layout is called '{layout}'", where="layout", fix=did_you_mean(layout, list(LAYOUTS)))
    storage, name = _place(path)
    if not name.endswith(".pt"):
        raise ConfigError(f"'{name}' is no .pt file", where=path, fix="name a file that ends in .pt")
    if storage.exists(name):
        raise ConfigError("there is such a file", where=path, fix="name a new file")


def write_layout(path: str, towers: Any, layout: str) -> str:
    """Write a model's weights, fp32, in another code base's layout; return the file's sha256.

    Args:
        path: a new ``.pt`` file.
        towers: an open_clip model.
        layout: whose.

    Raises:
        ConfigError: the layout is unknown, or the path is no new ``.pt`` file.
        ModelError: the model is not one that the layout can hold.
    """
    check_layout(path, layout)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in LAYOUTS[layout](towers).items()}
    sink = io.BytesIO()
    torch.save(state, sink)
    storage, name = _place(path)
    storage.write_bytes(name, sink.getvalue())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def to_openai_layout(towers: Any) -> dict[str, Tensor]:
    """Return a model's state dict under OpenAI's names, with the three numbers that their archives hold.

    Raises:
        ModelError: OpenAI's code could not compute this model from it.
    """
    visual, text = towers.visual, getattr(towers, "text", towers)
    if not isinstance(visual, VisionTransformer) or not isinstance(text, TextTransformer | type(towers)):
        raise _unfit("its towers are not OpenAI's ViT and text transformer")
    if visual.attn_pool is not None or visual.pool_type != "tok" or isinstance(visual.ln_pre, nn.Identity):
        raise _unfit("its image tower pools or normalises otherwise")
    if getattr(text, "attn_mask", None) is None or getattr(text, "pool_type", getattr(towers, "text_pool_type", "argmax")) != "argmax":
        raise _unfit("its text tower pools or masks otherwise")
    for block in (*visual.transformer.resblocks, *text.transformer.resblocks):
        _check_block(block)
    if visual.image_size[0] != visual.image_size[1]:
        raise _unfit("its input is not square")
    state = {name.removeprefix("text."): tensor for name, tensor in towers.state_dict().items()}
    numbers = {"input_resolution": visual.image_size[0], "context_length": text.context_length, "vocab_size": text.vocab_size}
    return state | {name: torch.tensor(number) for name, number in numbers.items()}


def _check_block(block: Any) -> None:
    if type(block) is not ResidualAttentionBlock or not isinstance(block.ls_1, nn.Identity):
        raise _unfit("its blocks have more parts")
    if not isinstance(block.mlp.gelu, QuickGELU):
        raise _unfit("it computes GELU where OpenAI's code computes QuickGELU")
    width = block.attn.embed_dim
    if block.attn.num_heads != width // _HEAD_WIDTH or block.mlp.c_fc.out_features != 4 * width:
        raise _unfit(f"its heads have not {_HEAD_WIDTH} channels, or its MLPs not four times the width")


def _unfit(why: str) -> ModelError:
    return ModelError(f"the model does not fit OpenAI's layout: {why}", fix="choose another layout, or start from one of OpenAI's models")


LAYOUTS: dict[str, Callable[[Any], dict[str, Tensor]]] = {"eva-clip": to_eva_layout, "openai-clip": to_openai_layout}


def _place(path: str) -> tuple[Any, str]:
    parent, _, name = path.rpartition("/")
    return open_storage(parent or ("/" if path.startswith("/") else ".")), name
