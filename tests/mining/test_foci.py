"""The rules of FOCI's files hold for every real one, and a file that breaks one is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fgray.errors import DataError
from fgray.mining.foci import check_foci, read_foci, to_json

FILES = {
    "cub30": (30, 600),
    "fgvc_aircraft-ViT-L-14-laion2b_s32b_b82k-4": (100, 3333),
    "flowers102-ViT-L-14-laion2b_s32b_b82k-4": (102, 6149),
    "oxford_pet-ViT-L-14-laion2b_s32b_b82k-4": (37, 3669),
}


@pytest.mark.parametrize("name", FILES)
def test_the_real_files_keep_the_rules_and_are_written_byte_for_byte(data_root: Path, name: str) -> None:
    data = (data_root / "annotations" / "foci" / f"{name}.json").read_bytes()
    rows = read_foci(data, name)
    assert (len(rows), sum(map(len, rows.values()))) == FILES[name]
    assert to_json(rows) == data


Rows = dict[str, Any]


def first(rows: Rows) -> dict[str, Any]:
    """The first question of the file."""
    return next(iter(rows.values()))[0]


def swap_fields(rows: Rows) -> None:
    questions = next(iter(rows.values()))
    questions[0] = dict(reversed(questions[0].items()))


def swap_options(rows: Rows) -> None:
    options = first(rows)["options"]
    options[0], options[3] = options[3], options[0]


def move_question(rows: Rows) -> None:
    here, there = list(rows.values())[:2]
    there.append(here.pop())


DAMAGE: dict[str, tuple[Callable[[Rows], object], str]] = {
    "no_labels": (lambda rows: rows.clear(), "no object of labels"),
    "label_without_questions": (lambda rows: rows.update({"new": []}), "label 'new' has no list"),
    "questions_in_an_object": (lambda rows: rows.update({"new": {"image": "a.jpg"}}), "label 'new' has no list"),
    "empty_label": (lambda rows: rows.update({"": [first(rows)]}), "label '' has no list"),
    "field_lost": (lambda rows: first(rows).pop("groundtruth"), "the fields are not image, options, groundtruth"),
    "field_added": (lambda rows: first(rows).update(score=1), "the fields are not"),
    "fields_in_another_order": (swap_fields, "the fields are not"),
    "question_is_a_list": (lambda rows: next(iter(rows.values())).insert(0, ["a.jpg"]), "the fields are not"),
    "absolute_path": (lambda rows: first(rows).update(image="/media/a.jpg"), "not a relative path"),
    "path_leads_out": (lambda rows: first(rows).update(image="images/../../a.jpg"), "not a relative path"),
    "no_path": (lambda rows: first(rows).update(image=""), "not a relative path"),
    "image_twice": (lambda rows: first(rows).update(image=list(rows.values())[-1][-1]["image"]), "stands also at"),
    "truth_is_another": (lambda rows: first(rows).update(groundtruth=first(rows)["options"][1]), "the ground truth is"),
    "under_the_wrong_label": (move_question, "the ground truth is"),
    "three_options": (lambda rows: first(rows)["options"].pop(), "not 4 different options"),
    "five_options": (lambda rows: first(rows)["options"].append("x"), "not 4 different options"),
    "option_twice": (lambda rows: first(rows)["options"].__setitem__(2, first(rows)["options"][3]), "not 4 different options"),
    "truth_among_the_wrong": (lambda rows: first(rows)["options"].__setitem__(2, first(rows)["options"][0]), "not 4 different options"),
    "truth_is_last": (swap_options, "the first option is not the ground truth"),
    "empty_option": (lambda rows: first(rows)["options"].__setitem__(2, ""), "not a list of labels"),
    "number_as_option": (lambda rows: first(rows)["options"].__setitem__(2, 7), "not a list of labels"),
    "options_as_text": (lambda rows: first(rows).update(options="abcd"), "not a list of labels"),
}


@pytest.fixture(scope="module")
def whole(data_root: Path) -> Rows:
    rows: Rows = json.loads((data_root / "annotations" / "foci" / "cub30.json").read_bytes())
    return rows


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused(whole: Rows, name: str) -> None:
    damage, message = DAMAGE[name]
    rows = copy.deepcopy(whole)
    check_foci(rows)
    damage(rows)
    with pytest.raises(DataError, match=message):
        check_foci(rows)


@pytest.mark.parametrize("data", [b"[]", b"{", b"\xff", b'{"a": [], "a": []}', b'{"a": null}'])
def test_what_is_no_such_file_is_one_clear_line(data: bytes) -> None:
    with pytest.raises(DataError, match=r"\[there") as caught:
        read_foci(data, "there")
    assert "\n" not in str(caught.value)


def test_the_number_of_options_is_the_caller_s() -> None:
    rows = {"a": [{"image": "x.jpg", "options": ["a", "b"], "groundtruth": "a"}]}
    check_foci(rows, options=2)
    with pytest.raises(DataError, match="not 4 different"):
        check_foci(rows)
