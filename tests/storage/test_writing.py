"""Objects that are written piece by piece: whole or not at all, and tables the same as in one piece."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgray import runs
from fgray.runs import RunFolder
from fgray.storage import open_storage, s3
from fgray.storage.s3 import S3Storage


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    with storage.writing("a/b.bin") as file:
        file.write(b"first ")
        assert not storage.exists("a/b.bin") and list(storage.list()) == []
        file.write(b"second")
    assert storage.read_bytes("a/b.bin") == b"first second"


def test_a_body_that_raises_leaves_what_was_there(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write_bytes("b.bin", b"before")
    with pytest.raises(ValueError, match="halfway"), storage.writing("b.bin") as file:
        file.write(b"half")
        raise ValueError("halfway")
    assert storage.read_bytes("b.bin") == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["b.bin"]


def test_an_s3_object_is_uploaded_from_its_start_at_every_attempt(monkeypatch) -> None:
    sent: list[bytes] = []

    class Stream:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> None:
            self.data += data
            if len(sent) == 0:
                sent.append(self.data)
                raise OSError("AWS Error NETWORK_CONNECTION: curlCode: 56")

        def close(self) -> None:
            sent.append(self.data)

    class FileSystem:
        def open_output_stream(self, path: str) -> Stream:
            assert path == "bucket/prefix/table.parquet"
            return Stream()

    monkeypatch.setattr(s3, "UPLOAD_BYTES", 100)
    monkeypatch.setattr(s3, "SPOOLED_BYTES", 50)
    storage = S3Storage("bucket/prefix")
    storage._connection = FileSystem()  # type: ignore[assignment]
    table = pa.table({"n": range(1000)})
    with storage.writing("table.parquet") as file, pq.ParquetWriter(file, table.schema) as writer:
        writer.write_table(table)
    assert len(sent) == 2 and len(sent[0]) == 100
    assert pq.read_table(pa.BufferReader(sent[1])).equals(table)


@pytest.mark.parametrize("cuts", [[], [1, 2, 3], [4, 8], [0, 0, 11], [5, 6, 9]])
def test_slices_make_the_file_of_the_whole_table(tmp_path: Path, monkeypatch, cuts: list[int]) -> None:
    monkeypatch.setattr(runs, "ROW_GROUP", 4)
    table = pa.table({"text": [f"t{n % 3}" for n in range(11)], "list": [[n] * (n % 4) for n in range(11)]})
    bounds = [0, *cuts, 11]
    slices = [table.slice(a, b - a) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    folder = RunFolder(str(tmp_path))
    folder.write_slices("slices.parquet", table.schema, slices)
    pq.write_table(table, tmp_path / "whole.parquet", compression="zstd", row_group_size=4)
    assert (tmp_path / "slices.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert pa.concat_tables(folder.read_slices("slices.parquet")).equals(table)
    assert pa.concat_tables(folder.read_slices("slices.parquet", ["text"])).column_names == ["text"]
