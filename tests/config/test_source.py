"""Reading YAML: lines, duplicates, overrides, variables."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fgray.config.source import Source, expand, override, parse_yaml, plain
from fgray.errors import ConfigError

TEXT = """\
# a comment
job: eval
model: {kind: tiny, seed: 3}
benchmarks:
  - spec
  - name: retrieval
    split: test
stats:
  level: 0.9
"""

keys = st.text("abcdefgh_", min_size=1, max_size=6)
scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=20)
sections = st.dictionaries(keys, values, max_size=5)


@given(sections)
def test_reads_what_yaml_reads(section: dict) -> None:
    text = yaml.safe_dump(section, allow_unicode=True)
    assert parse_yaml(text, "f.yaml").values == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("job",), 2),
        (("model", "seed"), 3),
        (("benchmarks", 0), 5),
        (("benchmarks", 1, "split"), 7),
        (("stats", "level"), 9),
        (("stats", "level", "no such thing"), 9),
    ],
)
def test_every_value_knows_its_line(path: tuple, line: int) -> None:
    assert parse_yaml(TEXT, "f.yaml").where(path) == f"f.yaml:{line}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "duplicate key 'a' [f.yaml:3]: it also stands on line 1; keep one"),
        ("a: {b: 1, b: 2}", "duplicate key 'b' [f.yaml:1]: it also stands on line 1; keep one"),
        ("a: [1,\nb", "not valid YAML: expected ',' or ']', but got '<stream end>' [f.yaml:2]: mend the syntax"),
        ("- a\n- b\n", "a configuration is a mapping of keys to values [f.yaml]: start with `job: eval`"),
        ("", "a configuration is a mapping of keys to values [f.yaml]: start with `job: eval`"),
        ("a: &x [*x]", "the configuration contains itself [f.yaml]: remove the circular YAML alias"),
        ("5: x", "the key 5 is not text [f.yaml:1]: put it in quotes"),
        ("when: 2026-13-45", "not valid YAML: month must be in 1..12 [f.yaml]: put the value in quotes"),
    ],
)
def test_refuses_bad_yaml(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.system [echo]", "!!python/name:os.system", "!!python/object:os.x {a: 1}", "!mine x"]
)
def test_tags_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"tag '.*\[f.yaml:2\]"):
        parse_yaml(f"b: 1\na: {value}", "f.yaml")


def test_exponential_aliases_are_refused() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 30)]
    with pytest.raises(ConfigError, match="repeats itself without end"):
        parse_yaml("\n".join(lines), "f.yaml")


def test_merge_keys_and_aliases() -> None:
    text = "base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\n"
    assert parse_yaml(text, "f.yaml").values == yaml.safe_load(text) == {"base": {"a": 1, "b": 2}, "more": {"a": 1, "b": 3}}


@given(sections, keys, st.lists(keys, min_size=1, max_size=3), values)
def test_override_sets_one_path_and_nothing_else(section: dict, top: str, rest: list[str], value: object) -> None:
    section.pop(top, None)
    before = json.dumps(section)
    source = Source(section, "f.yaml")
    path = [top, *rest]
    changed = override(source, [f"{'.'.join(path)}={yaml.safe_dump(value, default_flow_style=True)}"]).values
    expected: object = value
    for key in reversed(path[1:]):
        expected = {key: expected}
    assert changed == {**section, top: expected}
    assert json.dumps(section) == before, "the original must not change"


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("limit=20", ("limit",), 20),
        ("limit=", ("limit",), None),
        ("name='20'", ("name",), "20"),
        ("a.b=x=y", ("a", "b"), "x=y"),
        ("benchmarks.0=sugarcrepe", ("benchmarks", 0), "sugarcrepe"),
        ("benchmarks.0.cases=5", ("benchmarks", 0), {"name": "spec", "cases": 5}),
        ("benchmarks.2.name=spec", ("benchmarks", 2), {"name": "spec"}),
        ("model={kind: tiny}", ("model",), {"kind": "tiny"}),
    ],
)
def test_override_reads_yaml(assignment: str, path: tuple, value: object) -> None:
    changed = override(parse_yaml(TEXT, "f.yaml"), [assignment])
    assert changed.get(path) == value
    set_path = tuple(int(key) if key.isdecimal() else key for key in assignment.partition("=")[0].split("."))
    assert changed.where(set_path) == f"--set {assignment}"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("limit", "cannot read the override 'limit' [--set limit]: write it as --set a.b=value"),
        ("a..b=1", "cannot read the override 'a..b=1' [--set a..b=1]: write it as --set a.b=value"),
        ("job.x=1", "job is 'eval', not a section [--set job.x=1]: set the whole value instead"),
        ("benchmarks.7=x", "benchmarks has no item '7' [--set benchmarks.7=x]: its items are numbered from 0 to 1"),
        ("benchmarks.x=1", "benchmarks has no item 'x' [--set benchmarks.x=1]: its items are numbered from 0 to 1"),
        ("limit=[1", "the value is not valid YAML [--set limit=[1]: put it in quotes"),
    ],
)
def test_override_refuses(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(parse_yaml(TEXT, "f.yaml"), [assignment])
    assert str(caught.value) == message


ENVIRONMENT = {"N": "20", "NAME": "base", "EMPTY": "", "ZERO": "007", "PATH_WITH_COLON": "s3://b/c"}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${N}", 20),
        ('"${N}"', "20"),
        ("'x'", "x"),
        ("${MISSING:20}", 20),
        ("${MISSING:null}", None),
        ("${MISSING:}", None),
        ("${MISSING:true}", True),
        ("runs/${NAME}-${N}", "runs/base-20"),
        ("${PATH_WITH_COLON}/x", "s3://b/c/x"),
        ("${MISSING:s3://a/b}", "s3://a/b"),
        ("x${EMPTY}y", "xy"),
        ("$N and ${", "$N and ${"),
        ("${MISSING:[1, 2]}", "[1, 2]"),
    ],
)
def test_variables(written: str, value: object) -> None:
    assert expand(parse_yaml(f"a:\n  b: {written}\n", "f.yaml"), ENVIRONMENT) == {"a": {"b": value}}


def test_missing_variable_names_the_line() -> None:
    with pytest.raises(ConfigError) as caught:
        expand(parse_yaml("a: 1\nb: [x, '${SECRET_KEY}']\n", "f.yaml"), {})
    assert str(caught.value) == "the environment variable SECRET_KEY is not set [f.yaml:2]: export it, or write ${SECRET_KEY:default}"


@given(sections)
def test_values_without_variables_stay(section: dict) -> None:
    source = parse_yaml(yaml.safe_dump(section), "f.yaml")
    expected = json.loads(json.dumps(section))
    assert expand(source, {"a": "b"}) == expected or "${" in json.dumps(section)
    assert plain(source.values) == expected


def test_written_values_keep_their_variables() -> None:
    source = parse_yaml('a: "${PASSWORD}"\n', "f.yaml")
    assert expand(source, {"PASSWORD": "hunter2"}) == {"a": "hunter2"}
    assert plain(source.values) == {"a": "${PASSWORD}"}
