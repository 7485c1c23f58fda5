"""Track one verb of a client from its request to its answer. A newer verb supersedes an older one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.core import protocol, verbs
from kubesyncd.core.observation import Observation
from kubesyncd.core.record import Record
from kubesyncd.core.verbs import Outcome, Verb
from kubesyncd.features.waiters import PATIENCE_S
from kubesyncd.ports import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.core.model import FeatureConfig
    from kubesyncd.features.surroundings import View
    from kubesyncd.ports import PortError


@dataclass(slots=True)
class _Call:
    verb: Verb
    answer: asyncio.Future[Outcome]
    asked_at: float
    accepted: bool = False


class VerbCall:
    """The current verb, if there is one. Every verb is answered within `verb_s_max`."""

    def __init__(self, clock: Callable[[], float], verb_s_max: float) -> None:
        self._clock = clock
        self._verb_s_max = verb_s_max
        self._call: _Call | None = None

    async def carried_out(self, verb: Verb, wake: Callable[[], None], why: Callable[[], str]) -> Outcome:
        """Record the verb's request, `wake` the reconciler, and wait until it is done. `why`: why it is not yet."""
        if self._call is not None:
            self.answer(verbs.overtaken(verb))
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        call = self._call = _Call(verb, answer, self._clock())
        wake()
        try:
            async with asyncio.timeout(self._verb_s_max):
                return await answer
        except TimeoutError:
            return Outcome(
                protocol.EXIT_TIMED_OUT,
                f"not done in time: {why()}; it goes on, ask again with `container state`",
            )
        finally:
            if self._call is call:
                self._call = None

    def accept(self, config: FeatureConfig, record: Record, observed: Observation) -> Record | None:
        """Return the record with the verb's request applied; None without a new verb, or where it is declined."""
        call = self._call
        if call is None or call.accepted:
            return None
        noted = verbs.accept(call.verb, config, record, observed)
        if isinstance(noted, Outcome):
            self.answer(noted)
            return None
        call.accepted = True
        return noted

    def tell(self, view: View) -> None:
        """Answer the verb if it has been done."""
        if self._call is not None and self._call.accepted:
            outcome = verbs.outcome(self._call.verb, view.config, view.record, view.observed)
            if outcome is not None:
                self.answer(outcome)

    def answer(self, outcome: Outcome) -> None:
        """End the verb with this answer."""
        if self._call is not None and not self._call.answer.done():
            self._call.answer.set_result(outcome)
        self._call = None

    # ---- where an action fails ------------------------------------------------------------------

    def accept_unseen(self, config: FeatureConfig, record: Record) -> Record | None:
        """Accept a verb without an observation: down stays down (S7). A start has to wait."""
        call = self._call
        if call is None or call.accepted or isinstance(call.verb, verbs.Start):
            return None
        noted = verbs.accept(call.verb, config, record, Observation(row=None))
        assert isinstance(noted, Record), "only a start can be declined"
        call.accepted = True
        return noted

    def fail(self, error: PortError) -> bool:
        """Note a failed action; return whether the verb still waits and should be tried again soon."""
        call = self._call
        if call is None:
            return False
        if isinstance(error, Refused):
            self.answer(Outcome(protocol.EXIT_FAILED, f"{error}; see `journalctl -u kubesyncd`"))
            return False
        if self._clock() - call.asked_at >= PATIENCE_S:
            text = f"{error}; it is tried again, see `journalctl -u kubesyncd`"
            self.answer(Outcome(protocol.EXIT_UNAVAILABLE, text))
            return False
        return True
