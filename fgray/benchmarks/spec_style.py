"""SPEC-style cases, composed on the spot from real cut-outs on real photographs, or from drawings: the benchmark that needs no download.

They are written in SPEC's layout and scored as SPEC is, but they are not SPEC: other images, fewer cases, other difficulty. A pixel
oracle shows that each case carries its attribute; the subset ``naming`` asks which object is there, as a control of the model.

The banks ``drawn_train`` and ``drawn_test`` are for training and testing a small model, ``drawn_selection`` for tuning it: they name the
same objects, and what else is disjoint between them stands in `fgray.synthesis.drawn`. Their metrics and their facts carry the bank's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from fgray.benchmarks.base import BenchmarkInfo, LoadedBenchmark
from fgray.benchmarks.files import connected, open_case_images
from fgray.benchmarks.layout import BenchmarkOptions
from fgray.benchmarks.spec import SUBSETS, read_spec_layout, spec_metrics
from fgray.data.cases import CASE_SCHEMA, CaseSet
from fgray.data.index import image_key
from fgray.errors import did_you_mean
from fgray.metrics.spec import Metric
from fgray.synthesis.bank import ObjectBank, load_bank
from fgray.synthesis.compose import META_FILE
from fgray.synthesis.drawn import DISJOINT, DRAWN_LICENCE, drawn_bank
from fgray.synthesis.folder import composed_folder, read_oracle
from fgray.synthesis.styles import Split

NAMING = "naming"


class SpecStyle(BenchmarkOptions):
    """SPEC-style cases from the object bank of the package."""

    info: ClassVar[BenchmarkInfo] = BenchmarkInfo(
        name="spec_style",
        title="SPEC-style, not SPEC",
        summary="size, position, existence and count over composed photographs that differ in one attribute",
        url="https://cocodataset.org",
        licence="composed from COCO photographs under CC BY 2.0, CC BY-SA 2.0 and no known restrictions; the result is CC BY-SA 2.0, "
        "sources in fgray/synthesis/bank/ATTRIBUTION.md",
        bibtex="""@inproceedings{peng2024synthesize,
  title={Synthesize diagnose and optimize: Towards fine-grained vision-language understanding},
  author={Peng, Wujian and Xie, Sicheng and You, Zuyao and Lan, Shiyi and Wu, Zuxuan},
  booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages={13279--13288},
  year={2024}
}
@inproceedings{lin2014microsoft,
  title={Microsoft COCO: Common objects in context},
  author={Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and Ramanan, Deva and
          Doll{\\'a}r, Piotr and Zitnick, C Lawrence},
  booktitle={European Conference on Computer Vision},
  pages={740--755},
  year={2014}
}""",
        ties="first",
        primary=("spec_style/macro/i2t_accuracy", "spec_style/macro/t2i_accuracy"),
    )

    bank: Literal["photographs", "drawn_train", "drawn_selection", "drawn_test"] = Field(
        "photographs", description="objects and backgrounds: photographs, or drawings of the training, selection or test split"
    )
    cases: int = Field(20, ge=1, le=10_000, description="cases per subset; a case has K images and K texts")
    seed: int = Field(0, ge=0, description="seed of objects, backgrounds and places")
    subsets: tuple[str, ...] = Field(SUBSETS, min_length=1, description="subsets to compose; the macro averages need all six")

    @field_validator("subsets")
    @classmethod
    def _known(cls, subsets: tuple[str, ...]) -> tuple[str, ...]:
        for subset in subsets:
            if subset not in SUBSETS:
                raise ValueError(f"there is no subset '{subset}': {did_you_mean(subset, SUBSETS)}")
        return tuple(dict.fromkeys(subsets))

    def load(self, root: str | None, cache: str) -> LoadedBenchmark:
        """Compose the cases below `cache` unless they are there, and read them.

        Args:
            root: not used, this benchmark makes its own data.
            cache: folder or s3:// prefix that keeps composed images, their index and the oracle's answers.

        Raises:
            StorageError: `cache` cannot be written.
        """
        bank, info = self._open_bank(), self.facts()
        folder = composed_folder(cache, self.subsets, self.cases, self.seed, bank)
        cases, files = read_spec_layout(folder, self.subsets)
        described = json.loads(folder.read_bytes(META_FILE))["cases"]
        images = open_case_images(folder.uri, cache, files, fix="delete the folder, it is composed anew")
        kind = "photo" if self.bank == "photographs" else "drawing"
        naming = [Metric(f"{info.name}/{NAMING}/accuracy", NAMING, "i2t", ties="first")] if "absolute_size" in self.subsets else []
        return LoadedBenchmark(
            info=info,
            cases=_with_controls(cases, described, self.seed, bank.categories, kind),
            images=images,
            metrics=[*spec_metrics(info.name, self.subsets, macro=set(self.subsets) == set(SUBSETS)), *naming],
            controls={info.name + name.removeprefix(self.info.name): entry for name, entry in read_oracle(folder).items()},
            shuffled_control=True,
            control_subsets=(NAMING,),
            notes=_notes(described, self.bank),
        )

    def facts(self) -> BenchmarkInfo:
        """Return the facts of the chosen bank."""
        if self.bank == "photographs":
            return self.info
        name = f"{self.info.name}/{self.bank}"
        return replace(
            self.info,
            name=name,
            title=f"SPEC-style, drawn objects ({self.bank.removeprefix('drawn_')}), not SPEC",
            summary="size, position, existence and count over composed drawings that differ in one attribute",
            url="",
            licence=DRAWN_LICENCE,
            bibtex=self.info.bibtex.partition("@inproceedings{lin2014microsoft")[0].rstrip(),
            primary=tuple(name + one.removeprefix(self.info.name) for one in self.info.primary),
        )

    def _open_bank(self) -> ObjectBank:
        if self.bank == "photographs":
            return load_bank()
        splits: dict[str, Split] = {"drawn_train": "train", "drawn_selection": "selection", "drawn_test": "test"}
        return drawn_bank(splits[self.bank])


def _with_controls(cases: CaseSet, described: list[Mapping[str, Any]], seed: int, categories: Sequence[str], kind: str) -> CaseSet:
    """Add the naming cases, and make clusters of the cases that are connected by their cut-outs, over all subsets."""
    component = connected(case["cut_outs"] for case in described)
    clusters = {image_key(image["path"]): component[case["cut_outs"][0]] for case in described for image in case["images"]}
    rows = cases.table.to_pylist()
    for row in rows:
        row["cluster_id"] = clusters[row["query"] if row["query_kind"] == "image" else row["candidates"][0]]
    rows += naming_cases(described, clusters, seed, categories, kind)
    return CaseSet(pa.Table.from_pylist(rows, schema=CASE_SCHEMA))


def naming_cases(
    described: list[Mapping[str, Any]], clusters: Mapping[str, str], seed: int, categories: Sequence[str], kind: str
) -> Iterator[dict[str, Any]]:
    """Yield one case per absolute_size case: which object does its "large" image show, among all categories of the bank?

    Args:
        described: the cases of ``meta.json``.
        clusters: image key -> cluster.
        seed: of the order of candidates.
        categories: of the bank.
        kind: "photo" or "drawing", for the texts.
    """
    for case in described:
        if case["subset"] != "absolute_size":
            continue
        key = next(image_key(image["path"]) for image in case["images"] if image["text"].endswith(" large in the image"))
        order = np.random.default_rng([seed, case["case"]]).permutation(len(categories))
        names = [categories[i] for i in order]
        yield {
            "case_id": f"{NAMING}/i2t/{case['case']:05d}",
            "subset": NAMING,
            "task": "i2t",
            "cluster_id": clusters[key],
            "category": case["category"],
            "query_kind": "image",
            "query": key,
            "candidate_kind": "text",
            "candidates": [f"a {kind} of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names],
            "labels": [names.index(case["category"])],
        }


def _notes(described: list[Mapping[str, Any]], bank: str) -> list[str]:
    cut_outs = {name for case in described for name in case["cut_outs"]}
    backgrounds = {case["background"] for case in described}
    drawn = [] if bank == "photographs" else [f"drawn objects, not photographs: bank {bank}; {DISJOINT}"]
    return [
        *drawn,
        f"composed from {len(cut_outs)} cut-outs and {len(backgrounds)} backgrounds; a cluster is the cases joined by a cut-out",
        f"{NAMING}: which object? a control of the model, not part of the mean over subsets",
    ]
