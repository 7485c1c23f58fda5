"""Answer `join`, `reset` and `cluster`.

Knows the wire and the join controller; decides nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kubesyncd.api.messages import Reply
from kubesyncd.core import protocol
from kubesyncd.join.plan import Job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kubesyncd.api.messages import Request
    from kubesyncd.cluster.controller import ClusterController
    from kubesyncd.join.controller import JoinController


def verbs(
    membership: JoinController, cluster: ClusterController
) -> dict[str, Callable[[Request], Awaitable[Reply]]]:
    """`join 1|0` (forced or not), `reset`, and `cluster`: the state of the master and the membership, as JSON."""

    async def join(request: Request) -> Reply:
        if request.argument(1, "0") not in ("0", "1"):
            return Reply(
                protocol.EXIT_USAGE, err="kubernetes: join takes 0, or 1 to force it; give one of these"
            )
        return await carry_out(Job.JOIN, request, force=request.argument(1) == "1")

    async def reset(request: Request) -> Reply:
        return await carry_out(Job.RESET, request, force=False)

    async def carry_out(job: Job, request: Request, *, force: bool) -> Reply:
        outcome = await membership.ask(job, force=force, say=request.say)
        if outcome.code == protocol.EXIT_DONE:
            return Reply(out=outcome.text)
        return Reply(outcome.code, err=f"kubernetes: {outcome.text}")

    async def status(_: Request) -> Reply:
        return Reply(out=json.dumps({**cluster.status(), "membership": membership.status()}))

    return {"join": join, "reset": reset, "cluster": status}
