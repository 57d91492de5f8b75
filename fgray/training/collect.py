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
from fgray.training.hard_negatives import NONE, Numbers, Ragged, expand, numbers_in, rows_of_samples

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
    images = pc.unique(pairs["image"])
    texts = pc.unique(pairs["text"].cast(_TEXT))
    image_of, text_of = numbers_in(pairs["image"], images), numbers_in(pairs["text"].cast(_TEXT), texts)
    keys = index.keys.combine_chunks()
    place = numbers_in(images, keys)  # of the pairs' images in the index
    types: list[str] = []
    found: dict[str, list[tuple[Numbers, Numbers, Numbers]]] = {"text": [], "image": []}
    captions = texts
    for address, table in tables:
        sample, row = rows_of_samples(table, image_of, text_of, images, captions)
        if not len(sample):
            fix = "name the negatives of these pairs: keys of images and captions must be equal"
            raise DataError("no row of these negatives is about any of the pairs", where=address, fix=fix)
        flat = pc.list_flatten(table["negatives"])
        refs, names = pc.struct_field(flat, "ref").cast(_TEXT), pc.struct_field(flat, "type")
        valid = pc.struct_field(flat, "valid").to_numpy()
        types += [name for name in pc.unique(names).to_pylist() if name not in types]
        type_of = numbers_in(names, pa.array(types, pa.string()))
        counts = pc.list_value_length(table["negatives"]).to_numpy().astype(np.int64)
        starts = np.cumsum(counts) - counts
        kind_of_row = np.array([DIRECTIONS[name][1] for name in table["direction"].to_pylist()], dtype=object)
        for kind in sorted(kinds):
            here = kind_of_row[row] == kind
            which, position = expand(starts[row[here]], counts[row[here]])
            owner = sample[here][which]
            owner, position = (part[valid[position]] for part in (owner, position))
            used = np.unique(position)
            if kind == "text":
                new = pc.unique(refs.take(pa.array(used)))
                texts = pa.concat_arrays([*_chunks(texts), *_chunks(new.filter(pc.invert(pc.is_in(new, value_set=texts))))])
                number = numbers_in(refs.take(pa.array(used)), texts)
            else:
                number = _places(refs.take(pa.array(used)), keys, address, index)
            item = number[np.searchsorted(used, position)]
            found[kind].append((owner, item, type_of[position]))
    negatives = {kind: [np.concatenate([NONE, *parts]) for parts in zip(*found[kind], strict=True)] or [NONE] * 3 for kind in found}
    rows = np.unique(np.concatenate([place, negatives["image"][1]]))
    table = index.table.take(pa.array(rows)).combine_chunks()
    image_of = np.searchsorted(rows, place)[image_of]
    negatives["image"][1] = np.searchsorted(rows, negatives["image"][1])
    content = table["sha256"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    form = _forms(texts)
    right = np.unique(content[image_of] * len(texts) + form[text_of])

    def wrong(kind: str) -> list[Numbers]:
        owner, item, _ = negatives[kind]
        its_image, its_text = content[image_of[owner]], form[text_of[owner]]
        pair = its_image * len(texts) + form[item] if kind == "text" else content[item] * len(texts) + its_text
        keep = ~np.isin(pair, right)
        return [part[keep] for part in negatives[kind]]

    built = {kind: Ragged.build(len(image_of), *wrong(kind)) for kind in negatives}
    return Collected(table, texts, image_of, text_of, tuple(types), built["text"], built["image"])


def _chunks(texts: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]


def _forms(texts: pa.Array) -> Numbers:
    """Return a number per text, equal where texts differ in case and white space only."""
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"\s+", " "))
    numbers: Numbers = plain.dictionary_encode().indices.to_numpy().astype(np.int64)
    return numbers


def _places(refs: pa.ChunkedArray, keys: pa.Array, address: str, index: ImageIndex) -> Numbers:
    number = numbers_in(refs.cast(keys.type), keys)
    missing = np.flatnonzero(number < 0)
    if len(missing):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        what = f"negative image '{refs[int(missing[0])].as_py()}'{more} does not lie where the images of the pairs do, in {index.root_uri}"
        raise DataError(what, where=address, fix="mine them from the pairs themselves, or put both into one folder")
    return number
