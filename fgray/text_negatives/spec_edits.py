"""SPEC's concepts as edits of a caption: size, position, existence, count.

Peng et al., "Synthesize, Diagnose, and Optimize: Towards Fine-Grained Vision-Language Understanding", CVPR 2024, tells six subsets:
absolute and relative size, absolute and relative position, existence, count. There each caption is made from a template; here the
same words are looked for in captions that people wrote, and changed to one of the other candidates: a size or place to its
opposite, a thing to its absence or back, a number to any other from one to nine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from fgray.text_negatives.edits import Edit, apply, article, like
from fgray.text_negatives.generator import Generator, Negative, Parsed, Tools, chance
from fgray.text_negatives.grammar import ANIMATE, children, hyphenated, lower, visible_sense
from fgray.text_negatives.inflection import plural
from fgray.text_negatives.words import ACCOMPANIED, NUMBERS, POSITIONS, SIZES

Concept = Literal["size", "position", "existence", "count"]
ORDER: tuple[Concept, ...] = ("size", "position", "existence", "count")
Change = tuple[list[Edit], str]  # edits, reason


class SpecEdits(Generator):
    """SPEC's concepts changed in a caption: size, position, existence, count.

    Per concept up to `per_type` negatives, drawn from all that the caption allows; a concept that it does not speak of gives none.
    """

    name: ClassVar[str] = "spec_edits"

    types: tuple[Concept, ...] = Field(ORDER, min_length=1, description="which of size, position, existence, count")
    per_type: int = Field(1, ge=1, description="negatives per concept at most")

    def generate(self, parsed: Sequence[Parsed], tools: Tools) -> list[list[Negative]]:
        """See ``Generator.generate``."""
        return [self._edits(caption, tools) for caption in parsed]

    def _edits(self, caption: Parsed, tools: Tools) -> list[Negative]:
        found: list[Negative] = []
        for concept in (concept for concept in ORDER if concept in self.types):
            changes = list(_FINDERS[concept](caption, tools))
            chance(tools.seed, caption.text, self.name, concept).shuffle(changes)
            found += [apply(concept, caption, edits, reason) for edits, reason in changes[: self.per_type]]
        return found


def _replace(caption: Parsed, first: int, last: int, new: str) -> Change:
    """Change the tokens from `first` to before `last`."""
    start, end = caption.tokens[first].start, caption.tokens[last - 1].end
    old = caption.text[start:end]
    return [Edit(start, end, like(new, caption.tokens[first].text[:1]))], f"{old} -> {new}"


def _sizes(caption: Parsed, tools: Tools) -> Iterator[Change]:
    for at, token in enumerate(caption.tokens):
        opposite = SIZES.get(lower(token))
        if opposite is None or token.pos != "ADJ" or hyphenated(caption, at) or token.dep not in ("amod", "acomp", "conj"):
            continue
        if not {opposite, *_same_size(opposite)} & caption.mentioned and _is_comparable(caption, at, tools):
            yield _replace(caption, at, at + 1, opposite)


def _is_comparable(caption: Parsed, at: int, tools: Tools) -> bool:
    """Return whether a size can be seen: not "a little girl" (young), "big air" (a trick), nor a lone animal without a measure."""
    of = caption.tokens[caption.tokens[at].head]
    if of.pos != "NOUN":
        return True
    if of.lemma == "air" or (tools.wordnet.is_kind_of(of.lemma, "n", "person") and lower(caption.tokens[at]) in ("little", "big", "small")):
        return False
    domains = [_domain(other.lemma, tools) for other in caption.tokens if other.pos == "NOUN" and other is not of]
    return _domain(of.lemma, tools) != "noun.animal" or any(domain in ANIMATE for domain in domains)


def _domain(noun: str, tools: Tools) -> str | None:
    sense = visible_sense(tools.wordnet, noun)
    return None if sense is None else tools.wordnet.domain(sense)


def _same_size(word: str) -> set[str]:
    """Return the sizes that have an opposite in common with a size."""
    return {size for size, opposite in SIZES.items() if SIZES.get(word) == opposite}


def _positions(caption: Parsed, tools: Tools) -> Iterator[Change]:
    words = [lower(token) for token in caption.tokens]
    for at in range(len(words)):
        for length in (3, 1):
            opposite = POSITIONS.get(" ".join(words[at : at + length])) if at + length <= len(words) else None
            if opposite is None or (length == 1 and not _is_place(caption, at, words)):
                continue
            if not hyphenated(caption, at):
                yield _replace(caption, at, at + length, opposite)
            break


def _is_place(caption: Parsed, at: int, words: list[str]) -> bool:
    """Return whether a single word names a place: not clothing, a hand, a verb, an adverb or part of a longer phrase."""
    token, word = caption.tokens[at], words[at]
    before, after = (words[at - 1] if at else ""), (words[at + 1] if at + 1 < len(words) else "")
    if word in ("left", "right"):
        return before in ("the", "far", "his", "her", "their", "its", "to") and token.pos in ("NOUN", "ADJ")
    if word in ("top", "bottom"):
        return before == "the" and after in ("of", "left", "right", "corner", "step", "shelf")
    if word in ("foreground", "background"):
        return before in ("the", "in")
    if word in ("upper", "lower"):
        return token.pos == "ADJ"
    if word == "over" and caption.tokens[token.head].lemma in ("look", "gaze", "stare", "watch", "lean", "take"):
        return False
    return token.pos in ("ADP", "ADV", "SCONJ") and bool(children(caption, at, "pobj"))


def _existences(caption: Parsed, tools: Tools) -> Iterator[Change]:
    for at, token in enumerate(caption.tokens):
        word, noun = lower(token), caption.tokens[token.head]
        if word == "with" and token.dep == "prep" and _can_be_absent(caption, at, tools):
            yield _replace(caption, at, at + 1, "without")
        elif word == "without" and token.dep == "prep" and children(caption, at, "pobj"):
            yield _replace(caption, at, at + 1, "with")
        elif word == "no" and token.head > at and children(caption, token.head, "det") == [at] and noun.tag in ("NN", "NNS"):
            yield _some(caption, at)
        elif word in ("a", "an", "some") and token.dep == "det" and _is_stated(caption, token.head):
            yield _replace(caption, at, at + 1, "no")
        elif (
            token.lemma in ("wear", "hold", "carry")
            and token.tag == "VBG"
            and children(caption, at, "dobj")
            and not children(caption, at, "neg")
        ):
            yield [Edit(token.start, token.end, f"not {lower(token)}")], f"not {lower(token)}"


def _some(caption: Parsed, at: int) -> Change:
    """Put an article, or nothing before a plural, in the place of "no"."""
    token, noun, following = caption.tokens[at], caption.tokens[caption.tokens[at].head], caption.tokens[at + 1]
    if noun.tag == "NNS":
        return [Edit(token.start, following.end, following.text)], f"no {noun.text} -> {noun.text}"
    edits, _ = _replace(caption, at, at + 1, "some" if noun.lemma == noun.text and _is_mass(caption, at) else article(following.text))
    return edits, f"no {noun.text} -> {edits[0].text} {noun.text}"


def _is_mass(caption: Parsed, at: int) -> bool:
    return lower(caption.tokens[caption.tokens[at].head]) in (
        "water",
        "grass",
        "snow",
        "sand",
        "food",
        "hair",
        "clothing",
        "clothes",
        "shade",
        "traffic",
    )


def _can_be_absent(caption: Parsed, at: int, tools: Tools) -> bool:
    head = caption.tokens[caption.tokens[at].head]
    if head.pos != "NOUN" and (head.lemma not in ACCOMPANIED or head.tag == "VBN"):
        return False
    for noun in children(caption, at, "pobj")[:1]:
        determiners = [lower(caption.tokens[i]) for i in children(caption, noun, "det", "poss", "nummod", "predet")]
        plain = all(word in ("a", "an", "the") for word in determiners)
        return plain and caption.tokens[noun].pos == "NOUN" and visible_sense(tools.wordnet, caption.tokens[noun].lemma) is not None
    return False


def _is_stated(caption: Parsed, noun: int) -> bool:
    """Return whether a noun is what "there is" or "has" states."""
    token = caption.tokens[noun]
    verb = caption.tokens[token.head]
    if token.dep == "attr" and verb.lemma == "be":
        return bool(children(caption, token.head, "expl"))
    return token.dep == "dobj" and verb.lemma == "have" and verb.pos == "VERB"


def _counts(caption: Parsed, tools: Tools) -> Iterator[Change]:
    digits = {str(number): number for number in range(1, 10)}
    names = {name: number for number, name in enumerate(NUMBERS, 1)}
    for at, token in enumerate(caption.tokens):
        word, noun = lower(token), caption.tokens[token.head]
        number = names.get(word) or digits.get(word)
        if number is None or token.dep != "nummod" or hyphenated(caption, at) or noun.pos != "NOUN" or token.head < at:
            continue
        for other in range(1, 10):
            name = NUMBERS[other - 1] if word in names else str(other)
            if other == number or {NUMBERS[other - 1], str(other)} & caption.mentioned:
                continue
            edits, reason = _replace(caption, at, at + 1, name)
            if (other == 1) == (number == 1):
                yield edits, reason
            elif noun.dep in ("dobj", "pobj") and not children(caption, token.head, "relcl", "conj"):
                new = noun.lemma if other == 1 else plural(noun.text, tools.wordnet)
                yield [*edits, Edit(noun.start, noun.end, new)], f"{word} {noun.text} -> {name} {new}"


_FINDERS: dict[Concept, Callable[[Parsed, Tools], Iterator[Change]]] = {
    "size": _sizes,
    "position": _positions,
    "existence": _existences,
    "count": _counts,
}
