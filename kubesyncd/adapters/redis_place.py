"""Find which Redis databases this daemon uses: settings, or the files of a SONiC switch."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from kubesyncd import settings
    from kubesyncd.core.model import FeatureConfig

DEFAULT_URL = "unix:///var/run/redis/redis.sock"
# In the folder of database_config.json, on switches with several databases of a kind.
GLOBAL_CONFIG = "database_global.json"


@dataclass(frozen=True, slots=True)
class Place:
    """The place of the two databases: one server, because one connection subscribes to both.

    `asics`: the switch has several ASICs, and SONiC runs one container for each of them (`swss0`, `swss1`) for one
    FEATURE row. SONiC sets has_per_asic_scope on such a row, on switches with one ASIC as well.
    """

    url: str
    config_db: int
    state_db: int
    asics: bool = False


def locate(where: settings.RedisSettings) -> Place:
    """Find the current place of the databases: SONiC's file appears with its database container, maybe after kubesyncd.

    Raises Unavailable where the file has no usable content (it may be half written).
    """
    asics = _several_asics(Path(where.database_config).with_name(GLOBAL_CONFIG))
    fallback = Place(where.url or DEFAULT_URL, where.config_db, where.state_db, asics)
    if where.url:
        return fallback
    try:
        tables = json.loads(Path(where.database_config).read_bytes())
        config, state = (tables["DATABASES"][name] for name in ("CONFIG_DB", "STATE_DB"))
        sockets = {
            tables["INSTANCES"][database["instance"]]["unix_socket_path"] for database in (config, state)
        }
        place = Place(f"unix://{sockets.pop()}", int(config["id"]), int(state["id"]), asics)
    except FileNotFoundError:
        return fallback
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        detail = f"{where.database_config} names no CONFIG_DB and STATE_DB ({error!r}); set [redis] url"
        raise Unavailable("Redis", detail) from error
    if sockets:
        detail = f"{where.database_config} has CONFIG_DB and STATE_DB on two servers; both must be on one"
        raise Unavailable("Redis", detail)
    return place


def _several_asics(file: Path) -> bool:
    """Return whether SONiC has databases for each of several ASICs; false where its file lists none."""
    try:
        return any(entry.get("namespace") for entry in json.loads(file.read_bytes())["INCLUDES"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def on_switch(place: Place, config: FeatureConfig) -> FeatureConfig:
    """Adapt a row to this switch: with one ASIC, a container per ASIC does not exclude Kubernetes."""
    return config if place.asics else replace(config, local_only=False)
