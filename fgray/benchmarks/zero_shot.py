"""Zero-shot classification: an image against one prototype per class, the mean of the class's prompts.

Layouts: class folders; files whose names carry the class (`pattern`); CLIP_benchmark's WebDataset folders. Reported are acc1,
acc5 (from five classes on) and the mean per-class recall (balanced accuracy), as CLIP_benchmark names them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, field_validator

from fgray.benchmarks.base import BenchmarkInfo, Published
from fgray.benchmarks.files import open_case_images, read_bytes, text_lines
from fgray.benchmarks.layout import FolderBenchmark, Upstream
from fgray.benchmarks.prompts import DEFAULT_TEMPLATES, name_classes, prompt_texts, prompts_hash, read_list
from fgray.benchmarks.wds_classification import read_wds
from fgray.config.places import UnderRoot
from fgray.data.cases import CaseSet
from fgray.data.index import ImageIndex, image_key, list_images
from fgray.errors import DataError
from fgray.metrics.spec import AnyMetric, Metric
from fgray.storage import Storage, open_storage

_CLIP_BENCHMARK = "[repo] CLIP_benchmark benchmark.csv (ViT-B-32 openai)"

_IMAGENET_PROMPTS = "ab9302beb83fb6e2088871af4fb9b5f6d0934acd036318a013fa8888eeaece81"
# data set -> number of test images [mem: unverified], accuracy [repo], sha256 of class names and templates (see `prompts_hash`)
_OFFICIAL: dict[str, tuple[int, float, str]] = {
    "imagenet1k": (50_000, 0.6333, _IMAGENET_PROMPTS),
    "imagenetv2": (10_000, 0.5596, _IMAGENET_PROMPTS),
    "imagenet_sketch": (50_889, 0.4230, _IMAGENET_PROMPTS),
    "country211": (21_100, 0.1715, "db76e993166c64f460ec1b289f84ab38bc017b97e712d148d372e91d8031043c"),
    "gtsrb": (12_630, 0.3311, "2370c479c88f17080a64928d771e1fdaaebd09ec75a3b47322501f2f703b51da"),
    "mnist": (10_000, 0.4855, "9ae9b789f3b70a87c59f0174d525938c52d433cf65f4f907f76bc3ebc4398b58"),
    "pets": (3_669, 0.8733, "258fa91bbbc97c079671c70a6a0eddfc2fc0ce3683943cbb6d2ad55f24bed9e3"),
    "flowers": (6_149, 0.6630, "dd28f57e8dd57778c05c8d561af17d0c12cc9cf1b371fe27a3969c8096642925"),
}

_BIBTEX = """@inproceedings{radford2021learning,
  title={Learning Transferable Visual Models From Natural Language Supervision},
  author={Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and Agarwal, Sandhini and others},
  booktitle={International Conference on Machine Learning},
  year={2021}
}
@software{cherti_clip_benchmark,
  title={CLIP benchmark},
  author={Cherti, Mehdi and Beaumont, Romain},
  url={https://github.com/LAION-AI/CLIP_benchmark}
}"""


class ZeroShot(FolderBenchmark):
    """Zero-shot classification of one data set."""

    info: ClassVar[BenchmarkInfo] = BenchmarkInfo(
        name="zero_shot",
        title="Zero-shot classification",
        summary="the class whose prompts' mean embedding is nearest to the image",
        url="https://github.com/LAION-AI/CLIP_benchmark",
        licence="the data set's own",
        bibtex=_BIBTEX,
        ties="first",
    )

    dataset: str = Field(
        "custom", pattern=r"^[A-Za-z0-9_.-]+$", description="name in the metrics; CLIP_benchmark's names bring its numbers"
    )
    split: str = Field("test", description="which split of a WebDataset folder")
    classes: UnderRoot | list[str] | dict[str, str] | None = Field(
        None, description="a list in class order, {folder: name}, or a file (.json, .txt, FILE.json#KEY); default: the folders' names"
    )
    templates: UnderRoot | list[str] | None = Field(
        None, description="prompt templates with {c}: a list or a file; default: 'a photo of a {c}.'"
    )
    pattern: str | None = Field(
        None, description="regular expression on an image's path with a group 'index' (position in classes) or 'name' (class folder)"
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groupindex
            except re.error as error:
                raise ValueError(f"not a regular expression ({error})") from error
            if len({"index", "name"} & set(groups)) != 1:
                raise ValueError("needs exactly one of the groups (?P<index>…) and (?P<name>…)")
        return pattern

    def facts(self) -> BenchmarkInfo:
        """Return the chosen data set's facts."""
        metric = f"zero_shot/{self.dataset}/acc1"
        counts, hashes, published = {}, {}, []
        if self.dataset in _OFFICIAL and self.split == "test":
            count, accuracy, prompts = _OFFICIAL[self.dataset]
            counts = {f"{self.dataset}/classify": count}
            hashes = {"prompts": prompts}
            published = [Published("CLIP ViT-B/32 (openai)", _CLIP_BENCHMARK, {metric: accuracy})]
        return BenchmarkInfo(
            name=f"{self.info.name}/{self.dataset}",
            title=f"Zero-shot classification, {self.dataset}",
            summary=self.info.summary,
            url=self.info.url,
            licence=self.info.licence,
            bibtex=self.info.bibtex,
            ties=self.info.ties,
            official_counts=counts,
            official_hashes=hashes,
            published=published,
            primary=(metric,),
        )

    def read(self, root: str, cache: str) -> Upstream:
        """Read class folders, named files, or a CLIP_benchmark WebDataset folder."""
        storage = open_storage(root)
        templates = self._texts(storage, self.templates, "templates")
        if self.pattern is None and _is_wds(storage, self.split):
            index, labels = read_wds(storage, self.split, cache)
            keys = list(labels)
            positions = list(labels.values())
            names = self._texts(storage, self.classes, "class names") or _lines(storage, "classnames.txt")
            templates = templates or _lines(storage, "zeroshot_classification_templates.txt")
        else:
            index, keys, names, positions = self._read_files(storage, cache)
        return self._upstream(keys, positions, names, templates or list(DEFAULT_TEMPLATES), index, storage.uri)

    def _read_files(self, storage: Storage, cache: str) -> tuple[ImageIndex, list[str], list[str], list[int]]:
        files = [info.path for info in list_images(storage).values()]
        classes = self.classes
        if isinstance(classes, str):
            classes = read_list(storage, classes, "class names")
        by_index = self.pattern is not None and "(?P<index>" in self.pattern
        labels = [_label(path, self.pattern, storage.uri) for path in files]
        if by_index:
            if not isinstance(classes, list):
                raise DataError("an index in file names needs classes as a list", where=storage.uri, fix="set classes: FILE or a list")
            names, positions = classes, [int(label) for label in labels]
        else:
            names, order = name_classes(labels, classes, storage.uri)
            positions = [order[label] for label in labels]
        index = open_case_images(storage.uri, cache, files, fix="restore it")
        return index, [image_key(path) for path in files], names, positions

    def _upstream(
        self, keys: Sequence[str], positions: Sequence[int], names: Sequence[str], templates: Sequence[str], index: ImageIndex, where: str
    ) -> Upstream:
        if len(names) < 2:
            raise DataError(f"{len(names)} class to choose from", where=where, fix="give at least two classes")
        for key, position in zip(keys, positions, strict=True):
            if not 0 <= position < len(names):
                raise DataError(
                    f"label out of range: {position} for {len(names)} classes",
                    where=f"{where} image {key}",
                    fix="correct classes or labels",
                )
        pool = f"{self.dataset}/classes"
        # Two classes may share a name (ImageNet has such pairs); the category tells them apart, the candidate's text cannot.
        categories = [name if list(names).count(name) == 1 else f"{name} [{number}]" for number, name in enumerate(names)]
        rows = [
            {
                "case_id": f"{self.dataset}/{number:07d}",
                "subset": self.dataset,
                "task": "classify",
                "cluster_id": key,
                "category": categories[position],
                "query_kind": "image",
                "query": key,
                "candidate_kind": "prototype",
                "pool": pool,
                "labels": [position],
            }
            for number, (key, position) in enumerate(zip(keys, positions, strict=True))
        ]
        cases = CaseSet.from_rows(rows, pools={pool: list(names)}, prototypes=prompt_texts(names, templates))
        return Upstream(cases, index, {"prompts": prompts_hash(names, templates)})

    @staticmethod
    def _texts(storage: Storage, value: str | Sequence[str] | dict[str, str] | None, what: str) -> list[str]:
        if isinstance(value, str):
            value = read_list(storage, value, what)
        return [] if value is None else list(value.values() if isinstance(value, dict) else value)

    def metrics(self, cases: CaseSet) -> list[AnyMetric]:
        """Return acc1, acc5 from five classes on, and mean_per_class_recall."""
        name = f"zero_shot/{self.dataset}"
        classes = len(cases.pools[f"{self.dataset}/classes"])
        metrics: list[AnyMetric] = [Metric(f"{name}/acc1", self.dataset, "classify", ties="first")]
        if classes >= 5:
            metrics.append(Metric(f"{name}/acc5", self.dataset, "classify", k=5, ties="first"))
        metrics.append(Metric(f"{name}/mean_per_class_recall", self.dataset, "classify", ties="first", per_category=True))
        return metrics


def _is_wds(storage: Storage, split: str) -> bool:
    return storage.exists(f"{split}/nshards.txt") or any(info.path.endswith(".tar") for info in storage.list(split))


def _label(path: str, pattern: str | None, where: str) -> str:
    if pattern is None:
        folder, slash, _ = path.partition("/")
        if not slash:
            raise DataError(f"image {path} is in no class folder", where=where, fix="set pattern: to read classes from file names")
        return folder
    match = re.search(pattern, path)
    groups = match.groupdict() if match else {}
    label = groups.get("index") or groups.get("name")
    if label is None:
        raise DataError(f"pattern does not match image {path}", where=where, fix="correct the pattern or move the file away")
    if "index" in groups and not label.isdecimal():
        raise DataError(
            f"'{label}' is not a class index", where=f"{where} image {path}", fix=r"let the group 'index' match digits: (?P<index>\d+)"
        )
    return label


def _lines(storage: Storage, name: str) -> list[str]:
    return text_lines(read_bytes(storage, name, f"CLIP_benchmark layout: {name}"), f"{storage.uri}/{name}")
