"""Attack the daemon from a container and from an unprivileged account of the host.

The attacker runs inside a container of the engine, or as another user of the host. docs/security.md
lists the permitted actions; each other attempt is refused, and no other feature is affected.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.processes import freeze
from tests.lab.switch_units import LAB, PYTHON
from tests.system.test_switch_local import to_kube

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.lab.switch import Switch

HOST_VERBS = (
    "start lldp", "stop lldp", "kill lldp KILL 1", "wait lldp", "id lldp", "resolve lldp", "show", "forget lldp",
    "label a=b", "clear lldp", "cluster", "join", "reset", "images", "reboot-prepare warm",
)  # fmt: skip
IDLE = 10_000
NOBODY = 65534
MEMORY_BYTES_MAX = 5 << 20


class Attacker:
    """An attacker in the container of `feature`, beside its victim lldp."""

    def __init__(self, switch: Switch, feature: str, owner: str = "local") -> None:
        self.switch, self.feature = switch, feature
        self.victim = switch.boot_local("lldp")
        switch.boot_local(feature)
        self.container = to_kube(switch, feature) if owner == "kube" else switch.running(feature)[0]
        self._count = 0

    def tries(self, attack: str, *arguments: str, sock: Path | None = None) -> Any:
        """What came of it."""
        file = self.begins(attack, *arguments, sock=sock)
        self.switch.wait_for(file.exists, f"the attack {attack} is over", limit_s=120)
        return json.loads(file.read_text())

    def begins(self, attack: str, *arguments: str, sock: Path | None = None) -> Path:
        """Start it; returns the file that tells what came of it."""
        self._count += 1
        file = self.switch.paths.marks / f"attack{self._count}"
        path = str(sock or self.switch.paths.container_sock)
        command = [PYTHON, "-IS", str(LAB / "attacker.py"), attack, path, str(file), *arguments]
        started = self.switch.docker.ask("POST", f"/containers/{self.container}/exec", {"Cmd": command})["Id"]
        self.switch.docker.ask("POST", f"/exec/{started}/start", {"Detach": True})
        return file

    def unnoticed(self) -> None:
        """The victim is unchanged, and permitted callers are answered."""
        switch = self.switch
        assert switch.running("lldp") == [self.victim]
        assert switch.state("lldp") == "LOCAL"
        assert switch.container("id", "lldp").stdout.strip() == self.victim
        assert switch.daemon.tracebacks == []


@pytest.fixture
def attacker(switch: Switch) -> Attacker:
    return Attacker(switch, "snmp")


def test_a_container_can_say_nothing_for_another_feature(attacker: Attacker) -> None:
    victim = attacker.victim
    said = attacker.tries(
        "requests",
        "state lldp up local", "state lldp up kube", "state lldp down", "state lldp unhealthy x",
        "state lldp healthy", f"state lldp down {victim}", f"state lldp up kube {victim}", "state snmp up kube",
        "state nobody up local", "state snmp@0 up local",
    )  # fmt: skip
    usage = {f"state lldp down {victim}"}
    assert {text for text, code in said.items() if code != 77} == usage
    assert all(said[text] == 64 for text in usage)
    assert len(attacker.switch.log("refused", container=attacker.container)) == len(said) - len(usage)
    attacker.unnoticed()


def test_a_container_finds_no_verb_but_state_on_its_socket(attacker: Attacker) -> None:
    said = attacker.tries("requests", *HOST_VERBS)
    assert said == dict.fromkeys(HOST_VERBS, 64)
    attacker.unnoticed()


def test_a_container_that_got_the_host_socket_by_a_mount_is_refused_whatever_it_asks(
    attacker: Attacker,
) -> None:
    mounted = attacker.switch.paths.marks / "host.sock"
    mounted.hardlink_to(attacker.switch.paths.host_sock)
    asked = (*HOST_VERBS, "state snmp up local", "state snmp down", "state lldp unhealthy x", "explode")
    said = attacker.tries("requests", *asked, sock=mounted)
    assert said == dict.fromkeys(asked, 77)
    attacker.unnoticed()


def test_a_kube_container_cannot_end_another_feature_by_calling_it_unhealthy(switch: Switch) -> None:
    attacker = Attacker(switch, "snmp", owner="kube")
    said = attacker.tries("requests", "state lldp unhealthy x", "state lldp down", "state lldp up kube")
    assert set(said.values()) == {77}
    attacker.unnoticed()


@pytest.mark.parametrize("which", ["container", "host"])
def test_a_process_that_ended_before_it_was_identified_is_refused(attacker: Attacker, which: str) -> None:
    """Its number may be another's by then, on the host perhaps."""
    switch = attacker.switch
    sock = switch.paths.container_sock
    words = ("state", "snmp", "up", "local")
    if which == "host":
        sock = switch.paths.marks / "host.sock"
        sock.hardlink_to(switch.paths.host_sock)
        words = ("stop", "lldp")
    file, gone = switch.paths.marks / "attack1", switch.paths.marks / "attack1.gone"

    def vanishes() -> None:
        attacker.begins("vanish", *words, sock=sock)
        switch.wait_for(gone.exists, "the connecting process is gone", limit_s=120)

    _paused(switch, vanishes)
    switch.wait_for(file.exists, "the attack is over", limit_s=120)
    assert json.loads(file.read_text())["answer"] == "-", "closed without an answer"
    attacker.unnoticed()


def _paused(switch: Switch, meanwhile: Callable[[], object]) -> None:
    """The daemon is too busy to look."""
    freeze(switch.daemon.pid)
    try:
        meanwhile()
    finally:
        switch.daemon.send_signal(signal.SIGCONT)


def test_an_invalid_request_is_refused_or_closed_without_an_effect_on_others(attacker: Attacker) -> None:
    said = attacker.tries("malformed")
    assert {what for what, code in said.items() if code not in (64, None)} == set()
    attacker.unnoticed()


def test_a_container_that_floods_is_slowed_down_and_the_others_are_served(attacker: Attacker) -> None:
    seconds = 5
    file = attacker.begins("flood", "snmp", str(seconds))
    while not file.exists():
        attacker.unnoticed()
    answered = json.loads(file.read_text())["answered"]
    assert 1 <= answered <= 5 * (seconds + 2) + 1, "five a second, and a second's worth at the start"
    assert attacker.switch.daemon.tracebacks == []


def test_ten_thousand_idle_connections_cost_no_memory_and_block_no_client(attacker: Attacker) -> None:
    switch, grown = attacker.switch, []
    for _ in range(2):
        before = _memory(switch)
        file = attacker.begins("idle", str(IDLE), "6")
        while not file.exists():
            attacker.unnoticed()
            time.sleep(0.2)
        assert json.loads(file.read_text())["opened"] == IDLE
        grown.append(_memory(switch) - before)
    # The second flood finds the memory that the first one needed.
    assert grown[1] <= MEMORY_BYTES_MAX, grown
    switch.done("stop", "snmp")
    switch.done("start", "snmp")
    attacker.unnoticed()


def _memory(switch: Switch) -> int:
    """Resident bytes of the daemon."""
    with open(f"/proc/{switch.daemon.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def test_an_unprivileged_user_of_the_host_may_look_and_nothing_else(switch: Switch) -> None:
    switch.boot_local("lldp")
    switch.boot_local("snmp")
    kube = to_kube(switch, "snmp")
    switch.config("snmp", fallback_to_local="true")
    for folder in (switch.folder, switch.folder / "run"):
        folder.chmod(0o755)
    switch.paths.marks.chmod(0o1777)
    said = {}
    for name, sock in (("host", switch.paths.host_sock), ("container", switch.paths.container_sock)):
        words = ["state snmp unhealthy x", "state snmp up kube", "state snmp down", "stop lldp", "show"]
        file = switch.paths.marks / f"by-{name}"
        command = [PYTHON, "-IS", str(LAB / "attacker.py"), "requests", str(sock), str(file), *words]
        subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=[], check=True, timeout=300)
        said[name] = json.loads(file.read_text())
    assert set(said["host"].values()) == {"Permission denied"}
    assert said["container"] == {
        "state snmp unhealthy x": 77,
        "state snmp up kube": 77,
        "state snmp down": 0,
        "stop lldp": 64,
        "show": 64,
    }
    assert switch.running("snmp") == [kube]
    assert switch.state("snmp") == "KUBE_RUNNING"
    assert switch.shown("snmp")["complaints"] == []
    # A caller that gets 0 has only caused one more observation.
    assert switch.paths.ledger.stat().st_mode & 0o077 == 0o044


def test_a_user_of_the_host_who_floods_keeps_no_container_out(attacker: Attacker) -> None:
    switch = attacker.switch
    for folder in (switch.folder, switch.folder / "run"):
        folder.chmod(0o755)
    switch.paths.marks.chmod(0o1777)
    file, end = switch.paths.marks / "flood", switch.paths.marks / "end"
    command = [
        PYTHON,
        "-IS",
        str(LAB / "attacker.py"),
        "idle",
        str(switch.paths.container_sock),
        str(file),
        "2000",
        str(end),
    ]
    flood = subprocess.Popen(command, user=NOBODY, group=NOBODY, extra_groups=[])
    try:
        said = attacker.tries("requests", "state snmp up local", "state snmp down")
        assert said == {"state snmp up local": 0, "state snmp down": 0}
        assert not file.exists(), "while the flood goes on"
    finally:
        end.touch()
        flood.wait(120)
    attacker.unnoticed()


EVIL = (
    "$(touch {0})",
    "`touch {0}`",
    ";touch {0}",
    "|touch {0}",
    "-x",
    "../../../{0}",
    "a\nb",
    "A",
    "'",
    "%s",
    "x" * 200,
)


def test_no_name_in_a_database_reaches_a_shell_a_path_or_an_option(switch: Switch) -> None:
    """Feature names, owners, labels and the master's address, as a writer of CONFIG_DB may choose them."""
    switch.boot_local("lldp")
    proof = switch.paths.marks / "executed"
    for evil in (text.format(proof) for text in EVIL):
        switch.config_db.hset(f"FEATURE|{evil}", mapping={"set_owner": "kube", "fallback_to_local": "true"})
        switch.state_db.hset(f"FEATURE|{evil}", mapping={"system_state": "up", "docker_id": evil})
        switch.config_db.hset(
            "FEATURE|lldp", mapping={"failure_policy": evil, "kube_failure_detection": evil}
        )
        switch.config_db.hset("KUBERNETES_MASTER|SERVER", mapping={"IP": evil, "port": evil})
        switch.state_db.hset("KUBE_SERVER|PENDING_LABELS", "labels@", f"{evil}=x,{evil}-")
        ended = switch.container("start", evil)
        assert ended.returncode in (1, 64), (evil, ended)
        code, _ = switch.ask("label", f"k={evil}")
        # Only this one is a label's value. It waits for a join.
        assert code in ((0,) if evil == "A" else (1, 64)), evil
    switch.boot_local("snmp")
    assert switch.state("lldp") == "LOCAL"
    assert not proof.exists()
    assert [
        name
        for name in json.loads(switch.paths.ledger.read_text())["features"]
        if name not in ("lldp", "snmp")
    ] == []
    assert [call for call in switch.units.calls if "lldp" not in call and "snmp" not in call] == []


def test_a_hook_s_name_or_mode_gives_no_root_rights(switch: Switch) -> None:
    """Only programs of root's own, in a folder of root's, are run; their names reach no shell."""
    proof = switch.paths.marks / "executed"
    script = f"echo $0 >>{proof}"
    switch.boot_local("snmp")
    for name in ("a;touch x", "$(touch x)", "..hidden", "x.sh~"):
        switch.hook("warm-reboot.d", name, script)
    foreign = switch.hook("warm-reboot.d", "50-foreign", script)
    open_to_all = switch.hook("warm-reboot.d", "51-open", script)
    good = switch.hook("warm-reboot.d", "52-good", script)
    os.chown(foreign, NOBODY, NOBODY)
    open_to_all.chmod(0o777)
    switch.kubesync("reboot", "prepare", "warm")
    ran = proof.read_text().splitlines() if proof.exists() else []
    assert ran == [str(good)], "one was good"
