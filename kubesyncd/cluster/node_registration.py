"""Have a Node that was deleted registered again: only a kubelet that starts registers its Node.

Knows systemd's port and the clock; does not know who deleted the Node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.ports import PortError
from kubesyncd.runtime.backoff import Backoff

if TYPE_CHECKING:
    from kubesyncd.ports import Units
    from kubesyncd.runtime.context import Runtime

NODE_GONE = "node_gone"
# A kubelet that is about to register its Node does so within seconds of its start.
GONE_S = 60.0
BACKOFF_S_MAX = 600.0


class NodeRegistration:
    """Restarts a running kubelet whose Node has been missing for GONE_S, with growing delays.

    `again_at`: when the next restart is due; None: none is.
    """

    def __init__(self, units: Units, runtime: Runtime) -> None:
        self._units = units
        self._clock = runtime.clock
        self._log = runtime.log
        self._alerts = runtime.alert_log("node")
        self._backoff = Backoff(runtime.rng, GONE_S, BACKOFF_S_MAX)
        self._restarts = 0
        self._error = ""
        self._gone = False
        self.again_at: float | None = None

    @property
    def told(self) -> str:
        """What an operator should know; empty while the Node exists, and before it was ever registered."""
        if not self._gone:
            return ""
        done = f"; the kubelet was restarted {self._restarts} times" if self._restarts else ""
        left_s = None if self.again_at is None else max(0.0, self.again_at - self._clock())
        next_ = "" if left_s is None else f", next in {left_s:.0f} s"
        failed = f" ({self._error})" if self._error else ""
        return (
            f"the node was deleted on the master{done}{failed}; its kubelet is restarted to register it "
            f"again{next_}; see: journalctl -u kubelet"
        )

    @property
    def no_deploy(self) -> str:
        """Why Kubernetes cannot deploy; empty while the Node exists, or has been missing for less than GONE_S."""
        tried = self._gone and (self._restarts or self._error)
        return (
            "the node was deleted on the master; its kubelet is restarted to register it again"
            if tried
            else ""
        )

    async def look(self, *, gone: bool, kubelet: bool) -> None:
        """Restart the kubelet when it is time.

        `gone`: the API server does not have the Node that it had. `kubelet`: it runs, and may.
        """
        self._gone = gone
        if not gone:
            self._alerts.end(NODE_GONE)
            self._backoff.reset()
            self.again_at, self._restarts, self._error = None, 0, ""
            return
        if not kubelet:
            # It registers the Node when it is started.
            self.again_at = None
            return
        now = self._clock()
        if self.again_at is None:
            self.again_at = now + GONE_S
        if now < self.again_at:
            return
        self._alerts.begin(NODE_GONE, self.told)
        await self._restart()
        self.again_at = now + GONE_S + self._backoff.next_s()

    async def _restart(self) -> None:
        try:
            await self._units.restart_kubelet()
        except PortError as error:
            self._error = str(error)
            return
        self._error = ""
        self._restarts += 1
        self._log.info("kubelet", action="restart", why="its node was deleted on the master")
