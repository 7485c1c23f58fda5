"""Load a busy switch while a fault hits the daemon; check that every request gets the correct answer.

One feature, `held`, is waited for by many and must not notice anything; another, `moved`, is restarted by systemd again
and again; operators' and scripts' commands come all the time. Knows no reason for the load.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.system.installed_fixtures import add_feature, remove_feature, row
from tests.system.installed_switch import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.installed_switch import InstalledSwitch

WAITERS = 8
# A restart by hand counts against the start limit too.
RESTART = "systemctl reset-failed moved; exec systemctl restart moved"
ASKED = (
    ("admin", ("container", "id", "held")),
    ("admin", ("container", "exec", "held", "true")),
    ("admin", ("container", "state", "held")),
    ("root", ("sh", "-c", RESTART)),
)


@contextmanager
def load(switch: InstalledSwitch) -> Iterator[None]:
    """Load while the block runs; fails afterwards if any question failed, or `held` or its waiters noticed."""
    for name in ("held", "moved"):
        add_feature(switch, name)
    switch.wait_for(lambda: row(switch, "held").get("current_owner") == "local", "held runs locally")
    waiters = [switch.spawn("container", "wait", "held", user="admin") for _ in range(WAITERS)]
    before, done, failures = _facts(switch), threading.Event(), []
    answered = dict.fromkeys(ASKED, 0)

    def ask(question: tuple[str, tuple[str, ...]]) -> None:
        user, command = question
        while not done.is_set():
            asked = switch.process(*command, user=user)
            if asked.returncode != 0:
                failures.append(f"{command}: {asked.returncode} {asked.stderr}")
            answered[question] += 1

    askers = [threading.Thread(target=ask, args=(question,)) for question in ASKED]
    for asker in askers:
        asker.start()
    try:
        yield
    finally:
        done.set()
        for asker in askers:
            asker.join()
    assert failures == []
    assert all(answered.values())
    assert _facts(switch) == before
    assert [waiter.poll() for waiter in waiters] == [None] * WAITERS
    switch.run("systemctl", "stop", "held")
    assert [waiter.wait(PATIENCE_S) for waiter in waiters] == [0] * WAITERS, "the container's own code"
    for name in ("held", "moved"):
        remove_feature(switch, name)


def _facts(switch: InstalledSwitch) -> tuple[str, str, str]:
    """What changes when anything has happened to the feature."""
    started = switch.run("docker", "inspect", "-f", "{{.State.StartedAt}}", "held")
    return switch.show("held", "NRestarts"), switch.show("held", "MainPID"), started
