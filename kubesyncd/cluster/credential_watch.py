"""Warn once a day about an unverified API server certificate or an expiring kubelet certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.core.certificate_life import CertificateLife
    from kubesyncd.core.model import MasterConfig
    from kubesyncd.runtime.context import Runtime

REMINDER_S = 86_400.0


class CredentialWatch:
    """`credential_life`: the validity of the kubelet's certificate; None: not known.

    `notice` gets a report for the fleet's operator, see Listeners.
    """

    def __init__(
        self,
        credential_life: Callable[[], CertificateLife | None],
        *,
        runtime: Runtime,
        notice: Callable[[str, str], None],
    ) -> None:
        self._credential_life = credential_life
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
        life = self._credential_life() if joined else None
        self.expires_ts = None if life is None else life.ends
        if (
            life is not None
            and life.is_late(self._runtime.wall())
            and _is_long_ago(self._expiry_said_at, now)
        ):
            self._alert(life.ends - self._runtime.wall(), now)

    def _alert(self, left_s: float, now: float) -> None:
        """Alert: the kubelet should have renewed its certificate by now."""
        self._expiry_said_at = now
        left = "has expired" if left_s <= 0 else f"is not renewed, and expires in {_words(left_s)}"
        why = f"the kubelet's certificate {left}; see why: journalctl -u kubelet, or: config kube join -f"
        self._runtime.log.error("credential_expires", alert=True, why=why)
        self._notice("CredentialExpires", why)


def _words(left_s: float) -> str:
    """Return a remaining time; a certificate of a few hours is not judged in days."""
    return f"{left_s / 86_400:.0f} days" if left_s >= 2 * 86_400 else f"{left_s / 3600:.1f} hours"


def _is_long_ago(said_at: float | None, now: float) -> bool:
    return said_at is None or now - said_at >= REMINDER_S
