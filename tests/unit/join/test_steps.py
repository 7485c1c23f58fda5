"""Check by which credential a switch joins, as its membership records it."""

from __future__ import annotations

import pytest
import structlog

from kubesyncd import settings
from kubesyncd.core.model import MasterConfig
from kubesyncd.join.files import JoinFiles
from kubesyncd.join.plan import Job
from kubesyncd.join.steps import SwitchSteps


@pytest.mark.parametrize(
    ("kube", "how"),
    [
        ("", "admin.conf"),
        ('bootstrap_token_file = "/etc/token"', "token"),
        ('client_certificate = "/etc/client.pem"', "certificate"),
        ('bootstrap_token_file = "/etc/token"\nclient_certificate = "/etc/client.pem"', "token"),
    ],
)
def test_the_settings_choose_the_credential(kube: str, how: str) -> None:
    current = settings.decode(f"[kube]\n{kube}\n".encode(), "test")
    steps = SwitchSteps(Job.JOIN, current, MasterConfig(), JoinFiles(current), structlog.get_logger())
    assert steps.how.value == how
