"""Check that a node follows its package server through errors, and installs the right packages."""

from __future__ import annotations

import asyncio
import json
import os
import random
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from kubesyncd.adapters.package_server import HttpsFiles
from kubesyncd.adapters.signatures import is_true
from kubesyncd.ports import FetchedFile, Missing, Refused, Unavailable
from kubesyncd.runtime.context import Runtime
from kubesyncd.runtime.state_files import DiskFile, StateFile
from kubesyncd.services import definition
from kubesyncd.services.catalog import Unusable
from kubesyncd.services.catalog_source import CatalogSource
from kubesyncd.services.catalog_watcher import RETRY_S, CatalogWatcher
from kubesyncd.services.installed import PackageOrigin, hashes
from kubesyncd.services.package_sync import PackageSync
from tests.lab.certificates import Authority
from tests.lab.package_server import METADATA, PackageServer
from tests.sim.loop import run as run_virtually
from tests.sim.plain import PlainDisk, PlainJobs, PlainLog
from tests.sim.services import PlainServices, with_power_cut
from tests.unit.services.test_catalog import Signer
from tests.wait import until_async

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

INTERVAL_S = 300.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PackageServer]:
    with PackageServer(tmp_path / "server") as server:
        server.publish()
        yield server


def source_of(server: PackageServer, folder: Path, *, pubkey: str = "", **limits: float) -> CatalogSource:
    files = HttpsFiles(server.ca_file, **limits)
    return CatalogSource(server.url, pubkey, files, is_true, DiskFile(StateFile(folder / "packages.json")))


# ---- https ----------------------------------------------------------------------------------------


async def test_metadata_that_has_not_changed_is_not_sent_again(server: PackageServer, tmp_path: Path) -> None:
    source = source_of(server, tmp_path)
    assert (await source.fetch()).packages == ()
    server.offer("tap", "1")
    for _ in range(2):
        assert [p.version for p in (await source.fetch()).packages] == ["1"]
    etags = [etag for _, etag in server.asked]
    assert etags[0] == ""
    assert etags[1] != etags[2] != ""


@pytest.mark.parametrize(
    ("how", "error"),
    [("301", Refused), ("302", Refused), ("304", Refused), ("401", Refused), ("404", Missing), ("500", Unavailable),
     ("503", Unavailable), ("429", Unavailable), ("cut", Unavailable), ("stall", Unavailable), ("endless", Refused)],
)  # fmt: skip
async def test_a_server_that_misbehaves_is_an_error_with_its_address(
    server: PackageServer, tmp_path: Path, how: str, error: type[Exception]
) -> None:
    server.files[METADATA] = b" " * 1000 + b"{}"
    server.misbehave = how
    # Only who waits for silence is impatient: whatever answers may take its time on a busy machine.
    limits = {"read_s": 0.5} if how == "stall" else {}
    with pytest.raises(error, match=server.url):
        await source_of(server, tmp_path, **limits).fetch()
    assert not any("elsewhere" in path for path, _ in server.asked)


async def test_a_server_with_an_unknown_certificate_is_not_asked_for_anything(
    server: PackageServer, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    with pytest.raises(Unavailable, match="certificate"):
        await HttpsFiles(str(stranger.pair.certificate)).get(server.url, 1000)
    with pytest.raises(Unavailable, match="certificate"):
        await HttpsFiles().get(server.url, 1000)
    with pytest.raises(Refused, match=r"ca_file .*none"):
        await HttpsFiles(str(tmp_path / "none")).get(server.url, 1000)
    assert server.asked == []


async def test_a_server_that_is_not_there_is_unavailable(server: PackageServer, tmp_path: Path) -> None:
    source = source_of(server, tmp_path)
    server.__exit__()
    with pytest.raises(Unavailable):
        await source.fetch()


# ---- who says so ----------------------------------------------------------------------------------


async def test_with_a_key_only_signed_metadata_is_followed(server: PackageServer, tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    source = source_of(server, tmp_path, pubkey=signer.pubkey)
    server.offer("tap", "1")
    with pytest.raises(Missing, match="minisig"):
        await source.fetch()
    server.files[f"{METADATA}.minisig"] = signer.sign(server.files[METADATA])
    assert [p.name for p in (await source.fetch()).packages] == ["tap"]
    server.offer("tap", "2")
    with pytest.raises(Unusable, match="signature is invalid"):
        await source.fetch()
    server.files[f"{METADATA}.minisig"] = b"garbage"
    with pytest.raises(Unusable, match="invalid minisign file"):
        await source.fetch()


async def test_metadata_older_than_one_followed_before_is_refused(
    server: PackageServer, tmp_path: Path
) -> None:
    source = source_of(server, tmp_path)
    server.publish(serial=7)
    await source.accept(await source.fetch())
    server.publish(serial=6)
    for again in (source, source_of(server, tmp_path)):
        with pytest.raises(Unusable, match="older than the last accepted one"):
            await again.fetch()
    server.publish(serial=8)
    assert (await source.fetch()).serial == 8


async def test_a_disk_that_does_not_answer_holds_up_the_check_alone(
    server: PackageServer, tmp_path: Path
) -> None:
    """A named pipe is read only once something writes into it; a reader on the loop would wait for ever."""
    pipe = tmp_path / "packages.json"
    os.mkfifo(pipe)
    checking = asyncio.create_task(source_of(server, tmp_path).fetch())
    writers: list[int] = []

    def is_read() -> bool:
        with suppress(OSError):
            writers.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    await until_async(is_read)
    assert not checking.done()
    os.write(writers[0], b'{"serial": 7}')
    os.close(writers[0])
    with pytest.raises(Unusable, match="older than the last accepted one, 7"):
        await checking


# ---- the daemon's part ----------------------------------------------------------------------------


class Node:
    """A node whose server, labels and systemd are told what to say."""

    def __init__(self, seed: int = 1) -> None:
        self.asked_at: list[float] = []
        self.metadata: bytes | Exception = b'{"format": 1, "packages": []}'
        self.labels: Mapping[str, str] | None = {"type": "ToR"}
        self.installed: dict[str, str] = {}
        self.systemd = PlainJobs(call_s=0.0, never_starts=True)
        self.now = 1000.0
        self.disk = PlainDisk()
        self.log = PlainLog()
        source = CatalogSource("https://h/p.json", "", self, is_true, self.disk)
        self.watcher = CatalogWatcher(
            source,
            labels=lambda: self.labels,
            installed=self.hashes,
            jobs=self.systemd,
            unit="kubesyncd-packages.service",
            interval_s=INTERVAL_S,
            runtime=Runtime(
                lambda: self.now,
                lambda: self.now,
                random.Random(seed),
                self.log,  # type: ignore[arg-type]
            ),
        )

    async def hashes(self) -> dict[str, str]:
        return self.installed

    async def get(self, url: str, bytes_max: int, etag: str = "") -> FetchedFile:
        del url, bytes_max, etag
        self.asked_at.append(asyncio.get_running_loop().time())
        if isinstance(self.metadata, Exception):
            raise self.metadata
        return FetchedFile(self.metadata, "")

    def offers(self, *names: str, **more: Any) -> None:
        entries = [{"name": n, "version": "1", "archive": "a", "sha256": "a" * 64, **more} for n in names]
        self.metadata = json.dumps({"format": 1, "packages": entries}).encode()

    def look(self) -> float:
        return asyncio.run(self.watcher.check())

    def lives(self, seconds: float) -> list[float]:
        """When it asked its server in so much virtual time."""

        async def life() -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.watcher.run(), seconds)

        run_virtually(life())
        return self.asked_at

    @property
    def said(self) -> list[str]:
        return [more["why"] for _, _, more in self.log.lines if "why" in more]


@pytest.fixture
def node() -> Node:
    return Node()


def test_the_unit_is_started_when_the_node_lacks_something_and_only_then(node: Node) -> None:
    wait_s = node.look()
    assert 0.8 * INTERVAL_S <= wait_s <= 1.2 * INTERVAL_S
    assert node.systemd.begun == []
    node.offers("tap")
    node.look()
    assert node.systemd.begun == ["kubesyncd-packages.service"]
    node.installed = {"tap": "a" * 64}
    node.look()
    assert len(node.systemd.begun) == 1
    node.offers("tap", nodes={"type": "Leaf"})
    node.look()
    assert len(node.systemd.begun) == 2


def test_an_installation_that_keeps_failing_is_asked_for_ever_more_seldom(node: Node) -> None:
    node.offers("tap")
    for _ in range(500):
        node.now += node.look()
    hours = (node.now - 1000.0) / 3600
    assert 0.8 * hours < len(node.systemd.begun) < 3 * hours
    node.offers("tap", "other")
    node.look()
    begun = len(node.systemd.begun)
    node.now += 1
    node.look()
    assert len(node.systemd.begun) == begun


def test_without_known_labels_nothing_is_concluded(node: Node) -> None:
    node.offers("tap")
    node.installed = {"gone": "b" * 64}
    node.labels = None
    node.look()
    node.look()
    assert node.systemd.begun == []
    assert len([text for text in node.said if "labels of this node are not known" in text]) == 1


def test_an_unreachable_server_is_reported_once_and_asked_with_backoff(node: Node) -> None:
    node.metadata = Unavailable("packages", "it does not answer")
    waits = [node.look() for _ in range(12)]
    assert node.said == ["packages: it does not answer"]
    assert waits[0] <= RETRY_S
    assert max(waits) <= 3600
    assert max(waits[-4:]) > max(waits[:3])
    node.metadata = b"{"
    node.look()
    assert "invalid JSON" in node.said[-1]
    node.offers("tap")
    assert node.look() <= 1.2 * INTERVAL_S
    assert len(node.systemd.begun) == 1


def test_a_fleet_never_asks_all_at_once() -> None:
    """Twenty nodes that start in one moment: their first looks, their intervals and their retries are all spread."""
    asked: list[list[float]] = []
    for seed in range(20):
        node = Node(seed)
        asked.append(node.lives(3600.0))
    firsts = sorted(times[0] for times in asked)
    assert firsts[0] < 10.0
    assert 50.0 < firsts[-1] <= 60.0
    intervals = [later - earlier for times in asked for earlier, later in pairwise(times)]
    assert min(intervals) < 0.85 * INTERVAL_S
    assert max(intervals) > 1.15 * INTERVAL_S
    assert all(0.8 * INTERVAL_S <= interval <= 1.2 * INTERVAL_S for interval in intervals)


def test_after_an_outage_a_server_is_asked_with_the_initial_backoff_again(node: Node) -> None:
    firsts = []
    for _ in range(5):
        node.metadata = Unavailable("packages", "it does not answer")
        firsts.append(node.look())
        for _ in range(12):
            node.look()
        node.offers()
        node.look()
    assert max(firsts) <= RETRY_S


# ---- the unit's part ------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> PlainServices:
    return PlainServices(tmp_path)


def sync(world: PlainServices, server: PackageServer, folder: Path, **labels: str) -> dict[str, str]:
    """One pass; what became of each step."""
    files = HttpsFiles(server.ca_file)
    worker = PackageSync(source_of(server, folder), files, world.installer())
    return {str(result.step): result.failure for result in asyncio.run(worker.run(labels))}


def versions(world: PlainServices) -> dict[str, str]:
    found = world.installer().installed()
    return {name: manifest.package.version if manifest.package else "" for name, manifest in found.items()}


def test_packages_come_change_and_go_as_a_whole(
    world: PlainServices, server: PackageServer, tmp_path: Path
) -> None:
    before = world.everything()
    program = {
        "service.yaml": "name: tap\nrequires: [swss]\npre_start: [./probe]\n",
        "bin/probe": "#!/bin/sh\n",
    }
    server.offer("tap", "1", program)
    server.offer("leaf", "1", nodes={"type": "Leaf"})
    assert sync(world, server, tmp_path, type="ToR") == {"install tap 1": ""}
    probe = world.root / "usr/local/lib/kubesyncd/services/tap/probe"
    assert probe.stat().st_mode & 0o777 == 0o755
    assert sync(world, server, tmp_path, type="ToR") == {}
    server.offer("tap", "2")
    assert sync(world, server, tmp_path, type="Leaf") == {"install leaf 1": "", "update tap 2": ""}
    assert not probe.parent.exists()
    assert versions(world) == {"tap": "2", "leaf": "1"}
    server.withdraw("tap")
    assert sync(world, server, tmp_path, type="ToR") == {"remove leaf": "", "remove tap": ""}
    assert world.everything() == before


def test_one_bad_package_holds_up_no_other_and_leaves_nothing(
    world: PlainServices, server: PackageServer, tmp_path: Path
) -> None:
    server.offer("good", "1")
    server.offer("forged", "1")
    server.files["/packages/forged-1.tgz"] += b"more"
    server.offer("swss", "1", {"service.yaml": "name: swss\nrequires: []\n"})
    server.offer("link", "1", {"service.yaml": "name: link\nrequires: [nope]\n"})
    server.offer("away", "1")
    del server.files["/packages/away-1.tgz"]
    result = sync(world, server, tmp_path)
    assert result.pop("install good 1") == ""
    assert "SHA-256" in result["install forged 1"]
    assert "swss has a service and a FEATURE row already" in result["install swss 1"]
    assert "nope.service does not exist" in result["install link 1"]
    assert "is not there (404)" in result["install away 1"]
    assert versions(world) == {"good": "1"}


def test_an_update_that_cannot_be_had_leaves_the_old_version_running(
    world: PlainServices, server: PackageServer, tmp_path: Path
) -> None:
    server.offer("tap", "1")
    sync(world, server, tmp_path)
    before = world.everything()
    for bad in (
        {"x": "y"},
        {"service.yaml": "name: other\n"},
        {"service.yaml": "name: tap\nrequires: [nope]\n"},
    ):
        server.offer("tap", "2", bad)
        assert sync(world, server, tmp_path)["update tap 2"]
        assert world.everything() == before
    world.fails["enable"] = Unavailable("systemd", "it does not answer")
    server.offer("tap", "2")
    assert "does not answer" in sync(world, server, tmp_path)["update tap 2"]
    world.fails.clear()
    asyncio.run(world.installer().recover())
    assert world.everything() == before


def test_an_update_and_a_removal_that_were_interrupted_are_finished(
    world: PlainServices, server: PackageServer, tmp_path: Path
) -> None:
    server.offer("tap", "1")
    sync(world, server, tmp_path)
    world.fails["disable"] = Unavailable("systemd", "it does not answer")
    server.withdraw("tap")
    assert "does not answer" in sync(world, server, tmp_path)["remove tap"]
    world.fails.clear()
    server.offer("tap", "1")
    assert hashes(world.installer().installed()) == {"tap": "unfinished"}
    assert sync(world, server, tmp_path) == {"update tap 1": ""}
    assert versions(world) == {"tap": "1"}


def test_metadata_older_than_what_was_installed_is_refused_by_the_next_pass(
    world: PlainServices, server: PackageServer, tmp_path: Path
) -> None:
    server.offer("tap", "2")
    server.publish(serial=2)
    sync(world, server, tmp_path)
    server.offer("tap", "1")
    server.publish(serial=1)
    with pytest.raises(Unusable, match="serial is 1, older than the last accepted one, 2"):
        sync(world, server, tmp_path)
    assert versions(world) == {"tap": "2"}


def test_an_interrupted_installation_is_reverted_even_if_it_is_not_offered_any_more(
    world: PlainServices, server: PackageServer, tmp_path: Path
) -> None:
    server.publish()
    before = world.everything()
    spec = definition.parse(b"name: tap\nrequires: [swss]\n")
    made = definition.files(spec)
    origin = PackageOrigin("1", "a" * 64)
    assert with_power_cut(world, lambda installer: installer.install(spec, made, package=origin), 4)
    assert world.everything() != before
    assert sync(world, server, tmp_path) == {}
    assert world.everything() == before
