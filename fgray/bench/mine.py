"""The mine suite: the search against a bare loop and faiss, mining against sentence-transformers; embeddings cached on both sides."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgray.bench import Row, compare_row
from fgray.bench.side import Side
from fgray.bench.vectors import as_stored, paired_vectors
from fgray.config.schema import Dtype
from fgray.errors import ConfigError
from fgray.mining.vectors import write_vectors

PACKAGES = ("faiss", "sentence_transformers", "datasets")  # of the other sides
MODULE = "fgray.bench.mine_sides"
RELATIVE_MARGIN = 0.05  # NV-Retriever's, which sentence-transformers recommends
NUM_NEGATIVES = 10
GIB = 2**30
Answers = dict[str, list[dict[str, Any]]]


def run(options: Mapping[str, Any], output: str) -> Iterator[Row]:
    """Yield the rows of the suite; see `measure` for its options."""
    yield from measure(**options)


def measure(
    queries: int = 4096,
    corpus: int = 200_000,
    pairs: int = 100_000,
    dim: int = 384,
    k: int = 100,
    dtype: Dtype = "fp16",
    memory_gib: float = 1.0,
    threads: int = 2,
    repeats: int = 3,
) -> Iterator[Row]:
    """Measure every side in turn, each in its own process with the same number of threads.

    Args:
        queries: of one turn of the search rows; every turn has its own.
        corpus: rows that they are searched in.
        pairs: image-text pairs of the mining rows.
        dim: numbers of a vector.
        k: neighbours of a query; candidates of an anchor.
        dtype: storage of ours; the others get the same numbers as fp32.
        memory_gib: of our search worker.
        threads: of each side.
        repeats: interleaved turns, of which medians are reported.

    Raises:
        ConfigError: a number is wrong, or a package of the other sides is missing.
        RunError: a side failed.
    """
    _check(queries=queries, corpus=corpus, pairs=pairs, dim=dim, k=k, threads=threads, repeats=repeats)
    if k >= min(corpus, pairs):
        raise ConfigError(f"k = {k} of {min(corpus, pairs)} rows", where="options.k", fix="lower k or raise corpus and pairs")
    task = {"queries": queries, "k": k, "dim": dim, "dtype": dtype, "memory_gib": memory_gib, "num_negatives": min(NUM_NEGATIVES, k)}
    task["relative_margin"] = RELATIVE_MARGIN
    with tempfile.TemporaryDirectory(prefix="fgray-bench-") as folder:
        _write_search(Path(folder), queries * repeats, corpus, dim, dtype)
        answers = _take_turns(Path(folder), ["ours", "bare", "faiss"], threads, repeats, task, fresh=False)
        yield from _search_rows(
            Path(folder), answers, f"{queries:,} of {corpus:,} x {dim}, k = {k}, {threads} threads, median of {repeats}", task
        )
    with tempfile.TemporaryDirectory(prefix="fgray-bench-") as folder:
        _write_pairs(Path(folder), pairs, dim, dtype)
        answers = _take_turns(Path(folder), ["mine_ours", "mine_theirs", "mine_theirs_faiss"], threads, repeats, task, fresh=True)
        yield from _mine_rows(answers, f"{pairs:,} pairs x {dim}, {threads} threads, median of {repeats}", task)


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"{name} cannot be '{number}'", where=f"options.{name}", fix="give a whole number from 1 on")
    for package in PACKAGES:
        if find_spec(package) is None:
            raise ConfigError(f"the other side needs the package {package}", where="suite", fix="pip install 'fgray[bench]'")


def _take_turns(folder: Path, names: Sequence[str], threads: int, repeats: int, task: Mapping[str, Any], fresh: bool) -> Answers:
    """Return the answers of each side; a fresh side has a new process for every turn, so that its peak is that turn's."""
    answers: Answers = {name: [] for name in names}

    def start(name: str) -> Side:
        return Side(MODULE, folder, name, threads, {**task, "use_faiss": name.endswith("faiss")})

    with contextlib.ExitStack() as stack:
        sides = {} if fresh else {name: stack.enter_context(contextlib.closing(start(name))) for name in names}
        for number in range(repeats):
            for name in names:
                if fresh:
                    with contextlib.closing(start(name)) as side:
                        answers[name].append(side.turn(number))
                else:
                    answers[name].append(sides[name].turn(number))
    return answers


# --- search ------------------------------------------------------------------------------------------------------------


def _write_search(folder: Path, queries: int, corpus: int, dim: int, dtype: Dtype) -> None:
    """Write both sets for ours as vectors and for theirs as fp32 arrays of the same numbers; the first texts are the queries."""
    for name, rows, half in (("queries", queries, 1), ("corpus", corpus, 0)):
        made = write_vectors(
            f"{folder}/{name}", [f"{row:09d}" for row in range(rows)], (pair[half] for pair in paired_vectors(rows, dim)), dtype
        )
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (rows, dim))
        for number in range(len(made.blocks)):
            array[slice(*made.span(number))] = made.block(number)


def _search_rows(folder: Path, answers: Answers, size: str, task: Mapping[str, Any]) -> Iterator[Row]:
    rates = {name: task["queries"] / median(answer["seconds"] for answer in turns) for name, turns in answers.items()}
    peaks = {name: max(answer["peak"] for answer in turns) / GIB for name, turns in answers.items()}
    for name, goal, what in (
        ("bare", 0.9, "torch.mm + topk + merge in fp32, all in memory"),
        ("faiss", 1.0, "IndexFlatIP, filled before"),
    ):
        same = _shared_neighbours(folder, name, len(answers[name]))
        note = f"{size}; ours: {task['dtype']} vectors read from disk, results committed and read back; theirs: {what}; "
        note += f"peaks {peaks['ours']:.2f} and {peaks[name]:.2f} GiB; {same:.4%} same neighbours"
        yield compare_row(f"topk_vs_{name}", rates["ours"], rates[name], "queries/s", more_is_better=True, goal=goal, note=note)


def _shared_neighbours(folder: Path, name: str, turns: int) -> float:
    """Return the share of our neighbours that the other side found, too."""
    shared = total = 0
    for number in range(turns):
        ours, theirs = (np.load(folder / f"{side}-{number}.npy") for side in ("ours", name))
        for left, right in zip(ours, theirs, strict=True):
            shared, total = shared + len(np.intersect1d(left, right)), total + len(left)
    return shared / total


# --- mining ------------------------------------------------------------------------------------------------------------


def _write_pairs(folder: Path, rows: int, dim: int, dtype: Dtype) -> None:
    """Write pairs and embeddings: for ours as they come from a model, for theirs as ours keeps them."""
    names = ("images", "texts")
    keys = {name: [f"{name[:-1]} {row:09d}" for row in range(rows)] for name in names}
    pq.write_table(pa.table({"image": keys["images"], "text": keys["texts"]}), folder / "pairs.parquet")
    given, stored = (
        {name: np.lib.format.open_memmap(folder / f"{name}{suffix}.npy", "w+", np.float32, (rows, dim)) for name in names}
        for suffix in ("", ".stored")
    )
    at = 0
    for halves in paired_vectors(rows, dim):
        for name, values in zip(names, halves, strict=True):
            given[name][at : at + len(values)] = values
            stored[name][at : at + len(values)] = as_stored(values, dtype)
        at += len(halves[0])
    for name in names:
        (folder / f"{name}.keys.txt").write_text("\n".join(keys[name]) + "\n")


def _mine_rows(answers: Answers, size: str, task: Mapping[str, Any]) -> Iterator[Row]:
    seconds = {name: median(answer["seconds"] for answer in turns) for name, turns in answers.items()}
    peaks = {name: median(answer["peak"] for answer in turns) / GIB for name, turns in answers.items()}
    same = {name: shared_negatives(answers["mine_ours"][0]["negatives"], turns[0]["negatives"]) for name, turns in answers.items()}
    other = {"mine_theirs": "its default search", "mine_theirs_faiss": "use_faiss"}
    fastest = min(other, key=seconds.__getitem__)
    chain = f"{task['k']} candidates, relative_margin {task['relative_margin']}, {task['num_negatives']} negatives"
    ours = f"ours: the whole job in one process, {task['dtype']} vectors, negatives file and report written"
    note = f"{size}; {chain}; {ours}; theirs: the faster of its exact searches, {other[fastest]} ("
    note += ", ".join(f"{what} {seconds[name]:.1f} s" for name, what in other.items())
    note += f"); {same[fastest]:.4%} same negatives"
    yield compare_row(
        "mine_vs_sentence_transformers", seconds["mine_ours"], seconds[fastest], "s", more_is_better=False, goal=1.0, note=note
    )
    for name, row, goal in (
        ("mine_theirs", "mine_memory_vs_sentence_transformers", 3.0),
        ("mine_theirs_faiss", "mine_memory_vs_sentence_transformers_faiss", None),
    ):
        note = f"{size}; largest resident memory of a fresh process, libraries included; theirs: {other[name]}; "
        note += f"{same[name]:.4%} same negatives"
        yield compare_row(row, peaks["mine_ours"], peaks[name], "GiB", more_is_better=False, goal=goal, note=note)


def shared_negatives(ours: str, theirs: str) -> float:
    """Return the share of (anchor, negative) that two Parquet files have in common, of the larger number.

    Args:
        ours: columns anchor and negatives; a negative is a struct with ``ref``.
        theirs: columns anchor and negatives; a negative is a string.
    """
    left, right = (_flat(pq.read_table(file, columns=["anchor", "negatives"])) for file in (ours, theirs))
    common: int = pc.sum(pc.is_in(left, value_set=right)).as_py()
    return common / max(len(left), len(right))


def _flat(table: pa.Table) -> pa.Array:
    column = table["negatives"].combine_chunks()
    anchors = table["anchor"].combine_chunks().take(pc.list_parent_indices(column))
    names = pc.list_flatten(column)
    if pa.types.is_struct(names.type):
        names = pc.struct_field(names, "ref")
    return pc.binary_join_element_wise(anchors.cast(pa.string()), names.cast(pa.string()), "\t")
