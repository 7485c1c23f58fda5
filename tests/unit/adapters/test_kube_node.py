"""Check the Kubernetes adapter under faults that a real server cannot produce on demand."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
import signal
import sys
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("kubernetes_asyncio", reason="kubesyncd[kube] is not installed")

from kubesyncd.adapters import kube_watch
from kubesyncd.adapters.kube_credential import CertifiedName
from kubesyncd.adapters.kube_node import KubeCluster
from kubesyncd.core.model import MasterConfig
from kubesyncd.ports import Forbidden, Missing, PortError, Refused, Unavailable
from tests.lab.certificates import write_kubeconfig
from tests.lab.kube_api import Fault, LabKube
from tests.lab.kube_client import NODES, KubeClient, KubeError, node, shown
from tests.lab.kube_rules import RESOURCES
from tests.lab.kube_store import Store
from tests.wait import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NODE = "switch1"
SECURE = MasterConfig(ip="127.0.0.1")
PATIENCE_S = 180


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[LabKube]:
    """The lab's API server with our Node on it."""
    async with LabKube(tmp_path, node=NODE) as api, KubeClient(api.admin_conf) as admin:
        await admin.post(NODES, node(NODE, a="1"))
        yield api


@asynccontextmanager
async def cluster(kubeconfig: Path, *, watch_s: int = 2) -> AsyncIterator[KubeCluster]:
    adapter = KubeCluster(kubeconfig, lambda: NODE, SECURE, watch_s=watch_s, silence_s=2 * watch_s)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield adapter
    finally:
        await adapter.close()


def stored(api: LabKube) -> dict[str, str]:
    labels: dict[str, str] = api.store.get(RESOURCES["nodes"], "", NODE)["metadata"]["labels"]
    return labels


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Refused),
        (403, Forbidden),
        (404, Missing),
        (409, Unavailable),
        (422, Refused),
        (429, Unavailable),
        (500, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
    ],
)
async def test_each_status_becomes_one_of_our_errors_and_changes_nothing(
    api: LabKube, status: int, error: type[PortError]
) -> None:
    api.faults.append(Fault("status", "PATCH", status=status, body="<html>\n\x1b[31mnot JSON</html>"))
    async with cluster(api.kubelet_conf) as adapter:
        with pytest.raises(error) as caught:
            await adapter.apply_labels({"a": "2"})
    assert type(caught.value) is error
    assert caught.value.detail.isprintable()
    assert stored(api) == {"a": "1"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ('admission webhook "labels.example" denied the request: no tier here', Refused),
        ("node switch1 is not allowed to modify labels: example.kubernetes.io/a", Refused),
        ('nodes "switch1" is forbidden: a policy of this cluster denies it', Refused),
        ('nodes "switch1" is forbidden: User "x" cannot patch resource "nodes" in API group ""', Forbidden),
        ('node "switch2" is not allowed to modify node "switch1"', Forbidden),
    ],
)
async def test_a_denied_label_is_refused_and_a_denied_credential_is_forbidden(
    api: LabKube, words: str, error: type[PortError]
) -> None:
    body = json.dumps({"kind": "Status", "message": words})
    api.faults.append(Fault("status", "PATCH", times=2, status=403, body=body))
    async with cluster(api.kubelet_conf) as adapter:
        with pytest.raises(error, match=re.escape(words)) as caught:
            await adapter.apply_labels({"a": "2"})
        assert type(caught.value) is error
        assert "join" not in caught.value.detail
        if error is Refused:
            api.faults.append(Fault("status", "GET", times=1, status=403, body=body))
        if "policy" in words:
            with pytest.raises(Forbidden):
                await adapter.apply_labels({"a": "2"})


async def test_a_server_that_asks_for_a_delay_is_quoted(api: LabKube) -> None:
    api.faults.append(Fault("status", "PATCH", status=429, headers={"Retry-After": "7"}))
    async with cluster(api.kubelet_conf) as adapter:
        with pytest.raises(Unavailable, match="retry_after=7"):
            await adapter.apply_labels({"a": "2"})


async def test_one_unauthorized_answer_is_tried_again_with_a_fresh_connection(api: LabKube) -> None:
    api.faults.append(Fault("status", "PATCH", status=401))
    async with cluster(api.kubelet_conf) as adapter:
        await adapter.apply_labels({"a": "2"})
    assert stored(api) == {"a": "2"}


@pytest.mark.slow("waits for a deadline of the product")
async def test_a_hanging_call_is_unavailable(api: LabKube) -> None:
    api.faults.append(Fault("hang", "PATCH"))
    async with cluster(api.kubelet_conf) as adapter:
        with pytest.raises(Unavailable, match="does not answer in time"):
            await adapter.apply_labels({"a": "2"})


@pytest.mark.parametrize(("kind", "after"), [("close", {"a": "1"}), ("lost", {"a": "2"})])
async def test_a_lost_answer_is_unavailable_and_the_same_change_can_be_asked_again(
    api: LabKube, kind: str, after: dict[str, str]
) -> None:
    api.faults.append(Fault(kind, "PATCH"))  # type: ignore[arg-type]
    async with cluster(api.kubelet_conf) as adapter:
        with pytest.raises(Unavailable, match="closed the connection"):
            await adapter.apply_labels({"a": "2"})
        assert stored(api) == after
        await adapter.apply_labels({"a": "2"})
    assert stored(api) == {"a": "2"}


@pytest.mark.parametrize("body", ["[]", "{}", '{"items": 3}', "not JSON", '{"items": [1], "metadata": {}}'])
async def test_a_server_without_the_kubernetes_api_is_unavailable(api: LabKube, body: str) -> None:
    api.faults.append(Fault("status", "GET", status=200, body=body))
    async with cluster(api.kubelet_conf) as adapter:
        with pytest.raises(Unavailable):
            await shown(adapter.watch())


async def test_an_endless_answer_is_cut_off(api: LabKube) -> None:
    api.faults.append(Fault("status", "GET", status=200, body="x" * (9 * 2**20)))
    async with cluster(api.kubelet_conf) as adapter:
        with pytest.raises(Unavailable, match="longer than"):
            await shown(adapter.watch())


@pytest.mark.parametrize(
    "body",
    [
        "<html>502</html>\n",
        '"a string"\n',
        '{"type": "MODIFIED"}\n',
        '{"type": "MODIFIED", "object": {"metadata": null}}\n',
        '{"type": "ERROR", "object": {"code": 500, "message": "etcdserver: no leader"}}\n',
        '{"type": "NEVER_HEARD_OF", "object": {}}\n',
    ],
)
async def test_a_watch_that_tells_nonsense_is_unavailable(api: LabKube, body: str) -> None:
    api.faults.append(Fault("status", "watch=true", status=200, body=body))
    async with cluster(api.kubelet_conf) as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {"a": "1"}
        with pytest.raises(Unavailable):
            await shown(labels)


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (401, "401: .*may have expired.*config kube join -f"),
        (403, "403: .*allow it there"),
        (500, "500"),
        (503, "503"),
    ],
)
async def test_a_refused_watch_is_unavailable(api: LabKube, status: int, fix: str) -> None:
    api.faults.append(Fault("status", "watch=true", status=status))
    async with cluster(api.kubelet_conf) as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {"a": "1"}
        with pytest.raises(Unavailable, match=fix):
            await shown(labels)


async def test_a_server_that_ends_every_watch_at_once_is_unavailable_and_not_asked_in_a_loop(
    api: LabKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_watch, "WATCH_S_MIN", 20.0)
    api.faults.append(Fault("end", "watch=true", times=1000))
    async with cluster(api.kubelet_conf, watch_s=40) as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {"a": "1"}
        with pytest.raises(Unavailable, match="ended the watch at once"):
            await shown(labels)
    assert sum("watch=true" in line for line in api.requests) <= 2


GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "watch=true", status=200, body=json.dumps(GONE) + "\n"),
        Fault("status", "watch=true", status=410),
    ],
)
async def test_a_forgotten_version_is_listed_again_and_only_a_real_change_is_reported(
    api: LabKube, fault: Fault
) -> None:
    def asked(watching: bool) -> int:
        return sum(("watch=true" in line) == watching for line in api.requests if line.startswith("GET"))

    async with cluster(api.kubelet_conf) as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {"a": "1"}
        change = asyncio.ensure_future(shown(labels))
        await until_async(lambda: asked(watching=True))
        listed = asked(watching=False)
        api.faults.append(replace(fault))
        await until_async(lambda: asked(watching=False) > listed)
        assert not change.done()
        await adapter.apply_labels({"a": "2"})
        assert await change == {"a": "2"}


async def test_a_version_forgotten_as_soon_as_it_is_listed_is_unavailable(
    api: LabKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A watch that a busy machine takes a second to open has ended "at once" all the same.
    monkeypatch.setattr(kube_watch, "WATCH_S_MIN", 20.0)
    api.faults.append(Fault("status", "watch=true", times=1000, status=410))
    async with cluster(api.kubelet_conf, watch_s=40) as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {"a": "1"}
        with pytest.raises(Unavailable, match="ended the watch at once"):
            await shown(labels)
    assert sum("watch=true" in line for line in api.requests) == 1


async def test_an_older_store_behind_the_same_address_is_read_once_the_watch_ends(api: LabKube) -> None:
    """A standby has taken over; its versions are lower, and a watch from ours would wait for them."""
    older = copy.deepcopy(api.store.objects)
    for number in range(50):
        api.store.update(RESOURCES["nodes"], "", NODE, {"metadata": {"labels": {"a": f"new-{number}"}}})
    async with cluster(api.kubelet_conf) as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {"a": "new-49"}
        api.store = Store(objects=older, version=5)
        seen = await anext(labels)
        assert seen is not None
        assert (seen.labels, seen.older) == ({"a": "1"}, True)
        api.store.update(RESOURCES["nodes"], "", NODE, {"metadata": {"labels": {"a": "2"}}})
        api.store.publish()
        seen = await anext(labels)
        assert seen is not None
        assert (seen.labels, seen.older) == ({"a": "2"}, False)


async def test_a_node_that_was_registered_again_is_reported_though_its_labels_are_the_same(
    api: LabKube,
) -> None:
    async with cluster(api.kubelet_conf) as adapter, aclosing(adapter.watch()) as nodes:
        first = await anext(nodes)
        async with KubeClient(api.admin_conf) as admin:
            await admin.delete(f"{NODES}/{NODE}")
            assert await anext(nodes) is None
            await admin.post(NODES, node(NODE, a="1"))
        second = await anext(nodes)
        assert first is not None
        assert second is not None
        assert (first.labels, first.uid) != (second.labels, second.uid)
        assert first.labels == second.labels


async def test_the_watch_follows_the_node_of_the_credential(api: LabKube) -> None:
    async with KubeClient(api.admin_conf) as admin:
        await admin.post(NODES, node("switch2", b="2"))
    certified = CertifiedName(api.kubelet_conf)
    adapter = KubeCluster(api.kubelet_conf, certified, SECURE, watch_s=2, silence_s=4)
    async with asyncio.timeout(PATIENCE_S), aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {"a": "1"}
        pair = api.authority.issue("other", "system:node:switch2", "system:nodes")
        write_kubeconfig(api.kubelet_conf, api.url, api.authority.pem, pair, inline=True)
        assert await shown(labels) == {"b": "2"}
        await adapter.apply_labels({"b": "3"})
        assert await shown(labels) == {"b": "3"}
    await adapter.close()
    api.kubelet_conf.write_text("{")
    assert certified() == ""
    api.kubelet_conf.unlink()
    assert certified() == ""


async def test_a_compacted_history_does_not_end_the_watch(api: LabKube) -> None:
    async with cluster(api.kubelet_conf) as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {"a": "1"}
        change = asyncio.ensure_future(shown(labels))
        await until_async(lambda: sum("watch=true" in line for line in api.requests) >= 2)
        async with KubeClient(api.admin_conf) as admin:
            await admin.post(NODES, node("switch2"))
            api.store.compact()
            await admin.patch(f"{NODES}/{NODE}", {"metadata": {"labels": {"a": "2"}}})
        assert await change == {"a": "2"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read: No such file"),
        ("", "invalid kubeconfig"),
        ("{", "invalid kubeconfig"),
        ("[1, 2]", "invalid kubeconfig"),
        ("current-context: none\ncontexts: []\n", "invalid kubeconfig"),
        ("\xff\x00", "invalid kubeconfig"),
    ],
)
async def test_an_unusable_kubeconfig_is_unavailable_and_names_the_fix(
    tmp_path: Path, content: str | None, complaint: str
) -> None:
    kubeconfig = tmp_path / "kubelet.conf"
    if content is not None:
        kubeconfig.write_text(content, encoding="latin-1")
    async with cluster(kubeconfig) as adapter:
        with pytest.raises(Unavailable, match=complaint) as caught:
            await adapter.apply_labels({"a": "1"})
    assert "join" in caught.value.detail


@pytest.mark.parametrize(
    ("part", "change", "complaint"),
    [
        ("cluster", {"server": "http://127.0.0.1:1"}, "is not https://"),
        ("cluster", {"certificate-authority-data": "!"}, "not PEM"),
        ("cluster", {"certificate-authority-data": "AAAA"}, "cannot be used"),
        ("cluster", {"certificate-authority-data": None}, "no certificate-authority"),
        ("user", {"client-key": None}, "no client-key"),
        ("user", {"client-key": "/nowhere/key"}, "/nowhere/key: No such file"),
        ("user", {"client-certificate": 3}, "No such file"),
    ],
)
async def test_an_unusable_credential_is_unavailable_and_says_what_is_wrong(
    api: LabKube, part: str, change: dict[str, object], complaint: str
) -> None:
    config = json.loads(api.kubelet_conf.read_text())
    config[f"{part}s"][0][part].update(change)
    config[f"{part}s"][0][part] = {k: v for k, v in config[f"{part}s"][0][part].items() if v is not None}
    api.kubelet_conf.write_text(json.dumps(config))
    async with cluster(api.kubelet_conf) as adapter:
        with pytest.raises(Unavailable, match=complaint):
            await adapter.apply_labels({"a": "1"})


async def test_a_repaired_kubeconfig_is_taken_up_without_a_restart(api: LabKube) -> None:
    whole = api.kubelet_conf.read_text()
    api.kubelet_conf.unlink()
    async with cluster(api.kubelet_conf) as adapter:
        with pytest.raises(Unavailable):
            await adapter.apply_labels({"a": "2"})
        api.kubelet_conf.write_text(whole)
        await adapter.apply_labels({"a": "2"})
        api.kubelet_conf.unlink()
        with pytest.raises(Unavailable):
            await adapter.apply_labels({"a": "3"})
        api.kubelet_conf.write_text(whole)
        await adapter.apply_labels({"a": "3"})
    assert stored(api) == {"a": "3"}


async def test_nothing_is_left_open_after_close(api: LabKube) -> None:
    def ours() -> int:
        sockets = (os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
        return sum("socket:" in name for name in sockets)

    before = ours()
    for _ in range(3):
        async with cluster(api.kubelet_conf) as adapter, aclosing(adapter.watch()) as labels:
            await shown(labels)
            for number in range(3):
                api.authority.issue("kubelet", f"system:node:{NODE}", "system:nodes")
                await adapter.apply_labels({"n": str(number)})
                await shown(labels)
    await until_async(lambda: ours() <= before)


async def test_the_lab_s_server_keeps_port_and_objects_over_a_kill(tmp_path: Path) -> None:
    async def start() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.lab.kube_api", str(tmp_path)), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
        assert line.startswith(b"ready https://127.0.0.1:")
        return process

    first = await start()
    async with KubeClient(tmp_path / "admin.conf") as admin:
        await admin.post(NODES, node(NODE, kept="1"))
    async with cluster(tmp_path / "kubelet.conf") as adapter, aclosing(adapter.watch()) as labels:
        assert await shown(labels) == {"kept": "1"}
        first.kill()
        await first.wait()
        with pytest.raises(Unavailable):
            await shown(labels)
        second = await start()
        async with aclosing(adapter.watch()) as again:
            assert await shown(again) == {"kept": "1"}
        second.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(second.wait(), PATIENCE_S) == 0


async def test_the_lab_s_server_knows_who_asks(api: LabKube) -> None:
    async with KubeClient(api.kubelet_conf) as kubelet:
        with pytest.raises(KubeError) as caught:
            await kubelet.get("/apis/apps/v1/daemonsets")
    assert caught.value.status == 403
