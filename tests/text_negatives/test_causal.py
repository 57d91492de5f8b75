"""Log-likelihoods against a plain loop over tokens in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fgray.text_negatives.causal import CausalScorer
from tests.text_negatives.tiny_models import CAPTIONS


def by_hand(loaded, text: str, start: int) -> tuple[float, int]:
    """Sum log p over prefixes, one forward per token, each alone and unpadded; softmax and sum in Python's float64."""
    ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
    total = 0.0
    for position, token in enumerate(ids):
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([[start, *ids[:position]]])).logits[0, -1].tolist()
        highest = max(logits)
        total += logits[token] - highest - math.log(math.fsum(math.exp(logit - highest) for logit in logits))
    return total, len(ids)


def test_tiny_model_against_the_loop(tiny_causal) -> None:
    found = CausalScorer(tiny_causal).score(CAPTIONS)
    assert not found.problems
    for row, text in enumerate(CAPTIONS):
        total, tokens = by_hand(tiny_causal, text, tiny_causal.tokenizer.bos_token_id)
        assert found.tokens[row] == tokens
        assert found.total[row] == pytest.approx(total, abs=1e-3)


def test_smollm2_against_the_loop(smollm2) -> None:
    texts = ["A man rides a horse .", "A horse rides a man ."]
    found = CausalScorer(smollm2).score(texts)
    start = smollm2.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for row, text in enumerate(texts):
        total, tokens = by_hand(smollm2, text, start)
        assert (found.total[row], found.tokens[row]) == (pytest.approx(total, abs=2e-3), tokens)
    assert found.total[0] > found.total[1]


def test_a_text_does_not_depend_on_its_neighbours(tiny_causal) -> None:
    scorer = CausalScorer(tiny_causal)
    together = scorer.score(CAPTIONS * 3).total
    assert np.array_equal(together[:8], scorer.score(CAPTIONS[::-1]).total[::-1])
    assert [scorer.score([text]).total[0] for text in CAPTIONS] == together[:8].tolist()


def test_what_cannot_be_scored_is_said(tiny_causal) -> None:
    found = CausalScorer(tiny_causal).score(["", CAPTIONS[0], " ".join(CAPTIONS * 3)])
    assert set(found.problems) == {0, 2}
    assert "takes 1 to 95" in found.problems[2]
    assert found.total[1] < 0 and found.tokens[1] > 0
