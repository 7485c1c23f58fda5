"""Check that join and reset run as units of their own on an installed switch, independent of the daemon.

kubeadm is a stand-in that takes the credential away and puts it back; test_join_real has the real one.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.system.installed_kube import Master
from tests.system.installed_switch import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.installed_switch import InstalledSwitch

pytestmark = pytest.mark.real("systemd")

CREDENTIAL = "/etc/kubernetes/kubelet.conf"
# A join by kubeadm goes on once this exists.
MAY_JOIN = "/run/lab-may-join"
KUBEADM = f"""#!/bin/sh
case $1 in
version) echo v1.20.2 ;;
reset) rm -f {CREDENTIAL} ;;
join) until [ -e {MAY_JOIN} ]; do sleep 0.1; done; cp -p /root/kubelet.conf {CREDENTIAL} ;;
esac
"""


@pytest.fixture
def joined(
    installed: InstalledSwitch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[InstalledSwitch, Master]]:
    """The switch, which has joined a master and could do so again."""
    with Master(installed, tmp_path_factory.mktemp("master")) as master:
        installed.write("/usr/bin/kubeadm", KUBEADM, mode=0o755)
        installed.write("/etc/sonic/kube_admin.conf", master.admin_conf.read_text(), mode=0o600)
        shutil.copy(installed.root / CREDENTIAL.lstrip("/"), installed.root / "root/kubelet.conf")
        yield installed, master
        ours = ("/usr/bin/kubeadm", "/root/kubelet.conf", CREDENTIAL, "/etc/sonic/kube_admin.conf", MAY_JOIN)
        for file in ours:
            (installed.root / file.lstrip("/")).unlink(missing_ok=True)


def last_run(switch: InstalledSwitch, unit: str) -> str:
    return switch.show(unit, "InvocationID")


def test_join_and_reset_are_units_of_their_own(joined: tuple[InstalledSwitch, Master]) -> None:
    switch, _ = joined
    before = last_run(switch, "kubesyncd-join")
    join = switch.spawn("kube_join", "-f", user="admin")
    switch.wait_for(lambda: switch.show("kubesyncd-join", "ActiveState") == "activating", "it joins")
    run = last_run(switch, "kubesyncd-join")
    assert run != before
    switch.run("systemctl", "restart", "kubesyncd")
    assert last_run(switch, "kubesyncd-join") == run, "the daemon's restart has not ended it"
    switch.write(MAY_JOIN, "")
    said, _ = join.communicate(timeout=PATIENCE_S)
    assert join.returncode == 0, said
    assert last_run(switch, "kubesyncd-join") in (run, ""), "the daemon's restart began it no second time"
    assert switch.show("kubesyncd-join", "Result") == "success"
    assert switch.run("stat", "-c", "%a", CREDENTIAL) == "600"
    switch.wait_for(lambda: "is connected" in switch.process("kubesync", "doctor").stdout, "the link is back")

    switch.run("kube_reset", user="admin")
    assert switch.show("kubesyncd-reset", "Result") == "success"
    assert not (switch.root / CREDENTIAL.lstrip("/")).exists()
    assert not (switch.root / "etc/sonic/kube_admin.conf").exists()
