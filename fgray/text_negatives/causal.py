"""Text-only log-likelihood under a causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fgray.engine.stages import Arrays, Chunk

if TYPE_CHECKING:
    from fgray.text_negatives.language_model import LanguageModelSource, LoadedModel

LOGLIK = "text_loglik"  # request kind
ROWS = {"cpu": 8, "cuda": 64}  # of every forward
STEP = 8  # texts are padded to a multiple of so many tokens


class LogLikelihoods(NamedTuple):
    """Log-likelihoods of N texts.

    Attributes:
        total: float64 [N], natural logarithm; 0 where there is a problem.
        tokens: int32 [N], how many tokens were scored.
        problems: text number -> why it has none.
    """

    total: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int32]
    problems: dict[int, str]


class CausalScorer:
    """Scores texts by the sum of log p(token | tokens before it), in fp32.

    Every token of the text is scored, the first one given the model's start token (BOS; a tokenizer without one: EOS; SmolLM2:
    the token between documents). No end token is added or scored, nor any other special token.

    A forward always has the same number of rows, and its length depends on the text alone (padded on the right, which a causal
    model does not see), so a text's bits do not depend on its neighbours.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._model, self._tokenizer, self._device = loaded.model, loaded.tokenizer, loaded.device
        self._start, self._limit = loaded.start_id, loaded.context_length
        self._rows = ROWS["cuda" if loaded.device.startswith("cuda") else "cpu"]

    def score(self, texts: Sequence[str]) -> LogLikelihoods:
        """Return the log-likelihood of each text."""
        total, tokens = np.zeros(len(texts)), np.zeros(len(texts), np.int32)
        problems: dict[int, str] = {}
        by_length: dict[int, list[int]] = {}
        encoded = [self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids for text in texts]
        for position, ids in enumerate(encoded):
            if not ids or len(ids) + 1 > self._limit:
                problems[position] = f"{len(ids)} tokens, the language model takes 1 to {self._limit - 1}"
            else:
                by_length.setdefault(min(self._limit, -(-(len(ids) + 1) // STEP) * STEP), []).append(position)
                tokens[position] = len(ids)
        for length, positions in by_length.items():
            for start in range(0, len(positions), self._rows):
                chosen = positions[start : start + self._rows]
                total[chosen] = self._forward([encoded[position] for position in chosen], length)
        return LogLikelihoods(total, tokens, problems)

    def _forward(self, rows: list[list[int]], length: int) -> npt.NDArray[np.float64]:
        import torch

        full = rows + [rows[-1]] * (self._rows - len(rows))
        padded = torch.tensor([[self._start, *row] + [self._start] * (length - 1 - len(row)) for row in full], device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=padded, use_cache=False).logits
            scores = token_log_probabilities(logits[:, :-1], padded[:, 1:]).cpu().numpy().astype(np.float64)
        return np.array([scores[row, : len(ids)].sum() for row, ids in enumerate(rows)])


def token_log_probabilities(logits: Any, targets: Any) -> Any:
    """Return log softmax(logits)[target], fp32 [B, L], of logits [B, L, V] and targets int64 [B, L]."""
    logits = logits.float()
    return logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)


class ScoreTexts:
    """The stage that answers ``text_loglik`` requests; items have a column ``text``."""

    def __init__(self, source: LanguageModelSource, device: str) -> None:
        self._scorer = CausalScorer(source.load(device))

    def __call__(self, chunk: Chunk) -> Arrays:
        """Return ``total``, float64 [n], and ``tokens``, int32 [n]."""
        found = self._scorer.score(chunk.items["text"].to_pylist())
        for row, problem in found.problems.items():
            chunk.errors[row] = f"model: {problem}"
        return {"total": found.total, "tokens": found.tokens}
