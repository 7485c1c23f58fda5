"""Keep one feature's failed actions until they succeed, their target changes, or they are not tried any more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.failed_action import TEXT_MAX, ActionKind, FailedAction
from kubesyncd.core.model import SHORT_ID, Owner
from kubesyncd.core.text import printable
from kubesyncd.ports import Hindered, Missing, Passing, PortError, Refused, Unavailable

if TYPE_CHECKING:
    from kubesyncd.core.model import Container
    from kubesyncd.features.surroundings import Surroundings
    from kubesyncd.runtime.alerts import AlertLog
    from kubesyncd.runtime.backoff import Backoff

FAILURES_MAX = 16
# A failure that could have been tried again for so long is not wanted any more. Longer than the audit's interval.
FORGET_S = 90.0
# What a refusal of STATE_DB is about passes without an event, so its retries stay close to each other.
_PACED = (ActionKind.WRITE_ROW,)


class FailedActions:
    """Each failure is one alert until it is over; the pace of the retries is a backoff with jitter of its own."""

    def __init__(self, around: Surroundings, alerts: AlertLog) -> None:
        self._around = around
        self._clock = around.runtime.clock
        self._alerts = alerts
        self._failures: dict[tuple[ActionKind, str], FailedAction] = {}
        self._backoffs: dict[tuple[ActionKind, str], Backoff] = {}
        self._woken = around.wakes.all_woken

    def fail(self, kind: ActionKind, target: str, error: PortError) -> None:
        """Note a failure. It is an alert at once where it was refused, else from the second one in a row on."""
        key, now = (kind, target), self._clock()
        if key not in self._failures and len(self._failures) >= FAILURES_MAX:
            self._forget(next(iter(self._failures)))
        backoff = self._backoffs.setdefault(key, self._around.runtime.backoff(self._around.timing))
        refused = isinstance(error, Refused | Missing)
        wait_s = backoff.longest_s() if refused and kind not in _PACED else backoff.next_s()
        before, text = self._failures.get(key), printable(error, TEXT_MAX)
        failed = FailedAction(
            kind,
            target,
            text,
            at=now,
            again_at=now + wait_s,
            refused=refused,
            passing=isinstance(error, Passing | Hindered),
        )
        if before is not None:
            failed = replace(failed, count=before.count + 1)
        self._failures[key] = failed
        if kind in _PACED and isinstance(error, Unavailable):
            # It fails all features alike.
            self._alerts.fails(kind.value, error)
            return
        self._alerts.warn("trouble", text, about=_about(key), action=kind.value, retry_in_s=round(wait_s, 1))
        if isinstance(error, Refused) or failed.count > 1:
            self._alerts.begin(kind.value, text, file=error.file)

    def succeed(self, kind: ActionKind, target: str) -> None:
        """Note that the action has succeeded."""
        self._forget((kind, target))

    def hurry(self, *kinds: ActionKind) -> None:
        """Allow failed actions of these `kinds` (none: of all) to be tried again at once."""
        now = self._clock()
        for key, failed in self._failures.items():
            if not kinds or key[0] in kinds:
                self._failures[key] = replace(failed, again_at=min(failed.again_at, now))

    def forget_all(self) -> None:
        """Forget every failure: an operator has repaired what they are about."""
        for key in tuple(self._failures):
            self._forget(key)

    def lasting(self, containers: tuple[Container, ...]) -> tuple[FailedAction, ...]:
        """Return the failures that still count beside these containers; forget all others."""
        present = {c.id: c.running for c in containers if not c.gone}
        made = any(c.owner is Owner.LOCAL and not c.gone for c in containers)
        runs = any(present.values())
        now = self._clock()
        if self._woken != self._around.wakes.all_woken:
            # Redis may have answered again since.
            self._woken = self._around.wakes.all_woken
            self.hurry(*_PACED)
        for key, failed in tuple(self._failures.items()):
            if _is_over(failed, present, now, made=made, runs=runs):
                self._forget(key)
        return tuple(self._failures.values())

    def _forget(self, key: tuple[ActionKind, str]) -> None:
        self._backoffs.pop(key, None)
        if self._failures.pop(key, None) is None:
            return
        self._alerts.warn("trouble", "", about=_about(key))
        if all(kind is not key[0] for kind, _ in self._failures):
            self._alerts.end(key[0].value)
            self._alerts.answers(key[0].value, surely=True)


def _is_over(failed: FailedAction, present: dict[str, bool], now: float, *, made: bool, runs: bool) -> bool:
    """Return whether Docker reports what the action was to bring about, or the action is not wanted any more.

    `present`: whether each existing container runs. `made`: whether a local one exists, `runs`: whether any runs.
    """
    match failed.kind:
        case ActionKind.START_LOCAL:
            # It stays true of this container, unless its reason may pass: a fallback to it would fail. What runs is
            # not ended for a start that nothing has tried again.
            untried = failed.untried_at is not None and now >= failed.untried_at and not runs
            return untried or present.get(failed.target, True)
        case ActionKind.STOP | ActionKind.KILL | ActionKind.UNPAUSE:
            over = not present.get(failed.target, False)
        case ActionKind.RESTART_UNIT:
            over = made
        case _:
            over = False
    return over or now > failed.again_at + FORGET_S


def _about(key: tuple[ActionKind, str]) -> str:
    return f"{key[0].value} {key[1][:SHORT_ID]}"
