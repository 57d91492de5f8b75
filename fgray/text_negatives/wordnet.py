"""Lexical relations from WordNet 3.0: which words mean the same, which are kinds of the same thing.

Parts of speech are WordNet's: n noun, v verb, a adjective, r adverb.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

POS = {"NOUN": "n", "PROPN": "n", "VERB": "v", "AUX": "v", "ADJ": "a", "ADV": "r"}
"""Universal Dependencies' part of speech -> WordNet's."""

# Rules of detachment, as in morphy(7WN): ending -> ending of the dictionary form.
_ENDINGS = {
    "n": (("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")),
    "v": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "a": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "r": (),
}


@lru_cache(maxsize=1)
def load_wordnet() -> WordNet:
    """Return the WordNet that comes with fgray, read once per process."""
    return WordNet()


class WordNet:
    """Words, their senses and how these hang together; pickles as a reference to the files that come with fgray."""

    def __init__(self) -> None:
        folder = resources.files("fgray.text_negatives") / "data"
        files = [(folder / f"wordnet_{name}.parquet").read_bytes() for name in ("synsets", "senses", "forms")]
        self.fingerprint = hashlib.sha256(b"".join(files)).hexdigest()
        synsets, senses, forms = (pq.read_table(pa.BufferReader(data)) for data in files)
        self._domain: list[str] = synsets["domain"].to_pylist()
        self._links = {name: _Lists(synsets[name]) for name in ("hypernyms", "similar", "antonyms")}
        self._lemma: list[str] = senses["lemma"].to_pylist()
        self._synset, self._count = (senses[name].to_numpy() for name in ("synset", "count"))
        self._span = _spans(list(zip(self._lemma, senses["pos"].to_pylist(), strict=True)))
        self._by_synset = np.argsort(self._synset, kind="stable")
        self._irregular: dict[tuple[str, str], list[str]] = {}
        self._plurals: dict[str, str] = {}
        for pos, form, lemma in zip(*(forms[name].to_pylist() for name in ("pos", "form", "lemma")), strict=True):
            self._irregular.setdefault((form, pos), []).append(lemma)
            if pos == "n":
                self._plurals[lemma] = max(form, self._plurals.get(lemma, ""), key=len)

    def __reduce__(self) -> tuple[object, ...]:
        return load_wordnet, ()

    def bases(self, word: str, pos: str) -> list[str]:
        """Return the dictionary forms that `word` may be a form of, likeliest first; empty where it is unknown."""
        word = word.lower()
        found = list(self._irregular.get((word, pos), []))
        if (word, pos) in self._span:
            found.append(word)
        for ending, base in _ENDINGS[pos]:
            stem = word.removesuffix(ending) + base
            if word.endswith(ending) and len(word) > len(ending) and (stem, pos) in self._span:
                found.append(stem)
        return list(dict.fromkeys(found))

    def likeliest_base(self, word: str, pos: str) -> str | None:
        """Return the dictionary form that was tagged most often ("rides" is of ride, not of rid); None where `word` is unknown."""
        bases = self.bases(word, pos)
        spans = {base: self._span.get((base, pos), (0, 0)) for base in bases}
        return max(bases, key=lambda base: self._count[slice(*spans[base])].sum(), default=None)

    def knows(self, word: str, pos: str) -> bool:
        """Return whether `word` is a form of a word of this part of speech."""
        return bool(self.bases(word, pos))

    def irregular_plural(self, noun: str) -> str | None:
        """Return the irregular plural of a noun ("men"); None where it has none. Of several the longest ("scarves" before "scarfs")."""
        return self._plurals.get(noun)

    def senses(self, word: str, pos: str, *, common: bool = False) -> list[int]:
        """Return the synsets of a word's dictionary forms, most frequent first.

        Args:
            word: in any form.
            pos: its part of speech.
            common: only the first sense of each form and those met in WordNet's tagged texts ("dog" means a chap in none); of a
                verb, those that make up a tenth of its occurrences there ("run" has 41).
        """
        return list(_senses(self, word, pos, common))

    def _find_senses(self, word: str, pos: str, common: bool) -> list[int]:
        found: list[int] = []
        for base in self.bases(word, pos):
            first, last = self._span.get((base, pos), (0, 0))
            least = max(self._count[first:last].sum() / 10, 1) if pos == "v" else 1
            found += [int(self._synset[at]) for at in range(first, last) if not common or at == first or self._count[at] >= least]
        return list(dict.fromkeys(found))

    def domain(self, synset: int) -> str:
        """Return the lexicographer's file of a synset (noun.animal, verb.motion)."""
        return str(self._domain[synset])

    def lemmas(self, synset: int) -> list[str]:
        """Return the words of a synset, in alphabetical order."""
        first, last = np.searchsorted(self._synset, [synset, synset + 1], sorter=self._by_synset)
        return [self._lemma[at] for at in self._by_synset[first:last]]

    def ancestors(self, synset: int) -> dict[int, int]:
        """Return the synset itself and all that it is a kind of -> the number of steps up to it."""
        return _ancestors(self, synset)

    def _up(self, synset: int) -> list[int]:
        return self._links["hypernyms"][synset]

    def is_kind_of(self, word: str, pos: str, lemma: str) -> bool:
        """Return whether a common sense of `word` is, or is a kind of, a sense of `lemma`."""
        kinds = set(self.senses(lemma, pos))
        return any(not kinds.isdisjoint(self.ancestors(sense)) for sense in self.senses(word, pos, common=True))

    def antonyms(self, word: str, pos: str) -> set[str]:
        """Return words that mean the opposite; for adjectives also those of the head they are similar to ("huge": small)."""
        found: set[str] = set()
        for synset in self.senses(word, pos, common=True):
            for near in (synset, *self._links["similar"][synset]):
                for opposite in self._links["antonyms"][near]:
                    found.update(self.lemmas(opposite))
        return found

    def related(self, word: str, other: str, pos: str) -> bool:
        """Return whether one word may stand for the other: forms of the same word, synonyms, a kind of the other, or similar.

        Only common senses count. An edit that puts one for the other may leave a caption true.
        """
        if not set(self.bases(word, pos) or [word.lower()]).isdisjoint(self.bases(other, pos) or [other.lower()]):
            return True
        mine, theirs = self.senses(word, pos, common=True), self.senses(other, pos, common=True)
        return not self.above(word, pos).isdisjoint(theirs) or not self.above(other, pos).isdisjoint(mine)

    def above(self, word: str, pos: str) -> frozenset[int]:
        """Return the common senses of a word, all that these are kinds of and, for adjectives, all that they are similar to."""
        return _above(self, word, pos)

    def distance(self, synset: int, other: int, steps: int) -> int | None:
        """Return the steps between two synsets over their nearest common ancestor within one domain.

        Args:
            synset: one of the two.
            other: of the same part of speech.
            steps: how far up from either the common ancestor may lie.

        Returns:
            None where there is no such ancestor, or where one is a kind of the other.
        """
        above, beyond = self.ancestors(synset), self.ancestors(other)
        if synset in beyond or other in above:
            return None
        common = [
            up + beyond[node]
            for node, up in above.items()
            if up <= steps and beyond.get(node, steps + 1) <= steps and self._domain[node] == self._domain[synset]
        ]
        return min(common, default=None)


class _Lists:
    """A column of lists, read where it is asked."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        self._offsets, self._values = array.offsets.to_numpy(), array.values.to_numpy()

    def __getitem__(self, row: int) -> list[int]:
        return [int(value) for value in self._values[self._offsets[row] : self._offsets[row + 1]]]


def _spans(keys: list[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return each key's (first row, one past the last) in a list sorted by key."""
    starts = [at for at, key in enumerate(keys) if at == 0 or key != keys[at - 1]]
    return {keys[start]: (start, end) for start, end in zip(starts, [*starts[1:], len(keys)], strict=True)}


@lru_cache(maxsize=100_000)
def _senses(wordnet: WordNet, word: str, pos: str, common: bool) -> tuple[int, ...]:
    return tuple(wordnet._find_senses(word, pos, common))


@lru_cache(maxsize=100_000)
def _above(wordnet: WordNet, word: str, pos: str) -> frozenset[int]:
    senses = wordnet.senses(word, pos, common=True)
    if pos == "a":
        return frozenset(senses).union(*(wordnet._links["similar"][sense] for sense in senses))
    return frozenset().union(*(wordnet.ancestors(sense) for sense in senses))


@lru_cache(maxsize=100_000)
def _ancestors(wordnet: WordNet, synset: int) -> dict[int, int]:
    steps = {synset: 0}
    for node, count in _walk(wordnet, steps):
        steps.setdefault(node, count)
    return steps


def _walk(wordnet: WordNet, steps: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Yield what lies above the synsets in `steps`, breadth first."""
    level, count = list(steps), 0
    while level:
        count += 1
        level = [up for node in level for up in wordnet._up(node)]
        yield from ((node, count) for node in level)
