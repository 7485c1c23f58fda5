"""Read every file that version 0.1.0 stores, and write the same content.

tests/golden/stored holds the files as 0.1.0 has written them. A change of a stored format adds files here; the files of
an older version stay and are still read.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog

from kubesyncd.cluster import queue_file
from kubesyncd.core.fallback_history import FallbackHistory
from kubesyncd.core.model import FeatureConfig
from kubesyncd.core.record import Record
from kubesyncd.core.revision import UNTOLD
from kubesyncd.core.saved_features import Saved
from kubesyncd.features.ledger import Ledger
from kubesyncd.images import store
from kubesyncd.images.policy import ImageRecord
from kubesyncd.join import plan, progress
from kubesyncd.join.files import JoinFiles
from kubesyncd.join.plan import Job, JobStep, Membership, Standing
from kubesyncd.join.progress import Progress, StepReport
from kubesyncd.ports import Refused, Unavailable
from kubesyncd.reboot import hold
from kubesyncd.reboot.context_backup import MANIFEST, RESTORED, ContextBackup
from kubesyncd.reboot.hold import PreparedReboot
from kubesyncd.runtime import fallback_file, feature_table_file
from kubesyncd.runtime.state_files import StateFile
from kubesyncd.services import installed
from kubesyncd.services.catalog_source import CatalogSource
from kubesyncd.services.installed import InstallPhase, Manifest, PackageOrigin
from kubesyncd.settings import PathsSettings, Settings
from tests.paths import ROOT
from tests.sim.plain import PlainDisk, PlainFile
from tests.unit.core.given import HISTORY, ROLLBACK, full

if TYPE_CHECKING:
    from pathlib import Path

STORED = ROOT / "tests" / "golden" / "stored"
KUBE, LOCAL = "c3a1" * 16, "17de" * 16
# The fields of a record that 0.1.0 did not store, and their values then.
LATER: dict[str, Any] = {
    "no_way_back": False,
    "local_image": "",
    "unstartable": None,
    "unstartable_until": None,
    "unpause": False,
    "gates": (),
    "start": None,
    "unverified": None,
    "local_back": False,
    "revision": UNTOLD,
    "unconfirmed": False,
    "version": "",
}
FULL = full(KUBE, LOCAL)
RECORD = replace(FULL, health=replace(FULL.health, ends=(), pods=(), looping=""), **LATER)
ALWAYS_LOCAL = FeatureConfig(local_only=True, always_local=True)
IMAGES = ImageRecord(
    "docker-snmp:latest",
    (f"sha256:{LOCAL}", f"sha256:{KUBE}"),
    f"sha256:{KUBE}",
    "2026-01-30T00:00:00Z",
    "no kube container has run for 5 min",
)
TAP = Manifest(
    "tap",
    InstallPhase.INSTALLING,
    files={"/usr/lib/systemd/system/tap.service": "1" * 64, "/usr/local/bin/tap.sh": "2" * 64},
    folders=("/usr/local/tap", "/usr/local/tap/bin"),
    row_before={"state": "disabled"},
    row={"state": "enabled", "set_owner": "kube"},
    enabled_before=True,
    package=PackageOrigin("2.0", "cd" * 32),
    row_now={"state": "enabled"},
    previous=Manifest(
        "tap",
        files={"/usr/lib/systemd/system/tap.service": "0" * 64},
        row={"state": "enabled"},
        package=PackageOrigin("1.0", "ab" * 32),
    ),
)
PROBE = Manifest("probe", row={"state": "enabled"})
JOINING = Progress(
    Job.JOIN,
    "10.0.0.1:6443",
    force=True,
    begun_at=7.5,
    phase=progress.JobPhase.FAILED,
    steps=(
        StepReport(JobStep.FETCH, ok=True, took_s=0.25, detail="from https://10.0.0.1/admin.conf"),
        StepReport(JobStep.ASK, ok=False, took_s=10.0, detail="no answer"),
    ),
    left_over=("the node",),
    why="ask the master: no answer",
    ended_at=19.0,
)
RESETTING = Progress(Job.RESET, "", force=False, begun_at=7.5, step=JobStep.STOP)
MEMBERSHIP = Membership(Standing.JOINED, "10.0.0.1", 6443, "switch1", "token", 1790000000)


def stored(name: str) -> bytes:
    return (STORED / name).read_bytes()


def assert_same(written: bytes | None, name: str) -> None:
    """The content is the same to the byte, but for the line end that some files of 0.1.0 lack."""
    assert written is not None
    assert written.rstrip(b"\n") == stored(name).rstrip(b"\n")


@pytest.mark.parametrize("name", ["features.json", "features.now.json"])
def test_the_ledger(name: str) -> None:
    """`features.json` is what 0.1.0 wrote first, before fields were added; `features.now.json` has them all."""
    ledger = Ledger(PlainDisk(PlainFile(stored(name))), "boot-1")
    assert ledger.load() == ""
    assert ledger.records == {"database": Record(), "snmp": RECORD}
    assert ledger.configs == {"database": ALWAYS_LOCAL, "snmp": ROLLBACK}
    assert ledger.histories == {"database": (), "snmp": HISTORY}
    assert ledger.config_loaded
    file = PlainFile()
    written = Ledger(PlainDisk(file), "boot-1")
    written.config_loaded = True
    asyncio.run(written.save("snmp", RECORD, ROLLBACK, HISTORY))
    asyncio.run(written.save("database", Record(), ALWAYS_LOCAL))
    assert_same(file.data, "features.now.json")


def test_the_ledger_is_written_again_as_it_was_read() -> None:
    file = PlainFile(stored("features.now.json"))
    ledger = Ledger(PlainDisk(file), "boot-1")
    ledger.load()
    asyncio.run(ledger.save("snmp", RECORD, ROLLBACK, HISTORY))
    assert file.data == stored("features.now.json"), "nothing has changed, so nothing is written"
    asyncio.run(ledger.write())
    assert_same(file.data, "features.now.json")


def test_the_label_queue() -> None:
    queue, problems = queue_file.decode(stored("labels.json"))
    assert problems == ()
    assert [str(change) for change in queue.changes] == [
        "snmp_enabled=true",
        "rack=a",
        "snmp_enabled=false",
        "old-",
    ]
    assert queue.applied == {"hwsku": "Force10-S6000", "lldp_enabled": None}
    assert queue.failed == {"snmp_enabled"}
    assert queue.wishes == {"rack": "a"}
    newer, problems = queue_file.decode(stored("labels-wishes.json"))
    assert problems == ()
    assert newer == replace(queue, wishes={"rack": "a", "row": "2"}, uid="5f3c")
    newest, problems = queue_file.decode(stored("labels-store.json"))
    assert problems == ()
    assert newest == replace(newer, version=48213)
    assert_same(queue_file.encode(newest), "labels-store.json")


def test_the_copy_of_the_feature_table() -> None:
    rows = {"snmp": {"set_owner": "kube", "fallback_to_local": "true"}, "lldp": {"state": "enabled"}}
    saved = feature_table_file.decode(stored("feature-table.json"))
    assert saved == Saved(rows, 1790000000.5)
    assert_same(feature_table_file.encode(saved), "feature-table.json")


def test_the_history_of_fallback() -> None:
    history = fallback_file.decode(stored("fallback.json"))
    assert history == FallbackHistory(frozenset({"lldp"}), frozenset({"bgp", "snmp"}))
    assert_same(fallback_file.encode(history), "fallback.json")


def test_the_manifests_of_installed_services(tmp_path: Path) -> None:
    for name in ("tap.json", "probe.json"):
        (tmp_path / name).write_bytes(stored(name))
    assert installed.read_manifests(tmp_path) == {"tap": TAP, "probe": PROBE}
    assert_same(installed.encode(TAP), "tap.json")
    assert_same(installed.encode(PROBE), "probe.json")


def test_the_newest_serial_of_the_package_server() -> None:
    file = PlainFile(stored("packages.json"))
    nothing: Any = None
    supply = CatalogSource("https://10.0.0.1/packages.json", "", nothing, nothing, PlainDisk(file))
    older, same, newer = (cast("Any", SimpleNamespace(serial=serial)) for serial in (16, 17, 18))
    asyncio.run(supply.accept(older))
    assert file.data == stored("packages.json")
    asyncio.run(supply.accept(newer))
    assert json.loads(file.data) == {"serial": 18}
    file.data = None
    asyncio.run(supply.accept(same))
    assert_same(file.data, "packages.json")


async def test_the_record_of_images() -> None:
    file = PlainDisk(PlainFile(stored("images.json")))
    assert store.decode(stored("images.json")) == {"lldp": ImageRecord("docker-lldp:latest"), "snmp": IMAGES}
    port: Any = None
    images = store.ImageStore(port, file, lambda _: "", structlog.get_logger(), Random(1))
    images.load()
    assert images.remembered("snmp") == IMAGES
    await images.note_rollback("snmp", "", "", "")
    await images.note_rollback("snmp", IMAGES.failed, IMAGES.failed_newest, IMAGES.failure)
    assert_same(file.file.data, "images.json")


def test_the_hold_and_the_promise() -> None:
    note = PreparedReboot("warm", "boot-1", ("lldp", "snmp"))
    promise = replace(note, boot_id="boot-2")
    assert hold.decode(stored("hold")) == note
    assert hold.decode(stored("promised.json")) == promise
    assert_same(hold.encode(note), "hold")
    assert_same(hold.encode(promise), "promised.json")


def test_the_manifest_of_a_saved_context(tmp_path: Path) -> None:
    """The paths are those of this test's folder; all else is as 0.1.0 has written it."""
    saved, kubernetes = tmp_path / "saved", tmp_path / "kubernetes"
    kubernetes.mkdir()
    (kubernetes / "kubelet.conf").write_text("kubeconfig")
    (kubernetes / "kubelet.conf").chmod(0o600)
    (kubernetes / "link").symlink_to("kubelet.conf")
    ContextBackup(saved, [kubernetes], "boot-1").save(30.0, ("snmp", "tap"))
    was = stored("manifest.json").replace(b"/etc/kubernetes", bytes(kubernetes))
    assert (saved / MANIFEST).read_bytes().rstrip(b"\n") == was
    (saved / MANIFEST).write_bytes(was)
    for path in sorted(kubernetes.iterdir()):
        path.unlink()
    enabled: list[tuple[str, ...]] = []
    ContextBackup(saved, [kubernetes], "boot-2").restore(then=enabled.append)
    assert enabled == [("snmp", "tap")]
    assert (kubernetes / "link").read_text() == "kubeconfig"
    assert (kubernetes / "kubelet.conf").stat().st_mode & 0o777 == 0o600
    assert (saved / RESTORED).exists()


def test_the_progress_of_a_join() -> None:
    assert progress.decode(stored("join.json")) == JOINING
    assert progress.decode(stored("join-running.json")) == RESETTING
    assert_same(progress.encode(JOINING), "join.json")
    assert_same(progress.encode(RESETTING), "join-running.json")


def test_the_membership() -> None:
    assert plan.decode_membership(stored("membership.json")) == MEMBERSHIP
    assert_same(plan.encode_membership(MEMBERSHIP), "membership.json")


def test_the_request_of_a_join(tmp_path: Path) -> None:
    files = JoinFiles(Settings(paths=PathsSettings(run_dir=str(tmp_path), state_dir=str(tmp_path))))
    StateFile(tmp_path / progress.REQUEST_FILE).save(stored("join.request"))
    assert files.take_request()
    assert not files.take_request(), "it is read once"
    files.request(force=True)
    assert_same((tmp_path / progress.REQUEST_FILE).read_bytes(), "join.request")
    files.request(force=False)
    assert not files.take_request()


# ---- damaged files -------------------------------------------------------------------------------

DAMAGED = (
    b"",
    b"[]",
    b"null",
    b"{}",
    b"\xff",
    b"9" * 5000,
    b"[" * 100_000,
    b'{"serial": 1e999, "force": 1, "fallback": ["snmp"], "boot_id": 1, "kind": "warm"}',
    b'{"serial": "17", "force": "true", "fallback": [1], "boot_id": "boot-1", "kind": "warm"}',
)


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_file_is_as_no_file(tmp_path: Path, data: bytes) -> None:
    file = PlainFile(data)
    nothing: Any = None
    offered: Any = SimpleNamespace(serial=1)
    supply = CatalogSource("https://10.0.0.1/packages.json", "", nothing, nothing, PlainDisk(file))
    asyncio.run(supply.accept(offered))
    assert file.data == b'{"serial": 1}\n', "an unreadable serial is 0"
    StateFile(tmp_path / progress.REQUEST_FILE).save(data)
    assert not JoinFiles(
        Settings(paths=PathsSettings(run_dir=str(tmp_path), state_dir=str(tmp_path)))
    ).take_request()
    assert (plan.decode_membership(data), progress.decode(data), hold.decode(data)) == (
        None,
        None,
        PreparedReboot(),
    )


def test_of_a_damaged_hold_only_valid_feature_names_are_kept_whatever_its_version() -> None:
    data = b'{"version": 7, "kind": "fast", "boot_id": "boot-1", "fallback": ["../x", "snmp"], "later": 1}'
    assert hold.decode(data) == PreparedReboot("fast", "boot-1", ("snmp",))


def test_of_a_damaged_record_of_images_only_valid_names_and_ids_are_kept() -> None:
    tree = json.loads(stored("images.json"))
    tree["features"]["snmp"]["known"] = ["busybox", f"sha256:{KUBE}"]
    tree["features"]["../etc"] = 5
    found = store.decode(json.dumps(tree).encode())
    assert found == {
        "lldp": ImageRecord("docker-lldp:latest"),
        "snmp": replace(IMAGES, known=(f"sha256:{KUBE}",)),
    }


@pytest.mark.parametrize("key", ["row", "package", "previous", "enabled_before", "phase"])
def test_an_incomplete_manifest_is_not_used(tmp_path: Path, key: str) -> None:
    tree = json.loads(stored("tap.json"))
    del tree[key]
    (tmp_path / "tap.json").write_text(json.dumps(tree))
    with pytest.raises(Unavailable, match=rf"tap.json cannot be used \({key}: missing\); move it away"):
        installed.read_manifests(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("mode", 0o10000), ("mode", -1), ("mode", "384"), ("path", "etc/x"), ("link", 1)]
)
def test_a_saved_context_with_an_invalid_item_is_refused(tmp_path: Path, key: str, value: object) -> None:
    tree = json.loads(stored("manifest.json"))
    tree["items"][0][key] = value
    (tmp_path / MANIFEST).write_text(json.dumps(tree))
    with pytest.raises(Refused):
        ContextBackup(tmp_path, [tmp_path], "boot-2").restore()
