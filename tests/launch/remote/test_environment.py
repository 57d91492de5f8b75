"""Variables that a configuration names travel with its job; secrets never do."""

from __future__ import annotations

import pytest

from fgray.errors import ConfigError
from fgray.launch.remote.environment import named_variables


def test_what_is_named_and_set_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_BUCKET", "b")
    monkeypatch.setenv("UNRELATED", "u")
    monkeypatch.delenv("MY_LIMIT", raising=False)
    source = {"output": "s3://${MY_BUCKET}/o", "benchmarks": [{"limit": "${MY_LIMIT:3}"}]}
    assert named_variables(source, "job.yaml") == {"MY_BUCKET": "b"}


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "DB_PASSWORD", "api_key", "RAY_AUTH_TOKEN", "GITHUB_PAT", "PRIVATE_KEY"],
)
def test_secrets_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "value-of-it")
    with pytest.raises(ConfigError, match=f"{name} looks like a secret") as error:
        named_variables({"name": "${" + name + "}"}, "job.yaml")
    assert "value-of-it" not in str(error.value)


def test_passwords_in_addresses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER", "https://me:hunter2@example.org/x")
    with pytest.raises(ConfigError, match="TRACKER looks like a secret"):
        named_variables({"name": "${TRACKER}"}, "job.yaml")


@pytest.mark.parametrize("name", ["BUCKET", "MONKEY", "KEYBOARD", "CHECKPOINT", "COCO_ROOT", "TOKYO_DATA"])
def test_other_names_are_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "v")
    assert named_variables({"name": "${" + name + "}"}, "job.yaml") == {name: "v"}
