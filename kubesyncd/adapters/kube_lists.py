"""List objects of the whole cluster, for an operator at a terminal: a few GETs, each with a hard deadline.

Knows HTTP and kubeconfigs; does not know features, coroutines or the Kubernetes library. The daemon does not use it:
it asks about its own Node only, with the kubelet's credential.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from kubesyncd.adapters.http_answer import OPERATOR, TooLong, read_whole
from kubesyncd.adapters.kube_credential import SERVICE, read, tls_context
from kubesyncd.ports import Forbidden, Missing, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# With the start of Python this stays within the three seconds that a command may take.
CALL_S = 1.5
ANSWER_BYTES_MAX = 16 << 20
ITEMS_MAX = 500
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing:
    """The listed objects, and how many more the API server has."""

    items: tuple[dict[str, Any], ...]
    more: int


class ClusterLists:
    """The nodes, pods and DaemonSets of the API server that `kubeconfig` names, and its clock.

    `insecure`: its certificate is not checked. `call_s`: seconds per call, whatever the server does, a stalled name
    lookup included.
    """

    def __init__(self, kubeconfig: Path, *, insecure: bool = False, call_s: float = CALL_S) -> None:
        self._kubeconfig = kubeconfig
        self._insecure = insecure
        self._call_s = call_s

    @property
    def kubeconfig(self) -> Path:
        """Return the file of the credential."""
        return self._kubeconfig

    def nodes(self) -> Listing:
        """List all nodes. Raises Unavailable, Forbidden, Refused."""
        return self._list("/api/v1/nodes")

    def pods(self, node: str = "") -> Listing:
        """List all pods, or those on `node`. Raises Unavailable, Forbidden, Refused."""
        return self._list("/api/v1/pods", f"&fieldSelector=spec.nodeName%3D{node}" if node else "")

    def daemonsets(self) -> Listing:
        """List all DaemonSets. Raises Unavailable, Forbidden, Refused."""
        return self._list("/apis/apps/v1/daemonsets")

    def clock_skew_s(self) -> float:
        """Return how many seconds the API server's clock is ahead of this switch's. Raises Unavailable, Refused."""
        _, date = self._get("/version")
        return parsedate_to_datetime(date).timestamp() - time.time() if date else 0.0

    def _list(self, path: str, selector: str = "") -> Listing:
        answer, _ = self._get(f"{path}?limit={ITEMS_MAX}{selector}")
        try:
            items = tuple(dict(item) for item in answer["items"])
            return Listing(items, int(answer.get("metadata", {}).get("remainingItemCount") or 0))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise Unavailable(SERVICE, f"{path}: the master's answer is not a list") from error

    def _get(self, path: str) -> tuple[Any, str]:
        """Get the decoded answer and its Date."""
        try:
            os.stat(self._kubeconfig)
            readable = os.access(self._kubeconfig, os.R_OK)
        except FileNotFoundError:
            readable = True  # reading it raises where it is missing
        except PermissionError:
            readable = False
        if not readable:
            raise Forbidden(SERVICE, f"{self._kubeconfig} may be read by root only; use sudo")
        return _within(self._call_s, lambda: self._exchange(path))

    def _exchange(self, path: str) -> tuple[Any, str]:
        config = read(self._kubeconfig)
        context = tls_context(self._kubeconfig, config, insecure=self._insecure)
        server = urlsplit(config.server)
        where = server.netloc.rpartition("@")[2]
        try:
            connection = http.client.HTTPSConnection(where, timeout=self._call_s, context=context)
            try:
                connection.request("GET", f"{server.path}{path}", headers={"User-Agent": "kubesync"})
                response = connection.getresponse()
                _check_status(where, path, response.status)
                body = read_whole(response, ANSWER_BYTES_MAX)
            finally:
                connection.close()
        except TooLong as error:
            raise Unavailable(SERVICE, _cannot_answer(where, path, http.client.OK)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = (
                getattr(error, "reason", None)
                or getattr(error, "strerror", None)
                or str(error)
                or "no answer"
            )
            raise Unavailable(SERVICE, f"the master at {where} does not answer ({reason})") from error
        return _decoded(where, path, body), response.headers.get("Date", "")


def _check_status(where: str, path: str, status: int) -> None:
    """Raise the port error of a bad answer."""
    if status == http.client.OK:
        return
    what, error = _asked(path), OPERATOR.error(status)
    if error is Forbidden:
        raise Forbidden(SERVICE, f"the master refuses our credential for {what} ({status}); join again")
    if error is Missing:
        raise Missing(SERVICE, f"the master at {where} does not have {what}")
    if error is Refused:
        raise Refused(SERVICE, f"the master refuses {what} ({status})")
    raise Unavailable(SERVICE, _cannot_answer(where, path, status))


def _cannot_answer(where: str, path: str, status: int) -> str:
    return f"the master at {where} cannot answer {_asked(path)} now ({status})"


def _decoded(where: str, path: str, body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        detail = f"{where} answers {_asked(path)} with something that is not JSON"
        raise Unavailable(SERVICE, detail) from error


def _asked(path: str) -> str:
    """Return the path without its query."""
    return path.partition("?")[0]


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return or raise the result of `call`, within the deadline.

    A name lookup, or a server that sends slowly, can only be bounded by leaving it alone: its thread ends with the
    process.
    """
    outcome: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="kubernetes")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not outcome:
        raise Unavailable(SERVICE, f"the master does not answer within {seconds:g} s")
    return outcome[0]
