"""SPEC: hand-counted cases, the official layout, clusters, bad input."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path

import pytest

from fgray.benchmarks.spec import SUBSETS, Spec, read_spec_layout, spec_metrics
from fgray.errors import ConfigError, DataError
from fgray.metrics.spec import Macro, Metric
from fgray.storage import open_storage
from tests.benchmarks.layouts import BLUE, COLOUR_MODEL, PURPLE, RED, dump, run, solid, write_spec


def write_colours(root: Path) -> None:
    for name, colour in {"red": RED, "red2": RED, "blue": BLUE, "purple": PURPLE}.items():
        solid(root / "existence" / f"{name}.png", colour)
    both = ["red", "blue"]
    i2t = [
        {"query": "red.png", "keys": both, "label": 0},  # right
        {"query": "blue.png", "keys": both, "label": 0},  # wrong
        {"query": "purple.png", "keys": both, "label": 1},  # a tie: the first wins, which is wrong
        {"query": "purple.png", "keys": both, "label": 0},  # the same tie: the first wins, which is right
    ]
    t2i = [
        {"query": "red", "keys": ["red.png", "red2.png"], "label": 0},  # a tie, the first is right
        {"query": "red", "keys": ["red.png", "red2.png"], "label": 1},  # a tie, the first is wrong
        {"query": "blue", "keys": ["purple.png", "blue.png"], "label": 1},  # right
    ]
    dump(root / "existence/image2text.json", i2t)
    dump(root / "existence/text2image.json", t2i)


def test_hand_counted(tmp_path: Path) -> None:
    write_colours(tmp_path / "spec")
    result, samples = run(tmp_path / "run", [{"name": "spec", "root": str(tmp_path / "spec"), "subsets": ["existence"]}], COLOUR_MODEL)
    found = {name: (entry["correct"], entry["count"]) for name, entry in result.metrics.items() if entry["correct"] is not None}
    assert found["spec/existence/i2t_accuracy"] == (2, 4)
    assert found["spec/existence/t2i_accuracy"] == (2, 3)
    assert result.metrics["spec/existence/accuracy"]["value"] == pytest.approx((2 / 4 + 2 / 3) / 2)
    assert [samples[f"existence/i2t/{n:05d}"]["prediction"] for n in range(4)] == [0, 1, 0, 0]
    assert [samples[f"existence/t2i/{n:05d}"]["prediction"] for n in range(3)] == [0, 0, 1]
    assert samples["existence/i2t/00002"]["tied_before"] == 1
    assert samples["existence/i2t/00003"]["tied_before"] == 0
    assert not any("macro" in name for name in result.metrics), "one subset has no macro average"
    clusters = {case: row["cluster_id"] for case, row in samples.items()}
    red = {"existence/i2t/00000", "existence/t2i/00000", "existence/t2i/00001"}
    assert {case for case in clusters if clusters[case] == clusters["existence/i2t/00000"]} == red
    assert len(set(clusters.values())) == 2


def components_by_search(cases: list[dict[str, object]]) -> set[frozenset[str]]:
    """Group case ids by walking from case to case over shared images, breadth first."""
    images = {}
    for case in cases:
        images[case["case_id"]] = {case["query"]} if case["query_kind"] == "image" else set(case["candidates"])  # type: ignore[call-overload]
    left, groups = set(images), set()
    while left:
        start = left.pop()
        group, queue = {start}, deque([start])
        while queue:
            here = queue.popleft()
            for other in [case for case in left if images[case] & images[here]]:
                left.discard(other)
                group.add(other)
                queue.append(other)
        groups.add(frozenset(group))
    return groups


@pytest.mark.parametrize("seed", range(8))
def test_clusters_are_connected_components(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    names = [f"{n}.png" for n in range(40)]
    dump(tmp_path / "count/text2image.json", [{"query": "t", "keys": rng.sample(names, rng.randint(1, 3)), "label": 0} for _ in range(18)])
    dump(tmp_path / "count/image2text.json", [{"query": rng.choice(names), "keys": ["a", "b"], "label": 0} for _ in range(30)])
    cases, _ = read_spec_layout(open_storage(str(tmp_path)), ["count"])
    rows = cases.table.to_pylist()
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["cluster_id"], set()).add(row["case_id"])
    assert {frozenset(group) for group in found.values()} == components_by_search(rows)
    assert 1 < len(found) < len(rows)


def test_a_matching_matrix_is_one_cluster(tmp_path: Path) -> None:
    write_spec(tmp_path, {"count": 9, "existence": 2}, sets=3)
    cases, files = read_spec_layout(open_storage(str(tmp_path)), ["count", "existence"])
    sizes: dict[str, int] = {}
    for cluster in cases.table["cluster_id"].to_pylist():
        sizes[cluster] = sizes.get(cluster, 0) + 1
    assert sorted(sizes.values()) == [4, 4, 4, 18, 18, 18]
    assert len(files) == 3 * 9 + 3 * 2


def test_all_six_subsets_have_macro_averages(tmp_path: Path) -> None:
    write_spec(tmp_path / "spec", dict.fromkeys(SUBSETS, 2), sets=1)
    loaded = Spec().load(str(tmp_path / "spec"), str(tmp_path / "cache"))
    names = [metric.name for metric in loaded.metrics]
    assert names[-3:] == ["spec/macro/i2t_accuracy", "spec/macro/t2i_accuracy", "spec/macro/accuracy"]
    assert len(names) == 6 * 3 + 3
    assert not loaded.official, "the counts are not the official ones"
    assert all(metric.ties == "first" for metric in loaded.metrics if isinstance(metric, Metric))


def test_official_counts() -> None:
    counts = Spec.info.official_counts
    assert sum(count for name, count in counts.items() if name.endswith("i2t")) == 15_000
    assert sum(count for name, count in counts.items() if name.endswith("t2i")) == 15_000
    reported = {metric.name for metric in spec_metrics("spec", SUBSETS)}
    for published in Spec.info.published:
        assert set(published.values) <= reported
    clip = Spec.info.published[0].values
    for task in ("i2t", "t2i"):
        mean = sum(clip[f"spec/{subset}/{task}_accuracy"] for subset in SUBSETS) / 6
        assert mean == pytest.approx(clip[f"spec/macro/{task}_accuracy"], abs=6e-5), "the printed mean follows from the printed parts"


def test_published_numbers_need_the_official_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_spec(tmp_path / "spec", {"existence": 2}, sets=2)
    official = {f"{name}/{task}": 4 for name in SUBSETS for task in ("i2t", "t2i")}
    from dataclasses import replace

    monkeypatch.setattr(Spec, "info", replace(Spec.info, official_counts=official))
    assert Spec(subsets=["existence"]).load(str(tmp_path / "spec"), str(tmp_path / "cache")).official
    monkeypatch.setattr(Spec, "info", replace(Spec.info, official_counts={**official, "existence/i2t": 5}))
    assert not Spec(subsets=["existence"]).load(str(tmp_path / "spec"), str(tmp_path / "cache")).official


def test_macro_is_over_all_parts() -> None:
    last = spec_metrics("x", ["a", "b"])[-1]
    assert isinstance(last, Macro)
    assert sorted(last.parts) == ["x/a/i2t_accuracy", "x/a/t2i_accuracy", "x/b/i2t_accuracy", "x/b/t2i_accuracy"]


ROW = {"query": "a.png", "keys": ["x", "y"], "label": 0}


@pytest.mark.parametrize(
    ("i2t", "message"),
    [
        ([{**ROW, "label": 2}], "label out of range: 2 for 2 keys"),
        ([{**ROW, "label": -1}], "label out of range: -1"),
        ([{**ROW, "label": True}], "expected {query"),
        ([{**ROW, "keys": []}], "expected {query"),
        ([{"query": "a.png"}], "expected {query"),
        ({"0": ROW}, "expected a list"),
        ([], "at least one row"),
        ([{**ROW, "query": "../../secret.png"}], "leads out"),
        ([{**ROW, "query": "/etc/a.png"}], "leads out"),
        ([{**ROW, "query": "gone.png"}], "1 of 2 images are missing, the first is existence/gone.png"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, i2t: object, message: str) -> None:
    solid(tmp_path / "existence/a.png", RED)
    dump(tmp_path / "existence/image2text.json", i2t)
    dump(tmp_path / "existence/text2image.json", [{"query": "x", "keys": ["a.png"], "label": 0}])
    with pytest.raises(DataError) as caught:
        Spec(subsets=["existence"]).load(str(tmp_path), str(tmp_path / "cache"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SPEC layout: SUBSET/image2text.json of subset 'absolute_size' not found"):
        Spec().load(str(tmp_path), str(tmp_path / "cache"))
    (tmp_path / "absolute_size").mkdir()
    (tmp_path / "absolute_size/image2text.json").write_text("[{")
    with pytest.raises(DataError, match="not valid JSON"):
        Spec().load(str(tmp_path), str(tmp_path / "cache"))
    with pytest.raises(DataError, match="needs a folder"):
        Spec().load(None, str(tmp_path / "cache"))


def test_same_key_for_two_files(tmp_path: Path) -> None:
    solid(tmp_path / "existence/a.png", RED)
    solid(tmp_path / "existence/a.jpg", BLUE)
    dump(tmp_path / "existence/image2text.json", [ROW])
    dump(tmp_path / "existence/text2image.json", [{"query": "x", "keys": ["a.png", "a.jpg"], "label": 0}])
    with pytest.raises(DataError, match="same key"):
        Spec(subsets=["existence"]).load(str(tmp_path), str(tmp_path / "cache"))


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="did you mean 'subsets'"):
        Spec(subset=["existence"])
    with pytest.raises(ConfigError, match="no subset 'exist': did you mean 'existence'"):
        Spec(subsets=["exist"])
    with pytest.raises(ConfigError, match="option 'subsets'"):
        Spec(subsets="existence")
