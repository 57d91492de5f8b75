"""Ordinary pairs of drawn objects, made on the spot: what a small model learns names from, and the control of what it can name.

``captions``: which caption is the picture's? Its right answers are the image-text pairs that training reads; captions name the objects
and say nothing of size, place, number or absence. ``naming``: which object does a picture of one show, among all categories?
What the splits share and what not stands in `fgray.synthesis.drawn`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fgray.benchmarks.base import BenchmarkInfo, LoadedBenchmark
from fgray.benchmarks.files import connected, open_case_images
from fgray.benchmarks.layout import BenchmarkOptions
from fgray.data.cases import CaseSet
from fgray.data.index import image_key
from fgray.metrics.spec import Metric
from fgray.synthesis.drawn import DISJOINT, DRAWN_LICENCE, drawn_bank
from fgray.synthesis.pictures import PICTURES_FILE, caption, pictures_folder

CAPTIONS, NAMING = "captions", "naming"
CHOICES = 10  # captions to choose from


class Drawn(BenchmarkOptions):
    """Pictures of one or two drawn objects with ordinary captions."""

    info: ClassVar[BenchmarkInfo] = BenchmarkInfo(
        name="drawn",
        title="Drawn objects",
        summary="which caption, and which object's name, belongs to a drawing of one or two objects",
        url="",
        licence=DRAWN_LICENCE,
        bibtex="",
        ties="first",
        primary=("drawn/naming/accuracy",),
    )

    split: Literal["train", "selection", "test"] = Field("test", description="which objects, styles, backgrounds and places")
    images: int = Field(400, ge=1, le=100_000, description="number of pictures; every other one shows one object, the others two")
    seed: int = Field(0, ge=0, description="seed of pairs, backgrounds, places and captions")

    def load(self, root: str | None, cache: str) -> LoadedBenchmark:
        """Draw the pictures below `cache` unless they are there, and ask about them.

        Args:
            root: not used, this benchmark makes its own data.
            cache: folder or s3:// prefix that keeps the pictures and their index.

        Raises:
            StorageError: `cache` cannot be written.
        """
        bank = drawn_bank(self.split)
        folder = pictures_folder(cache, bank, self.images, self.seed)
        pictures = json.loads(folder.read_bytes(PICTURES_FILE))["pictures"]
        files = [picture["path"] for picture in pictures]
        images = open_case_images(folder.uri, cache, files, fix="delete the folder, it is drawn anew")
        return LoadedBenchmark(
            info=replace(self.info, title=f"Drawn objects ({self.split})"),
            cases=CaseSet.from_rows(_cases(pictures, bank.categories, self.seed)),
            images=images,
            metrics=[
                Metric(f"drawn/{CAPTIONS}/accuracy", CAPTIONS, "i2t", ties="first"),
                Metric(f"drawn/{NAMING}/accuracy", NAMING, "i2t", ties="first"),
            ],
            shuffled_control=True,
            control_subsets=(NAMING,),
            notes=[f"drawn objects, not photographs: split {self.split}; {DISJOINT}", "a cluster is the pictures joined by an object"],
        )


def _cases(pictures: Sequence[Mapping[str, Any]], categories: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """Yield a captions case for every picture and a naming case for every picture of one object; right answers stand anywhere."""
    component = connected([one["cut_out"] for one in picture["objects"]] for picture in pictures)
    for number, picture in enumerate(pictures):
        rng = np.random.default_rng([seed, number, 1])
        shown = [one["category"] for one in picture["objects"]]
        common = {
            "task": "i2t",
            "cluster_id": component[picture["objects"][0]["cut_out"]],
            "category": " and ".join(sorted(shown)),
            "query_kind": "image",
            "query": image_key(picture["path"]),
            "candidate_kind": "text",
        }
        wrong = [caption(picture["template"], names) for names in _others(shown, categories, rng)]
        yield common | _choice(CAPTIONS, number, picture["caption"], wrong, rng)
        if len(shown) == 1:
            texts = {name: caption("a drawing of {}", [name]) for name in categories}
            yield common | _choice(NAMING, number, texts.pop(shown[0]), list(texts.values()), rng)


def _others(shown: Sequence[str], categories: Sequence[str], rng: np.random.Generator) -> list[list[str]]:
    """Return `CHOICES` - 1 lists of names in which one of those shown is exchanged for one that is not in the picture."""
    absent = [name for name in categories if name not in shown]
    found = []
    for i in rng.permutation(len(absent))[: CHOICES - 1]:
        names = list(shown)
        names[int(rng.integers(len(names)))] = absent[i]
        found.append(names)
    return found


def _choice(subset: str, number: int, right: str, wrong: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    texts = [right, *wrong]
    order = rng.permutation(len(texts)).tolist()
    return {
        "case_id": f"{subset}/i2t/{number:05d}",
        "subset": subset,
        "candidates": [texts[i] for i in order],
        "labels": [order.index(0)],
    }
