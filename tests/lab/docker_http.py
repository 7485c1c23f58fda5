"""Read requests and write answers as Docker's API 1.41 does. Knows no object of an engine."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tests.lab.docker_words import ApiError

API_VERSION = "1.41"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Routes = list[tuple[str, str, Handler]]


def answer(content: Any, status: int = 200) -> web.Response:
    """Without a charset, as Docker: clients compare the content type to the letter."""
    body = json.dumps(content).encode() + b"\n"
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json"})


def done() -> web.Response:
    """Success, without a word."""
    return web.Response(status=204)


async def sign(_: web.Request, response: web.StreamResponse) -> None:
    """The headers of each answer."""
    response.headers["Api-Version"] = API_VERSION
    response.headers["Ostype"] = "linux"
    response.headers["Docker-Experimental"] = "false"


def flag(request: web.Request, key: str) -> bool:
    """A yes or no of the query."""
    return request.query.get(key, "").lower() in ("1", "true")


def filters(request: web.Request, allowed: tuple[str, ...]) -> dict[str, list[str]]:
    """Filters come as lists or, from the docker command, as maps to true. Raises ApiError."""
    given: dict[str, Any] = json.loads(request.query.get("filters") or "{}")
    for key in given:
        if key not in allowed:
            raise ApiError(400, f"Invalid filter '{key}'")
    return {key: list(values) for key, values in given.items() if values}
