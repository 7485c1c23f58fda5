"""Answer requests with prepared replies: one thread on a real socket, speaking `kubesyncd.core.protocol`.

For tests of what operators see: states that take minutes to reach, and answers no real daemon gives twice.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from kubesyncd.core import protocol
from kubesyncd.core.state import State, meaning

if TYPE_CHECKING:
    from pathlib import Path

KUBE_ID = "f00d" * 16
LOCAL_ID = "beef" * 16


class StubDaemon:
    """`with StubDaemon(path) as daemon`. `features` and `cluster` are shown; `replies`: verb to raw reply bytes.

    A reply of None is never given: the caller waits. `requests` are all that came.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.features: dict[str, dict[str, Any]] = {}
        self.cluster = cluster()
        self.replies: dict[str, bytes | None] = {}
        self.requests: list[list[str]] = []
        self._listener: socket.socket | None = None
        self._held: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self.path.chmod(0o660)
        self._listener.listen(16)
        threading.Thread(target=self._serve, args=[self._listener], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Be gone, socket and all."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            self.path.unlink()
        while self._held:
            self._held.pop().close()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection.makefile("rb") as lines:
                request = protocol.decode_request(lines.readline(protocol.REQUEST_BYTES_MAX))
            self.requests.append(request)
            reply = self.replies.get(request[0], b"") if request[0] in self.replies else self._answer(request)
            if reply is None:
                self._held.append(connection)
                continue
            with connection, contextlib.suppress(OSError):
                connection.sendall(reply)

    def _answer(self, request: list[str]) -> bytes:
        match request:
            case ["show"]:
                lines = [json.dumps(feature) for feature in self.features.values()]
                return protocol.out("\n".join(lines)) + protocol.result(0)
            case ["show", name] if name in self.features:
                return protocol.out(json.dumps(self.features[name])) + protocol.result(0)
            case ["show", name]:
                text = f"container: {name}: no such feature; see: kubesync show feature"
                return protocol.err(text) + protocol.result(1)
            case ["way-back", name] if name in self.features:
                return protocol.out(self.features[name]["no_way_back"]) + protocol.result(0)
            case ["cluster", *_]:
                return protocol.out(json.dumps(self.cluster)) + protocol.result(0)
            case ["label", change]:
                key, _, value = change.partition("=")
                self.cluster["wished"] = {**self.cluster["wished"], key: value}
                return protocol.out("applied") + protocol.result(0)
            case [verb, *_]:
                return protocol.err(f"container: unknown verb {verb!a}; use one of: show") + protocol.result(
                    64
                )
        return protocol.result(1)


def cluster(**said: Any) -> dict[str, Any]:
    """A switch that has joined and is connected, but for what is `said`."""
    return {
        "node": "switch1",
        "renamed": "",
        "master": "10.1.2.3:6443",
        "disabled": False,
        "insecure": False,
        "joined": True,
        "connected": True,
        "why_disconnected": "",
        "last_update_ts": int(time.time()) - 3 * 3600 - 30,
        "credential_expires_ts": None,
        "node_exists": True,
        "node_state": "",
        "node_gone": "",
        "drifted": {},
        "wished": {},
        "node_labels": None,
        "hold": False,
        "kubelet": True,
        "kubelet_may_run": True,
        "kubelet_trouble": "",
        "kubelet_why": "joined, and no label delivery has failed",
        "pending": [],
        "failed": [],
        "applied": {"hwsku": "Seastone", "sonic_version": "202411.1", "snmp_enabled": "true"},
        "refused": {},
        "why_pending": "",
        "retry_in_s": 0.0,
        "membership": {},
        "refused_containers": [],
        "unwritten_files": [],
        **said,
    }


def feature(name: str, state: State, why: str, **said: Any) -> dict[str, Any]:
    """A feature as the daemon describes it, but for what is `said`; times count from now."""
    now = time.time()
    return {
        "feature": name,
        "state": state.value,
        "meaning": meaning(state, name),
        "since": now - 12 * 60 - 30,
        "why": why,
        "next_in_s": None,
        "next": None,
        "config": {
            "set_owner": "kube",
            "fallback": True,
            "failure_minutes": 0,
            "failure_policy": None,
            "local_only": False,
            "why_local": "",
            "always_local": False,
        },
        "row": {
            "system_state": "up",
            "current_owner": "none",
            "transition_mode": "none",
            "docker_id": "",
            "update_ts": 0,
            "failure": "",
            "revision": 0,
            "startup": "",
            "version": "",
        },
        "joined": True,
        "no_deploy": "",
        "no_way_back": "",
        "waiting": [],
        "stopping": [],
        "granted": "",
        "proven": False,
        "label": {
            "value": "on",
            "pending": False,
            "failed": False,
            "refused": "",
            "contested": "",
            "queued_at": None,
            "acked_at": 1.0,
        },
        "crashes": 0,
        "refused_for_s": 0.0,
        "rolled_back": False,
        "failed_image": "",
        "boot_fallback": False,
        "troubles": [],
        "conditions": [],
        "complaints": [],
        "starts_in_vain": 0,
        "containers": [],
        "history": [],
        **said,
    }


def container(owner: str, container_id: str, *, code: int | None = None) -> dict[str, Any]:
    """A container: running, or ended with `code`."""
    return {
        "id": container_id,
        "owner": owner,
        "running": code is None,
        "exit_code": code,
        "started": "",
        "image": "",
        "gone": False,
        "image_id": "",
        "paused": False,
        "restarting": False,
        "restart_policy": "",
        "by_policy": False,
        "unread": "",
        "oom_killed": False,
        "unhealthy": "",
        "stop_timeout_s": None,
        "pod": "",
        "version": "",
        "restarts": False,
    }
