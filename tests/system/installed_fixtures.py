"""Give tests installed switches, and the features that run on them.

`installed` has kubesyncd and kubesyncd-kube from the packages just built, `database` (which is Redis) and the local
feature `snmp`, with units and scripts as SONiC writes them; it is shared, and a test leaves it as it found it.
`bare_switches()` boots one of its own for a test that changes what is installed. A test runs on the default suite's
root, or on each by `@on_every_suite`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import pytest

from tests.system.installed_switch import (
    DEFAULT_SUITE,
    PATIENCE_S,
    ROOT,
    SUITES,
    InstalledSwitch,
    base_root,
    missing_for_systemd,
)
from tests.workers import once_per_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUILD_S = 600.0
IMAGE = "switch:lab"
SETTINGS = "/etc/kubesyncd/kubesyncd.toml"

# A feature's unit: as files/build_templates of SONiC have it, but for the pause, which is 30 s there.
UNIT = """[Unit]
Description={name} container
Requires=docker.service
After=docker.service {after}
StartLimitIntervalSec=1200
StartLimitBurst=3

[Service]
User={user}
ExecStartPre=/usr/local/bin/{name}.sh start
ExecStart=/usr/local/bin/{name}.sh wait
ExecStop=/usr/local/bin/{name}.sh stop
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""

# As SONiC's service_mgmt.sh: the unit's own program, which calls the feature's script and stays while it waits.
SERVICE = """#!/bin/bash
start() {{ /usr/bin/{name}.sh start; }}
wait() {{ /usr/bin/{name}.sh wait; }}
stop() {{ /usr/bin/{name}.sh stop; }}
case $1 in start|wait|stop) $1 ;; *) echo "usage: $0 start|wait|stop" ; exit 1 ;; esac
"""

# What is left of docker_image_ctl.j2 once everything that is a feature's own is taken away.
SCRIPT = """#!/bin/bash
CONTAINER={container}
start() {{
    docker inspect --type container {name} >/dev/null 2>&1 || docker create --name {name} --net=host \
        -e RUNTIME_OWNER=local -v /run/kubesyncd/container:/run/kubesyncd/container {create}
    "$CONTAINER" start {name}
}}
wait() {{
    exec "$CONTAINER" wait {name}
}}
stop() {{
    "$CONTAINER" stop {name}
}}
kill() {{
    "$CONTAINER" kill {name}
}}
case $1 in start|wait|stop|kill) $1 ;; *) echo "usage: $0 start|wait|stop|kill" ; exit 1 ;; esac
"""
# Where scripts find us: by docs/sonic.md, or as those of today's images do.
IN_PATH, BY_FULL_PATH = "$(command -v container || command -v docker)", "/usr/local/bin/container"
# What runs in a feature's container: ends politely, as supervisord does.
PROGRAM = "#!/bin/sh\ntrap 'exit 0' TERM\nsleep 1000000 &\nwait\n"
DEBIAN_INSIDE = "-v /usr:/usr:ro -v /etc:/etc:ro"
DATABASE = (
    f"{DEBIAN_INSIDE} -v /run/redis:/run/redis --user $(id -u redis):$(id -g redis) "
    f"{IMAGE} redis-server /etc/redis.lab"
)
REDIS = "unixsocket /run/redis/redis.sock\nunixsocketperm 760\nport 0\ndatabases 16\nsave ''\ndir /tmp\n"


@dataclass(frozen=True, slots=True)
class Packages:
    """Our two packages of one version."""

    daemon: Path
    kube: Path


class Builder:
    """Builds both packages of a suite and an architecture, once per run; with a version, the same ones of that version.

    Without an architecture it is this machine's.
    """

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._built: dict[tuple[str, str, str], Packages] = {}

    def __call__(self, version: str, suite: str, arch: str = "") -> Packages:
        arch = arch or native_architecture()
        key = (version, suite, arch)
        if key not in self._built:
            self._built[key] = self._made(version, suite, arch)
        return self._built[key]

    def _made(self, version: str, suite: str, arch: str) -> Packages:
        if version:
            return renumber(self("", suite, arch), self._factory.mktemp("deb"), version)
        build = partial(build_packages, suite=suite, arch=arch)
        return once_per_run(self._factory, f"deb-{suite}-{arch}", build, found_packages)


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Our packages of each suite and architecture."""
    return Builder(tmp_path_factory)


def build_packages(folder: Path, suite: str = DEFAULT_SUITE, arch: str = "") -> Packages:
    """Build both packages into `folder`."""
    native = native_architecture()
    arch = arch or native
    command = [str(ROOT / "packaging/build-deb"), str(folder)]
    environ = {**os.environ, "PYTHON": sys.executable, "SUITE": suite, "DEB_ARCH": arch}
    if arch == native and not missing_for_systemd():
        # The suite's own Python loads what is built for it.
        environ["CHROOT"] = str(base_root(suite))
    made = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=BUILD_S, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return found_packages(folder)


@cache
def native_architecture() -> str:
    """Debian's name of this machine's architecture."""
    command = ["dpkg", "--print-architecture"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=180).stdout.strip()


def found_packages(folder: Path) -> Packages:
    """The packages that have been built into `folder`."""
    (daemon,), (kube,) = folder.glob("kubesyncd_*.deb"), folder.glob("kubesyncd-kube_*.deb")
    return Packages(daemon, kube)


def renumber(packages: Packages, folder: Path, version: str) -> Packages:
    """The same content as packages of another version."""
    made = []
    for package in (packages.daemon, packages.kube):
        content = folder / package.stem
        subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(content)], check=True, timeout=BUILD_S)
        control = content / "DEBIAN/control"
        control.write_text(
            re.sub(r"(?m)^Version: .*|(?<=kubesyncd \(= )[^)]*", _as(version), control.read_text())
        )
        made.append(folder / package.name)
        command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(content), str(made[-1])]
        subprocess.run(command, check=True, capture_output=True, timeout=BUILD_S)
    return Packages(*made)


def _as(version: str) -> Callable[[re.Match[str]], str]:
    return lambda found: f"Version: {version}" if found[0].startswith("Version") else version


# The tests that also run on the other root; all others run on the default one.
on_every_suite = pytest.mark.parametrize("suite", SUITES, indirect=True)


@pytest.fixture
def suite(request: pytest.FixtureRequest) -> str:
    """The Debian suite of the test's switches: the default one, or each by `@on_every_suite`."""
    return str(getattr(request, "param", DEFAULT_SUITE))


@pytest.fixture
def packages(builder: Builder, suite: str) -> Callable[[str], Packages]:
    """`packages("")`: both packages for the test's suite; `packages(version)`: the same ones with another version."""
    return partial(builder, suite=suite)


@pytest.fixture
def bare_switches(suite: str) -> Iterator[Callable[[], InstalledSwitch]]:
    """`bare_switches()` boots a switch with database, but without our packages."""
    with ExitStack() as stack:

        def boot() -> InstalledSwitch:
            switch = stack.enter_context(InstalledSwitch(suite))
            furnish(switch)
            return switch

        yield boot


@pytest.fixture(scope="session")
def shared_switches(builder: Builder) -> Iterator[Callable[[str], InstalledSwitch]]:
    """The shared switch of each suite that a test has asked for."""
    with ExitStack() as stack:
        booted: dict[str, InstalledSwitch] = {}

        def shared(suite: str) -> InstalledSwitch:
            if suite not in booted:
                booted[suite] = stack.enter_context(InstalledSwitch(suite))
                prepare(booted[suite], builder("", suite))
            return booted[suite]

        yield shared


@pytest.fixture
def installed(suite: str, shared_switches: Callable[[str], InstalledSwitch]) -> InstalledSwitch:
    """The shared switch; see above."""
    return shared_switches(suite)


def prepare(switch: InstalledSwitch, packages: Packages) -> None:
    """What the shared switch has."""
    furnish(switch)
    install(switch, packages)
    # A test's short-lived kube containers must not put off the next test's hand-over.
    settings = switch.read(SETTINGS).replace(
        "[timing]", "[timing]\nkube_stable_s = 0.5\nhandover_delay_s = 0.5", 1
    )
    switch.write(SETTINGS, settings)
    switch.run("systemctl", "restart", "kubesyncd")
    add_feature(switch, "snmp")


def furnish(switch: InstalledSwitch) -> None:
    """An image, and the feature `database`: a Redis whose socket belongs to the group redis, as SONiC's does."""
    import_image(switch)
    switch.write("/usr/bin/lab-feature", PROGRAM, mode=0o755)
    switch.write("/etc/redis.lab", REDIS)
    switch.run("install", "-d", "-o", "redis", "-g", "redis", "/run/redis")
    switch.write("/etc/tmpfiles.d/redis-lab.conf", "d /run/redis 0755 redis redis\n")
    add_feature(switch, "database", create=DATABASE, user="root")
    switch.wait_for(lambda: redis(switch, 4, "ping") == "PONG", "Redis answers")
    redis(switch, 4, "set", "CONFIG_DB_INITIALIZED", "1")


def import_image(switch: InstalledSwitch) -> None:
    """A static busybox for what has no folder of the host mounted, and the links of a merged /usr for what has."""
    image = switch.folder / "image"
    for folder in ("usr/bin", "usr/lib", "usr/lib64", "etc", "run", "tmp", "var", "proc", "sys", "dev"):
        (image / folder).mkdir(parents=True)
    for link in ("bin", "lib", "lib64"):
        (image / link).symlink_to(f"usr/{link}")
    shutil.copy(switch.root / "usr/bin/busybox", image / "usr/bin/busybox")
    for program in switch.run("busybox", "--list").split():
        if program != "busybox":
            (image / "usr/bin" / program).symlink_to("busybox")
    (image / "tmp").chmod(0o1777)
    command = ["tar", "-C", str(image), "-c", "."]
    packed = subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    command = switch.command("docker", "import", "-", IMAGE)
    subprocess.run(command, input=packed.stdout, check=True, capture_output=True, timeout=PATIENCE_S)


def install(switch: InstalledSwitch, packages: Packages) -> None:
    """dpkg -i both packages."""
    install_files(switch, packages.daemon, packages.kube)


def install_files(switch: InstalledSwitch, *packages: Path) -> None:
    """dpkg -i some packages' files."""
    for package in packages:
        switch.write(f"/var/tmp/{package.name}", "")
        (switch.root / "var/tmp" / package.name).write_bytes(package.read_bytes())
    files = (f"/var/tmp/{package.name}" for package in packages)
    switch.run("dpkg", "--force-downgrade", "-i", *files, limit_s=BUILD_S)


def add_feature(
    switch: InstalledSwitch,
    name: str,
    *,
    create: str = "",
    container: str = IN_PATH,
    user: str = "admin",
    start: bool = True,
    **row: str,
) -> None:
    """A feature's scripts and unit, its FEATURE row where fields are given, and its start."""
    after = "" if name == "database" else "database.service"
    create = create or f"{DEBIAN_INSIDE} {IMAGE} lab-feature"
    script = SCRIPT.format(name=name, create=create, container=container)
    switch.write(f"/usr/bin/{name}.sh", script, mode=0o755)
    switch.write(f"/usr/local/bin/{name}.sh", SERVICE.format(name=name), mode=0o755)
    switch.write(f"/etc/systemd/system/{name}.service", UNIT.format(name=name, user=user, after=after))
    if row:
        redis(switch, 4, "hset", f"FEATURE|{name}", *(word for item in row.items() for word in item))
    switch.run("systemctl", "daemon-reload")
    switch.run("systemctl", "enable", f"{name}.service")
    if start:
        switch.run("systemctl", "start", f"{name}.service")


def remove_feature(switch: InstalledSwitch, name: str) -> None:
    """Stop it, and leave nothing of it."""
    switch.run("systemctl", "disable", "--now", f"{name}.service")
    switch.process("docker", "rm", "-f", name)
    redis(switch, 4, "del", f"FEATURE|{name}")
    for file in (f"usr/bin/{name}.sh", f"usr/local/bin/{name}.sh", f"etc/systemd/system/{name}.service"):
        (switch.root / file).unlink()
    switch.run("systemctl", "daemon-reload")


def speak(switch: InstalledSwitch, settings: str) -> None:
    """Other settings, and no row from before: a daemon gives back what it misses there."""
    switch.run("systemctl", "stop", "snmp")
    switch.run("systemctl", "stop", "kubesyncd")
    redis(switch, 6, "del", *redis(switch, 6, "keys", "FEATURE|*").split())
    switch.write(SETTINGS, settings)
    switch.run("systemctl", "start", "kubesyncd")
    # A start by hand counts against the unit's limit of three in twenty minutes.
    switch.run("systemctl", "reset-failed", "snmp")
    switch.run("systemctl", "start", "snmp")


@pytest.fixture
def sonic_names(installed: InstalledSwitch) -> Iterator[InstalledSwitch]:
    """The shared switch, as it speaks SONiC's own field names."""
    before = installed.read(SETTINGS)
    speak(installed, before.replace('# names = "auto"', 'names = "sonic"'))
    yield installed
    speak(installed, before)


def redis(switch: InstalledSwitch, db: int, *command: str) -> str:
    """One Redis command; 4 is CONFIG_DB, 6 is STATE_DB. Empty as well while Redis does not answer."""
    return switch.process("redis-cli", "-s", "/run/redis/redis.sock", "-n", str(db), *command).stdout.strip()


def row(switch: InstalledSwitch, name: str) -> dict[str, str]:
    """A feature's row in STATE_DB."""
    words = redis(switch, 6, "hgetall", f"FEATURE|{name}").split("\n")
    return dict(zip(words[::2], words[1::2], strict=False))


def journal(switch: InstalledSwitch, unit: str) -> str:
    """All that a unit has printed until now; journald itself is a moment behind."""
    switch.run("journalctl", "--sync")
    return switch.run("journalctl", "-u", unit, "-o", "cat")


def running(switch: InstalledSwitch, name: str) -> bool:
    """Whether the local container runs, by Docker's word."""
    return switch.process("docker", "inspect", "-f", "{{.State.Running}}", name).stdout.strip() == "true"
