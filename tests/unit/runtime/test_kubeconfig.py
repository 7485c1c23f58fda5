"""The reader of kubeconfigs: what it takes from one, and what it refuses."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from kubesyncd.runtime.kubeconfig import Kubeconfig, PemSource, parse


def document(user: dict[str, Any], cluster: dict[str, Any]) -> bytes:
    return json.dumps(
        {
            "clusters": [{"name": "other", "cluster": {}}, {"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}, {"name": "other", "user": {"token": "x"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
    ).encode()


def test_the_current_context_is_read_and_nothing_else() -> None:
    user = {"client-certificate": "client.pem", "client-key-data": "a2V5", "exec": {"command": "sh"}}
    cluster = {"server": "https://10.0.0.1:6443/", "certificate-authority-data": "Y2E="}
    assert parse(document(user, cluster)) == Kubeconfig(
        server="https://10.0.0.1:6443",
        ca=PemSource("certificate-authority", inline="Y2E="),
        certificate=PemSource("client-certificate", file="client.pem"),
        key=PemSource("client-key", inline="a2V5"),
        token="",
        user_keys=frozenset(user),
    )


def test_what_is_not_set_or_null_is_empty() -> None:
    read = parse(document({"token": None}, {"server": None, "certificate-authority": None}))
    assert (read.server, read.token, read.ca) == ("", "", PemSource("certificate-authority"))


def test_values_that_are_not_text_are_read_as_text() -> None:
    read = parse(document({"client-certificate": 3, "token": 7}, {"server": 1}))
    assert (read.certificate.file, read.token, read.server) == ("3", "7", "1")


def test_inline_text_is_decoded_and_anything_else_is_an_error() -> None:
    assert PemSource("client-key", inline=base64.b64encode(b"key").decode()).decoded() == b"key"
    with pytest.raises(KeyError, match="client-key-data"):
        PemSource("client-key", file="/x").decoded()
    with pytest.raises(ValueError, match="base64"):
        PemSource("client-key", inline="!").decoded()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"\xff\x00",
        b"current-context: x",
        b"current-context: none\ncontexts: []",
        b"current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: 3\nusers: []",
        b"current-context: [x]\ncontexts: [{name: x, context: {}}]",
        b"current-context: x\ncontexts: [{name: [x], context: {}}]",
    ],
)
def test_an_invalid_kubeconfig_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse(text)
