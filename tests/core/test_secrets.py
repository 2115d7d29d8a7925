"""Secrets of `storage_options` are not shown, and what is shown in their place is understood."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_clip import ClipDataModule, InputError
from lightning_clip.core.secrets import checked_options, hidden
from lightning_clip.data import pair_sources


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"key": "AKIA123", "secret": "wJalr/x"}, {"key": "***", "secret": "***"}),
        ({"headers": {"Authorization": "Bearer abcdefghij"}}, {"headers": {"Authorization": "Bearer ${oc.env:A_TOKEN}"}}),
        ({"token": "abcdefghij"}, {"token": "${oc.env:A_TOKEN}"}),
        ({"token": "abcdefghijk"}, {"token": "***"}),
        ({"token": "xabcdefghij"}, {"token": "***"}),
        ({"token": "${oc.env:A_TOKEN}"}, {"token": "${oc.env:A_TOKEN}"}),
        (
            {"password": 12345678, "timeout": 30, "anon": True, "x": None},
            {"password": "***", "timeout": 30, "anon": True, "x": None},
        ),
        ({"endpoint_url": "http://minio:9000"}, {"endpoint_url": "http://minio:9000"}),
        ({"endpoint_url": "http://me:word@minio"}, {"endpoint_url": "***"}),
        ({"several": ["a", {"b": "c"}]}, {"several": ["***", {"b": "***"}]}),
    ],
)
def test_hidden(given: dict[str, Any], shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "abcdefghij")
    spec = {"name": "mix", "sources": [{"name": "s3://b/0.tar", "window": 3, "storage_options": given}]}
    assert hidden(spec) == {"name": "mix", "sources": [{"name": "s3://b/0.tar", "window": 3, "storage_options": shown}]}
    assert spec["sources"][0]["storage_options"] is given  # type: ignore[index]


def test_what_a_saved_recipe_has_in_their_place() -> None:
    with pytest.raises(InputError, match=r"storage_options.headers.Authorization is '\*\*\*'.*'\$\{oc.env:NAME\}'"):
        checked_options({"headers": {"Authorization": "***"}})
    with pytest.raises(InputError, match="storage_options is of kind str: give a mapping"):
        pair_sources.build({"name": "shards", "path": "s3://b/0.tar", "storage_options": "mytoken"})
    assert checked_options(None) == {}


def test_errors_do_not_show_them() -> None:
    secret = {"storage_options": {"token": "mysecret"}}
    with pytest.raises(InputError, match="has no 'name'") as first:
        pair_sources.build(secret)
    with pytest.raises(InputError, match="is a list") as second:
        ClipDataModule([{"name": "s3://b/0.tar", **secret}]).source("train")  # type: ignore[arg-type]
    assert "mysecret" not in f"{first.value}{second.value}"
