"""A file of text negatives as a test: which of two captions, the right one or one edited from it, belongs to the photograph?

A model tuned on one generator's negatives should be judged on those of another, and beside the blind accuracy that the file's own run
reports: where a language model without the image does as well, nothing was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import pyarrow.compute as pc
from pydantic import Field

from fgray.benchmarks.base import BenchmarkInfo, LoadedBenchmark
from fgray.benchmarks.layout import BenchmarkOptions, Row
from fgray.benchmarks.pairs import load_pairs
from fgray.config.places import Place
from fgray.config.schema import BenchmarkConfig
from fgray.data.cases import CaseSet
from fgray.data.negatives import read_negatives
from fgray.errors import DataError
from fgray.metrics.spec import AnyMetric, Metric, Pooled, Ties

EDIT = "text_edit"
_ALL = "edited_captions/all/accuracy"


class EditedCaptions(BenchmarkOptions):
    """Captions of photographs against the negatives that `fgray` made from them."""

    info: ClassVar[BenchmarkInfo] = BenchmarkInfo(
        name="edited_captions",
        title="Edited captions",
        summary="captions against the negatives of a text_negatives run, by type",
        url="",
        licence="that of the captions and photographs",
        bibtex="",
        ties="wrong",
        primary=(_ALL,),
    )

    negatives: Annotated[str, Place(parts=("negatives.parquet",))] = Field(
        description="run folder or negatives.parquet of a text_negatives job"
    )
    pairs: BenchmarkConfig = Field(description="the photographs and captions that it was made from, as in that job")
    ties: Ties = Field("wrong", description="what an exact tie of caption and negative counts as")

    def load(self, root: str | None, cache: str) -> LoadedBenchmark:
        """Ask for every photograph, each of its captions, and each valid negative of that caption.

        A negative that is itself a caption of the photograph is left out.

        Args:
            root: where the pairs lie if their section does not say.
            cache: see `Benchmark.load`.

        Raises:
            DataError: no caption of the pairs has a negative, or what reading pairs and negatives finds.
        """
        pairs = load_pairs(self.pairs, root, cache)
        negatives, _ = read_negatives(self.negatives)
        rows = negatives.filter(pc.equal(negatives["direction"], EDIT)).select(["anchor", "negatives"]).to_pylist()
        captions: dict[str, set[str]] = {}
        for image, text in zip(pairs.table["image"].to_pylist(), pairs.table["text"].to_pylist(), strict=True):
            if image is not None and text is not None:
                captions.setdefault(image, set()).add(text)
        cases = list(_cases(captions, {row["anchor"]: row["negatives"] for row in rows}))
        if not cases:
            fix = "name the pairs that the text_negatives job was run on"
            raise DataError("no caption of the pairs has a negative in the file", where=self.negatives, fix=fix)
        types = sorted({case["subset"] for case in cases})
        names = [f"edited_captions/{kind}/accuracy" for kind in types]
        metrics: list[AnyMetric] = [Metric(name, kind, "i2t", ties=self.ties) for name, kind in zip(names, types, strict=True)]
        made_by = ", ".join(sorted({negative["source"] for row in rows for negative in row["negatives"]}))
        return LoadedBenchmark(
            info=self.info,
            cases=CaseSet.from_rows(cases),
            images=pairs.index,
            metrics=[*metrics, Pooled(_ALL, tuple(names))],
            notes=[f"negatives made by {made_by}; their blind accuracy stands in the report of the run that made them"],
        )


def _cases(captions: Mapping[str, set[str]], negatives: Mapping[str, list[dict[str, Any]]]) -> Iterator[Row]:
    for image, right in sorted(captions.items()):
        for number, caption in enumerate(sorted(right)):
            for place, negative in enumerate(negatives.get(caption, [])):
                if negative["valid"] and negative["ref"] not in right:
                    yield {
                        "case_id": f"{image}/{number}/{place}",
                        "subset": negative["type"],
                        "task": "i2t",
                        "cluster_id": image,
                        "query_kind": "image",
                        "query": image,
                        "candidate_kind": "text",
                        "candidates": [caption, negative["ref"]],
                        "labels": [0],
                    }
