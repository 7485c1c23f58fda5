"""Ask Docker for its version and for a container's configuration, from a command at a terminal.

Knows HTTP over a Unix socket; changes nothing.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kubesyncd.adapters.docker_inspect import KUBE_NAME, KUBE_NAMESPACE, KUBE_POD, KUBE_TYPE, ORDINARY
from kubesyncd.adapters.docker_place import socket_path
from kubesyncd.adapters.http_answer import read_whole
from kubesyncd.ports import Forbidden, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICE = "Docker"
ANSWER_BYTES_MAX = 1 << 20


def docker_version(url: str, seconds: float) -> str:
    """Return the version of the engine at `url`, within `seconds`. Raises Unavailable, Forbidden."""
    _, answer = _get(url, "/version", seconds)
    return str(answer.get("Version", ""))


def pods(url: str, namespaces: Sequence[str], seconds: float) -> dict[str, tuple[str, ...]]:
    """Return the names of the running containers of each pod (`namespace/name`) of these namespaces.

    Raises as `docker_version`.
    """
    found: dict[str, tuple[str, ...]] = {}
    for namespace in namespaces:
        labels = [f"{KUBE_NAMESPACE}={namespace}", f"{KUBE_TYPE}={ORDINARY}"]
        _, answer = _ask(url, f"/containers/json?filters={quote(json.dumps({'label': labels}))}", seconds)
        for entry in answer if isinstance(answer, list) else ():
            try:
                pod, container = entry["Labels"][KUBE_POD], entry["Labels"][KUBE_NAME]
            except (KeyError, TypeError):
                continue
            found[f"{namespace}/{pod}"] = (*found.get(f"{namespace}/{pod}", ()), str(container))
    return found


def inspect(url: str, name: str, seconds: float) -> dict[str, Any] | None:
    """Return the inspect of the container `name`; None: it does not exist. Raises as `docker_version`."""
    status, answer = _get(url, f"/containers/{quote(name, safe='')}/json", seconds)
    return answer if status == http.client.OK else None


def _get(url: str, path: str, seconds: float) -> tuple[int, dict[str, Any]]:
    status, answer = _ask(url, path, seconds)
    if not isinstance(answer, dict):
        raise Unavailable(SERVICE, f"{url} does not answer (an unreadable answer)")
    return status, answer


def _ask(url: str, path: str, seconds: float) -> tuple[int, Any]:
    connection = _UnixHTTP(socket_path(url), seconds)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(read_whole(response, ANSWER_BYTES_MAX))
    except PermissionError as error:
        raise Forbidden(SERVICE, f"{url}: permission denied; use sudo") from error
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no answer"
        raise Unavailable(SERVICE, f"{url} does not answer ({reason})") from error
    finally:
        connection.close()


class _UnixHTTP(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        """Open the socket; see http.client."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self._seconds)
        self.sock.connect(self._path)
