"""Samples against a case-by-case reference: ranks by sorting, exclusions by looking."""

import math

import numpy as np
import pytest

from fgray.data.cases import CaseSet
from fgray.evaluation import samples as samples_module
from fgray.evaluation import scoring
from fgray.evaluation.scoring import score_cases, score_slices
from fgray.runs import SAMPLE_SCHEMA


class Table:
    """Scores of every (query, candidate) from a dictionary; NaN where one of them is damaged."""

    def __init__(self, seed: int, damaged: set[str]) -> None:
        self.seed, self.damaged = seed, damaged

    def one(self, query: str, candidate: str) -> float:
        if {query, candidate} & self.damaged:
            return math.nan
        return float(np.random.default_rng([self.seed, *query.encode(), 0, *candidate.encode()]).integers(0, 6)) / 4  # many ties

    def list_scores(self, query_kind, queries, candidate_kind, candidates):
        return np.array([[self.one(query, name) for name in names] for query, names in zip(queries, candidates, strict=True)])

    def pool_scores(self, query_kind, queries, candidate_kind, pool):
        return np.array([[self.one(query, name) for name in pool] for query in queries])

    def reason(self, kind, reference):
        return f"{kind} {reference} is damaged"


def case_set(seed: int) -> CaseSet:
    random = np.random.default_rng(seed)
    pools = {"large": [f"p{n}" for n in range(25)], "small": [f"q{n}" for n in range(4)], "twelve": [f"p{n % 12}" for n in range(12)]}
    rows = []
    for number in range(80):
        row = {
            "case_id": f"c{random.integers(0, 10**9)}-{number}",
            "subset": str(random.integers(0, 3)),
            "task": "i2t",
            "cluster_id": f"k{number % 7}",
        }
        row |= {"query_kind": "image", "query": f"i{random.integers(0, 30)}", "candidate_kind": "text"}
        pool = [None, None, "large", "small", "twelve"][number % 5]
        width = len(pools[pool]) if pool else int(random.integers(1, 5))
        if pool:
            row["pool"] = pool
        else:
            row["candidates"] = [f"t{random.integers(0, 9)}" for _ in range(width)]
        labels = random.choice(width, size=int(random.integers(1, min(3, width) + 1)), replace=False).tolist()
        rows.append({**row, "category": None if number % 3 else f"g{number % 4}", "labels": labels + labels[:1] * (number % 2)})
    return CaseSet.from_rows(rows, pools=pools)


def reference(benchmark: str, row: dict, cases: CaseSet, table: Table) -> dict:
    names = cases.pools[row["pool"]] if row["pool"] else row["candidates"]
    scores = {place: table.one(row["query"], name) for place, name in enumerate(names)}
    there = {place: score for place, score in scores.items() if not math.isnan(score)}
    right = [place for place in dict.fromkeys(row["labels"]) if place in there]
    known = {name: row.get(name) for name in SAMPLE_SCHEMA.names if name in row}
    excluded = None
    if not there:
        excluded = f"query: image {row['query']} is damaged"
    elif row["pool"] is None and len(there) < len(names):
        excluded = f"candidate: text {next(name for place, name in enumerate(names) if place not in there)} is damaged"
    elif not right:
        excluded = f"right candidate: text {names[row['labels'][0]]} is damaged"
    if excluded:
        shown = list(range(min(len(names), 10) if row["pool"] else len(names)))
        facts = {"num_candidates": len(names), "num_positives": len(row["labels"]), "scores": None}
        facts |= dict.fromkeys(["prediction", "greater", "tied", "tied_before", "tied_positives", "margin"])
    else:
        ranked = sorted(there, key=lambda place: (-there[place], place))
        best = max(there[place] for place in right)
        first = min(place for place in right if there[place] == best)
        wrong = [place for place in there if place not in right]
        equal = [place for place in wrong if there[place] == best]
        shown = ranked[:10] if row["pool"] else list(range(len(names)))
        facts = {
            "num_candidates": len(there),
            "num_positives": len(right),
            "scores": [scores[place] for place in shown],
            "prediction": ranked[0],
            "greater": sum(there[place] > best for place in wrong),
            "tied": len(equal),
            "tied_before": sum(place < first for place in equal),
            "tied_positives": sum(there[place] == best for place in right),
            "margin": best - max(there[place] for place in wrong) if wrong else None,
        }
    return {**known, "benchmark": benchmark, "shown": shown, "candidates": [names[place] for place in shown], "excluded": excluded, **facts}


@pytest.mark.parametrize(
    "damaged", [set(), {"p3"}, {"p3", "q1", "i4", "t2", "i11"}, {f"p{n}" for n in range(20)} | {"q0", "q1", "q2", "q3"}]
)
@pytest.mark.parametrize("limits", [(1 << 12, 1 << 22), (7, 30)])
def test_samples_are_those_of_one_case_at_a_time(monkeypatch, damaged: set[str], limits: tuple[int, int]) -> None:
    monkeypatch.setattr(scoring, "SLICE", limits[0])
    monkeypatch.setattr(scoring, "BLOCK", limits[1])
    for seed in range(3):
        cases, table = case_set(seed), Table(seed, damaged)
        rows = sorted(cases.table.to_pylist(), key=lambda row: (row["subset"], row["task"], row["case_id"]))
        expected = [reference("b", row, cases, table) for row in rows]
        found = score_cases("b", cases, table)
        assert found.schema == SAMPLE_SCHEMA
        assert found.to_pylist() == [{name: row[name] for name in SAMPLE_SCHEMA.names} for row in expected]
        assert len(list(score_slices("b", cases, table))) == -(-len(rows) // limits[0])


def test_the_best_of_a_pool_are_those_of_a_stable_sort() -> None:
    random = np.random.default_rng(0)
    for width in (3, 10, 11, 200):
        scores = random.integers(0, 40, (60, width)) / 8
        expected = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        assert np.array_equal(samples_module._first(scores, 10), expected)
