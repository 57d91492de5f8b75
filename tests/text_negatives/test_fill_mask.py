"""Fillings: of a fill-mask model against its plain softmax, of a causal one against every candidate's whole caption."""

from __future__ import annotations

import math

import pytest
import torch

from fgray.text_negatives.fill_mask import AFTER_LEFT, AFTER_NEXT, PROMPT, CausalFiller, MaskTokenFiller, open_filler
from tests.text_negatives.test_causal import by_hand
from tests.text_negatives.tiny_models import CAPTIONS

GAPS = [
    "A <mask> is riding a brown horse on the beach .",
    "Two dogs play with a <mask> ball in the snow .",
    "<mask> dogs play .",
    "A white bird is flying over the dark <mask>",
]
WORDS = ["man", "red", "Two", "water"]


def test_the_kind_of_model_decides(tiny_causal, tiny_fill_mask) -> None:
    assert isinstance(open_filler(tiny_causal), CausalFiller)
    assert isinstance(open_filler(tiny_fill_mask), MaskTokenFiller)


def test_fill_mask_is_the_plain_softmax(tiny_fill_mask) -> None:
    tokenizer = tiny_fill_mask.tokenizer
    for text, found in zip(GAPS, MaskTokenFiller(tiny_fill_mask).fill(GAPS, WORDS, 6), strict=True):
        ids = tokenizer(text.replace("<mask>", "[MASK]")).input_ids
        with torch.inference_mode():
            logits = tiny_fill_mask.model(input_ids=torch.tensor([ids])).logits[0, ids.index(4)].tolist()
        whole = math.fsum(math.exp(logit) for logit in logits)
        ranked = sorted(
            ((math.exp(logit) / whole, tokenizer.decode([token])) for token, logit in enumerate(logits) if token > 4), reverse=True
        )
        assert [word for word, _ in found] == [word for _, word in ranked[:6]]
        assert [share for _, share in found] == [pytest.approx(share, abs=2e-4) for share, _ in ranked[:6]]


@pytest.mark.parametrize("kind", ["tiny_causal", "tiny_fill_mask"])
def test_a_filling_does_not_depend_on_its_neighbours(kind: str, request) -> None:
    filler = open_filler(request.getfixturevalue(kind))
    together = filler.fill(GAPS * 5, WORDS * 5, 6)
    assert together == filler.fill(GAPS, WORDS, 6) * 5
    assert [filler.fill([text], [word], 6)[0] for text, word in zip(GAPS, WORDS, strict=True)] == together[:4]


@pytest.mark.parametrize("kind", ["tiny_causal", "tiny_fill_mask"])
def test_a_text_that_is_too_long_has_no_fillings(kind: str, request) -> None:
    filler = open_filler(request.getfixturevalue(kind))
    assert filler.fill([" ".join(["<mask>", *CAPTIONS]), GAPS[0]], ["x", "man"], 3)[0] == []


@pytest.fixture
def few_words(tiny_causal):
    """A causal filler with no more words than it ranks, so that nothing is narrowed away."""
    filler = CausalFiller(tiny_causal)
    filler._words = {kind: dict(list(words.items())[:AFTER_NEXT]) for kind, words in filler._words.items()}
    return filler


def test_causal_words_are_ranked_by_the_whole_caption(few_words, tiny_causal) -> None:
    start = tiny_causal.tokenizer.bos_token_id
    for text, original, found in zip(GAPS, WORDS, few_words.fill(GAPS, WORDS, AFTER_NEXT), strict=True):
        words = few_words._words[not text.startswith("<mask>"), original[0].isupper()].values()
        whole = {word: by_hand(tiny_causal, PROMPT + text.replace("<mask>", word), start)[0] for word in words}
        total = math.fsum(math.exp(value) for value in whole.values())
        expected = {word: math.exp(value) / total for word, value in whole.items()}
        assert len(found) == len(expected) > 1
        assert dict(found) == {word: pytest.approx(share, abs=2e-3) for word, share in expected.items()}
        shares = [share for _, share in found]
        assert shares == sorted(shares, reverse=True)


def test_narrowing_keeps_the_words_that_fit_the_left_side_and_the_next_token(tiny_causal) -> None:
    filler = CausalFiller(tiny_causal)
    spaced = filler._words[True, False]
    assert len(spaced) > AFTER_LEFT
    found = filler.fill(GAPS[:1], WORDS[:1], 1000)[0]
    assert len(found) == AFTER_NEXT
    assert {word for word, _ in found} <= set(spaced.values())


def test_candidates_are_words(tiny_causal) -> None:
    for (_, capital), words in CausalFiller(tiny_causal)._words.items():
        for word in words.values():
            assert len(word) > 1 and word.isalpha() and word[0].isupper() == capital and word[1:].islower()


@pytest.mark.long
def test_smollm2_knows_what_is_ridden(smollm2) -> None:
    texts = ["A man is riding a <mask> on the beach .", "<mask> dogs play in the snow ."]
    ridden, counted = open_filler(smollm2).fill(texts, ["horse", "Two"], 5)
    assert "horse" in [word for word, _ in ridden] or "bike" in [word for word, _ in ridden]
    assert all(word[0].isupper() for word, _ in counted)
    assert [share for _, share in ridden] == sorted((share for _, share in ridden), reverse=True)
