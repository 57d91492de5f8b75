from __future__ import annotations

import json
import random
from typing import Any

import pytest
from scipy import stats as reference

from fgray.config.schema import StatsConfig
from fgray.errors import FgrayError
from fgray.metrics.spec import AnyMetric, Macro, Metric, Pooled
from fgray.metrics.summary import summarise
from tests.metrics.make import right, sample, table

STATS = StatsConfig(resamples=2000)
I2T, T2I = Metric("toy/s/i2t_accuracy", "s", "i2t"), Metric("toy/s/t2i_accuracy", "s", "t2i")


def family() -> tuple[list[dict[str, Any]], list[AnyMetric]]:
    """Three subsets asked both ways, clusters of one image-to-text pair and one text-to-image question."""
    draw = random.Random(5)
    rows, metrics = [], []
    for subset, chance in (("count", 0.4), ("size", 0.7), ("place", 0.9)):
        for cluster in range(30):
            where = {"subset": subset}
            rows += [right(f"{subset}{cluster}{i}", f"{subset}{cluster}", draw.random() < chance, **where) for i in range(2)]
            rows.append(right(f"{subset}{cluster}t", f"{subset}{cluster}", draw.random() < chance, **where, task="t2i"))
        metrics += [Metric(f"toy/{subset}/{task}_accuracy", subset, task) for task in ("i2t", "t2i")]
        metrics.append(Macro(f"toy/{subset}/accuracy", (f"toy/{subset}/i2t_accuracy", f"toy/{subset}/t2i_accuracy")))
    names = ("i2t_accuracy", "t2i_accuracy", "accuracy")
    metrics += [Macro(f"toy/macro/{name}", tuple(f"toy/{subset}/{name}" for subset in ("count", "size", "place"))) for name in names]
    return rows, metrics


def test_a_hand_counted_entry() -> None:
    rows = [
        sample("1", "a", [0.9, 0.1]),
        sample("2", "b", [0.2, 0.7, 0.1, 0.1]),
        sample("3", "c", [0.5, 0.5, 0.5, 0.5]),
        sample("4", "d", None),
        right("5", "e", True, task="t2i"),
    ]
    expected = summarise(table(rows), [Metric("m", "s", "i2t", ties="expected")], STATS)["m"]
    assert expected["value"] == pytest.approx((1 + 0 + 0.25) / 3)
    assert expected["correct"] == 1.25
    assert (expected["count"], expected["excluded"], expected["ties"], expected["near_ties"], expected["clusters"]) == (3, 1, 1, 1, 3)
    assert expected["chance"] == pytest.approx((1 / 2 + 1 / 4 + 1 / 4) / 3)
    assert expected["ci95"][0] < expected["value"] < expected["ci95"][1]
    first = summarise(table(rows), [Metric("m", "s", "i2t", ties="first")], STATS)["m"]
    assert (first["value"], first["correct"]) == (pytest.approx(2 / 3), 2)
    wrong = summarise(table(rows), [Metric("m", "s", "i2t", ties="wrong")], STATS)["m"]
    assert (wrong["value"], wrong["correct"]) == (pytest.approx(1 / 3), 1)


def test_independent_cases_have_wilsons_interval_with_students_quantile() -> None:
    rows = [right(str(i), str(i), i < 37) for i in range(50)]
    entry = summarise(table(rows), [I2T], StatsConfig(level=0.9))[I2T.name]
    assert "ci95" not in entry
    assert entry["level"] == 0.9
    quantile = reference.t.ppf(0.95, 49)
    for end in entry["ci"]:
        assert (0.74 - end) ** 2 == pytest.approx(quantile**2 * end * (1 - end) / 50)


def test_macro_pooled_and_mean_per_class_by_hand() -> None:
    rows = [right(f"i{i}", f"i{i}", i < 3, category="cat" if i < 1 else "dog") for i in range(4)]
    rows += [right(f"t{i}", f"t{i}", i < 5, task="t2i") for i in range(10)]
    metrics = [
        I2T,
        T2I,
        Macro("macro", (I2T.name, T2I.name)),
        Pooled("pooled", (I2T.name, T2I.name)),
        Metric("recall", "s", "i2t", per_category=True),
    ]
    found = summarise(table(rows), metrics, STATS)
    assert found["macro"]["value"] == (0.75 + 0.5) / 2
    assert found["pooled"]["value"] == pytest.approx(8 / 14)
    assert (found["macro"]["count"], found["macro"]["correct"], found["macro"]["clusters"]) == (14, 8, 14)
    assert found["recall"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    assert (found["recall"]["count"], found["recall"]["correct"], found["recall"]["chance"]) == (4, 3, 0.5)
    for entry in found.values():
        assert 0 <= entry["ci95"][0] < entry["value"] < entry["ci95"][1] <= 1


def test_entries_do_not_depend_on_the_order_of_rows_or_on_other_metrics() -> None:
    rows, metrics = family()
    whole = summarise(table(rows), metrics, STATS)
    random.Random(1).shuffle(rows)
    assert json.dumps(summarise(table(rows), metrics, STATS)) == json.dumps(whole)
    known = {metric.name: metric for metric in metrics}
    need = [known[f"toy/{subset}/t2i_accuracy"] for subset in ("place", "count", "size")] + [known["toy/macro/t2i_accuracy"]]
    alone = summarise(table(rows), need, STATS)
    assert {name: whole[name] for name in alone} == alone
    assert summarise(table(rows), metrics, StatsConfig(resamples=2000, seed=1)) != whole


def test_a_macro_interval_is_narrower_than_its_parts() -> None:
    rows, metrics = family()
    found = summarise(table(rows), metrics, STATS)
    width = {name: entry["ci95"][1] - entry["ci95"][0] for name, entry in found.items()}
    assert width["toy/macro/i2t_accuracy"] < min(width[f"toy/{subset}/i2t_accuracy"] for subset in ("count", "size", "place"))


@pytest.mark.parametrize("hit", [True, False])
def test_perfect_and_hopeless_models_keep_an_honest_interval(hit: bool) -> None:
    rows = [right(f"{task}{i}", str(i), hit, task=task) for i in range(20) for task in ("i2t", "t2i")]
    entry = summarise(table(rows), [I2T, T2I, Macro("macro", (I2T.name, T2I.name))], STATS)["macro"]
    assert entry["value"] == float(hit)
    assert entry["ci95"] == pytest.approx([0.820, 1] if hit else [0, 0.180], abs=0.001)  # t(19) squared over 20 + t(19) squared


def test_one_cluster_says_nothing() -> None:
    rows = [right(f"{task}{i}", "only", i < 3, task=task) for i in range(5) for task in ("i2t", "t2i")]
    found = summarise(table(rows), [I2T, T2I, Macro("macro", (I2T.name, T2I.name))], STATS)
    assert [entry["ci95"] for entry in found.values()] == [[0, 1]] * 3


@pytest.mark.parametrize(
    ("rows", "metrics", "message"),
    [
        ([right("1", "a", True)], [T2I], r"no sample to score: there are none of subset 's', task 't2i' \[metric toy/s/t2i_accuracy\]"),
        ([sample("1", "a", None)], [I2T], "no sample to score: all 1 samples are excluded"),
        ([right("1", "a", True)], [I2T, Macro("m", ("toy/s/i2t_acuracy",))], r"unknown part .* did you mean 'toy/s/i2t_accuracy'\?"),
        ([right("1", "a", True)], [I2T, Pooled("m", ())], "no parts to combine"),
        ([right("1", "a", True)], [Macro("m", ("n",)), Macro("n", ("m",))], "is a part of itself"),
        ([right("1", "a", True)], [I2T, I2T], "two metrics are called"),
        ([right("1", "a", True)], [Metric("m", "s", "i2t", per_category=True)], "a sample has no category"),
        ([right("1", "a", True), right("2", "b", True, benchmark="other")], [I2T], "samples of 2 benchmarks"),
    ],
)
def test_what_cannot_be_summarised_is_refused_in_one_line(rows: list[dict[str, Any]], metrics: list[AnyMetric], message: str) -> None:
    with pytest.raises(FgrayError, match=message) as error:
        summarise(table(rows), metrics, STATS)
    assert "\n" not in str(error.value)
