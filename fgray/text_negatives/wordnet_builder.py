"""Build fgray's WordNet files from Princeton's database.

    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wn
    python -m fgray.text_negatives.wordnet_builder wn/usr/share/wordnet fgray/text_negatives/data

Database format: wndb(5WN) and cntlist(5WN) of WordNet 3.0. Glosses, names of individuals (synsets with an instance hypernym)
and pointers that fgray does not read are left out; nothing is added.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
NOUN_FILES = (
    "Tops",
    "act",
    "animal",
    "artifact",
    "attribute",
    "body",
    "cognition",
    "communication",
    "event",
    "feeling",
    "food",
    "group",
    "location",
    "motive",
    "object",
    "person",
    "phenomenon",
    "plant",
    "possession",
    "process",
    "quantity",
    "relation",
    "shape",
    "state",
    "substance",
    "time",
)
VERB_FILES = (
    "body",
    "change",
    "cognition",
    "communication",
    "competition",
    "consumption",
    "contact",
    "creation",
    "emotion",
    "motion",
    "perception",
    "possession",
    "social",
    "stative",
    "weather",
)
LEXNAMES = ["adj.all", "adj.pert", "adv.all", *(f"noun.{name}" for name in NOUN_FILES), *(f"verb.{name}" for name in VERB_FILES), "adj.ppl"]
"""By file number, as in lexnames(5WN)."""
HYPERNYM, INSTANCE, SIMILAR, ANTONYM = "@", "@i", "&", "!"

SYNSET_SCHEMA = pa.schema(
    [
        pa.field("domain", pa.dictionary(pa.int8(), pa.string())),  # lexicographer file: noun.animal, verb.motion, …
        pa.field("hypernyms", pa.list_(pa.int32())),  # rows of this table
        pa.field("similar", pa.list_(pa.int32())),  # adjectives: the head of a satellite, the satellites of a head
        pa.field("antonyms", pa.list_(pa.int32())),  # synsets that hold an antonym of one of the lemmas
    ]
)
SENSE_SCHEMA = pa.schema(
    [
        pa.field("lemma", pa.string()),  # lower case, words of a compound divided by blanks
        pa.field("pos", pa.dictionary(pa.int8(), pa.string())),  # n | v | a | r; satellites of adjectives are a
        pa.field("synset", pa.int32()),  # row of the synsets' table
        pa.field("count", pa.int32()),  # how often this sense was tagged in WordNet's concordances
    ]
)
"""Sorted by lemma, part of speech and number of the sense, most frequent first."""


@dataclass(frozen=True)
class _Synset:
    domain: str
    pointers: list[tuple[str, tuple[str, int]]]  # symbol, (pos, offset)


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a database file without the licence on top, whose lines begin with two blanks."""
    with path.open(encoding="ascii") as file:
        yield from (line for line in file if not line.startswith("  "))


def _read_synsets(folder: Path) -> dict[tuple[str, int], _Synset]:
    synsets = {}
    for pos, name in FILES.items():
        for line in _lines(folder / f"data.{name}"):
            parts = line.split(" | ")[0].split()
            words = int(parts[3], 16)
            first = 4 + 2 * words + 1
            pointers = [parts[at : at + 4] for at in range(first, first + 4 * int(parts[first - 1]), 4)]
            targets = [(symbol, (kind, int(offset))) for symbol, offset, kind, _ in pointers]
            synsets[pos, int(parts[0])] = _Synset(LEXNAMES[int(parts[1])], targets)
    return {key: synset for key, synset in synsets.items() if all(symbol != INSTANCE for symbol, _ in synset.pointers)}


def _read_senses(folder: Path, rows: dict[tuple[str, int], int]) -> list[tuple[str, str, int, int]]:
    """Return the rows of ``SENSE_SCHEMA``, given each synset's row."""
    tagged = {}
    for line in (folder / "cntlist.rev").read_text(encoding="ascii").splitlines():
        key, sense, tagged_times = line.split()
        lemma, _, rest = key.partition("%")
        tagged[lemma, "nvara"[int(rest[0]) - 1], int(sense)] = int(tagged_times)
    senses = []
    for pos, name in FILES.items():
        for line in _lines(folder / f"index.{name}"):
            parts = line.split()
            for number, offset in enumerate(parts[-int(parts[2]) :], 1):
                if (pos, int(offset)) in rows:
                    count = tagged.get((parts[0], pos, number), 0)
                    senses.append((parts[0].replace("_", " "), pos, number, rows[pos, int(offset)], count))
    return [(lemma, pos, synset, count) for lemma, pos, _, synset, count in sorted(senses)]


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", compression_level=22, row_group_size=table.num_rows)


def build(source: Path, target: Path) -> None:
    """Write the synsets, the senses and the irregular forms from the database in `source`."""
    synsets = _read_synsets(source)
    row = {key: number for number, key in enumerate(synsets)}

    def links(symbol: str) -> list[list[int]]:
        return [sorted({row[to] for kind, to in synset.pointers if kind == symbol and to in row}) for synset in synsets.values()]

    columns = [[synset.domain for synset in synsets.values()], links(HYPERNYM), links(SIMILAR), links(ANTONYM)]
    _write(_table(columns, SYNSET_SCHEMA), target / "wordnet_synsets.parquet")
    _write(_table(list(zip(*_read_senses(source, row), strict=True)), SENSE_SCHEMA), target / "wordnet_senses.parquet")
    forms = [
        (pos, form.replace("_", " "), lemma.replace("_", " "))
        for pos, name in FILES.items()
        for form, *lemmas in (line.split() for line in _lines(source / f"{name}.exc"))
        for lemma in lemmas
    ]
    irregular = pa.schema([("pos", pa.string()), ("form", pa.string()), ("lemma", pa.string())])
    _write(_table(list(zip(*forms, strict=True)), irregular), target / "wordnet_forms.parquet")


def _table(columns: Sequence[Any], schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
