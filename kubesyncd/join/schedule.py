"""Decide when a join or reset that no operator asked for may start: after a boot, after a failure, after a change.

Knows no job, no file and no configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.runtime.backoff import Backoff

if TYPE_CHECKING:
    from kubesyncd.runtime.context import Runtime
    from kubesyncd.settings import KubeSettings

RETRY_S_MIN = 5.0
READ_RETRY_S = 2.0


class JoinSchedule:
    """The earliest times of the next join and of the next attempt after a failure, in BOOTTIME seconds."""

    def __init__(self, kube: KubeSettings, runtime: Runtime) -> None:
        self._clock = runtime.clock
        self._backoff = Backoff(runtime.rng, kube.join_retry_s, kube.join_retry_s_max)
        # A fleet whose power returns must not join all at once. BOOTTIME is 0 when the power returns.
        self._not_before = runtime.rng.uniform(0.0, kube.join_boot_delay_s)
        self._retry_at = 0.0

    @property
    def retry_in_s(self) -> float:
        """Seconds until the next attempt after a failure; 0 where none is delayed."""
        return max(0.0, self._retry_at - self._clock())

    @property
    def spreads(self) -> bool:
        """Whether joins are still delayed because the switch has just booted."""
        return self._clock() < self._not_before

    def idle_s(self) -> float | None:
        """Return the seconds until a delay ends; None without a delay."""
        now = self._clock()
        ahead = [at for at in (self._retry_at, self._not_before) if at > now]
        return min(ahead) - now if ahead else None

    def succeeded(self) -> None:
        """Start over with the shortest delay: a job has succeeded."""
        self._backoff.reset()

    def failed(self) -> float:
        """Delay the next attempt; return by how many seconds."""
        retry_s = max(RETRY_S_MIN, self._backoff.next_s())
        self._retry_at = self._clock() + retry_s
        return retry_s

    def unreadable(self) -> None:
        """Delay the next attempt a little: Redis, systemd or a file did not answer."""
        self._retry_at = max(self._retry_at, self._clock() + READ_RETRY_S)

    def retry_now(self) -> None:
        """Drop the delay after a failure: the failed job was obsolete."""
        self._retry_at = 0.0

    def changed(self, *, by_operator: bool) -> None:
        """Drop the delays: the configuration has changed.

        `by_operator`: it was typed just now, which a fleet does not do all at once. A configuration that is still
        being loaded was not typed, and keeps the delay after a boot.
        """
        self.retry_now()
        self._backoff.reset()
        if by_operator:
            self._not_before = 0.0
