"""Find out whether a feature that Kubernetes runs has a way back: a local container, or a unit that makes one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.model import FailurePolicy, Owner, SystemState
from kubesyncd.core.record import local_wanted
from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from kubesyncd.core.model import Container, FeatureConfig
    from kubesyncd.core.record import Record
    from kubesyncd.features.surroundings import Surroundings


class WayBack:
    """Asks systemd where it matters, at most once in `audit_s`; until it answers, the feature has no way back."""

    def __init__(self, name: str, around: Surroundings) -> None:
        self._name = name
        self._around = around
        self._made = False
        self._until = 0.0

    async def exists(self, config: FeatureConfig, record: Record, containers: tuple[Container, ...]) -> bool:
        """Return whether a local container exists or can be made; True where none may be needed."""
        if any(c.owner is Owner.LOCAL and not c.gone for c in containers):
            self._until = 0.0
            return True
        ruled = replace(record, no_way_back=False)
        needed = local_wanted(config, ruled) or config.policy is FailurePolicy.ROLLBACK
        by_kube = bool(record.grant) or record.no_way_back
        if record.system_state is not SystemState.UP or not needed or not by_kube:
            return True
        now = self._around.runtime.clock()
        if now >= self._until:
            try:
                self._made = await self._around.units.makes_local(self._name)
                self._until = now + self._around.timing.audit_s
            except Unavailable:
                return self._made
        return self._made
