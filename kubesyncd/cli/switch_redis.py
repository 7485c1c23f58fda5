"""Read and write CONFIG_DB and STATE_DB, for the `kubesync` commands.

Knows Redis and the keys of our rows; must not know click or print. Every call has a deadline. Errors are those of
`ports`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from kubesyncd.core.model import Row, valid_feature_name
from kubesyncd.core.parse import parse_master_config
from kubesyncd.ports import Passing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kubesyncd.adapters.db_schema import Schema
    from kubesyncd.adapters.redis_place import Place
    from kubesyncd.adapters.sonic_files import FieldNames
    from kubesyncd.core.fallback_history import FallbackHistory
    from kubesyncd.core.model import FeatureConfig, MasterConfig
    from kubesyncd.settings import Settings

    Client: TypeAlias = Any
    Answer = TypeVar("Answer")

REDIS_S = 1.0
# A command waits so long in all for a Redis that answers that it is busy or loading.
PATIENCE_S = 1.0
PAUSE_S = 0.1
SCAN_COUNT = 1000


@dataclass(frozen=True, slots=True)
class FeatureFields:
    """One feature's raw fields in CONFIG_DB and STATE_DB, and their parsed values."""

    config: Mapping[str, str]
    state: Mapping[str, str]
    means: FeatureConfig
    row: Row
    problems: tuple[str, ...]


class SwitchRedis:
    """The databases of this switch. Connections open on first use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # How long this command still waits for a busy Redis.
        self._patience_s = PATIENCE_S

    @cached_property
    def schema(self) -> Schema:
        """The spelling of the fields that the daemon uses."""
        from kubesyncd.adapters.db_schema import schema

        return schema(self.field_names.names)

    @cached_property
    def field_names(self) -> FieldNames:
        """The names of the fields, and what decides them."""
        from kubesyncd.adapters.sonic_files import field_names

        return field_names(self._settings)

    @cached_property
    def fallback_history(self) -> FallbackHistory | None:
        """The daemon's record of features whose fallback stays as ctrmgrd took it; None where it has none."""
        from kubesyncd.core.fallback_history import FallbackHistory
        from kubesyncd.runtime import fallback_file
        from kubesyncd.runtime.codec import Undecodable

        if self.field_names.names != "sonic":
            return None
        try:
            data = (Path(self._settings.paths.state_dir) / fallback_file.FILE).read_bytes()
            return fallback_file.decode(data)
        except FileNotFoundError:
            return None
        except (OSError, Undecodable):
            return FallbackHistory()

    @cached_property
    def _place(self) -> Place:
        """The place of the databases. Raises Unavailable."""
        from kubesyncd.adapters.redis_place import locate

        return locate(self._settings.redis)

    @cached_property
    def _databases(self) -> tuple[Client, Client]:
        """Clients of CONFIG_DB and STATE_DB."""
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        place = self._place
        return tuple(  # type: ignore[return-value]
            Redis.from_url(
                place.url,
                db=db,
                protocol=2,
                socket_timeout=REDIS_S,
                socket_connect_timeout=REDIS_S,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
                encoding_errors="replace",
            )
            for db in (place.config_db, place.state_db)
        )

    def feature_names(self) -> list[str]:
        """Return the valid names of all FEATURE rows in CONFIG_DB. Raises Unavailable."""
        return [name for name in self._names_in_table() if valid_feature_name(name)]

    def unusable_feature_names(self) -> list[str]:
        """Return the names of the FEATURE rows that no feature can have. Raises Unavailable."""
        return [name for name in self._names_in_table() if not valid_feature_name(name)]

    def _names_in_table(self) -> list[str]:
        from kubesyncd.adapters.redis_client import FEATURE

        keys = self._ask(
            "CONFIG_DB",
            lambda databases: list(databases[0].scan_iter(match=f"{FEATURE}*", count=SCAN_COUNT)),
        )
        return sorted({key.removeprefix(FEATURE) for key in keys})

    def feature_rows(self, feature: str) -> FeatureFields:
        """Return one feature's rows. Raises Unavailable, Refused."""
        from kubesyncd.adapters.db_schema import NO_FALLBACK, without_fallback
        from kubesyncd.adapters.redis_client import FEATURE
        from kubesyncd.adapters.redis_place import on_switch

        config, state = self._hash(0, f"{FEATURE}{feature}"), self._hash(1, f"{FEATURE}{feature}")
        problems: list[str] = []
        means = on_switch(self._place, self.schema.decode_config(_normal(config), problems))
        history = self.fallback_history
        if history is not None and history.keeps_off(feature, _normal(config).get(NO_FALLBACK, "")):
            means = without_fallback(means, feature, problems)
        row = self.schema.decode_row(_normal(state), problems)
        return FeatureFields(config, state, means, row, tuple(problems))

    def unread_settings(self, stored: FeatureFields) -> dict[str, tuple[str, str]]:
        """Return the CONFIG_DB fields that only the other spelling has.

        Each with the design document's name and value of its setting.
        """
        from kubesyncd.adapters.db_schema import normal

        known = self.schema.unread_config
        settings = ((field, value, known.get(normal(field))) for field, value in stored.config.items())
        return {
            field: (setting.means, setting.read(value, [], None))
            for field, value, setting in settings
            if setting is not None
        }

    def unread_state(self, stored: FeatureFields) -> list[str]:
        """Return the STATE_DB fields that only the other spelling has."""
        from kubesyncd.adapters.db_schema import normal

        return sorted(field for field in stored.state if normal(field) in self.schema.unread_row)

    def changes(self, stored: FeatureFields, wanted: Mapping[str, str]) -> dict[str, str]:
        """Return the CONFIG_DB fields that make these settings hold (by the design document's names).

        An empty value removes a field. One of the other spelling is removed with the setting that it is.
        """
        made = self.schema.encode_config(wanted)
        unread = self.unread_settings(stored)
        return {**made, **{field: "" for field, (setting, _) in unread.items() if setting in wanted}}

    def master(self) -> tuple[Mapping[str, str], Mapping[str, str], MasterConfig]:
        """Return the master's rows in CONFIG_DB and STATE_DB, and the first one parsed. Raises Unavailable, Refused."""
        from kubesyncd.adapters.redis_client import MASTER

        config, state = self._hash(0, MASTER), self._hash(1, MASTER)
        return config, state, parse_master_config(config)

    def config_rows(self) -> dict[str, Mapping[str, str]]:
        """Return all FEATURE rows of CONFIG_DB unparsed. Raises Unavailable, Refused."""
        from kubesyncd.adapters.redis_client import FEATURE

        return {name: self._hash(0, f"{FEATURE}{name}") for name in self.feature_names()}

    def lost_fields(
        self, saved: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
    ) -> dict[str, dict[str, str]]:
        """Return kubesyncd's fields of `saved` rows that the rows of `now` lack; see `saved_features.lost`."""
        from kubesyncd.adapters.db_schema import normal
        from kubesyncd.core.saved_features import lost

        return lost(saved, now, self.schema.own_config_names, normal)

    def labels_of_ctrmgrd(self) -> Mapping[str, str]:
        """Return the labels that were requested from SONiC's ctrmgrd. Raises Unavailable, Refused."""
        from kubesyncd.cli.rules.ctrmgrd import LABELS_KEY

        return self._hash(1, LABELS_KEY)

    def device_metadata(self) -> Mapping[str, str]:
        """Return the device's metadata in CONFIG_DB. Raises Unavailable, Refused."""
        from kubesyncd.adapters.redis_client import METADATA

        return self._hash(0, METADATA)

    def write_feature(self, feature: str, fields: Mapping[str, str]) -> None:
        """Set these fields of the feature's CONFIG_DB row, and remove those with an empty value.

        Raises Unavailable, Refused.
        """
        from kubesyncd.adapters.redis_client import FEATURE

        self._write(f"{FEATURE}{feature}", fields)

    def replace_feature(self, feature: str, fields: Mapping[str, str]) -> None:
        """Replace the feature's CONFIG_DB row by `fields`; delete it if they are empty. Raises Unavailable."""
        from kubesyncd.adapters.redis_client import FEATURE

        key = f"{FEATURE}{feature}"

        def replace(databases: tuple[Client, Client]) -> None:
            pipe = databases[0].pipeline(transaction=True)
            pipe.delete(key)
            if fields:
                pipe.hset(key, mapping=dict(fields))
            pipe.execute()

        self._ask(f"CONFIG_DB {key}", replace)

    def remove_state(self, feature: str) -> None:
        """Remove the feature's STATE_DB row, including fields of other programs. Raises Unavailable."""
        from kubesyncd.adapters.redis_client import FEATURE

        key = f"{FEATURE}{feature}"
        self._ask(f"STATE_DB {key}", lambda databases: databases[1].delete(key))

    def write_master(self, fields: Mapping[str, str]) -> None:
        """Set these fields of the master's CONFIG_DB row, all in one write. Raises Unavailable, Refused."""
        from kubesyncd.adapters.redis_client import MASTER

        self._write(MASTER, fields)

    def notify_flags(self) -> tuple[str, str]:
        """Return the flags of the keyspace events that Redis publishes, and those it lacks. Raises Unavailable."""
        from kubesyncd.adapters.redis_events import NOTIFY, missing_flags

        flags: str = self._ask(NOTIFY, lambda databases: databases[0].config_get(NOTIFY)[NOTIFY])
        return flags, missing_flags(flags)

    def config_loaded(self) -> bool:
        """Return whether CONFIG_DB is marked as fully loaded. Raises Unavailable."""
        from kubesyncd.adapters.redis_client import INITIALIZED

        return bool(self._ask(INITIALIZED, lambda databases: databases[0].get(INITIALIZED) == "1"))

    def _hash(self, database: int, key: str) -> dict[str, str]:
        what = f"{'STATE_DB' if database else 'CONFIG_DB'} {key}"
        found: dict[str, str] = self._ask(what, lambda databases: databases[database].hgetall(key))
        return found

    def _write(self, key: str, fields: Mapping[str, str]) -> None:
        """Write fields, and remove those with an empty value.

        One stored in another spelling (`IP`, `ip`) keeps it, so that no field is stored twice.
        """
        from kubesyncd.adapters.db_schema import normal

        there = {normal(name): name for name in self._hash(0, key)}
        spelled = {there.get(normal(name), name): value for name, value in fields.items()}
        wanted = {name: value for name, value in spelled.items() if value}
        gone = [name for name, value in spelled.items() if not value and name in there.values()]

        def write(databases: tuple[Client, Client]) -> None:
            pipe = databases[0].pipeline(transaction=True)
            if wanted:
                pipe.hset(key, mapping=wanted)
            if gone:
                pipe.hdel(key, *gone)
            pipe.execute()

        self._ask(f"CONFIG_DB {key}", write)

    def _ask(self, what: str, call: Callable[[tuple[Client, Client]], Answer]) -> Answer:
        """Return what Redis answers to `call`; ask again while it says that it is busy or loading.

        Raises what `redis_refusals` makes of its failure.
        """
        from redis.exceptions import RedisError

        from kubesyncd.adapters.redis_refusals import NO_ANSWER, translated, word_of

        while True:
            try:
                return call(self._databases)
            except (RedisError, OSError) as error:
                failure = translated(what, error, self._place.why)
                waits = isinstance(failure, Passing) and word_of(error) not in NO_ANSWER
                if not waits or self._patience_s <= 0:
                    raise failure from error
            self._patience_s -= PAUSE_S
            time.sleep(PAUSE_S)


def _normal(fields: Mapping[str, str]) -> dict[str, str]:
    from kubesyncd.adapters.db_schema import normal

    return {normal(name): value for name, value in fields.items()}
