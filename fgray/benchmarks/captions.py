"""Reads captioned images in the formats that retrieval benchmarks come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fgray.benchmarks.files import join_path, parse_json
from fgray.errors import DataError
from fgray.storage import Storage

_FORMATS = "lines of {image, split, captions}, a list of {image, caption}, COCO captions, or NAME.jpg,CAPTION under a header"


@dataclass(frozen=True)
class Captioned:
    """An image path and its captions."""

    image: str
    captions: list[str]


def read_captions(storage: Storage, path: str, split: str) -> list[Captioned]:
    """Read a caption file; its format is told by its name and content.

    - ``.jsonl``: a line ``{"image", "split", "captions"}`` per image; only lines of `split` are kept.
    - ``.json`` with a list of ``{"image", "caption": [text, …]}`` (BLIP's Karpathy files, ARO, FineCLIP).
    - ``.json`` with ``images`` and ``annotations`` (COCO captions; images in the order of their ids, as torchvision reads them).
    - ``.txt``: a header, then ``NAME.jpg,CAPTION`` lines; the lines of an image are gathered (CLIP_benchmark's Flickr files).

    Returns:
        Images in file order, each with at least one caption.

    Raises:
        DataError: another format, a row without its fields, no image of that split, or an image that stands twice.
    """
    where = f"{storage.uri}/{path}"
    data = storage.read_bytes(path)
    if path.endswith(".jsonl"):
        found = _from_lines(data, where, split)
    elif path.endswith(".txt"):
        found = _from_text(data, where)
    else:
        found = _from_json(parse_json(data, where), where)
    if not found:
        raise DataError(f"no images of split '{split}'", where=where, fix="check the split's name")
    seen: set[str] = set()
    result = []
    for image, captions in found:
        image = join_path("", image, where)
        if image in seen:
            raise DataError(f"image '{image}' stands twice", where=where, fix="gather its captions in one entry")
        if not captions:
            raise DataError(f"image '{image}' has no captions", where=where, fix="drop it or give it a caption")
        seen.add(image)
        result.append(Captioned(image, captions))
    return result


def _from_lines(data: bytes, where: str, split: str) -> list[tuple[str, list[str]]]:
    found = []
    splits: set[str] = set()
    for number, line in enumerate(_decode(data, where).split("\n"), start=1):  # splitlines would also cut inside captions, at U+2028
        if not line.strip():
            continue
        place = f"{where} line {number}"
        row = parse_json(line.encode(), place)
        if not isinstance(row, dict) or not isinstance(row.get("split", split), str):
            raise _unknown_format(place)
        splits.add(row.get("split", split))
        if row.get("split", split) == split:
            found.append(_entry(row, "captions", place))
    if not found and splits:
        raise DataError(f"no images of split '{split}'", where=where, fix=f"it has {', '.join(sorted(splits))}")
    return found


def _from_text(data: bytes, where: str) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for number, line in enumerate(_decode(data, where).split("\n")[1:], start=2):
        if not line.strip():
            continue
        # Captions hold commas, file names do not; the first ".jpg," ends the name.
        stem, comma, caption = line.strip().partition(".jpg,")
        if not comma:
            raise DataError("expected NAME.jpg,CAPTION", where=f"{where} line {number}", fix=f"use one of: {_FORMATS}")
        found.setdefault(stem + ".jpg", []).append(caption)
    return list(found.items())


def _from_json(content: Any, where: str) -> list[tuple[str, list[str]]]:
    if isinstance(content, list):
        return [_entry(row, "caption", f"{where} row {number}") for number, row in enumerate(content)]
    if isinstance(content, dict) and isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
        try:
            names = {image["id"]: str(image["file_name"]) for image in content["images"]}
            captions: dict[Any, list[str]] = {number: [] for number in names}
            for annotation in content["annotations"]:
                captions[annotation["image_id"]].append(str(annotation["caption"]))
            return [(names[number], captions[number]) for number in sorted(names)]
        except (KeyError, TypeError) as error:
            raise DataError(f"not COCO captions ({error!r})", where=where, fix="use the official file") from error
    raise _unknown_format(where)


def _entry(row: Any, field: str, place: str) -> tuple[str, list[str]]:
    image = row.get("image") if isinstance(row, dict) else None
    captions = row.get(field) if isinstance(row, dict) else None
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(image, str) or not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise _unknown_format(place)
    return image, captions


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=where, fix=f"use one of: {_FORMATS}") from error


def _unknown_format(where: str) -> DataError:
    return DataError("unknown caption format", where=where, fix=f"use one of: {_FORMATS}")
