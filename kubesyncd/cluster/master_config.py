"""Read from Redis the master's configuration, and what the switch says about itself by labels.

Knows the store; does not know the link, the label queue or the kubelet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.core import labels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.labels import Change
    from kubesyncd.core.model import MasterConfig
    from kubesyncd.ports import FeatureStore


class MasterConfigReader:
    """The configuration that was last read. `master` None: not read yet.

    `description`: the labels by which the switch describes itself. `originals`: the same before the conversion to label
    values. `changed` is called after a change of the configuration or of the description.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        os_version: Callable[[], str],
        changed: Callable[[], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._store = store
        self._os_version = os_version
        self._changed = changed
        self._log = log
        self.master: MasterConfig | None = None
        self.description: tuple[Change, ...] = ()
        self.originals: Mapping[str, str] = {}

    async def read(self) -> None:
        """Read again. Raises PortError, and then the last configuration stays."""
        master = await self._store.master()
        if master.wanted:
            metadata, version = await self._store.device_metadata(), self._os_version()
            self.originals = labels.originals(metadata, version)
            description = labels.self_description(metadata, version)
            if description != self.description:
                self.description = description
                self._changed()
        if master == self.master:
            return
        known = self.master.problems if self.master else ()
        for problem in set(master.problems) - set(known):
            self._log.warning("master_config", why=problem)
        self.master = master
        self._changed()
