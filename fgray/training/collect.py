"""Pairs and rows of negatives to arrays: numbers of images and texts, and the negatives of every pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgray.data.index import ImageIndex
from fgray.data.negatives import DIRECTIONS
from fgray.errors import DataError
from fgray.training.hard_negatives import NONE, Numbers, Ragged, distinct, expand, numbers_in, rows_of_samples

_TEXT = pa.large_string()  # more than 2 GiB of captions do not fit into offsets of 32 bits


@dataclass(frozen=True)
class Collected:
    """What `collect` found; the attributes are those of `Source`, and `images` is the table of its index."""

    images: pa.Table
    texts: pa.Array
    image_of: Numbers
    text_of: Numbers
    types: tuple[str, ...]
    text_negatives: Ragged
    image_negatives: Ragged


def collect(pairs: pa.Table, index: ImageIndex, tables: Sequence[tuple[str, pa.Table]], kinds: set[str]) -> Collected:
    """Number images and texts, and find the negatives of every pair.

    Left out are negatives that are marked as invalid, texts that one of the image's own captions equals (but for case and white space,
    which tokenizers drop), and images that the caption describes as well, or whose file equals such a one's.

    Args:
        pairs: distinct pairs, columns image and text.
        index: where the images of pairs and negatives lie.
        tables: (address, rows) of negatives, with the columns direction, anchor, positive and negatives.
        kinds: "text" and "image", as far as such negatives are wanted.

    Raises:
        DataError: no row of a table is about any of the pairs, or a negative image is not in the index.
    """
    collector = _Collector(pairs, index)
    for address, table in tables:
        collector.add(address, table, kinds)
    return collector.finish()


class _Collector:
    """Numbers of texts grow with every table; images have the numbers of their rows in the index until all is there."""

    def __init__(self, pairs: pa.Table, index: ImageIndex) -> None:
        self.index, self.keys = index, index.keys.combine_chunks()
        captions = pairs["text"].cast(_TEXT)
        self.pair_images, self.captions = pc.unique(pairs["image"]), pc.unique(captions)
        self.image_of, self.text_of = numbers_in(pairs["image"], self.pair_images), numbers_in(captions, self.captions)
        self.texts = self.captions
        self.types: list[str] = []
        self.found: dict[str, list[tuple[Numbers, Numbers, Numbers]]] = {"text": [], "image": []}  # sample, item, type

    def add(self, address: str, table: pa.Table, kinds: set[str]) -> None:
        """Take the negatives of one table that are about the pairs."""
        sample, row = rows_of_samples(table, self.image_of, self.text_of, self.pair_images, self.captions)
        if not len(sample):
            fix = "name the negatives of these pairs: keys of images and captions must be equal"
            raise DataError("no row of these negatives is about any of the pairs", where=address, fix=fix)
        flat = pc.list_flatten(table["negatives"])
        refs, names = pc.struct_field(flat, "ref").cast(_TEXT), pc.struct_field(flat, "type")
        valid = pc.struct_field(flat, "valid").to_numpy()
        self.types += [name for name in pc.unique(names).to_pylist() if name not in self.types]
        type_of = numbers_in(names, pa.array(self.types, pa.string()))
        counts = pc.list_value_length(table["negatives"]).to_numpy().astype(np.int64)
        starts = np.cumsum(counts) - counts
        kind_of_row = np.array([DIRECTIONS[name][1] for name in table["direction"].to_pylist()], dtype=object)
        for kind in sorted(kinds):
            here = kind_of_row[row] == kind
            which, position = expand(starts[row[here]], counts[row[here]])
            owner = sample[here][which]
            owner, position = (part[valid[position]] for part in (owner, position))
            used = distinct(position)
            names_used = refs.take(pa.array(used))
            number = self._text_numbers(names_used) if kind == "text" else self._places(names_used, address)
            self.found[kind].append((owner, number[np.searchsorted(used, position)], type_of[position]))

    def finish(self) -> Collected:
        """Number the images that are used, and leave right answers out."""
        negatives = {
            kind: [np.concatenate([NONE, *(entry[column] for entry in entries)]) for column in range(3)]
            for kind, entries in self.found.items()
        }
        place = numbers_in(self.pair_images, self.keys)
        rows = distinct(np.concatenate([place, negatives["image"][1]]))
        images = self.index.table.take(pa.array(rows)).combine_chunks()
        image_of = np.searchsorted(rows, place)[self.image_of]
        negatives["image"][1] = np.searchsorted(rows, negatives["image"][1])
        content = images["sha256"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
        form = _forms(self.texts)
        right = distinct(content[image_of] * len(form) + form[self.text_of])
        built = {}
        for kind, (owner, item, type_) in negatives.items():
            its_image, its_text = (content[image_of[owner]], form[item]) if kind == "text" else (content[item], form[self.text_of[owner]])
            pair = its_image * len(form) + its_text
            wrong = right[np.minimum(np.searchsorted(right, pair), len(right) - 1)] != pair
            built[kind] = Ragged.build(len(image_of), owner[wrong], item[wrong], type_[wrong])
        return Collected(images, self.texts, image_of, self.text_of, tuple(self.types), built["text"], built["image"])

    def _text_numbers(self, refs: pa.ChunkedArray) -> Numbers:
        new = pc.unique(refs)
        self.texts = pa.concat_arrays([self.texts, new.filter(pc.invert(pc.is_in(new, value_set=self.texts)))])
        return numbers_in(refs, self.texts)

    def _places(self, refs: pa.ChunkedArray, address: str) -> Numbers:
        number = numbers_in(refs.cast(self.keys.type), self.keys)
        missing = np.flatnonzero(number < 0)
        if len(missing):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            name, root = refs[int(missing[0])].as_py(), self.index.root_uri
            what = f"negative image '{name}'{more} does not lie where the images of the pairs do, in {root}"
            raise DataError(what, where=address, fix="mine them from the pairs themselves, or put both into one folder")
        return number


def _forms(texts: pa.Array) -> Numbers:
    """Return a number per text, equal where texts differ in case and white space only."""
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"\s+", " "))
    numbers: Numbers = plain.dictionary_encode().indices.to_numpy().astype(np.int64)
    return numbers
