"""Represent requests and replies. Knows no socket and no feature."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from kubesyncd.core import protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from kubesyncd.api.peer import Peer


class Role(Enum):
    """The socket of a request."""

    HOST = "host"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class Request:
    """A decoded request and its peer; `say` sends a status line at once.

    `waiting`: what a handler enters before it waits for a feature without a limit of time; raises AtLimit.
    """

    arguments: list[str]
    peer: Peer
    role: Role
    say: Callable[[str], None]
    waiting: Callable[[str], AbstractContextManager[None]]

    def argument(self, index: int, default: str = "") -> str:
        """Return the argument at `index`; `default` where the request is shorter."""
        return self.arguments[index] if len(self.arguments) > index else default


@dataclass(frozen=True, slots=True)
class Reply:
    """The client's output, and its exit code."""

    code: int = protocol.EXIT_DONE
    out: str = ""
    err: str = ""

    def encode(self) -> bytes:
        """Encode the reply for the wire."""
        parts = [protocol.out(self.out)] if self.out else []
        if self.err:
            parts.append(protocol.err(self.err))
        return b"".join((*parts, protocol.result(self.code)))


class Denied(Exception):
    """A refused request; the reply says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.err)
        self.reply = reply


class AtLimit(Exception):
    """A limit keeps the daemon from the request; the message names it. The client asks again.

    `waits`: only requests that wait for a feature are affected.
    """

    def __init__(self, why: str, *, waits: bool = False) -> None:
        super().__init__(why)
        self.waits = waits


def failure(code: int, name: str, text: str) -> Reply:
    """Build a reply with the error `container: NAME: <what happened>; <what to do>`."""
    return Reply(code, err=f"container: {name}: {text}" if name else f"container: {text}")
