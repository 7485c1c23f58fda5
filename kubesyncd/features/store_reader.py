"""Read a feature's rows, and remember what Redis has not answered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.failed_action import TEXT_MAX, ActionKind, FailedAction
from kubesyncd.core.text import printable
from kubesyncd.ports import Lasting, Passing, PortError, Refused

if TYPE_CHECKING:
    from kubesyncd.core.model import Stored
    from kubesyncd.features.memory import Memory
    from kubesyncd.features.surroundings import Surroundings
    from kubesyncd.runtime.alerts import AlertLog

# A package upgrade rewrites a FEATURE row as a deletion, and then a new row within 200 ms: that changes no owner.
ROW_GONE_S = 1.0
LOADING = "CONFIG_DB is being loaded, and the owner is not known before"
# A load that takes longer may never end: CONFIG_DB is complete, and not marked as that.
LOADING_S_MAX = 60.0
NOT_LOADED = (
    f"CONFIG_DB has not been marked as loaded (CONFIG_DB_INITIALIZED) for {LOADING_S_MAX:g} s, and the owner is not "
    "known before; wait for config reload to end, or run: sonic-db-cli CONFIG_DB SET CONFIG_DB_INITIALIZED 1"
)


class StoreReader:
    """Reads the feature's rows. `failure`: the last read, where Redis did not answer it; no event repeats it.

    `gone_until`: when a missing FEATURE row counts as removed. `_loading_since`: since when a load has kept the owner
    unknown (BOOTTIME seconds).
    """

    def __init__(self, name: str, around: Surroundings, memory: Memory, alerts: AlertLog) -> None:
        self._name = name
        self._around = around
        self._memory = memory
        self._alerts = alerts
        self._backoff = around.runtime.backoff(around.timing)
        self.failure: FailedAction | None = None
        self.gone_until: float | None = None
        self._loading_since: float | None = None

    async def read(self) -> Stored | None:
        """Read both rows; also take the config, or keep the last known one where Redis does not answer.

        None: Redis does not answer, or the config was never known and is being loaded.
        """
        try:
            stored = await self._around.store.read(self._name, self._memory.known_config)
            if self._memory.shows_loss(stored.row):
                self._around.ledger_lost()
                # A CONFIG_DB that is not complete is being loaded.
                stored = await self._around.store.read(self._name, self._memory.known_config)
        except PortError as error:
            self._alerts.fails("store", error)
            self._loading_since = None
            self._fail(error)
            return None
        stored = self._settled(stored)
        if stored.loading and not self._memory.config_read:
            self._fail(Passing("Redis", self._loads()))
            return None
        self._alerts.answers("store")
        self._loading_since = None
        self.failure = None
        self._backoff.reset()
        self._memory.take_config(stored)
        config = self._memory.config
        why = (f"set_owner=kube has no effect: {config.why_local}",) if config.why_local else ()
        self._alerts.warn("config", "; ".join((*stored.problems, *why)))
        return stored

    def _loads(self) -> str:
        """Say that a load keeps the owner unknown; where it takes too long, that is one alert for all features."""
        now = self._around.runtime.clock()
        if self._loading_since is None:
            self._loading_since = now
        if now < self._loading_since + LOADING_S_MAX:
            self._alerts.answers("store")
            return LOADING
        self._alerts.fails("store", Lasting("Redis", NOT_LOADED))
        return NOT_LOADED

    def _fail(self, error: PortError) -> None:
        """Note why the rows are not known."""
        again_at = self._around.runtime.clock() + self._backoff.next_s()
        self.failure = FailedAction(
            ActionKind.READ_ROW,
            "",
            printable(error, TEXT_MAX),
            again_at=again_at,
            refused=isinstance(error, Refused),
            passing=isinstance(error, Passing),
        )

    def _settled(self, stored: Stored) -> Stored:
        """Return `stored`, as being loaded where the row has been missing for less than ROW_GONE_S."""
        if stored.config is not None or stored.loading or not self._memory.record.registered:
            self.gone_until = None
            return stored
        now = self._around.runtime.clock()
        if self.gone_until is None:
            self.gone_until = now + ROW_GONE_S
        if now < self.gone_until:
            return replace(stored, loading=True)
        self.gone_until = None
        return stored
