"""Check that the peer of a Unix socket is identified by the kernel's data alone."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.api.peer import Peer, PeerGone, PeerUnknown, container_of, identify_peer, start_ticks, unit_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, B, C = "a" * 64, "b" * 64, "0123456789abcdef" * 4
HOST = "0::/system.slice/kubesyncd.service\n"
POD = "pod1b4e28ba-2fa1-11d2-883f-0016d3cca427"


@pytest.mark.parametrize(
    "cgroup",
    [
        f"0::/docker/{A}\n",
        f"0::/system.slice/docker-{A}.scope\n",
        f"0::/../{A}\n",
        f"0::/kubepods/besteffort/{POD}/{A}\n",
        f"0::/kubepods.slice/kubepods-{POD.replace('-', '_')}.slice/cri-containerd-{A}.scope\n",
        f"0::/kubepods.slice/kubepods-{POD}.slice/docker-{A}.scope\n",
        f"0::/system.slice/containerd.service/kubepods-besteffort-{POD}.slice:cri-containerd:{A}\n",
        f"0::/machine.slice/libpod-{A}.scope/container\n",
        f"0::/docker/{A}/init.scope (deleted)\n",
        f"12:memory:/docker/{A}\n2:cpu,cpuacct:/docker/{A}\n1:name=systemd:/docker/{A}\n0::/\n",
        f"9:name=systemd:/kubepods/burstable/{POD}/{A}\n8:pids:/kubepods/burstable/{POD}/{A}\n",
    ],
)
def test_every_known_path_names_its_container(cgroup: str) -> None:
    assert container_of(cgroup, HOST) == A


@pytest.mark.parametrize(
    "cgroup",
    [
        "",
        "0::/\n",
        "0::/user.slice/user-0.slice/session-1.scope\n",
        f"0::/x/{A[:63]}\n",
        f"0::/{A}a\n",
        "::\n0",
    ],
)
def test_a_path_without_a_container_is_the_hosts(cgroup: str) -> None:
    assert container_of(cgroup, HOST) is None


def test_of_nested_containers_the_outermost_below_the_daemon_counts() -> None:
    inner = f"0::/docker/{A}/docker/{B}\n"
    assert container_of(inner, HOST) == A
    assert container_of(inner, f"0::/docker/{A}/system.slice/kubesyncd.service\n") == B


def test_the_daemons_own_container_is_its_host() -> None:
    own = f"0::/docker/{A}\n"
    assert container_of(own, own) is None
    assert container_of(f"0::/docker/{A}/some.service\n", own) is None
    assert container_of(f"0::/docker/{B}\n", own) == B
    assert container_of("0::/system.slice/ssh.service\n", own) is None


def test_what_lies_around_the_daemons_own_container_is_its_host_too() -> None:
    own = f"0::/docker/{A}/docker/{B}\n"
    assert container_of(f"0::/docker/{A}\n", own) is None
    assert container_of(f"0::/docker/{A}/docker/{C}\n", own) == C


def test_hierarchies_that_name_different_containers_identify_no_peer() -> None:
    with pytest.raises(ValueError, match="name 2 containers"):
        container_of(f"2:cpu:/docker/{A}\n1:memory:/docker/{B}\n", HOST)


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_a_cgroup_named_like_a_second_line_does_not_make_one(end: str) -> None:
    assert container_of(f"0::/docker/{A}/evil{end}0::{B}\n", HOST) == A


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/snmp.service\n", "snmp.service"),
        ("0::/system.slice/system-swss.slice/swss@0.service\n", "swss@0.service"),
        ("0::/system.slice/snmp.service/.control\n", "snmp.service"),
        (f"0::/docker/{A}/system.slice/dhcp_relay.service\n", "dhcp_relay.service"),
        ("12:memory:/x\n1:name=systemd:/system.slice/snmp.service\n0::/\n", "snmp.service"),
        ("12:memory:/system.slice/snmp.service\n1:name=systemd:/user.slice\n0::/\n", ""),
        ("0::/user.slice/user-0.slice/session-1.scope\n", ""),
        ("0::/.service\n", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service\n", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", ""),
        ("0::/user.slice/user-1000.slice/session-1.scope/web.service\n", ""),
        ("0::/system.slice/manager.service/web.service\n", "manager.service"),
        (f"0::/system.slice/docker-{A}.scope/system.slice/snmp.service\n", "snmp.service"),
        ("0::/snmp.service\n", "snmp.service"),
        ("", ""),
    ],
)
def test_a_process_of_a_service_names_it(cgroup: str, unit: str) -> None:
    assert unit_of(cgroup) == unit


PIECES = st.sampled_from(
    [A, B, "/", "docker", "-", ":", ".scope", "\n", "0::", "1:cpu:", "\x0c", " (deleted)", "x"]
)


@given(
    st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)),
    st.lists(PIECES, max_size=40).map("".join),
)
def test_any_cgroup_file_names_no_container_or_an_id_in_it(cgroup: str, own: str) -> None:
    try:
        found = container_of(cgroup, own)
    except ValueError as error:
        assert "containers" in str(error)  # noqa: PT017
        return
    assert found is None or (len(found) == 64 and found in cgroup)


@given(st.lists(st.sampled_from([A, B, C, "docker", "x.slice"]), max_size=6))
def test_a_process_is_in_no_container_relative_to_itself(steps: list[str]) -> None:
    cgroup = "0::/" + "/".join(steps) + "\n"
    assert container_of(cgroup, cgroup) is None


def stat(comm: str = "sh", state: str = "S", ticks: str = "4242") -> str:
    return f"7 ({comm}) {state} " + " ".join(["1"] * 18) + f" {ticks} 99 99\n"


@pytest.mark.parametrize("comm", ["sh", "a b", ") Z 1 (", "))) 1 2 3", "\n"])
def test_a_start_time_is_found_whatever_the_command_is_called(comm: str) -> None:
    assert start_ticks(stat(comm)) == 4242


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7 (sh)",
        stat(state="Z"),
        stat(state="X"),
        stat(ticks="-1"),
        stat(ticks="9" * 5000),
        stat(ticks="²"),
    ],
)
def test_the_dead_and_the_unreadable_have_no_start_time(text: str) -> None:
    assert start_ticks(text) is None


@given(st.text())
def test_no_stat_line_is_an_error(text: str) -> None:
    start_ticks(text)


class FakeProc:
    """A /proc in which this test process looks as if it lived in container A."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.own = root / str(os.getpid())
        self.own.mkdir()
        (root / "self").mkdir()
        (root / "self" / "cgroup").write_text(HOST)
        (self.own / "cgroup").write_text(f"0::/docker/{A}\n")
        (self.own / "stat").write_text(stat())


@pytest.fixture
def fake_proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        yield ours


def test_credentials_and_container_come_from_the_kernel(sock: socket.socket, fake_proc: FakeProc) -> None:
    assert identify_peer(sock, fake_proc.root) == Peer(os.getpid(), os.getuid(), os.getgid(), A)


@pytest.mark.parametrize("missing", ["cgroup", "stat"])
def test_a_living_peer_that_proc_hides_is_told_apart_from_one_that_has_ended(
    sock: socket.socket, fake_proc: FakeProc, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake_proc.own / missing).unlink()
    with pytest.raises(PeerUnknown, match="without hidepid"):
        identify_peer(sock, fake_proc.root)

    def kill(*_: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", kill)
    with pytest.raises(PeerGone, match="the process has ended"):
        identify_peer(sock, fake_proc.root)


def test_a_peer_in_two_containers_is_unknown(sock: socket.socket, fake_proc: FakeProc) -> None:
    (fake_proc.own / "cgroup").write_text(f"2:cpu:/docker/{A}\n1:memory:/docker/{B}\n")
    with pytest.raises(PeerUnknown, match="name 2 containers"):
        identify_peer(sock, fake_proc.root)


def test_a_process_number_reused_while_it_was_read_is_gone(sock: socket.socket, fake_proc: FakeProc) -> None:
    # The cgroup file is a pipe: who opens it has read the start time once, and not yet a second time.
    (fake_proc.own / "cgroup").unlink()
    os.mkfifo(fake_proc.own / "cgroup")

    def another_process_takes_the_number() -> None:
        with (fake_proc.own / "cgroup").open("w") as pipe:
            (fake_proc.own / "stat").write_text(stat(ticks="4243"))
            pipe.write(HOST)

    thread = threading.Thread(target=another_process_takes_the_number, daemon=True)
    thread.start()
    with pytest.raises(PeerGone, match="ended while"):
        identify_peer(sock, fake_proc.root)
    thread.join(30)


def test_only_a_unix_socket_has_a_peer() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as inet, pytest.raises(PeerUnknown):
        identify_peer(inet)


CONNECT = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"


def test_a_real_process_is_identified_and_a_zombie_is_gone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(30)
        child = subprocess.Popen([sys.executable, "-IS", "-c", CONNECT + "sys.stdin.read()", path], stdin=-1)
        peer, _ = listener.accept()
        with peer:
            assert identify_peer(peer) == Peer(child.pid, os.getuid(), os.getgid(), None)
            child.stdin.close()  # type: ignore[union-attr]
            # The number stays taken until we wait for it, but what it says of cgroups is over.
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(PeerGone, match="has ended"):
                identify_peer(peer)
            child.wait(30)
            with pytest.raises(PeerGone, match="the process has ended"):
                identify_peer(peer)


LEAVE = "import os\nif os.fork():\n    os._exit(0)\nsys.stdin.read()\n"


def test_a_process_number_reused_before_it_was_read_is_gone(tmp_path: Path) -> None:
    """A peer that leaves its connection to a child and ends must not be taken for the next process of its number."""
    path, next_pid = str(tmp_path / "s"), "/proc/sys/kernel/ns_last_pid"
    if os.geteuid() or not os.access(next_pid, os.W_OK):
        pytest.skip("only root may choose the next process's number")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(30)
        liar = subprocess.Popen([sys.executable, "-IS", "-c", CONNECT + LEAVE, path], stdin=subprocess.PIPE)
        peer, _ = listener.accept()
        liar.wait(30)
        with peer:
            heir = _process_numbered(liar.pid, next_pid)
            try:
                if not _has_peerpidfd(peer):
                    pytest.skip("this kernel has no SO_PEERPIDFD")
                with pytest.raises(PeerGone, match="its number may belong to another process"):
                    identify_peer(peer)
            finally:
                heir.kill()
                heir.wait(30)
                assert liar.stdin is not None
                liar.stdin.close()


def _has_peerpidfd(sock: socket.socket) -> bool:
    try:
        os.close(int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 77, 4), sys.byteorder))
    except OSError as error:
        return error.errno != errno.ENOPROTOOPT
    return True


def _process_numbered(pid: int, next_pid: str) -> subprocess.Popen[bytes]:
    """A process with this number; others on a busy machine may be faster."""
    for _ in range(1000):
        with open(next_pid, "w", encoding="ascii") as file:
            file.write(str(pid - 1))
        made = subprocess.Popen(["sleep", "1000"])
        if made.pid == pid:
            return made
        made.kill()
        made.wait(30)
    pytest.skip(f"another process has the number {pid}")
