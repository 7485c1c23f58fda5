"""Track one verb of a client from its request to its answer. A newer verb supersedes an older one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.core import protocol, verbs
from kubesyncd.core.failed_action import ActionKind
from kubesyncd.core.verbs import Outcome, Verb
from kubesyncd.features.waiters import PATIENCE_S
from kubesyncd.ports import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kubesyncd.core.model import FeatureConfig
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record
    from kubesyncd.ports import PortError


@dataclass(slots=True)
class _Call:
    verb: Verb
    answer: asyncio.Future[Outcome]
    asked_at: float
    observed: bool = False
    accepted: bool = False
    outcome: Outcome | None = None

    @property
    def given_up(self) -> bool:
        """Whether it is a start that has failed. Its answer stays: nothing is wanted any more."""
        failed = self.outcome is not None and self.outcome.code != protocol.EXIT_DONE
        return failed and isinstance(self.verb, verbs.Start)


class VerbCall:
    """The current verb, if there is one. Every verb is answered within `verb_s_max`."""

    def __init__(self, clock: Callable[[], float], verb_s_max: float) -> None:
        self._clock = clock
        self._verb_s_max = verb_s_max
        # For how long a verb waits for a Redis that may answer in a moment.
        self._redis_s_max = verb_s_max - PATIENCE_S
        self._call: _Call | None = None

    async def carried_out(
        self,
        verb: Verb,
        *,
        record: Callable[[], Awaitable[None] | None],
        wake: Callable[[], None],
        why: Callable[[], str],
    ) -> Outcome:
        """Have the verb's request recorded, `wake` the reconciler, and wait until it is done.

        `record` records a stop or kill at once, whatever the reconciler is busy with, and returns what stores it; None:
        the verb needs an observation. `why`: why the verb is not done yet.
        """
        if self._call is not None:
            self.answer(verbs.overtaken(verb))
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        call = self._call = _Call(verb, answer, self._clock())
        stored = record()
        call.accepted = stored is not None
        wake()
        # Redis may not be asked again until long after the time for which the verb waits for it.
        giving_up = asyncio.get_running_loop().call_later(self._redis_s_max, wake)
        try:
            async with asyncio.timeout(self._verb_s_max):
                if stored is not None:
                    await stored
                return await answer
        except TimeoutError:
            if not call.accepted:
                return Outcome(protocol.EXIT_TIMED_OUT, f"not begun in time: {why()}; start it again")
            return Outcome(
                protocol.EXIT_TIMED_OUT,
                f"not done in time: {why()}; it goes on, ask again with `container state`",
            )
        finally:
            giving_up.cancel()
            if self._call is call:
                self._call = None

    def begin(self) -> None:
        """Note that an observation begins: what it finds counts for the verb that has come by now."""
        if self._call is not None:
            self._call.observed = True

    def accept(self, config: FeatureConfig, record: Record, observed: Observation) -> Record | None:
        """Return the record with the verb's request applied; None without a new verb, or where it is declined.

        A feature that did not exist before the verb came may exist now: the next observation tells.
        """
        call = self._call
        if call is None or call.accepted or self._must_wait(call, config, observed):
            return None
        if observed.absent and not call.observed:
            return None
        noted = verbs.accept(call.verb, config, record, observed, asked_at=call.asked_at)
        if isinstance(noted, Outcome):
            self.answer(noted)
            return None
        call.accepted = True
        return noted

    def _must_wait(self, call: _Call, config: FeatureConfig, observed: Observation) -> bool:
        """Return whether STATE_DB cannot be read only for a moment, and the verb can wait for it."""
        unread = observed.failure_of(ActionKind.READ_ROW)
        if unread is None or not unread.passing or config.always_local:
            return False
        return self._clock() - call.asked_at < self._redis_s_max

    def judge(self, config: FeatureConfig, record: Record, observed: Observation) -> Record:
        """Note whether this observation answers the verb; return the record, without the request of a failed start."""
        call = self._call
        if call is None or not call.accepted or call.given_up:
            return record
        patient = self._clock() - call.asked_at < PATIENCE_S
        if isinstance(call.verb, verbs.Start) and self._must_wait(call, config, observed):
            call.outcome = None
            return record
        call.outcome = verbs.outcome(
            call.verb, config, record, observed, asked_at=call.asked_at, patient=patient
        )
        return verbs.given_up(record) if call.given_up else record

    @property
    def starting(self) -> bool:
        """Whether a start has been accepted and is not done."""
        return self._call is not None and self._call.accepted and isinstance(self._call.verb, verbs.Start)

    def tell(self) -> None:
        """Answer the verb if the last observation does."""
        if self._call is not None and self._call.outcome is not None:
            self.answer(self._call.outcome)

    def answer(self, outcome: Outcome) -> None:
        """End the verb with this answer."""
        if self._call is not None and not self._call.answer.done():
            self._call.answer.set_result(outcome)
        self._call = None

    def fail(self, error: PortError, *, starting: bool = False) -> bool:
        """Note that nothing could be observed; return whether the verb still waits and should be tried again soon.

        `starting`: a docker start is under way, so the verb is not given up: its container may run in a moment.
        """
        call = self._call
        if call is None:
            return False
        if isinstance(error, Refused):
            self.answer(Outcome(protocol.EXIT_FAILED, f"{error}; see `journalctl -u kubesyncd`"))
            return False
        if self._clock() - call.asked_at >= PATIENCE_S and not starting:
            goes_on = call.accepted and not self.starting
            again = "it is tried again" if goes_on else "start it again"
            self.answer(
                Outcome(protocol.EXIT_UNAVAILABLE, f"{error}; {again}, see `journalctl -u kubesyncd`")
            )
            return False
        return True
