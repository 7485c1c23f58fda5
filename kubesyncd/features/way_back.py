"""Find out whether a feature that Kubernetes may run has a way back: a local container, or a unit that makes one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.core.model import Owner, SystemState
from kubesyncd.core.record import falls_back
from kubesyncd.ports import PortError

if TYPE_CHECKING:
    from kubesyncd.core.model import Container, FeatureConfig
    from kubesyncd.core.record import Record
    from kubesyncd.features.surroundings import Surroundings
    from kubesyncd.runtime.alerts import AlertLog

TOPIC = "way_back"
NO_SCRIPT = "no local container exists, and no unit has a script to make one"


class WayBack:
    """Asks systemd and Docker where it matters, at most once in `audit_s`.

    `again_at`: when to ask again after no answer; no event repeats it.
    """

    def __init__(self, name: str, around: Surroundings, alerts: AlertLog) -> None:
        self._name = name
        self._around = around
        self._alerts = alerts
        self._backoff = around.runtime.backoff(around.timing)
        # The last answer, and why there is none to the last question.
        self._lacking: str | None = None
        self._silent = ""
        self._until = 0.0
        self._asks = False
        # Counts every change of the images, so that an answer from before one is asked again.
        self._changes = 0
        self.again_at: float | None = None

    def doubt(self) -> bool:
        """Note that the images have changed; return whether the answer may be another one now.

        A local image that was missing counts as missing until Docker says that it exists.
        """
        self._until = 0.0
        self._changes += 1
        self._lacking = self._lacking or None
        return self._asks

    @property
    def unknown(self) -> str:
        """Why it is not known whether a local container can be made; empty where it is, or none may be needed."""
        if not self._asks or self._lacking is not None:
            return ""
        return f"it is not known whether a local container can be made ({self._silent})"

    async def lacking(self, config: FeatureConfig, record: Record, containers: tuple[Container, ...]) -> str:
        """Return why no local container exists or can be made; see also `unknown`.

        Empty where one does or can, where that is not known, or none may be needed.
        """
        exists = any(c.owner is Owner.LOCAL and not c.gone for c in containers)
        self._asks = not exists and record.system_state is SystemState.UP and falls_back(config, record)
        if not self._asks:
            self._lacking, self._until = None, 0.0
            self._rest(surely=False)
            return ""
        now = self._around.runtime.clock()
        waits = self.again_at is not None and now < self.again_at
        if not waits and now >= self._until:
            await self._ask(record)
        return self._lacking or ""

    async def _ask(self, record: Record) -> None:
        changes, clock = self._changes, self._around.runtime.clock
        try:
            answer = await self.asked(record)
        except PortError as error:
            # Docker may take long to say nothing.
            self.again_at = clock() + self._backoff.next_s()
            self._silent = str(error)
            self._alerts.fails(TOPIC, error)
            return
        self._rest(surely=True)
        if changes == self._changes:
            self._lacking, self._until = answer, clock() + self._around.timing.audit_s
        else:
            # As it was before the change: only a loss counts, until it is asked again.
            self._lacking = answer or self._lacking
            self._silent = "the images are changing"

    def _rest(self, *, surely: bool) -> None:
        """Note an answer (`surely`), or that none is needed: then the outage ends at the first look that may end it."""
        self.again_at = None
        self._alerts.answers(TOPIC, surely=surely)
        self._backoff.reset()

    async def asked(self, record: Record) -> str:
        """Return why no local container can be made; empty where one can. Raises Unavailable, Refused."""
        if not await self._around.units.makes_local(self._name):
            return NO_SCRIPT
        image = await self._around.images.missing_local(self._name, record.local_image)
        return f"no local container exists, and its image {image} does not exist" if image else ""
