"""Check that a switch joins a real master with the real kubeadm and kubelet, loses it, and leaves it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from kubesyncd.join.plan import STEP_S_MAX, JobStep
from kubesyncd.join.progress import JobPhase
from tests.lab.admin_conf import AdminConfServer
from tests.lab.certificates import DAY, Authority, Pair, write_kubeconfig
from tests.lab.join_switch import JoinSwitch
from tests.lab.kube_client import NODES, KubeClient, KubeError
from tests.lab.kube_client import node as node_named
from tests.lab.places import remove
from tests.paths import ROOT
from tests.system.docker_engine import RealDocker
from tests.system.kube_cluster import API_SERVER, PAUSE_IMAGE, programs_folder
from tests.system.kube_join import TOKEN, JoinableKube, NodeFolders
from tests.workers import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real("kubeadm")

NODE = "switch2"
# Whom kubeadm's own roles let join, and nothing else.
BOOTSTRAPPERS = "system:bootstrappers:kubeadm:default-node-token"


class RealMaster:
    """tests.lab.engines.Kube over a real cluster; the node's kubelet expects kubeadm."""

    def __init__(self, cluster: JoinableKube) -> None:
        self.cluster = cluster
        self.node = NODE
        self.admin_conf = cluster.admin_conf
        self.kubelet_conf = Path("/etc/kubernetes/kubelet.conf")
        self.start = cluster.start

    @property
    def url(self) -> str:
        return self.cluster.url

    def stop_api(self) -> None:
        self.cluster.kill(API_SERVER)

    def freeze_api(self) -> None:
        self.cluster.freeze(API_SERVER)

    def thaw_api(self) -> None:
        self.cluster.thaw(API_SERVER)

    def stop(self) -> None:
        """The maker of the cluster ends it."""

    def kubelet_unit(self, docker_socket: Path) -> dict[str, Any]:
        raise NotImplementedError(docker_socket)


class Lab:
    """What all tests of this module share: a cluster, an engine, admin.conf's server, and the node's folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("kube", "docker", "node"):
            (folder / name).mkdir()
        self.cluster = JoinableKube(folder / "kube", node=NODE)
        self.docker = RealDocker(folder / "docker")
        self.master = RealMaster(self.cluster)
        self.measured: dict[str, float] = {}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="kj-"))
    lab = Lab(folder)
    # The kubelet's health port is the machine's: another run's kubelet would answer for ours.
    with locked(programs_folder().parent / "kubeadm.lock"):
        try:
            lab.docker.start()
            lab.docker.import_image()
            lab.cluster.start_for_joins()
            yield lab
        finally:
            lab.cluster.stop()
            lab.docker.stop()
            remove(folder)
        print({what: round(seconds, 2) for what, seconds in lab.measured.items()})


@pytest.fixture
def server(lab: Lab) -> Iterator[AdminConfServer]:
    pair = Authority(lab.folder / "kube" / "pki").issue("https", "master", server=True)
    with AdminConfServer(lab.cluster.admin_conf, pair) as it:
        yield it


@contextmanager
def a_switch(
    lab: Lab, server: AdminConfServer, names: str = "hld", **kube_settings: Any
) -> Iterator[JoinSwitch]:
    """A switch that has not joined, its daemon running; whatever becomes of it, its node is gone afterwards.

    `names`: those of the fields in its databases.
    """
    folder = Path(tempfile.mkdtemp(prefix="node-", dir=lab.folder))
    with NodeFolders(folder, str(lab.docker.socket), NODE) as node:
        switch = JoinSwitch(
            lab.docker,
            lab.master,
            server,
            lab.folder / "kube" / "pki",
            kubeadm=node.kubeadm,
            python=node.python(),
            kube_settings={"ignore_preflight_errors": ["all"], **kube_settings},
            settings={"paths": {"kubelet_dir": "/var/lib/kubelet"}, "schema": {"names": names}},
        )
        node.use_systemctl(switch.units.systemctl)
        switch.credential = node.seen("/etc/kubernetes/kubelet.conf")
        switch.inside = node
        try:
            switch.redis.start()
            switch.config_db.set("CONFIG_DB_INITIALIZED", "1")
            switch.units.add("kubelet.service", node.kubelet_unit())
            switch.daemon.start()
            yield switch
        finally:
            switch.units.call("stop", "kubelet.service")
            lab.cluster.thaw(API_SERVER)
            lab.cluster.start()
            switch.close()
            admin(lab, "delete", f"{NODES}/{NODE}")


def admin(lab: Lab, verb: str, *arguments: Any, kubeconfig: Path | None = None) -> Any:
    """One call to the API server, as its administrator."""

    async def call() -> Any:
        async with KubeClient(kubeconfig or lab.cluster.admin_conf) as api:
            return await getattr(api, verb)(*arguments)

    return asyncio.run(call())


# kubeadm waits for a certificate and then for the Node, and may: controllers that have lost their master look for it
# again with pauses of up to a minute. The job's own limits are what it is held to.
JOB_S_MAX = sum(STEP_S_MAX[step] for step in (JobStep.JOIN, JobStep.RECORD, JobStep.CONFIGURE_KUBELET))
# An operator's command waits for the whole job, and gives up by itself after 600 s.
ASKED_S_MAX = 660.0


def connected(switch: JoinSwitch) -> None:
    switch.wait_for(lambda: switch.connected.lower() == "true", "connected", JOB_S_MAX)
    switch.wait_for(lambda: switch.progress.phase is not JobPhase.RUNNING, "the job is done", JOB_S_MAX)
    switch.wait_for(lambda: switch.kubelet_runs, "the kubelet runs")
    switch.wait_for(lambda: switch.master.labels, "the Node is there")


@pytest.mark.slow("several joins by the real kubeadm")
def test_a_switch_joins_is_forced_to_join_again_leaves_and_joins(lab: Lab, server: AdminConfServer) -> None:
    with a_switch(lab, server) as switch:
        switch.config_db.hset("DEVICE_METADATA|localhost", mapping={"hwsku": "Force10-S6000"})
        begun = time.monotonic()
        switch.join()
        connected(switch)
        lab.measured["join"] = time.monotonic() - begun
        switch.wait_for(lambda: switch.master.labels.get("hwsku") == "Force10-S6000", "it describes itself")
        uid = admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"]
        leftovers = {path.name for path in switch.credential.parent.iterdir()}
        assert leftovers == {"kubelet.conf", "pki"}, (
            "no administrator's credential is left beside the kubelet's"
        )

        # The same master, spelled otherwise: nothing is left, and nothing is joined.
        switch.config_db.hset("KUBERNETES_MASTER|SERVER", "IP", "[::FFFF:7F00:1]")
        joined = switch.clients.run("kube_join", limit_s=ASKED_S_MAX)
        assert (joined.returncode, switch.status["connected"]) == (0, True), joined.stderr
        assert joined.stdout.strip().endswith("is joined already; to join again: config kube join -f")
        assert switch.status["master"] == lab.cluster.url.removeprefix("https://")
        assert admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"] == uid

        forced = switch.clients.run("kube_join", "-f", limit_s=ASKED_S_MAX)
        assert forced.returncode == 0, forced.stderr
        connected(switch)
        switch.wait_for(
            lambda: switch.master.labels.get("hwsku") == "Force10-S6000", "it describes itself again"
        )
        assert admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"] != uid

        left = switch.clients.run("kube_reset", limit_s=ASKED_S_MAX)
        assert (left.returncode, left.stdout.strip()) == (0, "left the master"), left.stderr
        assert not switch.node_exists
        assert not switch.credential.exists()
        assert not switch.kubelet_runs

        again = switch.clients.run("kube_join", limit_s=ASKED_S_MAX)
        assert again.returncode == 0, again.stderr
        connected(switch)


@pytest.mark.slow("two joins by the real kubeadm, and two resets")
def test_leaving_starts_local_containers_before_it_drains_and_keeps_an_operators_file(
    lab: Lab, server: AdminConfServer
) -> None:
    with a_switch(lab, server, admin_conf_url="https://127.0.0.1:1/admin.conf") as switch:
        placed = lab.cluster.admin_conf.read_text()
        switch.admin_conf.write_text(placed)
        switch.join()
        connected(switch)
        switch.boot_local("snmp")
        switch.master.deploy("snmp")
        try:
            for leave, back in (("reset", "join"), ("server disable on", "server disable off")):
                switch.config("snmp", set_owner="kube", fallback_to_local="true")
                switch.until_state("snmp", "KUBE_RUNNING")
                left = switch.kubesync("config", "kube", *leave.split(), "-y", limit_s=ASKED_S_MAX)
                assert left.returncode == 0, left.stderr
                # Neither fallback_after_s nor the drain passes first.
                switch.until_state("snmp", "LOCAL")
                switch.wait_for(lambda: not switch.credential.exists(), "it has left", 300)
                (drained,) = [step for step in switch.progress.steps if step.step is JobStep.DRAIN]
                assert drained.ok, drained.detail
                told = [(line["event"], line.get("state"), "force" in line) for line in switch.log()]
                assert told[::-1].index(("membership", None, True)) < told[::-1].index(
                    ("state", "LOCAL", False)
                )
                aside = switch.admin_conf.with_name("kube_admin.conf.operator")
                switch.wait_for(lambda: not switch.admin_conf.exists(), "the operator's file is moved aside")
                assert aside.read_text() == placed
                # Until the daemon knows of the reset's end, this switch is leaving its master.
                until_explained(switch, "has not joined" if leave == "reset" else "master is disabled")
                shown = switch.prints("explain", "snmp")
                assert "kube, which cannot deploy" in shown
                assert ("config kube join" in shown) is (leave == "reset"), "what is advised is not refused"
                assert switch.kubesync("config", "kube", *back.split(), limit_s=ASKED_S_MAX).returncode == 0
                connected(switch)
        finally:
            switch.master.forget("snmp")


def until_explained(switch: JoinSwitch, why: str) -> None:
    """`explain` says this of snmp, in whatever lines."""
    switch.wait_for(lambda: why in " ".join(switch.prints("explain", "snmp").split()), f"explain says: {why}")


def test_a_joined_kubelet_removes_no_images_and_evicts_nothing_for_want_of_disk(
    lab: Lab, server: AdminConfServer
) -> None:
    with a_switch(lab, server) as switch:
        switch.join()
        connected(switch)
        config = yaml.safe_load(switch.inside.seen("/var/lib/kubelet/config.yaml").read_text())
        assert config["imageGCHighThresholdPercent"] == 100
        assert config["evictionHard"]["imagefs.available"] == "0%"
        log = switch.inside.folder / "kubelet.pid.log"
        # The kubelet says so itself, once it has read the file.
        switch.wait_for(lambda: "Disable image GC" in log.read_text(), "the kubelet's own word")


def test_our_credential_touches_no_other_node_and_no_kubernetes_label(
    lab: Lab, server: AdminConfServer
) -> None:
    with a_switch(lab, server, keep_admin_conf=False) as switch:
        switch.join()
        connected(switch)
        assert not switch.admin_conf.exists(), "the kubelet's credential is all there is"
        admin(lab, "post", NODES, node_named("other"))
        try:
            own = switch.folder / "own.conf"
            ca, pair = (
                lab.cluster.authority.pem,
                switch.inside.seen("/var/lib/kubelet/pki/kubelet-client-current.pem"),
            )
            resolved = pair.parent / pair.readlink().name
            write_kubeconfig(own, lab.cluster.url, ca, PairOf(resolved), inline=False)
            labels = {"metadata": {"labels": {"snmp_enabled": "true"}}}
            reserved = {"metadata": {"labels": {"node-role.kubernetes.io/master": ""}}}
            assert refusal(lab, own, "patch", f"{NODES}/other", labels) == 403
            assert refusal(lab, own, "patch", f"{NODES}/{NODE}", reserved) == 403
            assert refusal(lab, own, "get", "/api/v1/namespaces/kube-system/secrets") == 403
            assert refusal(lab, own, "delete", f"{NODES}/other") == 403
            assert refusal(lab, own, "delete", f"{NODES}/{NODE}") == 403, "not even the own one"
            assert refusal(lab, own, "patch", f"{NODES}/{NODE}", labels) == 0
        finally:
            admin(lab, "delete", f"{NODES}/other")


class PairOf:
    """A certificate and its key in one file, as the kubelet keeps them."""

    def __init__(self, file: Path) -> None:
        self.certificate = self.key = file


def refusal(lab: Lab, kubeconfig: Path, verb: str, *arguments: Any) -> int:
    """The status of a refused call; 0 where it is allowed."""
    try:
        admin(lab, verb, *arguments, kubeconfig=kubeconfig)
    except KubeError as error:
        return error.status
    return 0


def let_read_ca(lab: Lab) -> None:
    """What a fleet's cluster has for its switches: the CA that Kubernetes publishes, and the right to read it."""
    path, name = "/api/v1/namespaces/default/configmaps", "kube-root-ca.crt"
    with suppress(KubeError):  # the controller has made it already
        pem = lab.cluster.authority.pem.decode()
        admin(lab, "post", path, {"metadata": {"name": name}, "data": {"ca.crt": pem}})
    rights = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": ["get"]}
    subject = {"kind": "Group", "name": BOOTSTRAPPERS, "apiGroup": "rbac.authorization.k8s.io"}
    role = {"kind": "Role", "name": "read-ca", "apiGroup": "rbac.authorization.k8s.io"}
    with suppress(KubeError):
        admin(lab, "post", f"{rights}/roles", {"metadata": {"name": "read-ca"}, "rules": [rule]})
    with suppress(KubeError):
        body = {"metadata": {"name": "read-ca"}, "subjects": [subject], "roleRef": role}
        admin(lab, "post", f"{rights}/rolebindings", body)


@pytest.mark.parametrize("way", ["token", "certificate", "installed"])
def test_a_switch_joins_and_joins_again_without_an_administrator(
    lab: Lab, server: AdminConfServer, way: str
) -> None:
    token = lab.folder / "token"
    token.write_text(TOKEN)
    pair = lab.cluster.authority.issue("bootstrapper", "switches", BOOTSTRAPPERS)
    ways = {
        "token": {"bootstrap_token_file": str(token), "ca_cert_hash": lab.cluster.ca_hash},
        "certificate": {"client_certificate": str(pair.certificate), "client_key": str(pair.key)},
        "installed": {
            "ca_file": "",
            "ca_cert_hash": lab.cluster.ca_hash,
            "admin_conf_url": "https://127.0.0.1:1/",
        },
    }
    with a_switch(lab, server, **ways[way]) as switch:
        if way == "installed":
            let_read_ca(lab)
            folder = switch.admin_conf.parent / "credentials"
            folder.mkdir()
            (folder / "restapiserver.crt").write_bytes(pair.certificate.read_bytes())
            (folder / "restapiserver.key").write_bytes(pair.key.read_bytes())
        switch.join()
        connected(switch)
        assert not switch.admin_conf.exists()
        forced = switch.clients.run("kube_join", "-f", limit_s=ASKED_S_MAX)
        assert forced.returncode == 0, forced.stderr
        connected(switch)
        left = switch.clients.run("kube_reset", limit_s=ASKED_S_MAX)
        assert left.returncode == 0
        assert f"run: kubectl delete node {NODE}" in left.stdout


def test_a_credential_without_rights_joins_nothing_and_leaves_nothing(
    lab: Lab, server: AdminConfServer
) -> None:
    pair = lab.cluster.authority.issue("nobody", "nobody")
    options = {
        "client_certificate": str(pair.certificate),
        "client_key": str(pair.key),
        "join_boot_delay_s": 1e6,
    }
    with a_switch(lab, server, **options) as switch:
        switch.join()
        ended = switch.clients.run("kube_join", limit_s=ASKED_S_MAX)
        assert ended.returncode == 1
        assert "forbidden" in ended.stderr.lower()
        assert not switch.credential.exists()
        assert not switch.kubelet_runs


# What the API server's certificate can be, and what our side says of it.
LIES = {
    "expired": "certificate has expired",
    "another CA": "certificate signature failure",
    "another host": "IP address mismatch",
}


@contextmanager
def lying(lab: Lab, lie: str) -> Iterator[None]:
    """The real API server with a certificate that no client should trust."""
    authority = Authority(lab.folder / "stranger") if lie == "another CA" else lab.cluster.authority
    host, valid = {"another host": "127.0.0.2"}.get(lie, "127.0.0.1"), -DAY if lie == "expired" else DAY
    serve(lab, authority.issue("lie", "kube-apiserver", server=True, host=host, valid=valid))
    try:
        yield
    finally:
        serve(lab, None)


def serve(lab: Lab, pair: Pair | None) -> None:
    lab.cluster.kill(API_SERVER)
    lab.cluster.start(pair)


def status_shown(switch: JoinSwitch) -> str:
    """What `show kubernetes status` says, on one line. The reason is that of the last try, each time."""
    return " ".join(switch.prints("show", "kubernetes", "status").split())


@pytest.mark.parametrize("lie", LIES)
def test_a_master_that_cannot_prove_itself_is_neither_joined_nor_left(
    lab: Lab, server: AdminConfServer, lie: str
) -> None:
    with a_switch(lab, server) as switch:
        with lying(lab, lie):
            switch.join()
            ended = switch.clients.run("kube_join", limit_s=ASKED_S_MAX)
            assert ended.returncode == 1
            assert f"ask the master: the certificate of {lab.cluster.url} is not trusted" in ended.stderr
            assert LIES[lie] in ended.stderr
            assert not switch.credential.exists()
        connected(switch)
        uid = admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"]
        with lying(lab, lie):
            switch.wait_for(lambda: LIES[lie] in switch.status["why_disconnected"], "the link tells why")
            switch.wait_for(lambda: switch.connected == "False", "STATE_DB says so")
            switch.wait_for(
                lambda: all(
                    words in status_shown(switch) for words in (LIES[lie], "check this switch's clock")
                ),
                "the operator is told why, and what to check",
            )
            assert [line for line in switch.log("master", connected=False) if LIES[lie] in line["why"]]
            forced = switch.clients.run("kube_join", "-f", limit_s=ASKED_S_MAX)
            assert forced.returncode == 1
            assert LIES[lie] in forced.stderr
            assert switch.credential.exists(), "nothing is torn down"
            assert switch.kubelet_runs
        connected(switch)
        assert admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"] == uid, "never re-joined"


@pytest.mark.slow("several joins by the real kubeadm")
def test_a_token_joins_no_master_but_the_one_its_pin_names(lab: Lab, server: AdminConfServer) -> None:
    token = lab.folder / "token"
    token.write_text(TOKEN)
    settings = {"bootstrap_token_file": str(token), "ca_cert_hash": f"sha256:{'0' * 64}"}
    with a_switch(lab, server, **settings) as switch:
        switch.join()
        ended = switch.clients.run("kube_join", limit_s=ASKED_S_MAX)
        assert ended.returncode == 1
        assert "[kube] ca_cert_hash is not that of this master's CA" in ended.stderr
        assert not switch.credential.exists()
    with a_switch(lab, server, **{**settings, "ca_cert_hash": lab.cluster.ca_hash}) as switch:
        with lying(lab, "another CA"):
            switch.join()
            ended = switch.clients.run("kube_join", limit_s=ASKED_S_MAX)
            assert ended.returncode == 1
            assert "x509" in ended.stderr
            assert not switch.credential.exists()
        connected(switch)


def test_a_token_without_rights_or_out_of_date_joins_nothing_and_costs_no_membership(
    lab: Lab, server: AdminConfServer
) -> None:
    token = lab.folder / "token"
    token.write_text("norite.0123456789abcdef")
    give_token(lab, "norite", groups="system:bootstrappers:nobody")
    with a_switch(lab, server, bootstrap_token_file=str(token), ca_cert_hash=lab.cluster.ca_hash) as switch:
        switch.join()
        ended = switch.clients.run("kube_join", limit_s=ASKED_S_MAX)
        assert ended.returncode == 1
        assert 'forbidden: User "system:bootstrap:norite"' in ended.stderr
        assert "docs/fleet.md" in ended.stderr
        assert not switch.credential.exists()
        assert not switch.kubelet_runs
        token.write_text(TOKEN)
        connected(switch)
        uid = admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"]
        for old in ("norite.0123456789abcdef", "gone00.0123456789abcdef"):
            token.write_text(old)
            forced = switch.clients.run("kube_join", "-f", limit_s=ASKED_S_MAX)
            assert forced.returncode == 1
            assert "try the credential:" in forced.stderr
        assert "kubeadm token create" in forced.stderr
        connected(switch)
        assert admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"] == uid, "nothing was torn down"


def give_token(lab: Lab, name: str, *, groups: str) -> None:
    """A bootstrap token `name`.0123456789abcdef of these groups."""
    told = {
        "token-id": name,
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": groups,
    }
    metadata = {"name": f"bootstrap-token-{name}", "namespace": "kube-system"}
    secret = {"metadata": metadata, "type": "bootstrap.kubernetes.io/token", "stringData": told}
    admin(lab, "post", "/api/v1/namespaces/kube-system/secrets", secret)


@pytest.mark.slow("several joins by the real kubeadm")
def test_a_revoked_credential_is_reported_with_the_fix_and_a_renewed_one_is_used(
    lab: Lab, server: AdminConfServer
) -> None:
    with a_switch(lab, server) as switch:
        switch.join()
        connected(switch)
        file = switch.inside.seen("/var/lib/kubelet/pki/kubelet-client-current.pem")
        good = (file.parent / file.readlink().name).read_bytes()
        uid = admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"]

        become(switch, lab.cluster.authority.issue("old", f"system:node:{NODE}", "system:nodes", valid=-DAY))
        told_of(switch, "401", "the kubelet's certificate, which may have expired", "config kube join -f")
        switch.wait_for(lambda: switch.log("credential_expires"), "and the clock's alert", 120)
        become(switch, lab.cluster.authority.issue("other", "nobody"))
        told_of(switch, "403", "does not let this node do so; allow it there")
        assert switch.kubelet_runs
        put(file, good)
        connected(switch)
        assert admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"] == uid, "never re-joined"


def become(switch: JoinSwitch, pair: Pair) -> None:
    """Make this the kubelet's certificate, as a renewal does."""
    file = switch.inside.seen("/var/lib/kubelet/pki/kubelet-client-current.pem")
    put(file, pair.certificate.read_bytes() + pair.key.read_bytes())


def put(file: Path, content: bytes) -> None:
    fresh = file.with_name("fresh.pem")
    fresh.write_bytes(content)
    fresh.replace(file)


def told_of(switch: JoinSwitch, *words: str) -> None:
    """The link is down, and says so with these words."""
    switch.wait_for(lambda: all(w in switch.status["why_disconnected"] for w in words), words[0], 120)
    switch.wait_for(lambda: switch.connected == "False", "STATE_DB says so")


@pytest.mark.slow("several joins by the real kubeadm")
def test_an_outage_tears_nothing_down_and_heals_by_itself(lab: Lab, server: AdminConfServer) -> None:
    with a_switch(lab, server) as switch:
        switch.join()
        connected(switch)
        uid = admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"]

        switch.kube.stop_api()
        begun = time.monotonic()
        switch.wait_for(lambda: switch.connected == "False", "refused connections are noticed")
        lab.measured["refused"] = time.monotonic() - begun
        code, said = switch.ask("label", "rack=7")
        assert code == 0
        assert said[0].startswith("queued")
        switch.wait_for(lambda: not switch.kubelet_runs, "the kubelet is stopped meanwhile")
        switch.daemon.restart()
        switch.kube.start()
        connected(switch)
        switch.wait_for(lambda: switch.master.labels.get("rack") == "7", "the queue is drained")

        begun = time.monotonic()
        switch.kube.freeze_api()
        switch.wait_for(lambda: switch.connected == "False", "silence is noticed", 120)
        lab.measured["half-open"] = time.monotonic() - begun
        switch.kube.thaw_api()
        connected(switch)
        assert admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"] == uid, "never re-joined"


def test_a_master_that_is_away_for_the_whole_boot_is_waited_for(lab: Lab, server: AdminConfServer) -> None:
    with a_switch(lab, server) as switch:
        switch.kube.stop_api()
        switch.join()
        switch.wait_for(lambda: switch.status["membership"].get("phase") == "failed", "the first try is over")
        assert switch.membership is None
        assert not switch.credential.exists()
        switch.kube.start()
        connected(switch)


def test_a_reset_without_the_master_does_the_rest_and_the_switch_can_come_back(
    lab: Lab, server: AdminConfServer
) -> None:
    with a_switch(lab, server) as switch:
        switch.join()
        connected(switch)
        switch.kube.stop_api()
        left = switch.clients.run("kube_reset", limit_s=ASKED_S_MAX)
        assert left.returncode == 0
        assert f"run: kubectl delete node {NODE}" in left.stdout
        assert not switch.credential.exists()
        assert not switch.admin_conf.exists()
        assert not switch.kubelet_runs
        switch.kube.start()
        assert switch.node_exists, "no credential could delete it"
        # kubeadm takes the name again once the master no longer believes in the old node.
        switch.clients.run("kube_join", limit_s=ASKED_S_MAX)
        connected(switch)


def test_a_joined_switch_lives_a_whole_boot_without_its_master(lab: Lab, server: AdminConfServer) -> None:
    with a_switch(lab, server) as switch:
        switch.join()
        connected(switch)
        switch.boot_local("snmp")
        switch.config("snmp", set_owner="kube", fallback_to_local="true")
        switch.wait_for(lambda: switch.master.label_of("snmp") == "true", "the master may deploy it")
        uid = admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"]
        joined_at = switch.membership.at

        switch.kube.stop_api()
        switch.wait_for(lambda: switch.connected == "False", "the outage is noticed")
        assert switch.ask("label", "rack=7")[1][0].startswith("queued")
        for _ in range(2):
            switch.reboot()
            switch.wait_for(lambda: switch.connected == "False", "this boot finds no master either")
            switch.done("start", "snmp")
            switch.until_state("snmp", "LOCAL")
            switch.wait_for(lambda: "rack=7" in switch.pending, "what was queued is")
            assert not switch.kubelet_runs, "it would act on old labels"
        switch.kube.start()
        connected(switch)
        switch.wait_for(lambda: switch.master.labels.get("rack") == "7", "the queue is drained")
        switch.wait_for(lambda: not switch.pending, "and empty")
        assert switch.running("snmp"), "nothing was stopped by the master's return"
        assert admin(lab, "get", f"{NODES}/{NODE}")["metadata"]["uid"] == uid, "never re-joined"
        assert switch.membership.at == joined_at


# ---- upstream's system test of this feature ------------------------------------------------------

THEIR_LABEL = "deployDaemonset"


def sonic_cli(switch: JoinSwitch) -> Path:
    """What sonic-utilities' `config` finds: our plugin, as the package brings it, and `kubesync`."""
    site = switch.folder / "site"
    plugins = site / "config" / "plugins"
    plugins.mkdir(parents=True)
    (plugins.parent / "__init__.py").touch()
    (plugins / "__init__.py").touch()
    (plugins / "kubesyncd.py").write_text((ROOT / "packaging/plugins/config.py").read_text())
    program = site / "bin" / "kubesync"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kubesyncd.cli "$@"\n')
    program.chmod(0o755)
    return site


def typed(switch: JoinSwitch, site: Path, line: str) -> None:
    """Type a line of sonic-utilities' `config`; it must succeed."""
    environ = {**switch.clients.environment, "KUBESYNCD_CONFIG": str(switch.paths.settings)}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.lab.sonic_utilities", str(site), *line.split()],
        env={**environ, "PATH": f"{site}/bin:{environ['PATH']}"}, cwd=ROOT, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, f"{line}: {ended}\n{switch.told()}"


def their_daemonset() -> dict[str, Any]:
    """A pod of another's on each node with their label: a pause container in the host's network."""
    metadata = {"labels": {"group": "test-ds-pod"}}
    container = {"name": "mock-ds-container", "image": PAUSE_IMAGE, "imagePullPolicy": "Never"}
    spec = {
        "nodeSelector": {THEIR_LABEL: "true"},
        "hostNetwork": True,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "test-daemonset"},
        "spec": {
            "selector": {"matchLabels": metadata["labels"]},
            "template": {"metadata": metadata, "spec": spec},
        },
    }


@pytest.mark.upstream("kubesonic/join-deploy-leave", "differs")
@pytest.mark.slow("two joins by the real kubeadm, and two resets")
def test_upstream_s_own_story_join_deploy_withdraw_and_leave_twice(lab: Lab, server: AdminConfServer) -> None:
    """The steps of KubeSonic's test in sonic-mgmt, with the commands that it types, and a feature beside its pod."""
    # As there: the certificate of the switch's REST API has an administrator's rights, and no admin.conf is served.
    pair = lab.cluster.authority.issue("restapiserver", "restapi.example", "system:masters")
    way = {"admin_conf_url": "https://127.0.0.1:1/", "ca_file": "", "ca_cert_hash": lab.cluster.ca_hash}
    theirs = "/apis/apps/v1/namespaces/default/daemonsets"
    admin(lab, "post", theirs, their_daemonset())
    try:
        with a_switch(lab, server, "sonic", **way) as switch:
            site = sonic_cli(switch)
            folder = switch.etc / "credentials"
            folder.mkdir()
            for file in (pair.certificate, pair.key):
                shutil.copy(file, folder)
            switch.boot_local("snmp")
            switch.master.deploy("snmp")
            for _ in range(2):
                joins_deploys_withdraws_and_leaves(lab, switch, site)
            assert server.requests == [], "admin.conf was never asked for"
    finally:
        admin(lab, "delete", f"{theirs}/test-daemonset")


def joins_deploys_withdraws_and_leaves(lab: Lab, switch: JoinSwitch, site: Path) -> None:
    host, _, port = lab.cluster.url.removeprefix("https://").rpartition(":")
    typed(switch, site, f"config kube server port {port}")
    typed(switch, site, f"config kube server ip {host}")
    typed(switch, site, "config kube server disable off")
    connected(switch)
    assert switch.state_db.hget("KUBERNETES_MASTER|SERVER", "connected") == "true"

    # A feature's pod comes through the gate; the other one's has nothing to do with any feature.
    typed(switch, site, "config feature snmp owner kube -y")
    switch.until_row("snmp", current_owner="kube", remote_state="running")
    (ours,) = switch.running("snmp")
    assert switch.row("snmp")["container_id"] == ours[:12]
    switch.master.set_label(THEIR_LABEL, "true")
    switch.wait_for(lambda: their_containers(switch), "the pod of their DaemonSet runs")
    assert switch.row("snmp")["container_id"] == ours[:12]

    switch.master.set_label(THEIR_LABEL, None)
    typed(switch, site, "config feature snmp owner local -y")
    switch.until_row("snmp", current_owner="local", remote_state="none", container_id="snmp")
    # A master that answers late does not keep the local container from its start.
    switch.wait_for(lambda: switch.master.label_of("snmp") == "", "the label is removed")
    switch.wait_for(lambda: ours not in switch.running("snmp"), "the feature's pod is gone")
    switch.wait_for(lambda: not their_containers(switch), "the pod of their DaemonSet is gone")

    # Leaving ends what Kubernetes runs, so a script confirms it.
    typed(switch, site, "config kube server disable on -y")
    switch.wait_for(lambda: not switch.node_exists, "the node is gone", JOB_S_MAX)
    switch.wait_for(lambda: switch.progress.phase is not JobPhase.RUNNING, "the job is done", JOB_S_MAX)
    assert not switch.credential.exists()
    assert not switch.kubelet_runs
    switch.wait_for(
        lambda: switch.state_db.hget("KUBERNETES_MASTER|SERVER", "connected") == "false", "STATE_DB says so"
    )


def their_containers(switch: JoinSwitch) -> list[dict[str, Any]]:
    """The running containers of their DaemonSet, by Docker's word."""
    return switch.docker.list(label=["io.kubernetes.container.name=mock-ds-container"], status=["running"])
