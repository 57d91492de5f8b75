from __future__ import annotations

import json

import pytest

from fgray.errors import DataError
from fgray.metrics.spec import AnyMetric, Macro, Metric, Pooled, from_dict, to_dict


@pytest.mark.parametrize(
    "metric",
    [Metric("a", "s", "t", k=5, ties="expected", per_category=True), Macro("b", ("a", "c")), Pooled("p", ("a",))],
)
def test_definitions_survive_json(metric: AnyMetric) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(metric)))) == metric


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"type": "macros", "name": "a"}, "unknown metric type 'macros' .*did you mean 'macro'"),
        ({"type": "macro", "name": "a", "part": []}, "a macro has no field 'part' .*did you mean 'parts'"),
        ({"type": "metric", "name": "a", "subset": "s"}, "a metric is incomplete .*task"),
    ],
)
def test_wrong_definitions_are_refused(content: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_dict(content)
