"""Answer `container start|stop|kill|wait|id`, and operators' requests about features."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from kubesyncd.api.feature_description import describe
from kubesyncd.api.handlers import NO_SUCH_FEATURE, existing_reconciler, feature_name, known_reconciler
from kubesyncd.api.messages import Reply, failure
from kubesyncd.core import protocol, verbs
from kubesyncd.core.feature_unit import runs_feature
from kubesyncd.core.model import SHORT_ID, Owner, Row, valid_feature_name
from kubesyncd.core.record import project

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.api.handlers import Handler
    from kubesyncd.api.messages import Request
    from kubesyncd.features.reconciler import Reconciler
    from kubesyncd.features.registry import Reconcilers
    from kubesyncd.ports import Containers

SHOWN_AT_ONCE = 32


class FeatureHandlers:
    """The host socket's verbs about features."""

    def __init__(
        self,
        reconcilers: Reconcilers,
        containers: Containers,
        clock: Callable[[], float],
        log: FilteringBoundLogger,
        *,
        short_ids: bool = False,
    ) -> None:
        self._reconcilers = reconcilers
        self._containers = containers
        self._clock = clock
        self._log = log
        self._short_ids = short_ids

    def handlers(self) -> dict[str, Handler]:
        """Return each verb and its handler."""
        return {
            "start": self._start,
            "stop": self._stop,
            "kill": self._kill,
            "wait": self._wait,
            "id": self._id,
            "resolve": self._resolve,
            "clear": self._clear,
            "show": self._show,
            "forget": self._forget,
            "way-back": self._way_back,
        }

    async def _reconciler(self, request: Request) -> Reconciler:
        return await existing_reconciler(self._reconcilers, feature_name(request))

    async def _carry_out(self, request: Request, verb: verbs.Verb) -> Reply:
        reconciler = await self._reconciler(request)
        outcome = await reconciler.carry_out(verb)
        if outcome.code == protocol.EXIT_DONE:
            return Reply()
        return failure(outcome.code, reconciler.name, outcome.text)

    async def _start(self, request: Request) -> Reply:
        name, unit = feature_name(request), request.peer.unit
        return await self._carry_out(request, verbs.Start(unit if runs_feature(unit, name) else ""))

    async def _stop(self, request: Request) -> Reply:
        name, seconds = feature_name(request), request.argument(2)
        if seconds and not (
            seconds.isascii() and seconds.isdigit() and int(seconds[:9]) <= verbs.GRACE_S_MAX
        ):
            text = f"-t {seconds[:20]!a}: invalid number of seconds, 0 to {verbs.GRACE_S_MAX} allowed"
            return failure(protocol.EXIT_USAGE, name, f"{text}; give a whole number, or leave -t out")
        return await self._carry_out(request, verbs.Stop(float(seconds) if seconds else None))

    async def _kill(self, request: Request) -> Reply:
        signal = request.argument(2, "KILL").upper().removeprefix("SIG")
        signal = {"9": "KILL", "15": "TERM", "2": "INT", "3": "QUIT", "6": "ABRT"}.get(
            signal, signal or "KILL"
        )
        if signal not in verbs.ENDING_SIGNALS:
            text = f"{signal[:20]!a} does not end a container; use one of {', '.join(verbs.ENDING_SIGNALS)}"
            name = feature_name(request)
            hint = f"for other signals: docker kill -s SIGNAL $(container id {name})"
            return failure(protocol.EXIT_USAGE, name, f"{text}, or {hint}")
        return await self._carry_out(request, verbs.Kill(signal, kubelet_check=request.argument(3) != "1"))

    async def _wait(self, request: Request) -> Reply:
        reconciler = await self._reconciler(request)
        with request.waiting(reconciler.name):
            return Reply(await reconciler.waiters.ended(request.say))

    async def _id(self, request: Request) -> Reply:
        """Reply with the ID of the container that runs the feature.

        With SONiC's names: what its scripts expect, the feature's name where it is local, else a short ID.
        """
        resolved = await self._resolved(request, ended=False)
        if not self._short_ids or resolved.code != protocol.EXIT_DONE:
            return resolved
        name = feature_name(request)
        reconciler = self._reconcilers.known(name)
        view = None if reconciler is None else reconciler.view
        granted = "" if view is None else view.record.grant
        return Reply(out=resolved.out[:SHORT_ID] if resolved.out == granted else name)

    async def _resolve(self, request: Request) -> Reply:
        """Reply with what docker has to be given for the feature: an ended container has the feature's name.

        With `kube`, reply at once with the kube container that runs the feature, and with nothing where none does.
        """
        if request.argument(2) == "kube":
            return self._kube_container(feature_name(request))
        return await self._resolved(request, ended=True)

    def _kube_container(self, name: str) -> Reply:
        """Reply without an observation: docker waits for the answer, in a script that calls it often."""
        reconciler = self._reconcilers.known(name)
        view = None if reconciler is None else reconciler.view
        row = Row() if view is None else project(view.record, view.observed)
        return Reply(out=row.docker_id if row.current_owner is Owner.KUBE else "")

    async def _resolved(self, request: Request, *, ended: bool) -> Reply:
        name = feature_name(request)
        reconciler = self._reconcilers.known(name)
        if reconciler is None:
            # The feature is unknown so far: a lookup must not create it.
            return await self._found_by_docker(name, ended=ended)
        view = reconciler.view or await reconciler.seen()
        row = project(view.record, view.observed)
        if row.docker_id:
            return Reply(out=row.docker_id)
        if ended and view.observed.local is not None:
            return Reply(out=name)
        return failure(protocol.EXIT_FAILED, name, f"no container runs: {view.plan.why}; ask again later")

    async def _found_by_docker(self, name: str, *, ended: bool) -> Reply:
        containers = [c for c in await self._containers.list(name) if not c.gone and c.owner is Owner.LOCAL]
        if not containers:
            text = "no such feature and no container of that name; see: kubesync show feature"
            return failure(protocol.EXIT_FAILED, name, text)
        if ended or containers[0].running:
            return Reply(out=containers[0].id)
        return failure(protocol.EXIT_FAILED, name, f"no container runs; start it: container start {name}")

    async def _clear(self, request: Request) -> Reply:
        """Clear a failure, as the operator asks: Kubernetes gets another chance, at once."""
        reconciler = known_reconciler(self._reconcilers, feature_name(request))
        before = (reconciler.view or await reconciler.seen()).record
        after = await reconciler.cleared()
        waited = "a hand-over had to wait" if before.refuse_until > self._clock() else ""
        unstartable = "its local container did not start" if before.unstartable is not None else ""
        if not (before.failure or before.rolled_back or waited or unstartable):
            return Reply(out=f"nothing to clear: {after.plan.why}")
        return Reply(out=f"cleared ({before.failure or waited or unstartable}): {after.plan.why}")

    async def _show(self, request: Request) -> Reply:
        """Reply with one JSON object per feature and line: all features, or the given one.

        One that Docker has not reported since the daemon's start has no line: the status names it.
        """
        wanted = request.argument(1)
        reconcilers = [k for k in self._reconcilers if wanted in ("", k.name)]
        if wanted and not reconcilers:
            # An unchecked name from a client: escape it before it is printed.
            name = wanted if valid_feature_name(wanted) else ascii(wanted[:64])
            return failure(protocol.EXIT_FAILED, name, NO_SUCH_FEATURE)
        shown = []
        for number, known in enumerate(sorted(reconcilers, key=lambda k: k.name), 1):
            if known.view:
                shown.append(json.dumps(describe(known, known.view, self._clock())))
            else:
                request.say(f"{known.name}: Docker has not reported its containers yet")
            # All of a full switch would hold up every other request for 40 ms.
            if number % SHOWN_AT_ONCE == 0:
                await asyncio.sleep(0)
        return Reply(out="\n".join(shown))

    async def _way_back(self, request: Request) -> Reply:
        """Reply why no local container can run the feature, whether or not one may have to; empty where one can."""
        return Reply(out=await known_reconciler(self._reconcilers, feature_name(request)).lacking())

    async def _forget(self, request: Request) -> Reply:
        name = feature_name(request)
        await self._reconcilers.forget(name)
        self._log.info("forgotten", feature=name)
        return Reply()
