"""Answer `unit-ended NAME`, which the ExecStopPost of a feature's unit sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.api.handlers import feature_name
from kubesyncd.api.messages import Reply

if TYPE_CHECKING:
    from kubesyncd.api.handlers import Handler
    from kubesyncd.api.messages import Request
    from kubesyncd.features.unit_watch import UnitWatch


class UnitHandlers:
    """The host socket's verb of units."""

    def __init__(self, watch: UnitWatch) -> None:
        self._watch = watch

    def handlers(self) -> dict[str, Handler]:
        """Return each verb and its handler."""
        return {"unit-ended": self._ended}

    async def _ended(self, request: Request) -> Reply:
        """Reply at once: the unit ends only after its ExecStopPost, and no stop waits for what follows."""
        self._watch.hear(feature_name(request), request.peer.unit)
        return Reply()
