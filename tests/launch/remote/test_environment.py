"""Variables that a configuration names travel with its job; secrets never do."""

from __future__ import annotations

import pytest

from fgray.errors import ConfigError
from fgray.launch.remote.environment import named_variables, refuse_credentials


def test_what_is_named_and_set_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_BUCKET", "b")
    monkeypatch.setenv("UNRELATED", "u")
    monkeypatch.delenv("MY_LIMIT", raising=False)
    source = {"output": "s3://${MY_BUCKET}/o", "benchmarks": [{"limit": "${MY_LIMIT:3}"}]}
    assert named_variables(source, "job.yaml") == {"MY_BUCKET": "b", "MY_LIMIT": "3"}  # the nodes may have another one


def test_two_defaults_of_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"output": "s3://${MY_BUCKET:a}/o", "store": "s3://${MY_BUCKET:b}/s"}
    with pytest.raises(ConfigError, match="MY_BUCKET has two defaults"):
        named_variables(source, "job.yaml")
    monkeypatch.setenv("MY_BUCKET", "c")
    assert named_variables(source, "job.yaml") == {"MY_BUCKET": "c"}


SECRET = "AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID HF_TOKEN DB_PASSWORD api_key RAY_AUTH_TOKEN GITHUB_PAT PRIVATE_KEY DB_PWD PGPASS"
PLAIN = "BUCKET MONKEY KEYBOARD CHECKPOINT COCO_ROOT TOKYO_DATA MAX_TOKENS TOKENIZERS_PARALLELISM"


@pytest.mark.parametrize("name", SECRET.split())
def test_secrets_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "value-of-it")
    with pytest.raises(ConfigError, match=f"{name} looks like a secret") as error:
        named_variables({"name": "${" + name + "}"}, "job.yaml")
    assert "value-of-it" not in str(error.value)


ADDRESSES = ["https://me:hunter2@example.org/x", "https://hunter2@example.org", "https://example.org/x?a=b&sig=hunter2"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_passwords_in_addresses_are_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    with pytest.raises(ConfigError, match="the address has credentials in it") as error:
        refuse_credentials(address, "output")
    assert "hunter2" not in str(error.value)
    monkeypatch.setenv("TRACKER", address)
    with pytest.raises(ConfigError, match="TRACKER looks like a secret"):
        named_variables({"name": "${TRACKER}"}, "job.yaml")


@pytest.mark.parametrize("name", PLAIN.split())
def test_other_names_are_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "v")
    assert named_variables({"name": "${" + name + "}"}, "job.yaml") == {name: "v"}
