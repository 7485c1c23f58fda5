"""Call kubeadm: four commands, argument lists only.

Knows its options and how it reports errors; knows neither when to join nor with which credential.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kubesyncd.core.text import escaped
from kubesyncd.ports import Refused
from kubesyncd.runtime.processes import run

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.runtime.processes import Ended
    from kubesyncd.settings import KubeSettings, SystemdSettings

SERVICE = "kubeadm"
VERSION_S = 10.0
DETAIL_MAX = 500
LOGGED_MAX = 4000
_IGNORE_ALL = ("--ignore-preflight-errors", "all")
_GIVES_UP = "error execution phase"
_FIXES = {
    "JWS signature": "the master does not know this bootstrap token, or not any more: kubeadm token create",
    "are pinned": "[kube] ca_cert_hash is not that of this master's CA; correct one of them",
    "is forbidden": "this credential may not join; docs/fleet.md says which rights it takes",
}
_WRONG = re.compile(r"\berror\b|\[ERROR", re.IGNORECASE)


class Kubeadm:
    """The program `[systemd] kubeadm`, with the options of `[kube]`. Its whole output goes to a log."""

    def __init__(self, systemd: SystemdSettings, kube: KubeSettings, log: FilteringBoundLogger) -> None:
        self._command = systemd.kubeadm
        self._node = kube.node_name
        self._socket = ("--cri-socket", kube.cri_socket) if kube.cri_socket else ()
        ignored = ",".join(kube.ignore_preflight_errors)
        self._ignored = ("--ignore-preflight-errors", ignored) if ignored else ()
        self._log = log

    async def join(self, credential: Path, seconds: float, *, configuration: bool) -> None:
        """Join with this kubeconfig, or JoinConfiguration. Raises Refused with kubeadm's own reason, Unavailable."""
        given = self._given(credential, configuration=configuration)
        await self._do("join", *given, *self._ignored, seconds=seconds)

    async def preflight(self, credential: Path, seconds: float, *, configuration: bool) -> None:
        """Run kubeadm's preflight phase of a join, which changes nothing.

        Errors about this switch are ignored: it may still be joined. Raises as `join`.
        """
        given = self._given(credential, configuration=configuration)
        await self._do("join", "phase", "preflight", *given, *_IGNORE_ALL, seconds=seconds)

    def _given(self, credential: Path, *, configuration: bool) -> tuple[str, ...]:
        if configuration:
            return "--config", str(credential)
        return "--discovery-file", str(credential), "--node-name", self._node, *self._socket

    async def reset(self, seconds: float) -> None:
        """Undo a join on this switch, its pods' containers included. Raises Refused, Unavailable."""
        await self._do("reset", "-f", *self._socket, *self._ignored, seconds=seconds)

    async def version(self) -> tuple[int, int]:
        """Return kubeadm's major and minor version. Raises Refused, Unavailable."""
        ended = await run((*self._command, "version", "-o", "short"), VERSION_S, SERVICE)
        found = re.match(r"v(\d+)\.(\d+)", ended.out.strip())
        if found is None:
            raise Refused(SERVICE, f"unreadable version: {ended.reason or ended.out[:40]!a}")
        return int(found[1]), int(found[2])

    async def _do(self, *arguments: str, seconds: float) -> None:
        ended = await run((*self._command, *arguments), seconds, SERVICE)
        self._log.info("kubeadm", arguments=arguments, code=ended.code, said=_shown(ended))
        if ended.code != 0:
            raise Refused(SERVICE, reason(ended.err) or f"exit code {ended.code}")


def reason(said: str) -> str:
    """Extract the reason from kubeadm's long output: its lines with an error in them, as one; and the fix."""
    lines = [" ".join(line.split()) for line in said.splitlines()]
    # Before it gives up, kubeadm also reports errors that it ignores.
    first = next((at for at, line in enumerate(lines) if line.startswith(_GIVES_UP)), 0)
    wrong = [line for line in lines[first:] if _WRONG.search(line) and "stack trace" not in line]
    told = escaped("; ".join(wrong or lines[-1:]), DETAIL_MAX)
    fix = next((fix for words, fix in _FIXES.items() if words in told), "")
    return f"{told}; {fix}" if fix else told


def _shown(ended: Ended) -> str:
    return (ended.out + ended.err)[-LOGGED_MAX:]
