"""What do CONFIG_DB and STATE_DB say, and when did they change? The FeatureStore over redis.asyncio.

Knows no rule of what should happen. Three traps rule its shape. redis-py reconnects a PubSub silently and
loses what was published meanwhile, so the subscription is one bare connection that never reconnects: its
successor says GAP. redis-py's defaults wait minutes for a stalled server, so every wait here has a short
deadline. A keyspace event is published only where flags ask for it, and somebody else may replace the
flags, so silence is doubted: a probe asks the server and looks at the flags again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from kubesyncd.adapters.db_schema import VALUE_BYTES_MAX, normal, schema, shared_row
from kubesyncd.adapters.redis_place import Place, check_url, locate, on_switch
from kubesyncd.core.model import FeatureConfig, MasterConfig, Row, Signal, Stored, valid_feature_name
from kubesyncd.core.parse import parse_master_config
from kubesyncd.ports import Refused, Unavailable

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Mapping

    from kubesyncd import settings

    Hash: TypeAlias = Mapping[bytes, bytes]
    # redis-py's own hints change with every major version; its answers are looked at where they arrive.
    Client: TypeAlias = Any
    Link: TypeAlias = Any

FEATURE = "FEATURE|"
MASTER = "KUBERNETES_MASTER|SERVER"
MASTER_NAMES = frozenset({"ip", "port", "insecure", "disable"})
PENDING = "KUBE_SERVER|PENDING_LABELS"
PENDING_FIELD = "labels@"
METADATA = "DEVICE_METADATA|localhost"
INITIALIZED = "CONFIG_DB_INITIALIZED"
NOTIFY = "notify-keyspace-events"
# (K)eyspace events of (g)eneric commands, (h)ashes, ($) strings and keys that e(x)pired.
FLAGS = "Kghx$"
FLAGS_IN_A = "g$lshzxetd"

CONNECTIONS_MAX = 4
# Reconcilers take turns: when all look at once, standing in line must not count as Redis being silent. One connection
# is left for everybody else.
TURNS = CONNECTIONS_MAX - 1
SOCKET_S = 2.0
# One call in all, with its second try after a connection that had died unseen.
CALL_S = 5.0
PROBE_S = 60.0
BACKOFF_S = 0.8
BACKOFF_S_MAX = 2.0
# CONFIG_DB of a large switch has some 10^5 keys: 100 turns, each short enough not to hold others up.
SCAN_COUNT = 1000
FIELD_NAME_BYTES_MAX = 64
NO_HASH = "the key is no hash, and only a hash is allowed; delete it"
METADATA_FIELDS_MAX = 64
STORED_MAX = 1024


@dataclass(frozen=True, slots=True)
class Databases:
    """The two databases' command connections."""

    place: Place
    config: Client
    state: Client

    async def close(self) -> None:
        """Let go of every connection."""
        await self.config.aclose()
        await self.state.aclose()


class RedisStore:
    """CONFIG_DB and STATE_DB (see `ports.FeatureStore`). Beyond the port:

    While CONFIG_DB is being loaded, `features`, `master` and `device_metadata` raise Unavailable, because
    what they would list is not whole; `read` says `loading`. `always_local` features have such a config
    even without a FEATURE row. `probe_s`: how long silence is believed. With `mended`, a load counts as going
    on until somebody says that it is `settled`. Where
    `kube`, whether its packages are installed, is not, every feature is local.
    """

    def __init__(
        self,
        where: settings.Redis,
        schema_names: str,
        rng: random.Random,
        always_local: frozenset[str],
        *,
        kube: bool = True,
        probe_s: float = PROBE_S,
    ) -> None:
        if where.url:
            check_url(where.url)
        self._where = where
        self._schema = schema(schema_names)
        self._rng = rng
        self._always_local = always_local
        self._kube = kube
        self._probe_s = probe_s
        self._databases: Databases | None = None
        self._turns = asyncio.Semaphore(TURNS)
        self._answered_at = 0.0
        self._initialized_seen = False
        # Without anybody who mends a load's result, it counts as soon as it is there.
        self.mended = False
        self.settled = True
        # What was last written per feature. SONiC's spelling holds less than a row does (a local container's
        # name, a short ID): fields that still say what this row is spelled like are read as this row.
        self._written: dict[str, Row] = {}
        # Our fields as they were last seen or written: a write after a look is one round trip.
        self._stored: dict[str, Hash] = {}

    @property
    def initialized_seen(self) -> bool:
        """Whether CONFIG_DB has been whole once; from then on it is being loaded when it does not say so."""
        return self._initialized_seen

    @initialized_seen.setter
    def initialized_seen(self, seen: bool) -> None:
        self._initialized_seen = seen

    async def feature_rows(self) -> dict[str, dict[str, str]]:
        """All FEATURE rows of CONFIG_DB as they stand, by valid names; also of a load that has not been mended."""
        async with _edge("CONFIG_DB"):
            config = self._open().config
            keys = [_text(key) async for key in config.scan_iter(match=f"{FEATURE}*", count=SCAN_COUNT)]
            names = [name for key in keys if valid_feature_name(name := key.removeprefix(FEATURE))]
            *rows, initialized = await _ask(
                config, *(("HGETALL", _feature_key(name)) for name in names), ("GET", INITIALIZED)
            )
            if initialized != b"1" and self._initialized_seen:
                self._loading(initialized)
                raise Unavailable("Redis", "CONFIG_DB is being loaded")
            hashes = zip(names, (_hash(row, []) for row in rows), strict=True)
            return {name: {_text(f): _text(v) for f, v in row.items()} for name, row in hashes if row}

    async def add_fields(self, feature: str, fields: Mapping[str, str]) -> None:
        """Set these fields of the feature's row in CONFIG_DB."""
        key = _feature_key(feature)
        async with _edge(f"CONFIG_DB {key}"):
            await self._open().config.hset(key, mapping=dict(fields))

    async def close(self) -> None:
        """Let go of every connection; the next call opens new ones."""
        databases, self._databases = self._databases, None
        if databases is not None:
            await databases.close()

    async def events(self) -> AsyncIterator[str | Signal]:
        """Names of features whose row changed in either database, MASTER, and GAP on every loss and return of
        the subscription. Never ends and never raises; while Redis is away it tries again every 2 s at most.
        """
        tries = 0
        while True:
            subscribed = False
            connection: Link | None = None
            try:
                connection = await self._subscribe()
                subscribed = True
                await self._add_flags()
                tries = 0
                yield Signal.GAP
                while True:
                    message = await _hear(connection, self._probe_s)
                    if message is None:
                        if await self._add_flags():
                            yield Signal.GAP
                        message = await _ping(connection)
                    for event in self._heard(message):
                        yield event
            except (Unavailable, Refused):
                # Reconcilers look again at once: their own reads find out how Redis is.
                if subscribed:
                    yield Signal.GAP
            finally:
                if connection is not None:
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(self._rng.uniform(0, min(BACKOFF_S * 2**tries, BACKOFF_S_MAX)))
            tries = min(tries + 1, 8)

    def _heard(self, message: Any) -> tuple[str | Signal, ...]:
        """What a message is about; a row that containers of several ASICs share, about all of them."""
        event = _event(message)
        if event is None:
            return ()
        if not self._open().place.asics:
            return (event,)
        return (event, *(name for name in self._written if shared_row(name) == event))

    async def features(self) -> frozenset[str]:
        """Valid names of all CONFIG_DB FEATURE rows."""
        names = set()
        async with _edge("CONFIG_DB"):
            databases = self._open()
            keys = databases.config.scan_iter(match=f"{FEATURE}*", count=SCAN_COUNT)
            async for key in keys:
                name = _text(key).removeprefix(FEATURE)
                if valid_feature_name(name):
                    names.add(name)
            self._refuse_loading(await databases.config.get(INITIALIZED))
        return frozenset(names)

    async def read(self, feature: str, known: FeatureConfig | None = None) -> Stored:
        """One feature's config and row, both of one moment; unusable fields stay as `known`."""
        key = _feature_key(feature)
        async with self._turn(key), _edge(key):
            databases = self._open()
            shared = shared_row(feature) if databases.place.asics else ""
            config, initialized, keys, of_shared, row = await _look(databases, key, shared)
            in_config: list[str] = []
            in_state: list[str] = []
            found = self._config(feature, _hash(config, in_config), in_config, known)
            if found is None and shared:
                found = self._config(shared, _hash(of_shared, in_config), in_config, known)
                found = found if found is not None and (found.local_only or found.always_local) else None
            if found is not None and not self._kube:
                found = replace(found, local_only=True)
            stored = _hash(row, in_state)
            self._remember(feature, self._ours(stored))
            return Stored(
                config=found,
                row=self._row(feature, stored, in_state),
                # A database without any key has been flushed, by whatever means: no operator configures that.
                loading=self._loading(initialized) or (keys == 0 and known is not None),
                problems=(*_at(f"CONFIG_DB {key}", in_config), *_at(f"STATE_DB {key}", in_state)),
            )

    def _config(
        self, feature: str, stored: Hash, problems: list[str], known: FeatureConfig | None
    ) -> FeatureConfig | None:
        always_local = feature in self._always_local
        if problems and known is not None:
            return known
        if not stored:
            return FeatureConfig(always_local=True) if always_local else None
        texts = _texts(stored, self._schema.config_names, problems)
        config = on_switch(self._open().place, self._schema.decode_config(texts, problems, known))
        return replace(config, always_local=True) if always_local else config

    def _row(self, feature: str, stored: Hash, problems: list[str]) -> Row:
        written = self._written.get(feature)
        if written is not None and self._ours(stored) == self._spelled(feature, written):
            return written
        return self._schema.decode_row(_texts(stored, self._schema.row_names, problems), problems)

    async def write_row(self, feature: str, row: Row) -> None:
        """Make our STATE_DB fields say `row`; writes nothing where they do. Somebody who deletes the row
        between the look and the write leaves a part of it: that is an event, and it is written again.
        """
        key = _feature_key(feature)
        async with self._turn(f"STATE_DB {key}"), _edge(f"STATE_DB {key}"):
            state, wanted = self._open().state, self._spelled(feature, row)
            # What the look has found; what is not known for sure is asked for.
            stored = self._stored.pop(feature, None)
            await _update(
                state, key, self._ours(await _hgetall(state, key)) if stored is None else stored, wanted
            )
            self._remember(feature, wanted)
        self._written[feature] = row

    def _remember(self, feature: str, stored: Hash) -> None:
        if len(self._stored) >= STORED_MAX:
            self._stored.clear()
        self._stored[feature] = stored

    def _ours(self, stored: Hash) -> dict[bytes, bytes]:
        """Our fields, those in other spellings (`docker-id`) too: they would be read as ours."""
        names = self._schema.row_names
        return {name: value for name, value in stored.items() if _field(name) in names}

    def _spelled(self, feature: str, row: Row) -> dict[bytes, bytes]:
        return {
            name.encode(): value.encode() for name, value in self._schema.encode_row(feature, row).items()
        }

    async def master(self) -> MasterConfig:
        """The master's configuration."""
        found: list[str] = []
        stored = await self._config_hash(MASTER, found)
        config = parse_master_config(_texts(stored, MASTER_NAMES, found))
        return replace(config, problems=_at(f"CONFIG_DB {MASTER}", [*found, *config.problems]))

    async def device_metadata(self) -> Mapping[str, str]:
        """CONFIG_DB `DEVICE_METADATA|localhost`: fields and values as they stand, up to a limit."""
        stored = await self._config_hash(METADATA, [])
        first = itertools.islice(stored.items(), METADATA_FIELDS_MAX)
        return {_text(name): _text(value) for name, value in first if len(value) <= VALUE_BYTES_MAX}

    async def _config_hash(self, key: str, problems: list[str]) -> Hash:
        async with _edge(f"CONFIG_DB {key}"):
            stored, initialized = await _ask(self._open().config, ("HGETALL", key), ("GET", INITIALIZED))
            self._refuse_loading(initialized)
            return _hash(stored, problems)

    async def write_master(self, *, connected: bool, ts: int) -> None:
        """STATE_DB `KUBERNETES_MASTER|SERVER`: connected, and since when (`ts`, seconds since the epoch).
        Nothing is written, and the stored time stands, while `connected` is what is stored.
        """
        fields = self._schema.encode_master(connected=connected, ts=ts)
        wanted = {name.encode(): value.encode() for name, value in fields.items()}
        async with _edge(f"STATE_DB {MASTER}"):
            state = self._open().state
            stored = await _hgetall(state, MASTER)
            if stored.get(b"connected") != wanted[b"connected"] or not wanted.keys() <= stored.keys():
                await _update(state, MASTER, {}, wanted)

    async def write_pending(self, labels: tuple[str, ...]) -> None:
        """Mirror the label queue to STATE_DB `KUBE_SERVER|PENDING_LABELS`; an empty one removes it."""
        name, wanted = PENDING_FIELD.encode(), ",".join(labels).encode()
        async with _edge(f"STATE_DB {PENDING}"):
            state = self._open().state
            stored = await _hgetall(state, PENDING)
            ours = {name: stored[name]} if name in stored else {}
            await _update(state, PENDING, ours, {name: wanted} if labels else {})

    def _loading(self, initialized: object) -> bool:
        if initialized == b"1":
            self._initialized_seen = True
            return not self.settled
        if self._initialized_seen and self.mended:
            self.settled = False
        return self._initialized_seen

    def _refuse_loading(self, initialized: object) -> None:
        if self._loading(initialized):
            raise Unavailable("Redis", "CONFIG_DB is being loaded; asked again once it is whole")

    @contextlib.asynccontextmanager
    async def _turn(self, what: str) -> AsyncIterator[None]:
        """Wait in line, for as long as Redis answers those in front. Raises Unavailable once it answers nobody."""
        now = asyncio.get_running_loop().time
        while True:
            begun = now()
            try:
                async with asyncio.timeout(CALL_S):
                    await self._turns.acquire()
                break
            except TimeoutError:
                if self._answered_at < begun:
                    raise Unavailable("Redis", f"{what}: no answer in time") from None
        try:
            yield
            self._answered_at = now()
        finally:
            self._turns.release()

    def _open(self) -> Databases:
        if self._databases is None:
            self._databases = _connect(locate(self._where))
        return self._databases

    async def _subscribe(self) -> Link:
        """A new connection that hears both databases; every pattern is acknowledged. Raises Unavailable."""
        place = locate(self._where)
        if self._databases is not None and self._databases.place != place:
            await self.close()
        patterns = (
            f"__keyspace@{place.config_db}__:{FEATURE}*",
            f"__keyspace@{place.state_db}__:{FEATURE}*",
            f"__keyspace@{place.config_db}__:{MASTER}",
            f"__keyspace@{place.config_db}__:{INITIALIZED}",
        )
        connection: Link = self._open().config.connection_pool.make_connection()
        try:
            async with _edge("keyspace events"):
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
        """Add what we need to the server's keyspace flags; whether anything was missing."""
        async with _edge(NOTIFY):
            config = self._open().config
            flags: str = (await config.config_get(NOTIFY))[NOTIFY]
            there = flags + (FLAGS_IN_A if "A" in flags else "")
            missing = "".join(flag for flag in FLAGS if flag not in there)
            if missing:
                await config.config_set(NOTIFY, flags + missing)
        return bool(missing)


def _connect(place: Place) -> Databases:
    return Databases(place, _client(place.url, place.config_db), _client(place.url, place.state_db))


def _client(url: str, db: int) -> Client:
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


@contextlib.asynccontextmanager
async def _edge(what: str) -> AsyncIterator[None]:
    """Give what happens inside a deadline, and redis-py's errors our names."""
    try:
        async with asyncio.timeout(CALL_S):
            yield
        # redis-py sends through `wait_for`, and before Python 3.12 that loses a cancellation which comes together
        # with its result: the daemon would never end.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
    except NoPermissionError as error:
        raise Refused("Redis", f"{what}: {error}") from error
    except ResponseError as error:
        if _wrong_type(error):
            raise Refused("Redis", f"{what}: {NO_HASH}") from error
        raise Unavailable("Redis", f"{what}: {error}") from error
    except (RedisError, OSError) as error:
        raise Unavailable("Redis", f"{what}: {str(error) or 'no answer in time'}") from error


def _wrong_type(error: ResponseError) -> bool:
    return "WRONGTYPE" in str(error)


async def _ask(client: Client, *commands: tuple[str, ...]) -> list[Any]:
    """The answers to `commands`, all of one moment, in one round trip; a failed one's is its exception."""
    pipe = client.pipeline(transaction=len(commands) > 1)
    for command in commands:
        pipe.execute_command(*command)
    answers: list[Any] = await pipe.execute(raise_on_error=False)
    return answers


async def _look(databases: Databases, key: str, shared: str) -> tuple[Any, Any, Any, Any, Any]:
    """CONFIG_DB's row, INITIALIZED, number of keys and row that is `shared`, and STATE_DB's row; one round trip.

    The state connection goes to the other database and back; on an error it is closed, and opened again in its own.
    """
    place = databases.place
    _, config, initialized, keys, *of_shared, _, row = await _ask(
        databases.state,
        ("SELECT", str(place.config_db)),
        ("HGETALL", key),
        ("GET", INITIALIZED),
        ("DBSIZE",),
        *([("HGETALL", _feature_key(shared))] if shared else []),
        ("SELECT", str(place.state_db)),
        ("HGETALL", key),
    )
    return config, initialized, keys, of_shared[0] if of_shared else None, row


async def _hgetall(client: Client, key: str) -> Hash:
    stored: Hash = await client.hgetall(key)
    return stored


async def _update(client: Client, key: str, stored: Hash, wanted: Hash) -> None:
    """Turn the fields `stored` into `wanted` with what differs, at once; nothing where nothing does."""
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


async def _hear(connection: Link, timeout_s: float) -> Any:
    """The next message, or None after `timeout_s` of silence."""
    try:
        return await connection.read_response(timeout=timeout_s)
    except (RedisError, OSError) as error:
        raise Unavailable("Redis", f"keyspace events: {error}") from error


async def _ping(connection: Link) -> Any:
    """The next message of a connection that was silent, the answer to a ping at the latest."""
    async with _edge("keyspace events"):
        await connection.send_command("PING")
        return await connection.read_response()


def _event(message: Any) -> str | Signal | None:
    """What a message says, or None where that is nothing: a ping's answer, a key that is no feature."""
    if message[0] != b"pmessage":
        return None
    key = _text(message[2]).partition(":")[2]
    if key == MASTER:
        return Signal.MASTER
    if key == INITIALIZED:
        return Signal.GAP
    name = key.removeprefix(FEATURE)
    return name if valid_feature_name(name) else None


def _feature_key(feature: str) -> str:
    assert valid_feature_name(feature), feature
    return f"{FEATURE}{feature}"


def _at(where: str, problems: list[str]) -> tuple[str, ...]:
    return tuple(f"{where}: {problem}" for problem in problems)


def _hash(answer: Any, problems: list[str]) -> Hash:
    """A HGETALL's answer; a key of another type is absent and a problem. Raises every other exception."""
    if isinstance(answer, ResponseError) and _wrong_type(answer):
        problems.append(f"{NO_HASH}; taken as absent")
        return {}
    if isinstance(answer, Exception):
        raise answer
    stored: Hash = answer
    return stored


def _texts(stored: Hash, names: frozenset[str], problems: list[str]) -> dict[str, str]:
    """The fields called `names` by their normal name; a value that is too long is left out, one that is not
    UTF-8 is mended, and either is a problem.
    """
    texts: dict[str, str] = {}
    for raw_name, raw in stored.items():
        name = _field(raw_name)
        if name not in names:
            continue
        if len(raw) > VALUE_BYTES_MAX:
            problems.append(
                f"{name} has {len(raw)} bytes, at most {VALUE_BYTES_MAX} are allowed; taken as absent"
            )
            continue
        texts[name] = _text(raw)
        if texts[name].encode() != raw:
            problems.append(f"{name}={raw[:40]!r} is not UTF-8")
    return texts


def _field(name: bytes) -> str:
    """A field's normal name; one too long to be anybody's is cut."""
    return normal(_text(name[:FIELD_NAME_BYTES_MAX]))


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
