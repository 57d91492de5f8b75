"""Dense features, region pooling and image towers in plain float64, from the formulas; nothing of fgray, timm or torch.nn.

Towers are dictionaries of arrays under the names of their authors: EVA-CLIP's for EVA-02, OpenAI's for CLIP.
"""

from __future__ import annotations

import math

import numpy as np
import open_clip
import timm
import torch
from scipy.special import erf
from timm.models import register_model

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


@register_model
def fgray_test_eva02(pretrained: bool = False, **kwargs):
    """EVA-02 CLIP, small: 3 blocks of width 48, patches of 16 px, input 64 px."""
    return timm.models.eva.eva02_base_patch16_clip_224(**{**kwargs, "depth": 3, "embed_dim": 48, "num_heads": 3, "img_size": 64})


@register_model
def fgray_test_eva02_b16(pretrained: bool = False, **kwargs):
    """EVA-02 CLIP B/16 with 2 of its 12 blocks."""
    return timm.models.eva.eva02_base_patch16_clip_224(**{**kwargs, "depth": 2})


def eva_towers(name: str, image_size: int, embed_dim: int, seed: int = 0):
    """Return an open_clip model around one of the EVA-02 trunks above, every weight and bias random."""
    vision = {"image_size": image_size, "timm_model_name": name, "timm_pool": "token", "timm_proj": None}
    return shaken(open_clip.CustomTextCLIP(embed_dim=embed_dim, vision_cfg=vision, text_cfg=TEXT), seed)


def clip_towers(seed: int = 0, image_size: int = 64, **vision):
    """Return an OpenAI-style CLIP with patches of 16 px, every weight and bias random."""
    vision = {"image_size": image_size, "layers": 3, "width": 48, "head_width": 16, "patch_size": 16, **vision}
    return shaken(open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=TEXT), seed)


def shaken(model, seed: int):
    """Fill a model with weights in which no bias is zero, no gain one and no position small."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        norm_gain = parameter.ndim == 1 and name.endswith("weight")
        scale = 0.3 if parameter.ndim < 2 or "pos" in name else 1.5 / math.sqrt(parameter[0].numel())
        parameter.data = noise * scale + (1.0 if norm_gain else 0.0)
    return model.eval()


def arrays(module) -> dict[str, np.ndarray]:
    """Return a module's weights as float64 arrays."""
    return {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}


def eva_names(trunk) -> dict[str, np.ndarray]:
    """Return the weights of a timm EVA-02 trunk under the names of EVA-CLIP's `visual`."""
    pairs = [("attn.norm", "attn.inner_attn_ln"), ("attn.q_proj.bias", "attn.q_bias"), ("attn.v_proj.bias", "attn.v_bias")]
    pairs += [("mlp.norm", "mlp.ffn_ln"), ("mlp.fc1_g", "mlp.w1"), ("mlp.fc1_x", "mlp.w2"), ("mlp.fc2", "mlp.w3")]
    found = {}
    for name, array in arrays(trunk).items():
        for theirs, ours in pairs:
            name = name.replace(theirs, ours)
        found[name] = array
    return found


def layer_norm(x: np.ndarray, weights: dict, name: str, eps: float) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    return x @ weight.T + bias


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cubic(distance: float) -> float:
    """Keys' cubic kernel with a = -0.75."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def stretch(old: int, new: int) -> np.ndarray:
    """Return the matrix [new, old] of bicubic resampling with half-pixel centres; outside, the border repeats."""
    matrix = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * old / new - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[row, min(max(tap, 0), old - 1)] += cubic(centre - tap)
    return matrix


def positions(table: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Return learned positions [1 + h w, C] stretched to another grid."""
    if old == new:
        return table
    grid = table[1:].reshape(*old, -1)
    return np.concatenate(
        [table[:1], np.einsum("yi,xj,ijc->yxc", stretch(old[0], new[0]), stretch(old[1], new[1]), grid).reshape(-1, table.shape[1])]
    )


def patches(pixels: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the patch embeddings [h w, C] of one picture [3, H, W], and h and w."""
    size = weight.shape[-1]
    grid = (pixels.shape[1] // size, pixels.shape[2] // size)
    rows = []
    for y in range(grid[0]):
        for x in range(grid[1]):
            patch = pixels[:, y * size : (y + 1) * size, x * size : (x + 1) * size]
            rows.append(weight.reshape(len(weight), -1) @ patch.reshape(-1))
    return np.stack(rows), grid


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    parts = []
    for query, key, value in zip(*(np.split(x, heads, axis=1) for x in (q, k, v)), strict=True):
        scores = query @ key.T / math.sqrt(query.shape[1])
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        parts.append(weights / weights.sum(axis=1, keepdims=True) @ value)
    return np.concatenate(parts, axis=1)


def rotated(x: np.ndarray, heads: int, grid: tuple[int, int], pretrained: int = 16) -> np.ndarray:
    """Turn each pair of channels of the patch tokens; the first half of a head's pairs follows the row, the second the column."""
    x, width = x.copy(), x.shape[1] // heads
    for token in range(1, len(x)):
        place = divmod(token - 1, grid[1])
        for head in range(heads):
            for pair in range(width // 2):
                axis, number = divmod(pair, width // 4)
                angle = place[axis] / grid[axis] * pretrained * 10000.0 ** (-number / (width // 4))
                at = head * width + 2 * pair
                a, b = x[token, at], x[token, at + 1]
                x[token, at] = a * math.cos(angle) - b * math.sin(angle)
                x[token, at + 1] = b * math.cos(angle) + a * math.sin(angle)
    return x


def eva_picture(weights: dict, pixels: np.ndarray, heads: int, native: tuple[int, int], dense: bool, eps: float = 1e-6) -> np.ndarray:
    """Return the unit tokens [h, w, D] of one picture [3, H, W] through EVA-02, or (not `dense`) the picture's unit embedding [D]."""
    x, grid = patches(pixels, weights["patch_embed.proj.weight"])
    x = np.concatenate([weights["cls_token"][0], x + weights["patch_embed.proj.bias"]]) + positions(weights["pos_embed"][0], native, grid)
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for number in range(depth):
        w = {name.removeprefix(f"blocks.{number}."): array for name, array in weights.items() if name.startswith(f"blocks.{number}.")}
        y = layer_norm(x, w, "norm1", eps)
        mixed = linear(y, w["attn.v_proj.weight"], w["attn.v_bias"])
        if not dense or number < depth - 1:
            q = rotated(linear(y, w["attn.q_proj.weight"], w["attn.q_bias"]), heads, grid)
            k = rotated(linear(y, w["attn.k_proj.weight"]), heads, grid)
            mixed = attend(q, k, mixed, heads)
        x = x + linear(layer_norm(mixed, w, "attn.inner_attn_ln", eps), w["attn.proj.weight"], w["attn.proj.bias"])
        y = layer_norm(x, w, "norm2", eps)
        gate = linear(y, w["mlp.w1.weight"], w["mlp.w1.bias"])
        hidden = gate / (1 + np.exp(-gate)) * linear(y, w["mlp.w2.weight"], w["mlp.w2.bias"])
        x = x + linear(layer_norm(hidden, w, "mlp.ffn_ln", eps), w["mlp.w3.weight"], w["mlp.w3.bias"])
    x = unit(linear(layer_norm(x, weights, "norm", eps), weights["head.weight"], weights["head.bias"]))
    return x[1:].reshape(*grid, -1) if dense else x[0]


def clip_picture(weights: dict, pixels: np.ndarray, heads: int, native: tuple[int, int], dense: bool, quick: bool = False) -> np.ndarray:
    """Return the unit tokens [h, w, D] of one picture through OpenAI's ViT, or (not `dense`) the picture's unit embedding [D]."""
    eps = 1e-5
    x, grid = patches(pixels, weights["conv1.weight"])
    x = np.concatenate([weights["class_embedding"][None], x]) + positions(weights["positional_embedding"], native, grid)
    x = layer_norm(x, weights, "ln_pre", eps)
    depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("transformer."))
    for number in range(depth):
        prefix = f"transformer.resblocks.{number}."
        w = {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}
        q, k, v = np.split(linear(layer_norm(x, w, "ln_1", eps), w["attn.in_proj_weight"], w["attn.in_proj_bias"]), 3, axis=1)
        mixed = v if dense and number == depth - 1 else attend(q, k, v, heads)
        x = x + w.get("ls_1.gamma", 1.0) * linear(mixed, w["attn.out_proj.weight"], w["attn.out_proj.bias"])
        hidden = linear(layer_norm(x, w, "ln_2", eps), w["mlp.c_fc.weight"], w["mlp.c_fc.bias"])
        hidden = hidden / (1 + np.exp(-1.702 * hidden)) if quick else hidden * (1 + erf(hidden / math.sqrt(2))) / 2
        x = x + w.get("ls_2.gamma", 1.0) * linear(hidden, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])
    x = unit(layer_norm(x, weights, "ln_post", eps) @ weights["proj"])
    return x[1:].reshape(*grid, -1) if dense else x[0]


def roi(tokens: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Return the unit embedding of a box, given in cells as x0, y0, x1, y1, over tokens [h, w, D]."""
    height, width = tokens.shape[:2]
    x0, y0, x1, y1 = box
    across, down = max(math.ceil(x1 - x0), 1), max(math.ceil(y1 - y0), 1)
    total = np.zeros(tokens.shape[2])
    for i in range(down):
        for j in range(across):
            # Cell (0, 0) has its centre at (0.5, 0.5).
            y = y0 + (i + 0.5) * (y1 - y0) / down - 0.5
            x = x0 + (j + 0.5) * (x1 - x0) / across - 0.5
            if y < -1 or y > height or x < -1 or x > width:
                continue
            y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
            top, left = min(int(y), height - 1), min(int(x), width - 1)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            fy, fx = y - top, x - left
            upper = (1 - fx) * tokens[top, left] + fx * tokens[top, right]
            lower = (1 - fx) * tokens[bottom, left] + fx * tokens[bottom, right]
            total += (1 - fy) * upper + fy * lower
    return unit(total)


def under_mask(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the unit embedding of the cells [h, w] that a mask marks, zeros where it marks none."""
    cells = [tokens[y, x] for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    return unit(np.sum(cells, axis=0)) if cells else np.zeros(tokens.shape[2])
