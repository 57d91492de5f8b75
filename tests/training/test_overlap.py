from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fgray.errors import DataError
from fgray.training.overlap import check_disjoint
from fgray.training.sources import load_sources
from tests.small_data import write_spec
from tests.training.small_sources import train_job, write_pairs


def test_a_job_that_names_its_own_images_is_refused(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "spec", cases=2, subsets=("existence",), seed=5)  # other pictures than the pairs have
    section = write_pairs(tmp_path, {f"k{i}": [f"text {i}"] for i in range(6)})
    benchmark = {"name": "spec", "root": str(spec), "subsets": ["existence"]}
    job = train_job([{"pairs": section}], disjoint_from=[benchmark], compute={"runner": "serial"})
    cache = str(tmp_path / "cache")
    check_disjoint(job, load_sources(job, cache), cache)  # nothing in common
    for number, path in enumerate(sorted((spec / "existence" / "images").iterdir())):
        Image.open(path).save(tmp_path / "images" / f"k{number}.png")
    with pytest.raises(DataError) as caught:
        check_disjoint(job, load_sources(job, cache), cache)
    text = str(caught.value)
    assert "4 of the images are in the evaluation set spec: 'k0' is 'existence/images/000_0' (the same picture), " in text
    assert " and 1 more [file]: take them out" in text and "'k3'" not in text and "\n" not in text
    free = job.model_copy(update={"disjoint_from": []})
    check_disjoint(free, load_sources(free, cache), cache)


def test_pairs_from_a_file_as_evaluation_set(tmp_path: Path) -> None:
    section = write_pairs(tmp_path, {"a": ["a dog"], "b": ["a cat"]})
    job = train_job([{"pairs": section}], disjoint_from=[section], compute={"runner": "serial"})
    with pytest.raises(DataError, match="2 of the images are in the evaluation set file: 'a' is 'a' .the same file.*'b' is 'b'"):
        check_disjoint(job, load_sources(job, str(tmp_path / "c")), str(tmp_path / "c"))
    blind = train_job([{"pairs": section}], disjoint_from=[{**section, "images": None}], compute={"runner": "serial"})
    with pytest.raises(DataError, match="does not say where its images lie"):
        check_disjoint(blind, load_sources(job, str(tmp_path / "c")), str(tmp_path / "c"))
