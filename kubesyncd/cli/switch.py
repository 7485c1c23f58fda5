"""Give all `kubesync` commands access to this switch: daemon, Redis, systemd, Docker and API server.

Must not know click or print. Every request has a deadline, so that a command answers within three seconds even if
services are down. Errors are those of `ports`, and the daemon's `Declined`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kubesyncd.cli.switch_daemon import DaemonClient
from kubesyncd.cli.switch_redis import SwitchRedis
from kubesyncd.ports import Forbidden, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from kubesyncd.adapters.kube_lists import ClusterLists
    from kubesyncd.adapters.kubelet_config import KubeletConfig
    from kubesyncd.adapters.systemd import SystemdUnits
    from kubesyncd.core.certificate_life import CertificateLife
    from kubesyncd.ports import Claim, Hooks
    from kubesyncd.services.catalog_source import ServerFiles
    from kubesyncd.settings import Settings

T = TypeVar("T")

SYSTEMCTL_S = 2.0
DOCKER_S = 1.0
INSPECT_S = 2.0


class Switch:
    """The services of this switch, as one command needs them. Connections open on first use.

    `problems`: errors of the settings file; `settings` has the defaults of the keys that they name.
    """

    def __init__(
        self, settings: Settings, environ: Mapping[str, str] | None = None, problems: tuple[str, ...] = ()
    ) -> None:
        self.settings = settings
        self.problems = problems
        path = (environ or os.environ).get("KUBESYNCD_HOST_SOCK") or settings.sockets.host
        folders = Path(settings.paths.state_dir), Path(settings.paths.run_dir)
        self.daemon = DaemonClient(Path(path), folders)
        self.redis = SwitchRedis(settings)

    def has_unit(self, feature: str) -> bool:
        """Return whether systemd knows a service for the feature. Raises Unavailable."""
        return self._systemd(lambda units: units.has_unit(feature))

    def in_use(self, feature: str) -> bool:
        """Return whether the feature's unit is enabled or running. Raises Unavailable."""
        return any(
            self._systemd(ask) for ask in (lambda u: u.starts_at_boot(feature), lambda u: u.active(feature))
        )

    def unit_in_use(self, unit: str) -> bool:
        """Return whether a unit is enabled, or is active or about to be. Raises Unavailable."""
        return self._systemd(lambda units: units.in_use(unit))

    def kubelet_running(self) -> bool:
        """Return whether the kubelet's unit is active. Raises Unavailable."""
        return self._systemd(lambda units: units.kubelet_running())

    def kubelet_trouble(self) -> str:
        """Return why the kubelet does not run well, with what to type; empty where it does. Raises Unavailable."""
        return self._systemd(lambda units: units.kubelet_trouble())

    def _systemd(self, question: Callable[[SystemdUnits], Coroutine[Any, Any, T]]) -> T:
        import asyncio

        return asyncio.run(question(self.units(look_s=SYSTEMCTL_S)))

    def units(self, **deadlines_s: float) -> SystemdUnits:
        """Return access to systemd, for a coroutine of several calls. `deadlines_s`: see SystemdUnits."""
        from kubesyncd.adapters.systemd import SystemdUnits

        return SystemdUnits(self.settings.systemd, **deadlines_s)

    def hooks(self, left_out: Callable[[str, str], object]) -> Hooks:
        """Return the operator's hooks; `left_out` gets each file with the reason to skip it, empty for a good one."""
        from kubesyncd.adapters.hooks import HookFolders

        return HookFolders(Path(self.settings.paths.hooks_dir), left_out)

    def node_name(self) -> str:
        """Return the name of this switch's Node. Raises Unavailable, Forbidden."""
        return self.daemon.cluster().get("node") or self.settings.kube.node_name

    def pods(self) -> dict[str, tuple[str, ...]]:
        """Return the running containers of each pod of `[kube] namespaces`. Raises Unavailable, Forbidden."""
        from kubesyncd.adapters.docker_sync import pods

        return pods(self.settings.docker.url, self.settings.kube.namespaces, DOCKER_S)

    def docker_version(self) -> str:
        """Return the Docker engine's version. Raises Unavailable, Forbidden."""
        from kubesyncd.adapters.docker_sync import docker_version

        return docker_version(self.settings.docker.url, DOCKER_S)

    def local_container(self, feature: str) -> dict[str, Any] | None:
        """Return Docker's inspect of the feature's local container; None: it does not exist.

        Raises Unavailable, Forbidden.
        """
        from kubesyncd.adapters.docker_sync import inspect

        return inspect(self.settings.docker.url, feature, INSPECT_S)

    def kubelet_config(self) -> KubeletConfig:
        """Return access to the kubelet's configuration file."""
        from kubesyncd.adapters.kubelet_config import KubeletConfig

        return KubeletConfig(Path(self.settings.paths.kubelet_dir))

    def package_files(self) -> ServerFiles:
        """Return access to the package server's files."""
        from kubesyncd.adapters.package_server import HttpsFiles

        return HttpsFiles(self.settings.packages.ca_file)

    async def is_true(self, claim: Claim) -> bool:
        """Return whether the signature is true. Raises Unavailable where openssl cannot be run."""
        from kubesyncd.adapters.signatures import is_true

        return await is_true(claim)

    def kubernetes_installed(self) -> bool:
        """Return whether the Kubernetes packages are installed; without them every feature is local."""
        from kubesyncd.adapters.kube_lean import available

        return available()

    def admin(self, *, insecure: bool) -> ClusterLists:
        """Return access to the cluster, with the kubelet's credential if admin.conf is missing."""
        from kubesyncd.adapters.kube_lists import ClusterLists

        kube = self.settings.kube
        admin_conf, kubeconfig = Path(kube.admin_conf), Path(kube.kubeconfig)
        return ClusterLists(admin_conf if may_exist(admin_conf) else kubeconfig, insecure=insecure)


def certificate_life(kubeconfig: Path) -> CertificateLife:
    """Return the validity of the client certificate in or named by `kubeconfig`.

    Raises Forbidden if this user may not read it, Unavailable if it has no usable certificate.
    """
    from kubesyncd.adapters import kube_credential

    try:
        with kubeconfig.open("rb"):
            pass  # distinguish an unreadable file from an invalid kubeconfig
        return kube_credential.certificate_life(kubeconfig)
    except PermissionError as error:
        raise Forbidden(
            kube_credential.SERVICE, f"{error.filename} may be read by root only; use sudo"
        ) from error
    except (KeyError, ValueError, OSError) as error:
        raise Unavailable(
            kube_credential.SERVICE, f"{kubeconfig} has no usable client certificate ({error})"
        ) from error


def may_exist(path: Path) -> bool:
    """Return whether a file exists, or is in a folder that this user may not search."""
    with suppress(PermissionError):
        return path.exists()
    return True
