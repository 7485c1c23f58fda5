"""Warn once a day about an unverified API server certificate or an expiring kubelet certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.runtime.x509 import EXPIRY_WARNING_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.core.model import MasterConfig
    from kubesyncd.runtime.context import Runtime

REMINDER_S = 86_400.0


class CredentialWatch:
    """`credential_ends`: when the kubelet's certificate expires, in seconds since the epoch; None: not known.

    `notice` gets a report for the fleet's operator, see Listeners.
    """

    def __init__(
        self,
        credential_ends: Callable[[], float | None],
        *,
        runtime: Runtime,
        notice: Callable[[str, str], None],
    ) -> None:
        self._credential_ends = credential_ends
        self._runtime = runtime
        self._notice = notice
        self._insecure_said_at: float | None = None
        self._expiry_said_at: float | None = None
        self.expires_ts: float | None = None

    def check(self, master: MasterConfig, *, joined: bool) -> None:
        """Log what an operator should fix."""
        now = self._runtime.clock()
        if joined and master.insecure and _is_long_ago(self._insecure_said_at, now):
            self._insecure_said_at = now
            self._runtime.log.warning(
                "insecure_master",
                why="the API server's certificate is not verified; run: config kube server insecure off",
            )
        self.expires_ts = self._credential_ends() if joined else None
        if self.expires_ts is not None:
            self._check_expiry(self.expires_ts - self._runtime.wall(), now)

    def _check_expiry(self, left_s: float, now: float) -> None:
        """Alert before the kubelet's certificate expires; normally the kubelet renews it earlier."""
        if left_s >= EXPIRY_WARNING_S or not _is_long_ago(self._expiry_said_at, now):
            return
        self._expiry_said_at = now
        left = "has expired" if left_s <= 0 else f"expires in {left_s / 86_400:.0f} days"
        why = f"the kubelet's certificate {left}; see why the kubelet does not renew it, or: config kube join -f"
        self._runtime.log.error("credential_expires", alert=True, why=why)
        self._notice("CredentialExpires", why)


def _is_long_ago(said_at: float | None, now: float) -> bool:
    return said_at is None or now - said_at >= REMINDER_S
