"""Dense image features: one embedding per cell of the picture, in the space of the texts.

As in CLIPSelf and FineCLIP (their released code; after MaskCLIP): every block of the image tower but the last runs as it is. In the
last one each token attends to nothing but itself, so what attention gives is the output projection of the token's value; residual and MLP
stay. Final norm and projection follow as for the class token, and every token is scaled to unit length.

The input may be of any size that is a multiple of the patch, square or not. Learned positions are resampled bicubically (without
antialiasing, as the two code bases do), and rotary angles are stretched over each axis by itself to the grid that the tower was pretrained
on; those code bases refuse what is not square. For a convolutional trunk with average pooling and a linear head, the head is applied to
each cell of the last feature map: their mean before scaling is then the picture's own embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fgray.errors import ModelError

Block = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Before:
    """Where picture and cells part.

    Attributes:
        x: state before the last block; the first axis are the pictures.
        whole: x -> embeddings [N, D] of the pictures.
        cells: x -> embeddings [N, h, w, D] of the cells.
    """

    x: Tensor
    whole: Block
    cells: Block


def dense_tokens(towers: Any, pixels: Tensor) -> Tensor:
    """Return unit embeddings [N, h, w, D] of the cells of pictures, differentiable in weights and pixels.

    The tower's gradient checkpointing is respected.

    Args:
        towers: an open_clip model.
        pixels: normalised pictures [N, 3, H, W] of the tower's dtype.

    Raises:
        ModelError: the image tower gives no dense features, or the size is no multiple of its patch.
    """
    kind = _kind_of(towers.visual)
    _check_size(pixels, _patch(towers.visual, kind))
    before = kind(towers.visual, pixels)
    return F.normalize(before.cells(before.x), dim=-1)


def image_and_tokens(towers: Any, pixels: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return the embeddings [N, D] of pictures, of any length, and `dense_tokens` [K, h, w, D] of some of them.

    What both have in common, all but the last block, is computed once. At the tower's own size the embeddings are ``encode_image``'s; at
    other sizes positions are resampled for them, too.

    Args:
        towers: an open_clip model.
        pixels: normalised pictures [N, 3, H, W] of the tower's dtype.
        pictures: int64 [K], rows of `pixels` whose tokens are wanted.

    Raises:
        ModelError: as `dense_tokens`.
    """
    kind = _kind_of(towers.visual)
    _check_size(pixels, _patch(towers.visual, kind))
    before = kind(towers.visual, pixels)
    return before.whole(before.x), F.normalize(before.cells(before.x[pictures]), dim=-1)


def cell_size(towers: Any) -> int:
    """Return the side in px of the part of the picture that a token stands for; sizes of pictures are multiples of it.

    Raises:
        ModelError: the image tower gives no dense features.
    """
    return _patch(towers.visual, _kind_of(towers.visual))[0]


def _patch(visual: Any, kind: Callable[[Any, Tensor], _Before]) -> tuple[int, int]:
    if kind is _before_convolutional:
        reduction = int(visual.trunk.feature_info[-1]["reduction"])
        return reduction, reduction
    height, width = visual.patch_size if kind is _before_openai else visual.trunk.patch_embed.patch_size
    return height, width


def _kind_of(visual: nn.Module) -> Callable[[Any, Tensor], _Before]:
    """Return the function that runs the tower up to its last block."""
    if isinstance(visual, VisionTransformer):
        plain = all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks)
        if plain and visual.attn_pool is None:
            return _before_openai
    if isinstance(visual, TimmModel):
        if _is_eva(visual.trunk):
            return _before_eva
        if _is_average_pooled(visual):
            return _before_convolutional
    inner = getattr(visual, "trunk", visual)
    raise ModelError(
        f"an image tower of the class {type(inner).__module__}.{type(inner).__name__} gives no dense features",
        where="model",
        fix="use an OpenAI-style ViT of open_clip, an EVA-02 CLIP, or crops of the regions (mode crop)",
    )


def _before_openai(visual: Any, pixels: Tensor) -> _Before:
    if visual.training and not isinstance(visual.patch_dropout, nn.Identity):
        raise ModelError("patch dropout leaves holes in dense features", where="model", fix="set vision_cfg.patch_dropout to 0")
    maps = visual.conv1(pixels)
    height, width = maps.shape[-2:]
    patches = maps.flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1), patches], dim=1)
    x = x + resampled_positions(visual.positional_embedding, visual.grid_size, (height, width)).to(x.dtype)
    x = visual.ln_pre(x)
    *blocks, last = visual.transformer.resblocks
    recompute = visual.transformer.grad_checkpointing

    def projected(x: Tensor) -> Tensor:
        return x if visual.proj is None else x @ visual.proj

    def whole(x: Tensor) -> Tensor:
        return projected(visual._pool(_run([last], x, recompute))[0])

    def cells(x: Tensor) -> Tensor:
        x = _run([lambda x: _openai_value_block(last, x)], x, recompute)
        return projected(visual.ln_post(x[:, 1:])).reshape(len(x), height, width, -1)

    return _Before(_run(blocks, x, recompute), whole, cells)


def _openai_value_block(block: Any, x: Tensor) -> Tensor:
    """Run a block of OpenAI's kind in which every token attends to itself alone."""
    attention = block.attn
    width = attention.embed_dim
    value = F.linear(block.ln_1(x), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    x = x + block.ls_1(attention.out_proj(value))
    x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x


def _is_eva(trunk: nn.Module) -> bool:
    """Say whether a timm trunk is an EVA-02 whose tokens go through the same norm and head as its class token."""
    from timm.models.eva import Eva, EvaAttention, EvaBlock

    if not isinstance(trunk, Eva) or trunk.global_pool != "token" or trunk.num_prefix_tokens != 1 or trunk.no_embed_class:
        return False
    if getattr(trunk, "rope_mixed", False) or trunk.patch_drop is not None:
        return False
    return all(type(block) is EvaBlock and type(block.attn) is EvaAttention and block.attn.gate is None for block in trunk.blocks)


def _before_eva(visual: Any, pixels: Tensor) -> _Before:
    trunk = visual.trunk
    maps = trunk.patch_embed.proj(pixels)
    height, width = maps.shape[-2:]
    patches = trunk.patch_embed.norm(maps.flatten(2).transpose(1, 2))
    x = torch.cat([trunk.cls_token.expand(len(patches), -1, -1), patches], dim=1)
    if trunk.pos_embed is not None:
        x = x + resampled_positions(trunk.pos_embed[0], trunk.patch_embed.grid_size, (height, width)).to(x.dtype)
    x = trunk.norm_pre(trunk.pos_drop(x))
    angles = None if trunk.rope is None else rotary_angles(trunk.rope, (height, width), x.device)
    blocks: list[Block] = [lambda x, block=block: block(x, rope=angles) for block in trunk.blocks]  # type: ignore[misc]
    recompute = trunk.grad_checkpointing

    def whole(x: Tensor) -> Tensor:
        embeddings: Tensor = visual.head(trunk.forward_head(trunk.norm(_run(blocks[-1:], x, recompute))))
        return embeddings

    def cells(x: Tensor) -> Tensor:
        x = _run([lambda x: _eva_value_block(trunk.blocks[-1], x)], x, recompute)
        # From here on what timm's pooling by class token does to that token.
        tokens: Tensor = visual.head(trunk.head(trunk.head_drop(trunk.fc_norm(trunk.norm(x[:, 1:])))))
        return tokens.reshape(len(x), height, width, -1)

    return _Before(_run(blocks[:-1], x, recompute), whole, cells)


def _eva_value_block(block: Any, x: Tensor) -> Tensor:
    """Run a block of EVA-02 in which every token attends to itself alone; rotations of queries and keys then have no effect."""
    attention = block.attn
    tokens = block.norm1(x)
    fused = attention.qkv is not None
    value = F.linear(tokens, attention.qkv.weight.chunk(3)[2], attention.v_bias) if fused else attention.v_proj(tokens)
    update = attention.proj_drop(attention.proj(attention.norm(value)))
    x = x + block.drop_path1(update if block.gamma_1 is None else block.gamma_1 * update)
    update = block.mlp(block.norm2(x))
    x = x + block.drop_path2(update if block.gamma_2 is None else block.gamma_2 * update)
    return x


def rotary_angles(rope: Any, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return timm's rotary table [h w, 2 d] for a grid: position i of n becomes i / n of the pretraining grid's length, per axis."""
    from timm.layers.pos_embed_sincos import build_rotary_pos_embed

    sine, cosine = build_rotary_pos_embed(
        list(grid),
        dim=rope.dim,
        temperature=rope.temperature,
        in_pixels=rope.in_pixels,
        max_res=rope.max_res,
        linear_bands=rope.linear_bands,
        ref_feat_shape=rope.ref_feat_shape,
        grid_offset=rope.grid_offset,
        grid_indexing=rope.grid_indexing,
        device=device,
    )
    return torch.cat([sine, cosine], dim=-1)


def _is_average_pooled(visual: TimmModel) -> bool:
    """Say whether a timm tower is features, their mean over the picture, and a linear map."""
    from timm.models.efficientnet import EfficientNet

    trunk = visual.trunk
    if not isinstance(trunk, EfficientNet) or trunk.global_pool.pool_type != "avg":
        return False
    return all(isinstance(part, nn.Linear | nn.Identity | nn.Dropout) for part in (trunk.classifier, *visual.head))


def _before_convolutional(visual: Any, pixels: Tensor) -> _Before:
    trunk = visual.trunk

    def whole(x: Tensor) -> Tensor:
        embeddings: Tensor = visual.head(trunk.forward_head(x))
        return embeddings

    def cells(x: Tensor) -> Tensor:
        tokens: Tensor = visual.head(trunk.classifier(x.permute(0, 2, 3, 1)))
        return tokens

    return _Before(trunk.forward_features(pixels), whole, cells)


def resampled_positions(positions: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Return learned positions [1 + h w, C] for another grid; the first row is the class token's and stays.

    Bicubic with half-pixel centres and without antialiasing, in fp32.

    Args:
        positions: [1 + H W, C].
        grid: H and W.
        wanted: h and w.
    """
    if grid == wanted:
        return positions
    maps = positions[1:].float().T.reshape(1, -1, *grid)
    resampled = F.interpolate(maps, wanted, mode="bicubic", align_corners=False)[0].flatten(1).T
    return torch.cat([positions[:1], resampled.to(positions.dtype)])


def _check_size(pixels: Tensor, patch: tuple[int, int]) -> None:
    height, width = pixels.shape[-2:]
    if height % patch[0] or width % patch[1]:
        raise ModelError(
            f"pictures of {height} x {width} px do not divide into cells of {patch[0]} px", fix="choose a multiple as the size"
        )


def _run(blocks: list[Block], x: Tensor, recompute: bool) -> Tensor:
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if recompute and torch.is_grad_enabled() else block(x)
    return x
