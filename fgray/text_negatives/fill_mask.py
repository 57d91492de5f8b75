"""Words for a gap in a caption: from a fill-mask model, or from a causal one where no fill-mask model can be had."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fgray.text_negatives.causal import ROWS, STEP, token_log_probabilities
from fgray.text_negatives.generator import MASK, MaskFiller

if TYPE_CHECKING:
    import torch

    from fgray.text_negatives.language_model import LoadedModel

DECIMALS = 4  # of log-probabilities when words are ranked: closer ones are ordered by spelling, on any machine alike
AFTER_LEFT, AFTER_NEXT = 64, 24  # candidates that a causal model keeps in its two narrowing steps
PROMPT = (  # goes before every text for a causal model, which would else expect anything but a caption after "A"
    "Captions of photographs:\nA boy kicks a ball in the park.\nTwo women sit at a table and talk.\nThe small bird is on a branch.\n"
)


def open_filler(loaded: LoadedModel) -> MaskFiller:
    """Return the filler of a language model: its own mask token, or a causal model's substitute for one."""
    return CausalFiller(loaded) if loaded.start_id is not None else MaskTokenFiller(loaded)


class MaskTokenFiller:
    """Fillings of a fill-mask model, exactly as it ranks its vocabulary (special tokens left out).

    A filling may be punctuation or a piece of a word; generators choose. Rows of a forward are fixed in number and a text is
    padded to a length of its own, so a filling does not depend on the texts beside it.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._model, self._tokenizer, self._device, self._limit = loaded.model, loaded.tokenizer, loaded.device, loaded.context_length
        self._rows = ROWS["cuda" if loaded.device.startswith("cuda") else "cpu"]
        self._special = set(loaded.tokenizer.all_special_ids)

    def fill(self, texts: Sequence[str], originals: Sequence[str], top_k: int) -> list[list[tuple[str, float]]]:
        """Return up to `top_k` (word, probability) for each gap; none for a text that exceeds the model's length.

        Args:
            texts: each holds ``MASK`` once.
            originals: not used.
            top_k: at least 1.
        """
        encoded = [self._tokenizer(text.replace(MASK, self._tokenizer.mask_token), verbose=False).input_ids for text in texts]
        found: list[list[tuple[str, float]]] = [[] for _ in texts]
        by_length: dict[int, list[int]] = {}
        for position, ids in enumerate(encoded):
            if len(ids) <= self._limit:
                by_length.setdefault(min(self._limit, -(-len(ids) // STEP) * STEP), []).append(position)
        for length, positions in by_length.items():
            for start in range(0, len(positions), self._rows):
                chosen = positions[start : start + self._rows]
                for position, best in zip(chosen, self._forward([encoded[position] for position in chosen], length, top_k), strict=True):
                    found[position] = best
        return found

    def _forward(self, rows: list[list[int]], length: int, top_k: int) -> list[list[tuple[str, float]]]:
        import torch

        full = rows + [rows[-1]] * (self._rows - len(rows))
        pad = self._tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in full], device=self._device)
        seen = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in full], device=self._device)
        gaps = torch.tensor([row.index(self._tokenizer.mask_token_id) for row in full], device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=seen).logits[torch.arange(len(full), device=self._device), gaps]
            scores = logits.float().log_softmax(-1)[: len(rows)]
        return [self._best(row, top_k) for row in scores]

    def _best(self, scores: torch.Tensor, top_k: int) -> list[tuple[str, float]]:
        ids = scores.topk(min(len(scores), top_k + len(self._special) + 8)).indices.tolist()  # more: neighbours may tie when rounded
        values = scores.tolist()
        words = [(self._tokenizer.decode([token]).strip(), values[token]) for token in ids if token not in self._special]
        return [(word, _probability(value)) for word, value in _ranked(words)[:top_k]]


class CausalFiller:
    """A causal model in place of a fill-mask model: its words for a gap, by the likelihood of the whole caption.

    p(word | both sides) is proportional to p(left, word, right), which a causal model gives. All words of its vocabulary that are
    one token and have the letter case of the word that stood there compete; the 64 likeliest after the left side are kept, of these
    the 24 likeliest with the token that follows, and these are ranked by the likelihood of the whole caption. Probabilities are
    shares among the ranked ones. It is a substitute: words of several tokens cannot be had, and a word that only the far right
    side speaks for may be missed. Texts are computed one by one, so a filling does not depend on the texts beside it.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        import torch

        self._model, self._tokenizer, self._device, self._limit = loaded.model, loaded.tokenizer, loaded.device, loaded.context_length
        self._words = _word_tokens(loaded.tokenizer, loaded.model.config.vocab_size)
        *head, self._last = [loaded.start_id, *self._encode(PROMPT)]
        with torch.inference_mode():
            self._prompt = self._model(input_ids=torch.tensor([head], device=self._device), use_cache=True).past_key_values
        self._limit -= len(head)

    def fill(self, texts: Sequence[str], originals: Sequence[str], top_k: int) -> list[list[tuple[str, float]]]:
        """Return up to `top_k` (word, probability) for each gap, at most 24; none for a text that exceeds the model's length.

        Args:
            texts: each holds ``MASK`` once.
            originals: the word that stood in the gap; its first letter says whether words begin with a capital.
            top_k: at least 1.
        """
        return [self._fill(text, original)[:top_k] for text, original in zip(texts, originals, strict=True)]

    def _fill(self, text: str, original: str) -> list[tuple[str, float]]:
        import torch

        left, _, right = text.partition(MASK)
        spaced = left != left.rstrip()
        words = self._words.get((spaced, original[:1].isupper()), {})
        before = [self._last, *self._encode(left.rstrip())]
        after = self._encode(right)
        if not words or len(before) + 1 + len(after) > self._limit:
            return []
        ids = torch.tensor(sorted(words), device=self._device)
        with torch.inference_mode():
            scores, chosen = self._rank(torch.tensor(before, device=self._device), ids, torch.tensor(after, device=self._device))
            values, tokens = scores.double().cpu(), chosen.tolist()
        shares = (values - values.logsumexp(0)).tolist()
        return [(word, _probability(share)) for word, share in _ranked([(words[t], s) for t, s in zip(tokens, shares, strict=True)])]

    def _rank(self, before: torch.Tensor, words: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log p(left, word, right) less log p(left), [n], and the words' tokens, [n]."""
        output = self._model(input_ids=before[None], past_key_values=copy.deepcopy(self._prompt), use_cache=True)
        cache = output.past_key_values
        scores = output.logits[0, -1].float().log_softmax(-1)[words]
        scores, words = _narrow(scores, words, AFTER_LEFT)[:2]
        if not len(after):
            return scores, words
        cache.batch_repeat_interleave(len(words))
        output = self._model(input_ids=words[:, None], past_key_values=cache, use_cache=True)
        scores = scores + token_log_probabilities(output.logits, after[:1].expand(len(words), 1))[:, 0]
        scores, words, rows = _narrow(scores, words, AFTER_NEXT)
        if len(after) > 1:
            cache = output.past_key_values
            cache.batch_select_indices(rows)
            rest = after.expand(len(words), -1)
            logits = self._model(input_ids=rest[:, :-1], past_key_values=cache, use_cache=True).logits
            scores = scores + token_log_probabilities(logits, rest[:, 1:]).sum(-1)
        return scores, words

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids) if text else []


def _narrow(scores: torch.Tensor, words: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keep the `count` best, in order of their tokens; return scores, tokens, and their rows."""
    rows = scores.topk(min(count, len(scores))).indices.sort().values
    return scores[rows], words[rows], rows


def _word_tokens(tokenizer: Any, size: int) -> dict[tuple[bool, bool], dict[int, str]]:
    """Return (begins with a space, begins with a capital) -> token id -> word, for tokens that are words of two letters or more."""
    found: dict[tuple[bool, bool], dict[int, str]] = {}
    for number, token in enumerate(tokenizer.convert_ids_to_tokens(range(min(size, len(tokenizer))))):
        word = (token or "").lstrip("Ġ▁")
        capital = word[:1].isupper()
        if len(word) > 1 and word.isascii() and word.isalpha() and word == (word.capitalize() if capital else word.lower()):
            found.setdefault((word != token, capital), {})[number] = word
    return found


def _ranked(words: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    rounded = [(word, round(value, DECIMALS)) for word, value in words]
    return sorted(rounded, key=lambda item: (-item[1], item[0]))


def _probability(value: float) -> float:
    return round(math.exp(value), 6)
