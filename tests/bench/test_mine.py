"""The mine suite at tiny sizes: its rows, and that the other sides find what they should. Speeds mean nothing here."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fgray import cli
from fgray.bench import Row, mine, mine_sides, run_suite
from fgray.bench.side import Side
from fgray.bench.vectors import as_stored, paired_vectors
from fgray.config.schema import BenchJob
from fgray.errors import RunError
from fgray.mining.vectors import write_vectors

PROJECT = Path(__file__).resolve().parents[2]
SIZES = {"queries": 24, "corpus": 700, "pairs": 400, "dim": 48, "k": 12, "threads": 1, "repeats": 1}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    for package in ("faiss", "sentence_transformers", "datasets"):
        pytest.importorskip(package, reason="the extra `bench` is not installed")
    output = tmp_path_factory.mktemp("out")
    result = run_suite(BenchJob(job="bench", name="b", suite="mine", options=SIZES, output=str(output)))
    assert [Row(**row) for row in json.loads((output / "bench.json").read_text())] == result.rows
    return {row.name: row for row in result.rows}


@pytest.mark.slow  # starting six processes takes seconds
class TestRows:
    def test_names_units_goals(self, rows: dict[str, Row]) -> None:
        assert {name: (row.unit, row.goal) for name, row in rows.items()} == {
            "topk_vs_bare": ("queries/s", 0.9),
            "topk_vs_faiss": ("queries/s", 1.0),
            "mine_vs_sentence_transformers": ("s", 1.0),
            "mine_memory_vs_sentence_transformers": ("GiB", 3.0),
            "mine_memory_vs_sentence_transformers_faiss": ("GiB", None),
        }

    def test_ratios(self, rows: dict[str, Row]) -> None:
        for row in rows.values():
            assert row.ours > 0 and row.theirs is not None and row.theirs > 0
            ratio = row.ours / row.theirs if row.unit == "queries/s" else row.theirs / row.ours
            assert row.ratio == pytest.approx(ratio, rel=0.02, abs=6e-4), "ours and theirs are rounded to three decimals"

    def test_both_sides_find_the_same(self, rows: dict[str, Row]) -> None:
        shares = [float(re.search(r"([\d.]+)% same", row.note)[1]) for row in rows.values()]  # type: ignore[index]
        assert min(shares) > 99.9


@pytest.mark.parametrize(("corpus", "k"), [(1000, 7), (130, 64), (65, 64), (64, 64), (20, 30)])
def test_bare_loop_finds_the_best(monkeypatch: pytest.MonkeyPatch, corpus: int, k: int) -> None:
    monkeypatch.setattr(mine_sides, "BARE_ROWS", 64)
    draw = np.random.default_rng(corpus)
    queries, searched = draw.standard_normal((9, 16), np.float32), draw.standard_normal((corpus, 16), np.float32)
    scores = queries.astype(np.float64) @ searched.astype(np.float64).T
    found = mine_sides._bare_block(torch.from_numpy(queries), torch.from_numpy(searched), k)
    np.testing.assert_array_equal(found, np.argsort(-scores, axis=1)[:, :k])


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_theirs_get_the_numbers_that_ours_keeps(tmp_path: Path, dtype: str) -> None:
    values = next(paired_vectors(50, 24))[0]
    wide = values.astype(np.float64)
    ours = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)  # as the job normalises what it reads
    kept = write_vectors(str(tmp_path), [str(row) for row in range(50)], [ours], dtype)  # type: ignore[arg-type]
    given = as_stored(values, dtype)  # type: ignore[arg-type]
    np.testing.assert_array_equal(given, kept.block(0))
    np.testing.assert_allclose(given, values, atol={"fp16": 2**-11, "bf16": 2**-8, "fp32": 2**-23}[dtype])


def test_pairs_belong_together_and_neighbours_spread() -> None:
    chunks = list(paired_vectors(20_000, 32))
    images, texts = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    assert images.shape == texts.shape == (20_000, 32) and len(chunks) > 1
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([images, texts]), axis=1), 1, atol=1e-5)
    scores = texts[:500] @ images.T
    own = scores[np.arange(500), np.arange(500)]
    assert own.mean() > scores.std() * 3
    assert (scores > own[:, None]).sum(axis=1).mean() > 0.5, "a margin has something to drop"
    again = next(paired_vectors(20_000, 32))
    np.testing.assert_array_equal(again[0], chunks[0][0])
    assert not np.array_equal(next(paired_vectors(20_000, 32, seed=1))[0], chunks[0][0])


def test_shared_negatives_counted_by_hand(tmp_path: Path) -> None:
    struct = pa.list_(pa.struct([("ref", pa.string()), ("score", pa.float64())]))
    refs = {"a": ["x", "y"], "b": ["y"], "c": ["z", "x"]}
    ours = {"anchor": list(refs), "negatives": pa.array([[{"ref": ref, "score": 0.5} for ref in row] for row in refs.values()], struct)}
    pq.write_table(pa.table(ours), tmp_path / "ours.parquet")
    theirs = {"anchor": ["b", "a", "d"], "negatives": [["y", "z", "x"], ["x"], ["x", "y"]]}
    pq.write_table(pa.table(theirs), tmp_path / "theirs.parquet")
    # Of our 5 and their 6, (a, x) and (b, y) are on both sides.
    assert mine.shared_negatives(str(tmp_path / "ours.parquet"), str(tmp_path / "theirs.parquet")) == 2 / 6
    np.save(tmp_path / "ours-0.npy", np.array([[1, 2], [3, 4]]))
    np.save(tmp_path / "bare-0.npy", np.array([[2, 1], [3, 9]]))
    assert mine._shared_neighbours(tmp_path, "bare", 1) == 3 / 4


def test_a_side_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the side 'bare' ended with status 1: FileNotFoundError: .*queries\.npy"):
        Side(mine.MODULE, tmp_path, "bare", 1, {"k": 3, "queries": 2})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 0}, "pairs cannot be '0' [options.pairs]: give a whole number from 1 on"),
        ({"k": 400}, "k = 400 of 400 rows [options.k]: lower k or raise corpus and pairs"),
        ({"pair": 4}, "the suite 'mine' has no such option"),
    ],
)
def test_bad_options_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    assert message in refusal(monkeypatch, capsys, tmp_path, {**SIZES, **changes})


def test_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(mine, "PACKAGES", ("faiss_that_nobody_has",))
    assert "needs the package faiss_that_nobody_has [suite]: pip install 'fgray[bench]'" in refusal(monkeypatch, capsys, tmp_path, SIZES)


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: Path, options: dict[str, int]) -> str:
    """Submit the shipped configuration with other options, and return the single line that refuses them."""
    job = ["fgray", "submit", str(PROJECT / "configs/bench/mine.yaml"), "--output", str(output), "--set"]
    monkeypatch.setattr(sys, "argv", [*job, f"options={json.dumps(options)}"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: ")
    assert not (output / "bench.json").exists()
    return err
