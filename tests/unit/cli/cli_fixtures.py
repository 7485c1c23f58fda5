"""Give tests of the operators' commands a switch: six features in six states, a master, a real Redis.

`tests/conftest.py` makes these fixtures known to every test.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from kubesyncd.core.state import State
from tests.lab.stub_daemon import KUBE_ID, LOCAL_ID, container, feature
from tests.unit.cli.operator import CONFIG_DB, Operator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.redis_server import RedisServer

# A day long gone, so that each change of state is shown with its date; always as long ago, for a timeline shows it.
DAY = float(int(time.time()) - 300 * 86_400)
LOCAL = {
    "set_owner": "local",
    "fallback": False,
    "failure_minutes": 0,
    "failure_policy": None,
    "local_only": False,
    "why_local": "",
    "always_local": False,
}
RUNS_LOCALLY = "the local container runs, as configured"
RUNS_BY_KUBE = "the kube container runs, as configured"


@pytest.fixture
def bare_terminal(tmp_path: Path, redis_server: RedisServer) -> Iterator[Operator]:
    """A switch whose daemon answers and knows nothing yet."""
    operator = Operator(tmp_path, redis_server)
    with operator.daemon:
        yield operator


@pytest.fixture
def terminal(bare_terminal: Operator) -> Operator:
    """A switch with six features, one of them in the midst of a hand-over."""
    for name, owner, fallback, minutes in FEATURES:
        bare_terminal.configure(
            f"FEATURE|{name}",
            set_owner=owner,
            fallback_to_local=fallback,
            kube_failure_detection=minutes,
            state="enabled",
        )
    for name, fields in rows().items():
        bare_terminal.state(f"FEATURE|{name}", **fields)
    bare_terminal.configure("KUBERNETES_MASTER|SERVER", IP="10.1.2.3", insecure="False", disable="False")
    bare_terminal.state("KUBERNETES_MASTER|SERVER", connected="True", last_update_ts=str(ago(10_830)))
    with bare_terminal.redis.client(CONFIG_DB) as client:
        client.set("CONFIG_DB_INITIALIZED", "1")
        client.config_set("notify-keyspace-events", "AKE")
    bare_terminal.daemon.features = {found["feature"]: found for found in features()}
    return bare_terminal


FEATURES = (
    ("bgp", "local", "false", "0"),
    ("lldp", "kube", "true", "0"),
    ("radv", "local", "false", "0"),
    ("snmp", "kube", "true", "10"),
    ("telemetry", "kube", "true", "0"),
)


def ago(seconds: float) -> int:
    """A moment in the past, in seconds since the epoch; half a minute in, so that minutes do not turn."""
    return int(time.time() - seconds) - 30


def rows() -> dict[str, dict[str, str]]:
    """STATE_DB."""
    return {
        "bgp": row("local", "none", LOCAL_ID),
        "database": row("local", "none", LOCAL_ID),
        "lldp": row("kube", "kube_ready", KUBE_ID),
        "radv": {"system_state": "down"},
        "snmp": row("local", "kube_pending", LOCAL_ID),
        "telemetry": row("none", "kube_ready", ""),
    }


def row(owner: str, mode: str, docker_id: str) -> dict[str, str]:
    """One STATE_DB row of a feature that is up."""
    return {
        "system_state": "up",
        "current_owner": owner,
        "transition_mode": mode,
        "docker_id": docker_id,
        "current_owner_update_ts": str(ago(720)),
        "revision": "7",
    }


def features() -> list[dict[str, Any]]:
    """What the daemon knows."""
    return [
        feature("bgp", State.LOCAL, RUNS_LOCALLY, config=LOCAL, since=ago(7200), history=history(2)),
        feature(
            "database", State.LOCAL, RUNS_LOCALLY, config={**LOCAL, "always_local": True}, since=ago(7200)
        ),
        lldp(),
        feature("radv", State.INIT, "the unit is down; nothing runs", config=LOCAL, since=ago(90_000)),
        snmp(),
        telemetry(),
    ]


def lldp() -> dict[str, Any]:
    """Run by kube since a moment ago."""
    return feature(
        "lldp",
        State.KUBE_RUNNING,
        RUNS_BY_KUBE,
        granted=KUBE_ID,
        containers=[container("kube", KUBE_ID), container("local", LOCAL_ID, code=0)],
        history=history(5),
        next_in_s=44.0,
        next={"state": "KUBE_RUNNING", "why": RUNS_BY_KUBE, "acts": False, "stable": True, "failed": ""},
    )


def snmp() -> dict[str, Any]:
    """Handed over right now."""
    return feature(
        "snmp",
        State.LOCAL_TO_KUBE,
        "the kube container waits: the local one is stopped",
        waiting=[KUBE_ID],
        stopping=[LOCAL_ID],
        containers=[container("kube", KUBE_ID), container("local", LOCAL_ID)],
        history=history(3),
    )


def telemetry() -> dict[str, Any]:
    """Waiting for kube, its fallback on the way."""
    why = "waiting for kube deployment; the local container returns after 300 s"
    coming = "kube has not deployed in time: the local one returns"
    return feature(
        "telemetry",
        State.KUBE_READY,
        why,
        next_in_s=187.0,
        next={"state": "KUBE_READY", "why": coming, "acts": True, "stable": False, "failed": ""},
        history=[{"at": DAY + 9000, "from": "INIT", "to": "KUBE_READY", "why": "only Kubernetes may run it"}],
    )


def history(count: int) -> list[dict[str, Any]]:
    """The first `count` changes of a hand-over."""
    changes = [
        (0.0, "UNKNOWN", "STARTING", "set_owner=local: the local container is started"),
        (1.6, "STARTING", "LOCAL", RUNS_LOCALLY),
        (8240.0, "LOCAL", "LOCAL_TO_KUBE", "kube has deployed: its container waits for the local one to end"),
        (8245.2, "LOCAL_TO_KUBE", "KUBE_PENDING", "no other container runs: the kube container may proceed"),
        (8245.3, "KUBE_PENDING", "KUBE_RUNNING", RUNS_BY_KUBE),
    ]
    return [{"at": DAY + at, "from": a, "to": b, "why": why} for at, a, b, why in changes[:count]]
