"""Find which Redis databases this daemon uses: settings, or the files of a SONiC switch."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

from kubesyncd.core.setting_text import SOCKET_PATH_BYTES_MAX
from kubesyncd.core.text import printable
from kubesyncd.ports import Forbidden, Lasting, Passing

if TYPE_CHECKING:
    from kubesyncd import settings
    from kubesyncd.core.model import FeatureConfig

DEFAULT_URL = "unix:///var/run/redis/redis.sock"
# In the folder of database_config.json, on switches with several databases of a kind.
GLOBAL_CONFIG = "database_global.json"
PORT_MAX = 65_535
TEXT_MAX = 120
# What a file of a wrong shape raises where it is read.
_WRONG_SHAPE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Place:
    """The place of the two databases: one server, because one connection subscribes to both.

    `asics`: the switch has several ASICs, and SONiC runs one container for each of them (`swss0`, `swss1`) for one
    FEATURE row. SONiC sets has_per_asic_scope on such a row, on switches with one ASIC as well. `why`: which address is
    used and why, where that is not the settings' own.
    """

    url: str = field(repr=False)
    config_db: int
    state_db: int
    asics: bool = False
    why: str = field(default="", compare=False)


def locate(where: settings.RedisSettings) -> Place:
    """Find the current place of the databases: SONiC's file appears with its database container, maybe after kubesyncd.

    Raises Lasting where a file has no usable content, Passing where it may be half written, Forbidden.
    """
    file = Path(where.database_config)
    tables = None if where.url else _tables(file)
    asics = _several_asics(file.with_name(GLOBAL_CONFIG))
    if tables is None:
        place = Place(where.url or DEFAULT_URL, where.config_db, where.state_db, asics)
    else:
        place = replace(_in_file(file, tables), asics=asics)
    if not where.password_file:
        return place
    return replace(place, url=_with_password(place.url, where.user, Path(where.password_file)))


def _tables(file: Path) -> Any:
    """Return the content of SONiC's file; None: it does not exist. Raises Unavailable."""
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Lasting("Redis", f"{file}: {error.strerror}; set [redis] url") from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        detail = (
            f"{file} is not complete JSON ({printable(error, TEXT_MAX)}); write it again, or set [redis] url"
        )
        raise Passing("Redis", detail) from error


def _with_password(url: str, user: str, file: Path) -> str:
    """Return the address with the password in the file. Raises Lasting, Forbidden."""
    try:
        password = file.read_text().strip()
    except PermissionError as error:
        raise Forbidden("Redis", f"{file} may not be read by this user; use sudo") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise Lasting("Redis", f"{file}: {why}; write the password of Redis into it") from error
    parts = urlsplit(url)
    who = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{who}@{parts.netloc.rpartition('@')[2]}"))


def _in_file(file: Path, tables: Any) -> Place:
    """Return the place that SONiC's file names. Raises Lasting."""
    try:
        config, state = (tables["DATABASES"][name] for name in ("CONFIG_DB", "STATE_DB"))
        numbers = int(config["id"]), int(state["id"])
        servers = {str(database["instance"]): None for database in (config, state)}
        found = {name: _server(name, tables["INSTANCES"][name]) for name in servers}
    except _WRONG_SHAPE as error:
        detail = (
            f"{file} names no CONFIG_DB and STATE_DB ({printable(repr(error), TEXT_MAX)}); set [redis] url"
        )
        raise Lasting("Redis", detail) from error
    if len({url for url, _ in found.values()}) > 1:
        raise Lasting("Redis", f"{file} has CONFIG_DB and STATE_DB on two servers; both must be on one")
    url, why = next(iter(found.values()))
    return Place(url, *numbers, why=f"{file}: {why}")


def _server(name: str, instance: Any) -> tuple[str, str]:
    """Return the address of an instance, and why it is this one. Raises LookupError, TypeError, AttributeError.

    As SONiC's own tools: the Unix socket; TCP where the file names none, or where none is at its path.
    """
    path, tcp = _path(instance.get("unix_socket_path")), _tcp(instance)
    if path and (_exists(path) or not tcp):
        return f"unix://{path}", f"instance {name} is at {path}"
    if not tcp:
        raise LookupError(f"instance {name}: neither unix_socket_path nor hostname and port")
    reason = f"{path} does not exist" if path else "it has no unix_socket_path"
    return f"redis://{tcp}", f"instance {name} is asked at {tcp}, because {reason}"


def _path(value: Any) -> str:
    """Return a usable path of a Unix socket, else an empty text."""
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        return ""
    return value if len(value.encode()) <= SOCKET_PATH_BYTES_MAX and not set(value) & set("?#@%") else ""


def _exists(path: str) -> bool:
    """Return whether something is at this path; one that this user may not look at counts as existing."""
    try:
        Path(path).stat()
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR)
    return True


def _tcp(instance: Any) -> str:
    """Return `HOST:PORT`; empty without both."""
    host, port = instance.get("hostname"), str(instance.get("port"))
    if not isinstance(host, str) or not host or not host.isprintable() or set(host) & set("/?#@ "):
        return ""
    if not (port.isascii() and port.isdecimal() and len(port) <= len(str(PORT_MAX))):
        return ""
    if not 0 < int(port) <= PORT_MAX:
        return ""
    return f"[{host}]:{int(port)}" if ":" in host else f"{host}:{int(port)}"


def _several_asics(file: Path) -> bool:
    """Return whether SONiC has databases for each of several ASICs; false where its file lists none."""
    try:
        return any(entry.get("namespace") for entry in json.loads(file.read_bytes())["INCLUDES"])
    except (OSError, *_WRONG_SHAPE):
        return False


def on_switch(place: Place, config: FeatureConfig) -> FeatureConfig:
    """Adapt a row to this switch: with one ASIC, a container per ASIC does not exclude Kubernetes."""
    return config if place.asics else replace(config, local_only=False)
