"""Vectors on disk: what is kept of them, that it is whole, and that it is refused in one line where it is not."""

from __future__ import annotations

import json
import pickle
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fgray.errors import DataError
from fgray.mining.vectors import VectorSet, open_vectors, to_fp32, to_stored, write_vectors
from tests.mining.oracle import TORCH, as_kept, unit_rows

ROWS, DIM = 23, 12
KEYS = [f"image/{row:02d} \u00e9" for row in range(ROWS)]
EXPLICIT_BITS = {"fp32": 23, "fp16": 10, "bf16": 7}


def write(folder: Path, dtype: str = "fp16", block_rows: int | None = 7, keys: list[str] = KEYS, seed: int = 1) -> VectorSet:
    return write_vectors(str(folder), keys, [unit_rows(len(keys), DIM, seed)], dtype, block_rows)  # type: ignore[arg-type]


def content(vectors: VectorSet) -> np.ndarray:
    return np.concatenate([vectors.block(number) for number in range(len(vectors.blocks))])


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.iterdir())}


def refusal(call, *arguments) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def nearest(number: Fraction, spacing: Fraction) -> Fraction:
    """Round to a multiple of a spacing; Python rounds halves of whole numbers to even ones."""
    return round(number / spacing) * spacing


def rounded(value: float, dtype: str) -> Fraction:
    """Round to nearest in the type (ties to even), then to the grid, by rational arithmetic."""
    number = Fraction(value)
    if number:
        exponent = 0
        while abs(number) < Fraction(2) ** exponent:
            exponent -= 1
        smallest = -14 if dtype == "fp16" else -126
        number = nearest(number, Fraction(2) ** (max(exponent, smallest) - EXPLICIT_BITS[dtype]))
    return nearest(number, Fraction(1, 2**26))


class TestNumbers:
    @pytest.mark.parametrize("dtype", TORCH)
    @given(value=st.floats(-1, 1, width=32))
    @example(value=1.5 * 2.0**-26)  # ties: on the grid, and between two bf16 numbers
    @example(value=0.5 * 2.0**-26)
    @example(value=0.5 + 2.0**-9)
    @example(value=0.5 + 3 * 2.0**-9)
    @example(value=2.0**-15 + 2.0**-25)  # below fp16's normal range
    @example(value=-1.0)
    @settings(max_examples=150, deadline=None, derandomize=True)
    def test_rounded_as_rational_arithmetic_does(self, dtype: str, value: float) -> None:
        kept = to_fp32(to_stored(np.array([[value]], np.float32), dtype), dtype)  # type: ignore[arg-type]
        assert kept.dtype == np.float32 and Fraction(float(kept[0, 0])) == rounded(value, dtype)

    @pytest.mark.parametrize("dtype", TORCH)
    def test_written_and_read(self, tmp_path: Path, dtype: str) -> None:
        found = content(write(tmp_path, dtype))
        np.testing.assert_array_equal(found, as_kept(unit_rows(ROWS, DIM, 1), dtype).float().numpy())

    @pytest.mark.parametrize("dtype", TORCH)
    def test_order_of_summation_does_not_matter(self, tmp_path: Path, dtype: str) -> None:
        """The reason for the grid: with it every float64 sum is exact, without it fp32 vectors' are not."""
        values = unit_rows(ROWS, 500, 1)
        vectors = write_vectors(str(tmp_path), KEYS, [values], dtype)  # type: ignore[arg-type]
        products = vectors.block(0).astype(np.float64) * vectors.block(0)[::-1].astype(np.float64)
        shuffled = [products[:, np.random.default_rng(seed).permutation(500)] for seed in range(3)]
        sums = {np.cumsum(part, axis=1)[:, -1].tobytes() for part in shuffled} | {products.sum(axis=1).tobytes()}
        assert len(sums) == 1
        raw = values.astype(np.float32).astype(np.float64)
        assert (np.cumsum(raw * raw[::-1], axis=1)[:, -1] != np.cumsum((raw * raw[::-1])[:, ::-1], axis=1)[:, -1]).any()


class TestSet:
    def test_facts(self, tmp_path: Path) -> None:
        made = write(tmp_path / "a", "bf16")
        assert (made.rows, made.dim, made.dtype, made.block_rows, len(made.blocks)) == (ROWS, DIM, "bf16", 7, 4)
        assert [made.span(number) for number in range(4)] == [(0, 7), (7, 14), (14, 21), (21, 23)]
        assert made.bytes_of(10) == 10 * DIM * 2
        assert made.keys().to_pylist() == KEYS
        opened = open_vectors(str(tmp_path / "a"))
        assert opened == made == pickle.loads(pickle.dumps(opened))  # our own object
        np.testing.assert_array_equal(content(pickle.loads(pickle.dumps(opened))), content(made))

    @pytest.mark.parametrize("sizes", [[23], [1] * 23, [0, 5, 0, 16, 2], [22, 1]])
    def test_pieces_do_not_matter(self, tmp_path: Path, sizes: list[int]) -> None:
        values = unit_rows(ROWS, DIM, 1)
        pieces = np.split(values, np.cumsum(sizes)[:-1])
        made = write_vectors(str(tmp_path / "a"), KEYS, (piece.astype(np.float32) for piece in pieces), "fp16", 7)
        assert made.blocks == write(tmp_path / "b").blocks

    def test_fingerprint_is_of_keys_type_and_content(self, tmp_path: Path) -> None:
        made = write(tmp_path / "a")
        assert write(tmp_path / "b", block_rows=None).fingerprint == made.fingerprint
        shutil.copytree(tmp_path / "a", tmp_path / "c")
        assert open_vectors(str(tmp_path / "c")).fingerprint == made.fingerprint
        others = [write(tmp_path / "d", "bf16"), write(tmp_path / "e", seed=2), write(tmp_path / "f", keys=[*KEYS[:-1], "x"])]
        assert len({made.fingerprint, *(other.fingerprint for other in others)}) == 4

    def test_types_of_the_keys_do_not_matter(self, tmp_path: Path) -> None:
        made = write(tmp_path / "a")
        chunks = pa.chunked_array([KEYS[:5], KEYS[5:]]).combine_chunks()
        assert write_vectors(str(tmp_path / "b"), chunks, [unit_rows(ROWS, DIM, 1)], "fp16").names == made.names

    def test_written_again_changes_nothing(self, tmp_path: Path) -> None:
        made = write(tmp_path)
        before = state(tmp_path)
        assert write(tmp_path) == made and state(tmp_path) == before

    def test_written_over_by_another(self, tmp_path: Path) -> None:
        write(tmp_path)
        changed = unit_rows(ROWS, DIM, 1)
        changed[9] = changed[3]
        before = state(tmp_path)
        made = write_vectors(str(tmp_path), KEYS, [changed], "fp16", 7)
        after = state(tmp_path)
        assert {name for name in after if after[name] != before[name]} >= {"block-00001.npy", "meta.json"}
        assert after["block-00000.npy"] == before["block-00000.npy"], "what is the same stays"
        assert open_vectors(str(tmp_path)) == made
        np.testing.assert_array_equal(content(made), as_kept(changed, "fp16").float().numpy())
        shorter = write(tmp_path, keys=KEYS[:5])
        assert len(content(open_vectors(str(tmp_path)))) == 5 == shorter.rows

    @pytest.mark.parametrize("good", [0, 1, 3])
    def test_interrupted(self, tmp_path: Path, good: int) -> None:
        """What was there is either still whole or says that it is not; writing again mends it."""
        made = write(tmp_path)

        def values():
            for number in range(4):
                if number == good:
                    raise OSError("gone")
                yield unit_rows(ROWS, DIM, 2)[number * 7 : (number + 1) * 7]

        with pytest.raises(OSError, match="gone"):
            write_vectors(str(tmp_path), KEYS, values(), "fp16", 7)
        if good:
            assert "meta.json is missing (it is written last)" in refusal(open_vectors, str(tmp_path))
        else:
            assert open_vectors(str(tmp_path)) == made
        np.testing.assert_array_equal(content(write(tmp_path)), as_kept(unit_rows(ROWS, DIM, 1), "fp16").float().numpy())


def damage(folder: Path, name: str, change) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


def with_meta(folder: Path, **changes) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({name: value for name, value in {**meta, **changes}.items() if value is not ...}))


class TestRefused:
    @pytest.mark.parametrize(
        ("break_it", "message"),
        [
            (lambda f: (f / "meta.json").unlink(), "no vectors here: meta.json is missing"),
            (lambda f: shutil.rmtree(f), "no vectors here: meta.json is missing"),
            (lambda f: damage(f, "meta.json", lambda data: data[:-9]), "meta.json is not JSON"),
            (lambda f: damage(f, "meta.json", lambda data: b"\xff\x00"), "meta.json is not JSON"),
            (lambda f: (f / "meta.json").write_text("[1]"), "meta.json does not say 'format: fgray vectors 1'"),
            (
                lambda f: (f / "meta.json").write_text('{"architectures": ["CLIPModel"]}'),
                "meta.json does not say 'format: fgray vectors 1'",
            ),
            (lambda f: with_meta(f, format="fgray vectors 2"), "meta.json does not say"),
            (lambda f: with_meta(f, rows=...), "meta.json lacks fields or holds wrong ones"),
            (lambda f: with_meta(f, rows="23"), "meta.json lacks fields or holds wrong ones"),
            (lambda f: with_meta(f, rows=True), "meta.json lacks fields or holds wrong ones"),
            (lambda f: with_meta(f, dim=0), "meta.json lacks fields or holds wrong ones"),
            (lambda f: with_meta(f, dtype="int8"), "meta.json lacks fields or holds wrong ones"),
            (lambda f: with_meta(f, author="me"), "meta.json lacks fields or holds wrong ones"),
            (lambda f: with_meta(f, rows=40), "meta.json names the wrong number of blocks"),
            (lambda f: (f / "block-00002.npy").unlink(), "a file of the vectors is missing"),
            (lambda f: (f / "keys.parquet").unlink(), "a file of the vectors is missing"),
        ],
    )
    def test_on_opening(self, tmp_path: Path, break_it, message: str) -> None:
        folder = tmp_path / "vectors"
        write(folder)
        break_it(folder)
        assert message in refusal(open_vectors, str(folder))

    @pytest.mark.parametrize(
        "change", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:-2], lambda data: b"", lambda data: b"\x80\x04N."]
    )
    def test_damaged_block(self, tmp_path: Path, change) -> None:
        write(tmp_path)
        damage(tmp_path, "block-00001.npy", change)
        vectors = open_vectors(str(tmp_path))
        assert len(vectors.block(0)) == 7
        message = refusal(vectors.block, 1)
        assert "damaged block of vectors" in message and "block-00001.npy" in message and "delete the folder" in message

    @pytest.mark.parametrize("changes", [{"dim": 6}, {"dtype": "bf16"}, {"dtype": "fp32"}, {"rows": 22}])
    def test_block_that_contradicts(self, tmp_path: Path, changes: dict[str, object]) -> None:
        write(tmp_path)
        with_meta(tmp_path, **changes)
        assert "the block contradicts meta.json" in refusal(open_vectors(str(tmp_path)).block, 3)

    def test_keys(self, tmp_path: Path) -> None:
        write(tmp_path / "a")
        write(tmp_path / "b", keys=KEYS[::-1])
        shutil.copy(tmp_path / "b" / "keys.parquet", tmp_path / "a")
        assert "the keys are not those of the vectors" in refusal(open_vectors(str(tmp_path / "a")).keys)
        damage(tmp_path / "b", "keys.parquet", lambda data: data[:40])
        assert "the keys of the vectors cannot be read" in refusal(open_vectors(str(tmp_path / "b")).keys)

    @pytest.mark.parametrize(
        ("keys", "values", "message"),
        [
            (["a", "b", "a"], np.eye(3), "two vectors are called 'a'"),
            (["a", None, "b"], np.eye(3), "a key is null"),
            (["a", "b"], np.eye(3), "2 keys for 3 vectors"),
            (["a", "b", "c", "d"], np.eye(3), "4 keys for 3 vectors"),
            ([], np.zeros((0, 3)), "0 keys for 0 vectors"),
            (["a", "b", "c"], 2 * np.eye(3), "the vector of 'a' has length 2, not 1"),
            (["a", "b", "c"], np.diag([1, 1, 0]).astype(float), "the vector of 'c' has length 0, not 1"),
            (["a", "b", "c"], np.diag([1, np.nan, 1]), "the vector of 'b' has length nan, not 1"),
            (["a", "b", "c"], np.diag([1, np.inf, 1]), "the vector of 'b' has length inf, not 1"),
            (["a", "b", "c"], np.diag([1, 1.002, 1]), "the vector of 'b' has length 1.002, not 1"),
            (["a", "b", "c"], np.eye(3, dtype=int), "vectors come as int64 [3, 3]: give floats [n, D]"),
            (["a", "b", "c"], np.ones(3), "vectors come as float64 [3]"),
            (["a", "b", "c"], np.ones((3, 0)), "vectors come as float64 [3, 0]"),
        ],
    )
    def test_on_writing(self, tmp_path: Path, keys: list[str], values: np.ndarray, message: str) -> None:
        found = refusal(write_vectors, str(tmp_path / "v"), keys, [values], "fp16", 2)
        assert message.partition(":")[0] in found and message.partition(": ")[2] in found
        assert "meta.json is missing" in refusal(open_vectors, str(tmp_path / "v"))

    def test_pieces_of_two_models(self, tmp_path: Path) -> None:
        message = refusal(write_vectors, str(tmp_path), KEYS, [unit_rows(3, 4, 0), unit_rows(20, 5, 0)], "fp16")
        assert "vectors of 4 and of 5 numbers" in message
