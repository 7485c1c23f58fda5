"""Hold an operator's request for a join or reset until it has an outcome.

Starts nothing: the controller takes the current request and answers it. A newer request replaces an older one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.core import protocol
from kubesyncd.core.verbs import Outcome
from kubesyncd.join.job_watch import LOOK_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.join.plan import Job


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """A requested job, and the future that receives its outcome."""

    job: Job
    force: bool
    outcome: asyncio.Future[Outcome]


class OperatorRequests:
    """At most one request. `wake` tells the controller of a new one; `sentence` reads the running job's progress."""

    def __init__(self, wake: Callable[[], None], sentence: Callable[[], str]) -> None:
        self._wake = wake
        self._sentence = sentence
        self._current: OperatorRequest | None = None

    @property
    def current(self) -> OperatorRequest | None:
        """The request that waits for its outcome."""
        return self._current

    async def ask(self, job: Job, *, force: bool, say: Callable[[str], None]) -> Outcome:
        """Request the job and wait for its outcome; `say` gets each new step."""
        self.answer(protocol.EXIT_FAILED, "replaced by a newer join or reset")
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._current = OperatorRequest(job, force, outcome)
        self._wake()
        said = ""
        while not outcome.done():
            await asyncio.wait({outcome}, timeout=LOOK_S)
            sentence = self._sentence()
            if sentence != said:
                say(said := sentence)
        return outcome.result()

    def answer(self, code: int, text: str, job: Job | None = None) -> None:
        """Answer the current request, unless it is for another job than `job`."""
        request = self._current
        if request is None or job not in (None, request.job):
            return
        self._current = None
        if not request.outcome.done():
            request.outcome.set_result(Outcome(code, text))
