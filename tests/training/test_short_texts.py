"""Cut texts against open_clip's own pass over all columns: equal features and gradients, and who is left whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fgray.training import short_texts
from fgray.training.model import Trainable, build_trainable
from tests.training.small import SETTINGS, architecture

TEXTS = ["a cat", "a small red house left of a tree", "", "old dog"]


def trainable(folder: Path, **text: Any) -> Trainable:
    return build_trainable(architecture(folder, SETTINGS | {"text_cfg": SETTINGS["text_cfg"] | {"context_length": 40} | text}))


@pytest.mark.parametrize("text", [{}, {"proj_bias": True}, {"pool_type": "eos", "eos_id": 49407}])
def test_features_and_gradients_are_those_of_all_columns(tmp_path: Path, text: dict[str, Any]) -> None:
    built = trainable(tmp_path, **text)
    towers, whole = built.module.towers.double(), built.text.ids(TEXTS)
    tokens = built.tokens(TEXTS)
    assert whole.shape == (4, 40) and tokens.shape == (4, 10)  # eight words, beginning and end
    assert torch.equal(tokens, whole[:, :10]) and whole[:, 10:].eq(0).all()
    weight = torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for features in (towers.encode_text(whole), short_texts.embed(towers, tokens)):
        towers.zero_grad()
        (features * weight).sum().backward()
        gradients = {name: value.grad.clone() for name, value in towers.named_parameters() if value.grad is not None}
        results.append((features.detach(), gradients))
    (expected, expected_gradients), (found, gradients) = results
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert gradients.keys() == expected_gradients.keys() and {"positional_embedding", "token_embedding.weight"} <= gradients.keys()
    for name, value in expected_gradients.items():
        torch.testing.assert_close(gradients[name], value, rtol=0, atol=1e-12 * float(1 + value.abs().max()))


def test_a_text_that_is_cut_to_the_context_keeps_every_column(tmp_path: Path) -> None:
    assert trainable(tmp_path).tokens(["a cat", "word " * 90]).shape == (2, 40)


@pytest.mark.parametrize("text", [{"no_causal_mask": True}, {"pool_type": "last"}])
def test_towers_that_read_padding_are_left_whole(tmp_path: Path, text: dict[str, Any]) -> None:
    built = trainable(tmp_path, **text)
    tokens = built.tokens(["a cat"])
    assert tokens.shape == (1, 40)
    pixels, none = torch.zeros(1, 32, 32, 3, dtype=torch.uint8), torch.zeros(1, 0, dtype=torch.int64)
    found = built.module(pixels, tokens, 1, none, none)["text"]
    expected = torch.nn.functional.normalize(built.module.towers.encode_text(tokens), dim=-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
