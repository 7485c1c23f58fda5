"""Send commands to the two databases of a switch, each call with a deadline and with translated errors.

redis-py's defaults wait minutes for a stalled server, so every wait here has a short deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from kubesyncd.adapters.db_schema import VALUE_BYTES_MAX, normal
from kubesyncd.adapters.redis_place import Place, locate
from kubesyncd.adapters.redis_refusals import NO_HASH, OOM, WRONGTYPE, translated, word_of
from kubesyncd.core.model import valid_feature_name
from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from kubesyncd import settings

    Hash: TypeAlias = Mapping[bytes, bytes]
    # redis-py's own type hints change with every major version; its answers are checked where they arrive.
    Client: TypeAlias = Any
    Link: TypeAlias = Any
    Connect: TypeAlias = Callable[[str, int], Client]

FEATURE = "FEATURE|"
MASTER = "KUBERNETES_MASTER|SERVER"
MASTER_NAMES = frozenset({"ip", "port", "insecure", "disable"})
PENDING = "KUBE_SERVER|PENDING_LABELS"
PENDING_FIELD = "labels@"
METADATA = "DEVICE_METADATA|localhost"
INITIALIZED = "CONFIG_DB_INITIALIZED"
CONNECTIONS_MAX = 4
SOCKET_S = 2.0
# Deadline of one whole call, including a second try after a connection that had died undetected.
CALL_S = 5.0
FIELD_NAME_BYTES_MAX = 64


@dataclass(frozen=True, slots=True)
class Databases:
    """The two databases' command connections."""

    place: Place
    config: Client
    state: Client

    async def close(self) -> None:
        """Close every connection."""
        await self.config.aclose()
        await self.state.aclose()


def connect(url: str, db: int) -> Client:
    """Return a client of one database; it opens its connections when needed."""
    options: dict[str, Any] = {"connection_class": Connection, **parse_url(url)}
    # RESP2 needs no handshake and every Redis that SONiC has shipped speaks it.
    options |= {
        "db": db,
        "protocol": 2,
        "socket_timeout": SOCKET_S,
        "socket_connect_timeout": SOCKET_S,
        "retry": Retry(NoBackoff(), 1),
    }
    pool = BlockingConnectionPool(max_connections=CONNECTIONS_MAX, timeout=SOCKET_S, **options)
    return Redis.from_pool(pool)


class RedisClient:
    """Connections to the databases of `where`, opened by `connect` when needed."""

    def __init__(self, where: settings.RedisSettings, connect: Connect = connect) -> None:
        self._where = where
        self._connect = connect
        self._databases: Databases | None = None
        # Called when a call has failed: see RedisEvents.
        self.failed: Callable[[], object] = lambda: None

    def locate(self) -> Place:
        """Return the current place of the databases. Raises Unavailable."""
        return locate(self._where)

    def open(self) -> Databases:
        """Return the connections. Raises Unavailable while the place of the databases is unknown."""
        if self._databases is None:
            place = self.locate()
            config, state = (self._connect(place.url, db) for db in (place.config_db, place.state_db))
            self._databases = Databases(place, config, state)
        return self._databases

    def edge(self, what: str) -> AbstractAsyncContextManager[None]:
        """Return the edge of one call. Raises Unavailable while the place of the databases is unknown."""
        return edge(what, self.open().place.why, self.failed)

    async def close(self) -> None:
        """Close every connection; the next call opens new ones."""
        databases, self._databases = self._databases, None
        if databases is not None:
            await databases.close()

    async def close_if_moved(self, place: Place) -> None:
        """Close every connection to another place."""
        if self._databases is not None and self._databases.place != place:
            await self.close()


@contextlib.asynccontextmanager
async def edge(
    what: str, place: str = "", failed: Callable[[], object] = lambda: None
) -> AsyncIterator[None]:
    """Set a deadline for the block, and translate redis-py's errors to port errors.

    `place`: see `translated`. `failed` is called where Redis, and not just one key, is the reason.
    """
    try:
        async with asyncio.timeout(CALL_S):
            yield
    except (RedisError, OSError) as error:
        failure = translated(what, error, place)
        if isinstance(failure, Unavailable):
            failed()
        raise failure from error
    finally:
        # redis-py sends through `wait_for`, and before Python 3.12 that loses a cancellation which comes together
        # with its result: the daemon would never end. It is lost also where the block fails afterwards.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError


async def ask(client: Client, *commands: tuple[str, ...]) -> list[Any]:
    """Run `commands` in one transaction and one round trip; a failed one's answer is its exception."""
    try:
        return await pipelined(client, commands, transaction=len(commands) > 1)
    except RedisError as error:
        if word_of(error) != OOM:
            raise
    # At its maxmemory Redis queues no command of a transaction, not even a read.
    return await pipelined(client, commands, transaction=False)


async def pipelined(client: Client, commands: tuple[tuple[str, ...], ...], *, transaction: bool) -> list[Any]:
    """Run `commands` in one round trip; a failed one's answer is its exception."""
    pipe = client.pipeline(transaction=transaction)
    for command in commands:
        pipe.execute_command(*command)
    answers: list[Any] = await pipe.execute(raise_on_error=False)
    return answers


async def hgetall(client: Client, key: str) -> Hash:
    """Return the hash at `key`; empty where it does not exist."""
    stored: Hash = await client.hgetall(key)
    return stored


async def update(client: Client, key: str, stored: Hash, wanted: Hash) -> None:
    """Change the fields `stored` to `wanted` in one transaction; no call where nothing differs."""
    changed = {name: value for name, value in wanted.items() if stored.get(name) != value}
    removed = [name for name in stored if name not in wanted]
    if not changed and not removed:
        return
    pipe = client.pipeline(transaction=True)
    if changed:
        pipe.execute_command("HSET", key, *(part for item in changed.items() for part in item))
    if removed:
        pipe.execute_command("HDEL", key, *removed)
    await pipe.execute()


def feature_key(feature: str) -> str:
    """Return the key of the feature's row."""
    assert valid_feature_name(feature), feature
    return f"{FEATURE}{feature}"


def hash_of(answer: Any, problems: list[str]) -> Hash:
    """Decode a HGETALL's answer; a key of another type is absent and a problem. Raises every other exception."""
    if isinstance(answer, ResponseError) and word_of(answer) == WRONGTYPE:
        problems.append(f"{NO_HASH}; taken as absent")
        return {}
    if isinstance(answer, Exception):
        raise answer
    stored: Hash = answer
    return stored


def texts_of(stored: Hash, names: frozenset[str], problems: list[str]) -> dict[str, str]:
    """Return the fields called `names`, by their normal name.

    A value that is too long is left out, invalid UTF-8 is replaced, and either is a problem.
    """
    texts: dict[str, str] = {}
    for raw_name, raw in stored.items():
        name = field_of(raw_name)
        if name not in names:
            continue
        if len(raw) > VALUE_BYTES_MAX:
            problems.append(
                f"{name} has {len(raw)} bytes, at most {VALUE_BYTES_MAX} are allowed; taken as absent"
            )
            continue
        texts[name] = text_of(raw)
        if texts[name].encode() != raw:
            problems.append(f"{name}={raw[:40]!r} is not UTF-8")
    return texts


def field_of(name: bytes) -> str:
    """Return a field's normal name; a name longer than every known one is cut."""
    return normal(text_of(name[:FIELD_NAME_BYTES_MAX]))


def text_of(raw: bytes) -> str:
    """Decode bytes from Redis; invalid UTF-8 is replaced."""
    return raw.decode(errors="replace")
