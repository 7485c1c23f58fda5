"""Pass valid inputs, mutated byte by byte, to every reader of foreign bytes.

`make fuzz` runs long; `make test-deep` and `make test` run a share. A reader may return something or raise what it says
it raises, within a second and in bounded memory; anything else is a finding, told with the bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import gzip
import importlib
import io
import itertools
import json
import resource
import ssl
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from kubesyncd import settings
from kubesyncd.adapters import (
    docker_events,
    docker_inspect,
    kube_credential,
    kube_watch,
    redis_client,
    redis_place,
)
from kubesyncd.adapters.db_schema import HLD, SONIC
from kubesyncd.api import peer
from kubesyncd.cli.rules import daemonset, daemonset_lint
from kubesyncd.cluster import queue_file
from kubesyncd.core import label_queue, protocol
from kubesyncd.core.fallback_history import FallbackHistory
from kubesyncd.core.labels import Change
from kubesyncd.core.model import FeatureConfig, Owner
from kubesyncd.core.parse import parse_master_config
from kubesyncd.core.saved_features import Saved
from kubesyncd.features.ledger import LOST, Ledger
from kubesyncd.images import store
from kubesyncd.join import credential, plan, progress
from kubesyncd.ports import Refused, Unavailable
from kubesyncd.reboot import hold
from kubesyncd.runtime import fallback_file, feature_table_file, x509, yaml_reader
from kubesyncd.runtime.codec import Undecodable
from kubesyncd.runtime.kube_names import KubeNames
from kubesyncd.services import catalog, definition, installed, package_archive
from tests.paths import CLIENTS
from tests.sim.plain import PlainDisk, PlainFile
from tests.unit.core.given import KUBE, granted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLOW_S = 1.0
PIN = f"sha256:{'0' * 64}"
# What a reader may leave behind in memory, once it has seen a good share of its inputs.
LEFT_BYTES_MAX = 5 << 20
# What it may need besides while it reads.
PEAK_BYTES_MAX = 64 << 20
INPUT_BYTES_MAX = 1 << 16
SPICES = (
    b"", b"\0", b"\n", b"\r\n", b"\xff", b"\xc3", b"\xed\xa0\x80", b"-1", b"1e999", b"NaN", b"9" * 5000, b"9" * 400,
    b"../", b"|", b"[" * 500, b"{" * 500, b'"', b"'", b"\\", b"%s", b"{}", b"null", b"true", b"\x1b[2J",
    "１".encode(), b" " * 300,
    b"-----BEGIN CERTIFICATE-----", b"&a [*a]", b"!!python/object/apply:os.system [id]", b"\x80\xff\xff\xff\xff",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One reader. `may_raise`: what it says it raises. `weight`: how often, compared to the others."""

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    may_raise: tuple[type[BaseException], ...] = ()
    weight: int = 1


class Finding(AssertionError):
    """A reader has broken its word."""


def mutated(rng: Random, seeds: tuple[bytes, ...]) -> bytes:
    """A seed after one to six mutations."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(data) + 1)
        stroke = rng.randrange(7)
        if stroke == 0:
            data[at:at] = rng.choice(SPICES)
        elif stroke == 1:
            del data[at : at + rng.choice((1, 1, 2, 8, 64))]
        elif stroke == 2:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif stroke == 3 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif stroke == 4:
            del data[at:]
        elif stroke == 5:
            other = rng.choice(seeds)
            data[at:at] = other[rng.randrange(len(other) + 1) :]
        else:
            data[at:at] = data[at : at + rng.choice((1, 16, 256))] * rng.choice((1, 2, 50))
    return bytes(data[:INPUT_BYTES_MAX])


def tried(target: Target, data: bytes) -> None:
    """One input. Raises Finding."""
    begun = time.thread_time()
    try:
        target.read(data)
    except target.may_raise:
        pass
    except Exception as error:
        raise Finding(f"{target.name} raises {error!r} on {data!r}") from error
    took_s = time.thread_time() - begun
    # By the thread's own time, and twice: a busy machine is not the reader's fault.
    if took_s > SLOW_S and target.weight:
        tried(Target(f"{target.name}, slow", target.seeds, target.read, target.may_raise, 0), data)
        if time.thread_time() - begun - took_s > SLOW_S:
            raise Finding(f"{target.name} takes {took_s:.1f} s on {data!r}")


def fuzz(inputs: int, seed: int) -> Iterator[tuple[str, int]]:
    """So many inputs in all, shared among the targets by weight; yields each target's name and count once done."""
    with tempfile.TemporaryDirectory() as folder, _only_new_garbage():
        every = targets(Path(folder))
        total = sum(target.weight for target in every)
        for target in every:
            rng = Random(f"{seed}/{target.name}")
            count = max(2, inputs * target.weight // total)
            with peak_watched(target):
                for data in target.seeds:
                    tried(target, data)
                _leaves_nothing(target, (mutated(rng, target.seeds) for _ in range(count)), count // 2)
            yield target.name, count


@contextmanager
def _only_new_garbage() -> Iterator[None]:
    """Each look at memory collects garbage first; what was there before need not be gone through each time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def peak_watched(target: Target) -> Iterator[None]:
    """Raises Finding where the process has needed too much memory for a moment, whatever it has left behind."""
    before = resident_bytes()
    # Forgets the process's peak so far, which an earlier reader may have set.
    Path("/proc/self/clear_refs").write_text("5")
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    if grown > PEAK_BYTES_MAX:
        raise Finding(f"{target.name} has needed {grown >> 20} MiB at once")


def _leaves_nothing(target: Target, inputs: Iterator[bytes], warm: int) -> None:
    """Try all of them; the first `warm` may fill caches. Raises Finding where memory grows on."""
    for data in itertools.islice(inputs, warm):
        tried(target, data)
    before = resident_bytes()
    for data in inputs:
        tried(target, data)
    grown = resident_bytes() - before
    if grown > LEFT_BYTES_MAX:
        raise Finding(f"{target.name} has left {grown >> 10} KiB behind")


def resident_bytes() -> int:
    """The process's memory after a garbage collection."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# ---- the readers --------------------------------------------------------------------------------


def targets(folder: Path) -> tuple[Target, ...]:
    """Every reader of bytes from outside."""
    return (
        Target("a request", _requests(), protocol.decode_request, (protocol.BadRequest,), 25),
        Target("a reply", _replies(), protocol.decode_reply, (protocol.BadRequest,), 10),
        Target("a reply, by the client", _replies(), _client_hears, (), 10),
        Target("CONFIG_DB and STATE_DB rows", _rows(), _read_rows, (), 20),
        Target("the label queue's file", _label_files(), queue_file.decode, (), 10),
        Target("the ledger", (_ledger_file(),), _read_ledger, (), 4),
        Target("the ledger, by the client", (_ledger_file(),), _client_reader(folder), (), 2),
        Target("a hold", _hold_files(), hold.decode, (), 2),
        Target("the image shelf", _shelf_files(), store.decode, (Undecodable,), 2),
        Target("what join knows", _membership_files(), plan.decode_membership, (), 2),
        Target("how far join has come", _progress_files(), progress.decode, (), 2),
        Target("the saved FEATURE table", _saved_tables(), feature_table_file.decode, (Undecodable,), 2),
        Target("the history of fallback", _fallbacks(), fallback_file.decode, (Undecodable,), 1),
        Target("an installed service's manifest", _installed(), _read_installed, (Undecodable,), 2),
        Target("an admin.conf", _admin_confs(), _read_admin_conf, (Refused,), 2),
        Target("a manifest to check", _manifests(), _check_manifest, (ValueError,), 1),
        Target("the settings file", _settings_files(), _read_settings, (settings.SettingsError,), 5),
        Target("a /proc/<pid>/cgroup", _cgroups(), _read_cgroup, (ValueError,), 10),
        Target("a Docker event", _events(), docker_events.parse_event, (Unavailable,), 10),
        Target("a docker inspect", _inspects(), _read_inspect, (Unavailable,), 5),
        Target(
            "a watch event",
            _watch_events(),
            lambda data: kube_watch.decode_event(kube_watch.NodeLabels(None, "", "1"), data),
            (Unavailable,),
            5,
        ),
        Target("a kubeconfig", _kubeconfigs(), _kubeconfig_reader(folder), (Unavailable,), 1),
        Target("a certificate", _certificates(), x509.life, (ValueError,), 4),
        Target("a master's CAs", _certificates(), partial(x509.pinned, pin=PIN), (ValueError,), 1),
        Target(
            "SONiC's database_config.json", _database_configs(), _database_reader(folder), (Unavailable,), 2
        ),
        Target("package metadata", _metadata(), catalog.parse, (catalog.Unusable,), 4),
        Target("a package archive", _archives(), package_archive.read_files, (catalog.Unusable,), 4),
        Target("a service's description", _services(), definition.parse, (definition.InvalidService,), 1),
    )


def _requests() -> tuple[bytes, ...]:
    words = (
        ["start", "snmp"],
        ["stop", "snmp", "10"],
        ["state", "snmp", "up", "kube"],
        ["label", "a=b", "c-"],
    )
    return tuple(protocol.encode_request(list(w)) for w in words)


def _replies() -> tuple[bytes, ...]:
    return (
        protocol.out("a\nb") + protocol.err("c") + protocol.status("d") + protocol.result(0),
        protocol.result(255),
    )


def _client() -> Any:
    """The clients' own code, with an empty environment: without systemd and without a daemon."""
    sys.path.insert(0, str(CLIENTS))
    try:
        client = importlib.import_module("client")
    finally:
        sys.path.remove(str(CLIENTS))
    client.posix = SimpleNamespace(environ={})
    client.say = lambda _stream, line: line.decode(errors="replace")
    return client


CLIENT = _client()


class _Reply:
    """A socket from which these bytes come, in some pieces, and then the end."""

    def __init__(self, data: bytes) -> None:
        size = max(1, len(data) // 5)
        self._pieces = [data[at : at + size] for at in range(0, len(data), size)][::-1]

    def settimeout(self, _: float) -> None:
        return

    def sendall(self, _: bytes) -> None:
        return

    def recv(self, _: int) -> bytes:
        return self._pieces.pop() if self._pieces else b""


def _client_hears(data: bytes) -> None:
    """It may pass over what the daemon would never say, but a code is the same to both."""
    code, heard, _ = CLIENT.converse(_Reply(data), ["id", "snmp"], float("inf"), len)
    assert heard
    assert code is None or 0 <= code <= 255, code
    try:
        _, expected = protocol.decode_reply(data)
    except protocol.BadRequest:
        return
    assert code == expected, (code, expected)


def _client_reader(folder: Path) -> Callable[[bytes], object]:
    path = folder / "features.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        CLIENT.LEDGER = bytes(path)
        with suppress(CLIENT.LostError):
            config, record = CLIENT.remembered("snmp")
            assert isinstance(config, dict)
            assert isinstance(record, dict)
        CLIENT.granted("snmp")
        try:
            CLIENT.only_if_local("snmp")
        except CLIENT.AbsentError:
            return

    return read


def _rows() -> tuple[bytes, ...]:
    hld = {
        "set_owner": "kube", "fallback_to_local": "true", "kube_failure_detection": "5", "failure_policy": "rollback",
        "system_state": "up", "current_owner": "kube", "transition_mode": "kube_ready", "docker_id": KUBE,
        "current_owner_update_ts": "1790000000", "failure": "no kube container has run for 5 min",
    }  # fmt: skip
    sonic = {
        "set_owner": "kube", "no_fallback_to_local": "false", "remote_fail_detection": "5", "container_id": KUBE[:12],
        "remote_state": "running", "update_time": "2026-01-31 23:59:59", "has_per_asic_scope": "False",
    }  # fmt: skip
    master = {"IP": "10.0.0.1", "port": "6443", "insecure": "true", "disable": "False"}
    return tuple("\0".join(f"{k}\0{v}" for k, v in row.items()).encode() for row in (hld, sonic, master))


def _read_rows(data: bytes) -> None:
    """As RedisStore reads them: raw names and values, through both spellings."""
    parts = data.split(b"\0")
    stored = dict(zip(parts[::2], parts[1::2], strict=False))
    problems: list[str] = []
    for schema in (HLD, SONIC):
        config = schema.decode_config(redis_client.texts_of(stored, schema.config_names, problems), problems)
        row = schema.decode_row(redis_client.texts_of(stored, schema.row_names, problems), problems)
        assert isinstance(config, FeatureConfig)
        schema.encode_row("snmp", row)
    master = parse_master_config(redis_client.texts_of(stored, redis_client.MASTER_NAMES, problems))
    for problem in (*problems, *master.problems):
        assert problem.isprintable(), problem
        assert len(problem) < 300, problem


def _label_files() -> tuple[bytes, ...]:
    queue = label_queue.Queue().append(
        [Change("snmp_enabled", "true"), Change("rack", None), Change("rack", "a")]
    )
    applied = queue.acknowledge(queue.fold().only("rack"))
    return (queue_file.encode(queue), queue_file.encode(applied.fail(applied.fold())))


def _ledger_file() -> bytes:
    file = PlainFile(b"")
    asyncio.run(
        Ledger(PlainDisk(file), "boot").save(
            "snmp", granted(asked=None), FeatureConfig(Owner.KUBE, fallback=True)
        )
    )
    assert file.data is not None
    return file.data


def _read_ledger(data: bytes) -> None:
    ledger = Ledger(PlainDisk(PlainFile(data)), "boot")
    problem = ledger.load()
    assert problem.isprintable()
    assert len(problem.removesuffix(LOST)) < 200


def _hold_files() -> tuple[bytes, ...]:
    return (hold.encode(hold.PreparedReboot("warm", "boot", ("snmp", "lldp"))), b"")


def _shelf_files() -> tuple[bytes, ...]:
    entry = {
        "known": [f"sha256:{KUBE}"],
        "local": "snmp:latest",
        "failed": "",
        "failed_newest": "",
        "failure": "",
    }
    return (json.dumps({"version": store.VERSION, "features": {"snmp": entry}}).encode(),)


def _membership_files() -> tuple[bytes, ...]:
    member = plan.Membership(plan.Standing.JOINED, "10.0.0.1", 6443, "switch1", "token", 1790000000)
    return (plan.encode_membership(member),)


def _progress_files() -> tuple[bytes, ...]:
    steps = (progress.StepReport(plan.JobStep.JOIN, ok=False, took_s=1.5, detail="x"),)
    made = progress.Progress(
        plan.Job.JOIN, "10.0.0.1:6443", False, 1.5, progress.JobPhase.FAILED, steps=steps
    )
    return (progress.encode(made), progress.encode(replace(made, ended_at=2.5, step=plan.JobStep.JOIN)))


def _saved_tables() -> tuple[bytes, ...]:
    rows = {"snmp": {"set_owner": "kube", "fallback_to_local": "true"}}
    return (feature_table_file.encode(Saved(rows, 1790000000.0, armed=True)),)


def _fallbacks() -> tuple[bytes, ...]:
    return (fallback_file.encode(FallbackHistory(frozenset({"snmp"}), frozenset({"lldp", "bgp"}))),)


def _installed() -> tuple[bytes, ...]:
    package = installed.PackageOrigin("1.0", KUBE)
    before = installed.Manifest("tap", files={"/etc/tap": KUBE}, folders=("/etc",), package=package)
    return (installed.encode(replace(before, phase=installed.InstallPhase.INSTALLING, previous=before)),)


def _read_installed(data: bytes) -> object:
    return installed._manifest("tap", data)


def _admin_confs() -> tuple[bytes, ...]:
    return (
        b"""apiVersion: v1
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443", certificate-authority-data: YQ==}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
users: [{name: u, user: {token: abc}}]
""",
    )


def _read_admin_conf(data: bytes) -> object:
    return credential.for_master(data, "10.0.0.1:6443", None, "", "it")


def _manifests() -> tuple[bytes, ...]:
    made = daemonset.daemonset("snmp", daemonset.Local("registry/snmp:1", binds=("/a:/b:ro",)))
    return (
        json.dumps(made).encode(),
        b"kind: DaemonSet\nspec: {template: {spec: {containers: [{name: snmp}]}}}\n",
    )


def _check_manifest(data: bytes) -> object:
    return daemonset_lint.check([yaml_reader.parse(data)])


def _settings_files() -> tuple[bytes, ...]:
    return (
        b'[redis]\nurl = "unix:///r"\n[timing]\naudit_s = 5\n[systemd]\nsystemctl = ["a", "b"]\n',
        b"[log]\n",
    )


def _read_settings(data: bytes) -> None:
    settings.decode(data, "kubesyncd.toml").valid()


def _cgroups() -> tuple[bytes, ...]:
    return (
        f"0::/system.slice/docker-{KUBE}.scope\n".encode(),
        f"12:pids:/docker/{KUBE}\n11:cpu,cpuacct:/docker/{KUBE}\n1:name=systemd:/docker/{KUBE}\n".encode(),
        f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{KUBE}.scope (deleted)\n".encode(),
    )


def _read_cgroup(data: bytes) -> None:
    text = data.decode(errors="replace")
    found = peer.container_of(text, "0::/system.slice/kubesyncd.service\n")
    assert found is None or len(found) == 64
    peer.start_ticks(text)


def _events() -> tuple[bytes, ...]:
    attributes = {"name": "snmp", "exitCode": "0", "image": "busybox", "io.kubernetes.container.name": "snmp"}
    event = {
        "Type": "container",
        "Action": "die",
        "Actor": {"ID": KUBE, "Attributes": attributes},
        "timeNano": 10**18,
    }
    return (json.dumps(event).encode(), json.dumps({**event, "Action": "rename"}).encode())


def _inspects() -> tuple[bytes, ...]:
    state = {"Running": True, "ExitCode": 0, "StartedAt": "2026-01-01T00:00:00.12Z", "Health": None}
    config = {"Labels": {"io.kubernetes.container.name": "snmp"}, "Image": "busybox"}
    return (
        json.dumps(
            {"Id": KUBE, "Name": "/snmp", "State": state, "Config": config, "Image": "sha256:1"}
        ).encode(),
    )


def _read_inspect(data: bytes) -> None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return
    described = docker_inspect.describe(found)
    docker_inspect.whose(described.name, described.labels, ("sonic",), KubeNames().feature_of)


def _watch_events() -> tuple[bytes, ...]:
    node = {"metadata": {"resourceVersion": "7", "labels": {"snmp_enabled": "true"}}}
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
    return tuple(json.dumps(event).encode() for event in ({"type": "MODIFIED", "object": node}, gone))


def _kubeconfigs() -> tuple[bytes, ...]:
    return (
        b"""apiVersion: v1
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443", certificate-authority-data: YQ==}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
users: [{name: u, user: {client-certificate: client.pem, client-key: client.pem}}]
""",
    )


def _kubeconfig_reader(folder: Path) -> Callable[[bytes], object]:
    path = folder / "kubelet.conf"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        kube_credential.known_life(path)
        kube_credential.tls_context(path, kube_credential.read(path), insecure=False)

    return read


def _certificates() -> tuple[bytes, ...]:
    """A certificate's shape, DER in PEM; what is signed and how does not matter to who reads its end."""
    utc = b"\x17\x0d260101000000Z"
    inner = b"\x02\x01\x01" + b"\x30\x00" * 2 + b"\x30\x1e" + utc * 2 + b"\x30\x00"
    der = b"\x30" + bytes([len(inner) + 2]) + b"\x30" + bytes([len(inner)]) + inner
    return (ssl.DER_cert_to_PEM_cert(der).encode(),)


def _database_configs() -> tuple[bytes, ...]:
    content = {
        "INSTANCES": {"redis": {"unix_socket_path": "/var/run/redis/redis.sock", "port": 6379}},
        "DATABASES": {
            "CONFIG_DB": {"id": 4, "instance": "redis"},
            "STATE_DB": {"id": 6, "instance": "redis"},
        },
    }
    return (json.dumps(content).encode(),)


def _database_reader(folder: Path) -> Callable[[bytes], object]:
    path = folder / "database_config.json"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return redis_place.locate(settings.RedisSettings(database_config=str(path)))

    return read


def _metadata() -> tuple[bytes, ...]:
    package = {
        "name": "snmp",
        "version": "1.0",
        "archive": "snmp.tar.gz",
        "sha256": KUBE,
        "nodes": {"hwsku": ["a"]},
    }
    return (json.dumps({"format": 1, "serial": 3, "packages": [package, package]}).encode(),)


def _archives() -> tuple[bytes, ...]:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in (("service.yaml", b"name: snmp\n"), ("bin/probe", b"#!/bin/sh\n")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return (gzip.compress(made.getvalue(), mtime=0), gzip.compress(b"", mtime=0))


def _services() -> tuple[bytes, ...]:
    return (b"name: snmp\nrequires: [database, swss]\ndescription: an agent\n", b"name: lldp\n")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.fuzz", description="Mutated inputs for every reader."
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(argv)
    begun = time.monotonic()
    for name, count in fuzz(chosen.inputs, chosen.seed):
        print(f"{count:10} {name}  ({time.monotonic() - begun:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
