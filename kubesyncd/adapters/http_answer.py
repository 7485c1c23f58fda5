"""Classify HTTP answers: map statuses to port errors, bound the length, extract the server's message.

Imports no HTTP library: a command at a terminal uses it with http.client, the daemon with aiohttp
(http_session). The four tables stand side by side because the callers differ: to a label change a 409 is a reason to
try again, to a join it is a refusal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.ports import Forbidden, Missing, PortError, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Collection
    from http.client import HTTPResponse


@dataclass(frozen=True, slots=True)
class StatusTable:
    """The statuses that one kind of call takes as a final answer; every other one is Unavailable: try again later."""

    forbidden: Collection[int] = ()
    missing: Collection[int] = ()
    refused: Collection[int] = ()

    def error(self, status: int) -> type[PortError]:
        """Return the error that a bad `status` is. The first matching column counts."""
        if status in self.forbidden:
            return Forbidden
        if status in self.missing:
            return Missing
        return Refused if status in self.refused else Unavailable


# A change of the own Node. A 401 is not final: the kubelet renews its certificate.
OWN_NODE = StatusTable(
    forbidden=(403,), missing=(404,), refused=frozenset(range(400, 500)) - {401, 408, 409, 429}
)
# A join's or reset's call; a conflict does not go away by itself.
JOIN = StatusTable(forbidden=(401, 403), missing=(404,), refused=frozenset(range(300, 500)) - {429})
# An operator's list. The status is shown, and the operator decides when to ask again.
OPERATOR = StatusTable(forbidden=(401, 403), missing=(404,), refused=range(400, 500))
# A file of a package server. Redirects are not followed; 408 and 425 ask for a later retry.
PACKAGES = StatusTable(missing=(404, 410), refused=frozenset(range(300, 500)) - {408, 425, 429})


class TooLong(ValueError):
    """An answer beyond its limit; reading has stopped there."""

    def __init__(self, what: str, bytes_max: int) -> None:
        super().__init__(f"{what} is longer than {bytes_max} bytes")


def read_whole(response: HTTPResponse, bytes_max: int, what: str = "the answer") -> bytes:
    """Read a whole answer of http.client, or stop where it exceeds the limit. Raises TooLong."""
    body = response.read(bytes_max + 1)
    if len(body) > bytes_max:
        raise TooLong(what, bytes_max)
    return body


def status_message(body: bytes) -> str | None:
    """Return the message of a Kubernetes Status; None where the body is anything else."""
    try:
        return str(json.loads(body.decode(errors="replace"))["message"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
