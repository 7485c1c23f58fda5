"""Check that units are driven by argument lists with deadlines, and systemd's notifications."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from kubesyncd.adapters.systemd import SystemdUnits
from kubesyncd.core.feature_unit import UnitLook, UnitPhase
from kubesyncd.ports import Refused, Unavailable
from kubesyncd.runtime.sdnotify import listen_fds, notify, watchdog_s
from kubesyncd.settings import SystemdSettings
from tests.lab.processes import alive
from tests.wait import until_async

if TYPE_CHECKING:
    from pathlib import Path

FAKE = """#!/bin/sh
printf '%s\\n' "$*" >>"$0.calls"
case "$1" in
{cases}
esac
exit 0
"""


class FakeSystemctl:
    """A systemctl that writes down how it was called and does what the shell `cases` say."""

    def __init__(self, folder: Path, cases: str = "") -> None:
        self.path = folder / "systemctl"
        self.path.write_text(FAKE.format(cases=cases))
        self.path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        calls = self.path.with_name("systemctl.calls")
        return calls.read_text().splitlines() if calls.exists() else []

    def units(self, **deadlines: float) -> SystemdUnits:
        return SystemdUnits(
            SystemdSettings(systemctl=(str(self.path),), kubelet_unit="kubelet.service"), **deadlines
        )


@pytest.mark.parametrize(
    ("said", "code", "running"),
    [
        ("active", 0, True),
        ("", 0, True),
        ("inactive", 3, False),
        ("failed", 3, False),
        ("deactivating", 3, False),
        ("activating", 3, True),
        ("inactive", 4, False),
    ],
)
async def test_the_kubelet_runs_when_systemd_says_so_or_is_about_to_restart_it(
    tmp_path: Path, said: str, code: int, running: bool
) -> None:
    fake = FakeSystemctl(tmp_path, f"is-active) echo {said}; exit {code};;")
    assert await fake.units().kubelet_running() is running
    assert fake.calls == ["is-active kubelet.service"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("LoadState=loaded ActiveState=active SubState=running NRestarts=0 Result=success", ""),
        ("LoadState=loaded ActiveState=inactive SubState=dead NRestarts=0 Result=success", ""),
        ("LoadState=loaded ActiveState=active SubState=running NRestarts=x", ""),
        (
            "ActiveState=active SubState=running NRestarts=7 ActiveEnterTimestampMonotonic=1",
            "",
        ),
        (
            "ActiveState=active SubState=running NRestarts=7 ActiveEnterTimestampMonotonic=99999999999999999",
            "kubelet.service ends by itself, restarted 7 times; see: journalctl -u kubelet.service",
        ),
        (
            "LoadState=loaded ActiveState=activating SubState=auto-restart NRestarts=14 Result=exit-code",
            "kubelet.service ends by itself (exit-code), restarted 14 times; see: journalctl -u kubelet.service",
        ),
        (
            "ActiveState=activating SubState=auto-restart NRestarts=0 Result=exit-code",
            "kubelet.service ends by itself (exit-code); see: journalctl -u kubelet.service",
        ),
        (
            "ActiveState=failed SubState=failed NRestarts=5 Result=start-limit-hit ActiveEnterTimestampMonotonic=1",
            "kubelet.service has failed (start-limit-hit); see: journalctl -u kubelet.service",
        ),
        (
            "LoadState=masked ActiveState=inactive SubState=dead",
            "kubelet.service is masked, so it cannot start; run: systemctl unmask kubelet.service",
        ),
        (
            "LoadState=not-found ActiveState=inactive SubState=dead",
            "kubelet.service does not exist; install the kubelet, or set [systemd] kubelet_unit",
        ),
    ],
)
async def test_a_kubelet_that_does_not_run_well_is_told_with_the_fix(
    tmp_path: Path, said: str, told: str
) -> None:
    fake = FakeSystemctl(tmp_path, f"show) printf '%s\\n' {said};;")
    assert await fake.units().kubelet_trouble() == told


async def test_a_systemd_that_cannot_be_asked_is_unavailable_with_its_last_output(tmp_path: Path) -> None:
    fake = FakeSystemctl(tmp_path, "is-active) echo first >&2; echo 'Failed to connect to bus' >&2; exit 1;;")
    with pytest.raises(Unavailable, match=r"is-active kubelet\.service: Failed to connect to bus"):
        await fake.units().kubelet_running()


async def test_starting_enables_and_stopping_disables_the_kubelet(tmp_path: Path) -> None:
    fake = FakeSystemctl(tmp_path)
    await fake.units().start_kubelet()
    await fake.units().stop_kubelet()
    assert fake.calls == ["enable --now kubelet.service", "disable --now kubelet.service"]


async def test_a_refusal_carries_the_last_line_systemctl_wrote(tmp_path: Path) -> None:
    fake = FakeSystemctl(
        tmp_path, "enable) echo noise >&2; echo 'Unit kubelet.service is masked.' >&2; exit 1;;"
    )
    with pytest.raises(Refused, match=r"enable --now kubelet.service: Unit kubelet.service is masked\."):
        await fake.units().start_kubelet()


async def test_a_unit_is_restarted_without_waiting_also_when_it_had_not_failed(tmp_path: Path) -> None:
    fake = FakeSystemctl(tmp_path, "reset-failed) exit 1;;")
    await fake.units().restart("snmp")
    assert fake.calls == ["reset-failed snmp.service", "restart --no-block snmp.service"]


@pytest.mark.parametrize("name", ["", "-H", "a;b", "../x", "a b", "Snmp", "x" * 200])
async def test_an_invalid_feature_name_never_reaches_systemctl(tmp_path: Path, name: str) -> None:
    fake = FakeSystemctl(tmp_path)
    with pytest.raises(Refused):
        await fake.units().restart(name)
    assert fake.calls == []


@pytest.mark.parametrize("program", ["/nonexistent/systemctl", "/dev/null", "nul\0"])
async def test_a_missing_program_is_unavailable(program: str) -> None:
    with pytest.raises(Unavailable, match="cannot be started"):
        await SystemdUnits(SystemdSettings(systemctl=(program,))).stop_kubelet()


async def test_a_program_that_hangs_is_killed_with_all_its_children(tmp_path: Path) -> None:
    fake = FakeSystemctl(tmp_path, 'disable) trap "" TERM; sleep 1000 & echo $! >"$0.pid"; wait;;')
    with pytest.raises(Unavailable, match="has not ended within"):
        await fake.units(change_s=3.0).stop_kubelet()
    child = int((tmp_path / "systemctl.pid").read_text())
    await until_async(lambda: not alive(child))


async def test_a_child_that_its_program_leaves_behind_is_killed_and_holds_no_pipe_of_ours(
    tmp_path: Path,
) -> None:
    fake = FakeSystemctl(tmp_path, 'disable) sleep 1000 & echo $! >"$0.pid";;')
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Unavailable, match="has not ended within"):
        await fake.units(change_s=3.0).stop_kubelet()
    child = int((tmp_path / "systemctl.pid").read_text())
    await until_async(lambda: not alive(child) and len(os.listdir("/proc/self/fd")) <= before)


async def test_a_cancelled_call_leaves_no_program_behind(tmp_path: Path) -> None:
    fake = FakeSystemctl(tmp_path, 'disable) echo $$ >"$0.pid"; exec sleep 1000;;')
    call = asyncio.create_task(fake.units().stop_kubelet())
    pid_file = tmp_path / "systemctl.pid"
    await until_async(lambda: pid_file.exists() and pid_file.read_text().strip())
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not alive(int(pid_file.read_text()))


async def test_endless_output_is_read_but_not_kept(tmp_path: Path) -> None:
    fake = FakeSystemctl(tmp_path, "enable) head -c 5000000 /dev/zero >&2; exit 1;;")
    with pytest.raises(Refused) as raised:
        await fake.units().start_kubelet()
    assert len(str(raised.value)) < 2000


# ---- sd_notify, socket activation ---------------------------------------------------------------


def listening(address: str) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(address)
    receiver.settimeout(30)
    return receiver


def test_systemd_is_notified_over_its_socket(tmp_path: Path) -> None:
    with listening(str(tmp_path / "notify")) as receiver:
        assert notify("READY=1", "STATUS=two\nlines", environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert receiver.recv(1000) == b"READY=1\nSTATUS=two lines"


def test_an_abstract_socket_gets_notifications_too() -> None:
    name = f"kubesyncd-test-{os.getpid()}-{time.monotonic_ns()}"
    with listening(f"\0{name}") as receiver:
        assert notify("WATCHDOG=1", environ={"NOTIFY_SOCKET": f"@{name}"})
        assert receiver.recv(1000) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "address", [None, "", "relative", "vsock:2:1", "/nonexistent/notify", "/" + "x" * 200]
)
def test_without_a_listening_systemd_no_notification_is_sent_and_no_error_raised(address: str | None) -> None:
    assert notify("READY=1", environ={} if address is None else {"NOTIFY_SOCKET": address}) is False


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_interval_is_read_where_it_is_ours(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_s(environ) == seconds


ACTIVATED = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
from kubesyncd.runtime.sdnotify import listen_fds
taken = listen_fds()
print({name: taken[name].getsockname() for name in sorted(taken)}, "LISTEN_FDS" in os.environ, listen_fds())
"""


def test_sockets_opened_by_systemd_are_taken_by_name_and_only_once(tmp_path: Path) -> None:
    paths = [str(tmp_path / "host"), str(tmp_path / "container")]
    sockets = []
    for path in paths:
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(path)
        sockets[-1].listen()
    # A shell puts the sockets where systemd would: at descriptors 3 and 4.
    host, container = (opened.fileno() for opened in sockets)
    command = f'exec 98<&{host} 99<&{container}; exec 3<&98 4<&99 98<&- 99<&-; exec "$@"'
    ended = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-c", ACTIVATED],
        env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "host:container"},
        pass_fds=[s.fileno() for s in sockets],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    for opened in sockets:
        opened.close()
    expected = {"container": paths[1], "host": paths[0]}
    assert ended.stdout.strip() == f"{expected} False {{}}"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "2", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "-1", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "100000", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_sockets_that_are_not_ours_are_left_alone(environ: dict[str, str]) -> None:
    assert listen_fds(dict(environ)) == {}


async def test_a_feature_has_a_unit_when_systemd_knows_its_service(tmp_path: Path) -> None:
    fake = FakeSystemctl(tmp_path, 'cat) [ "$2" = snmp.service ] || exit 1 ;;\nis-enabled) exit 1 ;;')
    units = fake.units()
    assert [await units.has_unit(name) for name in ("snmp", "gnmi", "../etc/passwd")] == [True, False, False]
    assert not await units.starts_at_boot("snmp")
    assert fake.calls == ["cat snmp.service", "cat gnmi.service", "is-enabled snmp.service"]


@pytest.mark.parametrize(
    ("said", "pending"),
    [
        ("ActiveState=inactive\nJob=417", True),
        ("ActiveState=activating\nJob=417", True),
        ("ActiveState=activating", True),
        ("ActiveState=inactive", False),
        ("Job=0\nActiveState=inactive", False),
        ("ActiveState=inactive\nJob=", False),
        ("ActiveState=failed", False),
    ],
)
async def test_a_unit_is_pending_while_it_is_queued_or_runs(tmp_path: Path, said: str, pending: bool) -> None:
    fake = FakeSystemctl(tmp_path, f"show) echo '{said}';;")
    assert await fake.units().pending("kubesyncd-join.service") is pending
    assert fake.calls == ["show --property=ActiveState,Job kubesyncd-join.service"]


async def test_a_systemd_that_does_not_say_what_is_pending_is_unavailable(tmp_path: Path) -> None:
    fake = FakeSystemctl(tmp_path, "show) echo 'Failed to connect to bus' >&2; exit 1;;")
    with pytest.raises(Unavailable, match=r"show kubesyncd-join\.service: Failed to connect to bus"):
        await fake.units().pending("kubesyncd-join.service")


@pytest.mark.parametrize(
    ("state", "there"),
    [("loaded", True), ("error", True), ("bad-setting", True), ("not-found", False), ("masked", False)],
)
async def test_a_unit_that_cannot_run_does_not_exist(tmp_path: Path, state: str, there: bool) -> None:
    fake = FakeSystemctl(tmp_path, f"show) echo 'LoadState={state}';;")
    assert await fake.units().unit_exists("snmp") is there
    assert fake.calls == ["show --property=LoadState snmp.service"]
    assert not await fake.units().unit_exists("../etc/passwd")


@pytest.mark.parametrize("said", ["show) echo 'Failed to connect to bus' >&2; exit 1;;", "show) exit 0;;"])
async def test_a_systemd_that_does_not_answer_leaves_a_unit_unknown(tmp_path: Path, said: str) -> None:
    with pytest.raises(Unavailable, match=r"show snmp\.service: "):
        await FakeSystemctl(tmp_path, said).units().unit_exists("snmp")


OURS = "LoadState=loaded\\nDropInPaths=/etc/x/a.conf /run/x.service.d/20-kubesyncd.conf\\n"


async def test_units_are_described_by_one_call_in_their_order(tmp_path: Path) -> None:
    told = (
        "ActiveState=active", "ActiveState=deactivating\\nJob=7", "ActiveState=inactive", "ActiveState=failed\\nJob=0",
        "ActiveState=activating", "ActiveState=inactive\\nJob=8", "ActiveState=reloading\\nJob=",
    )  # fmt: skip
    shown = "\\n\\n".join(OURS + each for each in told)
    fake = FakeSystemctl(tmp_path, f"show) printf '{shown}\\n';;")
    units = tuple(f"{name}.service" for name in "abcdefg")
    runs, ending, ended, _ = UnitPhase
    looks = await fake.units().phases(units)
    assert tuple(look.phase for look in looks) == (runs, ending, ended, ended, runs, runs, runs)
    assert {look.ended_at for look in looks} == {None}
    properties = "LoadState,ActiveState,Job,InactiveEnterTimestampMonotonic,DropInPaths"
    assert fake.calls == [f"show --property={properties} {' '.join(units)}"]


@pytest.mark.parametrize(
    ("said", "phase"),
    [
        (OURS, UnitPhase.ENDED),
        (OURS.replace("loaded", "masked"), UnitPhase.ENDED),
        (OURS.replace("loaded", "not-found"), UnitPhase.UNTOLD),
        (OURS.replace("loaded", "bad-setting"), UnitPhase.UNTOLD),
        # It starts the feature and ends: ExecStart=/usr/bin/container start snmp.
        ("LoadState=loaded\\nDropInPaths=/etc/x/a.conf\\n", UnitPhase.UNTOLD),
        ("LoadState=loaded\\n", UnitPhase.UNTOLD),
    ],
)
async def test_only_a_unit_with_our_drop_in_tells_an_end(tmp_path: Path, said: str, phase: UnitPhase) -> None:
    fake = FakeSystemctl(tmp_path, f"show) printf '{said}ActiveState=inactive\\n';;")
    assert await fake.units().phases(("a.service",)) == (UnitLook(phase),)


async def test_the_end_of_a_unit_has_its_time(tmp_path: Path) -> None:
    ended = int(time.monotonic() * 1e6) - 5_000_000
    said = f"{OURS}ActiveState=failed\\nInactiveEnterTimestampMonotonic={ended}\\n"
    (look,) = await FakeSystemctl(tmp_path, f"show) printf '{said}';;").units().phases(("a.service",))
    assert look.ended_at == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME) - 5.0, abs=5.0)


async def test_hundreds_of_units_are_described_by_some_calls(tmp_path: Path) -> None:
    script = f'show) shift 2; for unit; do printf "{OURS}ActiveState=active\\n\\n"; done;;'
    fake = FakeSystemctl(tmp_path, script)
    looks = await fake.units().phases([f"u{n}.service" for n in range(150)])
    assert looks == (UnitLook(UnitPhase.RUNS),) * 150
    assert len(fake.calls) == 3


@pytest.mark.parametrize(
    "said", ["echo no bus >&2; exit 1", "exit 0", "echo Job=0", "printf 'ActiveState=active\\n'"]
)
async def test_units_that_systemd_does_not_describe_are_unknown(tmp_path: Path, said: str) -> None:
    with pytest.raises(Unavailable, match=r"show a\.service: "):
        await FakeSystemctl(tmp_path, f"show) {said};;").units().phases(("a.service", "b.service"))


@pytest.mark.parametrize(("state", "head", "makes"), [
    ("loaded", "[Unit]", True), ("loaded", "# Written by kubesync, and removed by: x", False), ("not-found", "", False),
])  # fmt: skip
async def test_only_a_unit_that_kubesync_has_not_written_makes_a_local_container(
    tmp_path: Path, state: str, head: str, makes: bool
) -> None:
    (tmp_path / "unit").write_text(f"{head}\n")
    said = f"show) echo LoadState={state}; echo FragmentPath={tmp_path / 'unit'};;"
    units = FakeSystemctl(tmp_path, said).units()
    assert await units.makes_local("snmp") is makes
    assert not await units.makes_local("../etc/passwd")


async def test_a_unit_whose_file_cannot_be_read_is_not_kubesync_s(tmp_path: Path) -> None:
    assert await FakeSystemctl(tmp_path, "show) echo LoadState=loaded;;").units().makes_local("snmp")
    with pytest.raises(Unavailable):
        await FakeSystemctl(tmp_path, "show) exit 0;;").units().makes_local("snmp")
