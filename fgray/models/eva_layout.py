"""EVA-CLIP's own names for the weights of an EVA-02 CLIP, and open_clip's for the same tower in timm.

``EVA02_CLIP_B_psz16_s8B.pt``, ``EVA02_CLIP_L_336_psz14_s6B.pt`` and what FineCLIP and CLIPSelf make of them hold ``visual.blocks…`` where
open_clip has ``visual.trunk.blocks…``, name the parts of a block differently, and keep the rotary tables, which follow from the
architecture: once for the tower, once for each block, and in some files for other input sizes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fgray.errors import ModelError
from fgray.models.dense import rotary_angles

_VISUAL, _TRUNK = "visual.", "visual.trunk."
_PARTS = (  # of a block: EVA-CLIP's name, timm's
    ("attn.inner_attn_ln.", "attn.norm."),
    ("attn.q_bias", "attn.q_proj.bias"),
    ("attn.v_bias", "attn.v_proj.bias"),
    ("mlp.ffn_ln.", "mlp.norm."),
    ("mlp.w1.", "mlp.fc1_g."),  # the branch with the activation
    ("mlp.w2.", "mlp.fc1_x."),
    ("mlp.w3.", "mlp.fc2."),
)
_BLOCK = re.compile(r"(blocks\.\d+\.)(.+)")
_ROPE = re.compile(r"visual\.(?:blocks\.\d+\.attn\.)?rope\.(?:freqs_(cos|sin)(?:_\d+)?|flag)")
_MARK = "visual.blocks.0.attn.inner_attn_ln.weight"
_HALF_PRECISION = 2e-3  # what a cosine stored as fp16 may be off, with room


def is_eva_layout(state: Mapping[str, Tensor]) -> bool:
    """Say whether a state dict has EVA-CLIP's own names."""
    return _MARK in state


def from_eva_layout(towers: Any, state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the state dict under open_clip's names; the rotary tables are compared with the model's and left out.

    Args:
        towers: the open_clip model that the weights are for.
        state: under EVA-CLIP's names.
        where: the file, for messages.

    Raises:
        ModelError: the model is no EVA-02 CLIP, or its rotary angles are others.
    """
    if not _is_eva02(towers):
        fix = "set model.arch to EVA02-B-16, EVA02-L-14 or EVA02-L-14-336"
        raise ModelError("these are weights of an EVA-02 CLIP, and the architecture is another", where=where, fix=fix)
    found = {}
    for name, tensor in state.items():
        rope = _ROPE.fullmatch(name)
        if rope is None:
            found[_renamed(name, _VISUAL, _TRUNK, _PARTS)] = tensor
        elif rope[1] and not _is_own_table(towers.visual.trunk.rope, rope[1], tensor):
            fix = "check that model.arch is what the weights were made for"
            raise ModelError(f"the rotary table '{name}' {list(tensor.shape)} is not the architecture's", where=where, fix=fix)
    if "text.logit_scale" in found and "logit_scale" not in found:
        found["logit_scale"] = found.pop("text.logit_scale")
    return found


def to_eva_layout(towers: Any) -> dict[str, Tensor]:
    """Return a model's state dict under EVA-CLIP's names, with the rotary tables for the tower and each block.

    Args:
        towers: an open_clip model.

    Raises:
        ModelError: it is no EVA-02 CLIP.
    """
    if not _is_eva02(towers):
        raise ModelError("the model is no EVA-02 CLIP, and only those have EVA-CLIP's layout", fix="choose another layout")
    parts = [(ours, theirs) for theirs, ours in _PARTS]
    state = {_renamed(name, _TRUNK, _VISUAL, parts): tensor for name, tensor in towers.state_dict().items()}
    trunk = towers.visual.trunk
    sine, cosine = rotary_angles(trunk.rope, trunk.patch_embed.grid_size, torch.device("cpu")).chunk(2, dim=-1)
    for place in ("visual.rope", *(f"visual.blocks.{number}.attn.rope" for number in range(len(trunk.blocks)))):
        state |= {f"{place}.freqs_cos": cosine.clone(), f"{place}.freqs_sin": sine.clone()}
    return state


def _is_eva02(towers: Any) -> bool:
    """Say whether the image tower is timm's EVA-02 CLIP: separate projections, a norm within attention and MLP, rotary positions."""
    trunk: Any = getattr(towers.visual, "trunk", None)
    if getattr(trunk, "rope", None) is None:
        return False
    names = {name for name, _ in trunk.named_parameters()}
    return {f"blocks.0.{part}weight" for _, part in _PARTS if part.endswith(".")} <= names


def _renamed(name: str, old: str, new: str, parts: Any) -> str:
    if not name.startswith(old):
        return name
    rest = name.removeprefix(old)
    block = _BLOCK.fullmatch(rest)
    if block:
        for theirs, ours in parts:
            if block[2].startswith(theirs):
                return f"{new}{block[1]}{ours}{block[2].removeprefix(theirs)}"
    return new + rest


def _is_own_table(rope: Any, which: str, table: Tensor) -> bool:
    """Compare a stored table [n n, 2 d] of cosines or sines with the one that the model computes for a grid of n x n."""
    side = math.isqrt(len(table))
    if side**2 != len(table):
        return False
    sine, cosine = rotary_angles(rope, (side, side), table.device).chunk(2, dim=-1)
    own = cosine if which == "cos" else sine
    return own.shape == table.shape and bool((own - table.float()).abs().max() < _HALF_PRECISION)
