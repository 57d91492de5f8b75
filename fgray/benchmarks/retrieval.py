"""Image-text retrieval: every caption against all images, every image against all captions.

Recall@k is the share of queries with at least one right candidate among the first k, as CLIP's papers and CLIP_benchmark
count it (not the fraction of the right candidates). ``image_retrieval`` asks with a text, ``text_retrieval`` with an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field

from fgray.benchmarks.base import BenchmarkInfo, Published
from fgray.benchmarks.captions import Captioned, read_captions
from fgray.benchmarks.files import find_file, find_images, open_case_images, sha256_hex
from fgray.benchmarks.layout import FolderBenchmark, Row, Upstream
from fgray.config.places import UnderRoot
from fgray.data.cases import CaseSet
from fgray.data.index import image_key
from fgray.metrics.spec import AnyMetric, Metric
from fgray.storage import open_storage

RECALLS = (1, 5, 10)
Dataset = Literal["coco_karpathy", "coco_val2017", "flickr30k", "flickr8k", "captions"]

_COCO_BIBTEX = """@article{chen2015microsoft,
  title={Microsoft COCO Captions: Data Collection and Evaluation Server},
  author={Chen, Xinlei and Fang, Hao and Lin, Tsung-Yi and Vedantam, Ramakrishna and Gupta, Saurabh and
    Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  journal={arXiv preprint arXiv:1504.00325},
  year={2015}
}"""
_KARPATHY_BIBTEX = """@inproceedings{karpathy2015deep,
  title={Deep Visual-Semantic Alignments for Generating Image Descriptions},
  author={Karpathy, Andrej and Fei-Fei, Li},
  booktitle={Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition},
  year={2015}
}"""
_FLICKR30K_BIBTEX = """@article{young2014image,
  title={From image descriptions to visual denotations: New similarity metrics for semantic inference over event descriptions},
  author={Young, Peter and Lai, Alice and Hodosh, Micah and Hockenmaier, Julia},
  journal={Transactions of the Association for Computational Linguistics},
  volume={2},
  pages={67--78},
  year={2014}
}"""
_FLICKR8K_BIBTEX = """@article{hodosh2013framing,
  title={Framing Image Description as a Ranking Task: Data, Models and Evaluation Metrics},
  author={Hodosh, Micah and Young, Peter and Hockenmaier, Julia},
  journal={Journal of Artificial Intelligence Research},
  volume={47},
  pages={853--899},
  year={2013}
}"""


@dataclass(frozen=True)
class Source:
    """Where one data set's captions and images lie, and its facts.

    Attributes:
        title, url, licence, bibtex: for the report.
        annotations: usual names of the caption file; ``{split}`` stands for the split.
        folders: usual names of the image folder, "" for the root.
        counts: (images, captions) of the official test split.
        hashes: caption file of the test split -> sha256, where known.
        published: model, source, then text_retrieval R@1, 5, 10 and image_retrieval R@1, 5, 10 (None: not given).
    """

    title: str
    url: str
    licence: str
    bibtex: str
    annotations: tuple[str, ...]
    folders: tuple[str, ...]
    counts: tuple[int, int] | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    published: tuple[tuple[str, str, tuple[float | None, ...]], ...] = ()


_VL_COMPO = "[3p] vl_compo results.csv, QuickGELU"
_CLIP_BENCHMARK = "[repo] CLIP_benchmark benchmark.csv"

SOURCES: dict[str, Source] = {
    "coco_karpathy": Source(
        title="COCO retrieval, Karpathy split",
        url="https://cocodataset.org",
        licence="captions CC BY 4.0; images under their Flickr licences",
        bibtex=_COCO_BIBTEX + "\n" + _KARPATHY_BIBTEX,
        annotations=("coco_karpathy_{split}.json", "coco_{split}_karpathy.json"),
        folders=("", "val2014", "images"),
        counts=(5000, 25010),
        hashes={"coco_karpathy_test.json": "5b202a235ee2a4e13f82b984ef9293b8e2d34f9b1f92147bf8340580f20faf15"},
        published=(
            ("CLIP ViT-B/32 (openai)", _VL_COMPO, (0.5012, 0.7500, 0.8354, 0.3045, 0.5597, 0.6686)),
            ("NegCLIP ViT-B/32", _VL_COMPO, (0.5934, None, None, 0.4515, None, None)),
            ("CE-CLIP ViT-B/32", _VL_COMPO, (0.5604, None, None, 0.4709, None, None)),
            ("CLIP ViT-B-32 openai", _CLIP_BENCHMARK, (None, 0.7482, None, None, 0.5585, None)),
        ),
    ),
    "coco_val2017": Source(
        title="COCO retrieval, val2017 5K (as FineCLIP)",
        url="https://github.com/Timsty1/FineCLIP",
        licence="captions CC BY 4.0; images under their Flickr licences",
        bibtex=_COCO_BIBTEX,
        annotations=("coco_test.json",),
        folders=("val2017", "images", ""),
    ),
    "flickr30k": Source(
        title="Flickr30k retrieval",
        url="https://shannon.cs.illinois.edu/DenotationGraph",
        licence="non-commercial research; images under Flickr's terms",
        bibtex=_FLICKR30K_BIBTEX + "\n" + _KARPATHY_BIBTEX,
        annotations=("flickr30k_{split}_karpathy.txt", "flickr30k_{split}.json"),
        folders=("", "Images", "images", "flickr30k_images", "flickr30k-images"),
        counts=(1000, 5000),
        published=(
            ("CLIP ViT-B/32 (openai)", _VL_COMPO, (0.788, 0.949, 0.982, 0.5876, 0.835, 0.9004)),
            ("CLIP ViT-B-32 openai", _CLIP_BENCHMARK, (None, 0.9490, None, None, 0.8338, None)),
        ),
    ),
    "flickr8k": Source(
        title="Flickr8k retrieval",
        url="https://hockenmaier.cs.illinois.edu/8k-pictures.html",
        licence="non-commercial research; images under Flickr's terms",
        bibtex=_FLICKR8K_BIBTEX,
        annotations=("flickr8k_{split}_karpathy.txt", "captions.jsonl"),
        folders=("", "Images", "images"),
        counts=(1000, 5000),
    ),
    "captions": Source(
        title="Image-text retrieval",
        url="",
        licence="the data's own",
        bibtex="",
        annotations=("captions.jsonl",),
        folders=("", "images"),
    ),
}


class Retrieval(FolderBenchmark):
    """Image-text retrieval over one data set and split."""

    info: ClassVar[BenchmarkInfo] = BenchmarkInfo(
        name="retrieval",
        title="Image-text retrieval",
        summary="recall of the right image for a caption and of a right caption for an image, in a pool of all",
        url="https://github.com/LAION-AI/CLIP_benchmark",
        licence="the data set's own",
        bibtex="",
        ties="first",
    )

    dataset: Dataset = Field("captions", description="which data set; captions: a plain captions.jsonl with {image, split, captions}")
    split: str = Field("test", description="which split")
    annotations: UnderRoot | None = Field(None, description="caption file, relative to root; default: the data set's usual names")
    images: UnderRoot | None = Field(None, description="folder of the images, relative to root or of its own; default: the usual names")

    def facts(self) -> BenchmarkInfo:
        """Return the chosen data set's facts."""
        source = SOURCES[self.dataset]
        names = {task: [f"retrieval/{self.dataset}/{task}_recall@{k}" for k in RECALLS] for task in ("text_retrieval", "image_retrieval")}
        flat = names["text_retrieval"] + names["image_retrieval"]
        published = [
            Published(model, origin, {name: value for name, value in zip(flat, values, strict=True) if value is not None})
            for model, origin, values in source.published
        ]
        counts = {}
        if source.counts is not None and self.split == "test":
            counts = {f"{self.dataset}/text_retrieval": source.counts[0], f"{self.dataset}/image_retrieval": source.counts[1]}
        return BenchmarkInfo(
            name=f"{self.info.name}/{self.dataset}",
            title=source.title,
            summary=self.info.summary,
            url=source.url or self.info.url,
            licence=source.licence,
            bibtex=source.bibtex,
            ties=self.info.ties,
            official_counts=counts,
            official_hashes=source.hashes if self.split == "test" else {},
            published=published if self.split == "test" else (),
            primary=(names["text_retrieval"][0], names["image_retrieval"][0]),
        )

    def read(self, root: str, cache: str) -> Upstream:
        """Read the caption file, in whichever of the usual formats it is, and find its images."""
        storage = open_storage(root)
        source = SOURCES[self.dataset]
        names = [self.annotations] if self.annotations is not None else [name.format(split=self.split) for name in source.annotations]
        path = find_file(storage, names, f"the caption file of {source.title}", fix="put it there or set annotations: FILE")
        captioned = read_captions(storage, path, self.split)
        image_root = find_images(storage, self.images, source.folders, captioned[0].image)
        index = open_case_images(
            image_root, cache, (item.image for item in captioned), fix="unpack the images whole, or set images: FOLDER"
        )
        # Whatever the file is called here, it stands for the release's caption file.
        hashes = dict.fromkeys(source.hashes, sha256_hex(storage.read_bytes(path)))
        return Upstream(retrieval_cases(captioned, self.dataset), index, hashes)

    def metrics(self, cases: CaseSet) -> list[AnyMetric]:
        """Return recall at 1, 5 and 10 both ways."""
        return [
            Metric(f"retrieval/{self.dataset}/{task}_recall@{k}", self.dataset, task, k=k, ties="first")
            for task in ("text_retrieval", "image_retrieval")
            for k in RECALLS
        ]


def retrieval_cases(captioned: list[Captioned], subset: str) -> CaseSet:
    """Return one case per image (against all captions) and one per caption (against all images).

    Equal captions of different images stay separate candidates, as in the reference evaluators. An image and its captions
    are one cluster.
    """
    keys = [image_key(item.image) for item in captioned]
    texts = [caption for item in captioned for caption in item.captions]
    pools = {f"{subset}/images": keys, f"{subset}/captions": texts}
    rows: list[Row] = []
    start = 0
    for number, (key, item) in enumerate(zip(keys, captioned, strict=True)):
        labels = list(range(start, start + len(item.captions)))
        common = {"subset": subset, "cluster_id": key}
        rows.append(
            common
            | {"case_id": f"{subset}/text_retrieval/{number:06d}", "task": "text_retrieval", "query_kind": "image", "query": key}
            | {"candidate_kind": "text", "pool": f"{subset}/captions", "labels": labels}
        )
        rows += [
            common
            | {"case_id": f"{subset}/image_retrieval/{label:06d}", "task": "image_retrieval", "query_kind": "text", "query": texts[label]}
            | {"candidate_kind": "image", "pool": f"{subset}/images", "labels": [number]}
            for label in labels
        ]
        start += len(item.captions)
    return CaseSet.from_rows(rows, pools=pools)
