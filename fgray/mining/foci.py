"""FOCI's file of multiple-choice questions (EMNLP 2024, arXiv 2406.14496): written as its own files are, and checked by their rules.

One JSON object on one line: ``{label: [{"image": path, "options": [labels], "groundtruth": label}, …]}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fgray.errors import DataError

FIELDS = ("image", "options", "groundtruth")
Questions = Mapping[str, Sequence[Mapping[str, Any]]]


def to_json(rows: Questions) -> bytes:
    """Return the file's bytes: as ``json.dumps`` writes by default, which is how FOCI's own files are written."""
    return json.dumps(rows).encode()


def read_foci(data: bytes, where: str, options: int = 4) -> Questions:
    """Read and check a file.

    Raises:
        DataError: it is no JSON, or what `check_foci` finds.
    """
    try:
        rows = json.loads(data, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})", where=where, fix="write the file again") from error
    check_foci(rows, where, options)
    return rows  # type: ignore[no-any-return]


def check_foci(rows: Any, where: str = "FOCI file", options: int = 4) -> None:
    """Refuse what breaks a rule that all of FOCI's own files keep.

    The rules: an object of labels, each with at least one question; a question has exactly the fields ``image``, ``options`` and
    ``groundtruth`` in this order; the image is a relative path and stands in the file once; the ground truth is the label that the
    question stands under, and the first option; there are exactly `options` options, all different and none empty.

    Wrong options need not be labels of the file: a part of a data set may be asked with the options of the whole.

    Args:
        rows: the file's content.
        where: its name, for messages.
        options: answers of a question.

    Raises:
        DataError: a rule is broken; the message names the label and the number of the question.
    """
    if not isinstance(rows, Mapping) or not rows:
        raise DataError("no object of labels with their questions", where=where, fix="write {label: [question, …]}")
    seen: dict[str, str] = {}
    for label, questions in rows.items():
        if not isinstance(label, str) or not label or not isinstance(questions, list) or not questions:
            raise DataError(f"label '{label}' has no list of questions", where=where, fix="leave such labels out")
        for number, question in enumerate(questions):
            place = f"{where}: {label} [{number}]"
            problem = _problem(question, label, options)
            if problem:
                raise DataError(problem, where=place, fix="mine the distractors again")
            if question["image"] in seen:
                raise DataError(
                    f"image {question['image']} stands also at {seen[question['image']]}", where=place, fix="ask of an image once"
                )
            seen[question["image"]] = f"{label} [{number}]"


def _problem(question: Any, label: str, count: int) -> str | None:
    """Return the first rule that a question breaks."""
    if not isinstance(question, Mapping) or tuple(question) != FIELDS:
        return f"the fields are not {', '.join(FIELDS)}"
    image, options, truth = (question[name] for name in FIELDS)
    if not isinstance(image, str) or not image or image.startswith("/") or ".." in image.split("/"):
        return "the image is not a relative path"
    if truth != label:
        return f"the ground truth is {truth!r}, the label {label!r}"
    if not isinstance(options, list) or not all(isinstance(option, str) and option for option in options):
        return "the options are not a list of labels"
    if len(options) != count or len(set(options)) != count:
        return f"not {count} different options"
    if options[0] != truth:
        return "the first option is not the ground truth"
    return None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return content
