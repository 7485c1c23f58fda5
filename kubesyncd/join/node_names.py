"""Name this switch's Node: as the master knows it now, and as the next join will name it.

A name is found at the moment of use. A switch gets its host name seconds after the daemon's start at the first boot of
a SONiC image, and `config hostname` changes it at any time; the kubelet's credential keeps the name of the join.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from kubesyncd.core.node_name import name_problem, renamed
from kubesyncd.join.plan import Standing
from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.join.files import JoinFiles
    from kubesyncd.join.plan import Membership
    from kubesyncd.settings import Settings


class NodeNames:
    """The two names. `certified`: the one in the kubelet's credential, empty without one; `recorded`: the membership.

    `configured`: [kube] node_name, or empty. `host` returns the host's name.
    """

    def __init__(
        self,
        *,
        certified: Callable[[], str],
        recorded: Callable[[], Membership | None],
        configured: str,
        host: Callable[[], str],
    ) -> None:
        self._certified = certified
        self._recorded = recorded
        self._configured = configured
        self._host = host

    def current(self) -> str:
        """Return the Node's name on the master; before a join, the name of the next one."""
        return self._certified() or self._joined_as() or self.next()

    def next(self) -> str:
        """Return the name under which a join registers this switch."""
        return self._configured or self._host().strip().lower()

    def problem(self) -> str:
        """Return why a join cannot register this switch under its name, with what to type; empty where it can."""
        return name_problem(self.next())

    def renamed(self) -> str:
        """Return what to know where the host's name has changed since the join; empty where it has not."""
        return renamed(self.current(), self.next())

    def _joined_as(self) -> str:
        try:
            known = self._recorded()
        except Unavailable:
            return ""
        return known.node if known is not None and known.standing is Standing.JOINED else ""


def node_names(settings: Settings, files: JoinFiles, certified: Callable[[], str]) -> NodeNames:
    """Return the names of this switch's Node; `certified`: see NodeNames."""
    return NodeNames(
        certified=certified,
        recorded=files.membership,
        configured=settings.kube.node_name,
        host=socket.gethostname,
    )
