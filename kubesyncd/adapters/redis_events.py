"""Watch both databases for changes of features and of the master's configuration.

redis-py reconnects a PubSub silently and loses messages meanwhile, so the subscription is one bare connection that
never reconnects: the connection that replaces it reports GAP. Redis publishes a keyspace event only where flags ask for
it, and another program may replace the flags, so silence is checked: a probe asks the server and reads the flags again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from kubesyncd.adapters.db_schema import shared_row
from kubesyncd.adapters.redis_client import FEATURE, INITIALIZED, MASTER, edge, text_of
from kubesyncd.core.model import Signal, valid_feature_name
from kubesyncd.ports import Refused, Unavailable
from kubesyncd.runtime.backoff import Backoff

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Iterable

    from kubesyncd.adapters.redis_client import Link, RedisClient

NOTIFY = "notify-keyspace-events"
# (K)eyspace events of (g)eneric commands, (h)ashes, ($) strings and keys that e(x)pired.
FLAGS = "Kghx$"
FLAGS_IN_A = "g$lshzxetd"

PROBE_S = 60.0
BACKOFF_S = 0.8
BACKOFF_S_MAX = 2.0


class RedisEvents:
    """`names` returns the known features; `probe_s`: seconds of silence before a probe."""

    def __init__(
        self, client: RedisClient, rng: random.Random, names: Callable[[], Iterable[str]], probe_s: float
    ) -> None:
        self._client = client
        self._rng = rng
        self._names = names
        self._probe_s = probe_s

    async def events(self, lost: Callable[[str], object]) -> AsyncIterator[str | Signal]:
        """Yield the names of features whose row changed in either database, and MASTER.

        GAP on every loss and return of the subscription. Never ends and never raises; while Redis is down it tries
        again every 2 s at most.
        """
        backoff = Backoff(self._rng, BACKOFF_S, BACKOFF_S_MAX)
        while True:
            subscribed = False
            connection: Link | None = None
            try:
                connection = await self._subscribe()
                subscribed = True
                await self._add_flags()
                backoff.reset()
                lost("")
                yield Signal.GAP
                while True:
                    message = await _hear(connection, self._probe_s)
                    if message is None:
                        if await self._add_flags():
                            yield Signal.GAP
                        message = await _ping(connection)
                    for event in self._heard(message):
                        yield event
            except (Unavailable, Refused) as error:
                lost(error.detail)
                # Reconcilers observe again at once: their own reads detect the state of Redis.
                if subscribed:
                    yield Signal.GAP
            finally:
                if connection is not None:
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(backoff.next_s())

    def _heard(self, message: Any) -> tuple[str | Signal, ...]:
        """Return the subject of a message; for a row that containers of several ASICs share, all of them."""
        event = _event(message)
        if event is None:
            return ()
        if not self._client.open().place.asics:
            return (event,)
        return (event, *(name for name in self._names() if shared_row(name) == event))

    async def _subscribe(self) -> Link:
        """Open a connection subscribed to both databases; every pattern is acknowledged. Raises Unavailable."""
        place = self._client.locate()
        await self._client.close_if_moved(place)
        patterns = (
            f"__keyspace@{place.config_db}__:{FEATURE}*",
            f"__keyspace@{place.state_db}__:{FEATURE}*",
            f"__keyspace@{place.config_db}__:{MASTER}",
            f"__keyspace@{place.config_db}__:{INITIALIZED}",
        )
        connection: Link = self._client.open().config.connection_pool.make_connection()
        try:
            async with edge("keyspace events"):
                await connection.connect()
                await connection.send_command("PSUBSCRIBE", *patterns)
                waiting = len(patterns)
                while waiting:
                    message = await connection.read_response()
                    waiting -= message[0] == b"psubscribe"
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _add_flags(self) -> bool:
        """Add the needed flags to the server's keyspace flags; return whether any was missing."""
        async with edge(NOTIFY):
            config = self._client.open().config
            flags: str = (await config.config_get(NOTIFY))[NOTIFY]
            missing = missing_flags(flags)
            if missing:
                await config.config_set(NOTIFY, flags + missing)
        return bool(missing)


def missing_flags(flags: str) -> str:
    """Return the needed flags that `flags`, the server's keyspace flags, lacks; `A` stands for several."""
    there = flags + (FLAGS_IN_A if "A" in flags else "")
    return "".join(flag for flag in FLAGS if flag not in there)


async def _hear(connection: Link, timeout_s: float) -> Any:
    """Return the next message, or None after `timeout_s` of silence."""
    try:
        return await connection.read_response(timeout=timeout_s)
    except (RedisError, OSError) as error:
        raise Unavailable("Redis", f"keyspace events: {error}") from error


async def _ping(connection: Link) -> Any:
    """Return the next message of a silent connection; at the latest, the answer to a ping."""
    async with edge("keyspace events"):
        await connection.send_command("PING")
        return await connection.read_response()


def _event(message: Any) -> str | Signal | None:
    """Return the subject of a message; None for a ping's answer and for a key that does not belong to a feature."""
    if message[0] != b"pmessage":
        return None
    key = text_of(message[2]).partition(":")[2]
    if key == MASTER:
        return Signal.MASTER
    if key == INITIALIZED:
        return Signal.GAP
    name = key.removeprefix(FEATURE)
    return name if valid_feature_name(name) else None
