"""The negatives file: what is written comes back; what is damaged, foreign or self-contradictory is refused in one line."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgray.data.negatives import NEGATIVE_SCHEMA, read_negatives, to_parquet
from fgray.errors import DataError, NotFound

NEGATIVE = {
    "ref": "a red car", "score": None, "margin": None, "rank": None, "type": "replace_att", "start": 2, "end": 5, "original": "blue",
    "plausibility": -0.25, "valid": True, "source": "sugarcrepe", "reason": "a sibling of 'blue'",
}  # fmt: skip
MINED = NEGATIVE | {"ref": "b/2", "score": 0.75, "margin": -0.25, "rank": 1, "type": "mined", "start": None, "end": None, "original": None}
ROW = {
    "direction": "text_edit", "anchor_kind": "text", "anchor": "a blue car", "positive_kind": None, "positive": None,
    "positive_score": None, "negative_kind": "text", "negatives": [NEGATIVE],
}  # fmt: skip
IMAGES = ROW | {
    "direction": "text_to_image", "positive_kind": "image", "positive": "a/1", "positive_score": 0.5, "negative_kind": "image",
    "negatives": [MINED],
}  # fmt: skip


def table(*rows) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=NEGATIVE_SCHEMA)


def save(path: Path, *rows, facts=None) -> str:
    path.write_bytes(to_parquet(table(*rows), facts or {"model": "m"}))
    return str(path)


def test_what_is_written_comes_back_sorted(tmp_path: Path) -> None:
    other = IMAGES | {"anchor": "a bus"}
    save(tmp_path / "negatives.parquet", IMAGES, ROW, other, facts={"model": "m", "data": ["d"]})
    found, facts = read_negatives(str(tmp_path))
    assert found.to_pylist() == [ROW, IMAGES, other]
    assert facts == {"model": "m", "data": ["d"]}


def test_equal_rows_in_any_order_give_equal_bytes() -> None:
    assert to_parquet(table(ROW, IMAGES), {"b": 1, "a": 2}) == to_parquet(table(IMAGES, ROW), {"a": 2, "b": 1})


def test_how_the_rows_lie_in_memory_and_how_many_there_are_changes_nothing(tmp_path: Path) -> None:
    rows = [ROW | {"anchor": f"a blue car {number:05d}"} for number in range(20_000)]
    whole = table(*rows)
    parts = pa.concat_tables([whole.slice(0, 7), whole.slice(7, 12_000), whole.slice(12_007)])
    assert to_parquet(whole, {}) == to_parquet(parts, {}) == to_parquet(table(*reversed(rows)), {})
    (tmp_path / "n.parquet").write_bytes(to_parquet(parts, {"model": "m"}))
    found, facts = read_negatives(str(tmp_path / "n.parquet"))
    assert found.to_pylist() == rows and facts == {"model": "m"}
    assert pq.ParquetFile(tmp_path / "n.parquet").num_row_groups > 1


def test_more_text_than_a_piece_of_arrow_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgray.data.negatives.GROUP_ROWS", 16)  # rows of 4 MB instead of many thousands of usual ones
    long = table(*(IMAGES | {"negatives": [MINED | {"ref": "x" * 4_000_000}]} for _ in range(4)))
    names = (pa.array([f"{4 * part + number:04d}" for number in range(4)]) for part in range(140))
    rows = pa.concat_tables([long.set_column(2, NEGATIVE_SCHEMA.field(2), name) for name in names])
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        rows.combine_chunks()
    assert pq.ParquetFile(pa.BufferReader(to_parquet(rows, {}))).metadata.num_rows == 560


def test_no_rows_are_a_file_too(tmp_path: Path) -> None:
    found, _ = read_negatives(save(tmp_path / "n.parquet"))
    assert found.num_rows == 0 and found.schema == NEGATIVE_SCHEMA


WRONG = [
    (ROW | {"direction": "sideways"}, "unknown direction 'sideways'"),
    (ROW | {"anchor_kind": "image"}, "anchor_kind of text_edit must be text"),
    (ROW | {"negative_kind": "image"}, "negative_kind of text_edit must be text"),
    (ROW | {"negatives": [NEGATIVE | {"end": 10}]}, "an edit lies outside its text"),
    (ROW | {"negatives": [NEGATIVE | {"start": 4, "end": 3}]}, "an edit lies outside its text"),
    (ROW | {"negatives": [NEGATIVE | {"start": -1}]}, "an edit lies outside its text"),
]


@pytest.mark.parametrize(("row", "message"), WRONG, ids=[message for _, message in WRONG])
def test_rows_that_contradict_themselves_are_refused(row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_parquet(table(row), {})


def test_a_row_twice_is_refused() -> None:
    with pytest.raises(DataError, match="stands twice"):
        to_parquet(table(ROW, ROW), {})


def rewrite(path: str, change) -> str:
    found = pq.read_table(path)
    pq.write_table(change(found), path)
    return path


def with_meta(found: pa.Table, **values: bytes) -> pa.Table:
    return found.replace_schema_metadata({**found.schema.metadata, **{key.replace("_", ".").encode(): v for key, v in values.items()}})


DAMAGED = [
    (lambda t: t.replace_schema_metadata(None), "this is not a negatives file"),
    (lambda t: with_meta(t, fgray_format=b"fgray.negatives/9"), "of format 'fgray.negatives/9'"),
    (lambda t: with_meta(t, fgray_facts=b"{"), "columns are not a negatives file's"),
    (lambda t: t.drop_columns(["anchor"]), "columns are not a negatives file's"),
    (lambda t: t.set_column(2, "anchor", pa.array([None], pa.string())), "anchor"),
    (lambda t: t.set_column(7, "negatives", pa.array([[{"ref": "x"}]])), "columns are not a negatives file's"),
    (lambda t: t.set_column(0, "direction", pa.array(["sideways"])), "unknown direction"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGED, ids=[message for _, message in DAMAGED])
def test_foreign_and_changed_files_are_refused_in_one_line(change, message: str, tmp_path: Path) -> None:
    path = rewrite(save(tmp_path / "n.parquet", ROW), change)
    with pytest.raises(DataError, match=message) as caught:
        read_negatives(path)
    assert "\n" not in str(caught.value) and "n.parquet" in str(caught.value)


def test_every_cut_of_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "n.parquet"
    whole = Path(save(path, ROW, IMAGES)).read_bytes()
    for length in (0, 3, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="damaged negatives file"):
            read_negatives(str(path))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "negatives.parquet").write_text(json.dumps({"a": 1}))
    with pytest.raises(DataError, match="damaged negatives file"):
        read_negatives(str(tmp_path))
    with pytest.raises(NotFound):
        read_negatives(str(tmp_path / "absent"))
