"""Our chain against `mine_hard_negatives` itself, on a real (static) sentence encoder with random word vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fgray.config.schema import NamedConfig
from fgray.mining.candidates import Candidates, Side, Sides
from fgray.mining.filters import build_filters, run_chain
from tests.mining.small_sides import matrix, small_resources

WORDS = [f"w{n}" for n in range(60)]
PAIRS = 40
DIM = 8


def corpus_of_pairs() -> tuple[list[str], list[str]]:
    """Return anchors and positives; a positive is its anchor with one word more, and so among its nearest."""
    rng = np.random.default_rng(3)
    anchors = [" ".join(rng.choice(WORDS, 6, replace=False)) for _ in range(PAIRS)]
    return anchors, [f"{anchor} {rng.choice(WORDS)}" for anchor in anchors]


@pytest.fixture(scope="module")
def encoder():
    pytest.importorskip("sentence_transformers", reason="the extra bench brings it")
    pytest.importorskip("datasets")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, **{word: n + 1 for n, word in enumerate(WORDS)}}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = np.random.default_rng(4).normal(size=(len(WORDS) + 1, DIM)).astype(np.float32)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")


def ours(encoder, configs: list[NamedConfig], store: Path) -> set[tuple[str, str, str]]:
    anchors, positives = corpus_of_pairs()
    left, right = (encoder.encode(texts, normalize_embeddings=True).astype(np.float64) for texts in (anchors, positives))
    scores = left @ right.T
    order = np.argsort(-scores, axis=1)
    links = matrix(PAIRS, PAIRS, [(n, n) for n in range(PAIRS)])
    nothing = matrix(PAIRS, 0, [])
    sides = Sides(
        Side("text", anchors, links, nothing),
        Side("text", positives, links, nothing),
        Side("image", [str(n) for n in range(PAIRS)], links, nothing),
        Side("text", positives, links, nothing),
        Side("text", positives, links, nothing),
    )
    row = np.repeat(np.arange(PAIRS), PAIRS)
    score = np.take_along_axis(scores, order, axis=1).ravel()
    rank = np.tile(np.arange(1, PAIRS + 1, dtype=np.int32), PAIRS)
    candidates = Candidates(row, row, row, order.ravel(), score, rank, np.repeat(np.diag(scores), PAIRS) - score)
    # Each text has an "image" of its own here, so that same_image takes out the positive and nothing else.
    chain = build_filters([NamedConfig(name="same_image"), *configs], ["text_to_image"])
    left_over, _ = run_chain(chain, candidates, sides, small_resources(store))
    return {(anchors[a], positives[a], positives[c]) for a, c in zip(left_over.anchor, left_over.corpus, strict=True)}


@pytest.mark.parametrize(
    "options",
    [
        {"num_negatives": 3, "range_max": 10},
        {"num_negatives": 5, "range_max": 12, "range_min": 4},
        {"num_negatives": 4, "range_max": 20, "absolute_margin": 0.15},
        {"num_negatives": 4, "range_max": 20, "relative_margin": 0.3, "range_min": 2},
        {"num_negatives": 6, "range_max": 25, "max_score": 0.6, "min_score": 0.2, "absolute_margin": 0.05, "range_min": 1},
    ],
)
def test_the_same_negatives_as_sentence_transformers(encoder, options, tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    anchors, positives = corpus_of_pairs()
    dataset = Dataset.from_dict({"anchor": anchors, "positive": positives})
    mined = mine_hard_negatives(dataset, encoder, output_format="triplet", verbose=False, **options)
    theirs = {(row["anchor"], row["positive"], row["negative"]) for row in mined}
    order = ("range_max", "absolute_margin", "relative_margin", "max_score", "min_score", "range_min", "num_negatives")
    configs = [NamedConfig(name=name, value=options[name]) for name in order if name in options]
    assert ours(encoder, configs, tmp_path) == theirs
    assert theirs
