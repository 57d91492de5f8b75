"""SPEC (Peng et al., CVPR 2024): size, position, existence and count, asked both ways over sets that differ in one attribute.

Layout: ``SUBSET/image2text.json`` and ``SUBSET/text2image.json``, each a list of ``{"query", "keys", "label"}``; image paths are
relative to the subset's folder. Correct: the first largest score of a query's candidates is the labelled one (argmax).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator

from fgray.benchmarks.base import BenchmarkInfo, Published
from fgray.benchmarks.files import connected, join_path, open_case_images, read_json
from fgray.benchmarks.layout import FolderBenchmark, Row, Upstream
from fgray.data.cases import CaseSet
from fgray.data.index import image_key
from fgray.errors import DataError, did_you_mean
from fgray.metrics.spec import AnyMetric, Macro, Metric, Ties
from fgray.storage import Storage, open_storage

SUBSETS = ("absolute_size", "relative_size", "absolute_spatial", "relative_spatial", "existence", "count")
TASKS = {"i2t": "image2text.json", "t2i": "text2image.json"}
_QUERIES = {
    "absolute_size": 1500,
    "relative_size": 1500,
    "absolute_spatial": 4500,
    "relative_spatial": 2000,
    "existence": 1000,
    "count": 4500,
}


def read_spec_layout(storage: Storage, subsets: Sequence[str]) -> tuple[CaseSet, list[str]]:
    """Read cases in SPEC's layout.

    A cluster is a connected component of the images that stand together in a text2image row, with the image2text rows that
    ask about them.

    Args:
        storage: the folder that holds one folder per subset.
        subsets: their names.

    Returns:
        The cases (image references are `image_key` of the paths below), and the image paths relative to the folder.

    Raises:
        DataError: a file is missing, is not in the layout, or a label is out of range.
    """
    rows: list[Row] = []
    files: dict[str, None] = {}
    for subset in subsets:
        items = {task: _read_items(storage, subset, task) for task in TASKS}
        image_groups = [[query] for query, _, _ in items["i2t"]] + [keys for _, keys, _ in items["t2i"]]
        component = connected(image_groups)
        files.update(dict.fromkeys(path for group in image_groups for path in group))
        for task, found in items.items():
            for number, (query, keys, label) in enumerate(found):
                i2t = task == "i2t"
                rows.append(
                    {
                        "case_id": f"{subset}/{task}/{number:05d}",
                        "subset": subset,
                        "task": task,
                        "cluster_id": image_key(component[query if i2t else keys[0]]),
                        "query_kind": "image" if i2t else "text",
                        "query": image_key(query) if i2t else query,
                        "candidate_kind": "text" if i2t else "image",
                        "candidates": keys if i2t else [image_key(key) for key in keys],
                        "labels": [label],
                    }
                )
    return CaseSet.from_rows(rows), list(files)


def _read_items(storage: Storage, subset: str, task: str) -> list[tuple[str, list[str], int]]:
    """Return (query, keys, label) of every row, image paths relative to the root."""
    path = f"{subset}/{TASKS[task]}"
    where = f"{storage.uri}/{path}"
    content = read_json(storage, path, f"SPEC layout: SUBSET/{TASKS[task]} of subset '{subset}'")
    if not isinstance(content, list) or not content:
        raise DataError("expected a list of {query, keys, label} with at least one row", where=where, fix="use SPEC's own file")
    items = []
    for number, row in enumerate(content):
        place = f"{where} row {number}"
        query, keys, label = _fields(row, place)
        if not 0 <= label < len(keys):
            raise DataError(f"label out of range: {label} for {len(keys)} keys", where=place, fix="labels count from 0")
        if task == "i2t":
            query = join_path(subset, query, place)
        else:
            keys = [join_path(subset, key, place) for key in keys]
        items.append((query, keys, label))
    return items


def _fields(row: Any, place: str) -> tuple[str, list[str], int]:
    fields = (row.get("query"), row.get("keys"), row.get("label")) if isinstance(row, dict) else (None, None, None)
    query, keys, label = fields
    texts = isinstance(query, str) and isinstance(keys, list) and bool(keys) and all(isinstance(key, str) for key in keys)
    if not texts or not isinstance(label, int) or isinstance(label, bool):
        raise DataError("expected {query: text, keys: [text, …], label: number}", where=place, fix="use SPEC's own file")
    return fields  # type: ignore[return-value]


def spec_metrics(prefix: str, subsets: Sequence[str], *, macro: bool = True, ties: Ties = "first") -> list[AnyMetric]:
    """Return SPEC's metrics.

    Args:
        prefix: first part of the metric names.
        subsets: the subsets that are reported.
        macro: also report the means over the subsets.
        ties: tie policy; SPEC's harness takes the first of equal scores (torch.argmax).

    Returns:
        Per subset ``i2t_accuracy``, ``t2i_accuracy`` and their mean ``accuracy``; then the same three over all subsets.
    """
    metrics: list[AnyMetric] = []
    for subset in subsets:
        parts = tuple(f"{prefix}/{subset}/{task}_accuracy" for task in TASKS)
        metrics += [Metric(name, subset, task, ties=ties) for name, task in zip(parts, TASKS, strict=True)]
        metrics.append(Macro(f"{prefix}/{subset}/accuracy", parts))
    if macro:
        for task in TASKS:
            metrics.append(Macro(f"{prefix}/macro/{task}_accuracy", tuple(f"{prefix}/{subset}/{task}_accuracy" for subset in subsets)))
        # The mean of the two macros is the mean over all parts, because both have equally many.
        every = tuple(f"{prefix}/{subset}/{task}_accuracy" for task in TASKS for subset in subsets)
        metrics.append(Macro(f"{prefix}/macro/accuracy", every))
    return metrics


def _table(i2t: dict[str, float], t2i: dict[str, float]) -> dict[str, float]:
    return {f"spec/{name}/{task}_accuracy": value for task, row in (("i2t", i2t), ("t2i", t2i)) for name, value in row.items()}


_NOTEBOOK = "[repo] output of notebooks/evaluate_example_local.ipynb in the SPEC repository (released data and code)"
_PUBLISHED = (
    Published(
        "CLIP ViT-B/32 (openai)",
        _NOTEBOOK,
        _table(
            {
                "existence": 0.5700,
                "relative_spatial": 0.2710,
                "absolute_size": 0.4427,
                "relative_size": 0.3407,
                "count": 0.2527,
                "absolute_spatial": 0.1264,
                "macro": 0.3339,
            },
            {
                "existence": 0.5200,
                "relative_spatial": 0.2675,
                "absolute_size": 0.3627,
                "relative_size": 0.3247,
                "count": 0.2362,
                "absolute_spatial": 0.1220,
                "macro": 0.3055,
            },
        ),
    ),
    Published(
        "BLIP base, COCO (ITC)",
        _NOTEBOOK,
        _table(
            {
                "existence": 0.5550,
                "relative_spatial": 0.3065,
                "absolute_size": 0.4320,
                "relative_size": 0.3433,
                "count": 0.3687,
                "absolute_spatial": 0.1207,
                "macro": 0.3544,
            },
            {
                "existence": 0.5010,
                "relative_spatial": 0.2960,
                "absolute_size": 0.4307,
                "relative_size": 0.3327,
                "count": 0.3740,
                "absolute_spatial": 0.1158,
                "macro": 0.3417,
            },
        ),
    ),
    Published(
        "FLAVA",
        _NOTEBOOK + ", whose run was cut before the last subsets",
        _table(
            {"existence": 0.5790, "relative_spatial": 0.2580, "absolute_size": 0.3707, "relative_size": 0.3353, "count": 0.1400},
            {"existence": 0.5180, "relative_spatial": 0.2585, "absolute_size": 0.3667, "relative_size": 0.3307},
        ),
    ),
)


class Spec(FolderBenchmark):
    """SPEC in its official layout."""

    info: ClassVar[BenchmarkInfo] = BenchmarkInfo(
        name="spec",
        title="SPEC",
        summary="size, position, existence and count over image and text sets that differ in one attribute",
        url="https://github.com/wjpoom/SPEC",
        licence="data Apache-2.0 (Hugging Face dataset wjpoom/SPEC); the code repository has no licence file",
        bibtex="""@inproceedings{peng2024synthesize,
  title={Synthesize diagnose and optimize: Towards fine-grained vision-language understanding},
  author={Peng, Wujian and Xie, Sicheng and You, Zuyao and Lan, Shiyi and Wu, Zuxuan},
  booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages={13279--13288},
  year={2024}
}""",
        ties="first",
        official_counts={f"{subset}/{task}": count for subset, count in _QUERIES.items() for task in TASKS},
        published=_PUBLISHED,
        primary=("spec/macro/i2t_accuracy", "spec/macro/t2i_accuracy"),
    )
    selection: ClassVar[str] = "subsets"

    subsets: tuple[str, ...] = Field(SUBSETS, min_length=1, description="subsets to evaluate; the macro averages need all six")

    @field_validator("subsets")
    @classmethod
    def _known(cls, subsets: tuple[str, ...]) -> tuple[str, ...]:
        for subset in subsets:
            if subset not in SUBSETS:
                raise ValueError(f"SPEC has no subset '{subset}': {did_you_mean(subset, SUBSETS)}")
        return tuple(dict.fromkeys(subsets))

    def read(self, root: str, cache: str) -> Upstream:
        """Read the official layout, as the release's data.zip unpacks."""
        storage = open_storage(root)
        cases, files = read_spec_layout(storage, self.subsets)
        images = open_case_images(storage.uri, cache, files, fix="unpack data.zip of the SPEC dataset whole (fgray fetch spec DST)")
        return Upstream(cases, images)

    def metrics(self, cases: CaseSet) -> list[AnyMetric]:
        """Return per-subset accuracies and, with all six subsets, their means."""
        return spec_metrics("spec", self.subsets, macro=set(self.subsets) == set(SUBSETS))
