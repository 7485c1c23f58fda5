"""Parse the lines of the Docker event stream."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping


# How long the event stream may be silent before the engine is asked whether it lives.
QUIET_S = 60.0
PING_S = 5.0
EVENT_BYTES_MAX = 1 << 20
ACTIONS = ("create", "start", "die", "destroy", "rename")


@dataclass(frozen=True, slots=True)
class Event:
    """One container event. `names`: the container's name, after a rename the old one too. `at`: ISO 8601."""

    action: str
    container_id: str
    names: tuple[str, ...]
    labels: Mapping[str, str]
    at: str


def parse_event(line: bytes) -> Event:
    """One line of the event stream. Raises Unavailable where Docker does not speak like Docker."""
    try:
        event = json.loads(line)
        attributes = event["Actor"]["Attributes"] or {}
        names = [str(attributes.get("name", ""))]
        if event["Action"] == "rename":
            names.append(str(attributes.get("oldName", "")))
        return Event(
            action=str(event["Action"]),
            container_id=str(event["Actor"]["ID"]),
            names=tuple(names),
            labels={str(k): str(v) for k, v in attributes.items()},
            at=_iso(int(event["timeNano"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise Unavailable("Docker", f"an event nobody can read: {line[:80]!a}") from error


def _iso(nanos: int) -> str:
    seconds, rest = divmod(nanos, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
