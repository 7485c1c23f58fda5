"""Provide a switch that has not joined yet, with a kubeadm, and units for join and reset.

The kubelet's credential, admin.conf and all that a join writes are the switch's own. Knows no test.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from kubesyncd.join import plan, progress
from kubesyncd.join.job_watch import UNITS
from tests.lab.certificates import Authority
from tests.lab.engines import ROOT
from tests.lab.kube_client import NODES, KubeError
from tests.lab.switch import TIMING, Switch
from tests.lab.switch_units import KUBELET

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.lab.admin_conf import AdminConfServer
    from tests.lab.engines import Docker, Kube


class Unjoined:
    """The lab's master, seen by a switch whose credential does not exist yet: tests.lab.engines.Kube."""

    def __init__(self, kube: Kube, kubelet_conf: Path) -> None:
        self._lab = kube
        self.node = kube.node
        self.admin_conf = kube.admin_conf
        self.kubelet_conf = kubelet_conf
        self.start, self.stop_api, self.stop = kube.start, kube.stop_api, kube.stop
        self.freeze_api, self.thaw_api = kube.freeze_api, kube.thaw_api

    @property
    def url(self) -> str:
        return self._lab.url

    def kubelet_unit(self, docker_socket: Path) -> dict[str, Any]:
        """The lab's kubelet with the switch's credential."""
        command = ["-m", "tests.lab.kubelet", "--kubeconfig", str(self.kubelet_conf), "--node", self.node]
        return {
            "command": [sys.executable, *command, "--docker", str(docker_socket)],
            "cwd": str(ROOT),
            "pid_file": str(self.kubelet_conf.parent / "kubelet.pid"),
        }


class JoinSwitch(Switch):
    """`JoinSwitch(docker, kube, server, pki)`. `kube_settings`: more of [kube]. `options`: as for Switch.

    `kubeadm`, `python`: another kubeadm than the lab's, and the interpreter that runs daemon and jobs.
    """

    def __init__(
        self,
        docker: Docker,
        kube: Kube,
        admin_conf: AdminConfServer,
        pki: Path,
        *,
        kube_settings: Mapping[str, Any] | None = None,
        kubeadm: list[str] | None = None,
        python: str = sys.executable,
        **options: Any,
    ) -> None:
        super().__init__(docker, None, python=python, **options)
        self._interpreter = python
        self.etc = self.folder / "etc"
        self.etc.mkdir()
        self.kube = Unjoined(kube, self.etc / "kubelet.conf") if kubeadm is None else kube
        self.admin_conf = self.etc / "kube_admin.conf"
        self.pki = pki
        settings = {
            "node_name": kube.node,
            "kubeconfig": str(self.kube.kubelet_conf),
            "admin_conf": str(self.admin_conf),
            "admin_conf_url": admin_conf.url,
            "ca_file": str(pki / "ca.crt"),
            "join_boot_delay_s": 0.01,
            "join_retry_s": 0.5,
            "join_retry_s_max": 1.0,
            **(kube_settings or {}),
        }
        self.kubeadm = self.folder / "kubeadm"
        self.kubeadm.mkdir()
        self.tell_kubeadm()
        lab = [sys.executable, str(ROOT / "tests" / "lab" / "kubeadm.py"), str(self.kubeadm)]
        self.configure_daemon(
            {"timing": {**TIMING, **options.get("timing", {})}},
            {"kube": settings, "systemd": {"kubeadm": kubeadm or lab}},
            options.get("settings", {}),
        )
        for job, unit in UNITS.items():
            command = [python, "-m", "kubesyncd.join", job.value, "--config", str(self.paths.settings)]
            self.units.add(
                unit,
                {"command": command, "cwd": str(ROOT), "pid_file": str(self.folder / f"{job.value}.pid")},
            )

    def told(self) -> str:
        """The same, and what joins and resets have said."""
        jobs = [(self.folder / f"{job.value}.pid.log") for job in UNITS]
        ends = [f"{log.name}: {log.read_text(errors='replace')[-2000:]}" for log in jobs if log.exists()]
        return "\n".join([super().told(), *ends])

    @property
    def kubelet_config(self) -> Path:
        """What kubeadm writes for the kubelet."""
        return self.folder / "kubelet" / "config.yaml"

    def tell_kubeadm(self, **more: Any) -> None:
        """What the lab's kubeadm goes by."""
        settings = {
            "kubeconfig": str(self.kube.kubelet_conf),
            "config": str(self.kubelet_config),
            "pki": str(self.pki),
            "start": [*self.units.systemctl, "enable", "--now", KUBELET],
            "token": "abcdef.0123456789abcdef",
            "go": str(self._kubeadm_may_go),
            **more,
        }
        # Replaced at once: kubeadm may be reading it.
        fresh = self.kubeadm / "kubeadm.json.new"
        fresh.write_text(json.dumps(settings))
        fresh.replace(self.kubeadm / "kubeadm.json")

    def let_kubeadm_go(self) -> None:
        """A join that is being delayed goes on, and no later one is delayed any more."""
        self._kubeadm_may_go.touch()

    @property
    def _kubeadm_may_go(self) -> Path:
        return self.kubeadm / "go"

    @property
    def kubeadm_calls(self) -> list[str]:
        """What kubeadm was asked for: join, reset; looks left out."""
        file = self.kubeadm / "kubeadm.calls"
        calls = file.read_text().splitlines() if file.exists() else []
        return [call.split()[0] for call in calls if not call.startswith(("version", "join phase"))]

    def kubeadm_fails(self, *verbs: str) -> None:
        """Have these fail; none: all succeed."""
        (self.kubeadm / "kubeadm.fails").write_text(" ".join(verbs))

    def job(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a job to its end, without the daemon."""
        command = [
            self._interpreter,
            "-m",
            "kubesyncd.join",
            *arguments,
            "--config",
            str(self.paths.settings),
        ]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    @property
    def progress(self) -> progress.Progress:
        """How far the last job came."""
        told = progress.decode((self.folder / "run" / progress.FILE).read_bytes())
        assert told is not None
        return told

    @property
    def membership(self) -> plan.Membership | None:
        """What the last join or reset has noted."""
        try:
            noted = (self.folder / "state" / "membership.json").read_bytes()
        except FileNotFoundError:
            noted = None
        return plan.decode_membership(noted)

    @property
    def status(self) -> dict[str, Any]:
        """What the daemon tells of the master."""
        return dict(json.loads(self.ask("cluster")[1][0]))

    @property
    def node_exists(self) -> bool:
        """Whether the master has our Node."""
        try:
            self.master.call("get", f"{NODES}/{self.kube.node}")
        except KubeError as error:
            if error.status != 404:
                raise
            return False
        return True

    def authority(self) -> Authority:
        """The CA of the master."""
        return Authority(self.pki)
