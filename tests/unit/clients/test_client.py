"""Check that the clients send the right request, and act correctly without a daemon.

The daemon here is a stub that speaks `kubesyncd.core.protocol` over a real Unix socket; the clients are the real
ones, run as processes by this Python and by the system's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.api.peer import identify_peer
from kubesyncd.core import protocol
from kubesyncd.core.model import valid_feature_name
from kubesyncd.daemon.sockets import only_daemon
from kubesyncd.runtime import lock_holder
from tests.paths import CLIENTS
from tests.wait import until

if TYPE_CHECKING:
    from collections.abc import Iterator

PYTHONS = [p for p in dict.fromkeys([sys.executable, "/usr/bin/python3"]) if Path(p).exists()]
LIMIT_S = 180.0
ID = "0123456789abcdef" * 4
BOOT = "00000000-0000-4000-8000-00000000000b"
FOREVER = float("inf")


def load_client() -> Any:
    spec = importlib.util.spec_from_file_location("kubesyncd_client", CLIENTS / "client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLIENT = load_client()


class Daemon:
    """Answers one connection after the other: with the next of `replies`, a `Hold`, or nothing at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[list[str]] = []
        self.pids: list[int] = []
        self.replies: list[bytes] = []
        self._held: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def start(self, *replies: bytes) -> Daemon:
        self.replies = list(replies)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._serve, args=[self._listener], daemon=True).start()
        return self

    def stop(self) -> None:
        """Go away as a killed daemon does: the connections end, and the socket refuses new ones."""
        if self._listener is not None:
            self.path.unlink()
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        while self._held:
            self._held.pop().close()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection.makefile("rb") as lines:
                request = protocol.decode_request(lines.readline(protocol.REQUEST_BYTES_MAX + 1))
            reply = self.replies.pop(0) if self.replies else HOLD
            pid = identify_peer(connection).pid
            if reply.endswith(HOLD):
                # A test that sees the request may stop this daemon at once: the caller has its answer by then.
                self._held.append(connection)
                with contextlib.suppress(OSError):
                    connection.sendall(reply.removesuffix(HOLD))
                self._note(request, pid)
                continue
            # A caller that has its answer ends; tests that wait for that read this list.
            self._note(request, pid)
            with contextlib.suppress(OSError):
                connection.sendall(reply)
            connection.close()

    def _note(self, request: list[str], pid: int) -> None:
        self.pids.append(pid)
        self.requests.append(request)


HOLD = b"hold"
"""The end of the reply of a daemon that keeps the caller waiting."""
END = b""
"""The reply of a daemon that goes away without one."""
DONE = protocol.result(0)


class Switch:
    """A place with sockets, a ledger, a PATH of stand-ins, and clients to run in it."""

    def __init__(self, root: Path, python: str) -> None:
        self.root, self.python = root, python
        self.host, self.container = Daemon(root / "host.sock"), Daemon(root / "container.sock")
        self.ledger = root / "features.json"
        self.bin = root / "bin"
        self.bin.mkdir()
        self.stand_in(
            "docker", 'printf "%s\\n" "$@" >"$0.args"; [ "$1" != wait ] || echo 3; exit "${DOCKER_RC:-0}"'
        )
        self.stand_in("systemd-notify", 'printf "%s\\n" "$@" >>"$0.args"')
        self.env = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "KUBESYNCD_HOST_SOCK": str(self.host.path),
            "KUBESYNCD_CONTAINER_SOCK": str(self.container.path),
            "KUBESYNCD_LEDGER": str(self.ledger),
            "KUBESYNCD_STATE": str(root / "state"),
            "KUBESYNCD_BOOT_ID": str(root / "boot_id"),
        }
        (root / "state").mkdir()
        (root / "boot_id").write_text(f"{BOOT}\n")

    def stand_in(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def said_to(self, name: str) -> list[str] | None:
        """The arguments a stand-in was called with; None if it was not called."""
        log = self.bin / f"{name}.args"
        return log.read_text().splitlines() if log.exists() else None

    def begin(self, program: str, *args: str, **more: Any) -> subprocess.Popen[str]:
        command = [self.python, "-IS", str(CLIENTS / program), *args]
        pipes = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        return subprocess.Popen(command, env=self.env, **{**pipes, **more})

    def run(self, program: str, *args: str) -> tuple[int, str, str]:
        return end(self.begin(program, *args))


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, err


@pytest.fixture(params=PYTHONS, ids=lambda p: "system" if p.startswith("/usr/bin") else "own")
def switch(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Switch]:
    place = Switch(tmp_path, request.param)
    yield place
    place.host.stop()
    place.container.stop()


@pytest.fixture
def one_switch(tmp_path: Path) -> Iterator[Switch]:
    """For what does not depend on the Python that runs it."""
    place = Switch(tmp_path, PYTHONS[-1])
    yield place
    place.host.stop()
    place.container.stop()


# What is sent, and what becomes of the reply.

REQUESTS = [
    (["container", "start", "snmp"], ["start", "snmp"]),
    (["container", "start", "bgp@0"], ["start", "bgp@0"]),
    (["container", "stop", "snmp"], ["stop", "snmp", ""]),
    (["container", "stop", "-t", "5", "snmp"], ["stop", "snmp", "5"]),
    (["container", "stop", "snmp", "--time=5"], ["stop", "snmp", "5"]),
    (["container", "stop", "-t5", "--", "snmp"], ["stop", "snmp", "5"]),
    (["container", "kill", "snmp"], ["kill", "snmp", "KILL", "0"]),
    (["container", "kill", "-s", "SIGTERM", "snmp"], ["kill", "snmp", "TERM", "0"]),
    (["container", "kill", "--no-kubelet-check", "--signal=9", "snmp"], ["kill", "snmp", "9", "1"]),
    (["container", "kill", "snmp", "-s", "rtmin+3"], ["kill", "snmp", "RTMIN+3", "0"]),
    (["container", "wait", "snmp"], ["wait", "snmp"]),
    (["container", "unit-ended", "swss0"], ["unit-ended", "swss0"]),
    (["container", "id", "snmp"], ["id", "snmp"]),
    (["container", "state", "snmp"], ["state", "snmp", "", ""]),
    (["container", "state", "snmp", "up", "local"], ["state", "snmp", "up", "local"]),
    (["container", "state", "snmp", "up", "kube"], ["state", "snmp", "up", "kube"]),
    (["container", "state", "snmp", "down"], ["state", "snmp", "down", ""]),
    (["container_state", "snmp", "up", "kube"], ["state", "snmp", "up", "kube"]),
    (["container_state", "snmp", "up", "local"], ["state", "snmp", "up", "local"]),
    (["container_state", "snmp", "up"], ["state", "snmp", "up", ""]),
    (["container_state", "snmp", "down", "kube"], ["state", "snmp", "down", "kube"]),
    (["kube_join"], ["join", "0"]),
    (["kube_join", "-f"], ["join", "1"]),
    (["kube_reset"], ["reset"]),
]


@pytest.mark.parametrize(("command", "request_"), REQUESTS, ids=[" ".join(c) for c, _ in REQUESTS])
def test_every_form_sends_its_request(switch: Switch, command: list[str], request_: list[str]) -> None:
    switch.host.start(protocol.out("done") + protocol.result(0))
    assert switch.run(*command) == (0, "done\n", "")
    assert until(lambda: switch.host.requests) == [request_]


@pytest.mark.parametrize("code", [0, 1, 3, 69, 75, 77, 137, 255])
@pytest.mark.parametrize("verb", ["stop", "wait"])
def test_the_daemons_code_is_the_clients(one_switch: Switch, verb: str, code: int) -> None:
    line = "container: snmp: it broke; mend it"
    one_switch.host.start(protocol.err(line) + protocol.result(code))
    assert one_switch.run("container", verb, "snmp") == (code, "", line + "\n")


@pytest.mark.parametrize("verb", ["start", "wait"])
def test_a_reply_keeps_its_blanks_backslashes_and_foreign_letters(switch: Switch, verb: str) -> None:
    text = "  two  blanks \\n %s é 💡 $HOME `id`"
    switch.host.start(protocol.out(text) + protocol.out("") + protocol.err(text) + DONE)
    assert switch.run("container", verb, "snmp") == (0, text + "\n\n", text + "\n")


@pytest.mark.parametrize("verb", ["start", "wait"])
def test_status_lines_reach_systemd(switch: Switch, verb: str) -> None:
    switch.env["NOTIFY_SOCKET"] = "/run/systemd/notify"
    switch.host.start(protocol.status("waiting for kube deployment") + protocol.status("$(id)") + DONE)
    assert switch.run("container", verb, "snmp") == (0, "", "")
    assert switch.said_to("systemd-notify") == ["--status=waiting for kube deployment", "--status=$(id)"]


@pytest.mark.parametrize("verb", ["start", "wait"])
def test_status_lines_without_systemd_go_nowhere(one_switch: Switch, verb: str) -> None:
    one_switch.host.start(protocol.status("waiting") + DONE)
    assert one_switch.run("container", verb, "snmp") == (0, "", "")
    assert one_switch.said_to("systemd-notify") is None


def test_lines_of_a_kind_yet_unknown_are_passed_over(one_switch: Switch) -> None:
    one_switch.host.start(b"X new\nR x\n\n" + DONE, b"X new\n\n" + DONE)
    assert one_switch.run("container", "start", "snmp") == (0, "", "")
    assert one_switch.run("container", "wait", "snmp") == (0, "", "")


def test_a_reader_that_goes_away_ends_the_client(one_switch: Switch) -> None:
    one_switch.host.start(protocol.out("row\n" * 5000) + DONE)
    reader, writer = os.pipe()
    os.close(reader)
    process = one_switch.begin("container", "state", "snmp", stdout=writer)
    os.close(writer)
    assert end(process)[0] == 1
    assert len(one_switch.host.requests) == 1


CLOSED = "closed"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("where", ["/dev/full", CLOSED])
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["container", "stop", "snmp"], 3),
        (["container", "wait", "snmp"], 3),
        (["container_state", "snmp", "down", "local"], 3),
        (["container_sh", "snmp", "down", "local"], 3),
        (["container", "nosuch"], 64),
    ],
)
def test_words_that_cannot_be_written_change_no_code(
    one_switch: Switch, command: list[str], code: int, where: str, stream: str
) -> None:
    said = protocol.out("one") + protocol.err("two") + protocol.out("three") + protocol.err("four")
    for socket_ in (one_switch.host, one_switch.container):
        socket_.start(said + protocol.result(3))
    if where == CLOSED:
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(where, os.O_WRONLY)
    python = [] if command[0] == "container_sh" else [one_switch.python, "-IS"]
    process = subprocess.Popen(
        [*python, str(CLIENTS / command[0]), *command[1:]],
        env=one_switch.env,
        stdin=subprocess.DEVNULL,
        **{**dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL), stream: writer},
    )
    os.close(writer)
    assert process.wait(LIMIT_S) == code


@pytest.mark.parametrize("args", [["id", "snmp"], ["state", "snmp"], ["--help"]])
def test_what_was_asked_for_and_cannot_be_printed_is_a_failure(one_switch: Switch, args: list[str]) -> None:
    one_switch.host.start(protocol.out(ID) + DONE)
    with open("/dev/full", "w") as full:
        code, _, err = end(one_switch.begin("container", *args, stdout=full))
    assert (code, err) == (1, "container: standard output cannot be written; see where it goes\n")


def test_the_usual_path_loads_nothing_but_the_socket_module(switch: Switch) -> None:
    switch.host.start(protocol.out(ID) + DONE)
    program = (
        "import sys; known = set(sys.modules); sys.path.insert(0, sys.argv[1]); import client;"
        "code = client.main(['container', 'id', 'snmp']); print(code, sorted(set(sys.modules) - known))"
    )
    command = [switch.python, "-IS", "-c", program, str(CLIENTS)]
    done = subprocess.run(
        command, env=switch.env, capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert done.stdout == f"{ID}\n0 ['_socket', 'client']\n"


@pytest.mark.parametrize("name", ["container_state", "kube_join", "kube_reset"])
def test_the_clients_names_are_links_to_one_script(name: str) -> None:
    assert (CLIENTS / name).readlink() == Path("container")


def test_the_scripts_run_as_they_are_and_through_links(one_switch: Switch) -> None:
    one_switch.host.start(*[DONE] * 4)
    far = one_switch.root / "far"
    far.mkdir()
    (far / "container_state").symlink_to(CLIENTS / "container_state")
    (one_switch.bin / "container_state").symlink_to("../far/container_state")
    commands = [
        ["container", "start", "snmp"],
        ["system", "container", "start", "snmp"],
        ["kube_join"],
        [str(one_switch.bin / "container_state"), "snmp", "up"],
    ]
    for program, *args in commands:
        subprocess.run([str(CLIENTS / program), *args], env=one_switch.env, timeout=LIMIT_S, check=True)
    assert until(lambda: len(one_switch.host.requests) == len(commands))
    assert one_switch.host.requests[-1] == ["state", "snmp", "up", ""]


# Bad input.

USAGE_ERRORS = [
    ["container"],
    ["container", "begin", "snmp"],
    ["container", "start"],
    ["container", "start", "snmp", "lldp"],
    ["container", "start", "--now", "snmp"],
    ["container", "stop", "-t"],
    ["container", "stop", "-t", "soon", "snmp"],
    ["container", "stop", "-t", "-5", "snmp"],
    ["container", "stop", "--time=", "snmp"],
    ["container", "kill", "-s", "TERM; id", "snmp"],
    ["container", "kill", "-s", "", "snmp"],
    ["container", "wait", "-t", "5", "snmp"],
    ["container", "inspect"],
    ["container", "inspect", "--format"],
    ["container", "inspect", "snmp", "lldp"],
    ["container", "exec", "snmp"],
    ["container", "exec", "-u", "root", "snmp"],
    ["container", "exec", "--", "-it", "id"],
    ["container", "state"],
    ["container", "state", "snmp", "sideways"],
    ["container", "state", "snmp", "up", "cloud"],
    ["container", "state", "snmp", "up", "kube", "now"],
    ["container_state", "snmp"],
    ["container_state"],
    ["kube_join", "now"],
    ["kube_join", "-f", "-f"],
    ["kube_reset", "-f"],
    *(
        ["container", "start", "--", name]
        for name in ["-x", "..", "a/b", "A", "a b", "", "é", "snmp\n", "bgp@x"]
    ),
    ["container", "start", "a" * 5000],
    ["container", "exec", "/", "id"],
]


@pytest.mark.parametrize("command", USAGE_ERRORS, ids=lambda c: ascii(" ".join(c)[:40]))
def test_a_usage_error_says_in_one_line_what_to_type(one_switch: Switch, command: list[str]) -> None:
    one_switch.host.start()
    code, out, err = one_switch.run(*command)
    assert (code, out, err.count("\n")) == (64, "", 1)
    assert err.startswith(f"{command[0]}: ")
    assert f"; type: {command[0]}" in err
    assert len(err) < 300
    assert one_switch.host.requests == []


@pytest.mark.parametrize(
    "command",
    [
        ["container", "--help"],
        ["container", "stop", "-h"],
        ["container_state", "--help"],
        ["kube_join", "-h"],
    ],
)
def test_help_goes_to_standard_output(one_switch: Switch, command: list[str]) -> None:
    code, out, err = one_switch.run(*command)
    assert (code, err) == (0, "")
    assert out.startswith("usage: ")


@given(st.one_of(st.from_regex(r"[a-z][a-z0-9_-]{0,65}(@[0-9]{1,4})?", fullmatch=True), st.text(max_size=5)))
def test_client_and_daemon_agree_on_what_a_feature_name_is(name: str) -> None:
    try:
        CLIENT.one_name("start", [name])
        accepted = True
    except CLIENT.ClientError:
        accepted = False
    assert accepted == valid_feature_name(name)


def test_a_socket_without_access_rights_is_reported_as_not_allowed(one_switch: Switch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become a user without the right")
    one_switch.host.start()
    one_switch.root.chmod(0o700)
    # The checkout may be in root's own folder, so the client is found first.
    program = f"import os, sys; sys.path.insert(0, {str(CLIENTS)!r}); import client; "
    program += "os.setgroups([]); os.setgid(65534); os.setuid(65534); "
    program += "sys.exit(client.main(['container', 'start', 'snmp']))"
    asked = subprocess.run(
        ["/usr/bin/python3", "-ISB", "-c", program],
        env=one_switch.env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert asked.returncode == 77
    assert "permission denied; use sudo" in asked.stderr


# docker's own verbs.

PASSED_THROUGH = [
    (["inspect", "snmp"], ["inspect", ID]),
    (["inspect", "-f", "{{.Id}}", "snmp"], ["inspect", "-f", "{{.Id}}", ID]),
    (
        ["inspect", "--type", "container", "snmp", "-sf", "snmp"],
        ["inspect", "--type", "container", ID, "-sf", "snmp"],
    ),
    (["inspect", "-sf", "snmp", "snmp"], ["inspect", "-sf", "snmp", ID]),
    (["inspect", "--format=snmp", "--", "snmp"], ["inspect", "--format=snmp", "--", ID]),
    (["exec", "snmp", "id"], ["exec", ID, "id"]),
    (["exec", "-it", "snmp", "sh", "-c", "a  b; $c"], ["exec", "-it", ID, "sh", "-c", "a  b; $c"]),
    (["exec", "-itu", "root", "snmp", "id"], ["exec", "-itu", "root", ID, "id"]),
    (["exec", "-uroot", "snmp", "id"], ["exec", "-uroot", ID, "id"]),
    (
        ["exec", "-e", "A=1", "--env", "B=2", "-w", "/", "snmp", "id"],
        ["exec", "-e", "A=1", "--env", "B=2", "-w", "/", ID, "id"],
    ),
    (
        ["exec", "--privileged", "--user=root", "snmp", "id"],
        ["exec", "--privileged", "--user=root", ID, "id"],
    ),
    (["exec", "--detach-keys", "ctrl-a", "snmp", "id"], ["exec", "--detach-keys", "ctrl-a", ID, "id"]),
    (["exec", "snmp", "snmp", "--help", "--", "-h"], ["exec", ID, "snmp", "--help", "--", "-h"]),
]


@pytest.mark.parametrize(("args", "docker"), PASSED_THROUGH, ids=[" ".join(a) for a, _ in PASSED_THROUGH])
def test_everything_but_the_name_is_passed_through(
    one_switch: Switch, args: list[str], docker: list[str]
) -> None:
    one_switch.host.start(protocol.out(ID) + DONE)
    one_switch.env["DOCKER_RC"] = "42"
    assert one_switch.run("container", *args) == (42, "", "")
    assert one_switch.said_to("docker") == docker
    assert one_switch.host.requests == [["resolve", "snmp"]]


@pytest.mark.parametrize("verb", [["inspect", "snmp"], ["exec", "snmp", "id"]])
def test_docker_is_not_asked_about_what_cannot_be_resolved(switch: Switch, verb: list[str]) -> None:
    switch.host.start(protocol.err("container: snmp: no such feature; see show feature") + protocol.result(1))
    assert switch.run("container", *verb) == (1, "", "container: snmp: no such feature; see show feature\n")
    assert switch.said_to("docker") is None


def test_docker_missing_is_a_service_we_need(one_switch: Switch) -> None:
    one_switch.host.start(protocol.out(ID) + DONE)
    one_switch.env["PATH"] = "/nonexistent"
    code, _, err = one_switch.run("container", "inspect", "snmp")
    assert (code, err) == (69, "container: docker: not found in PATH; install docker or set PATH\n")


def test_exec_leaves_standard_input_to_docker(one_switch: Switch) -> None:
    one_switch.stand_in("docker", "cat")
    one_switch.host.start(protocol.out(ID) + DONE)
    process = one_switch.begin("container", "exec", "-i", "snmp", "cat", stdin=subprocess.PIPE)
    assert process.communicate("typed\n", timeout=LIMIT_S) == ("typed\n", "")


def test_the_end_of_a_unit_is_told_without_a_wait_and_without_a_failure(one_switch: Switch) -> None:
    """For the ExecStopPost of a unit: no daemon, one at its limits, one that is silent, a user without the right."""
    tell = ("container", "unit-ended", "snmp")
    assert one_switch.run(*tell) == (0, "", "")
    one_switch.host.start(protocol.busy("127 connections are open", 5.0), END, HOLD)
    for _ in range(3):
        begun = time.monotonic()
        assert one_switch.run(*tell) == (0, "", "")
        assert time.monotonic() - begun < LIMIT_S / 3
    assert one_switch.host.requests == [["unit-ended", "snmp"]] * 3
    assert one_switch.said_to("docker") is None
    assert one_switch.run("container", "unit-ended", "../x")[0] == 64


# Nobody listens.

PLAIN_DOCKER = [
    (["start", "snmp"], ["start", "snmp"], 0),
    (["stop", "snmp"], ["stop", "snmp"], 0),
    (["stop", "-t", "5", "snmp"], ["stop", "-t", "5", "snmp"], 0),
    (["kill", "snmp"], ["kill", "snmp"], 0),
    (["kill", "-s", "term", "--no-kubelet-check", "snmp"], ["kill", "-s", "TERM", "snmp"], 0),
    (["wait", "snmp"], ["wait", "snmp"], 3),
    (["id", "snmp"], ["inspect", "--type", "container", "--format", "{{.Id}}", "snmp"], 0),
    (["inspect", "-f", "x", "snmp"], ["inspect", "-f", "x", "snmp"], 0),
    (["exec", "-it", "snmp", "id"], ["exec", "-it", "snmp", "id"], 0),
]
DOCKER_IS_USED = "container: {}: kubesyncd is not running; docker {} is used\n"
LEDGERS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "of others": {"lldp": {"record": {"grant": ID}, "config": {"set_owner": "kube"}}},
    "local": {"snmp": {"record": {"grant": None}, "config": {"set_owner": "local"}}},
    "local for good": {
        "snmp": {"record": {"grant": ""}, "config": {"set_owner": "kube", "always_local": True}}
    },
}


def ledger(features: dict[str, Any] | None) -> str:
    return json.dumps({"version": 1, "features": features})


def test_without_a_daemon_plain_docker_is_used_where_possible(tmp_path: Path) -> None:
    begun = []
    for number, (args, docker, code) in enumerate(PLAIN_DOCKER):
        root = tmp_path / str(number)
        root.mkdir()
        place = Switch(root, PYTHONS[number % len(PYTHONS)])
        begun.append((place, place.begin("container", *args), docker, code))
    for place, process, docker, code in begun:
        line = ""
        if docker[0] in ("start", "stop", "kill", "wait"):
            line = DOCKER_IS_USED.format(docker[-1], docker[0])
        assert (end(process)[::2], place.said_to("docker")) == ((code, line), docker)


def test_the_ledger_says_which_features_may_start_without_the_daemon(tmp_path: Path) -> None:
    kube: dict[str, Any] = {
        "granted": {"snmp": {"record": {"grant": ID}, "config": {"set_owner": "local"}}},
        "wanted": {"snmp": {"record": {"grant": None}, "config": {"set_owner": "kube"}}},
    }
    begun = []
    for name, features in [*LEDGERS.items(), *kube.items()]:
        (tmp_path / name).mkdir()
        place = Switch(tmp_path / name, PYTHONS[-1])
        if features is not None:
            place.ledger.write_text(ledger(features))
        begun.append((name, place, place.begin("container", "start", "snmp")))
    for name, place, process in begun:
        code, _, err = end(process)
        if name in kube:
            line = "container: snmp: kubesyncd is not running; run systemctl start kubesyncd\n"
            assert (name, code, err, place.said_to("docker")) == (name, 69, line, None)
        else:
            line = DOCKER_IS_USED.format("snmp", "start")
            assert (name, code, err, place.said_to("docker")) == (name, 0, line, ["start", "snmp"])


MISSING = "is missing, although this boot has had it"
NOT_KNOWN = "is missing, and it is not known whether this boot has had it"
UNREADABLE = "cannot be read"
MARKED = json.dumps({"version": 1, "boot_id": BOOT}).encode()
LOCAL = ledger({"snmp": {"record": {"grant": None}, "config": {"set_owner": "local"}}}).encode()
# The ledger and the boot's mark: why the ledger counts as lost; empty: this is the first start of the boot.
LOST: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "first boot": (None, None, ""),
    "next boot": (None, b'{"version": 1, "boot_id": "another"}\n', ""),
    "missing": (None, MARKED, MISSING),
    "mark of no boot": (None, b'{"version": 1}', NOT_KNOWN),
    "mark cut": (None, MARKED[:20], NOT_KNOWN),
    "mark empty": (None, b"", NOT_KNOWN),
    "cut": (LOCAL[:-20], MARKED, UNREADABLE),
    "cut without a mark": (LOCAL[:-20], None, UNREADABLE),
    "empty": (b"", MARKED, UNREADABLE),
    "no table": (b"[]", MARKED, UNREADABLE),
    "no features": (b'{"version": 1, "features": []}', MARKED, UNREADABLE),
    "no record": (ledger({"snmp": {"record": [], "config": {}}}).encode(), MARKED, UNREADABLE),
    "no entry": (ledger({"snmp": None}).encode(), MARKED, UNREADABLE),
    "newer": (LOCAL.replace(b'"version": 1', b'"version": 2'), MARKED, "is of another version"),
    "written again": (
        b'{"version": 1, "lost": true, "features": {}}', MARKED, "was lost since boot, and is without snmp"
    ),
    "written again with it": (LOCAL.replace(b"{", b'{"lost": true, ', 1), MARKED, ""),
}  # fmt: skip


def test_a_ledger_lost_within_the_boot_keeps_docker_from_being_used(tmp_path: Path) -> None:
    begun = []
    for name, (kept, mark, why) in LOST.items():
        (tmp_path / name).mkdir()
        place = Switch(tmp_path / name, PYTHONS[len(begun) % len(PYTHONS)])
        for file, content in ((place.ledger, kept), (place.root / "state" / "boot.json", mark)):
            if content is not None:
                file.write_bytes(content)
        begun.append((name, why, place, place.begin("container", "start", "snmp")))
    for name, why, place, process in begun:
        code, _, err = end(process)
        line = DOCKER_IS_USED.format("snmp", "start")
        if why:
            if why is NOT_KNOWN:
                why += f", as {place.root}/state/boot.json cannot be read"
            line = f"container: snmp: kubesyncd is not running, and {place.ledger} {why}; Kubernetes may run snmp, so "
            line += "docker is not used; run systemctl start kubesyncd\n"
        expected = (69, None) if why else (0, ["start", "snmp"])
        assert (name, err, (code, place.said_to("docker"))) == (name, line, expected)


# docker ps of a switch on which snmp's local container, its kube one and another feature's run.
PS = (
    'printf "%s\\n" "$@" >>"$0.args"; [ "$1" = ps ] || exit "${DOCKER_RC:-0}"; [ -z "$DOWN" ] || exit 1; '
    f'echo "{"f" * 64} snmp-x"; echo "{"a" * 64} snmp"; echo "{ID} k8s_snmp_pod_sonic_uid_0"; echo "{"b" * 64} lldp"'
)
ASKED = ["ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}"]
OWNED = {"record": {"grant": ID}, "config": {"set_owner": "kube"}}
WAITED_FOR = {"record": {"grant": ""}, "config": {"set_owner": "kube"}}
GONE_SINCE = {"record": {"grant": "e" * 64}, "config": {"set_owner": "kube"}}
KEPT = (
    "container: snmp: kubesyncd is not running, and Kubernetes runs its container; that one runs on; "
    "run systemctl start kubesyncd\n"
)
# The verb; the ledger's entry; what docker is told; whether the admitted kube container runs on.
ENDED: list[tuple[list[str], dict[str, Any], list[str], bool]] = [
    (["stop", "snmp"], WAITED_FOR, ["stop", "a" * 64], False),
    (["stop", "-t", "5", "snmp"], WAITED_FOR, ["stop", "-t", "5", "a" * 64], False),
    (["kill", "-s", "TERM", "snmp"], WAITED_FOR, ["kill", "-s", "TERM", "a" * 64], False),
    (["kill", "--no-kubelet-check", "snmp"], WAITED_FOR, ["kill", "a" * 64], False),
    (["stop", "snmp"], GONE_SINCE, ["stop", "a" * 64], False),
    (["stop", "snmp"], OWNED, ["stop", "a" * 64], True),
    (["kill", "snmp"], OWNED, ["kill", "a" * 64], True),
    (["stop", "pmon"], WAITED_FOR, [], False),
]


def test_without_a_daemon_a_stop_ends_what_runs_of_a_kube_feature_locally(tmp_path: Path) -> None:
    begun = []
    for number, (args, entry, told, kept) in enumerate(ENDED):
        (tmp_path / str(number)).mkdir()
        place = Switch(tmp_path / str(number), PYTHONS[number % len(PYTHONS)])
        place.stand_in("docker", PS)
        place.ledger.write_text(ledger({args[-1]: entry}))
        begun.append((place, place.begin("container", *args), args, told, kept))
    for place, process, args, told, kept in begun:
        expected = (69, "", KEPT) if kept else (0, "", DOCKER_IS_USED.format(args[-1], args[0]))
        assert (end(process), place.said_to("docker")) == (expected, ASKED + told)


def test_a_stop_by_docker_that_fails_is_a_failure(one_switch: Switch) -> None:
    one_switch.stand_in("docker", PS)
    one_switch.ledger.write_text(ledger({"snmp": OWNED}))
    one_switch.env["DOCKER_RC"] = "7"
    assert one_switch.run("container", "stop", "snmp")[0] == 7
    one_switch.env["DOWN"] = "1"
    assert one_switch.run("container", "stop", "snmp")[0] == 1


def test_after_a_loss_no_verb_is_carried_out_by_docker(tmp_path: Path) -> None:
    begun = []
    for number, (args, _, _) in enumerate(PLAIN_DOCKER):
        (tmp_path / str(number)).mkdir()
        place = Switch(tmp_path / str(number), PYTHONS[-1])
        (place.root / "state" / "boot.json").write_bytes(MARKED)
        begun.append((place, place.begin("container", *args)))
    place = Switch(tmp_path, PYTHONS[-1])
    # A container that runs already needs no docker: it goes on.
    going = [place.begin("container_state", "snmp", *words) for words in (["up", "local"], ["down"])]
    for place, process in begun:
        code, out, err = end(process)
        assert (code, out, place.said_to("docker")) == (69, "", None)
        assert MISSING in err
    assert [end(process)[0] for process in going] == [0, 0]


@pytest.mark.parametrize("what", ["ledger", "mark", "state", "boot_id"])
def test_a_file_that_this_user_may_not_read_is_no_first_start(one_switch: Switch, what: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become a user without the right")
    mark = one_switch.root / "state" / "boot.json"
    mark.write_text('{"version": 1, "boot_id": "another"}')
    if what == "ledger":
        one_switch.ledger.write_bytes(LOCAL)
    denied = {"ledger": one_switch.ledger, "mark": mark, "state": mark.parent}
    unread = denied.get(what, one_switch.root / "boot_id")
    unread.chmod(0)
    program = f"import os, sys; sys.path.insert(0, {str(CLIENTS)!r}); import client; "
    program += "os.setgroups([]); os.setgid(65534); os.setuid(65534); client.HOST_SOCK = b'/nonexistent'; "
    program += "sys.exit(client.main(['container', 'start', 'snmp']))"
    for folder in one_switch.root.parents:
        if folder.stat().st_uid == os.geteuid() and len(folder.parts) > 2:
            folder.chmod(0o755)
    one_switch.root.chmod(0o755)
    asked = subprocess.run(
        ["/usr/bin/python3", "-ISB", "-c", program],
        env=one_switch.env, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert asked.returncode == 69
    assert "Kubernetes may run snmp, so docker is not used" in asked.stderr
    why = f"{NOT_KNOWN}, as {mark if what == 'state' else unread} cannot be read"
    assert ("cannot be read" if what == "ledger" else why) in asked.stderr


def test_docker_that_fails_to_wait_is_a_failure(one_switch: Switch) -> None:
    one_switch.stand_in("docker", "echo no such container >&2; exit 1")
    line = DOCKER_IS_USED.format("snmp", "wait")
    assert one_switch.run("container", "wait", "snmp") == (1, "", f"{line}no such container\n")


def test_a_socket_without_a_listener_counts_as_no_daemon(one_switch: Switch) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(one_switch.host.path))
    assert one_switch.run("container", "start", "snmp") == (0, "", DOCKER_IS_USED.format("snmp", "start"))
    assert one_switch.said_to("docker") == ["start", "snmp"]


def test_without_a_daemon_only_kube_containers_are_held_back(tmp_path: Path) -> None:
    expected = {
        ("container_state", "snmp", "up", "local"): 0,
        ("container_state", "snmp", "down"): 0,
        ("container_state", "snmp", "up", "kube"): 69,
        ("container_state", "snmp", "up"): 69,
        ("container", "state", "snmp"): 69,
        ("kube_join",): 69,
        ("kube_reset",): 69,
    }
    begun = []
    for number, command in enumerate(expected):
        (tmp_path / str(number)).mkdir()
        place = Switch(tmp_path / str(number), PYTHONS[number % len(PYTHONS)])
        begun.append((command, place, place.begin(*command)))
    for command, place, process in begun:
        code, out, err = end(process)
        assert (command, code, out) == (command, expected[command], "")
        assert "kubesyncd is not running; " in err
        assert place.said_to("docker") is None


class LateDaemon:
    """Sockets to try, on which a daemon begins to listen before the third try."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.tries = daemon, 0

    def __iter__(self) -> Iterator[str]:
        self.tries += 1
        if self.tries == 3:
            self.daemon.start(protocol.result(9))
        return iter([str(self.daemon.path)])


def test_a_daemon_that_comes_soon_is_met(one_switch: Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    # However long a busy machine takes for three tries: who gives up becomes docker, and this process would.
    monkeypatch.setattr(CLIENT, "FIRST_CONTACT_S", LIMIT_S)
    assert CLIENT.ask(["start", "snmp"], LateDaemon(one_switch.host), docker=["start", "snmp"]) == 9


def test_in_a_container_the_only_socket_is_the_containers(switch: Switch) -> None:
    switch.container.start(DONE, DONE, protocol.out("row") + DONE)
    assert switch.run("container_state", "snmp", "up", "kube")[0] == 0
    assert switch.run("container_state", "snmp", "down")[0] == 0
    assert switch.run("container", "state", "snmp") == (0, "row\n", "")
    assert [r[0] for r in switch.container.requests] == ["state"] * 3


def test_on_the_host_the_hosts_socket_comes_first(one_switch: Switch) -> None:
    one_switch.host.start(DONE)
    one_switch.container.start(DONE)
    assert one_switch.run("container_state", "snmp", "up", "local")[0] == 0
    assert (len(one_switch.host.requests), len(one_switch.container.requests)) == (1, 0)


# The daemon goes away and comes back.


@pytest.mark.parametrize("verb", ["start", "stop", "kill", "id", "wait"])
def test_an_end_without_a_result_means_ask_again(switch: Switch, verb: str) -> None:
    switch.host.start(END, protocol.out("half a li")[:-1], protocol.result(3))
    code, _, err = switch.run("container", verb, "snmp")
    assert (code, err) == (3, "")
    assert len(switch.host.requests) == 3
    assert switch.said_to("docker") is None


def environ(process: subprocess.Popen[str]) -> bytes:
    return Path(f"/proc/{process.pid}/environ").read_bytes()


@pytest.mark.parametrize(
    "command", [["container", "wait", "snmp"], ["container_state", "snmp", "up", "kube"]]
)
@pytest.mark.slow("the daemon is away for seconds")
def test_a_waiter_is_a_shell_and_outlives_the_daemon_under_its_number(
    switch: Switch, command: list[str]
) -> None:
    switch.host.start(protocol.status("waiting") + HOLD)
    process = switch.begin(*command)
    until(lambda: switch.host.requests)
    until(lambda: "python" not in os.readlink(f"/proc/{process.pid}/exe"))
    # As systemctl status and ps show it; while a process becomes another one, it has no words for a moment.
    words = Path(f"/proc/{process.pid}/cmdline")
    until(lambda: b"\0snmp\0" in words.read_bytes())
    assert b"\n" not in words.read_bytes()
    switch.host.stop()
    # It asks in vain for longer than a first contact may take, and does not go round the daemon.
    until(lambda: re.search(rb"KUBESYNCD_ASKED=[5-9]", environ(process)))
    assert switch.said_to("docker") is None
    switch.host.start(HOLD, protocol.result(137))
    until(lambda: len(switch.host.requests) == 2)
    switch.host.stop()
    switch.host.start(protocol.result(137))
    assert end(process) == (137, "", "")
    assert switch.host.pids == [process.pid] * 3


def test_a_client_that_has_met_the_daemon_never_bypasses_it(one_switch: Switch) -> None:
    one_switch.host.start()
    process = one_switch.begin("container", "start", "snmp")
    until(lambda: one_switch.host.requests)
    one_switch.host.stop()
    time.sleep(CLIENT.FIRST_CONTACT_S + 0.5)
    one_switch.host.start(DONE)
    assert end(process) == (0, "", "")
    assert one_switch.said_to("docker") is None


class Deaf:
    """A socket whose daemon never comes to reading it, as one that systemd holds open for a daemon that crashes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)

    def close(self) -> None:
        self._path.unlink()
        self._listener.close()


@pytest.mark.parametrize("verb", ["start", "wait"])
def test_a_daemon_that_never_read_the_request_was_never_met(one_switch: Switch, verb: str) -> None:
    deaf = Deaf(one_switch.host.path)
    process = one_switch.begin("container", verb, "snmp")
    time.sleep(CLIENT.FIRST_CONTACT_S + 0.5)
    assert one_switch.said_to("docker") is None, "it may still come"
    deaf.close()
    assert end(process)[0] == (3 if verb == "wait" else 0)
    assert one_switch.said_to("docker") == [verb, "snmp"]


def test_a_waiter_whose_package_is_removed_goes_on_with_docker(one_switch: Switch) -> None:
    one_switch.ledger.write_text(ledger({"lldp": {"record": {"grant": "ab" * 32}, "config": {}}}))
    for name, follows in (("snmp", "snmp"), ("lldp", "ab" * 32)):
        one_switch.host.start(protocol.status("waiting") + HOLD)
        process = one_switch.begin("container", "wait", name)
        until(lambda: one_switch.host.requests)
        (one_switch.root / "removed").touch()
        one_switch.host.stop()
        line = "" if name == "lldp" else DOCKER_IS_USED.format("snmp", "wait")
        assert end(process) == (3, "", line)
        assert one_switch.said_to("docker") == ["wait", follows]
        (one_switch.root / "removed").unlink()
        one_switch.host.requests.clear()


def test_a_waiter_can_be_terminated(one_switch: Switch) -> None:
    one_switch.host.start()
    process = one_switch.begin("container", "wait", "snmp")
    until(lambda: one_switch.host.requests)
    process.terminate()
    assert end(process)[0] == -15


def test_without_a_shell_python_waits_and_asks_again(switch: Switch) -> None:
    switch.host.start(END, protocol.status("waiting") + protocol.result(7))
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import client; client.SHELLS = ();"
        "sys.exit(client.main(['container_state', 'snmp', 'up', 'kube']))"
    )
    command = [switch.python, "-IS", "-c", program, str(CLIENTS)]
    assert subprocess.run(command, env=switch.env, timeout=LIMIT_S, check=False).returncode == 7
    assert len(switch.host.requests) == 2


# A daemon that runs, and cannot be reached or takes no request.

RUNNING = """
import fcntl, os, signal, socket, sys, time
folder, sock, *more = sys.argv[1:]
os.makedirs(folder, exist_ok=True)
fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)
def look(*_):
    # A client that does not find the socket yet asks once more.
    signal.signal(signal.SIGURG, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sock)
    listener.listen(8)
    link, _ = listener.accept()
    link.recv(4096)
    link.sendall(b"R 9\\n")
    link.close()
if more:
    signal.signal(signal.SIGURG, look)
open(folder + "/locked", "w").close()
while True:
    time.sleep(60)
"""


@contextlib.contextmanager
def locked(place: Switch, folder: Path, *more: str) -> Iterator[None]:
    """A daemon whose socket is gone; with `more` it makes another one when it is asked to look."""
    command = [sys.executable, "-IS", "-c", RUNNING, str(folder), str(place.host.path), *more]
    holder = subprocess.Popen(command)
    try:
        until((folder / "locked").exists)
        yield
    finally:
        holder.kill()
        holder.wait()


def asking(place: Switch, bound_s: float, *words: str) -> subprocess.Popen[str]:
    """`container WORDS` with another limit than VERB_S_MAX."""
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import client; bound_s = float(sys.argv.pop(1));"
        "client.ask.__defaults__ = (client.ask.__defaults__[0], bound_s, *client.ask.__defaults__[2:]);"
        "sys.exit(client.main(['container', *sys.argv[1:]]))"
    )
    command = [place.python, "-IS", "-c", program, str(CLIENTS), str(bound_s), *words]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=place.env, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("folder", ["", "state"])
def test_a_daemon_that_runs_without_a_socket_is_not_bypassed(one_switch: Switch, folder: str) -> None:
    with locked(one_switch, one_switch.root / folder):
        begun = [asking(one_switch, 3.0, verb, "snmp") for verb in ("start", "stop", "kill", "id")]
        waiter = one_switch.begin("container", "wait", "snmp")
        for process in begun:
            line = f"container: snmp: kubesyncd runs, but its socket {one_switch.host.path} is gone or closed"
            assert end(process) == (69, "", f"{line}; run systemctl restart kubesyncd\n")
        until(lambda: re.search(rb"KUBESYNCD_ASKED=[1-9]", environ(waiter)))
        assert one_switch.said_to("docker") is None
        one_switch.host.start(protocol.result(4))
        assert end(waiter) == (4, "", "")


@pytest.mark.parametrize("verb", ["start", "wait"])
def test_a_daemon_whose_socket_is_gone_is_asked_to_look_and_met(one_switch: Switch, verb: str) -> None:
    with locked(one_switch, one_switch.root, "looks"):
        assert one_switch.run("container", verb, "snmp") == (9, "", "")
    assert one_switch.said_to("docker") is None


def test_a_lock_of_another_user_is_not_the_daemon_s(one_switch: Switch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    program = "import fcntl, sys, time; fcntl.flock(int(sys.argv[1]), 2); print(flush=True); time.sleep(600)"
    one_switch.root.chmod(0o755)
    folder = os.open(one_switch.root, os.O_RDONLY | os.O_DIRECTORY)
    holder = subprocess.Popen(
        ["/usr/bin/python3", "-IS", "-c", program, str(folder)],
        pass_fds=[folder], cwd="/", stdout=subprocess.PIPE, user=65534, group=65534, extra_groups=[],
    )  # fmt: skip
    os.close(folder)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        assert one_switch.run("container", "start", "snmp")[0] == 0
        assert one_switch.said_to("docker") == ["start", "snmp"]
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize(
    ("mode", "process", "expected"),
    [
        (0o711, "812", 812),
        (0o700, "0", -1),
        (0o700, None, 0),
        (0o755, "self", None),
        (0o755, "ended", 0),
        (0o755, None, 0),
        (0o755, "unreadable", -1),
    ],
)
def test_client_and_daemon_read_the_locks_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, process: str | None, expected: int | None
) -> None:
    """What cannot be known counts as a daemon that runs."""
    expected = os.getpid() if expected is None else expected
    folder, locks = tmp_path / "state", tmp_path / "locks"
    folder.mkdir()
    folder.chmod(mode)
    at = folder.stat()
    pid = {"self": str(os.getpid()), "ended": "999999999"}.get(process or "", process)
    place = f"{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}:{at.st_ino}"
    lines = [
        "1: POSIX  ADVISORY  WRITE 5 00:1a:5678 0 EOF",
        "2: -> FLOCK  ADVISORY  WRITE 6 00:1a:5678 0 EOF",
    ]
    if pid is not None:
        lines.append(f"3: FLOCK  ADVISORY  WRITE {pid} {place} 0 EOF")
    if process != "unreadable":
        locks.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(lock_holder, "LOCKS", locks)
    monkeypatch.setattr(CLIENT, "LOCKS", os.fsencode(locks))
    monkeypatch.setattr(CLIENT, "STATE_DIR", os.fsencode(folder))
    monkeypatch.setattr(CLIENT, "RUN_DIR", os.fsencode(tmp_path / "missing"))
    assert lock_holder.lock_holder((folder, tmp_path / "missing")) == expected
    assert CLIENT.lock_holder() == expected


def test_the_lock_on_either_folder_shows_a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems have other device numbers in /proc/locks."""
    state, run = tmp_path / "state", tmp_path / "run"
    state.mkdir(mode=0o700)
    monkeypatch.setattr(CLIENT, "STATE_DIR", os.fsencode(state))
    monkeypatch.setattr(CLIENT, "RUN_DIR", os.fsencode(run))
    for folder in (state, run):
        with only_daemon(folder):
            assert (lock_holder.lock_holder((state, run)), CLIENT.lock_holder()) == (os.getpid(), os.getpid())
    assert (lock_holder.lock_holder((state, run)), CLIENT.lock_holder()) == (0, 0)


ENDING = """
import fcntl, os, signal, sys, time
folder = sys.argv[1]
fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)
signal.signal(signal.SIGURG, lambda *_: os._exit(0))
open(folder + "/locked", "w").close()
time.sleep(600)
"""


@pytest.mark.parametrize("verb", ["stop", "wait"])
@pytest.mark.slow("waits for longer than a first contact may take")
def test_a_daemon_that_ends_to_be_started_again_is_awaited(one_switch: Switch, verb: str) -> None:
    """Its socket's folder is gone for good: asked to look, it ends, and systemd starts it with another folder."""
    command = [sys.executable, "-IS", "-c", ENDING, str(one_switch.root)]
    with subprocess.Popen(command) as ending:
        until((one_switch.root / "locked").exists)
        client = one_switch.begin("container", verb, "snmp")
        assert ending.wait(LIMIT_S) == 0
    # Longer than a first contact, without lock and socket.
    time.sleep(CLIENT.FIRST_CONTACT_S + 1)
    assert client.poll() is None
    one_switch.host.start(protocol.result(4))
    assert end(client) == (4, "", "")
    assert one_switch.said_to("docker") is None


class Absence:
    """The client's view of a daemon that takes no connection: no time passes but in its pauses, and none is slept.

    `lock`: the seconds of each time in which the lock is held; `socket`: when the socket is there.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, *lock: tuple[float, float], socket: float = FOREVER
    ) -> None:
        self.now = 0.0
        patch.setattr(CLIENT, "clock", lambda: self.now)
        patch.setattr(CLIENT, "pause", self._pause)
        patch.setattr(CLIENT, "connect", lambda _: (None, self.now >= socket))
        patch.setattr(CLIENT, "lock_holder", lambda: -any(begin <= self.now < end for begin, end in lock))
        patch.setattr(CLIENT, "only_if_local", lambda _: None)
        patch.setattr(CLIENT, "become_docker", lambda _: f"docker at {self.now:.0f} s")
        patch.setattr(CLIENT, "GONE", b"/nonexistent/removed")

    def _pause(self, seconds: float = CLIENT.AGAIN_S) -> None:
        self.now += seconds

    def ask(self, **more: Any) -> str:
        try:
            return str(CLIENT.ask(["id", "snmp"], docker=["inspect", "snmp"], take=print, **more))
        except CLIENT.ClientError as failure:
            return f"{failure.code} at {self.now:.0f} s"


@pytest.mark.parametrize(
    ("lock", "socket", "expected"),
    [
        ([], FOREVER, "docker at 2 s"),
        ([(0, 4)], FOREVER, "docker at 34 s"),
        ([(0, 4), (20, 21.2)], FOREVER, "docker at 51 s"),
        ([(0, FOREVER)], FOREVER, "69 at 32 s"),
        # Another daemon, a moment before it makes its socket.
        ([(0, 4), (33.2, FOREVER)], 34, "75 at 90 s"),
        ([(0, 4), (33.2, FOREVER)], FOREVER, "69 at 63 s"),
        # Its starts fail, one after the other.
        ([(at, at + 3) for at in range(0, 86, 10)], FOREVER, "docker at 90 s"),
    ],
)
def test_docker_is_used_once_a_daemon_has_ended_for_good(
    monkeypatch: pytest.MonkeyPatch, lock: list[tuple[float, float]], socket: float, expected: str
) -> None:
    assert Absence(monkeypatch, *lock, socket=socket).ask() == expected


def test_a_daemon_that_ended_with_its_package_is_not_awaited(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    absence = Absence(monkeypatch, (0, 4))
    monkeypatch.setattr(CLIENT, "GONE", os.fsencode(tmp_path))
    assert absence.ask() == "docker at 4 s"


def test_a_daemon_is_not_said_to_run_where_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    absence = Absence(monkeypatch, (0, FOREVER))
    with pytest.raises(CLIENT.ClientError) as failure:
        CLIENT.ask(["stop", "snmp", ""], (b"/s",))
    line = "snmp: it is not known whether kubesyncd runs, as /proc/locks does not tell who holds its lock, and its "
    line += "socket /s is gone or closed; run systemctl restart kubesyncd"
    assert (str(failure.value), failure.value.code, round(absence.now)) == (line, 69, 32)


IMPATIENT = """
import sys
sys.path.insert(0, {clients!r})
import client
client.FIRST_CONTACT_S, client.UNREACHABLE_S = 0.2, 3
sys.exit(client.main(["container", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(("verb", "code"), [("stop", 0), ("wait", 3)])
def test_a_daemon_that_ends_for_good_is_not_awaited_for_ever(
    one_switch: Switch, verb: str, code: int
) -> None:
    script = one_switch.root / "impatient"
    script.write_text(IMPATIENT.format(clients=str(CLIENTS)))
    command = [sys.executable, "-IS", "-c", ENDING, str(one_switch.root)]
    with subprocess.Popen(command) as ending:
        until((one_switch.root / "locked").exists)
        client = one_switch.begin(str(script), verb, "snmp")
        assert end(client) == (code, "", DOCKER_IS_USED.format("snmp", verb))
        assert ending.wait(LIMIT_S) == 0, "it was asked to look"
    assert one_switch.said_to("docker") == [verb, "snmp"]


def test_a_request_that_was_read_is_not_told_as_unread(one_switch: Switch) -> None:
    """The daemon reads `stop` and fails; another process of it holds the lock, and its socket is gone."""
    one_switch.host.start(END)
    with locked(one_switch, one_switch.root):
        stop = asking(one_switch, 3.0, "stop", "snmp")
        until(lambda: one_switch.host.requests)
        one_switch.host.stop()
        code, _, err = end(stop)
    assert (code, "so it may not be done" in err) == (75, True)


class Full:
    """A daemon that accepts no connection, and whose queue of them is full."""

    def __init__(self, path: Path) -> None:
        self._links = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        self._links[0].bind(str(path))
        self._links[0].listen(0)
        for link in self._links[1:]:
            link.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                link.connect(str(path))

    def close(self) -> None:
        for link in self._links:
            link.close()


class Closing(Full):
    """A daemon that closes each connection and reads nothing, as one that has too many."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._links = [self._listener]
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._listener.accept()[0].close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        super().close()


@pytest.mark.parametrize("kind", [Full, Closing])
@pytest.mark.slow("waits for longer than a first contact may take")
def test_a_daemon_that_listens_and_takes_no_request_is_not_bypassed(
    one_switch: Switch, kind: type[Full]
) -> None:
    busy = kind(one_switch.host.path)
    begun = [asking(one_switch, 4.0, verb, "snmp") for verb in ("start", "stop", "kill")]
    waiter = one_switch.begin("container", "wait", "snmp")
    for process in begun:
        line = "container: snmp: no answer from kubesyncd within 4.0 s, so it may not be done"
        assert end(process) == (75, "", f"{line}; see systemctl status kubesyncd, then ask again\n")
    assert waiter.poll() is None
    busy.close()
    one_switch.host.path.unlink()
    one_switch.host.start(protocol.result(4))
    assert end(waiter) == (4, "", "")
    assert one_switch.said_to("docker") is None


BUSY = protocol.busy("kubesyncd is busy: 64 clients wait for snmp", 0.1)


@pytest.mark.parametrize("verb", ["start", "wait"])
def test_a_busy_daemon_is_asked_again(switch: Switch, verb: str) -> None:
    switch.host.start(BUSY, BUSY, protocol.result(6))
    assert switch.run("container", verb, "snmp") == (6, "", "")
    assert len(switch.host.requests) == 3
    assert switch.said_to("docker") is None


def test_a_daemon_that_stays_busy_is_named_with_its_reason(one_switch: Switch) -> None:
    one_switch.host.start(*[BUSY] * 1000)
    code, _, err = end(asking(one_switch, 3.0, "stop", "snmp"))
    assert code == 75
    assert "no answer from kubesyncd within 3.0 s (kubesyncd is busy: 64 clients wait for snmp), so" in err


def test_a_busy_daemon_says_when_to_ask_again(one_switch: Switch) -> None:
    one_switch.stand_in("sleep", 'printf "%s\\n" "$@" >>"$0.args"')
    one_switch.env["again"] = "99"
    one_switch.host.start(protocol.busy("kubesyncd is busy", 7.25), END, protocol.result(6))
    assert one_switch.run("container", "wait", "snmp") == (6, "", "")
    busy, usual = one_switch.said_to("sleep") or ["", ""]
    assert busy == "7.25"
    assert float(usual) < 1.7
    assert [CLIENT.seconds(text) for text in (b"7.25", b"-1", b"1e9", b"x", b"nan")] == [
        7.25,
        0.1,
        60,
        0.1,
        0.1,
    ]


def test_output_counts_once_its_result_has_arrived(one_switch: Switch) -> None:
    one_switch.host.start(protocol.out(ID), protocol.err("half"), protocol.out(ID) + DONE)
    assert one_switch.run("container", "id", "snmp") == (0, f"{ID}\n", "")
    one_switch.host.replies = [protocol.out(ID), protocol.out(ID) + DONE]
    assert one_switch.run("container", "inspect", "snmp")[0] == 0
    assert one_switch.said_to("docker") == ["inspect", ID]


def test_a_container_goes_on_beside_a_daemon_that_does_not_answer(one_switch: Switch) -> None:
    one_switch.host.start()
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import client; client.STATE_S_MAX = 0.5;"
        "sys.exit(client.main(['container_state', 'snmp', 'down']))"
    )
    command = [one_switch.python, "-IS", "-c", program, str(CLIENTS)]
    done = subprocess.run(
        command, env=one_switch.env, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    line = "container: snmp: no answer from kubesyncd within 0.5 s, so it may not be done; continued without it\n"
    assert (done.returncode, done.stderr) == (0, line)


def test_a_daemon_that_never_answers_is_timed_out(one_switch: Switch) -> None:
    one_switch.host.start()
    with pytest.raises(CLIENT.ClientError, match=r"snmp: no answer .* see ") as failure:
        CLIENT.ask(["start", "snmp"], [str(one_switch.host.path)], bound_s=0.3)
    assert failure.value.code == 75


@pytest.mark.slow("waits for a deadline of the product")
def test_a_daemon_that_answered_once_and_stays_away_is_down(one_switch: Switch) -> None:
    one_switch.host.start()
    threading.Thread(
        target=lambda: (until(lambda: one_switch.host.requests), one_switch.host.stop()), daemon=True
    ).start()
    with pytest.raises(CLIENT.ClientError, match="snmp: no answer") as failure:
        CLIENT.ask(["start", "snmp"], [str(one_switch.host.path)], bound_s=10.0)
    assert failure.value.code == 69


def test_a_daemon_that_talks_without_end_is_cut_off(one_switch: Switch) -> None:
    one_switch.host.start(b"O " + b"x" * (4 * CLIENT.REPLY_LINE_MAX), protocol.result(5))
    assert CLIENT.ask(["start", "snmp"], [str(one_switch.host.path)], bound_s=LIMIT_S) == 5


@pytest.mark.parametrize("code", [b"9" * 5000, b"256", b"0000"])
def test_an_invalid_exit_code_is_not_a_result(one_switch: Switch, code: bytes) -> None:
    one_switch.host.start(b"R " + code + b"\n", protocol.result(5))
    assert CLIENT.ask(["start", "snmp"], [str(one_switch.host.path)], bound_s=LIMIT_S) == 5


def test_a_ledger_of_nothing_but_brackets_counts_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "features.json").write_bytes(b"[" * 100_000)
    monkeypatch.setattr(CLIENT, "LEDGER", bytes(tmp_path / "features.json"))
    with pytest.raises(CLIENT.LostError, match="cannot be read"):
        CLIENT.remembered("snmp")


# Containers without Python.


DIALLERS = ("socat", "nc", "perl")


def shell_only(place: Switch, *tools: str) -> None:
    """A PATH of nothing but a shell's usual company and `tools`."""
    for tool in ["sh", "mktemp", "mkfifo", "rm", "grep", "sleep", *tools]:
        (place.bin / tool).symlink_to(shutil.which(tool, path="/usr/bin:/bin") or tool)
    place.env["PATH"] = str(place.bin)


def run_shell(place: Switch, *args: str) -> tuple[int, str, str]:
    command = ["/bin/sh", str(CLIENTS / "container_sh"), *args]
    done = subprocess.run(
        command, env=place.env, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("tool", [pytest.param(tool, marks=pytest.mark.real(tool)) for tool in DIALLERS])
def test_a_shell_and_a_tool_that_can_dial_are_enough(one_switch: Switch, tool: str) -> None:
    shell_only(one_switch, tool)
    one_switch.container.start(DONE, END, protocol.err("container: snmp: no; ask") + protocol.result(77))
    assert run_shell(one_switch, "snmp", "up", "local") == (0, "", "")
    assert run_shell(one_switch, "snmp", "up", "kube") == (77, "", "container: snmp: no; ask\n")
    assert (
        one_switch.container.requests
        == [["state", "snmp", "up", "local"]] + [["state", "snmp", "up", "kube"]] * 2
    )


def test_a_shell_alone_says_what_is_missing(one_switch: Switch) -> None:
    shell_only(one_switch)
    code, _, err = run_shell(one_switch, "snmp", "up", "kube")
    assert (code, err.count("\n")) == (69, 1)
    assert "install python3, perl, socat or netcat-openbsd" in err


@pytest.mark.real("perl")
def test_a_shell_lets_only_kube_containers_wait_for_a_missing_daemon(one_switch: Switch) -> None:
    shell_only(one_switch, "perl")
    assert run_shell(one_switch, "snmp", "down")[0] == 0
    assert run_shell(one_switch, "snmp", "up", "kube")[0] == 69
    assert run_shell(one_switch, "../x", "up", "kube")[0] == 64
    assert run_shell(one_switch, "snmp", "sideways")[0] == 64


@pytest.mark.real("perl")
def test_a_shell_asks_a_busy_daemon_when_it_says(one_switch: Switch) -> None:
    shell_only(one_switch, "perl")
    (one_switch.bin / "sleep").unlink()
    one_switch.stand_in("sleep", 'printf "%s\\n" "$@" >>"$0.args"')
    one_switch.container.start(protocol.busy("kubesyncd is busy", 7.25), DONE, *[BUSY] * 10)
    assert run_shell(one_switch, "snmp", "up", "kube") == (0, "", "")
    assert (one_switch.said_to("sleep") or [])[0] == "7.25"
    code, _, err = run_shell(one_switch, "snmp", "healthy")
    assert (code, err) == (69, "container_sh: snmp: kubesyncd is busy; report it again later\n")


def test_docker_is_used_also_where_nothing_reads_that_it_is(one_switch: Switch) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x")
    os.set_blocking(writing, True)
    command = [one_switch.python, "-IS", str(CLIENTS / "container"), "stop", "snmp"]
    done = subprocess.run(command, env=one_switch.env, stderr=writing, timeout=LIMIT_S, check=False)
    os.close(reading)
    os.close(writing)
    assert done.returncode == 0
    assert one_switch.said_to("docker") == ["stop", "snmp"]
