"""Redis databases without a server, for tests of what is read and written. Know nothing of kubesyncd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fakeredis

if TYPE_CHECKING:
    import redis


class FakeRedis:
    """Databases in this process: no notifications, no statistics, no connections that break."""

    url = "redis://in-this-process"

    def __init__(self) -> None:
        self._server = fakeredis.FakeServer()

    def client(self, db: int = 0) -> redis.Redis:
        """As `RedisServer.client`."""
        return fakeredis.FakeRedis(server=self._server, db=db, decode_responses=True)

    def connect(self, _url: str, db: int) -> Any:
        """The RedisStore's `connect`."""
        return fakeredis.FakeAsyncRedis(server=self._server, db=db)
