"""Report a check that cannot run, once until it runs again."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import structlog

from kubesyncd.features.health_checks import Checks
from kubesyncd.ports import Ran, Refused
from kubesyncd.runtime.context import Runtime
from tests.unit.core.given import TIMING, granted, kube, observed


class Hooks:
    """One check of snmp, which may be told to refuse."""

    refuses = False

    def names(self, folder: str) -> tuple[str, ...]:
        return ("snmp",)

    async def run(self, folder: str, name: str, arguments: tuple[str, ...], seconds: float) -> Ran:
        if self.refuses:
            raise Refused("hooks", "exec format error")
        return Ran(0, "")


async def test_a_check_that_cannot_run_is_reported_again_once_it_has_run() -> None:
    lines, hooks = structlog.testing.LogCapture(), Hooks()
    view = SimpleNamespace(record=granted(), observed=observed(kube()))
    reconcilers: Any = [SimpleNamespace(name="snmp", view=view)]
    log = structlog.wrap_logger(None, processors=[lines])
    runtime = Runtime(lambda: 0.0, lambda: 0.0, Random(1), log)
    checks = Checks(hooks, reconcilers, TIMING, runtime)
    for refuses in (True, True, False, True):
        hooks.refuses = refuses
        await checks._round()
    assert [(line["event"], line.get("feature"), line.get("check")) for line in lines.entries] == [
        ("check", "snmp", "snmp"),
        ("recovered", None, None),
        ("check", "snmp", "snmp"),
    ]
