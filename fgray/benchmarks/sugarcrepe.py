"""SugarCrepe (Hsieh et al., NeurIPS 2023): one caption against one fluent hard negative, over COCO val2017 images.

Layout: ``data/NAME.json`` or ``NAME.json`` for seven categories, each ``{"0": {"filename", "caption", "negative_caption"}, …}``.
Correct: the caption scores strictly higher. Group accuracies are micro averages, as in the paper; the macro average is over
the seven categories.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator

from fgray.benchmarks.base import BenchmarkInfo, Published
from fgray.benchmarks.files import find_file, find_images, open_case_images, parse_json, sha256_hex
from fgray.benchmarks.layout import FolderBenchmark, Row, Upstream
from fgray.config.places import UnderRoot
from fgray.data.cases import CaseSet
from fgray.data.index import image_key
from fgray.errors import DataError, did_you_mean
from fgray.metrics.spec import AnyMetric, Macro, Metric, Pooled, Ties
from fgray.storage import open_storage

CATEGORIES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
GROUPS = ("replace", "swap", "add")
_FIELDS = ("filename", "caption", "negative_caption")
_IMAGE_FOLDERS = ("images", "val2017", "coco/val2017", "data/val2017", "")

_COUNTS = {
    "replace_obj": 1652,
    "replace_att": 788,
    "replace_rel": 1406,
    "swap_obj": 245,
    "swap_att": 666,
    "add_obj": 2062,
    "add_att": 692,
}
_HASHES = {
    "replace_obj.json": "9d299600639947e9d15281a9ded1382b376cf4ea088a8d08a1314bfe76e81898",
    "replace_att.json": "9fe55fd4c0a9ad1f85d486d9f6d0215b41f867eb025026e7f7b5ce44352545ee",
    "replace_rel.json": "356bcc2fc4c6aed3f4d9fd50acc58489bb1fe70c28791f9368d4cbf9ea39cdc9",
    "swap_obj.json": "073cdb8e253d053614e80710834d9773b09dbc1dd0a412f6f9492262caa1dcad",
    "swap_att.json": "7a7ce04e5c4c80412b48c6f0c1347fb1a2f5d54c0be6aa429b64d390e442f8d0",
    "add_obj.json": "1b9d76b93139a937b8dc1ada92a4f05ecc821bb3c291d752428bafadd4bb0682",
    "add_att.json": "012d88d729693d193760e6f3393b06a1cf874380a9db0062e937201199fe044d",
}


def _row(values: str, **groups: float) -> dict[str, float]:
    """Return metric name -> value for the seven categories in the order of `CATEGORIES`, and further groups."""
    table = dict(zip(CATEGORIES, (float(value) for value in values.split()), strict=True)) | groups
    return {f"sugarcrepe/{name}/accuracy": value for name, value in table.items()}


# The source's macro averages are left out: they do not follow from its own categories (CLIP 73.03, their mean is 73.05).
_REPLICATION = "[3p] vl_compo individual_results.csv, QuickGELU"
_PUBLISHED = (
    Published(
        "CLIP ViT-B/32 (openai)",
        _REPLICATION,
        _row(".9092 .8008 .6920 .6122 .6396 .7721 .6879", replace=0.8076, swap=0.6322, add=0.7509, all=0.7655),
    ),
    Published("NegCLIP ViT-B/32", _REPLICATION, _row(".9383 .8794 .7440 .7592 .7703 .9006 .8512")),
    Published("CE-CLIP ViT-B/32", _REPLICATION, _row(".9425 .9036 .8115 .7469 .7658 .9239 .9191")),
)


class SugarCrepe(FolderBenchmark):
    """SugarCrepe's official files with COCO val2017 images."""

    info: ClassVar[BenchmarkInfo] = BenchmarkInfo(
        name="sugarcrepe",
        title="SugarCrepe",
        summary="captions against fluent hard negatives that replace, swap or add objects, attributes and relations",
        url="https://github.com/RAIVNLab/sugar-crepe",
        licence="annotations MIT; images COCO val2017, each under its Flickr licence",
        bibtex="""@inproceedings{hsieh2023sugarcrepe,
  title={SugarCrepe: Fixing Hackable Benchmarks for Vision-Language Compositionality},
  author={Hsieh, Cheng-Yu and Zhang, Jieyu and Ma, Zixian and Kembhavi, Aniruddha and Krishna, Ranjay},
  booktitle={Advances in Neural Information Processing Systems (Datasets and Benchmarks Track)},
  year={2023}
}""",
        ties="wrong",
        official_counts={f"{name}/i2t": count for name, count in _COUNTS.items()},
        official_hashes=_HASHES,
        published=_PUBLISHED,
        primary=("sugarcrepe/replace/accuracy", "sugarcrepe/swap/accuracy", "sugarcrepe/add/accuracy"),
    )
    selection: ClassVar[str] = "categories"
    scoring: ClassVar[frozenset[str]] = frozenset({"ties"})

    categories: tuple[str, ...] = Field(
        CATEGORIES, min_length=1, description="categories to evaluate; a group's average needs the whole group"
    )
    images: UnderRoot | None = Field(
        None, description="folder of COCO val2017, relative to root or of its own; default: images, val2017, …"
    )
    ties: Ties = Field("wrong", description="what an exact tie of caption and negative counts as; the official code says wrong")

    @field_validator("categories")
    @classmethod
    def _known(cls, categories: tuple[str, ...]) -> tuple[str, ...]:
        for name in categories:
            if name not in CATEGORIES:
                raise ValueError(f"SugarCrepe has no category '{name}': {did_you_mean(name, CATEGORIES)}")
        return tuple(name for name in CATEGORIES if name in categories)

    def read(self, root: str, cache: str) -> Upstream:
        """Read the official annotation files and find their images."""
        storage = open_storage(root)
        rows: list[Row] = []
        files: dict[str, None] = {}
        hashes: dict[str, str] = {}
        for category in self.categories:
            name = f"{category}.json"
            path = find_file(
                storage, [f"data/{name}", name], f"SugarCrepe's {name}", fix="fetch the official files (fgray fetch sugarcrepe DST)"
            )
            data = storage.read_bytes(path)
            hashes[name] = sha256_hex(data)
            items = _read_items(parse_json(data, f"{storage.uri}/{path}"), f"{storage.uri}/{path}")
            files.update(dict.fromkeys(item["filename"] for item in items.values()))
            rows += [_case(category, number, item) for number, item in items.items()]
        image_root = find_images(storage, self.images, _IMAGE_FOLDERS, next(iter(files)))
        index = open_case_images(image_root, cache, files, fix="unpack COCO val2017.zip whole, or set images: FOLDER")
        return Upstream(CaseSet.from_rows(rows), index, hashes)

    def metrics(self, cases: CaseSet) -> list[AnyMetric]:
        """Return accuracies per category, then the micro averages of complete groups, of all, and the macro average."""
        names = {category: f"sugarcrepe/{category}/accuracy" for category in self.categories}
        metrics: list[AnyMetric] = [Metric(name, category, "i2t", ties=self.ties) for category, name in names.items()]
        for group in GROUPS:
            members = [category for category in CATEGORIES if category.startswith(group)]
            if all(member in names for member in members):
                metrics.append(Pooled(f"sugarcrepe/{group}/accuracy", tuple(names[member] for member in members)))
        if len(names) == len(CATEGORIES):
            metrics.append(Pooled("sugarcrepe/all/accuracy", tuple(names.values())))
            metrics.append(Macro("sugarcrepe/macro/accuracy", tuple(names.values())))
        return metrics


def _read_items(content: Any, where: str) -> dict[str, dict[str, str]]:
    """Check one annotation file; its keys need not be contiguous (swap_obj lacks one)."""
    if not isinstance(content, dict) or not content:
        raise DataError(
            "expected {number: {filename, caption, negative_caption}} with at least one entry", where=where, fix="use the official file"
        )
    for number, item in content.items():
        if not isinstance(item, dict) or not all(isinstance(item.get(name), str) for name in _FIELDS):
            raise DataError(
                "expected the texts filename, caption, negative_caption", where=f"{where} entry {number}", fix="use the official file"
            )
        if "/" in item["filename"] or "\\" in item["filename"]:
            raise DataError(f"'{item['filename']}' is not a plain file name", where=f"{where} entry {number}", fix="use the official file")
    return content


def _case(category: str, number: str, item: dict[str, str]) -> Row:
    key = image_key(item["filename"])
    return {
        "case_id": f"{category}/{number.zfill(4)}",
        "subset": category,
        "task": "i2t",
        "cluster_id": key,
        "query_kind": "image",
        "query": key,
        "candidate_kind": "text",
        "candidates": [item["caption"], item["negative_caption"]],
        "labels": [0],
    }
