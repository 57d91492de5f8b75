"""Word lists that the rules share, from ``data/words.yaml``, which says what each is for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources

import yaml

_LISTS = yaml.safe_load((resources.files("fgray.text_negatives") / "data" / "words.yaml").read_text(encoding="utf-8"))


def _union(name: str) -> frozenset[str]:
    return frozenset(word for line in _LISTS[name] for word in line.split())


def _groups(lines: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(line.split()) for line in lines)


def _near(groups: tuple[tuple[str, ...], ...]) -> dict[str, frozenset[str]]:
    words = {word for group in groups for word in group}
    return {word: frozenset(other for group in groups if word in group for other in group) for word in words}


IDIOMATIC = _union("idiomatic")
SYMMETRIC_LINKS = _union("symmetric_links")
SYMMETRIC_VERBS = _union("symmetric_verbs")
PATHS = _union("paths")
CONTRASTS: dict[str, tuple[str, ...]] = {name: tuple(line.split()) for name, line in _LISTS["contrasts"].items()}
PREPOSITIONS: dict[str, list[str]] = _LISTS["prepositions"]
SIZES: dict[str, str] = _LISTS["sizes"]
POSITIONS: dict[str, str] = _LISTS["positions"]
ACCOMPANIED = frozenset(_LISTS["accompanied"])
PEOPLE: dict[str, tuple[str, ...]] = {word: tuple(others.split()) for word, others in _LISTS["people"].items()}
_NEAR = {pos: _near(_groups(_LISTS[f"alike_{name}"])) for pos, name in (("n", "nouns"), ("v", "verbs"), ("a", "adjectives"))}
ROLES = _groups(_LISTS["roles"])
FIGURES = _union("figures")
SCENERY = _union("scenery")
NATURE = _union("nature")
VAGUE_VERBS = _union("vague_verbs")
GENDERED = frozenset(("he", "him", "his", "himself", "she", "her", "hers", "herself"))
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def near(word: str, pos: str) -> frozenset[str]:
    """Return the words that may hold of the same sight as a noun (n), verb (v) or adjective (a) in dictionary form, itself included."""
    return _NEAR[pos].get(word, frozenset((word,)))


def exclude_each_other(one: str, other: str) -> bool:
    """Return whether two words for people cannot both hold of one person."""
    if one in PEOPLE:
        return other in PEOPLE[one]
    mine, theirs = ([group for group in ROLES if word in group] for word in (one, other))
    return bool(mine) and bool(theirs) and not any(group in theirs for group in mine)


def contrasts(adjective: str) -> list[str]:
    """Return the adjectives that exclude this one, in the lists' order."""
    found = [word for group in CONTRASTS.values() if adjective in group for word in group if word not in near(adjective, "a")]
    return list(dict.fromkeys(found))
