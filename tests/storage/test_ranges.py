"""Joining byte ranges, and the seekable view of a stored file."""

from __future__ import annotations

import io
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fgray.storage import RangedFile, open_storage
from fgray.storage.base import COALESCE_GAP, COALESCE_LIMIT, coalesce

RANGES = st.lists(st.tuples(st.integers(0, 40 << 20), st.integers(0, 3 << 20)), max_size=40)


@given(RANGES)
def test_blocks_cover_every_range_once(ranges: list[tuple[int, int]]) -> None:
    blocks = coalesce(ranges)
    assert sorted(member for _, _, members in blocks for member in members) == list(range(len(ranges)))
    for start, stop, members in blocks:
        assert start == min(ranges[m][0] for m in members) and stop == max(sum(ranges[m]) for m in members)
        # Nothing is fetched in vain but short gaps, and no block grows beyond the limit by joining.
        assert stop - start <= max(COALESCE_LIMIT, max(ranges[m][1] for m in members))
        position = start
        for m in sorted(members, key=lambda m: ranges[m]):
            assert ranges[m][0] - position <= COALESCE_GAP
            position = max(position, sum(ranges[m]))


@given(st.integers(1, 400), st.lists(st.integers(0, 399), max_size=30), st.integers(0, 60))
def test_read_ranges_is_slicing(size: int, offsets: list[int], length: int) -> None:
    content = bytes(index % 251 for index in range(size + 60))
    ranges = [(offset % size, length) for offset in offsets]
    storage = open_storage(str(SCRATCH))
    storage.write_bytes("x", content)
    assert storage.read_ranges("x", ranges) == [content[offset : offset + length] for offset, length in ranges]


def test_ranged_file_behaves_like_a_file(tmp_path: Path) -> None:
    content = os.urandom(10_000)
    (tmp_path / "x").write_bytes(content)
    ours = io.BufferedReader(RangedFile(open_storage(str(tmp_path)), "x"), 64)
    with (tmp_path / "x").open("rb") as real:
        for file_action in [
            lambda f: f.read(10),
            lambda f: f.seek(-100, io.SEEK_END),
            lambda f: f.read(),
            lambda f: f.read(5),
            lambda f: f.seek(5000),
            lambda f: f.seek(-10, io.SEEK_CUR),
            lambda f: f.read(300),
            lambda f: f.tell(),
            lambda f: f.seek(20_000),
            lambda f: f.read(1),
        ]:
            assert file_action(ours) == file_action(real)


SCRATCH = Path("/tmp")


def setup_module() -> None:
    global SCRATCH
    import tempfile

    SCRATCH = Path(tempfile.mkdtemp(prefix="fgray-ranges-"))


def teardown_module() -> None:
    import shutil

    shutil.rmtree(SCRATCH)
