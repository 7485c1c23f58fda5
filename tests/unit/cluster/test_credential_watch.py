"""Check that a certificate is an alert once the kubelet is late to renew it, however short its life is."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from kubesyncd.cluster.credential_watch import CredentialWatch
from kubesyncd.core.certificate_life import CertificateLife
from kubesyncd.core.model import MasterConfig
from kubesyncd.runtime.context import Runtime
from tests.sim.plain import PlainLog

if TYPE_CHECKING:
    from typing import Any

HOUR, DAY = 3600.0, 86_400.0


@pytest.mark.parametrize(
    ("life_s", "left"),
    [(3 * HOUR, "0.3 hours"), (DAY, "2.4 hours"), (30 * DAY, "3 days"), (365 * DAY, "36 days")],
)
def test_a_fresh_certificate_is_no_alert_and_one_that_is_not_renewed_is(life_s: float, left: str) -> None:
    log: Any = PlainLog()
    now, told = [1_700_000_000.0], []
    runtime = Runtime(clock=lambda: now[0], wall=lambda: now[0], rng=random.Random(0), log=log)
    life = CertificateLife(now[0], now[0] + life_s)
    watch = CredentialWatch(lambda: life, runtime=runtime, notice=lambda *words: told.append(words))
    for share in (0.0, 0.5, 0.89):
        now[0] = life.begins + share * life_s
        watch.check(MasterConfig(ip="10.0.0.1"), joined=True)
    assert (watch.expires_ts, told) == (life.ends, [])
    now[0] = life.renewed_by
    watch.check(MasterConfig(ip="10.0.0.1"), joined=True)
    ((word, why),) = told
    assert word == "CredentialExpires"
    assert f"is not renewed, and expires in {left};" in why
    now[0] = life.ends + 2 * DAY
    watch.check(MasterConfig(ip="10.0.0.1"), joined=True)
    assert "has expired" in told[-1][1]
    watch.check(MasterConfig(ip="10.0.0.1"), joined=False)
    assert watch.expires_ts is None
