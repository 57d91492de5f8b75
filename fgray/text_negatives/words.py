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


IDIOMATIC = _union("idiomatic")
SYMMETRIC_LINKS = _union("symmetric_links")
SYMMETRIC_VERBS = _union("symmetric_verbs")
PATHS = _union("paths")
CONTRASTS: dict[str, tuple[str, ...]] = {name: tuple(line.split()) for name, line in _LISTS["contrasts"].items()}
ALIKE_ADJECTIVES = _groups(_LISTS["alike_adjectives"])
ALIKE_VERBS = _groups(_LISTS["alike_verbs"])
PREPOSITIONS: dict[str, list[str]] = _LISTS["prepositions"]


def alike(one: str, other: str) -> bool:
    """Return whether two adjectives are the same or may both hold."""
    return one == other or any(one in group and other in group for group in ALIKE_ADJECTIVES)


def alike_verbs(one: str, other: str) -> bool:
    """Return whether two verbs, in dictionary form, are the same or may both hold."""
    return one == other or any(one in group and other in group for group in ALIKE_VERBS)


def contrasts(adjective: str) -> list[str]:
    """Return the adjectives that exclude this one, in the lists' order."""
    found = [word for group in CONTRASTS.values() if adjective in group for word in group if not alike(word, adjective)]
    return list(dict.fromkeys(found))
