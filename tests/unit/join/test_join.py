"""Check join and leave through the daemon's clients and processes, against the lab's master."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from kubesyncd.join.plan import Standing
from kubesyncd.join.progress import JobPhase
from kubesyncd.runtime.x509 import key_hash
from tests.lab.admin_conf import AdminConfServer
from tests.lab.certificates import DAY, Authority, write_kubeconfig
from tests.lab.engines import ROOT, LabKubeProcess
from tests.lab.join_switch import JoinSwitch
from tests.lab.kube_client import NODES, KubeClient, KubeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.lab.engines import LabDockerProcess

    Make = Callable[..., JoinSwitch]

pytest.importorskip("kubernetes_asyncio", reason="kubesyncd[kube] is not installed")
pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabKubeProcess]:
    """An API server of this module's own: it is stopped, and its node comes and goes."""
    kube = LabKubeProcess(tmp_path_factory.mktemp("join"), node="switch9")
    kube.start()
    yield kube
    kube.stop()


@pytest.fixture
def pki(master: LabKubeProcess) -> Path:
    return master.folder / "pki"


@pytest.fixture
def server(master: LabKubeProcess, pki: Path) -> Iterator[AdminConfServer]:
    """Where the master's admin.conf is fetched."""
    pair = Authority(pki).issue("https", "master", server=True)
    with AdminConfServer(master.admin_conf, pair) as it:
        yield it


@pytest.fixture
def switches(
    lab_docker: LabDockerProcess, master: LabKubeProcess, server: AdminConfServer, pki: Path
) -> Iterator[Make]:
    """`switches(**kube_settings)`: a switch without a daemon yet; `power_on(switch)` starts it."""
    made: list[JoinSwitch] = []

    def make(**kube_settings: Any) -> JoinSwitch:
        master.start()
        switch = JoinSwitch(lab_docker, master, server, pki, kube_settings=kube_settings)
        made.append(switch)
        switch.redis.start()
        switch.config_db.set("CONFIG_DB_INITIALIZED", "1")
        switch.units.add("kubelet.service", switch.kube.kubelet_unit(lab_docker.socket))
        return switch

    yield make
    for switch in made:
        tracebacks = switch.daemon.tracebacks if switch.daemon.log_file.exists() else []
        switch.close()
        assert not tracebacks, "\n".join(tracebacks)
    forget_node(master)


@contextmanager
def stopped(switch: JoinSwitch) -> Iterator[None]:
    switch.kube.stop_api()
    try:
        yield
    finally:
        switch.kube.start()


def forget_node(master: LabKubeProcess) -> None:
    """Leave no Node to the next test."""

    async def delete() -> None:
        async with KubeClient(master.admin_conf) as admin:
            await admin.delete(f"{NODES}/{master.node}")

    master.start()
    asyncio.run(delete())


def power_on(switch: JoinSwitch) -> JoinSwitch:
    switch.daemon.start()
    return switch


def until_joined(switch: JoinSwitch) -> None:
    """Connected, and the job that joined has ended."""
    switch.wait_for(lambda: switch.connected == "True", "connected")
    switch.wait_for(lambda: switch.progress.phase is JobPhase.DONE, "the job is done")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_impossible_name_never_joins_and_says_why_until_it_is_corrected(switches: Make) -> None:
    switch = power_on(switches(node_name="leaf_01"))
    switch.join()
    switch.wait_for(lambda: switch.log("join_refused"), "it says why it does not join")
    assert "config hostname NAME" in switch.log("join_refused")[0]["why"]
    why = "'leaf_01' cannot be the name of a node"
    switch.wait_for(lambda: why in switch.status["kubelet_why"], "the kubelet's part says so, too")
    told = switch.status
    assert (told["joined"], told["node_exists"]) == (False, None)
    for force in ("0", "1"):
        code, said = switch.ask("join", force)
        assert code == 1
        assert said == []
        asked = switch.kubesync("config", "kube", "join", *(["-f"] if force == "1" else []))
        assert asked.returncode != 0
        assert "'leaf_01' cannot be the name of a node" in asked.stderr
    assert switch.job("join").returncode == 1, "nor does the job itself, started by hand"
    assert (switch.kubeadm_calls, len(switch.log("join_refused"))) == ([], 1)
    text = switch.paths.settings.read_text()
    switch.paths.settings.write_text(text.replace("leaf_01", switch.kube.node))
    switch.daemon.restart()
    until_joined(switch)
    assert switch.status["node"] == switch.kube.node


# ---- the job itself ------------------------------------------------------------------------------


@pytest.mark.upstream("ctrmgrd/no-master", "differs")
def test_nothing_configured_and_nothing_happens_ever(switches: Make) -> None:
    switch = power_on(switches())
    switch.wait_for(
        lambda: switch.status["kubelet_why"] != "the configuration has not been read yet", "it looks"
    )
    assert switch.kubeadm_calls == []
    assert switch.units.calls == []
    assert list((switch.folder / "run").glob("join*")) == []


def test_a_join_without_a_master_is_refused_with_the_command_that_sets_one(switches: Make) -> None:
    ended = switches().job("join")
    assert ended.returncode == 1
    assert "no master is configured; run: config kube server ip ADDRESS" in ended.stderr


@pytest.mark.upstream("kube_commands/join-ready", "same")
@pytest.mark.upstream("kube_commands/reset", "same")
def test_the_operator_joins_resets_and_joins_again(switches: Make, server: AdminConfServer) -> None:
    switch = power_on(switches(join_boot_delay_s=10_000_000))
    switch.join()
    joined = switch.clients.run("kube_join")
    assert (joined.returncode, joined.stderr) == (0, "")
    assert joined.stdout.startswith("joined 127.0.0.1:")
    until_joined(switch)
    switch.wait_for(lambda: switch.kubelet_runs, "the kubelet runs")
    assert switch.membership is not None
    assert switch.membership.standing is Standing.JOINED

    again = switch.clients.run("kube_join")
    assert again.returncode == 0
    assert "is joined already" in again.stdout
    assert switch.kubeadm_calls == ["join"]

    left = switch.clients.run("kube_reset")
    assert (left.returncode, left.stderr) == (0, "")
    switch.wait_for(lambda: switch.connected == "False", "not connected")
    assert not switch.kubelet_runs
    assert not switch.node_exists
    assert not switch.kube.kubelet_conf.exists()
    assert not switch.admin_conf.exists()
    assert switch.kubeadm_calls == ["join", "reset"]

    assert switch.clients.run("kube_join").returncode == 0
    switch.wait_for(lambda: switch.connected == "True", "connected again")


@pytest.mark.story
@pytest.mark.slow("a whole switch joins and leaves")
def test_an_address_that_appears_is_joined_and_a_disabled_one_is_left(switches: Make) -> None:
    switch = power_on(switches())
    switch.join()
    until_joined(switch)
    switch.join(disable="true")
    switch.wait_for(lambda: switch.connected == "False", "not connected")
    switch.wait_for(lambda: switch.status["membership"].get("phase") != "running", "the reset is over")
    switch.wait_for(lambda: not switch.kube.kubelet_conf.exists(), "the credential is gone")
    assert not switch.node_exists
    switch.join(disable="false")
    switch.wait_for(lambda: switch.connected == "True", "connected again")


def test_an_operator_s_reset_stands_until_he_joins_or_changes_the_configuration(switches: Make) -> None:
    switch = power_on(switches())
    switch.join()
    until_joined(switch)
    assert switch.clients.run("kube_reset").returncode == 0
    switch.daemon.restart()
    switch.wait_for(lambda: switch.status["kubelet_why"].startswith("this switch has not joined"), "it looks")
    assert switch.kubeadm_calls == ["join", "reset"]
    assert switch.membership is not None
    assert switch.membership.standing is Standing.LEFT
    switch.join(disable="true")
    switch.wait_for(lambda: switch.membership is None, "the reset is forgotten")
    switch.join(disable="false")
    switch.wait_for(lambda: switch.connected == "True", "connected again")


def test_a_joined_kubelet_is_kept_from_removing_images_it_knows_nothing_of(switches: Make) -> None:
    switch = power_on(switches())
    switch.join()
    until_joined(switch)
    config = yaml.safe_load(switch.kubelet_config.read_text())
    assert (config["imageGCHighThresholdPercent"], config["imageGCLowThresholdPercent"]) == (100, 99)
    assert config["evictionHard"] == {
        "memory.available": "100Mi",
        "imagefs.available": "0%",
        "nodefs.available": "0%",
        "nodefs.inodesFree": "0%",
    }
    assert config["clusterDNS"] == ["10.96.0.10"], "the rest is as the cluster wants it"
    toggles = [call for call in switch.units.calls if "kubelet" in call]
    at = len(toggles) - 1 - toggles[::-1].index("disable --now kubelet.service")
    assert toggles[at + 1] == "enable --now kubelet.service", "it reads the file when it starts"
    assert switch.kubelet_runs


def test_a_cluster_that_wants_its_kubelets_to_collect_images_is_left_alone(
    lab_docker: LabDockerProcess, master: LabKubeProcess, server: AdminConfServer, pki: Path
) -> None:
    switch = JoinSwitch(lab_docker, master, server, pki, settings={"images": {"kubelet_gc": True}})
    try:
        switch.redis.start()
        switch.units.add("kubelet.service", switch.kube.kubelet_unit(lab_docker.socket))
        switch.config_db.set("CONFIG_DB_INITIALIZED", "1")
        power_on(switch).join()
        until_joined(switch)
        assert yaml.safe_load(switch.kubelet_config.read_text())["evictionHard"] == {}
    finally:
        switch.close()
        forget_node(master)


def test_admin_conf_is_kept_for_root_alone_and_says_the_configured_address(switches: Make) -> None:
    switch = switches()
    switch.join(IP="localhost")
    assert switch.job("join").returncode == 0
    assert mode(switch.admin_conf) == 0o600
    port = switch.kube.url.rpartition(":")[2]
    (cluster,) = yaml.safe_load(switch.admin_conf.read_text())["clusters"]
    assert cluster["cluster"]["server"] == f"https://localhost:{port}"
    assert not (switch.folder / "run" / "join.conf").exists()


def test_admin_conf_is_not_kept_where_the_settings_say_so(switches: Make) -> None:
    switch = switches(keep_admin_conf=False)
    switch.join()
    assert switch.job("join").returncode == 0
    assert not switch.admin_conf.exists()
    assert not (switch.folder / "run" / "join.conf").exists()


def test_a_bootstrap_token_joins_without_any_admin_conf(switches: Make, server: AdminConfServer) -> None:
    switch = switches()
    token = switch.folder / "token"
    token.write_text("abcdef.0123456789abcdef\n")
    switch = switches(
        bootstrap_token_file=str(token), ca_cert_hash="sha256:" + "0" * 64, keep_admin_conf=False
    )
    switch.join()
    assert switch.job("join").returncode == 0
    assert server.requests == []
    assert not switch.admin_conf.exists()
    assert switch.membership is not None
    assert switch.membership.how == "token"
    commands = (switch.kubeadm / "kubeadm.calls").read_text()
    assert "abcdef" not in commands


def test_a_client_certificate_on_the_switch_joins_without_any_admin_conf(
    switches: Make, server: AdminConfServer, pki: Path
) -> None:
    pair = Authority(pki).issue("provisioned", "admin", "system:masters")
    switch = switches(client_certificate=str(pair.certificate), client_key=str(pair.key))
    switch.join()
    assert switch.job("join").returncode == 0
    assert server.requests == []
    assert not switch.admin_conf.exists()


@pytest.mark.parametrize(("group", "deletes"), [("system:masters", True), ("system:nodes", False)])
def test_a_client_certificate_that_may_delete_the_node_does_so_when_the_switch_leaves(
    switches: Make, pki: Path, group: str, deletes: bool
) -> None:
    pair = Authority(pki).issue("provisioned", "admin", "system:masters")
    switch = switches(client_certificate=str(pair.certificate), client_key=str(pair.key))
    switch.join()
    assert switch.job("join").returncode == 0
    switch.wait_for(lambda: switch.node_exists, "the kubelet has made its Node")
    Authority(pki).issue("provisioned", f"system:node:{switch.kube.node}", group)
    assert switch.job("reset").returncode == 0
    assert switch.node_exists is not deletes
    assert (switch.progress.left_over == ()) is deletes
    assert not (switch.folder / "run" / "join.conf").exists(), "no copy of the key stays behind"


def publish_ca(switch: JoinSwitch, pem: bytes) -> None:
    """What Kubernetes 1.20 and newer publish in each namespace."""
    path = "/api/v1/namespaces/default/configmaps"
    with suppress(KubeError):
        switch.master.call("delete", f"{path}/kube-root-ca.crt")
    body = {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": pem.decode()}}
    switch.master.call("post", path, body)


def install_certificate(switch: JoinSwitch, pki: Path) -> None:
    """The certificate that fleets of SONiC 202405 and newer have on each switch; this one may do anything."""
    pair = Authority(pki).issue("restapi", "admin", "system:masters")
    folder = switch.etc / "credentials"
    folder.mkdir()
    for name, file in (("crt", pair.certificate), ("key", pair.key)):
        (folder / f"restapiserver.{name}").write_bytes(file.read_bytes())
        (folder / f"restapiserver.{name}").chmod(0o600)


NOT_SERVED = "https://127.0.0.1:1/admin.conf"


@pytest.mark.upstream("kube_commands/join-certificate", "differs")
def test_the_installed_certificate_joins_where_no_admin_conf_is_served_and_the_ca_is_pinned(
    switches: Make, pki: Path
) -> None:
    pin = key_hash(Authority(pki).pem)
    switch = switches(admin_conf_url=NOT_SERVED, ca_file="", ca_cert_hash=pin)
    install_certificate(switch, pki)
    switch.join(insecure="True")
    other = Authority(pki / "other").pem
    publish_ca(switch, other)
    before = set(switch.folder.rglob("*"))
    ended = switch.job("join")
    assert ended.returncode == 1
    assert "is not the pinned one; correct [kube] ca_cert_hash" in switch.progress.why
    assert switch.kubeadm_calls == []

    publish_ca(switch, other + Authority(pki).pem)
    assert switch.job("join").returncode == 0
    assert switch.membership is not None
    assert switch.membership.how == "certificate"
    assert not switch.admin_conf.exists()
    key = (switch.etc / "credentials/restapiserver.key").read_bytes()
    copies = [path for path in switch.folder.rglob("*") if path not in before and path.is_file()]
    assert not [
        path for path in copies if key in path.read_bytes() or b"client-key-data" in path.read_bytes()
    ]

    assert switch.job("join", "-f").returncode == 0, "used again"
    assert switch.job("reset").returncode == 0
    assert not switch.node_exists, "the certificate that joined it may delete it"
    assert not (switch.folder / "run" / "join.conf").exists()


def test_an_installed_certificate_is_not_used_before_the_ca_is_pinned(switches: Make, pki: Path) -> None:
    switch = switches(admin_conf_url=NOT_SERVED, ca_file="")
    install_certificate(switch, pki)
    switch.join()
    publish_ca(switch, Authority(pki).pem)
    assert switch.job("join").returncode == 1
    assert switch.progress.why.endswith(
        'restapiserver.crt is not pinned; set [kube] ca_cert_hash = "sha256:…"; the master prints it: '
        "kubeadm token create --print-join-command"
    )
    assert switch.kubeadm_calls == []


@pytest.mark.parametrize(("refused", "known"), [(False, False), (True, False), (True, True)])
def test_an_admin_conf_that_ctrmgrd_has_left_is_used_until_the_ca_is_known(
    switches: Make, master: LabKubeProcess, server: AdminConfServer, pki: Path, known: bool, refused: bool
) -> None:
    """And then only while nothing answers: a master that answers 404 has withdrawn it."""
    url = f"{server.url}.gone" if refused else NOT_SERVED
    switch = switches(ca_file=str(pki / "ca.crt") if known else "", admin_conf_url=url)
    install_certificate(switch, pki)
    switch.admin_conf.write_bytes(master.admin_conf.read_bytes())
    switch.join(insecure="on")
    ended = switch.job("join")
    if refused and not known:
        assert ended.returncode == 1
        assert "is answered with 404" in switch.progress.why
        assert 'set [kube] ca_cert_hash = "sha256:…"' in switch.progress.why
        assert switch.kubeadm_calls == []
        return
    assert ended.returncode == 0, ended.stderr
    assert switch.membership is not None
    assert switch.membership.how == ("certificate" if known else "admin.conf")


def test_a_served_admin_conf_comes_before_the_installed_certificate(
    switches: Make, server: AdminConfServer, pki: Path
) -> None:
    switch = switches(ca_cert_hash=key_hash(Authority(pki).pem))
    install_certificate(switch, pki)
    switch.join()
    assert switch.job("join").returncode == 0
    assert server.requests == ["/admin.conf"]
    assert switch.membership is not None
    assert switch.membership.how == "admin.conf"


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.upstream("kube_commands/join-not-ready", "differs")
def test_a_master_that_does_not_answer_causes_no_reset(switches: Make) -> None:
    switch = switches()
    switch.join()
    assert switch.job("join").returncode == 0
    with stopped(switch):
        ended = switch.job("join", "-f")
    assert ended.returncode == 1
    assert switch.progress.phase is JobPhase.FAILED
    assert switch.progress.why.startswith("ask the master: 127.0.0.1:")
    assert switch.kubeadm_calls == ["join"]
    assert switch.kube.kubelet_conf.exists()
    assert switch.kubelet_runs
    assert switch.job("join").returncode == 0, "and it is joined still"


@pytest.mark.upstream("kube_commands/join-order", "differs")
def test_a_forced_join_removes_the_node_and_joins_again(switches: Make) -> None:
    switch = switches()
    switch.join()
    assert switch.job("join").returncode == 0
    assert switch.job("join", "--force").returncode == 0
    assert switch.kubeadm_calls == ["join", "reset", "join"]
    assert switch.kube.kubelet_conf.exists()
    assert [s.step.name for s in switch.progress.steps] == [
        "FETCH", "ASK", "TRY", "STOP", "LEAVE", "CLEAN", "JOIN", "RECORD", "CONFIGURE_KUBELET",
    ]  # fmt: skip


@pytest.mark.parametrize("way", ["token", "certificate"])
def test_a_forced_join_with_a_credential_that_may_not_join_costs_no_membership(
    switches: Make, pki: Path, way: str
) -> None:
    folder = pki.parent
    token = folder / "token"
    token.write_text("abcdef.0123456789abcdef\n")
    authority = Authority(pki)
    pair = authority.issue("introduced", "admin", "system:masters")
    ways = {
        "token": {"bootstrap_token_file": str(token), "ca_cert_hash": "sha256:" + "0" * 64},
        "certificate": {"client_certificate": str(pair.certificate), "client_key": str(pair.key)},
    }
    switch = switches(**ways[way])
    switch.join()
    assert switch.job("join").returncode == 0
    token.write_text("abcdef.ffffffffffffffff\n")
    authority.issue("introduced", "nobody")
    assert switch.job("join", "--force").returncode == 1
    assert switch.progress.why.startswith("try the credential: ")
    assert switch.kubeadm_calls == ["join"], "nothing is reset"
    assert switch.kube.kubelet_conf.exists()
    assert switch.membership is not None
    assert switch.kubelet_runs


def test_only_a_changed_address_is_joined_again(switches: Make) -> None:
    switch = power_on(switches())
    switch.join()
    until_joined(switch)
    switch.join(insecure="true")
    switch.wait_for(lambda: switch.status["insecure"], "the change is seen")
    assert switch.kubeadm_calls == ["join"]
    switch.join(IP="localhost")
    switch.wait_for(lambda: switch.kubeadm_calls == ["join", "reset", "join"], "joined again")
    switch.wait_for(
        lambda: switch.membership is not None and switch.membership.ip == "localhost", "it is noted"
    )
    switch.wait_for(lambda: switch.connected == "True", "connected again")


@pytest.mark.upstream("ctrmgrd/join-retried", "same")
def test_a_failed_join_leaves_nothing_half_done_and_is_tried_again(switches: Make) -> None:
    switch = power_on(switches())
    switch.kubeadm_fails("join")
    switch.join()
    switch.wait_for(lambda: switch.kubeadm_calls.count("join") >= 2, "tried again")
    status = switch.status["membership"]
    assert switch.kubeadm_calls[:2] == ["join", "reset"]
    assert not switch.admin_conf.exists()
    switch.kubeadm_fails()
    switch.wait_for(lambda: switch.connected == "True", "connected in the end")
    assert status["job"] == "join"


def test_what_kubeadm_says_is_what_the_operator_reads(switches: Make) -> None:
    switch = power_on(switches(join_boot_delay_s=10_000_000))
    switch.kubeadm_fails("join")
    switch.join()
    ended = switch.clients.run("kube_join")
    assert ended.returncode == 1
    assert ended.stderr == "kubernetes: kubeadm join: error execution phase join: injected\n"
    assert not (switch.folder / "run" / "join.conf").exists(), "no administrator's credential stays behind"


@pytest.mark.parametrize(
    ("issue", "reason"),
    [
        ({"valid": -DAY}, "certificate has expired"),
        ({"authority": "other"}, "certificate signature failure"),
        ({"host": "127.0.0.2"}, "IP address mismatch"),
    ],
)
@pytest.mark.upstream("kube_commands/join-insecure", "differs")
def test_a_master_that_cannot_prove_itself_gets_no_data(
    switches: Make, lab_docker: LabDockerProcess, master: LabKubeProcess, pki: Path, tmp_path: Path,
    issue: dict[str, Any], reason: str,
) -> None:  # fmt: skip
    authority = Authority(tmp_path / "other") if "authority" in issue else Authority(pki)
    pair = authority.issue("bad", "master", server=True, valid=issue.get("valid", DAY))
    with AdminConfServer(master.admin_conf, pair, host=issue.get("host", "127.0.0.1")) as liar:
        switch = switches(admin_conf_url=liar.url)
        switch.join()
        ended = switch.job("join")
        assert ended.returncode == 1
        assert reason in switch.progress.why
        assert liar.requests == []
        assert switch.kubeadm_calls == []
        switch.join(insecure="on")
        loud = switch.job("join")
        assert loud.returncode == 0, loud.stderr
        assert "any certificate is accepted" in loud.stderr


@pytest.mark.upstream("kube_commands/join-certificate", "differs")
@pytest.mark.parametrize("source", ["fetched", "kept", "ca_file"])
def test_a_pinned_ca_is_the_only_one_whatever_names_another(
    switches: Make, master: LabKubeProcess, pki: Path, tmp_path: Path, source: str
) -> None:
    """Also with `insecure on`, where anyone may serve the admin.conf, and may have served the kept one."""
    other, pin = Authority(tmp_path / "other"), key_hash(Authority(pki).pem)
    theirs = tmp_path / "admin.conf"
    pair = Authority(pki).issue("admin3", "admin", "system:masters")
    write_kubeconfig(theirs, master.url, other.pem, pair, inline=True)
    with AdminConfServer(theirs, other.issue("bad", "master", server=True)) as liar:
        named = {
            "fetched": {"admin_conf_url": liar.url, "ca_file": ""},
            "kept": {"admin_conf_url": NOT_SERVED, "ca_file": ""},
            "ca_file": {"admin_conf_url": NOT_SERVED, "ca_file": str(tmp_path / "other/ca.crt")},
        }
        switch = switches(**named[source], ca_cert_hash=pin)
        if source == "kept":
            switch.admin_conf.write_bytes(theirs.read_bytes())
        if source == "ca_file":
            install_certificate(switch, pki)
        switch.join(insecure="on")
        assert switch.job("join").returncode == 1
    assert "is not the pinned one; correct [kube] ca_cert_hash" in switch.progress.why
    assert switch.kubeadm_calls == []


def test_an_api_server_that_admin_conf_s_authority_did_not_sign_is_not_joined(
    switches: Make, master: LabKubeProcess, pki: Path, tmp_path: Path
) -> None:
    other, mine = Authority(tmp_path / "other"), Authority(pki)
    swapped = tmp_path / "admin.conf"
    write_kubeconfig(
        swapped, master.url, other.pem, mine.issue("admin2", "admin", "system:masters"), inline=True
    )
    with AdminConfServer(swapped, mine.issue("https", "master", server=True)) as server:
        switch = switches(admin_conf_url=server.url)
        switch.join()
        assert switch.job("join").returncode == 1
    assert switch.progress.why.startswith("ask the master: the certificate of https://127.0.0.1:")
    assert "is not trusted" in switch.progress.why
    assert switch.kubeadm_calls == []
    assert not switch.admin_conf.exists()


@pytest.mark.upstream("kube_commands/reset-not-connected", "differs")
def test_a_reset_without_the_master_does_the_rest_and_says_what_is_left_over(switches: Make) -> None:
    switch = power_on(switches())
    switch.join()
    until_joined(switch)
    switch.wait_for(lambda: switch.node_exists, "the kubelet has made its Node")
    with stopped(switch):
        ended = switch.clients.run("kube_reset")
        assert ended.returncode == 0
        assert "left over: drain the node:" in ended.stdout
        assert "run: kubectl delete node switch9" in ended.stdout
        assert not switch.kubelet_runs
        assert not switch.kube.kubelet_conf.exists()
        assert not switch.admin_conf.exists()
    assert switch.node_exists


def test_a_reset_forgets_queued_labels_also_while_the_daemon_is_away(switches: Make) -> None:
    switch = power_on(switches())
    switch.join()
    until_joined(switch)
    with stopped(switch):
        switch.wait_for(lambda: switch.connected == "False", "not connected")
        code, said = switch.ask("label", "rack=7")
        assert code == 0
        assert said[0].startswith("queued")
        switch.daemon.stop()
        assert switch.job("reset").returncode == 0
    switch.daemon.start()
    switch.wait_for(lambda: switch.status["pending"] == [], "the queue is purged")
    switch.wait_for(lambda: switch.pending == "", "STATE_DB says so")
    assert not (switch.folder / "state" / "purge").exists()


@pytest.mark.upstream("kube_commands/join-busy", "same")
def test_only_one_job_works_at_a_time(switches: Make) -> None:
    switch = switches()
    switch.tell_kubeadm(delay_s=100)
    switch.join()
    command = [sys.executable, "-m", "kubesyncd.join", "join", "--config", str(switch.paths.settings)]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    switch.wait_for(lambda: switch.kubeadm_calls == ["join"], "the first works")
    second = switch.job("reset")
    assert second.returncode == 1
    assert "another join or reset is under way" in second.stderr
    switch.let_kubeadm_go()
    assert first.wait(60) == 0


def test_a_restart_of_the_daemon_does_not_disturb_a_join(switches: Make) -> None:
    switch = power_on(switches())
    switch.tell_kubeadm(delay_s=100)
    switch.join()
    switch.wait_for(lambda: switch.kubeadm_calls == ["join"], "the join works")
    switch.daemon.restart()
    switch.wait_for(lambda: switch.status["membership"]["phase"] == "running", "the new daemon knows of it")
    switch.let_kubeadm_go()
    until_joined(switch)
    assert switch.kubeadm_calls == ["join"]


@pytest.mark.upstream("ctrmgrd/join-config-changed", "same")
def test_a_config_change_while_a_join_works_wins(switches: Make) -> None:
    switch = power_on(switches())
    switch.tell_kubeadm(delay_s=60)
    switch.join()
    switch.wait_for(lambda: switch.kubeadm_calls == ["join"], "the join works")
    switch.join(disable="true")
    switch.wait_for(lambda: switch.status["membership"]["phase"] == "failed", "it is stopped")
    assert not switch.kube.kubelet_conf.exists()
    switch.tell_kubeadm()
    switch.join(disable="false")
    until_joined(switch)


def test_a_join_that_was_killed_is_noticed_and_done_again(switches: Make) -> None:
    switch = power_on(switches())
    switch.tell_kubeadm(delay_s=60)
    switch.join()
    switch.wait_for(lambda: switch.kubeadm_calls == ["join"], "the join works")
    switch.tell_kubeadm()
    os.kill(int((switch.folder / "join.pid").read_text()), signal.SIGKILL)
    until_joined(switch)


@pytest.mark.upstream("ctrmgrd/join-self-labels", "same")
def test_the_switch_describes_itself_with_labels(switches: Make, tmp_path: Path) -> None:
    switch = switches()
    switch.config_db.hset(
        "DEVICE_METADATA|localhost", mapping={"hwsku": "Force10 S6000", "type": "ToRRouter"}
    )
    power_on(switch)
    switch.join()
    switch.wait_for(lambda: switch.master.labels.get("hwsku") == "Force10_S6000", "the label is there")
    assert switch.master.labels["deployment_type"] == "ToRRouter"


def test_the_node_says_what_runs_on_the_switch_and_what_its_labels_cannot(switches: Make) -> None:
    switch = switches()
    switch.config_db.hset("DEVICE_METADATA|localhost", mapping={"hwsku": "Force10 S6000"})
    power_on(switch)
    switch.boot_local("snmp")
    switch.join()

    def annotations() -> dict[str, str]:
        return dict(
            switch.master.call("get", f"{NODES}/{switch.kube.node}")["metadata"].get("annotations") or {}
        )

    switch.wait_for(lambda: switch.connected == "True" and switch.master.labels, "connected")
    expected = {"feature.kubesyncd/snmp": "LOCAL", "original.kubesyncd/hwsku": "Force10 S6000"}
    switch.wait_for(lambda: expected.items() <= annotations().items(), "the Node says so")
    switch.done("stop", "snmp")
    switch.wait_for(lambda: annotations()["feature.kubesyncd/snmp"] == "INIT", "and follows")


def test_status_shows_each_step_and_why_it_failed(switches: Make) -> None:
    switch = power_on(switches(join_boot_delay_s=10_000_000))
    switch.kubeadm_fails("join")
    switch.join()
    switch.clients.run("kube_join")
    status = switch.status["membership"]
    assert status["phase"] == "failed"
    failed = [step for step in status["steps"] if not step["ok"]]
    assert [step["step"] for step in failed] == ["kubeadm join"]
    assert json.dumps(status)


@pytest.mark.upstream("ctrmgrd/join-delayed", "same")
def test_after_a_boot_a_join_waits_for_its_turn_but_an_operator_does_not(switches: Make) -> None:
    switch = switches(join_boot_delay_s=10_000_000)
    switch.join()
    power_on(switch)
    switch.wait_for(lambda: "join_waits" in switch.told(), "it waits")
    assert switch.kubeadm_calls == []
    assert switch.clients.run("kube_join").returncode == 0


@pytest.mark.upstream("ctrmgrd/joined-before", "differs")
def test_a_switch_that_has_joined_connects_at_once_and_a_disabled_master_is_left_once(switches: Make) -> None:
    switch = power_on(switches(join_boot_delay_s=10_000_000))
    switch.join()
    assert switch.clients.run("kube_join").returncode == 0
    until_joined(switch)
    switch.daemon.stop()
    switch.state_db.flushdb()
    switch.daemon.start()
    switch.wait_for(lambda: switch.connected == "True", "connected at once, although nothing may join yet")
    assert switch.kubeadm_calls == ["join"]
    assert switch.kubelet_runs
    switch.join(disable="true")
    switch.wait_for(lambda: switch.connected == "False", "STATE_DB says so")
    switch.wait_for(lambda: not switch.kube.kubelet_conf.exists(), "the credential is gone")
    switch.wait_for(lambda: switch.status["membership"].get("phase") != "running", "the reset is over")
    assert not switch.kubelet_runs
    assert switch.kubeadm_calls == ["join", "reset"]
