"""Box classification: a box or mask of a picture against one prototype per class, as CLIPSelf and FineCLIP evaluate it.

Both score COCO's panoptic validation set: RoIAlign over dense features (``roi``), the embedding of the cut-out
(``crop``), or the mean of dense features under the mask (``mask``), against the 63-template embeddings of all classes. The number is the
mean over classes of the share of their boxes that are right, over the classes that occur. CLIPSelf takes it over things and over stuff,
pictures letter-boxed to 1024 px; FineCLIP over both together, pictures squashed to the model's size. These differ by tens of points, so
input size, resize mode, enlargement and class set stand in every metric's name.

The published code rounds the share of each class to half precision before it averages; that moves the mean by at most 2^-12, less than
the tenth of a percent to which the numbers are printed, and is not repeated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from fgray.benchmarks.annotated_boxes import AnnotatedBox, annotated_boxes
from fgray.benchmarks.base import BenchmarkInfo, Published
from fgray.benchmarks.files import find_file, find_images, open_case_images, read_json, sha256_hex
from fgray.benchmarks.layout import FolderBenchmark, Row, Upstream
from fgray.benchmarks.prompts import read_list
from fgray.benchmarks.vild_prompts import VILD_TEMPLATES, class_prompts
from fgray.config.places import UnderRoot
from fgray.data.cases import CaseSet
from fgray.data.coco_boxes import CocoBoxes, read_boxes, read_panoptic
from fgray.data.index import image_key
from fgray.data.regions import Mode, Resize, region_table
from fgray.errors import ConfigError, DataError
from fgray.metrics.spec import AnyMetric, Metric
from fgray.storage import Storage, open_storage

ClassSet = Literal["all", "things", "stuff"]
PANOPTIC = "coco_panoptic"
_RELEASE = "5000 images, 80 things, 53 stuff"
_ENLARGE = 1.5

_BIBTEX = """@inproceedings{wu2024clipself,
  title={{CLIPSelf}: Vision Transformer Distills Itself for Open-Vocabulary Dense Prediction},
  author={Wu, Size and Zhang, Wenwei and Xu, Lumin and Jin, Sheng and Li, Xiangtai and Liu, Wentao and Loy, Chen Change},
  booktitle={International Conference on Learning Representations},
  year={2024}
}
@inproceedings{jing2024fineclip,
  title={{FineCLIP}: Self-distilled Region-based {CLIP} for Better Fine-grained Understanding},
  author={Jing, Dong and He, Xiaolong and Luo, Yutian and Fei, Nanyi and Yang, Guoxing and Wei, Wei and Zhao, Huiwen and Lu, Zhiwu},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}
@inproceedings{kirillov2019panoptic,
  title={Panoptic Segmentation},
  author={Kirillov, Alexander and He, Kaiming and Girshick, Ross and Rother, Carsten and Doll{\\'a}r, Piotr},
  booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2019}
}"""

# mode -> class set -> class-mean top-1 and top-5 of an EVA-02-CLIP B/16 in CLIPSelf's protocol at 1024 px.
_CLIPSELF: dict[Mode, dict[ClassSet, tuple[float, float]]] = {
    "roi": {"things": (0.182, 0.332), "stuff": (0.137, 0.368)},
    "crop": {"things": (0.684, 0.864), "stuff": (0.229, 0.574)},
    "mask": {"things": (0.174, 0.320), "stuff": (0.163, 0.405)},
}

_CLIPSELF_SETTINGS: dict[Mode, str] = {"roi": "roi_1024_letterbox", "crop": "crop_224_letterbox", "mask": "mask_1024_letterbox"}


class BoxClassification(FolderBenchmark):
    """Classification of COCO's boxes and masks."""

    info: ClassVar[BenchmarkInfo] = BenchmarkInfo(
        name="box_classification",
        title="Box classification",
        summary="the class whose prompts' mean embedding is nearest to a box of the picture; averaged over classes",
        url="https://github.com/wusize/CLIPSelf",
        licence="annotations CC BY 4.0; images under their Flickr licences",
        bibtex=_BIBTEX,
        ties="wrong",
    )

    protocol: Literal["fineclip", "clipself"] = Field(
        "fineclip",
        description="fineclip: roi, squash, all classes together, 224 px; clipself: roi, crop and mask, letterbox, things and stuff apart, "
        "1024 px; the options below change parts of it",
    )
    dataset: str = Field(PANOPTIC, pattern=r"^[A-Za-z0-9_.-]+$", description="name in the metrics; coco_panoptic brings published numbers")
    modes: list[Mode] = Field(default_factory=list, description="roi (dense features), crop, mask; default: the protocol's")
    sets: list[ClassSet] = Field(default_factory=list, description="classes averaged over: all, things, stuff; default: the protocol's")
    size: int = Field(0, ge=0, description="side of the picture for roi and mask in px; 0: the protocol's")
    crop_size: int = Field(224, ge=1, description="side of a crop in px: the model's own input size")
    resize: Resize | None = Field(None, description="squash or letterbox; default: the protocol's")
    enlarge: float = Field(_ENLARGE, ge=1, description="a crop of a thing is its box enlarged so many times about its centre")
    annotations: UnderRoot | None = Field(None, description="panoptic or instances JSON, relative to root; default: the usual names")
    segments: UnderRoot | None = Field(
        None, description="folder of the panoptic PNGs, relative to root; default: beside the JSON, by its name"
    )
    images: UnderRoot | None = Field(None, description="folder of the images, relative to root or of its own; default: the usual names")
    templates: UnderRoot | list[str] | None = Field(None, description="prompts with {} and {article}: a list or a file; default: ViLD's 63")

    @field_validator("modes", "sets")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) != len(names):
            raise ValueError("one of them stands twice")
        return names

    # What the protocol says where an option does not; the options stay as they were given, since a packed folder compares those.

    def chosen_modes(self) -> list[Mode]:
        """Return the modes that are scored."""
        return self.modes or (["roi"] if self.protocol == "fineclip" else ["roi", "crop", "mask"])

    def chosen_sets(self) -> list[ClassSet]:
        """Return the class sets that are averaged over."""
        return self.sets or (["all"] if self.protocol == "fineclip" else ["things", "stuff"])

    def setting(self, mode: Mode) -> tuple[int, Resize, str]:
        """Return a mode's input size in px, its resize mode, and both in words, as the metrics' names have them."""
        resize = self.resize or ("squash" if self.protocol == "fineclip" else "letterbox")
        size = self.crop_size if mode == "crop" else self.size or (224 if self.protocol == "fineclip" else 1024)
        enlarged = f"_x{self.enlarge:g}" if mode == "crop" and self.enlarge != _ENLARGE else ""
        return size, resize, f"{mode}_{size}_{resize}{enlarged}"

    def facts(self) -> BenchmarkInfo:
        """Return the facts; published numbers belong to CLIPSelf's protocol at 1024 px."""
        name = f"{self.info.name}/{self.dataset}"
        official = self.dataset == PANOPTIC
        values = {
            f"{name}/{words}_{one}_of_133/class_mean_accuracy@{k}": value
            for mode in self.chosen_modes()
            for one in self.chosen_sets()
            for words in [self.setting(mode)[2]]
            if official and words == _CLIPSELF_SETTINGS[mode] and one in _CLIPSELF[mode]
            for k, value in zip((1, 5), _CLIPSELF[mode][one], strict=True)
        }
        source = "[issue] CLIPSelf #28 and #40, figures that users ran before tuning; which weights is inferred"
        return BenchmarkInfo(
            name=name,
            title=f"Box classification, {'COCO panoptic' if official else self.dataset}",
            summary=self.info.summary,
            url=self.info.url,
            licence=self.info.licence,
            bibtex=self.info.bibtex,
            ties=self.info.ties,
            official_hashes={"release": _RELEASE, "templates": _digest(VILD_TEMPLATES)} if official else {},
            published=[Published("EVA-02-CLIP B/16, not tuned", source, values)] if values else (),
        )

    def counts_match(self, cases: CaseSet) -> bool:
        """Return whether the data can be the official release; `hashes_match` says whether it is."""
        return self.dataset == PANOPTIC

    def read(self, root: str, cache: str) -> Upstream:
        """Read a panoptic file with its PNGs, or a file of instances, whose classes are all things."""
        storage = open_storage(root)
        names = ["annotations/panoptic_val2017.json", "panoptic_val2017.json"] if self.annotations is None else [self.annotations]
        path = find_file(storage, names, "the annotation file", fix="put it there or set annotations: FILE")
        where = f"{storage.uri}/{path}"
        found = self._annotations(storage, path)
        segments = path.removesuffix(".json") if self.segments is None else self.segments
        boxes = list(annotated_boxes(found, storage, segments, "mask" in self.chosen_modes(), where))
        if not boxes:
            raise DataError("no box to classify", where=where, fix="check that it is the right file")
        templates = self._templates(storage)
        image_root = find_images(storage, self.images, ("val2017", "images", ""), boxes[0].file_name)
        index = open_case_images(
            image_root, cache, dict.fromkeys(box.file_name for box in boxes), fix="unpack the images whole, or set images: FOLDER"
        )
        count = sum(map(len, found.boxes.values()))
        notes = [f"{len(boxes):,} of {count:,} boxes are scored: the first hundred of a picture, of 8² to 1024² square pixels"]
        hashes = {"release": _release(found), "templates": _digest(templates)}
        return Upstream(self._cases(found, boxes, templates, where), index, hashes, notes)

    @staticmethod
    def _annotations(storage: Storage, path: str) -> CocoBoxes:
        content = read_json(storage, path)
        annotations = content.get("annotations") if isinstance(content, dict) else None
        instances = isinstance(annotations, list) and any(isinstance(one, dict) and "bbox" in one for one in annotations[:1])
        return read_boxes(storage, path) if instances else read_panoptic(storage, path)

    def _templates(self, storage: Storage) -> list[str]:
        if self.templates is None:
            return list(VILD_TEMPLATES)
        found = read_list(storage, self.templates, "templates") if isinstance(self.templates, str) else self.templates
        templates = list(found.values()) if isinstance(found, dict) else list(found)
        wrong = [template for template in templates if "{}" not in template]
        if wrong:
            raise ConfigError(f"template '{wrong[0]}' has no place for the class name", where="templates", fix="write {} where it belongs")
        return templates

    def _cases(self, found: CocoBoxes, boxes: Sequence[AnnotatedBox], templates: Sequence[str], where: str) -> CaseSet:
        names = [category.name for category in found.categories]
        if len(names) < 2 or len(set(names)) != len(names):
            raise DataError("classes need distinct names, at least two", where=where, fix="correct the categories")
        label = {category.id: number for number, category in enumerate(found.categories)}
        pool = f"{self.dataset}/classes"
        rows: list[Row] = []
        regions: list[dict[str, Any]] = []
        for mode in self.chosen_modes():
            setting = self.setting(mode)[2]
            for box in boxes:
                sets = [one for one in self.chosen_sets() if one == "all" or (one == "things") == box.is_thing]
                if not sets:
                    continue
                key = image_key(box.file_name)
                region = f"{key}/{box.id}/{setting}"
                regions.append({"region_id": region, "key": key, **self._region(mode, box)})
                common = {"task": "classify", "cluster_id": key, "category": names[label[box.category]], "labels": [label[box.category]]}
                asked = {"query_kind": "region", "query": region, "candidate_kind": "prototype", "pool": pool}
                for one in sets:
                    subset = f"{setting}_{one}_of_{len(names)}"
                    rows.append({"case_id": f"{subset}/{key}/{box.id}", "subset": subset, **common, **asked})
        prototypes = {name: class_prompts(name, templates) for name in names}
        return CaseSet.from_rows(rows, pools={pool: names}, prototypes=prototypes, regions=region_table(regions))

    def _region(self, mode: Mode, box: AnnotatedBox) -> dict[str, Any]:
        size, resize, _ = self.setting(mode)
        return {
            "mode": mode,
            **dict(zip("xywh", box.box, strict=True)),
            "mask": box.mask if mode == "mask" else None,
            # Stuff is cropped along its tight box.
            "enlarge": self.enlarge if mode == "crop" and box.is_thing else 1.0,
            "size": size,
            "resize": resize,
        }

    def metrics(self, cases: CaseSet) -> list[AnyMetric]:
        """Return the mean over classes at 1 and 5, and the share of all boxes at 1, of every mode and class set that has boxes."""
        name = f"{self.info.name}/{self.dataset}"
        classes = len(next(iter(cases.pools.values())))
        present = set(cases.table["subset"].to_pylist())
        metrics: list[AnyMetric] = []
        for mode in self.chosen_modes():
            for one in self.chosen_sets():
                subset = f"{self.setting(mode)[2]}_{one}_of_{classes}"
                if subset not in present:
                    continue
                for k in (1, 5) if classes > 5 else (1,):
                    metrics.append(
                        Metric(f"{name}/{subset}/class_mean_accuracy@{k}", subset, "classify", k=k, ties="wrong", per_category=True)
                    )
                metrics.append(Metric(f"{name}/{subset}/box_accuracy@1", subset, "classify", ties="wrong"))
        return metrics


def _release(found: CocoBoxes) -> str:
    things = sum(category.is_thing for category in found.categories)
    return f"{len(found.images)} images, {things} things, {len(found.categories) - things} stuff" if found.segments else "instances"


def _digest(templates: Sequence[str]) -> str:
    return sha256_hex("\n".join(sorted(templates)).encode())
