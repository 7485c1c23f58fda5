"""Read a feature's containers, and read them again soon where Docker does not describe one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubesyncd.core.model import Container
    from kubesyncd.features.surroundings import Surroundings


class ContainerReader:
    """Reads from Docker. `again_at`: when to repeat a read with an undescribed container; no event repeats it."""

    def __init__(self, name: str, around: Surroundings) -> None:
        self._name = name
        self._around = around
        self._backoff = around.runtime.backoff(around.timing)
        self.again_at: float | None = None

    async def read(self, granted: str) -> tuple[Container, ...]:
        """List the containers. Raises PortError."""
        found = await self._around.containers.list(self._name, granted)
        if any(c.unread for c in found):
            self.again_at = self._around.runtime.clock() + self._backoff.next_s()
        else:
            self.again_at = None
            self._backoff.reset()
        return found
