"""Find out whether a feature exists: it has a FEATURE row, a container or a unit.

What an external service does not answer is unknown: an unknown feature counts neither as existing nor as absent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.ports import Passing, PortError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kubesyncd.core.model import Container, Stored
    from kubesyncd.features.surroundings import Surroundings


async def exists(name: str, around: Surroundings) -> bool:
    """Return whether a feature of this name exists. Raises Unavailable where that is unknown."""

    async def has_row() -> bool:
        stored = await around.store.read(name)
        if stored.loading and stored.config is None:
            raise Passing("Redis", "CONFIG_DB is being loaded")
        return stored.config is not None

    async def has_container() -> bool:
        return any(not container.gone for container in await around.containers.list(name))

    silent: PortError | None = None
    looks: tuple[Callable[[], Awaitable[bool]], ...] = (
        has_row,
        has_container,
        lambda: around.units.unit_exists(name),
    )
    for look in looks:
        try:
            if await look():
                return True
        except PortError as error:
            silent = silent or error
    if silent is not None:
        text = f"{silent.detail}; so it is unknown whether the feature exists, and nothing was done"
        kind = Passing if isinstance(silent, Passing) else Unavailable
        raise kind(silent.service, text)
    return False


class Existence:
    """Notes when nothing is left of a known feature.

    systemd is asked only where the feature has no row and no container, and then once in `audit_s` while it has a unit.
    """

    def __init__(self, name: str, around: Surroundings) -> None:
        self._name = name
        self._around = around
        self._backoff = around.runtime.backoff(around.timing)
        # Until then systemd is not asked: there is a unit.
        self._unit_until = 0.0
        # When to ask again after no answer; no event repeats it.
        self.again_at: float | None = None

    async def absent(self, stored: Stored | None, containers: tuple[Container, ...]) -> bool:
        """Return whether the feature has no FEATURE row, no container and no unit, for certain."""
        if stored is None or stored.loading or stored.config is not None:
            self.again_at = None
            return False
        now, again_at = self._around.runtime.clock(), self.again_at
        if any(not container.gone for container in containers):
            self.again_at = None
            return False
        if now < self._unit_until or (again_at is not None and now < again_at):
            return False
        try:
            has_unit = await self._around.units.unit_exists(self._name)
        except Unavailable:
            self.again_at = self._around.runtime.clock() + self._backoff.next_s()
            return False
        self.again_at = None
        self._backoff.reset()
        if has_unit:
            self._unit_until = now + self._around.timing.audit_s
        return not has_unit
