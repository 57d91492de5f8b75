"""What a generator of negative captions is: its protocol, what it sees of a caption, and what it may use."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from fgray.errors import ConfigError, did_you_mean
from fgray.registry import Registry

if TYPE_CHECKING:
    from fgray.text_negatives.vocabulary import Vocabulary
    from fgray.text_negatives.wordnet import WordNet

MASK = "<mask>"  # stands for the missing word in texts for a mask filler, whatever its own mask token is
PLACEHOLDER = "###"  # text of a negative that is not one (CE-CLIP's marker); never the caption, lest a loss without flags learns it


@dataclass(frozen=True, slots=True)
class Token:
    """A word or punctuation mark of a caption, as spaCy sees it.

    Attributes:
        text: as it stands in the caption.
        lemma: its dictionary form, lower case.
        pos: coarse part of speech of Universal Dependencies (NOUN, VERB, …).
        tag: fine one of the Penn Treebank (NNS, VBG, …).
        dep: its dependency label (nsubj, conj, …).
        head: number of the token it depends on; its own for a root.
        start: its first character in the caption.
    """

    text: str
    lemma: str
    pos: str
    tag: str
    dep: str
    head: int
    start: int

    @property
    def end(self) -> int:
        """Return one past its last character."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A caption and its words; plain data, so that it travels between processes.

    Attributes:
        text: the caption as it stands.
        tokens: its words, in order.
        chunks: noun phrases without what follows their noun, as (first token, one past the last), in order.
        mentioned: lemmas of what all captions of its images say (``vocabulary.with_mentions``): a word among them put into the
            caption might leave it true, so generators avoid it. Empty where only the caption is known.
    """

    text: str
    tokens: tuple[Token, ...]
    chunks: tuple[tuple[int, int], ...]
    mentioned: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Negative:
    """A caption made wrong by an edit.

    Attributes:
        type: which kind of edit, one of its generator's ``types``.
        text: the edited caption; ``PLACEHOLDER`` where there was nothing to edit.
        start: first character of the edit in ``text``; both ends are None where nothing was edited. For a swap: from the
            first to the last character that changed places.
        end: one past its last.
        original: what stood there in the caption; empty for an insertion, None where nothing was edited.
        valid: false for a placeholder, which losses mask out.
        reason: the edit, or why there is none, in one clause.
    """

    type: str
    text: str
    start: int | None
    end: int | None
    original: str | None
    valid: bool
    reason: str


class MaskFiller(Protocol):
    """A language model that completes a text with one word missing."""

    def fill(self, texts: Sequence[str], originals: Sequence[str], top_k: int) -> list[list[tuple[str, float]]]:
        """Return the likeliest words for each gap, likeliest first.

        Args:
            texts: each holds ``MASK`` once.
            originals: the word that stood in the gap, for models that rank candidates around it.
            top_k: how many words per text; a filler may return fewer.
        """
        ...


@dataclass(frozen=True)
class Tools:
    """What generators may use besides the caption.

    Attributes:
        seed: of every random choice.
        upstream: reproduce the original code's defects.
        wordnet: lexical relations.
        vocabulary: words of the job's captions and which occur together; None where no generator ``needs_vocabulary``.
        filler: a language model that fills gaps; None where the job names none.
    """

    seed: int
    upstream: bool
    wordnet: WordNet
    vocabulary: Vocabulary | None = None
    filler: MaskFiller | None = None


class Generator(BaseModel, ABC):
    """Makes negatives of captions; its fields are its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]  # under which it is registered
    needs_vocabulary: ClassVar[bool] = False

    @property
    def needs_filler(self) -> bool:
        """Whether it cannot run without ``Tools.filler``."""
        return False

    @abstractmethod
    def generate(self, parsed: Sequence[Parsed], tools: Tools) -> list[list[Negative]]:
        """Return the negatives of each caption, in the generator's fixed order of types.

        What a caption gets depends on the caption, what is mentioned of its images, the options and the tools, never on the
        captions beside it or on their order.

        Raises:
            ConfigError: a tool that it needs is missing.
        """


GENERATORS: Registry[type[Generator]] = Registry(
    "generator",
    {
        "ce_clip": "fgray.text_negatives.ce_clip:CeClip",
        "negclip": "fgray.text_negatives.negclip:NegClip",
        "spec_edits": "fgray.text_negatives.spec_edits:SpecEdits",
        "sugarcrepe": "fgray.text_negatives.sugarcrepe:SugarCrepe",
    },
)


def build_generator(name: str, options: Mapping[str, Any]) -> Generator:
    """Return a generator with these options.

    Raises:
        ConfigError: no generator or no option is called so, or a value is wrong.
    """
    kind = GENERATORS.get(name)
    try:
        return kind(**options)
    except ValidationError as error:
        first = error.errors()[0]
        option, where = str((first["loc"] or ("",))[0]), f"generator {name}"
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"unknown option '{option}'", where=where, fix=did_you_mean(option, kind.model_fields)) from None
        field = kind.model_fields.get(option)
        fix = str(field.description) if field else None
        said = first["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
        raise ConfigError(f"option '{option}': {said}", where=where, fix=fix) from None


def chance(seed: int, text: str, generator: str, kind: str) -> random.Random:
    """Return a source of random choices that depends on these four only, not on order or batch."""
    digest = hashlib.sha256("\n".join((str(seed), generator, kind, text)).encode()).digest()
    return random.Random(digest)


def placeholder(kind: str, reason: str) -> Negative:
    """Return the invalid negative that stands where a caption offers nothing to edit."""
    return Negative(kind, PLACEHOLDER, None, None, None, False, reason)
