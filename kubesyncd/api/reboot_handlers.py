"""Answer `reboot-prepare KIND DRY` and `reboot-undo`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kubesyncd.api.messages import Reply, failure
from kubesyncd.core import protocol
from kubesyncd.reboot.hold import invalid_kind, kind_of

if TYPE_CHECKING:
    from kubesyncd.api.handlers import Handler
    from kubesyncd.api.messages import Request
    from kubesyncd.core.descriptions import PreparationStepDescription
    from kubesyncd.reboot.hold import PreparationStep
    from kubesyncd.reboot.preparation import Preparation


class RebootHandlers:
    """The host socket's verbs about reboots."""

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation

    def handlers(self) -> dict[str, Handler]:
        """Return each verb and its handler."""
        return {"reboot-prepare": self._prepare, "reboot-undo": self._undo}

    async def _prepare(self, request: Request) -> Reply:
        kind, dry = kind_of(request.argument(1)), request.argument(2) == "1"
        if kind is None:
            return failure(protocol.EXIT_USAGE, "", invalid_kind(request.argument(1)))
        steps = await self._preparation.prepare(kind, dry=dry)
        return Reply(out="\n".join(json.dumps(_described(step)) for step in steps))

    async def _undo(self, _: Request) -> Reply:
        return Reply(out=json.dumps(_described(await self._preparation.undo())))


def _described(step: PreparationStep) -> PreparationStepDescription:
    return {"grade": step.grade.value, "what": step.what, "text": step.text}
