"""The eval suite with the tiny model, one case and one repeat: what bench.json holds, and that its numbers follow from each other."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from fgray import cli
from fgray.bench import Row, compare_row, run_suite
from fgray.benchmarks.spec import SUBSETS
from fgray.benchmarks.spec_style import NAMING, SpecStyle
from fgray.config.schema import BenchJob

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("ours", "theirs", "more_is_better", "goal", "ratio", "met"),
    [
        (3.0, 2.0, True, 1.5, 1.5, True),
        (3.0, 2.0, True, 1.501, 1.5, False),
        (2.0, 9.0, False, 4.5, 4.5, True),
        (9.0, 2.0, False, 0.5, 0.222, False),
        (1.0, 3.0, True, None, 0.333, None),
        (0.9496, 1.0, True, 0.95, 0.95, False),  # rounded for the reader, judged before
    ],
)
def test_ratio_says_how_much_better_ours_is(
    ours: float, theirs: float, more_is_better: bool, goal: float | None, ratio: float, met: bool | None
) -> None:
    row = compare_row("x", ours, theirs, "s", more_is_better=more_is_better, goal=goal, note="n")
    assert (row.ratio, row.goal, row.met) == (ratio, goal, met)
    assert (row.name, row.unit, row.note) == ("x", "s", "n")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Row]]:
    output = tmp_path_factory.mktemp("bench") / "out"
    options = {"model": {"kind": "tiny"}, "cases": 1, "repeats": 1, "unit_rows": 8}
    result = run_suite(BenchJob(job="bench", name="b", suite="eval", options=options, output=str(output)))
    assert result.uri == str(output)
    written = json.loads((output / "bench.json").read_text())
    assert [list(row) for row in written] == [["name", "ours", "theirs", "unit", "ratio", "goal", "met", "note"]] * 3
    assert [Row(**row) for row in written] == result.rows
    return output, {row.name: row for row in result.rows}


@pytest.mark.slow
class TestRows:
    def test_names_units_goals(self, measured: tuple[Path, dict[str, Row]]) -> None:
        found = {name: (row.unit, row.goal) for name, row in measured[1].items()}
        assert found == {"embed_vs_loop": ("images/s", 0.95), "spec_vs_naive": ("s", 6.0), "startup_seconds": ("s", None)}

    def test_ratios(self, measured: tuple[Path, dict[str, Row]]) -> None:
        for row in measured[1].values():
            assert row.ours > 0 and row.theirs is not None and row.theirs > 0 and row.ratio is not None
            ratio = row.ours / row.theirs if row.unit == "images/s" else row.theirs / row.ours
            assert row.ratio == pytest.approx(ratio, rel=0.02), "ours and theirs are rounded to three decimals"
            assert row.met is (None if row.goal is None else row.ratio >= row.goal)

    def test_bound_is_counted_from_the_files(self, measured: tuple[Path, dict[str, Row]]) -> None:
        """What SPEC's own harness encodes is the query and all candidates of every row; we encode each distinct thing once."""
        output, rows = measured
        files = [*output.rglob("image2text.json"), *output.rglob("text2image.json")]
        assert {path.parent.name for path in files} == set(SUBSETS)
        encoded, images, texts = 0, set(), set()
        for path in files:
            for row in json.loads(path.read_text()):
                encoded += 1 + len(row["keys"])
                queries, candidates = (images, texts) if path.name == "image2text.json" else (texts, images)
                pictures = queries if queries is images else candidates
                for kind, values in ((queries, [row["query"]]), (candidates, row["keys"])):
                    kind.update((path.parent / value).read_bytes() if kind is pictures else value for value in values)
        # The naming control is in no file: one picture of the above against a name for each of the objects.
        cases = SpecStyle(cases=1).load(None, str(output)).cases.table.to_pylist()
        naming = [case for case in cases if case["subset"] == NAMING]
        assert len(naming) == 1 and not texts & set(naming[0]["candidates"])
        texts.update(naming[0]["candidates"])
        encoded += 1 + len(naming[0]["candidates"])
        items = len(images) + len(texts)
        counts = re.search(r"([\d,]+) distinct items against ([\d,]+) encoded ones \(bound ([\d.]+)\)", rows["spec_vs_naive"].note)
        assert counts is not None
        assert [int(text.replace(",", "")) for text in counts.groups()[:2]] == [items, encoded]
        assert float(counts[3]) == round(encoded / items, 1)
        assert f"tiny, {len(images)} images of 448 px" in rows["embed_vs_loop"].note


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["options.image=3"], "the suite 'eval' has no such option"),
        (["suite=evall"], "no bench suite is called 'evall': did you mean 'eval'?"),
        (
            ["options.cases=1", "options.unit_rows=8", "options.model={kind: tinny}"],
            "'tinny' found using 'kind' does not match any of the expected tags",
        ),
    ],
)
def test_what_is_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, changes: list[str], message: str
) -> None:
    arguments = [part for change in changes for part in ("--set", change)]
    config = str(PROJECT / "configs/bench/eval.yaml")
    monkeypatch.setattr(sys, "argv", ["fgray", "submit", config, "--output", str(tmp_path / "out"), *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: ") and message in err
    assert not (tmp_path / "out/bench.json").exists()
