"""Do each step of a join or reset on this switch: kubeadm, the API server, systemd and a few files.

Knows the adapters; knows no order of steps. The runner sets the deadlines.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.adapters import kube_member
from kubesyncd.adapters.kube_member import Member
from kubesyncd.adapters.kubeadm import Kubeadm
from kubesyncd.adapters.kubelet_config import KubeletConfig
from kubesyncd.adapters.systemd import SystemdUnits
from kubesyncd.join import credential
from kubesyncd.join.credential_fetch import CredentialSource, JoinMethod, read_file
from kubesyncd.join.plan import STEP_S_MAX, Job, JobStep, Membership, Standing, address
from kubesyncd.ports import Forbidden, PortError, Refused

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.model import MasterConfig
    from kubesyncd.join.files import JoinFiles
    from kubesyncd.join.node_names import NodeNames
    from kubesyncd.settings import Settings

SERVICE = "Kubernetes"


class SwitchSteps:
    """runner.JoinSteps for one job."""

    def __init__(
        self,
        job: Job,
        settings: Settings,
        master: MasterConfig,
        files: JoinFiles,
        names: NodeNames,
        log: FilteringBoundLogger,
    ) -> None:
        self._job = job
        # A name that changes during the job counts for the next one.
        self._joins_as, self._leaves_as = names.next(), names.current()
        self._kube = replace(settings.kube, node_name=self._joins_as)
        self._config = KubeletConfig(Path(settings.paths.kubelet_dir))
        self._collects = settings.images.kubelet_gc
        self._master = master
        self._files = files
        self._log = log
        self._units = SystemdUnits(settings.systemd)
        self._kubeadm = Kubeadm(settings.systemd, self._kube, log)
        self._source = CredentialSource(self._kube, master, files, self._kubeadm, log)

    @property
    def how(self) -> JoinMethod:
        """The credential by which this switch joins."""
        return self._source.method

    async def do(self, step: JobStep) -> str:
        """See runner.JoinSteps."""
        match step:
            case JobStep.FETCH:
                return await self._source.fetch()
            case JobStep.ASK:
                return await self._ask()
            case JobStep.TRY:
                await self._kubeadm.preflight(
                    self._files.credential, STEP_S_MAX[step], configuration=self.how is JoinMethod.BOOTSTRAP
                )
                return ""
            case JobStep.DRAIN:
                return await self._drain()
            case JobStep.STOP:
                await self._units.stop_kubelet()
                return ""
            case JobStep.LEAVE:
                return await self._leave()
            case JobStep.CLEAN:
                return await self._clean()
            case JobStep.JOIN:
                return await self._join()
            case JobStep.RECORD:
                return self._record()
            case JobStep.CONFIGURE_KUBELET:
                return await self._configure_kubelet()
            case JobStep.FORGET:
                return self._forget()

    # ---- join -----------------------------------------------------------------------------------

    async def _ask(self) -> str:
        """Check kubeadm, the API server and the credential, before any step that removes something."""
        await self._kubeadm.version()
        if self.how is JoinMethod.BOOTSTRAP:
            return await kube_member.answers(address(self._master))
        async with Member.open(self._files.credential, self._joins_as) as node:
            return await node.ask()

    async def _join(self) -> str:
        await self._kubeadm.join(
            self._files.credential, STEP_S_MAX[JobStep.JOIN], configuration=self.how is JoinMethod.BOOTSTRAP
        )
        if not self._files.kubeconfig.exists():
            detail = (
                f"kubeadm did not write {self._files.kubeconfig}; set [kube] kubeconfig to its kubelet.conf"
            )
            raise Refused("kubeadm", detail)
        return ""

    def _record(self) -> str:
        self._files.record(self._membership(Standing.JOINED))
        if not self._kube.keep_admin_conf:
            self._files.forget(*self._source.kept())
        elif self.how is JoinMethod.ADMIN_CONF:
            self._keep_admin_conf()
        self._files.forget(self._files.credential)
        return f"{self._files.admin_conf} is {'kept' if self._files.admin_conf.exists() else 'not there'}"

    def _keep_admin_conf(self) -> None:
        """Keep the credential of this join, with the configured address."""
        self._move_aside()
        self._files.write_secret(self._files.admin_conf, read_file(self._files.credential))

    def _move_aside(self) -> str:
        """Move an admin.conf that an operator has put there aside: no other copy of it may exist."""
        current, aside = self._source.kept()
        if not current.exists() or credential.is_ours(read_file(current)):
            return ""
        self._files.move(current, aside)
        return f"{current} was not written by kubesyncd: moved to {aside}, which a later join uses"

    async def _configure_kubelet(self) -> str:
        """Adjust the configuration that kubeadm has just written, and restart the kubelet, which reads it only once."""
        if self._collects:
            return "unchanged: [images] kubelet_gc is set"
        if not self._config.suit():
            return "already set"
        await self._units.stop_kubelet()
        await self._units.start_kubelet()
        return "the kubelet removes no images and evicts no pods when disk space is low"

    # ---- reset ----------------------------------------------------------------------------------

    async def _drain(self) -> str:
        async with self._node(self._files.kubeconfig) as node:
            return await node.drain()

    async def _leave(self) -> str:
        """Delete the Node by the best available credential."""
        last: PortError = Forbidden(SERVICE, "no credential is available")
        for kubeconfig in self._credentials():
            try:
                async with self._node(kubeconfig) as node:
                    await node.delete()
                return f"deleted by {kubeconfig}"
            except PortError as error:
                last = error
        if isinstance(last, Forbidden) and self._job is Job.JOIN and self._rejoins:
            async with self._node(self._files.kubeconfig) as node:
                await node.say_not_ready()
            return "not deleted (this switch's credential does not allow it), but marked not ready"
        raise type(last)(SERVICE, f"{last.detail}; run: kubectl delete node {self._leaves_as}")

    @property
    def _rejoins(self) -> bool:
        """Whether the next join is to the same master as the one being left."""
        return self._files.found().belongs_to(self._master)

    def _credentials(self) -> list[Path]:
        """Return kubeconfigs for the master being left, those with more rights first."""
        fresh = self._job is Job.JOIN and self._rejoins and self.how is not JoinMethod.BOOTSTRAP
        own = self._source.for_reset() if self._job is Job.RESET and self._by_certificate else None
        own = self._files.credential if fresh else own
        paths = (*([own] if own is not None else []), self._files.admin_conf, self._files.kubeconfig)
        return [path for path in paths if path.exists()]

    @property
    def _by_certificate(self) -> bool:
        """Whether this switch has joined by a client certificate."""
        known = self._files.found().membership
        return known is not None and known.how == JoinMethod.CERTIFICATE.value

    def _node(self, kubeconfig: Path) -> AbstractAsyncContextManager[Member]:
        return Member.open(kubeconfig, self._leaves_as, insecure=self._master.insecure)

    async def _clean(self) -> str:
        """Remove what a join has left. Its record goes first: a credential without a record may be for any master."""
        self._files.forget_membership()
        await self._kubeadm.reset(STEP_S_MAX[JobStep.CLEAN])
        self._files.forget(self._files.kubeconfig)
        return ""

    def _forget(self) -> str:
        self._files.ask_to_purge()
        moved = self._move_aside()
        self._files.forget(self._files.admin_conf, self._files.kubeconfig, self._files.credential)
        if not self._master.wanted:
            self._files.forget_membership()
            return moved
        self._files.record(self._membership(Standing.LEFT))
        return "; ".join(part for part in ("no automatic join until: config kube join", moved) if part)

    def _membership(self, standing: Standing) -> Membership:
        master = self._master
        node = self._joins_as if standing is Standing.JOINED else self._leaves_as
        return Membership(standing, master.ip, master.port, node, self.how.value, int(time.time()))
