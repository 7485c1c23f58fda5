"""Describe, filter and name the lab engine's objects as Docker's API 1.41 does.

Knows no request, no process and no clock. The words are those of Docker 20.10.
"""

from __future__ import annotations

import asyncio
import re
import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NEVER = "0001-01-01T00:00:00Z"


class ApiError(Exception):
    """An error answer: Docker's status and words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(slots=True)
class Image:
    """An image is its name: no file system comes with it."""

    id: str
    tags: list[str]
    created: int
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Box:
    """One container."""

    id: str
    name: str
    image: str
    image_id: str
    config: dict[str, Any]
    host: dict[str, Any]
    created: int
    status: str = "created"
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started: int = 0
    finished: int = 0
    removed: bool = False
    restarts: int = 0
    # Told to end: its restart policy does not start it again.
    told: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def running(self) -> bool:
        return self.status in ("running", "paused", "restarting")

    @property
    def labels(self) -> dict[str, str]:
        return self.config.get("Labels") or {}

    @property
    def argv(self) -> list[str]:
        return [*(self.config.get("Entrypoint") or []), *(self.config.get("Cmd") or [])]


def image_tag(name: str) -> str:
    """An image's name as Docker lists it: newer clients write a host and library/ in front of it."""
    _, library, rest = name.partition("/library/")
    short = rest if library else name
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"


def box_matches(box: Box, wanted: Mapping[str, list[str]]) -> bool:
    """Whether `docker ps --filter` with these filters lists it."""
    tests: dict[str, Callable[[str], bool]] = {
        "name": lambda v: bool(re.search(v, box.name) or re.search(v, f"/{box.name}")),
        "id": lambda v: box.id.startswith(v),
        "label": lambda v: _labelled(box.labels, v),
        "status": lambda v: box.status == v,
    }
    # Docker: any of the values, but every one of the labels.
    return all((all if key == "label" else any)(map(tests[key], values)) for key, values in wanted.items())


def event_matches(event: Mapping[str, Any], wanted: Mapping[str, list[str]]) -> bool:
    """Whether `docker events --filter` with these filters tells it."""
    attributes = event["Actor"]["Attributes"]
    tests: dict[str, Callable[[str], bool]] = {
        "type": lambda v: event["Type"] == v,
        "event": lambda v: event["Action"].split(":")[0] == v,
        "container": lambda v: attributes["name"] == v or event["Actor"]["ID"].startswith(v),
        "label": lambda v: _labelled(attributes, v),
        "image": lambda v: attributes.get("image", attributes["name"]) == v,
    }
    return all((all if key == "label" else any)(map(tests[key], values)) for key, values in wanted.items())


def _labelled(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def signal_number(word: str) -> int:
    """A signal's number by number or name, with or without SIG."""
    if word.isdigit():
        return int(word)
    try:
        return signal.Signals[f"SIG{word.upper().removeprefix('SIG')}"]
    except KeyError:
        raise ApiError(400, f"Invalid signal: {word}") from None


def nanos(text: str | None) -> int | None:
    """Docker's `seconds.nanoseconds`."""
    if not text:
        return None
    seconds, _, rest = text.partition(".")
    return int(seconds) * 10**9 + int(f"{rest:0<9}"[:9])


def iso(nanos: int) -> str:
    """Docker trims zeros at the end; so do we, because that breaks naive sorting."""
    if not nanos:
        return NEVER
    seconds, rest = divmod(nanos, 10**9)
    whole = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".") + "Z"


def summary(box: Box) -> dict[str, Any]:
    """One line of `GET /containers/json`."""
    status = {
        "created": "Created",
        "running": "Up",
        "paused": "Up (Paused)",
        "restarting": f"Restarting ({box.exit_code})",
        "exited": f"Exited ({box.exit_code})",
    }[box.status]
    return {
        "Id": box.id,
        "Names": [f"/{box.name}"],
        "Image": box.image,
        "ImageID": box.image_id,
        "Command": " ".join(box.argv),
        "Created": box.created // 10**9,
        "Ports": [],
        "Labels": box.labels,
        "State": box.status,
        "Status": status,
        "HostConfig": {"NetworkMode": box.host.get("NetworkMode", "default")},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
    }


def described(box: Box) -> dict[str, Any]:
    """`GET /containers/<id>/json`."""
    path, *arguments = box.argv
    return {
        "Id": box.id,
        "Created": iso(box.created),
        "Path": path,
        "Args": arguments,
        "State": {
            "Status": box.status,
            "Running": box.running,
            "Paused": box.status == "paused",
            "Restarting": box.status == "restarting",
            "OOMKilled": False,
            "Dead": False,
            "Pid": box.pid,
            "ExitCode": box.exit_code,
            "Error": box.error,
            "StartedAt": iso(box.started),
            "FinishedAt": iso(box.finished),
        },
        "Image": box.image_id,
        "Name": f"/{box.name}",
        "RestartCount": box.restarts,
        "Driver": "none",
        "Platform": "linux",
        "HostConfig": {"NetworkMode": "default", "RestartPolicy": {"Name": ""}, **box.host},
        "Mounts": [],
        "Config": {"Hostname": box.id[:12], "Tty": False, "Entrypoint": None, **box.config},
        "NetworkSettings": {"Networks": {}},
    }
