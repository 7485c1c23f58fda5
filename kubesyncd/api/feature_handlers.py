"""Answer `container start|stop|kill|wait|id`, and operators' requests about features."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kubesyncd.api.feature_description import describe
from kubesyncd.api.handlers import NO_SUCH_FEATURE, feature_name, known_reconciler
from kubesyncd.api.messages import Reply, failure
from kubesyncd.core import protocol, verbs
from kubesyncd.core.model import Owner, valid_feature_name
from kubesyncd.core.record import cleared, project

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.api.handlers import Handler
    from kubesyncd.api.messages import Request
    from kubesyncd.features.reconciler import Reconciler
    from kubesyncd.features.registry import Reconcilers
    from kubesyncd.ports import Containers


class FeatureHandlers:
    """The host socket's verbs about features."""

    def __init__(
        self,
        reconcilers: Reconcilers,
        containers: Containers,
        clock: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._reconcilers = reconcilers
        self._containers = containers
        self._clock = clock
        self._log = log

    def handlers(self) -> dict[str, Handler]:
        """Return each verb and its handler."""
        return {
            "start": self._start,
            "stop": self._stop,
            "kill": self._kill,
            "wait": self._wait,
            "id": self._id,
            "resolve": self._id,
            "clear": self._clear,
            "show": self._show,
            "forget": self._forget,
        }

    def _reconciler(self, request: Request) -> Reconciler:
        return self._reconcilers.get(feature_name(request))

    async def _carry_out(self, request: Request, verb: verbs.Verb) -> Reply:
        reconciler = self._reconciler(request)
        outcome = await reconciler.carry_out(verb)
        if outcome.code == protocol.EXIT_DONE:
            return Reply()
        return failure(outcome.code, reconciler.name, outcome.text)

    async def _start(self, request: Request) -> Reply:
        return await self._carry_out(request, verbs.Start())

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
        return Reply(await self._reconciler(request).waiters.ended(request.say))

    async def _id(self, request: Request) -> Reply:
        name = feature_name(request)
        reconciler = self._reconcilers.known(name)
        if reconciler is None:
            # The feature is unknown so far: a lookup must not create it.
            containers = [c for c in await self._containers.list(name) if not c.gone]
            if not containers:
                text = "no such feature and no container of that name; see: kubesync show feature"
                return failure(protocol.EXIT_FAILED, name, text)
            return Reply(out=name)
        view = reconciler.view or await reconciler.seen()
        row = project(view.record, view.observed)
        if row.docker_id:
            return Reply(out=row.docker_id)
        if view.config.owner is Owner.KUBE and view.observed.local is None:
            return failure(protocol.EXIT_FAILED, name, f"no container runs: {view.plan.why}; ask again later")
        return Reply(out=name)

    async def _clear(self, request: Request) -> Reply:
        """Clear a failure, as the operator asks: Kubernetes gets another chance, at once."""
        reconciler = known_reconciler(self._reconcilers, feature_name(request))
        before = (reconciler.view or await reconciler.seen()).record
        after = await reconciler.note(cleared)
        if not (before.failure or before.rolled_back or before.refuse_until > self._clock()):
            return Reply(out=f"nothing to clear: {after.plan.why}")
        return Reply(out=f"cleared ({before.failure or 'a hand-over had to wait'}): {after.plan.why}")

    async def _show(self, request: Request) -> Reply:
        """Reply with one JSON object per feature and line: all features, or the given one."""
        wanted = request.argument(1)
        reconcilers = [k for k in self._reconcilers if wanted in ("", k.name)]
        if wanted and not reconcilers:
            # An unchecked name from a client: escape it before it is printed.
            name = wanted if valid_feature_name(wanted) else ascii(wanted[:64])
            return failure(protocol.EXIT_FAILED, name, NO_SUCH_FEATURE)
        shown = [
            describe(k, k.view, self._clock()) for k in sorted(reconcilers, key=lambda k: k.name) if k.view
        ]
        return Reply(out="\n".join(json.dumps(s) for s in shown))

    async def _forget(self, request: Request) -> Reply:
        name = feature_name(request)
        await self._reconcilers.forget(name)
        self._log.info("forgotten", feature=name)
        return Reply()
