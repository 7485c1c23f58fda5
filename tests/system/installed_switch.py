"""Provide a switch with our packages installed: a Debian root with systemd as PID 1 and its own dockerd.

One root for each Debian suite that SONiC's images are built of, made by debootstrap once and kept outside the
checkout; each switch is an overlay over one, in namespaces of its own (boot-switch). Tests act on it as an operator
does, by commands inside. Knows nothing of kubesyncd's inside.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.lab.engines import await_end
from tests.lab.places import disk_folder, remove
from tests.wait import until
from tests.workers import locked

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Never what is tested: systemd itself gives a unit 90 s to start, and as many to stop.
PATIENCE_S = 240.0
BOOTSTRAP_S = 1200.0
# Per suite, the SONiC releases it stands for: bookworm 202405 and 202505, trixie 202511 and later.
SUITES = ("bookworm", "trixie")
DEFAULT_SUITE = SUITES[0]
# A root stands for the host that SONiC's image build leaves (build_debian.sh, sonic_debian_extension.j2), as far as
# our packages and the tests touch it: Python from Debian, and of Debian's Python packages none that we use. The
# host's own click, jinja2, tabulate, PyYAML ... come by pip with sonic-utilities, pinned for it, and may be missing
# or too old for us; so the root has none of them. A switch reaches no archive: `dpkg -i` must find all that the package
# depends on. Differs from an image: Docker is Debian's (20.10 and 26.1; an image has docker-ce 24 to 28), and Redis,
# supervisor and busybox are there for the containers of tests, which have no image of their own to bring them.
PACKAGES = (
    "busybox-static",
    "dbus",
    "docker.io",
    "init-system-helpers",
    "iproute2",
    "monit",
    "procps",
    "python3",
    "redis-server",
    "socat",
    "sudo",
    "supervisor",
    "systemd-sysv",
)
# What a suite has in a package of its own.
MORE_PACKAGES = {"bookworm": (), "trixie": ("docker-cli",)}
# There is no hardware, no kernel of its own, no console and no login; Redis runs in a container, supervisord in others.
MASKED = (
    "console-getty.service",
    "dev-hugepages.mount",
    "getty@.service",
    "monit.service",
    "redis-server.service",
    "supervisor.service",
    "systemd-journald-audit.socket",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-udevd.service",
)
DOCKER_CONFIG = '{"iptables": false, "bridge": "none", "ip-forward": false}'
HOST_NAME = "switch1"
# Docker's own words are many and of no use here.
NOT_DOCKER = ("_COMM=systemd", "+", "_COMM=python3", "+", "_COMM=bash", "+", "_COMM=sh", "+", "_COMM=dash")


def missing_for_systemd() -> str:
    """What this machine lacks for a switch with systemd, in one sentence; empty when nothing."""
    for program in ("debootstrap", "dpkg-parsechangelog", "strip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"there is no {program}; `make engines` installs it"
    return "" if os.geteuid() == 0 else "namespaces with systemd must be made by root"


def base_root(suite: str = DEFAULT_SUITE) -> Path:
    """The Debian root every switch of a suite is an overlay of; made on first use, which takes a minute.

    `python -m tests.system.installed_switch` makes those of all suites ahead of the first test.
    """
    recipe = repr((suite, packages_of(suite), MASKED, DOCKER_CONFIG, HOST_NAME)).encode()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubesyncd"
    base = cache / f"switch-{suite}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f"switch-{suite}.lock"):
        if not base.exists():
            made = Path(tempfile.mkdtemp(prefix="switch-new-", dir=cache))
            _bootstrap(made / "root", suite)
            (made / "root").rename(base)
            shutil.rmtree(made)
    return base


def packages_of(suite: str) -> tuple[str, ...]:
    """The packages of a suite's root, besides those that Debian always installs."""
    return tuple(sorted((*PACKAGES, *MORE_PACKAGES[suite])))


def _bootstrap(root: Path, suite: str) -> None:
    command = [
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(packages_of(suite))}",
        suite,
        str(root),
    ]
    made = subprocess.run(command, capture_output=True, text=True, timeout=BOOTSTRAP_S, check=False)
    assert made.returncode == 0, f"debootstrap failed:\n{made.stdout[-2000:]}"
    (root / "etc/docker").mkdir(parents=True, exist_ok=True)
    (root / "etc/docker/daemon.json").write_text(DOCKER_CONFIG)
    (root / "etc/hostname").write_text(f"{HOST_NAME}\n")
    (root / "etc/machine-id").write_text("")
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    # As SONiC: an operator who may use Docker and Redis, by whose name most feature units run.
    for command in (
        ["useradd", "--create-home", "--groups", "docker,redis,sudo", "admin"],
        ["apt-get", "clean"],
    ):
        subprocess.run(["chroot", str(root), *command], check=True, capture_output=True, timeout=PATIENCE_S)


class CommandError(AssertionError):
    """A command inside the switch returned another code than 0."""


class InstalledSwitch:
    """One switch: `with InstalledSwitch() as switch`. `root`: its files, seen from outside while it runs."""

    def __init__(self, suite: str = DEFAULT_SUITE) -> None:
        self.suite = suite
        self.folder = disk_folder("ksw-")
        self._boot: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self._pid}/root")

    # ---- from power on to power off -------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def boot(self) -> None:
        """Power on; everything that starts at boot has when this returns."""
        command = [str(HERE / "boot-switch"), str(base_root(self.suite)), str(self.folder)]
        with (self.folder / "console").open("ab") as console:
            self._boot = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )
        self.wait_for(self._has_systemd, "systemd runs")
        self.wait_for(lambda: self.system_state() in ("running", "degraded"), "everything is started at boot")

    def system_state(self) -> str:
        """systemd's word for the whole: starting, running, degraded, stopping …; empty while it does not answer."""
        return self.process("systemctl", "is-system-running").stdout.strip()

    def power_off(self) -> None:
        """As an operator does: units are stopped in their order, then PID 1 ends."""
        if self._boot is None:
            return
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGRTMIN + 4)  # systemd(1): power off
        try:
            await_end(self._boot, PATIENCE_S)
        finally:
            self._boot, self._pid = None, 0

    def close(self) -> None:
        """Power off for good; nothing of it is left."""
        try:
            self.power_off()
        finally:
            for hierarchy in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
                _remove_groups(hierarchy / self.folder.name)
            remove(self.folder)

    def _has_systemd(self) -> bool:
        assert self._boot is not None
        assert self._boot.poll() is None, (self.folder / "console").read_text()
        children = Path(f"/proc/{self._boot.pid}/task/{self._boot.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):  # what prepares the root is short-lived
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    self._pid = int(child)
        return bool(self._pid)

    # ---- commands inside ------------------------------------------------------------------------

    def command(self, *arguments: str, user: str = "root") -> list[str]:
        """What to start outside so that `arguments` run inside."""
        enter = ["nsenter", "-t", str(self._pid), "-m", "-p", "-u", "-i", "-C", "-r", "-w"]
        clean = [
            "env",
            "-i",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
        ]
        become = [] if user == "root" else ["setpriv", f"--reuid={user}", "--regid", user, "--init-groups"]
        return [*enter, *clean, "LC_ALL=C.UTF-8", *become, *arguments]

    def process(
        self, *arguments: str, user: str = "root", stdin: bytes = b"", limit_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end."""
        return subprocess.run(
            self.command(*arguments, user=user),
            input=stdin.decode(),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def run(
        self, *arguments: str, user: str = "root", stdin: bytes = b"", limit_s: float = PATIENCE_S
    ) -> str:
        """What a command inside prints. Raises CommandError where it fails."""
        ended = self.process(*arguments, user=user, stdin=stdin, limit_s=limit_s)
        if ended.returncode != 0:
            said = f"{' '.join(arguments)}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
            raise CommandError(f"{said}\n{self.told()}" if arguments[0] == "systemctl" else said)
        return ended.stdout.strip()

    def code(self, *arguments: str, user: str = "root") -> int:
        """A command's exit code."""
        return self.process(*arguments, user=user).returncode

    def succeeds(self, *arguments: str, user: str = "root") -> bool:
        """Whether a command inside returns 0."""
        return self.code(*arguments, user=user) == 0

    def spawn(self, *arguments: str, user: str = "root") -> subprocess.Popen[str]:
        """Start a command inside and go on."""
        return subprocess.Popen(
            self.command(*arguments, user=user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, condition: Callable[[], object], what: str, limit_s: float = PATIENCE_S) -> None:
        """Return once `condition` holds; fail with what the switch says of itself when it does not in time."""
        # Each question is a process.
        until(condition, what, limit_s, 0.1, self.told)

    def told(self) -> str:
        """What an operator would look at first."""
        looks = (
            ("systemctl", "--failed", "--no-pager"),
            ("journalctl", "--no-pager", "-n", "80", "-o", "short-monotonic", *NOT_DOCKER),
            ("docker", "ps", "-a"),
        )
        if not self._pid:
            return (self.folder / "console").read_text()
        return "\n".join(self.process(*look).stdout for look in looks)

    # ---- files ----------------------------------------------------------------------------------

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file inside; folders are made."""
        inside = self.root / path.lstrip("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_text(text)
        inside.chmod(mode)

    def read(self, path: str) -> str:
        """What a file inside says."""
        return (self.root / path.lstrip("/")).read_text()

    def show(self, unit: str, what: str) -> str:
        """A unit's property."""
        return self.run("systemctl", "show", unit, f"--property={what}", "--value")


def _remove_groups(group: Path) -> None:
    """A control group can only be removed once those below it are."""
    if not group.is_dir():
        return
    for below in group.iterdir():
        _remove_groups(below)
    with contextlib.suppress(OSError):
        group.rmdir()


if __name__ == "__main__":
    for each in SUITES:
        print(base_root(each))
