"""Read and write a virtual switch's databases."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import redis

    from tests.lab.redis_server import RedisServer

CONFIG_DB, STATE_DB = 4, 6


class SwitchDatabases:
    """CONFIG_DB and STATE_DB on the switch's Redis."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    @property
    def config_db(self) -> redis.Redis:
        """CONFIG_DB."""
        return self._server.client(CONFIG_DB)

    @property
    def state_db(self) -> redis.Redis:
        """STATE_DB."""
        return self._server.client(STATE_DB)

    def configure(self, feature: str, **fields: str) -> None:
        """Set CONFIG_DB fields of a feature."""
        self.config_db.hset(f"FEATURE|{feature}", mapping=fields)

    def join(self, url: str, **fields: str) -> None:
        """Configure the master at `url`."""
        address = urlsplit(url)
        master = {"IP": address.hostname or "", "port": str(address.port), **fields}
        self.config_db.hset("KUBERNETES_MASTER|SERVER", mapping=master)

    def row(self, feature: str) -> dict[str, str]:
        """The feature's STATE_DB row."""
        found: dict[str, str] = self.state_db.hgetall(f"FEATURE|{feature}")
        return found

    @property
    def connected(self) -> str:
        """Whether the master answers, by STATE_DB: True, False, or nothing; in lower case with SONiC's names."""
        return str(self.state_db.hget("KUBERNETES_MASTER|SERVER", "connected") or "")

    @property
    def pending(self) -> str:
        """What STATE_DB says of queued labels."""
        return str(self.state_db.hget("KUBE_SERVER|PENDING_LABELS", "labels@") or "")
