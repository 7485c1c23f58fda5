"""Keep one feature's configuration, record and last changes of state."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.kube_names import KubeClaim
from kubesyncd.core.model import FeatureConfig, Owner
from kubesyncd.core.state import HISTORY_MAX, State, Transition
from kubesyncd.core.unverified import Unverified, row_seen, shows_loss
from kubesyncd.core.verbs import left_by_unit
from kubesyncd.ports import PortError, Unavailable

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.actions import Plan
    from kubesyncd.core.feature_unit import UnitEnd
    from kubesyncd.core.model import Row, Stored
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record
    from kubesyncd.features.surroundings import Surroundings
    from kubesyncd.runtime.alerts import AlertLog


class Memory:
    """Keeps what outlives a restart of the daemon in the ledger, and what outlives a boot in the image store.

    `config_read`: CONFIG_DB has been read outside of a load; before that, `config` is a default.
    """

    def __init__(self, name: str, around: Surroundings, alerts: AlertLog, log: FilteringBoundLogger) -> None:
        self._name = name
        self._around = around
        self._alerts = alerts
        self._log = log
        ledger = around.ledger
        self.history = deque(ledger.histories.get(name, ()), maxlen=HISTORY_MAX)
        self.record = ledger.records.get(name) or around.first_record(name)
        # A record that was never compared with Redis may have been stored with the default configuration.
        self.config_read = name in around.always_local or (name in ledger.configs and row_seen(self.record))
        if self.record.unverified is None:
            # What the file says is compared once with STATE_DB's row and with what runs.
            unknown = name not in ledger.records
            lost = unknown and (ledger.lost or ledger.first)
            unmanaged = unknown and not ledger.lost
            mark = Unverified(lost=lost, first=lost and ledger.first, unmanaged=unmanaged)
            self.record = replace(self.record, unverified=mark)
        self.config = ledger.configs.get(name, self._default_config())
        self._config_known = name in ledger.configs
        self._claim_name(self.config)

    @property
    def known_config(self) -> FeatureConfig | None:
        """The last configuration read from CONFIG_DB, if there is one."""
        return self.config if self._config_known else None

    def take_config(self, stored: Stored) -> None:
        """Take over the configuration from CONFIG_DB; during a load the last one stays in force."""
        if not stored.loading:
            config = stored.config or self._default_config()
            self._claim_name(config)
            self.config = self._on_kubernetes(config)
            self.config_read = True
            self._config_known = stored.config is not None

    def shows_loss(self, row: Row) -> bool:
        """Return whether this row shows for the first time that the ledger was lost within this boot."""
        ledger = self._around.ledger
        return not ledger.lost and shows_loss(self.record, row, ledger.boot.number)

    def note_change(self, plan: Plan) -> None:
        """Add a change of state to the history, before the ledger is written with the record that caused it."""
        source = self.history[-1].target if self.history else State.UNKNOWN
        if source is not plan.state:
            self.history.append(Transition(self._around.runtime.wall(), source, plan.state, plan.why))
            self._log.info("state", state=plan.state.value, was=source.value, why=plan.why)

    async def remember(self, record: Record, *, surely: bool = False) -> None:
        """Write the record to the ledger.

        `surely`: raise Unavailable where it cannot be written. A grant needs it: a restart would not know the admitted
        container. Observations restore everything else.
        """
        before = self.record
        self._log_health(before, record)
        if not surely:
            # At once: another intent may be recorded while the file is written.
            self.record = record
        try:
            await self._around.ledger.save(
                self._name, record, self.config, tuple(self.history), surely=surely
            )
            self._alerts.end("ledger")
        except Unavailable as error:
            if surely:
                raise
            self._alerts.begin("ledger", str(error), file=error.file)
        if not record.grant:
            self._alerts.end("image_not_adopted")
        if not record.rolled_back:
            self._alerts.end("image_not_restored")
        if surely and self.record is before:
            self.record = record

    async def change(self, **changes: object) -> None:
        """Change fields of the record as it is now: another intent may have been recorded since the plan was made."""
        await self.remember(replace(self.record, **changes))  # type: ignore[arg-type]

    def leave(self, end: UnitEnd, observed: Observation | None, now: float) -> bool:
        """Record that the feature's unit has ended, not yet on disk; return whether that changes anything."""
        wall_s = None if end.ended_at is None else self._around.runtime.wall() - (now - end.ended_at)
        ended = "" if wall_s is None else time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_s))
        noted = left_by_unit(self.record, end, observed, ended=ended, hold=self._around.labels.hold)
        if noted is self.record:
            return False
        self._log.info(
            "unit_ended", unit=end.unit, why="the unit has ended, and its script has called no stop"
        )
        self.record = noted
        return True

    async def note_rollback(self) -> None:
        """Store a rollback, or its end, in the image store: the ledger does not outlive a boot."""
        record, health = self.record, self.record.health
        noted = (
            (health.failed_image, health.failed_newest, record.failure)
            if record.rolled_back
            else ("", "", "")
        )
        try:
            await self._around.images.note_rollback(self._name, *noted)
            self._alerts.end("rollback")
        except PortError as error:
            self._alerts.begin("rollback", f"{error}; a reboot would lose the rollback", file=error.file)

    def _claim_name(self, config: FeatureConfig) -> None:
        """Claim the feature's name in Kubernetes, which another feature may share."""
        claim = KubeClaim.WANTED if config.owner is Owner.KUBE else KubeClaim.NONE
        claim = KubeClaim.GRANTED if self.record.grant else claim
        for feature in self._around.runtime.kube_names.note(self._name, claim):
            self._around.wakes.wake(feature)

    def _on_kubernetes(self, config: FeatureConfig) -> FeatureConfig:
        """Return the config in force: a feature without a name of its own in Kubernetes can only be local."""
        why = self._around.runtime.kube_names.why_not_kube(self._name) if config.owner is Owner.KUBE else ""
        return replace(config, local_only=True, why_local=why) if why else config

    def _default_config(self) -> FeatureConfig:
        return FeatureConfig(always_local=self._name in self._around.always_local)

    def _log_health(self, before: Record, after: Record) -> None:
        """Log once each failure and its end, each complaint about a local container, and what is taken over."""
        if after.failure and not before.failure:
            self._log.error("kube_failed", alert=True, why=after.failure, policy=self.config.policy.value)
        if before.failure and not after.failure:
            self._log.info("kube_recovered", why=before.failure)
        if after.rolled_back and not before.rolled_back:
            self._log.warning("rolled_back", why=after.failure, image=after.health.failed_image)
        if before.rolled_back and not after.rolled_back:
            self._log.info("rollback_over", why=before.failure)
        if after.follows and not before.follows:
            self._log.info("taken_over", owner=after.owner.value, container=after.grant or after.local_id)
        local = after.health.complaint_about(after.local_id) if after.local_id else None
        if local is not None and local not in before.health.complaints:
            self._log.error("local_unhealthy", alert=True, why=local.reason, source=local.source)
