"""Keep the link to the configured API server, and watch the own Node through it.

Knows the Cluster port; does not know the label queue or the kubelet.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from kubesyncd.core.host import canonical_host
from kubesyncd.ports import PortError
from kubesyncd.runtime.wakeup import woken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kubesyncd.core.model import MasterConfig, NodeSeen, Timing
    from kubesyncd.ports import Cluster
    from kubesyncd.runtime.context import Runtime

# A link that broke sooner does not reset the backoff: the API server may not be healthy.
STABLE_LINK_S = 5.0
# Different reasons logged per outage; further ones are in `show kubernetes status` only.
OUTAGE_REASONS_MAX = 8


class NodeLink:
    """The link and its observations. `node` None: not observed on this link.

    `state`: whether the API server answers (None: never tried), and since when (seconds since the epoch).
    `changed` is called after each change of `state`; `node_seen` after each observation of the Node (None: the API
    server does not have it), with whether the API server answers again or has the Node again.
    """

    def __init__(
        self,
        connect: Callable[[MasterConfig], Cluster],
        *,
        timing: Timing,
        runtime: Runtime,
        changed: Callable[[], None],
        node_seen: Callable[[NodeSeen | None, bool], None],
    ) -> None:
        self._connect = connect
        self._runtime = runtime
        self._changed = changed
        self._node_seen = node_seen
        self._backoff = runtime.backoff(timing)
        self._address: tuple[str, int, bool] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._again = asyncio.Event()
        self._outage_reasons: set[str] = set()
        self.cluster: Cluster | None = None
        self.packages_missing = False
        self.state: tuple[bool | None, int] = None, 0
        self.why = ""
        self.node: Mapping[str, str] | None = None
        self.node_exists: bool | None = None

    @property
    def connected(self) -> bool | None:
        """Whether the API server answers; None: never tried."""
        return self.state[0]

    async def keep(self, master: MasterConfig, tasks: asyncio.TaskGroup) -> bool:
        """Keep a link to `master`; return whether it is a new one. Without the Kubernetes packages there is none."""
        if self._address is not None and self._address != _address(master):
            await self.drop("another API server is configured", announce=True)
        if self.cluster is not None:
            return False
        try:
            self.cluster = self._connect(master)
        except ImportError:
            self.packages_missing = True
            return False
        self._address = _address(master)
        self.why = "it has not answered yet"
        self._backoff.reset()
        self._watcher = tasks.create_task(self._follow(self.cluster), name="cluster-watch")
        return True

    async def drop(self, why: str = "", *, announce: bool) -> None:
        """End the link. `announce`: log why, where the node has joined."""
        watcher, cluster = self._watcher, self.cluster
        self._watcher = self.cluster = None
        self._address = self.node = self.node_exists = None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])
        if cluster is not None:
            with suppress(PortError):
                await cluster.close()
        if why:
            self._set_connected(False, why, announce=announce)

    def answers(self) -> None:
        """Note that the API server has answered a request: where the watch is down, retry it now."""
        if not self.connected:
            self._again.set()

    async def _follow(self, cluster: Cluster) -> None:
        while True:
            begun, why = self._runtime.clock(), "the watch has ended"
            try:
                async for seen in cluster.watch():
                    self._observe(seen)
            except PortError as error:
                why = error.detail
            self._set_connected(False, why, announce=True)
            if self._runtime.clock() - begun >= STABLE_LINK_S:
                self._backoff.reset()
            await woken(self._again, self._backoff.next_s())

    def _observe(self, seen: NodeSeen | None) -> None:
        news = not self.connected or (seen is not None and not self.node_exists)
        self.node = seen.labels if seen is not None else {}
        self.node_exists = seen is not None
        self._set_connected(True, "the API server answers", announce=True)
        self._node_seen(seen, news)

    def _set_connected(self, connected: bool, why: str, *, announce: bool) -> None:
        self.why = why
        if connected is self.connected:
            self._tell_outage_reason(why, announce=announce)
            return
        if announce or self.connected is not None:
            self._runtime.log.info("master", connected=connected, why=why)
        self._outage_reasons = {why}
        self.state = connected, int(self._runtime.wall())
        self._changed()

    def _tell_outage_reason(self, why: str, *, announce: bool) -> None:
        """Log each reason of an outage once: it begins with a closed connection; later attempts show the cause."""
        news = why not in self._outage_reasons and len(self._outage_reasons) < OUTAGE_REASONS_MAX
        if self.connected or not announce or not news:
            return
        self._outage_reasons.add(why)
        self._runtime.log.info("master", connected=False, why=why)


def _address(master: MasterConfig) -> tuple[str, int, bool]:
    """Return the configuration that a link depends on."""
    return canonical_host(master.ip), master.port, master.insecure
