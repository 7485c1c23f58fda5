"""Answer `join` and `reset`.

Knows the wire and the join controller; decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.api.messages import Reply
from kubesyncd.core import protocol
from kubesyncd.join.plan import Job

if TYPE_CHECKING:
    from kubesyncd.api.handlers import Handler
    from kubesyncd.api.messages import Request
    from kubesyncd.join.controller import JoinController


class JoinHandlers:
    """The host socket's verbs about the membership in a cluster."""

    def __init__(self, join: JoinController) -> None:
        self._controller = join

    def handlers(self) -> dict[str, Handler]:
        """Return each verb and its handler: `join 1|0` (forced or not), and `reset`."""
        return {"join": self._join, "reset": self._reset}

    async def _join(self, request: Request) -> Reply:
        if request.argument(1, "0") not in ("0", "1"):
            return Reply(
                protocol.EXIT_USAGE, err="kubernetes: join takes 0, or 1 to force it; give one of these"
            )
        return await self._carry_out(Job.JOIN, request, force=request.argument(1) == "1")

    async def _reset(self, request: Request) -> Reply:
        return await self._carry_out(Job.RESET, request, force=False)

    async def _carry_out(self, job: Job, request: Request, *, force: bool) -> Reply:
        outcome = await self._controller.ask(job, force=force, say=request.say)
        if outcome.code == protocol.EXIT_DONE:
            return Reply(out=outcome.text)
        return Reply(outcome.code, err=f"kubernetes: {outcome.text}")
