"""Look up the subject of a request, and refuse forbidden requests. Shared by all handler modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from kubesyncd.api.messages import Denied, Reply, failure
from kubesyncd.core import protocol, verbs
from kubesyncd.core.model import NAME_RULE, valid_feature_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.api.messages import Request
    from kubesyncd.api.peer import Peer
    from kubesyncd.features.reconciler import Reconciler
    from kubesyncd.features.registry import Reconcilers

    Handler: TypeAlias = Callable[[Request], Awaitable[Reply]]

NO_SUCH_FEATURE = "no such feature; see: kubesync show feature"


def feature_name(request: Request) -> str:
    """Return the feature name in the request. Raises Denied."""
    name = request.argument(1)
    if not valid_feature_name(name):
        text = f"{name[:64]!a}: invalid feature name; {NAME_RULE}"
        raise Denied(failure(protocol.EXIT_USAGE, "", text))
    return name


def known_reconciler(reconcilers: Reconcilers, name: str) -> Reconciler:
    """Return the reconciler of an existing feature. Raises Denied."""
    reconciler = reconcilers.known(name)
    if reconciler is None:
        raise Denied(failure(protocol.EXIT_FAILED, name, NO_SUCH_FEATURE))
    return reconciler


async def existing_reconciler(reconcilers: Reconcilers, name: str) -> Reconciler:
    """Return the reconciler of a feature with a FEATURE row, a container or a unit. Raises Denied.

    Raises Unavailable where it is unknown whether the feature exists.
    """
    reconciler = await reconcilers.find(name)
    if reconciler is None:
        raise Denied(failure(protocol.EXIT_FAILED, name, verbs.NO_SUCH_FEATURE.text))
    return reconciler


def refused(log: FilteringBoundLogger, peer: Peer, arguments: list[str], why: str) -> Reply:
    """Log a forbidden request of a peer, and return the reply that refuses it."""
    shown = " ".join(arguments)[:80]
    log.warning("refused", why=why, request=ascii(shown), pid=peer.pid, container=peer.container_id)
    name = arguments[1] if len(arguments) > 1 else ""
    return failure(protocol.EXIT_NOT_ALLOWED, name, f"{why}; refused and logged")
