"""Check the port Cluster, and compare the lab's API server with the real one: one suite for both."""

from __future__ import annotations

import asyncio
import shutil
import signal
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Protocol, Self

import pytest

pytest.importorskip("kubernetes_asyncio", reason="kubesyncd[kube] is not installed")

from kubesyncd.adapters import kube_connection, kube_watch
from kubesyncd.adapters.kube_node import KubeCluster
from kubesyncd.core.model import MasterConfig
from kubesyncd.ports import Forbidden, Missing, Refused, Unavailable
from tests.lab.certificates import DAY, Authority, write_kubeconfig
from tests.lab.kube_api import LabKube
from tests.lab.kube_client import NODES, KubeClient, node, shown
from tests.system.kube_cluster import API_SERVER, RealKube

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

NODE = "switch1"
SECURE = MasterConfig(ip="127.0.0.1")
# No test fails on a clock: a longer wait is for something that will not come. A real server stops and starts meanwhile.
PATIENCE_S = 300
# For an answer, where silence is not what is tested.
ANSWER_S = 60.0
CONNECT_S, CALL_S = kube_connection.CONNECT_S, kube_connection.CALL_S


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls wait for a server that is slow because the machine is busy."""
    limit(monkeypatch, connect_s=ANSWER_S, call_s=ANSWER_S)


def limit(monkeypatch: pytest.MonkeyPatch, *, connect_s: float, call_s: float) -> None:
    """How long the adapter waits for a connection, and for an answer."""
    monkeypatch.setattr(kube_connection, "CONNECT_S", connect_s)
    monkeypatch.setattr(kube_watch, "CONNECT_S", connect_s)
    monkeypatch.setattr(kube_connection, "CALL_S", call_s)


class Master(Protocol):
    """An API server that tests can stop, freeze and start again."""

    node: str
    folder: Path
    authority: Authority
    admin_conf: Path
    kubelet_conf: Path
    url: str

    async def down(self) -> None:
        """Refuse connections."""

    async def up(self) -> None:
        """Answer again."""

    async def freeze(self) -> None:
        """Keep connections and say nothing."""

    async def thaw(self) -> None:
        """Go on."""


class LabMaster:
    """The lab's."""

    def __init__(self, api: LabKube) -> None:
        self._api = api
        self.node, self.folder, self.authority, self.url = api.node, api.folder, api.authority, api.url
        self.admin_conf, self.kubelet_conf = api.admin_conf, api.kubelet_conf

    async def down(self) -> None:
        await self._api.stop()

    async def up(self) -> None:
        await self._api.start()

    async def freeze(self) -> None:
        self._api.freeze()

    async def thaw(self) -> None:
        self._api.thaw()


class RealMaster:
    """The real one."""

    def __init__(self, cluster: RealKube) -> None:
        self._cluster = cluster
        self.node, self.folder, self.authority, self.url = (
            cluster.node,
            cluster.folder,
            cluster.authority,
            cluster.url,
        )
        self.admin_conf, self.kubelet_conf = cluster.admin_conf, cluster.kubelet_conf

    async def down(self) -> None:
        await asyncio.to_thread(self._cluster.stop, API_SERVER)

    async def up(self) -> None:
        await asyncio.to_thread(self._cluster.start)

    async def freeze(self) -> None:
        self._cluster.freeze(API_SERVER)

    async def thaw(self) -> None:
        self._cluster.thaw(API_SERVER)


@pytest.fixture(params=["lab", pytest.param("real", marks=pytest.mark.real("kube"))])
async def master(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Master]:
    """A master without nodes, up and thawed at the beginning and at the end."""
    if request.param == "lab":
        async with LabKube(tmp_path / "lab", node=NODE) as api:
            yield LabMaster(api)
            api.thaw()
        return
    cluster: RealKube = request.getfixturevalue("kube_api_real")
    cluster.write_kubeconfigs()
    async with KubeClient(cluster.admin_conf) as admin:
        for old in (await admin.get(NODES))["items"]:
            await admin.delete(f"{NODES}/{old['metadata']['name']}")
    real = RealMaster(cluster)
    yield real
    await real.thaw()
    await real.up()


@pytest.fixture
async def admin(master: Master) -> AsyncIterator[KubeClient]:
    """The administrator's access to the API server."""
    async with KubeClient(master.admin_conf) as client:
        yield client


@asynccontextmanager
async def cluster(
    master: Master,
    *,
    name: str = NODE,
    config: MasterConfig = SECURE,
    kubeconfig: Path | None = None,
    silence_s: float = ANSWER_S,
) -> AsyncIterator[KubeCluster]:
    """The adapter, with watches short enough for a test."""
    adapter = KubeCluster(
        kubeconfig or master.kubelet_conf, lambda: name, config, watch_s=2, silence_s=silence_s
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield adapter
    finally:
        await adapter.close()


async def labels_of(admin: KubeClient) -> Mapping[str, str]:
    return (await admin.get(f"{NODES}/{NODE}"))["metadata"].get("labels", {})


async def test_labels_are_added_changed_and_removed(master: Master, admin: KubeClient) -> None:
    await admin.post(NODES, node(NODE, keep="me", old="1"))
    async with cluster(master) as adapter:
        await adapter.apply_labels({"snmp_enabled": "true", "old": "2"})
        assert await labels_of(admin) == {"keep": "me", "old": "2", "snmp_enabled": "true"}
        await adapter.apply_labels({"snmp_enabled": None, "old": None})
        assert await labels_of(admin) == {"keep": "me"}


async def test_annotations_are_added_and_removed_beside_those_of_other_clients(
    master: Master, admin: KubeClient
) -> None:
    await admin.post(NODES, node(NODE))
    await admin.patch(f"{NODES}/{NODE}", {"metadata": {"annotations": {"keep": "me"}}})
    async with cluster(master) as adapter:
        await adapter.annotate({"feature.kubesyncd/snmp": "KUBE_READY failed: not running for 5 min …"})
        await adapter.annotate({"feature.kubesyncd/lldp": "LOCAL"})
        seen = (await admin.get(f"{NODES}/{NODE}"))["metadata"]["annotations"]
        assert seen == {
            "keep": "me",
            "feature.kubesyncd/snmp": "KUBE_READY failed: not running for 5 min …",
            "feature.kubesyncd/lldp": "LOCAL",
        }
        await adapter.annotate({"feature.kubesyncd/snmp": None, "feature.kubesyncd/lldp": None})
    assert (await admin.get(f"{NODES}/{NODE}"))["metadata"]["annotations"] == {"keep": "me"}


async def test_annotating_a_node_that_is_not_there_is_missing(master: Master) -> None:
    async with cluster(master) as adapter:
        with pytest.raises(Missing):
            await adapter.annotate({"feature.kubesyncd/lldp": "LOCAL"})


async def test_an_event_about_the_node_is_found_where_kubectl_looks(
    master: Master, admin: KubeClient
) -> None:
    await admin.post(NODES, node(NODE))
    async with cluster(master) as adapter:
        await adapter.report("FeatureFailed", "snmp: not running for 5 min", warning=True)
        await adapter.report("FeatureRecovered", "snmp runs again", warning=False)
    found = await admin.get(
        "/api/v1/events", fieldSelector=f"involvedObject.name={NODE},involvedObject.uid={NODE}"
    )
    told = {(e["reason"], e["message"], e["type"]) for e in found["items"]}
    assert told >= {
        ("FeatureFailed", "snmp: not running for 5 min", "Warning"),
        ("FeatureRecovered", "snmp runs again", "Normal"),
    }


async def test_removing_an_absent_label_succeeds_and_changes_nothing(
    master: Master, admin: KubeClient
) -> None:
    before = await admin.post(NODES, node(NODE))
    async with cluster(master) as adapter:
        await adapter.apply_labels({"never_there": None})
    after = await admin.get(f"{NODES}/{NODE}")
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_without_a_change_no_request_is_sent(master: Master) -> None:
    await master.down()
    async with cluster(master) as adapter:
        await adapter.apply_labels({})


async def test_another_node_is_forbidden_to_us(master: Master, admin: KubeClient) -> None:
    await admin.post(NODES, node("switch2"))
    async with cluster(master, name="switch2") as adapter:
        with pytest.raises(Forbidden, match="not allowed to modify node"):
            await adapter.apply_labels({"snmp_enabled": "true"})


async def test_a_reserved_label_is_refused_for_the_label_s_sake(master: Master, admin: KubeClient) -> None:
    await admin.post(NODES, node(NODE))
    async with cluster(master) as adapter:
        with pytest.raises(Refused, match=r"modify labels: example\.kubernetes\.io/a") as caught:
            await adapter.apply_labels({"example.kubernetes.io/a": "b"})
    assert not isinstance(caught.value, Forbidden)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("a", "two words", 'Invalid value: "two words": a valid label must be an empty string or consist of'),
        ("a", "x" * 64, "must be no more than 63 characters"),
        ("bad key", "a", 'Invalid value: "bad key": name part must consist of'),
        ("x" * 64, "a", "name part must be no more than 63 characters"),
        ("UPPER/a", "a", "prefix part a lowercase RFC 1123 subdomain must"),
    ],
)
async def test_a_label_no_server_takes_is_refused_with_the_reason_and_nothing_changes(
    master: Master, admin: KubeClient, key: str, value: str, reason: str
) -> None:
    await admin.post(NODES, node(NODE))
    async with cluster(master) as adapter:
        with pytest.raises(Refused) as caught:
            await adapter.apply_labels({"good": "1", key: value})
    assert reason in caught.value.detail
    assert "\n" not in caught.value.detail
    assert await labels_of(admin) == {}


async def test_a_node_that_is_not_there_yet_is_missing(master: Master) -> None:
    async with cluster(master) as adapter:
        with pytest.raises(Missing, match=NODE):
            await adapter.apply_labels({"snmp_enabled": "true"})


async def test_the_watch_tells_labels_first_and_then_their_changes_only(
    master: Master, admin: KubeClient
) -> None:
    await admin.post(NODES, node(NODE, a="1"))
    await admin.post(NODES, node("switch2", other="node"))
    async with cluster(master) as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {"a": "1"}
        await admin.patch(f"{NODES}/{NODE}/status", {"status": {"nodeInfo": {"osImage": "heartbeat"}}})
        await admin.patch(f"{NODES}/switch2", {"metadata": {"labels": {"b": "1"}}})
        await admin.patch(f"{NODES}/{NODE}", {"metadata": {"labels": {"b": "2"}}})
        assert await shown(labels) == {"a": "1", "b": "2"}
        await adapter.apply_labels({"a": None})
        assert await shown(labels) == {"b": "2"}


async def test_the_watch_follows_a_node_from_before_its_creation_to_after_its_end(
    master: Master, admin: KubeClient
) -> None:
    async with cluster(master) as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) is None
        await admin.post(NODES, node(NODE, a="1"))
        assert await shown(labels) == {"a": "1"}
        await admin.delete(f"{NODES}/{NODE}")
        assert await shown(labels) is None
        await admin.post(NODES, node(NODE, a="2"))
        assert await shown(labels) == {"a": "2"}


async def test_the_watch_goes_on_when_the_server_ends_it_in_time(master: Master, admin: KubeClient) -> None:
    await admin.post(NODES, node(NODE, a="1"))
    async with cluster(master) as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {"a": "1"}
        change = asyncio.ensure_future(shown(labels))
        # Two ends of a watch of 2 s lie in this time.
        await asyncio.sleep(4.5)
        assert not change.done()
        await adapter.apply_labels({"a": "2"})
        assert await change == {"a": "2"}


async def test_a_stopped_server_is_unavailable_at_once_and_a_started_one_is_taken_up(
    master: Master, admin: KubeClient
) -> None:
    await admin.post(NODES, node(NODE, a="1"))
    async with cluster(master) as adapter:
        async with aclosing(adapter.watch()) as labels:
            assert await shown(labels) == {"a": "1"}
            await master.down()
            with pytest.raises(Unavailable):
                await shown(labels)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await adapter.apply_labels({"a": "2"})
        with pytest.raises(Unavailable, match="cannot be reached"):
            await shown(adapter.watch())
        await master.up()
        await adapter.apply_labels({"a": "2"})
        async with aclosing(adapter.watch()) as labels:
            assert await shown(labels) == {"a": "2"}


@pytest.mark.slow("waits for a deadline of the product")
async def test_a_silent_server_is_unavailable_to_calls_and_to_the_watch(
    master: Master, admin: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await admin.post(NODES, node(NODE, a="1"))
    async with cluster(master, silence_s=5) as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {"a": "1"}
        await master.freeze()
        limit(monkeypatch, connect_s=CONNECT_S, call_s=CALL_S)
        with pytest.raises(Unavailable, match="does not answer in time"):
            await adapter.apply_labels({"a": "2"})
        with pytest.raises(Unavailable, match="does not answer in time"):
            await shown(labels)
        await master.thaw()
    limit(monkeypatch, connect_s=ANSWER_S, call_s=ANSWER_S)
    async with cluster(master) as adapter:
        await adapter.apply_labels({"a": "3"})


def test_the_shipped_limits_notice_silence_within_forty_seconds_and_bound_a_call_by_five() -> None:
    assert kube_watch.WATCH_S < kube_watch.SILENCE_S
    assert kube_watch.SILENCE_S + CONNECT_S < 40
    assert CALL_S <= 5


async def test_an_expired_certificate_is_unavailable_and_its_successor_is_picked_up(
    master: Master, admin: KubeClient
) -> None:
    await admin.post(NODES, node(NODE))
    subject = (f"system:node:{NODE}", "system:nodes")
    master.authority.issue("kubelet", *subject, valid=-DAY)
    async with cluster(master) as adapter:
        with pytest.raises(Unavailable, match="401"):
            await adapter.apply_labels({"a": "1"})
        with pytest.raises(Unavailable, match="401"):
            await shown(adapter.watch())
        master.authority.issue("kubelet", *subject)
        await adapter.apply_labels({"a": "1"})
        assert await labels_of(admin) == {"a": "1"}


async def test_a_rotated_certificate_does_not_disturb_a_running_watch(
    master: Master, admin: KubeClient
) -> None:
    await admin.post(NODES, node(NODE))
    async with cluster(master) as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {}
        for round_ in ("1", "2", "3"):
            master.authority.issue("kubelet", f"system:node:{NODE}", "system:nodes")
            await adapter.apply_labels({"a": round_})
            assert await shown(labels) == {"a": round_}


async def test_another_authority_s_server_is_not_trusted_unless_insecure(
    master: Master, admin: KubeClient, tmp_path: Path
) -> None:
    await admin.post(NODES, node(NODE))
    kubeconfig = tmp_path / "stale.conf"
    stranger = Authority(tmp_path / "stranger")
    pair = master.authority.issue("kubelet", f"system:node:{NODE}", "system:nodes")
    write_kubeconfig(kubeconfig, master.url, stranger.pem, pair, inline=False)
    async with cluster(master, kubeconfig=kubeconfig) as adapter:
        with pytest.raises(Unavailable, match=r"certificate is not trusted: .*; check .*stale\.conf"):
            await adapter.apply_labels({"a": "1"})
    insecure = MasterConfig(ip="127.0.0.1", insecure=True)
    async with cluster(master, kubeconfig=kubeconfig, config=insecure) as adapter:
        await adapter.apply_labels({"a": "1"})


async def test_a_certificate_inside_the_kubeconfig_works_too(master: Master, admin: KubeClient) -> None:
    await admin.post(NODES, node(NODE))
    async with cluster(master, kubeconfig=master.admin_conf) as adapter:
        await adapter.apply_labels({"a": "1"})
        assert await shown(adapter.watch()) == {"a": "1"}


async def test_proxy_variables_are_ignored(
    master: Master, admin: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await admin.post(NODES, node(NODE))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with cluster(master) as adapter:
        await adapter.apply_labels({"a": "1"})


async def test_many_calls_at_a_time_all_succeed(master: Master, admin: KubeClient) -> None:
    await admin.post(NODES, node(NODE))
    async with cluster(master) as adapter, asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(adapter.apply_labels({f"l{number}": "x"}))
    assert len(await labels_of(admin)) == 20


class Address:
    """One address; new connections go to the API server at `target`, its port. `async with Address(…) as address`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, away = await asyncio.open_connection("127.0.0.1", self.target)
        for pair in ((reader, away), (there, writer)):
            pipe = asyncio.create_task(self._pipe(*pair))
            self._pipes.add(pipe)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.mark.real("kube")
@pytest.mark.slow("a second API server starts")
async def test_a_standby_with_an_older_store_that_takes_over_the_address_is_seen(
    kube_api_real: RealKube, tmp_path: Path
) -> None:
    """The first one ends in order, as in a planned switch-over: its watches end as they should."""
    shutil.copytree(kube_api_real.folder / "pki", tmp_path / "standby" / "pki")
    standby = RealKube(tmp_path / "standby")
    await asyncio.to_thread(standby.start)
    await asyncio.to_thread(kube_api_real.start)
    try:
        async with Address(_port(kube_api_real.url)) as address:
            kubeconfig = tmp_path / "kubelet.conf"
            pair = kube_api_real.authority.issue("kubelet-vip", f"system:node:{NODE}", "system:nodes")
            write_kubeconfig(kubeconfig, address.url, kube_api_real.authority.pem, pair, inline=True)
            async with KubeClient(standby.admin_conf) as old, KubeClient(kube_api_real.admin_conf) as new:
                await new.delete(f"{NODES}/{NODE}")
                version = int((await old.post(NODES, node(NODE, a="old")))["metadata"]["resourceVersion"])
                await new.post(NODES, node(NODE, a="new"))
                number = 0
                while int((await new.get(f"{NODES}/{NODE}"))["metadata"]["resourceVersion"]) <= version + 50:
                    number += 1
                    change = {"metadata": {"annotations": {"count": str(number)}}}
                    await new.patch(f"{NODES}/{NODE}", change)
            adapter = KubeCluster(kubeconfig, lambda: NODE, SECURE, watch_s=3, silence_s=ANSWER_S)
            async with asyncio.timeout(PATIENCE_S), aclosing(adapter.watch()) as labels:
                before = await anext(labels)
                assert before is not None
                assert before.labels["a"] == "new"
                newest = before.version
                await asyncio.sleep(1.0)  # the watch is open
                address.target = _port(standby.url)
                kube_api_real.signal(API_SERVER, signal.SIGTERM)
                seen = await anext(labels)
                assert seen is not None
                assert (seen.labels["a"], seen.older) == ("old", True)
            await adapter.close()
            # A daemon that starts now has only the version that it kept.
            later = KubeCluster(kubeconfig, lambda: NODE, SECURE, watch_s=3, silence_s=ANSWER_S)
            async with asyncio.timeout(PATIENCE_S), aclosing(later.watch()) as labels:
                first = await anext(labels)
                assert first is not None
                assert version <= first.version < newest, "it is told by what is kept of the store"
            await later.close()
    finally:
        await asyncio.to_thread(standby.stop)
        await asyncio.to_thread(kube_api_real.kill, API_SERVER)
        await asyncio.to_thread(kube_api_real.start)
