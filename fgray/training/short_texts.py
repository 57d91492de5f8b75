"""CLIP's text tower without the columns that no feature depends on.

The tower is causal and read at the end-of-text token: a column depends on none after it, so that what comes after the last such token
of a batch would be computed for nothing. Of CLIP's 77 columns that is most.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor, nn


def is_causal(towers: Any) -> bool:
    """Tell whether an open_clip model has a text tower to which this applies; SigLIP's, CoCa's and Hugging Face's are others."""
    return type(towers) is CLIP and towers.attn_mask is not None and towers.text_pool_type in ("argmax", "eos")


def cut(towers: CLIP, tokens: Tensor) -> Tensor:
    """Return tokens int64 [M, L] up to the last column that is read, [M, L']."""
    last = tokens.argmax(dim=1) if towers.text_pool_type == "argmax" else (tokens == towers.text_eos_id).int().argmax(dim=1)
    return tokens[:, : int(last.max()) + 1]


def embed(towers: Any, tokens: Tensor) -> Tensor:
    """Return the features [M, D] of tokens int64 [M, L'], those of ``towers.encode_text``, which takes all columns only."""
    length = tokens.shape[1]
    rows = towers.token_embedding(tokens) + towers.positional_embedding[:length]
    rows = towers.ln_final(towers.transformer(rows, attn_mask=towers.attn_mask[:length, :length]))
    rows = text_global_pool(rows, tokens, towers.text_pool_type, eos_token_id=towers.text_eos_id)
    projection = towers.text_projection
    if isinstance(projection, nn.Linear):
        projected: Tensor = projection(rows)
        return projected
    return rows if projection is None else torch.matmul(rows, projection)
