"""Read and write the rows of features and of the master in CONFIG_DB and STATE_DB: the FeatureStore over redis.asyncio.

Does not know the features' rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubesyncd.adapters.db_schema import NO_FALLBACK, VALUE_BYTES_MAX, schema, shared_row, without_fallback
from kubesyncd.adapters.redis_client import (
    CALL_S,
    CONNECTIONS_MAX,
    FEATURE,
    INITIALIZED,
    MASTER,
    MASTER_NAMES,
    METADATA,
    PENDING,
    PENDING_FIELD,
    RedisClient,
    ask,
    connect,
    feature_key,
    field_of,
    hash_of,
    hgetall,
    text_of,
    texts_of,
    update,
)
from kubesyncd.adapters.redis_events import LOOK_S, RedisEvents
from kubesyncd.adapters.redis_place import on_switch
from kubesyncd.core.config_load import ConfigLoad
from kubesyncd.core.model import FeatureConfig, MasterConfig, Row, Signal, Stored, valid_feature_name
from kubesyncd.core.parse import parse_master_config
from kubesyncd.ports import Passing

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Mapping

    from kubesyncd import settings
    from kubesyncd.adapters.redis_client import Connect, Databases, Hash

# Reconcilers take turns: when all read at once, waiting for a turn must not count as Redis being silent. One connection
# is reserved for all other callers.
TURNS = CONNECTIONS_MAX - 1
# CONFIG_DB of a large switch has some 10^5 keys: 100 turns, each short enough not to delay other callers.
SCAN_COUNT = 1000
METADATA_FIELDS_MAX = 64
STORED_MAX = 1024


class RedisStore:
    """ports.FeatureStore: CONFIG_DB and STATE_DB in Redis.

    While CONFIG_DB is being loaded, `features`, `master` and `device_metadata` raise Unavailable, because their lists
    would be incomplete; `read` reports `loading`. `always_local` features have such a config even without a FEATURE
    row. `look_s`: see RedisEvents. `kube`: whether the Kubernetes packages are installed; without
    them, every feature is local. `restores`: rows that a load has lost are restored before it counts as over.
    `connect` opens a client of one database. The ledger restores `load`. `keeps_off`: see FallbackKeeper, where there
    is one.
    """

    def __init__(
        self,
        where: settings.RedisSettings,
        schema_names: str,
        rng: random.Random,
        always_local: frozenset[str],
        *,
        kube: bool = True,
        restores: bool = False,
        look_s: float = LOOK_S,
        connect: Connect = connect,
    ) -> None:
        self._client = RedisClient(where, connect)
        self._schema = schema(schema_names)
        self._always_local = always_local
        self._kube = kube
        self.keeps_off: Callable[..., bool] | None = None
        self._turns = asyncio.Semaphore(TURNS)
        self._answered_at = 0.0
        self.config_load = ConfigLoad(restores=restores)
        # The last written row per feature. SONiC's spelling holds less than a row does (a local container's name, a
        # short ID): fields that still equal this row's spelling are read as this row.
        self._written: dict[str, Row] = {}
        # The fields as last read or written: a write after a read is one round trip.
        self._stored: dict[str, Hash] = {}
        self._events = RedisEvents(
            self._client, rng, names=lambda: self._written, rows=self._stored, look_s=look_s
        )

    def restored(self) -> None:
        """Record that a load is over: the rows that it has lost are restored."""
        self.config_load = self.config_load.restored()

    def events(self, lost: Callable[[str], object] = str) -> AsyncIterator[str | Signal]:
        """Yield the names of features whose row changed in either database, and MASTER.

        GAP where events may be missing; `lost`: see ports.FeatureStore. Never ends and never raises; while Redis is
        down it tries again every 2 s at most.
        """
        return self._events.events(lost)

    async def close(self) -> None:
        """Close every connection; the next call opens new ones."""
        await self._client.close()

    async def feature_rows(self) -> dict[str, dict[str, str]]:
        """Return all FEATURE rows of CONFIG_DB as stored, by valid names; also before a load's rows are restored."""
        async with self._client.edge("CONFIG_DB"):
            config = self._client.open().config
            keys = [text_of(key) async for key in config.scan_iter(match=f"{FEATURE}*", count=SCAN_COUNT)]
            names = [name for key in keys if valid_feature_name(name := key.removeprefix(FEATURE))]
            *rows, initialized = await ask(
                config, *(("HGETALL", feature_key(name)) for name in names), ("GET", INITIALIZED)
            )
            if initialized != b"1" and self.config_load.seen:
                self._loading(initialized)
                raise Passing("Redis", "CONFIG_DB is being loaded")
            hashes = zip(names, (hash_of(row, []) for row in rows), strict=True)
            return {name: {text_of(f): text_of(v) for f, v in row.items()} for name, row in hashes if row}

    async def add_fields(self, feature: str, fields: Mapping[str, str]) -> None:
        """Set these fields of the feature's row in CONFIG_DB."""
        key = feature_key(feature)
        async with self._client.edge(f"CONFIG_DB {key}"):
            await self._client.open().config.hset(key, mapping=dict(fields))

    async def features(self) -> frozenset[str]:
        """See ports.FeatureStore."""
        async with self._client.edge("CONFIG_DB"):
            databases = self._client.open()
            keys = databases.config.scan_iter(match=f"{FEATURE}*", count=SCAN_COUNT)
            names = {text_of(key).removeprefix(FEATURE) async for key in keys}
            self._refuse_loading(await databases.config.get(INITIALIZED))
        return frozenset(names)

    async def read(self, feature: str, known: FeatureConfig | None = None) -> Stored:
        """Read one feature's config and row in one transaction; invalid fields stay as `known`."""
        key = feature_key(feature)
        async with self._turn(key), self._client.edge(key):
            databases = self._client.open()
            shared = shared_row(feature) if databases.place.asics else ""
            config, initialized, keys, of_shared, row = await _look(databases, key, shared)
            in_config: list[str] = []
            in_state: list[str] = []
            whole = initialized == b"1"
            found = self._config(feature, hash_of(config, in_config), in_config, known, whole=whole)
            if found is None and shared:
                found = self._config(shared, hash_of(of_shared, in_config), in_config, known, whole=whole)
                found = found if found is not None and (found.local_only or found.always_local) else None
            if found is not None and not self._kube:
                found = replace(found, local_only=True)
            stored = hash_of(row, in_state)
            self._remember(feature, self._ours(stored))
            return Stored(
                config=found,
                row=self._row(feature, stored, in_state),
                # A database without any key has been flushed: no operator configures that.
                loading=self._loading(initialized) or (keys == 0 and known is not None),
                problems=(*_at(f"CONFIG_DB {key}", in_config), *_at(f"STATE_DB {key}", in_state)),
            )

    def _config(
        self,
        feature: str,
        stored: Hash,
        problems: list[str],
        known: FeatureConfig | None,
        *,
        whole: bool,
    ) -> FeatureConfig | None:
        always_local = feature in self._always_local
        if problems and known is not None:
            return known
        if not stored:
            return FeatureConfig(always_local=True) if always_local else None
        texts = texts_of(stored, self._schema.config_names, problems)
        config = on_switch(self._client.open().place, self._schema.decode_config(texts, problems, known))
        if self.keeps_off is not None and self.keeps_off(feature, texts.get(NO_FALLBACK, ""), whole=whole):
            config = without_fallback(config, feature, problems)
        return replace(config, always_local=True) if always_local else config

    def _row(self, feature: str, stored: Hash, problems: list[str]) -> Row:
        written = self._written.get(feature)
        if written is not None and self._ours(stored) == self._spelled(feature, written):
            return written
        return self._schema.decode_row(texts_of(stored, self._schema.row_names, problems), problems)

    async def write_row(self, feature: str, row: Row) -> None:
        """Make the STATE_DB fields equal to `row`; write nothing where they are equal.

        Where another program deletes the row between the read and the write, only a part is written: the deletion is an
        event, and the row is written again.
        """
        key = feature_key(feature)
        async with self._turn(f"STATE_DB {key}"), self._client.edge(f"STATE_DB {key}"):
            state, wanted = self._client.open().state, self._spelled(feature, row)
            # Use the fields last read; read those that are not known for sure.
            stored = self._stored.pop(feature, None)
            await update(
                state, key, self._ours(await hgetall(state, key)) if stored is None else stored, wanted
            )
            self._remember(feature, wanted)
        self._written[feature] = row

    def _remember(self, feature: str, stored: Hash) -> None:
        if len(self._stored) >= STORED_MAX:
            self._stored.clear()
        self._stored[feature] = stored

    def _ours(self, stored: Hash) -> dict[bytes, bytes]:
        """Return the fields of kubesyncd, in other spellings (`docker-id`) too: a reader would accept those as well."""
        names = self._schema.row_names
        return {name: value for name, value in stored.items() if field_of(name) in names}

    def _spelled(self, feature: str, row: Row) -> dict[bytes, bytes]:
        return {
            name.encode(): value.encode() for name, value in self._schema.encode_row(feature, row).items()
        }

    async def master(self) -> MasterConfig:
        """Return the master's configuration."""
        found: list[str] = []
        stored = await self._config_hash(MASTER, found)
        config = parse_master_config(texts_of(stored, MASTER_NAMES, found))
        return replace(config, problems=_at(f"CONFIG_DB {MASTER}", [*found, *config.problems]))

    async def device_metadata(self) -> Mapping[str, str]:
        """Return CONFIG_DB `DEVICE_METADATA|localhost`: fields and values as stored, up to a limit."""
        stored = await self._config_hash(METADATA, [])
        first = itertools.islice(stored.items(), METADATA_FIELDS_MAX)
        return {text_of(name): text_of(value) for name, value in first if len(value) <= VALUE_BYTES_MAX}

    async def _config_hash(self, key: str, problems: list[str]) -> Hash:
        async with self._client.edge(f"CONFIG_DB {key}"):
            stored, initialized = await ask(
                self._client.open().config, ("HGETALL", key), ("GET", INITIALIZED)
            )
            self._refuse_loading(initialized)
            return hash_of(stored, problems)

    async def write_master(self, *, connected: bool, ts: int) -> None:
        """Write STATE_DB `KUBERNETES_MASTER|SERVER`: connected, and since when (`ts`, seconds since the epoch).

        Nothing is written, and the stored time stays, while `connected` is the stored value.
        """
        fields = self._schema.encode_master(connected=connected, ts=ts)
        wanted = {name.encode(): value.encode() for name, value in fields.items()}
        async with self._client.edge(f"STATE_DB {MASTER}"):
            state = self._client.open().state
            stored = await hgetall(state, MASTER)
            if stored.get(b"connected") != wanted[b"connected"] or not wanted.keys() <= stored.keys():
                await update(state, MASTER, {}, wanted)

    async def write_pending(self, labels: tuple[str, ...]) -> None:
        """Mirror the label queue to STATE_DB `KUBE_SERVER|PENDING_LABELS`; an empty one removes it."""
        name, wanted = PENDING_FIELD.encode(), ",".join(labels).encode()
        async with self._client.edge(f"STATE_DB {PENDING}"):
            state = self._client.open().state
            stored = await hgetall(state, PENDING)
            ours = {name: stored[name]} if name in stored else {}
            await update(state, PENDING, ours, {name: wanted} if labels else {})

    def _loading(self, initialized: object) -> bool:
        whole = initialized == b"1"
        self.config_load = self.config_load.observed(whole=whole)
        return self.config_load.goes_on(whole=whole)

    def _refuse_loading(self, initialized: object) -> None:
        if self._loading(initialized):
            raise Passing("Redis", "CONFIG_DB is being loaded; asked again when it is complete")

    @contextlib.asynccontextmanager
    async def _turn(self, what: str) -> AsyncIterator[None]:
        """Wait for a turn, for as long as Redis answers earlier callers. Raises Passing when it answers none."""
        now = asyncio.get_running_loop().time
        while True:
            begun = now()
            try:
                async with asyncio.timeout(CALL_S):
                    await self._turns.acquire()
                break
            except TimeoutError:
                if self._answered_at < begun:
                    raise Passing("Redis", f"{what}: no answer in time") from None
        try:
            yield
            self._answered_at = now()
        finally:
            self._turns.release()


async def _look(databases: Databases, key: str, shared: str) -> tuple[Any, Any, Any, Any, Any]:
    """Return CONFIG_DB's row, INITIALIZED, number of keys and row that is `shared`, and STATE_DB's row; one round trip.

    The state connection goes to the other database and back; on an error it is closed, and opened again in its own.
    """
    place = databases.place
    _, config, initialized, keys, *of_shared, _, row = await ask(
        databases.state,
        ("SELECT", str(place.config_db)),
        ("HGETALL", key),
        ("GET", INITIALIZED),
        ("DBSIZE",),
        *([("HGETALL", feature_key(shared))] if shared else []),
        ("SELECT", str(place.state_db)),
        ("HGETALL", key),
    )
    return config, initialized, keys, of_shared[0] if of_shared else None, row


def _at(where: str, problems: list[str]) -> tuple[str, ...]:
    return tuple(f"{where}: {problem}" for problem in problems)
