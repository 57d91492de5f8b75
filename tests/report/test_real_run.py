"""The report of a benchmark whose name holds a slash, as `evaluate` itself writes it."""

from __future__ import annotations

import json
from pathlib import Path

from bs4 import BeautifulSoup

from fgray.config.schema import EvalJob
from fgray.evaluation import evaluate
from tests.report.test_html import text
from tests.small_data import write_picture


def test_a_retrieval_run_has_one_section_with_its_rows(tmp_path: Path) -> None:
    lines = []
    for number in range(4):
        write_picture(tmp_path / "data" / "images" / f"{number}.jpg", number)
        captions = [f"picture {number}", f"another caption of picture {number}"]
        lines.append(json.dumps({"image": f"images/{number}.jpg", "split": "test", "captions": captions}))
    (tmp_path / "data" / "captions.jsonl").write_text("\n".join(lines) + "\n")
    job = {
        "job": "eval",
        "name": "pools",
        "model": {"kind": "tiny"},
        "data": {"root": str(tmp_path / "data")},
        "benchmarks": [{"name": "retrieval", "dataset": "captions"}],
        "compute": {"runner": "serial", "batch_size": 4, "unit_rows": 8},
        "output": str(tmp_path / "run"),
    }
    evaluate(EvalJob.model_validate(job))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]
    soup = BeautifulSoup((tmp_path / "run" / "report.html").read_text("utf-8"), "html.parser")
    assert text(soup.h1) == "Image-text retrieval"
    assert len(soup.select("#results .benchmark")) == 1
    (table,) = [table for table in soup.select("#table table.numbers") if text(table.caption) != "Controls"]
    assert text(table.caption) == "Image-text retrieval"
    rows = {str(row.th["title"]): row for row in table.select("tbody tr")}
    expected = [f"retrieval/captions/{task}_retrieval_recall@{k}" for task in ("text", "image") for k in (1, 5, 10)]
    assert list(rows) == expected and metrics.keys() == set(expected)
    labels = [f"{way}, R@{k}" for way in ("Image → text", "Text → image") for k in (1, 5, 10)]
    assert [text(row.th) for row in rows.values()] == labels
    for name, row in rows.items():
        cells = [text(cell) for cell in row.select("td")]
        assert cells[0] == f"{metrics[name]['value'] * 100:.1f}"
        assert cells[6] == "first wins"
    chosen = [str(option["value"]) for option in soup.select("[data-filters] [name=benchmark] option") if option["value"]]
    assert chosen == ["retrieval/captions"] == sorted({str(card["data-benchmark"]) for card in soup.select("[data-card]")})
