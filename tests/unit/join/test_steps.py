"""Check by which credential a switch joins, as its membership records it."""

from __future__ import annotations

import pytest
import structlog

from kubesyncd import settings
from kubesyncd.core.model import MasterConfig
from kubesyncd.join.files import JoinFiles
from kubesyncd.join.node_names import NodeNames
from kubesyncd.join.plan import Job
from kubesyncd.join.steps import SwitchSteps

HASH = f'ca_cert_hash = "sha256:{"0" * 64}"'
KEY = 'client_key = "/etc/client.key"\nca_file = "/etc/ca.pem"'


@pytest.mark.parametrize(
    ("kube", "how"),
    [
        ("", "admin.conf"),
        (f'bootstrap_token_file = "/etc/token"\n{HASH}', "token"),
        (f'client_certificate = "/etc/client.pem"\n{KEY}', "certificate"),
        (f'bootstrap_token_file = "/etc/token"\n{HASH}\nclient_certificate = "/etc/client.pem"', "token"),
    ],
)
def test_the_settings_choose_the_credential(kube: str, how: str) -> None:
    current = settings.decode(f"[kube]\n{kube}\n".encode(), "test").valid()
    names = NodeNames(certified=str, recorded=lambda: None, configured="", host=lambda: "leaf1")
    log = structlog.get_logger()
    steps = SwitchSteps(Job.JOIN, current, MasterConfig(), JoinFiles(current), names, log)
    assert steps.how.value == how
