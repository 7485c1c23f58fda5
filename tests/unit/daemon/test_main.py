"""Check what the process of the daemon does with settings that it cannot use, and beside another daemon."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kubesyncd.daemon.sockets import StartError, only_daemon
from kubesyncd.runtime.lock_holder import LOOK, lock_holder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT_S = 180.0
EXIT_SETTINGS = 78


def kubesyncd(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kubesyncd", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, **environ},
    )


def written(folder: Path, more: str = "") -> Path:
    file = folder / "kubesyncd.toml"
    (folder / "boot_id").write_text("this\n")
    file.write_text(
        f'[sockets]\nhost = "{folder}/host.sock"\ncontainer = "{folder}/in/container.sock"\n{more}'
        f'[paths]\nstate_dir = "{folder}/state"\nrun_dir = "{folder}/run"\nboot_id = "{folder}/boot_id"\n'
    )
    return file


WRONG = '[redis]\nurl = "gopher:x"\n[docker]\nurl = "tcp://h:1"\n[packages]\nurl = "http://h"\npubkey = "x"\n'
WRONG_KEYS = ["[redis] url", "[docker] url", "[packages] url", "[packages] pubkey", "[paths] boot_id"]


def test_a_start_with_invalid_settings_prints_every_error_and_ends_with_78(tmp_path: Path) -> None:
    file = written(tmp_path, WRONG)
    (tmp_path / "boot_id").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(LIMIT_S)
        ended = kubesyncd("--config", file, NOTIFY_SOCKET=str(tmp_path / "notify"))
        status = systemd.recv(4096).decode()
        assert systemd.recv(4096) == b"BARRIER=1", "it waits until systemd has read the status"
    assert ended.returncode == EXIT_SETTINGS, ended
    lines = ended.stderr.splitlines()
    assert [line.removeprefix(f"kubesyncd: {file}: ").partition(" = ")[0] for line in lines] == WRONG_KEYS
    assert lines[-1].endswith("allowed: a file with the ID of this boot (No such file or directory)")
    assert status.startswith(f"STATUS=not started: {file}: [redis] url = 'gopher:x'; allowed: unix:///PATH")
    assert status.endswith(" (4 more: kubesyncd --check)")
    assert not (tmp_path / "run").exists(), "nothing is touched"


def test_a_check_prints_every_error_and_starts_nothing(tmp_path: Path) -> None:
    file = written(tmp_path, WRONG)
    (tmp_path / "boot_id").write_bytes(b"\n")
    for ended in (kubesyncd("--check", file), kubesyncd("--check", "--config", file)):
        assert (ended.returncode, ended.stdout) == (EXIT_SETTINGS, "")
        lines = ended.stderr.splitlines()
        assert [line.removeprefix(f"kubesyncd: {file}: ").partition(" = ")[0] for line in lines] == WRONG_KEYS
        assert lines[-1].endswith("(the file is empty)")


def test_a_check_of_a_valid_file_says_so(tmp_path: Path) -> None:
    file = written(tmp_path)
    ended = kubesyncd("--check", file)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"kubesyncd: {file}: valid\n", "")
    missing = kubesyncd("--check", tmp_path / "absent.toml")
    assert (missing.returncode, missing.stderr.count("\n")) == (EXIT_SETTINGS, 1)


def test_a_second_daemon_ends_with_one_line_before_it_touches_anything(tmp_path: Path) -> None:
    file = written(tmp_path)
    with only_daemon(tmp_path / "run"):
        ended = kubesyncd("--config", file)
    said = f"kubesyncd: {tmp_path}/run: another kubesyncd uses this folder; stop it first\n"
    assert (ended.returncode, ended.stderr) == (EXIT_SETTINGS, said)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "host.sock"))
        other.listen()
        ended = kubesyncd("--config", file)
    said = f"kubesyncd: {tmp_path}/host.sock: another kubesyncd answers there (process {os.getpid()}); stop it first\n"
    assert (ended.returncode, ended.stderr) == (EXIT_SETTINGS, said)
    assert not any((tmp_path / "run").iterdir())


def test_a_second_daemon_is_refused_also_where_only_the_state_is_shared(tmp_path: Path) -> None:
    """A cleaner of /run takes the first daemon's folder away, and with it the folder's lock."""
    run, state = tmp_path / "run", tmp_path / "state"
    with only_daemon(run, state):
        shutil.rmtree(run)
        with (
            pytest.raises(StartError, match="state: another kubesyncd uses this folder"),
            only_daemon(run, state),
        ):
            pass
    with only_daemon(run, state):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
@pytest.mark.parametrize(
    ("which", "mode", "held"), [("run", 0o711, "state"), ("run", 0o755, "state"), ("state", 0o755, "run")]
)
def test_a_lock_of_another_user_keeps_no_daemon_from_starting(
    tmp_path: Path, which: str, mode: int, held: str
) -> None:
    """`mode`: of the state folder; an operator may have opened it to all."""
    run, state = tmp_path / "run", tmp_path / "state"
    with only_daemon(run, state):
        pass
    state.chmod(mode)
    with subprocess.Popen(
        ["/bin/sh", "-c", "exec 9<. && flock -s 9 && echo locked && read _"],
        cwd=tmp_path / which,
        user=65534,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"locked\n"
        with only_daemon(run, state):
            assert lock_holder((tmp_path / which,)) == 0
            assert lock_holder((tmp_path / held,)) == os.getpid()
            with pytest.raises(StartError, match=f"{held}: another kubesyncd"), only_daemon(run, state):
                pass
        stranger.kill()


@pytest.mark.parametrize("folder", ["run", "file/run"])
def test_the_lock_is_free_again_and_no_reason_to_stay_away(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        with only_daemon(tmp_path / folder):
            pass


# As in the daemon's unit: of the file system, its own folders alone are writable.
SANDBOX = (
    'mount --bind "$1" "$1" && { mount --bind "$1/own" "$1/own" || true; } 2>&- &&'
    ' mount -o remount,bind,ro "$1" && shift && exec "$@"'
)


class Sandboxed:
    """A daemon under systemd whose run folder is `run/own`, in a `run` that it may not write to."""

    def __init__(self, folder: Path) -> None:
        self.settings = written(folder)
        self.settings.write_text(self.settings.read_text().replace('/run"', '/run/own"'))
        self.run = folder / "run"
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(folder / "notify"))
        self.systemd.settimeout(LIMIT_S)

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """One that is ready, until it is left."""
        command = [sys.executable, "-m", "kubesyncd", "--config", str(self.settings)]
        with subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", SANDBOX, "sh", str(self.run), *command],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(self.systemd.getsockname())},
        ) as process:
            try:
                self.told("READY=1")
                yield process
            finally:
                process.kill()

    def told(self, what: str) -> None:
        """Wait until systemd has been told this; the daemon tells it again and again that it lives."""
        ends = time.monotonic() + LIMIT_S
        while what not in self.systemd.recv(4096).decode().split("\n"):
            assert time.monotonic() < ends, f"systemd is not told {what}"


@pytest.mark.slow("the daemon starts")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("by", [LOOK, signal.SIGHUP])
def test_a_daemon_that_lost_its_run_folder_ends_to_get_another_one(
    tmp_path: Path, by: signal.Signals
) -> None:
    """Also where it reads its settings again before it has noticed the loss. The sockets need no alert of their own."""
    own = tmp_path / "run" / "own"
    own.mkdir(parents=True)
    sandboxed = Sandboxed(tmp_path)
    if by == LOOK:
        text = sandboxed.settings.read_text()
        sandboxed.settings.write_text(text.replace(f"{tmp_path}/host.sock", f"{own}/host.sock"))
    with sandboxed.systemd, sandboxed.started() as process:
        shutil.rmtree(own)
        process.send_signal(by)
        sandboxed.told("STOPPING=1")
        _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 75, said
    alerts = [line["event"] for line in map(json.loads, said.splitlines()) if line.get("alert")]
    assert (alerts.count("run_folder"), alerts.count("socket")) == (1, 0), said
    assert f"{own} is gone, and kubesyncd may not make it again; it ends" in said
    assert not own.exists()


@pytest.mark.slow("the daemon starts")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_daemon_that_found_no_run_folder_does_not_end_for_another_one(tmp_path: Path) -> None:
    (tmp_path / "run" / "own").mkdir(parents=True)
    sandboxed = Sandboxed(tmp_path)
    (tmp_path / "run" / "own").rmdir()
    with sandboxed.systemd, sandboxed.started() as process:
        process.send_signal(LOOK)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.terminate()
        assert process.wait(LIMIT_S) == 0
