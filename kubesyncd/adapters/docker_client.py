"""Call Docker through aiodocker, each call with a deadline and with errors translated to port errors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import aiohttp
from aiodocker.exceptions import DockerError

from kubesyncd.core.model import CONTAINER_ID, valid_feature_name
from kubesyncd.ports import NotSent, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")

READ_S = 10.0
CONNECT_S = 3.0
# Any host name does: the connector always opens the Unix socket.
BASE = "http://docker"
NO_CONNECTION = 900
NOT_FOUND = 404
CONFLICT = 409


async def ask(call: Awaitable[T], deadline_s: float) -> T:
    """Await a library call. Docker's own errors stay for the caller.

    No answer becomes Unavailable, no connection NotSent.
    """
    try:
        async with asyncio.timeout(deadline_s):
            return await call
    except DockerError as error:
        if error.status == NO_CONNECTION:
            # aiodocker names each broken connection like this; its cause tells whether there was one.
            unsent = isinstance(error.__context__, aiohttp.ClientConnectorError)
            raise (NotSent if unsent else Unavailable)("Docker", error.message) from error
        raise
    except TimeoutError as error:
        raise Unavailable("Docker", f"no answer within {deadline_s:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable("Docker", str(error) or type(error).__name__) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        # aiodocker raises these for an error body or a content type that is not Docker's.
        raise Unavailable("Docker", f"an unreadable answer: {error!r}") from error


def check_feature(name: str) -> None:
    """Raise Refused for an invalid feature name."""
    if not valid_feature_name(name):
        raise Refused("Docker", f"{name[:70]!a}: invalid feature name; use a-z, 0-9, - and _")


def check_container_id(container_id: str) -> None:
    """Raise Refused for an invalid container ID."""
    if not CONTAINER_ID.fullmatch(container_id):
        raise Refused("Docker", f"{container_id[:70]!a}: invalid container ID; use 12 to 64 hex digits")
