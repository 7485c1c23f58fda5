"""Check that a socket's path keeps leading to the daemon, whatever is done to the file and its folder."""

from __future__ import annotations

import asyncio
import errno
import grp
import os
import resource
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import capture_logs

from kubesyncd.daemon import endpoint as endpoint_module
from kubesyncd.daemon import sockets
from kubesyncd.daemon.endpoint import Endpoint
from kubesyncd.daemon.sockets import Rights, RunFolder, bind, gid_of, only_daemon
from kubesyncd.runtime.alerts import AlertLog, Alerts
from tests.wait import until, until_async

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 120.0
MODE = 0o660
RIGHTS = Rights(MODE, os.getegid())


class Served:
    """An Endpoint whose connections are answered with a number: how many have been."""

    def __init__(
        self, path: Path, *, inherited: socket.socket | None = None, rights: Rights = RIGHTS
    ) -> None:
        self.path = path
        self.count = 0
        sock = inherited or bind(path, rights)
        alerts = AlertLog(Alerts(), "host socket", structlog.get_logger(), lambda: 0.0)
        self.endpoint = Endpoint(sock, path, rights, ours=inherited is None, serve=self._serve, alerts=alerts)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(LIMIT_S):
                if await reader.readline() == b"ask\n":
                    self.count += 1
                    writer.write(b"%d\n" % self.count)
        finally:
            writer.close()

    async def answers(self) -> bool:
        """Whether a client that connects to the path is answered."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.path)
        except OSError:
            return False
        writer.write(b"ask\n")
        async with asyncio.timeout(LIMIT_S):
            answered = await reader.readline() == b"%d\n" % self.count
        writer.close()
        return answered

    def looks(self) -> list[dict[str, Any]]:
        """The alerts of one look, and their ends."""
        with capture_logs() as lines:
            self.endpoint.look()
        return [dict(line) for line in lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "in" / "host.sock"


def removed(path: Path) -> None:
    path.unlink()


def folder_removed(path: Path) -> None:
    shutil.rmtree(path.parents[1])


def folder_replaced(path: Path) -> None:
    path.parent.rename(path.parents[1] / "old")
    path.parent.mkdir()


def folder_private(path: Path) -> None:
    folder_removed(path)
    path.parents[1].mkdir()
    path.parent.mkdir(mode=0o700)


def stale(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))


def a_file(path: Path) -> None:
    path.unlink()
    path.write_text("")


@pytest.mark.parametrize("harm", [removed, folder_removed, folder_replaced, folder_private, stale, a_file])
async def test_a_path_that_leads_elsewhere_is_bound_again_with_one_alert(path: Path, harm: Any) -> None:
    served = Served(path)
    assert served.looks() == []
    reader, writer = await asyncio.open_unix_connection(path)
    queued = socket.socket(socket.AF_UNIX)
    await asyncio.sleep(0.01)
    queued.connect(str(path))
    harm(path)
    first, second, *more = served.looks()
    assert (first["event"], first["alert"], second["event"], more) == ("socket", True, "recovered", [])
    assert str(path) in first["why"]
    of_folder = harm in (folder_removed, folder_replaced, folder_private)
    assert ("running containers reach it once" in first["why"]) == of_folder
    assert path.stat().st_mode & 0o777 == MODE
    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert await served.answers()
    writer.write(b"ask\n")
    assert await reader.readline() == b"2\n", "a connection from before is served"
    queued.sendall(b"ask\n")
    queued.settimeout(LIMIT_S)
    assert await asyncio.to_thread(queued.recv, 10) == b"3\n", "and so is one that was in the queue"
    assert served.looks() == []
    writer.close()
    queued.close()
    served.endpoint.close()


async def test_folders_are_open_to_all_whatever_the_umask_is(path: Path) -> None:
    before = os.umask(0o077)
    try:
        served = Served(path)
    finally:
        os.umask(before)
    assert {each.stat().st_mode & 0o777 for each in (path.parent, path.parents[1])} == {0o755}
    served.endpoint.close()


def test_only_the_owner_may_connect_before_the_rights_are_set(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the umask, which all threads share, stays as it is."""
    found = []
    monkeypatch.setattr(sockets, "set_rights", lambda path, _: found.append(path.stat().st_mode & 0o777))
    before = os.umask(0)
    try:
        monkeypatch.setattr(os, "umask", None)
        bind(path, RIGHTS).close()
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert found == [0o600]


async def test_rights_that_were_changed_are_restored_with_one_alert(path: Path) -> None:
    served = Served(path)
    path.parent.chmod(0o775)
    assert served.looks() == [], "what an operator gives is no damage"
    for mode in (0o600, 0o666):
        path.chmod(mode)
        path.parent.chmod(0o700)
        first, _ = served.looks()
        assert f"had mode {mode:o}" in first["why"]
        assert path.stat().st_mode & 0o777 == MODE
        assert path.parent.stat().st_mode & 0o055 == 0o055
    if os.geteuid() == 0:
        os.chown(path, -1, 12345)
        served.looks()
        assert path.stat().st_gid == os.getegid()
    assert await served.answers()
    served.endpoint.close()


@pytest.mark.parametrize("mode", [0o600, 0o666])
async def test_rights_that_were_changed_while_no_daemon_ran_are_restored_too(path: Path, mode: int) -> None:
    of_systemd = bind(path, RIGHTS)
    path.chmod(mode)
    for inherited in (of_systemd.dup(), of_systemd.dup()):
        served = Served(path, inherited=inherited)
        lines = served.looks()
        assert path.stat().st_mode & 0o777 == MODE
        served.endpoint.close()
        assert len(lines) == (2 if mode else 0)
        mode = 0
    of_systemd.close()


async def test_the_folder_of_the_sockets_is_opened_to_those_who_need_it(path: Path) -> None:
    private = Served(path)
    path.parent.chmod(0o700)
    private.endpoint.close()
    for rights, mode in ((RIGHTS, 0o700), (replace(RIGHTS, folder_mode=0o755), 0o755)):
        served = Served(path, rights=rights)
        assert served.looks() == []
        assert path.parent.stat().st_mode & 0o777 == mode, "only where it is known to be the daemon's"
        served.endpoint.close()


CONNECTS = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


def codes_of(path: Path, *groups: int) -> list[int]:
    """Exit codes of a user that is in a group and connects to the path: for each group, and for one in none."""
    return [
        subprocess.run(
            ["/usr/bin/python3", "-IS", "-c", CONNECTS, path.name],
            cwd=path.parent, user=65534, group=65534, extra_groups=extra, stderr=subprocess.DEVNULL, check=False,
        ).returncode
        for extra in (*([group] for group in groups), [])
    ]  # fmt: skip


@pytest.fixture
def shared(path: Path, monkeypatch: pytest.MonkeyPatch) -> Rights:
    """The rights of a group that may not be given the file, as in the daemon's unit."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    rights = Rights(MODE, gid_of(grp.getgrall()[-1].gr_name))
    with monkeypatch.context() as changed:
        changed.setattr(os, "chown", refuse)
        with bind(path, rights):
            if "system.posix_acl_access" not in os.listxattr(path):
                pytest.skip("this file system has no access lists")
    monkeypatch.setattr(os, "chown", refuse)
    return rights


async def test_a_group_that_may_not_be_given_the_file_is_let_in_by_an_access_list_each_time(
    path: Path, shared: Rights
) -> None:
    assert shared.gid is not None
    served = Served(path, rights=shared)
    for harm in (None, removed, folder_removed, removed, lambda path: path.chmod(0o600)):
        if harm:
            harm(path)
            assert [line["event"] for line in served.looks()] == ["socket", "recovered"]
        assert path.stat().st_mode & 0o777 == MODE
        assert await asyncio.to_thread(codes_of, path, shared.gid) == [0, 1]
        assert served.looks() == []
    os.removexattr(path, "system.posix_acl_access")
    path.chmod(MODE)
    assert len(served.looks()) == 2
    assert await asyncio.to_thread(codes_of, path, shared.gid) == [0, 1]
    served.endpoint.close()


async def test_a_group_that_cannot_be_let_in_is_one_alert(
    path: Path, shared: Rights, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(path, rights=shared)

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    removed(path)
    lines = served.looks()
    assert [line["event"] for line in lines] == ["socket", "recovered", "socket"]
    assert "kubesyncd may not restore them" in lines[-1]["why"]
    assert served.looks() == []
    monkeypatch.undo()
    assert [line["event"] for line in served.looks()][-1] == "recovered"
    served.endpoint.close()


def test_a_group_that_does_not_exist_leaves_the_file_s_group_alone(path: Path) -> None:
    assert gid_of("") == os.getegid()
    assert gid_of("no such group") is None
    with bind(path, Rights(MODE)):
        assert path.stat().st_gid == os.getegid()


LISTENS = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen();"
    "print(flush=True); input()"
)


@pytest.fixture
def other(path: Path) -> Iterator[Any]:
    """Another process that listens at the path, once it is called."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        path.unlink()
        command = [sys.executable, "-IS", "-c", LISTENS, str(path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        begun.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield begin
    for each in begun:
        each.kill()
        each.communicate()


async def test_another_process_at_the_path_is_named_and_left_alone(path: Path, other: Any) -> None:
    served = Served(path)
    process = other()
    at = path.stat().st_ino
    (line,) = served.looks()
    assert (line["event"], line["alert"]) == ("socket", True)
    assert f"process {process.pid} listens there in place of kubesyncd" in line["why"]
    assert served.looks() == []
    assert path.stat().st_ino == at
    process.kill()
    process.communicate()
    assert [line["event"] for line in served.looks()] == ["recovered"]
    assert await served.answers()
    served.endpoint.close()


async def test_a_path_that_cannot_be_bound_is_one_alert_until_it_can(path: Path) -> None:
    served = Served(path)
    path.unlink()
    path.mkdir()
    (line,) = served.looks()
    assert (line["event"], line["alert"]) == ("socket", True)
    assert "systemctl restart kubesyncd" in line["why"]
    assert served.looks() == []
    path.rmdir()
    assert [line["event"] for line in served.looks()] == ["recovered"]
    assert await served.answers()
    served.endpoint.close()


async def test_a_socket_of_systemd_s_whose_file_is_gone_is_bound_at_the_start(path: Path) -> None:
    of_systemd = bind(path, RIGHTS)
    served = Served(path, inherited=of_systemd.dup())
    assert served.looks() == []
    assert await served.answers()
    served.endpoint.close()
    path.unlink()
    for _ in range(2):
        served = Served(path, inherited=of_systemd.dup())
        assert [line["event"] for line in served.looks()] == ["socket", "recovered"]
        assert await served.answers()
        served.endpoint.close()
    of_systemd.close()


async def test_without_descriptors_clients_wait_and_one_alert_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "ACCEPT_PAUSE_S", 0.05)
    served = Served(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(LIMIT_S)
    used = int(max(os.listdir("/proc/self/fd"), key=int))
    with capture_logs() as lines:
        filler = [os.open("/dev/null", os.O_RDONLY)]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, hard))
            while True:
                try:
                    filler.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    break
            client.connect(str(path))
            client.sendall(b"ask\n")
            await until_async(lambda: lines)
            await asyncio.sleep(0.3)
            monkeypatch.setattr(endpoint_module, "ACCEPT_QUIET_S", 0.0)
            served.endpoint.look()
            assert len(lines) == 1, "a time in which nobody connects is no recovery"
            monkeypatch.setattr(endpoint_module, "ACCEPT_QUIET_S", 30.0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for each in filler:
                os.close(each)
        assert await asyncio.to_thread(client.recv, 10) == b"1\n"
        served.endpoint.look()
        assert len(lines) == 1, "it may be for a moment"
        monkeypatch.setattr(endpoint_module, "ACCEPT_QUIET_S", 0.01)
        await asyncio.sleep(0.02)
        served.endpoint.look()
    assert [line["event"] for line in lines] == ["accept", "recovered"]
    assert "no connection can be accepted: Too many open files (EMFILE)" in lines[0]["why"]
    client.close()
    served.endpoint.close()


async def test_what_serves_a_connection_is_ended_at_last(path: Path) -> None:
    served = Served(path)
    reader, writer = await asyncio.open_unix_connection(path)
    await asyncio.sleep(0.05)
    served.endpoint.close()
    await served.endpoint.ended(LIMIT_S)
    async with asyncio.timeout(LIMIT_S):
        assert await reader.read() == b""
    writer.close()


def locked(folder: Path) -> bool:
    """Whether a process holds a lock on the folder."""
    at = folder.stat()
    place = f"{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}:{at.st_ino}"
    return any(
        line.split()[1] == "FLOCK" and place in line for line in Path("/proc/locks").read_text().splitlines()
    )


def test_the_lock_follows_a_folder_that_was_replaced(tmp_path: Path) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    with only_daemon(run, state) as locks:
        assert locked(run)
        assert locked(state)
        run.rename(tmp_path / "old")
        for lock in locks:
            lock.renew()
        assert locked(run)
        assert not locked(tmp_path / "old")
    until(lambda: not locked(run))
    assert not locked(state)


def test_a_locked_folder_stays_open_to_those_who_look_up_a_file_in_it(tmp_path: Path) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    state.mkdir(mode=0o700)
    with only_daemon(run, state) as locks:
        assert state.stat().st_mode & 0o777 == 0o711
        state.rename(tmp_path / "old")
        state.mkdir(mode=0o700)
        for found, wanted in ((0o700, 0o711), (0o700, 0o711), (0o770, 0o771)):
            state.chmod(found)
            for lock in locks:
                lock.renew()
            assert state.stat().st_mode & 0o777 == wanted
            assert locked(state)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_run_folder_that_cannot_be_read_is_not_known_to_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    folder = RunFolder()
    folder.find(tmp_path)
    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not folder.is_lost()


def test_a_run_folder_is_lost_where_this_process_can_make_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path = RunFolder(), tmp_path / "in" / "run"
    folder.find(path)
    assert not folder.is_lost(), "it was never there"
    path.mkdir(parents=True)
    folder.find(path)
    path.rmdir()
    assert not folder.is_lost(), "it can be made again"
    access = os.access
    monkeypatch.setattr(os, "access", lambda at, how: at == path and access(at, how))
    assert folder.is_lost()
    folder.find(path)
    assert folder.is_lost(), "also in the next run of the process"
    path.mkdir()
    folder.find(path)
    assert not folder.is_lost(), "systemd has made it again"
    folder.find(tmp_path / "other")
    assert not folder.is_lost(), "the settings name another one"
